"""What a game's yaml may leave out: seats, Nature, probes, what is watched; and how an update says what it learnt."""

from pathlib import Path

import cli
import pytest
import torch
from configs import config, filled
from omegaconf import OmegaConf

from selfplay.building import build, make
from selfplay.commandline import arguments, as_typed
from selfplay.core import Learnt, SelfplayError
from selfplay.runs.start import FOLLOWERS, _change

WATCHED = dict.fromkeys(("blotto", "iterated_dilemma", "kuhn", "matrix", "negotiation", "openspiel"), "eval/nash_conv")
WATCHED |= dict.fromkeys(("taboo", "textarena"), "eval/return") | {"preferences": "eval/nll"}  # others: eval/accuracy
PROBED = {"contest": ["truth"], "dataset": ["truth"], "debate": ["truth"], "demonstrations": ["truth"]}
PROBED |= {game: ["truth"] for game in ("engineer", "few_shot", "society", "views")}


@pytest.mark.parametrize("game", sorted(path.stem for path in (cli.CONF / "game").glob("*.yaml")))
def test_what_follows_from_each_game(game: str) -> None:
    cfg = filled(f"game={game}")
    roles = make(cfg.game, "game").roles
    others = {"chance": "nature", "teacher": "teacher"}
    assert dict(cfg.seats) == {role: others.get(role, "learner") for role in roles}
    assert cfg.progress_metric == WATCHED.get(game, "eval/accuracy")
    probes = [name for name, node in cfg.probes.items() if node is not None]
    assert probes == PROBED.get(game, ["truth", "invalid"] if game.startswith("lsp") else [])
    assert ("nature" in cfg.players) == ("chance" in roles)


def test_what_the_config_says_stays() -> None:
    cfg = filled("game=kuhn", "seats.second=reference", "progress_metric=loss", "eval=none")
    assert dict(cfg.seats) == {"chance": "nature", "first": "learner", "second": "reference"}
    assert (cfg.progress_metric, cfg.optimized_metric) == ("loss", "loss")
    own = filled("game=kuhn", "+players.nature={_target_: selfplay.players.scripted.Scripted}")
    assert own.players.nature == {"_target_": "selfplay.players.scripted.Scripted"}


def test_a_zero_sum_game_against_itself_is_not_told_by_its_payoff() -> None:
    alone, itself = filled("game=kuhn", "eval=none", "seats.second=reference"), filled("game=kuhn", "eval=none")
    assert (alone.progress_metric, alone.optimized_metric) == ("first/payoff", "first/payoff")
    assert (itself.progress_metric, itself.optimized_metric) == ("first/kl", "first/payoff")
    asked = filled("game=lsp", "eval=none")
    assert (asked.progress_metric, asked.optimized_metric) == ("solver/reward", "solver/reward")


def test_a_seat_that_no_yaml_names_can_be_taken_away() -> None:
    typed = ["game=kuhn", "~seats.second", "seats.first=reference"]
    given = arguments(typed, [cli.CONF])
    assert given == ["game=kuhn", "++seats.second=null", "++seats.first=reference"] and as_typed(given) == typed
    assert dict(filled(*given).seats) == {"chance": "nature", "first": "reference", "second": "learner"}
    gone = filled(*arguments(["game=demonstrations", "game.answers=0", "~seats.solver"], [cli.CONF])).seats
    assert dict(gone) == {"chance": "nature", "teacher": "teacher"}


def test_a_player_that_nobody_defined_is_named_with_the_way_to_define_it() -> None:
    given = ("game=kuhn", "player=tabular", "seats.first=expert")
    with pytest.raises(SelfplayError, match=r"is 'expert', but .*; choose one of them, or define it with \+players"):
        build(config(*given))
    defined = build(config(*given, "+players.expert._target_=selfplay.players.nature.Nature"))
    assert defined.opponent.seated["first"] == "expert"


def test_a_learner_without_a_role_watches_its_loss() -> None:
    cfg = filled("game=demonstrations", "game.answers=0", "~seats.solver", "reward=none", "eval=none")
    assert dict(cfg.seats) == {"chance": "nature", "teacher": "teacher"} and cfg.progress_metric == "loss"


