"""The bench's tables and its picture, from what bench.py found."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def tables(results: dict[str, Any]) -> str:
    """Markdown: every case; what share of the machine's rate was reached."""
    lines = [
        "| case | ours, s | the other, s | ratio of medians | of a pair | ours, GB | the other, GB | memory |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for name, case in results["cases"].items():
        ours = next(iter(case["sides"].values()))
        for rival, told in case["ratios"].items():
            other = case["sides"][rival]
            lines.append(
                f"| {name}, {rival} | {ours['median']:.2f} | {other['median']:.2f} | **{told['ratio']:.2f}** | "
                f"{told['least']:.2f} to {told['most']:.2f} | {ours['peak'] / 1e9:.2f} | {other['peak'] / 1e9:.2f} | "
                f"{told['memory']:.2f} |"
            )
    lines += [
        "",
        "| case | update, GFLOP/s | of the measured rate | sampling, GFLOP/s | of the measured rate | mismatch |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, case in results["cases"].items():
        ours = next(iter(case["sides"].values()))
        mismatch = f"{ours['logprob_mismatch']:.1g}" if "logprob_mismatch" in ours else ""
        cells = [_rate(ours, part) for part in ("update", "play")]
        lines.append(f"| {name} | {' | '.join(cells)} | {mismatch} |")
    rates = results["ceilings"]
    lines += [
        "",
        f"{results['device']}, {results['threads']} threads: {rates['float32']:.0f} GFLOP/s in float32, "
        f"{rates['bfloat16']:.0f} in bfloat16 (square products, before the first case of the last run), "
        f"{rates['copy']:.0f} GB/s copied. torch {results['torch']}, transformers {results['transformers']}, "
        f"TRL {results['trl']}; {_made(results)}.",
    ]
    return "\n".join(lines)


def _made(results: dict[str, Any]) -> str:
    """Of which commit and day each case is; a case that does not say so was measured with the last run."""
    cases: dict[str, list[str]] = {}
    for name, case in results["cases"].items():
        cases.setdefault(
            f"commit {case.get('commit', results['commit'])}, {case.get('date', results['date'])}", []
        ).append(name)
    return (
        next(iter(cases))
        if len(cases) == 1
        else "; ".join(f"{' / '.join(names)}: {made}" for made, names in cases.items())
    )


def _rate(ours: dict[str, Any], part: str) -> str:
    if f"{part}_share" not in ours:
        return " | "
    return f"{ours[f'{part}_gflops']:.0f} | {100 * ours[f'{part}_share']:.0f} %"


def draw(results: dict[str, Any], path: Path) -> None:
    """How many times as long the others take; and how seconds and memory of ours grow."""
    growth = results.get("growth", {})
    figure = plt.figure(figsize=(13, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.35))
    _ratios(results, left.subplots())
    if growth:
        places = right.subplots(2, -(-len(growth) // 2)).flat
        for place, (axis, points) in zip(places, growth.items(), strict=False):
            _grown(place, axis, points)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ratios(results: dict[str, Any], axes: Any) -> None:
    names, told = [], []
    for name, case in results["cases"].items():
        for rival, ratio in case["ratios"].items():
            names.append(f"{name}, {rival}")
            told.append(ratio)
    places = range(len(names))
    axes.barh(places, [t["ratio"] for t in told], color="#4a7ebb")
    for place, ratio in zip(places, told, strict=True):
        axes.plot([ratio["least"], ratio["most"]], [place, place], color="black", linewidth=1)
        axes.text(ratio["most"] + 0.1, place, f"{ratio['ratio']:.1f}", va="center", fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("times as long as ours (line: least and most of a pair)", fontsize=8)


def _grown(axes: Any, axis: str, points: list[dict[str, float]]) -> None:
    at = [point["at"] for point in points]
    axes.plot(at, [point["seconds"] for point in points], "o-", color="#4a7ebb")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(at, [f"{value:g}" for value in at], fontsize=7)
    axes.minorticks_off()
    axes.set_xlabel(axis, fontsize=8)
    axes.set_ylabel("seconds a step", fontsize=8, color="#4a7ebb")
    memory = axes.twinx()
    memory.plot(at, [point["peak"] / 1e9 for point in points], "s--", color="#c0504d", markersize=4)
    memory.set_ylim(bottom=0)
    memory.set_ylabel("peak, GB", fontsize=8, color="#c0504d")
