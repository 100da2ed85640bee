"""Stores figures as inline SVG for a page and as PNG and SVG files; defines their colours and style.

The colours are those of Okabe and Ito (2008), which are safe for colour-blind readers; from the eighth line on, dashes
differ as well. Text, axes and grid have the colour `INK`. The page replaces the colours by CSS variables, so that
figures are also readable in dark mode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfplay.errors import SelfplayError
from selfplay.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1f2328"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
DASHES = ("-", "--", ":", "-.")
GREY = "#b9bec4"
DOTS_PER_INCH, SVG_DOTS_PER_INCH = 200, 72
COMPRESSION = 3  # of zlib: a third less time than 6, the default, for 6 % larger files
FORMATS = ("png", "pdf", "svg")  # of standalone figures
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's own font
    "text.parse_math": False,  # a setting's name may contain a dollar sign
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
}


@dataclass(frozen=True)
class Picture:
    """A stored figure.

    Attributes:
        name: of its files, without the extension.
        caption: explains how to read the figure.
        alt: alternative text, which describes what it shows.
        svg: inline SVG without prolog and size, with identifiers that are unique in a page. What belongs to a line has
            the class `line-<index>`.
        setting: index of the only setting that the figure is about; None for several.
        points: JSON of the plotted values and of the axes' place in the figure, for the values under the pointer; "" if
            there are none.
    """

    name: str
    caption: str
    alt: str
    svg: str
    setting: int | None = None
    points: str = ""


class Album:
    """Stores figures as `<folder>/<prefix><name>.png` and `.svg`, and collects their pictures for the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = ""
        self.pictures: list[Picture] = []

    def keep(
        self,
        name: str,
        figure: Figure,
        caption: str,
        alt: str,
        setting: int | None = None,
        lines: Sequence[dict[str, Any]] = (),
    ) -> Picture:
        """Write the figure's two files and return its picture.

        Args:
            setting: see `Picture`.
            lines: the plotted values of each line of the first axes, for `Picture.points`.
        """
        import matplotlib as mpl

        name = self.prefix + name
        vector, raster = StringIO(), BytesIO()
        with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
            _lay_out(figure)
            figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
            white: dict[str, Any] = {"transparent": False, "facecolor": "white"}
            figure.savefig(raster, format="png", dpi=DOTS_PER_INCH, pil_kwargs={"compress_level": COMPRESSION}, **white)
        with replacing(self.folder / f"{name}.svg") as draft:
            draft.write_text(vector.getvalue(), encoding="utf-8")
        with replacing(self.folder / f"{name}.png") as draft:
            draft.write_bytes(raster.getvalue())
        points = json.dumps({**_axes(figure), "lines": lines}, separators=(",", ":")) if lines else ""
        picture = Picture(name, caption, alt, _inlined(vector.getvalue(), name), setting, points)
        self.pictures.append(picture)
        return picture


def _lay_out(figure: Figure) -> None:
    """Place the axes as `savefig` would for an SVG, and keep this layout for every file of the figure.

    `savefig` draws a figure with a layout engine twice, first for the layout alone; this needs no drawing.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)  # becomes the figure's canvas, so that text is measured as in the file
    if (engine := figure.get_layout_engine()) is not None:
        dots, figure.dpi = figure.dpi, SVG_DOTS_PER_INCH
        engine.execute(figure)
        figure.dpi = dots
        figure.set_layout_engine()


def save(figure: Figure, path: Path) -> None:
    """Write a standalone figure on a white background, as png, pdf or svg by the suffix of `path`.

    Text stays text: in a pdf with embedded TrueType fonts, in an svg in the reader's own font.

    Raises:
        SelfplayError: another suffix.
        DiskError: the file cannot be written; an earlier file at `path` is kept.
    """
    import matplotlib as mpl

    if (kind := path.suffix[1:].lower()) not in FORMATS:
        raise SelfplayError(f"{path} ends in '{path.suffix}', but figures are written as .{', .'.join(FORMATS)}")
    plain = {"CreationDate" if kind == "pdf" else "Date": None} if kind != "png" else None  # equal figures, equal files
    with replacing(path) as draft, mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        figure.savefig(draft, format=kind, dpi=DOTS_PER_INCH, transparent=False, facecolor="white", metadata=plain)


def _axes(figure: Figure) -> dict[str, Any]:
    """The first axes of a drawn figure: `box` (left, top, right, bottom as shares), limits of `x` and `y`, `names`."""
    axes = figure.axes[0]
    place = axes.get_position()
    box = [round(float(edge), 4) for edge in (place.x0, 1 - place.y1, place.x1, 1 - place.y0)]
    x, y = ([float(end) for end in ends] for ends in (axes.get_xlim(), axes.get_ylim()))
    return {"box": box, "x": x, "y": y, "names": [axes.get_xlabel(), axes.get_ylabel()]}


def _inlined(svg: str, name: str) -> str:
    """Convert an SVG file to inline SVG: identifiers are made unique, and colours become CSS variables of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'xlink:href="#([^"]+)"', svg))
    svg = re.sub(r' id="(line-\d+)-[^"]*"', r' class="\1"', svg)
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{name}-\1"', svg)
    svg = svg.replace(INK, "currentColor").replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    for number, colour in enumerate(COLOURS):
        svg = svg.replace(f": {colour}", f": var(--c{number})")
    return re.sub(r"\n\s*", "\n", svg).strip()


def palette() -> str:
    """The colours as CSS variables, with paler ones for dark mode."""
    light, dark = (
        "".join(f"--c{i}: {shade(colour)}; " for i, colour in enumerate(COLOURS))
        for shade in (str, lambda colour: pale(colour, 0.35))
    )
    return f":root {{ {light}}}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n"


def paired(count: int) -> list[str]:
    """A list of `count` colours, alternately full and pale, so that neighbours differ in lightness."""
    both = [colour for full in COLOURS for colour in (full, pale(full))]
    return [both[i % len(both)] for i in range(count)]


def pale(colour: str, share: float = 0.55) -> str:
    """Mix the colour with a share of white."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)