def test_a_config_is_built_as_it_is_and_left_as_it_was() -> None:
    cfg = config("game=kuhn", "player=tabular")
    before = OmegaConf.to_yaml(cfg)
    assert build(cfg).opponent.seated == {"chance": "nature", "first": "learner", "second": "learner"}
    assert OmegaConf.to_yaml(cfg) == before


def test_a_run_keeps_what_was_derived_and_goes_on_with_it(tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", "game=kuhn", "player=tabular", "steps=1", "episodes=8")
    kept = OmegaConf.load(run / "config.yaml")
    assert kept.seats == {"chance": "nature", "first": "learner", "second": "learner"}
    assert kept.progress_metric == "eval/nash_conv" and kept.probes == {"truth": None, "invalid": None}
    assert cli.run(f"resume={run}", "steps=2").code == 0 and len(cli.metrics(run)) == 3


def test_the_watched_evaluation_is_on_the_line_of_every_step(tmp_path: Path) -> None:
    ended = cli.run("game=kuhn", "player=tabular", "steps=3", "episodes=8", f"hydra.run.dir={tmp_path / 'run'}")
    lines = [line for line in ended.out.splitlines() if line.startswith("step ")]
    assert len(lines) == 3 and all("eval/nash_conv 0." in line for line in lines)


def test_keys_that_no_yaml_names_need_no_plus(tmp_path: Path) -> None:
    typed = ["seats.second=reference", "update.role_weights.first=0.5", "game=kuhn", "player=tabular", "steps=1"]
    given = arguments(typed, [cli.CONF])
    assert given[:3] == ["++seats.second=reference", "++update.role_weights.first=0.5", "game=kuhn"]
    assert as_typed(given) == typed
    run = cli.finished(tmp_path / "run", *typed)
    kept = OmegaConf.load(run / "config.yaml")
    assert kept.seats.second == "reference" and kept["update"].role_weights == {"first": 0.5}
    assert [text for text in kept.overrides if "hydra" not in text] == typed


# --- learnt -----------------------------------------------------------------------------------------------------------


def test_metrics_alone_are_enough() -> None:
    full = Learnt({"loss": 1.0}, torch.ones(2))
    assert Learnt.of(full) is full and Learnt.of({"loss": 1.0}) == Learnt({"loss": 1.0}, None)
    for found in (None, 1.0, [("loss", 1.0)]):
        with pytest.raises(SelfplayError, match=r"returned a .*; return Learnt"):
            Learnt.of(found)


# --- what follows steps and device ------------------------------------------------------------------------------------


def interpolating(key: str) -> set[str]:
    """The parts under conf/ with an option that is `${key}`."""
    found = set()

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if node.get(key) == f"${{{key}}}":
                found.add(str(node["_target_"]))
            for value in node.values():
                walk(value)

    for path in cli.CONF.rglob("*.yaml"):
        walk(OmegaConf.to_container(OmegaConf.load(path)))
    return found


def test_the_followers_are_those_of_the_yamls() -> None:
    assert set(FOLLOWERS["steps"] or ()) == interpolating("steps")
    assert FOLLOWERS["device"] is None and interpolating("device")


def test_a_player_of_ones_own_follows_to_another_device() -> None:
    parts = {"_target_": "mine.Player", "device": "cpu", "net": {"_target_": "mine.Net", "device": "cuda:1"}}
    run = OmegaConf.create({"device": "cpu", "player": parts, "note": {"device": "cpu"}})
    _change(run, "device", OmegaConf.create({"device": "cuda"}))
    assert (run.device, run.player.device, run.player.net.device, run.note.device) == ("cuda", "cuda", "cuda:1", "cpu")


def test_a_key_of_ones_own_called_steps_does_not_follow() -> None:
    schedule = {"_target_": "selfplay.updates.schedules.cosine", "_partial_": True, "steps": 4, "warmup": 0}
    ours = {"_target_": "mine.Reward", "steps": 4, "parts": {"steps": 4, "one": dict(schedule)}}
    run = OmegaConf.create({"steps": 4, "schedule": schedule, "other": {**schedule, "steps": 3}, "reward": ours})
    _change(run, "steps", OmegaConf.create({"steps": 9}))
    assert (run.steps, run.schedule.steps, run.other.steps) == (9, 9, 3)
    assert (run.reward.steps, run.reward.parts.steps, run.reward.parts.one.steps) == (4, 4, 9)
