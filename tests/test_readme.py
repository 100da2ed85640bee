"""The README's example is a game that works, and the choices that it lists are those that there are."""

import re
from pathlib import Path
from typing import Any

import cli
import pytest

from selfplay.testing import check_game

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The README's one code block of a language."""
    [text] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(text)


def test_the_example_game_trains_from_its_two_files(tmp_path: Path) -> None:
    (tmp_path / "my_game.py").write_text(block("python"))
    (tmp_path / "conf" / "game").mkdir(parents=True)
    (tmp_path / "conf" / "game" / "signals.yaml").write_text(block("yaml"))
    run = tmp_path / "run"
    ended = cli.process(
        f"--config-dir={tmp_path / 'conf'}",
        "game=signals",
        "player=tabular",
        "update.optimizer.lr=4",
        f"hydra.run.dir={run}",
        path=tmp_path,
    )
    assert ended.code == 0, ended.err
    assert {turn["role"] for turn in cli.lines(run / "episodes.jsonl")} == {"chance", "signaller", "guesser"}
    shown = [float(text) for text in re.findall(r"^step .* signaller/payoff (\S+)", ended.out, re.MULTILINE)]
    assert len(shown) >= 20 and max(shown[:2]) < 0.75 and min(shown[-3:]) > 0.85


def test_the_example_game_keeps_the_rules_of_every_game() -> None:
    namespace: dict[str, Any] = {}
    exec(block("python"), namespace)
    assert check_game(namespace["Signals"]()).game == "Signals"


def test_a_small_game_is_short() -> None:
    assert len((block("python") + block("yaml")).splitlines()) <= 35
    kuhn = [ROOT / "src/selfplay/games/kuhn.py", ROOT / "conf/game/kuhn.yaml"]
    lines = [len(path.read_text().splitlines()) for path in kuhn]
    assert lines[0] <= 50 and lines[1] <= 8


@pytest.mark.parametrize("group", [p.name for p in sorted((ROOT / "conf").iterdir()) if p.is_dir()])
def test_every_choice_of_a_group_is_listed(group: str) -> None:
    if group == "experiment":
        assert "experiment=" in README
        return
    [row] = re.findall(rf"^\| `{group}` \| (.*) \|$", README, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", row)) == sorted(p.stem for p in (ROOT / "conf" / group).glob("*.yaml"))


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
