"""Names of version 0.1: each is refused with its new name, and runs of then are read in the names of now."""

from pathlib import Path

import cli
import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

import selfplay
from selfplay.commandline import mistake
from selfplay.errors import SelfplayError
from selfplay.renamed import CHOICES, KEYS, METRICS, TARGETS, translated, translated_metrics, translated_state
from selfplay.runs import RunFolder
from selfplay.runs.reading import read


@pytest.mark.parametrize(("old", "new"), KEYS.items())
@pytest.mark.parametrize("sign", ["", "+", "++", "~"])
def test_every_old_key_is_refused_with_its_new_name(old: str, new: str, sign: str) -> None:
    assert mistake([f"{sign}{old}=1"], [cli.CONF]) == f"{old} is called {new} since version 0.2; use the new name"


@pytest.mark.parametrize(("group", "old"), CHOICES)
def test_every_old_choice_is_refused_with_its_new_name(group: str, old: str) -> None:
    told = f"{group}={old} is called {group}={CHOICES[group, old]} since version 0.2; use the new name"
    assert mistake([f"{group}={old}"], [cli.CONF]) == mistake(["-m", f"{group}=none,{old}"], [cli.CONF]) == told


def test_deeper_keys_and_packages() -> None:
    assert "outcomes.limit is called rollout.limit" in str(mistake(["outcomes.limit=4"], [cli.CONF]))
    assert "eval@evals.if is called eval@extra_evals.if" in str(mistake(["+eval@evals.if=ifbench"], [cli.CONF]))
    assert mistake(["rollout=exact", "player.batch_size=3", "watchful=1"], [cli.CONF]) is None


@pytest.mark.parametrize("old", [key for key in KEYS if "." not in key])
def test_an_old_key_in_a_yaml_of_the_user(old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{old}: {{a: 1}}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SelfplayError, match=f"{old} is called {KEYS[old]} since version 0.2"):
        selfplay.train(game="kuhn", player="tabular", experiment="mine", steps=1)


@pytest.mark.parametrize("old", TARGETS)
def test_every_target_has_moved_to_where_something_is(old: str) -> None:
    with pytest.raises(Exception, match=""):
        get_object(old)
    assert get_object(TARGETS[old])


def test_a_run_of_then_is_read_resumed_and_shown(tmp_path: Path) -> None:
    """A run's files in the names of version 0.1: it is read, and goes on to what a run of now has."""
    args = ("game=kuhn", "player=tabular", "rollout=exact", "episodes=1", "checkpoint.every=1")
    whole = cli.finished(tmp_path / "whole", *args, "steps=3")
    part = cli.finished(tmp_path / "part", *args, "steps=2")
    old = {new: old for old, new in KEYS.items()}
    config = OmegaConf.to_container(OmegaConf.load(part / "config.yaml"))
    assert isinstance(config, dict)
    config = {old.get(str(key), key): value for key, value in config.items()}
    config["outcomes"]["_target_"] = "selfplay.outcomes.every"
    config["overrides"] = ["outcomes=every" if o == "rollout=exact" else o for o in config["overrides"]]
    (part / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    metrics = part / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"logprob_mismatch"', '"drift"'))
    run = read(part)
    assert run.status == "finished" and run.overrides["rollout"] == "rollout=exact"
    assert "drift" not in run.metrics[-1] and "logprob_mismatch" in run.metrics[-1]
    assert cli.run(f"resume={part}", "steps=3").code == 0
    last, wanted = (RunFolder(folder).metrics()[-1] for folder in (part, whole))
    assert last["step"] == 3
    assert {k: v for k, v in last.items() if "time/" not in k} == {k: v for k, v in wanted.items() if "time/" not in k}


def test_players_of_then() -> None:
    was = {
        "_target_": "selfplay.players.language_model.LanguageModel",
        "rows": 3,
        "compute": None,
        "checkpointing": True,
    }
    now = {"_target_": was["_target_"], "batch_size": 3, "compute_dtype": None, "gradient_checkpointing": True}
    assert translated({"a": [was]}) == {"a": [now]}
    assert translated({"rows": 3}) == {"rows": 3}, "a matrix's"
    assert translated_metrics(dict.fromkeys(METRICS, 1.0)) == dict.fromkeys(METRICS.values(), 1.0)


def test_the_exploiters_checkpoint_of_then() -> None:
    """The update that was set aside was part of the opponent's state."""
    aside = {"optimizer": {"state": {}}}
    state = {"opponent": {"population": ["step-000000"], "table": {}, "aside": aside}, "update": {}}
    told = translated_state(state)
    assert told["trainee"] == aside and told["opponent"]["exploits"] is True
    assert translated_state({"opponent": {}})["trainee"] is None
    assert translated_state({"opponent": {"exploits": False}, "trainee": None}) == {
        "opponent": {"exploits": False},
        "trainee": None,
    }
