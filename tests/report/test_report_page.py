"""The report in headless Chromium: clicks, keys, a phone, paper, the dark, hostile texts; its console stays empty.

Chromium is Debian's (`apt-get install chromium`) or any other on the path; Playwright only drives it.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricated import HOSTILE, STORIES, hostile, sweep

from selfplay.measures import important
from selfplay.plots.figure_store import Album
from selfplay.report import curve_section
from selfplay.report.__main__ import main
from selfplay.report.page import write
from selfplay.report.transcripts import cut
from selfplay.runs import load

playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]'")
Page, Browser = playwright.Page, playwright.Browser

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, NARROW, DESK, WIDE, PAPER = 360, 390, 1280, 1440, 700  # pixels; paper: A4 with margins of 12 mm
CONTRAST = """(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 10 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const faint = (one) => one !== null && (Number(getComputedStyle(one).opacity) < 1 || faint(one.parentElement));
  const low = [];
  for (const one of document.querySelectorAll("body *")) {
    const said = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!said || one.disabled || !one.getClientRects().length || ["SCRIPT", "OPTION"].includes(one.tagName)) continue;
    const style = getComputedStyle(one);
    const [a, b] = [channels(one.closest("svg") ? style.fill : style.color), behind(one)].map(light);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${ratio.toFixed(2)} ${one.tagName} ${one.textContent.trim().slice(0, 30)}`;
    if (ratio < 4.5 || faint(one)) low.push(name);
  }
  return [...new Set(low)];
})()"""
CARDS, COUNT = "#transcripts .episode", "#transcripts [data-count]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        reason = "there is no Chromium; install it with: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings, two seeds each; the first run with a Challenger says what no page should be told."""
    folder = tmp_path_factory.mktemp("page")
    runs = sweep(folder / "sweep", (STORIES[0], STORIES[3]), seeds=2, steps=5, episodes=8)
    hostile(runs[2])
    main([str(folder / "sweep"), "--out", str(folder / "out")])
    return folder / "out" / "report.html"


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The report at a desk; whatever happens, nothing is fetched and nothing is said in the console."""
    opened = browser.new_page(viewport={"width": DESK, "height": 900})
    said: list[str] = []
    opened.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: said.append(request.url) if not request.url.startswith("data:") else None)
    opened.goto(report.as_uri())
    yield opened
    assert opened.evaluate("window.hit") is None
    opened.close()
    assert said == [report.as_uri()], "the page itself is all that was asked for"


def total(page: Page) -> tuple[int, int, int]:
    """Turns, episodes and pages that the browser of transcripts says it has found."""
    turns, episodes, pages = re.findall(
        r"([\d,]+) turns in ([\d,]+) episodes; page \d+ of (\d+)", page.inner_text(COUNT)
    )[0]
    return int(turns.replace(",", "")), int(episodes.replace(",", "")), int(pages)


def choose(page: Page, name: str, label: str) -> None:
    page.locator(f"form select[name={name}]").select_option(label=label)


def cells(page: Page, column: str, rows: str = "tr.match") -> list[float]:
    """The figures of a column in the shown episodes."""
    found = page.evaluate(
        """([column, rows]) => [...document.querySelectorAll("#transcripts .block table")].flatMap((table) => {
             const place = [...table.querySelectorAll("thead th")].findIndex((th) => th.textContent === column);
             const found = place < 0 ? [] : [...table.querySelectorAll(`tbody ${rows}`)];
             return found.map((tr) => tr.children[place].textContent);
           })""",
        [column, rows],
    )
    return [float(text.replace("\u2212", "-")) for text in found if text]


# --- curves -----------------------------------------------------------------------------------------------------------


def test_the_buttons_change_the_axis(page: Page) -> None:
    steps, tokens = (page.locator(f'#curves figure[data-for="{axis}"]') for axis in ("steps", "tokens"))
    assert steps.count() == tokens.count() > 5
    button = page.get_by_role("button", name="against generated tokens")
    assert (
        steps.first.is_visible() and not tokens.first.is_visible() and button.get_attribute("aria-pressed") == "false"
    )
    button.click()
    assert tokens.first.is_visible() and not steps.first.is_visible() and button.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="against steps").press("Enter")
    assert steps.last.is_visible() and not tokens.last.is_visible()


def test_sections_stand_in_order_and_are_linked(page: Page) -> None:
    names = page.eval_on_selector_all("main > section", "all => all.map((one) => one.id)")
    middle = ["comparison", "accuracy", "curves", "goodhart", "questions"]
    assert names == ["answers", *middle, "runs", "transcripts"]
    page.get_by_role("link", name="Transcripts").click()
    assert page.locator("#transcripts h2").is_visible() and page.evaluate("scrollY") > 1000
    page.get_by_role("link", name="Runs").click()
    bar, title = page.locator(".bar").bounding_box(), page.locator("#runs h2").bounding_box()
    assert bar["y"] == 0 and bar["y"] + bar["height"] <= title["y"], "the links stay on top and cover no title"
    assert page.evaluate("""[...document.querySelectorAll("h1,h2,h3,h4")].map((h) => +h.tagName[1])
        .every((level, i, all) => i === 0 || level <= all[i - 1] + 1)"""), "no level of headings is left out"


def test_settings_are_hidden_in_every_chart(page: Page) -> None:
    page.locator(".toggles summary").click()
    first, second = (page.locator(f'[data-toggle="{i}"]') for i in (0, 1))
    first.click()
    assert page.locator(".toggles summary").inner_text().endswith("2 of 3")
    assert (first.get_attribute("aria-pressed"), second.get_attribute("aria-pressed")) == ("false", "true")
    charts = "document.querySelectorAll('figure:not([data-setting]) .line-%d')"
    seen = f"[...{charts}].map((one) => getComputedStyle(one).display)"
    assert set(page.evaluate(seen % 0)) == {"none"} and "none" not in page.evaluate(seen % 1)
    assert page.evaluate(f"new Set([...{charts % 0}].map((one) => one.closest('section').id)).size") == 5
    assert not page.locator('figure[data-setting="0"]').first.is_visible(), "a figure of this setting alone"
    assert page.locator('figure[data-setting="1"]').first.is_visible()
    assert page.locator("#curves .legend li:visible").count() == 2 < page.locator("#curves .legend li").count()
    first.press("Enter")
    assert "none" not in page.evaluate(seen % 0) and page.locator('figure[data-setting="0"]').first.is_visible()


def test_the_values_under_the_pointer(page: Page) -> None:
    figure = page.locator('#curves figure[data-for="steps"]', has_text="solver/kl").first
    points = json.loads(figure.get_attribute("data-points"))
    left, top, right, bottom = points["box"]
    low, high = points["x"]

    def told(step: float) -> list[str]:
        """The lines shown while the pointer is above a step."""
        figure.scroll_into_view_if_needed()
        area, across = figure.locator("svg").bounding_box(), left + (step - low) / (high - low) * (right - left)
        page.mouse.move(area["x"] + across * area["width"], area["y"] + (top + bottom) / 2 * area["height"])
        return str(figure.locator(".tip").inner_text()).split("\n")

    step, *rows = told(3.2)
    assert step == "step 3" and len(rows) == 3
    for row, line in zip(rows, points["lines"], strict=True):
        assert row.startswith(f"{line['name']}: ")
        value = line["y"][line["x"].index(3)]
        assert float(row.removeprefix(f"{line['name']}: ").split(" ")[0]) == pytest.approx(value, abs=6e-4)
    page.locator(".toggles summary").click()
    page.locator('[data-toggle="0"]').click()
    assert told(3.9) == ["step 4", *told(4.1)[1:]] and len(told(4.0)) == 3, "a hidden setting is not told"
    page.mouse.move(5, 5)
    assert figure.locator(".tip").count() == 0


# --- while runs go on -------------------------------------------------------------------------------------------------


def test_an_open_page_reloads_itself_and_stays_where_it_is(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_section, "important", lambda *args: important(*args)[:2])
    folder = tmp_path / "runs"
    sweep(folder, (STORIES[1], STORIES[2]), seeds=1, steps=3, episodes=4)

    def written(refresh: float | None) -> Path:
        return write(load(folder), [folder], Album(tmp_path / "out"), refresh=refresh)

    opened = browser.new_page(viewport={"width": WIDE, "height": 900})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(written(1.5).as_uri())
    opened.evaluate("window.old = true")
    opened.get_by_role("button", name="against generated tokens").click()
    opened.locator(".toggles summary").click()
    opened.locator('[data-toggle="0"]').click()
    choose(opened, "role", "solver")
    opened.get_by_label("hide the turns").check()
    opened.evaluate("scrollTo(0, 700)")
    found = total(opened)
    opened.wait_for_function("window.old === undefined && document.querySelector('[data-count]').textContent !== ''")
    assert opened.evaluate("scrollY") == 700 and total(opened) == found and found[0] == 2 * 3 * 4 * 8
    assert opened.get_by_label("hide the turns").is_checked()
    assert opened.locator('#curves figure[data-for="tokens"]').first.is_visible()
    assert opened.locator('[data-toggle="0"]').get_attribute("aria-pressed") == "false"
    written(None)
    opened.wait_for_function("document.body && !document.body.dataset.refresh")
    assert errors == []
    opened.close()


# --- transcripts ------------------------------------------------------------------------------------------------------


def test_paging(page: Page) -> None:
    turns, episodes, pages = total(page)
    assert (turns, episodes, pages) == (4 * 5 * 8 * 9, 4 * 5 * 8, 16) and page.locator(CARDS).count() == 10
    previous, onward = page.locator("[data-previous]"), page.locator("[data-next]")
    assert previous.is_disabled() and not onward.is_disabled()
    first = page.locator(CARDS).first.inner_text()
    onward.click()
    assert "page 2 of 16" in page.inner_text(COUNT) and page.locator(CARDS).first.inner_text() != first
    previous.click()
    assert page.locator(CARDS).first.inner_text() == first
    for _ in range(15):
        onward.click()
    assert onward.is_disabled() and "page 16 of 16" in page.inner_text(COUNT)
    choose(page, "step", "3")
    assert "page 1 of 4" in page.inner_text(COUNT), "a filter begins at the first page"


def test_filters_by_run_step_and_role(page: Page) -> None:
    whole = total(page)
    option = page.locator("form select[name=run] option").nth(2).inner_text()
    choose(page, "run", option)
    assert total(page)[:2] == (360, 40)
    assert all(f"run {option.split(':')[0]} " in text for text in page.locator(f"{CARDS} .whence").all_inner_texts())
    choose(page, "step", "5")
    assert total(page)[:2] == (72, 8)
    assert all(text.startswith("step 5,") for text in page.locator(f"{CARDS} h3").all_inner_texts())
    choose(page, "role", "solver")
    assert total(page)[:2] == (64, 8)
    page.get_by_role("button", name="clear").click()
    page.wait_for_function(f"""document.querySelector("{COUNT}").textContent.startsWith("{whole[0]:,} turns")""")


def test_filters_by_score(page: Page) -> None:
    choose(page, "score", "truth")
    page.locator("input[name=low]").fill("1")
    right = total(page)[0]
    assert set(cells(page, "truth")) == {1.0} and 0.0 in cells(page, "truth", "tr.other")
    page.get_by_label("hide the turns").check()
    assert not page.locator("tr.other").first.is_visible() and page.locator("tr.match").first.is_visible()
    page.locator("input[name=low]").fill("")
    page.locator("input[name=high]").fill("0.5")
    assert set(cells(page, "truth")) == {0.0} and total(page)[0] + right == 4 * 5 * 8 * 8, (
        "every answer is right or wrong"
    )
    page.locator("input[name=high]").fill("-3")
    assert "nothing fits" in page.inner_text(COUNT) and page.locator(CARDS).count() == 0
    assert page.locator("[data-next]").is_disabled()


def test_the_order_by_a_score(page: Page) -> None:
    choose(page, "score", "reward")
    choose(page, "order", "highest score first")
    best = max(cells(page, "reward"))
    assert max(cells(page, "reward")[:8]) == best
    choose(page, "order", "lowest score first")
    assert min(cells(page, "reward")[:8]) == min(cells(page, "reward")) < best


def test_the_search_for_words(page: Page) -> None:
    words = page.get_by_label("text")
    words.fill("Write One Question.")
    assert total(page)[0] == 2 * 5 * 8, "the challengers' prompt, in capitals or not"
    words.fill("nobody says this")
    assert "nothing fits" in page.inner_text(COUNT)


def test_hostile_texts_are_shown_and_do_nothing(page: Page) -> None:
    page.get_by_label("text").fill("window.hit")
    assert total(page)[1] == 2
    shown = page.locator(f"{CARDS} bdi").all_text_contents()
    assert HOSTILE[0] in shown and HOSTILE[1] in shown
    assert page.locator(f"{CARDS} img, {CARDS} script").count() == 0
    assert any("<img src=x" in text for text in page.locator(f"{CARDS} .whence").all_inner_texts()), (
        "a setting's name, too"
    )
    page.get_by_label("text").fill("reversed")
    [control] = {text for text in page.locator(f"{CARDS} bdi").all_text_contents() if "reversed" in text}
    assert control.startswith("a\u2400\u241b[31m\u2407b\ufffdreversed") and "{{ 7*7 }} ${x} \\u003c" in control
    page.get_by_label("text").fill("more characters")
    [long] = {text for text in page.locator(f"{CARDS} bdi").all_text_contents() if "more characters" in text}
    assert long == cut(HOSTILE[5])
    assert page.evaluate("document.documentElement.scrollWidth") <= DESK, "a word of thousands of letters is broken"


# --- other eyes and hands ---------------------------------------------------------------------------------------------


def test_a_phone_has_no_page_to_push_aside(page: Page) -> None:
    page.set_viewport_size({"width": PHONE, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    for row in page.locator("#comparison tbody tr, #runs tbody tr").all():
        assert row.evaluate("(card) => card.scrollWidth <= card.clientWidth"), "a row is a card, and is whole"
    names = page.evaluate(
        """[...document.querySelectorAll("#comparison tbody tr:first-child td")].map(
             (cell) => getComputedStyle(cell, "::before").content)"""
    )
    assert len(names) == 8 and '"seeds"' in names and "none" not in names, "its values have the names of the columns"
    page.get_by_label("text").fill("window.hit")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    for control in page.locator("button, select, input, figure svg").all():
        box = control.bounding_box()
        assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= PHONE)
    assert page.locator("#curves svg").first.bounding_box()["width"] > 300, "a figure is as wide as the phone"


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_is_cut_off(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1000})
    page.locator(".toggles summary").click()
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.scrollWidth <= document.body.clientWidth")
    scrolls = "main .scroll" if width > NARROW else ".none"  # a wide table scrolls in its box; a card has no need to
    wide = page.evaluate(
        """(scrolls) => [...document.querySelectorAll("main *, .toggles *")].filter((one) => one.clientWidth > 0 &&
             one.scrollWidth > one.clientWidth + 1 && !one.closest("svg, thead") && !one.closest(scrolls)).map(
             (one) => `${one.tagName} ${one.className} ${one.textContent.slice(0, 40)}`)""",
        scrolls,
    )
    assert wide == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(page: Page, scheme: Any) -> None:
    """At least 4.5 to 1 between every text and what is behind it, computed from the styles that the browser uses."""
    page.emulate_media(color_scheme=scheme)
    page.locator(".toggles summary").click()
    page.locator('[data-toggle="0"]').click()
    page.locator("input[name=low]").fill("1")
    low = page.evaluate(CONTRAST)
    assert page.locator("tr.other").count() and low == []


def test_on_paper_there_are_no_controls(page: Page) -> None:
    page.set_viewport_size({"width": PAPER, "height": 1000})
    page.emulate_media(media="print", color_scheme="dark")
    assert not any(page.locator(name).first.is_visible() for name in ("form", "nav", ".buttons"))
    assert page.locator("#comparison table").is_visible() and page.locator("#curves svg").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", "paper is not dark"
    assert page.evaluate("getComputedStyle(document.querySelector('#comparison .scroll')).overflowX") == "visible"
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER, "nothing is cut off"
    assert len(page.pdf()) > 50_000


def test_in_the_dark_ink_is_light(page: Page) -> None:
    def light(style: str) -> float:
        return sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle({style}"))[:3]))

    text = 'document.querySelector("#curves svg text")).fill'
    assert light("document.body).backgroundColor") > 600 > 300 > light(text)
    page.emulate_media(color_scheme="dark")
    assert light("document.body).backgroundColor") < 150 < 600 < light(text)


def test_every_control_has_a_name_and_is_reached_by_keys(page: Page) -> None:
    unnamed = page.evaluate("""[...document.querySelectorAll("button, select, input")].filter((one) =>
        one.tabIndex < 0 || !(one.tagName === "BUTTON" ? one.textContent.trim() : one.labels.length)).length""")
    assert unnamed == 0
    assert page.evaluate("""[...document.querySelectorAll("figure")].every((one) => one.ariaLabel?.length > 20)""")
    page.locator("form select[name=run]").focus()
    for name in ("step", "role", "words", "score", "low", "high", "order", "only"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == name
    page.keyboard.press("Space")
    assert page.get_by_label("hide the turns").is_checked()
