"""The report's sentences, its table of runs and its division by game: worked by hand, with two degrees of freedom.

Student's t with two degrees of freedom has a closed form: p = 1 - t / √(t² + 2), and t(0.975) = 4.3027.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from configs import config
from omegaconf import OmegaConf

from selfplay.building import make
from selfplay.core import SelfplayError
from selfplay.derived import fill_in
from selfplay.measures import measure
from selfplay.plots.figure_store import Album
from selfplay.report.answers import answers
from selfplay.report.comparison import ITSELF, compared, comparison
from selfplay.report.configs import against_itself, apart, configs, differing
from selfplay.report.parts import parts
from selfplay.report.run_table import run_table
from selfplay.report.settings import Settings
from selfplay.runs.reading import read
from selfplay.runs.sweep import Sweep

KUHN = {"game": {"_target_": "selfplay.games.kuhn.Kuhn"}, "eval": {"_target_": "a.Exploitability"}}
BLOTTO = {"game": {"_target_": "selfplay.games.blotto.Blotto", "soldiers": 5}, "eval": {"_target_": "a.Exploitability"}}


def made(
    folder: Path,
    values: Mapping[str, Sequence[float | None]],
    metric: str = "eval/accuracy",
    config: Mapping[str, Mapping[str, object]] | None = None,
) -> Sweep:
    """A sweep with one run per setting and seed; a value of None is a run that failed."""
    rows = []
    for setting, some in values.items():
        for seed, value in enumerate(some):
            path = folder / str(len(rows))
            path.mkdir()
            of_setting = (config or {}).get(setting, {"seed": seed})
            (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create({**of_setting, "seed": seed})))
            status = "finished" if value is not None else "failed"
            result = float("nan") if value is None else value
            rows.append([str(len(rows)), str(path), status, setting, seed, 4, 1.5, result, metric])
    columns = ["run", "path", "status", "setting", "seed", "steps", "seconds", "optimized", "metric"]
    runs = pd.DataFrame(rows, columns=columns).astype({"seed": "Int64"})
    return with_configs(Sweep(runs, pd.DataFrame(columns=["run", "setting", "seed", "step", "tokens"]), {}))


def with_configs(sweep: Sweep) -> Sweep:
    """The sweep with the configs that its folders hold now, which `load` would read."""
    paths = zip(sweep.runs["run"], sweep.runs["path"], strict=True)
    return replace(sweep, configs={run: read(Path(path)).recorded for run, path in paths})


AGAINST = "; baseline: {} (another: --baseline SETTING)"
BASE = (0.50, 0.60, 0.70)


def minus(*points: float) -> list[float]:
    return [base - point / 100 for base, point in zip(BASE, points, strict=True)]


def said(sweep: Sweep, baseline: str | None = None) -> list[str]:
    [lines] = answers(sweep, baseline).values()
    return lines


def test_two_differences_worked_by_hand(tmp_path: Path) -> None:
    """-5, -6, -7: t = 6√3, p = 0.0091, Holm 0.018. -1, -2, -3: t = 2√3, p = 0.074. Half width: 4.3027 / √3 = 2.48."""
    sweep = made(tmp_path, {"reward=rm": BASE, "reward=none": minus(1, 2, 3), "reward=selfjudge": minus(5, 6, 7)})
    assert answers(sweep) == {
        "Held-out accuracy (eval/accuracy), higher is better" + AGAINST.format("reward=rm"): [
            "reward=selfjudge is 6.0 points worse than rm [−8.5, −3.5], n = 3 pairs, Holm p = 0.018.",
            "No difference between reward=none and rm is shown: −2.0 points [−4.5, +0.5], n = 3 pairs, Holm p = 0.074.",
        ]
    }
    assert said(sweep, "reward=selfjudge")[0].startswith("reward=rm is 6.0 points better than selfjudge [+3.5, +8.5]")
    with pytest.raises(SelfplayError, match="reward=chess"):
        answers(sweep, "reward=chess")


def test_a_difference_that_does_not_survive_the_correction_is_not_claimed(tmp_path: Path) -> None:
    """-2, -3, -4: t = 3√3, p = 0.035; of two comparisons Holm's p is 0.070, though the interval excludes 0."""
    twice = {"a=0": BASE, "a=1": minus(2, 3, 4), "a=2": minus(2, 3, 4)}
    expected = "No difference between a=1 and 0 is shown: −3.0 points [−5.5, −0.5], n = 3 pairs, Holm p = 0.070."
    assert said(made(tmp_path, twice))[0] == expected
    (tmp_path / "once").mkdir()
    alone = said(made(tmp_path / "once", {name: twice[name] for name in ("a=0", "a=1")}))
    assert alone == ["a=1 is 3.0 points worse than 0 [−5.5, −0.5], n = 3 pairs, Holm p = 0.035."]


