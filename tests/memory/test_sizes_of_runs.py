"""`auto` sizes: the chosen one fits and its double does not; a run writes it down and keeps it."""

import re
from pathlib import Path

import cli
import pytest
from configs import config
from omegaconf import DictConfig, OmegaConf
from test_configured import SMALL

from selfplay.core import SelfplayError
from selfplay.memory import command, room
from selfplay.memory.configured import Given, setup_of
from selfplay.memory.phases import PHASES, peak, phases, total
from selfplay.memory.room import GIB, HEADROOM, LIBRARIES, Room
from selfplay.memory.sizes import KEYS, MOST, choose, take_auto

GIVEN = Given(config=SMALL)
AUTO = [f"{key}=auto" for key in KEYS]


def needed(cfg: DictConfig) -> float:
    """Calculated anew from a config."""
    found = setup_of(cfg, GIVEN)
    assert found is not None
    return peak(found) + LIBRARIES * GIB


def chosen(cfg: DictConfig, memory: float) -> list[int]:
    cfg = cfg.copy()
    keys = take_auto(cfg)
    choose(cfg, keys, GIVEN, Room(memory, "the device", False))
    return [OmegaConf.select(cfg, key) for key in keys]


@pytest.mark.parametrize("key", KEYS)
def test_the_chosen_size_fits_and_its_double_does_not(key: str) -> None:
    """On a device that is made for size 8, and on one that lacks one byte for it. Everything else is small."""
    small = [f"{other}=1" for other in KEYS if other != key]
    there = config("player=hf", "player.path=by hand", "reward=rm", "quality=none", *small, f"{key}=8")
    memory = needed(there) / (1 - HEADROOM)
    phase = dict(zip(KEYS, ("updating", "playing", "scoring"), strict=True))[key]
    found = setup_of(there, GIVEN)
    assert found is not None and max(PHASES, key=lambda name: total(phases(found)[name])) == phase
    OmegaConf.update(there, key, 16)
    assert needed(there) > memory * (1 - HEADROOM)
    OmegaConf.update(there, key, "auto")
    assert chosen(there, memory + 1) == [8] and chosen(there, memory - 2) == [4]
    assert chosen(there, 1e15) == [MOST]


@pytest.mark.parametrize("more", [(), ("quality=selfjudge_written", "game=lsp")])
@pytest.mark.parametrize("gib", [0.7, 0.9, 1.5])
def test_all_three_fit_together(gib: float, more: tuple[str, ...]) -> None:
    """And no one of them can be doubled, also where a snapshot writes and a reward model reads in the same phase."""
    cfg = config("player=hf", "player.path=by hand", "reward=rm", *more, *AUTO)
    sizes = chosen(cfg, gib * GIB)
    for doubled in (None, *range(3)):
        for i, (key, size) in enumerate(zip(KEYS, sizes, strict=True)):
            OmegaConf.update(cfg, key, size * (1 + (i == doubled)))
        assert (needed(cfg) <= gib * GIB * (1 - HEADROOM)) is (doubled is None)


@pytest.mark.parametrize(
    ("options", "memory", "words"),
    [
        (
            ("player=hf", "player.path=x"),
            0.5,
            r"micro_batch is auto, but even with 1 the run needs 0\.\d GiB, more than 90%",
        ),
        (
            ("player=tabular", "game=kuhn"),
            80,
            r"the memory of player=selfplay.players.tabular.Tabular is not calculated",
        ),
        (("update=stages",), 80, r"the memory of selfplay\.updates\.stages\.Stages, which has several rules, is not"),
    ],
)
def test_what_cannot_be_chosen(options: tuple[str, ...], memory: float, words: str) -> None:
    plus = "+" if "update=stages" in options else ""
    with pytest.raises(SelfplayError, match=words):
        chosen(config(*options, "reward=none", "quality=none", f"{plus}update.micro_batch=auto"), memory * GIB)


def test_several_learners_are_not_sized() -> None:
    cfg = config("update.micro_batch=auto")
    OmegaConf.update(cfg, "learners", {"rival": {}}, force_add=True)
    with pytest.raises(SelfplayError, match="memory of several learners is not calculated"):
        chosen(cfg, 80 * GIB)


def test_only_reward_models_of_the_run_itself_are_sized() -> None:
    cfg = config("reward=rm_server", "reward.url=http://127.0.0.1:9", "reward.batch_size=auto")
    with pytest.raises(
        SelfplayError, match=r"reward\.batch_size is auto, but the memory of reward=.*ServedRewardModel"
    ):
        chosen(cfg, 80 * GIB)


def test_the_command_says_what_would_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("device=cuda", "reward=none", "device.memory=300", "update.micro_batch=auto")
    command.main(["player=hf", "--parameters", "8e9", "--layers", "32", "--hidden", "4096", *options])
    text = capsys.readouterr().out
    assert re.search(r"^sizes that fit: update\.micro_batch=\d+$", text, re.MULTILINE) and "fits: it needs" in text


def test_a_run_writes_them_down_and_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run and a repeated sweep keep what was chosen when more was free; asked again, they choose again."""

    def sizes(folder: Path) -> list[object]:
        config = OmegaConf.load(folder / "config.yaml")
        return [OmegaConf.select(config, key) for key in KEYS]

    args = (*cli.SMALL, "reward=rm", *AUTO, "steps=0", "eval=heldout", "task.per_cell=1")
    monkeypatch.setattr(room, "available", lambda device: 2 * GIB)
    ended = cli.run("-m", *args, f"hydra.sweep.dir={tmp_path}")
    [run] = [path.parent for path in tmp_path.glob("*/config.yaml")]
    first = sizes(run)
    told = " ".join(f"{key}={size}" for key, size in zip(KEYS, first, strict=True))
    assert (
        f"{told}: the largest powers of 2 up to 4096 for which the run fits into 90% of the 2.0 GiB that" in ended.out
    )
    monkeypatch.setattr(room, "available", lambda device: GIB)
    assert cli.run("-m", *args, f"hydra.sweep.dir={tmp_path}").code == 0 and sizes(run) == first
    assert cli.run(f"resume={run}", "steps=0").code == 0 and sizes(run) == first
    monkeypatch.setattr(room, "available", lambda device: 8 * GIB)
    assert cli.run(f"resume={run}", "steps=0", "update.micro_batch=auto").code == 0
    [micro, *rest] = sizes(run)
    assert isinstance(micro, int) and micro > first[0] and rest == first[1:]  # type: ignore[operator]


def test_a_device_whose_memory_is_unknown() -> None:
    ended = cli.run(*cli.SMALL, "device=mps", "player.batch_size=auto")
    assert ended.code == 1
    assert "player.batch_size is auto, but how much memory mps has is not known; give a size" in ended.err
