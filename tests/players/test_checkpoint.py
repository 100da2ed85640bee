"""A checkpoint as a player: its weights, in the config of a run, and what is wrong with a folder."""

from pathlib import Path

import cli
import pytest
from omegaconf import OmegaConf

from selfplay.building import make
from selfplay.core import SelfplayError
from selfplay.runs.folder import RunFolder

TABLE = ("game=kuhn", "player=tabular", "player.spread=1", "regularizer=none", "eval=none", "steps=1", "episodes=4")
PLACE = Path("checkpoints", "step-000001")


@pytest.fixture(scope="module")
def kuhn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli.finished(tmp_path_factory.mktemp("checkpoint") / "kuhn", *TABLE)


def node(run: Path, folder: Path) -> object:
    player = OmegaConf.to_container(RunFolder.open(run).config.player)
    target = "selfplay.players.checkpoint.checkpoint"
    return {"_target_": target, "player": {**player, "seed": 7}, "folder": str(folder)}  # type: ignore[dict-item]


def test_it_is_a_fixed_player_of_another_run(kuhn: Path, tmp_path: Path) -> None:
    rival = (
        f"+players.rival={{_target_: selfplay.players.checkpoint.checkpoint, folder: {kuhn / PLACE}, "
        "player: {_target_: selfplay.players.tabular.Tabular}}"
    )
    run = cli.finished(tmp_path / "run", *TABLE, rival, "player.spread=0", "+seats.second=rival", "seed=1")
    turns = cli.lines(run / "episodes.jsonl")
    assert {turn["player"] for turn in turns if turn["role"] == "second"} == {"rival"}


def test_it_has_the_weights_that_were_saved(kuhn: Path) -> None:
    policy = make(node(kuhn, kuhn / PLACE), "players.rival")
    own = make(RunFolder.open(kuhn).config.player, "player")
    own.load(kuhn / PLACE)
    assert policy.logits[: len(own.options)].equal(own.logits[: len(own.options)])


def test_a_folder_that_is_no_checkpoint(kuhn: Path, tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match=r"there is no checkpoint in .*; give the folder <run>/checkpoints/<step>"):
        make(node(kuhn, tmp_path / "nowhere"), "players.rival")
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (kuhn / PLACE).iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "states.json").write_text("[]")
    with pytest.raises(SelfplayError, match=r"states\.json is broken .*; give another checkpoint"):
        make(node(kuhn, broken), "players.rival")