@pytest.mark.parametrize(
    ("metric", "word", "head"),
    [
        ("eval/nash_conv", "better", "NashConv (eval/nash_conv), lower is better"),
        ("eval/nll", "better", "Negative log-likelihood (eval/nll), lower is better"),
        ("eval/return", "worse", "Return (eval/return), higher is better"),
        ("solver/kl", "lower", "Solver: KL from the reference (solver/kl)"),
    ],
)
def test_the_direction_is_the_metrics(tmp_path: Path, metric: str, word: str, head: str) -> None:
    [(title, [sentence])] = answers(made(tmp_path, {"b=0": BASE, "b=1": minus(5, 6, 7)}, metric)).items()
    unit = " nats per token" if measure(metric).unit.startswith("nats") else ""
    assert title == head + AGAINST.format("b=0")
    assert sentence == f"b=1 is 0.060{unit} {word} than 0 [−0.085, −0.035], n = 3 pairs, Holm p = 0.009."


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([0.45], "No difference between c=1 and 0 is shown: −5.0 points; not enough seeds (1): no interval."),
        ([None, None], "c=1 and 0 cannot be compared: no finished run has this metric."),
        (list(BASE), "c=1 equals 0 in each of 3 pairs."),
        ([0.25, 0.35, 0.45], "No difference between c=1 and 0 can be tested: −25.0 points in each of 3 pairs."),
    ],
)
def test_what_cannot_be_known_is_said(tmp_path: Path, values: list[float | None], sentence: str) -> None:
    sweep = made(tmp_path, {"c=0": BASE, "c=1": values})
    found = answers(sweep)
    if values[0] is None:  # a setting without a result is not in the table either; the run is a problem of the page
        assert found == {}
    else:
        assert found == {"Held-out accuracy (eval/accuracy), higher is better" + AGAINST.format("c=0"): [sentence]}


def test_seeds_that_differ_are_not_compared(tmp_path: Path) -> None:
    sweep = made(tmp_path, {"c=0": [0.5, None], "c=1": [None, 0.6]})
    assert said(sweep) == ["c=1 and 0 cannot be compared: no seed in common."]


def test_a_small_difference_has_the_digits_that_it_needs(tmp_path: Path) -> None:
    lines = said(made(tmp_path, {"c=0": BASE, "c=1": minus(0.01, 0.02, 0.03)}, "eval/nash_conv"))
    assert "−0.0002 [" in lines[0]


# --- names ------------------------------------------------------------------------------------------------------------


def test_settings_are_named_by_what_differs() -> None:
    assert apart("game=lsp reward=selfjudge", "game=lsp reward=rm", {}, {}) == ("reward=selfjudge", "rm")
    assert apart("a=1 b=2", "a=2 b=3", {}, {}) == ("a=1 b=2", "a=2 b=3")
    assert apart("update.lr=0.1", "default", {}, {"update.lr": "0.5"}) == ("update.lr=0.1", "0.5"), "from the config"
    assert apart("reward=rm update.lr=0.5", "reward=x", {}, {"update.lr": "0.5"}) == ("reward=rm", "x"), "as by default"
    assert apart("reward=rm", "default", {}, {"reward._target_": "Verifier"}) == ("reward=rm", "the default")
    assert apart("a=1", "default", {"a": "1"}, {"a": "1"}) == ("a=1", "default"), "one config, typed in two ways"


# --- what is compared, and what is not --------------------------------------------------------------------------------


def test_the_heading_names_the_baseline_and_how_to_choose_another(tmp_path: Path) -> None:
    sweep = made(tmp_path, {"game=lsp k=1": BASE, "game=lsp k=2": minus(5, 6, 7)})
    told = "Held-out accuracy (eval/accuracy), higher is better" + AGAINST
    assert list(answers(sweep)) == [told.format("k=1")] and list(answers(sweep, "k=2")) == [told.format("k=2")]


MIRRORED = ("game=kuhn", "player=tabular", "eval=none")


@pytest.mark.parametrize(
    ("overrides", "mirrored"),
    [
        (MIRRORED, True),
        ((*MIRRORED, "optimized_metric=first/entropy"), False),
        ((*MIRRORED, "opponent=pfsp"), False),
        ((*MIRRORED, "seats.second=nature"), False),
        (("game=kuhn", "player=tabular"), False),
        (("game=iterated_dilemma", "player=tabular", "eval=none"), False),
        (("game=dataset", "reward=verifier", "eval=none"), False),
    ],
)
def test_a_zero_sum_game_against_itself_is_told_by_its_config(overrides: tuple[str, ...], mirrored: bool) -> None:
    cfg = config(*overrides)
    fill_in(cfg, make(cfg.game, "game"))
    assert against_itself(OmegaConf.to_container(cfg, resolve=True)) == mirrored


def test_what_a_model_wins_of_itself_is_not_compared(tmp_path: Path) -> None:
    names = {"progress_metric": "first/kl", "optimized_metric": "first/payoff"}
    itself = {**KUHN, **names, "opponent": {"_target_": "selfplay.opponents.matchmaker.Matchmaker"}}
    past = {**KUHN, **names, "opponent": {"_target_": "selfplay.opponents.rules.PFSP"}}
    for folder, recorded, mirrored in (("a", itself, True), ("b", past, False)):
        (tmp_path / folder).mkdir()
        values = {"k=1": BASE, "k=2": minus(5, 6, 7)}
        sweep = made(tmp_path / folder, values, "first/payoff", dict.fromkeys(values, recorded))
        [(title, lines)] = answers(sweep).items()
        assert ("baseline" in title) != mirrored and len(lines) == 1
        assert (ITSELF in lines) == mirrored and "selfplay crossplay FOLDER --last" in ITSELF
        [found] = compared(sweep, None)
        table = comparison(found, Settings(sweep.runs["setting"]), None, Album(tmp_path))
        assert (ITSELF in table.notes) == mirrored
        assert ([cell.value for cell in table.rows[1].cells[4:]] == ["–"] * 4) == mirrored
    one = made(tmp_path, {"k=1": BASE}, "first/payoff", {"k=1": itself})
    assert answers(one) == {}, "a single setting is compared with nothing"


# --- the config diff --------------------------------------------------------------------------------------------------


def test_only_what_differs_is_a_column(tmp_path: Path) -> None:
    config = {
        "k=1": {**KUHN, "steps": 5, "reward": None, "device": "cpu", "deck": {"seed": 0}},
        "k=2": {**BLOTTO, "steps": 9, "reward": None, "device": "cuda", "deck": {"seed": 0}},
    }
    sweep = made(tmp_path, {"k=1": [0.5, 0.6], "k=2": [0.7, None]}, "eval/nash_conv", config)
    for i, seed in enumerate((0, 1, 0, 1)):
        path = tmp_path / str(i) / "config.yaml"
        path.write_text(path.read_text().replace("deck:\n  seed: 0", f"deck:\n  seed: {seed}"))
    known = configs(with_configs(sweep))
    assert (
        known["0"]["game._target_"] == "Kuhn" and known["2"]["game.soldiers"] == "5" and known["0"]["reward"] == "null"
    )
    assert not {"seed", "device"} & set(known["0"])
    seeds = {"0": "0", "1": "1", "2": "0", "3": "1"}
    assert differing(known, seeds) == ["game._target_", "steps"], (
        "soldiers belong to Blotto, the deck's seed is the run's"
    )
    assert "deck.seed" in differing(known, dict.fromkeys(seeds, "7"))
    alone = {**known, "2": {**known["2"], "extra": "1"}}
    assert differing(alone, seeds) == ["game._target_", "steps", "extra"], "a key that no class explains"
    vary = {**known, "3": {**known["3"], "game.soldiers": "6"}}
    assert differing(vary, seeds) == ["game._target_", "steps", "game.soldiers"]
    some = {**known, "2": {**known["2"], "reward._target_": "Verifier"}}
    del some["2"]["reward"]
    assert differing(some, seeds) == ["game._target_", "reward._target_", "steps"]
    table = run_table(sweep, some, Settings(sweep.runs["setting"]))
    assert table.heads[7] == "reward" and [row.cells[6].value for row in table.rows] == [
        "null",
        "null",
        "Verifier",
        "null",
    ]
    table = run_table(sweep, known, Settings(sweep.runs["setting"]))
    assert table.heads == ["run: setting", "status", "seed", "steps", "seconds", "NashConv", "game", "steps"]
    assert [row.setting for row in table.rows] == ["0: k=1", "1: k=1", "2: k=2", "3: k=2"]
    assert [cell.value for cell in table.rows[2].cells] == ["finished", "0", "4", "1.5", "0.700", "Blotto", "9"]
    assert [cell.value for cell in table.rows[3].cells][:5] == ["failed", "1", "4", "1.5", "–"]


def test_a_config_that_cannot_be_read_leaves_gaps(tmp_path: Path) -> None:
    sweep = made(tmp_path, {"k=1": [0.5], "k=2": [0.7]}, config={"k=1": {"x": 1}, "k=2": {"x": 2}})
    (tmp_path / "1" / "config.yaml").write_text("{")
    sweep = with_configs(sweep)
    assert configs(sweep)["1"] == {} and read(tmp_path / "nowhere").recorded == {}
    table = run_table(sweep, configs(sweep), Settings(sweep.runs["setting"]))
    assert [len(row.cells) for row in table.rows] == [5, 5], "a single config differs from nothing"
    assert said(sweep)[0].startswith("No difference between k=2 and 1")


# --- several games ----------------------------------------------------------------------------------------------------


def test_two_games_are_not_compared_and_two_ways_to_train_are(tmp_path: Path) -> None:
    games = {"game=kuhn": KUHN, "game=kuhn u=1": KUHN, "game=blotto": BLOTTO, "game=blotto u=1": BLOTTO}
    values = {name: BASE if "u=1" not in name else minus(5, 6, 7) for name in games}
    sweep = made(tmp_path, values, "eval/nash_conv", games)
    assert [part.title for part in parts(sweep, configs(sweep))] == ["Kuhn", "Blotto"]
    expected = "u=1 is 0.060 better than the default [−0.085, −0.035], n = 3 pairs, Holm p = 0.009."
    head = "NashConv (eval/nash_conv), lower is better"
    found = {f"{name}: {head}" + AGAINST.format(f"game={name.lower()}"): [expected] for name in ("Kuhn", "Blotto")}
    assert answers(sweep) == found
    (tmp_path / "questions").mkdir()
    task = {"eval": {"task": {"_target_": "b.TinyWorld"}}}
    trained = {"game=lsp": {**KUHN, **task}, "game=dataset": {**BLOTTO, **task}}
    sweep = made(tmp_path / "questions", dict.fromkeys(trained, BASE), config=trained)
    assert [part.title for part in parts(sweep, configs(sweep))] == [""], "on the same questions"
    assert said(sweep) == ["game=dataset equals lsp in each of 3 pairs."]
