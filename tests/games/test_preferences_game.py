"""Preference pairs of a file, learnt by DPO: the very replies of the file, behind the bare question."""

import json
from pathlib import Path
from typing import Any

import cli
import pytest
import stored
import torch
from configs import config
from language_models import perturb
from torch import Tensor
from torch.nn.functional import logsigmoid

from selfplay.building import build, make
from selfplay.config import check_config
from selfplay.core import Ask, SelfplayError, user
from selfplay.games.preferences import Preferences
from selfplay.players.language_model import LanguageModel
from selfplay.players.scripted import Pair
from selfplay.rollout import collate, encode_replies, play, score_and_pay, turns_of
from selfplay.tasks.records import Records

PAIR = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
NAMES: dict[str, Any] = {"question": "prompt", "answer": None, "demonstration": "chosen", "rejected": "rejected"}


def asked(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def total(policy: LanguageModel, question: str, reply: str) -> Tensor:
    """log p of a reply with its end token, by the chat template and the whole model."""
    prompt = policy.tokenizer.apply_chat_template(asked(("user", question)), add_generation_prompt=True, tokenize=False)
    first = policy.tokenizer.encode(prompt, add_special_tokens=False)
    said = [*policy.tokenizer.encode(reply, add_special_tokens=False), policy.tokenizer.eos_token_id]
    logits = policy.model(torch.tensor([[*first, *said]])).logits[0, len(first) - 1 : -1]
    return (logits / policy.temperature).log_softmax(-1).gather(1, torch.tensor(said)[:, None]).sum()


EXPLICIT = {"prompt": asked(("user", "2+2?"))}
EXPLICIT |= {name: asked(("assistant", PAIR[name])) for name in ("chosen", "rejected")}


def test_a_step_is_dpo_on_the_pairs_of_the_file() -> None:
    cfg = config("game=preferences", *stored.needed("preferences"), "update.beta=0.3", "eval=none")
    parts = build(cfg)
    learner, reference, update = parts.opponent.main, parts.opponent.players["reference"], parts.update
    perturb(learner.model, 0.02)
    names = {"chance": "nature", "teacher": "teacher"}
    episodes = play(parts.game, parts.opponent.players, range(5), "0/1", lambda _: names)
    score_and_pay(parts.game, episodes, {}, {})
    turns = turns_of(episodes, "teacher")
    pairs = [[turn.reply.text for turn in episode.turns] for episode in episodes]
    assert all(pair == [f"what is {pair[2]}+1?", str(int(pair[2]) + 1), pair[2]] for pair in pairs)
    with torch.no_grad():
        margins = [
            sum(s * (total(learner, q, r) - total(reference, q, r)) for s, r in ((1, up), (-1, down)))
            for q, up, down in pairs
        ]
    expected = -logsigmoid(0.3 * torch.stack(margins)).mean()  # type: ignore[arg-type]
    metrics = update.step(collate(encode_replies(turns, "learner", learner), "learner")).metrics
    assert metrics["loss"] == pytest.approx(float(expected), abs=1e-5) and abs(metrics["loss"] - 0.6931) > 1e-3
    assert (metrics["pairs"], metrics["ties"]) == (5, 0)


def test_a_run_learns_them(tmp_path: Path) -> None:
    args = ["game=preferences", *stored.needed("preferences"), "steps=8", "episodes=16", "player.max_tokens=8"]
    run = cli.finished(tmp_path / "run", *args, "update.optimizer.lr=1e-3")
    turns = [turn for turn in cli.lines(run / "episodes.jsonl") if turn["role"] == "teacher"]
    assert all(turn["payoff"] == (int(turn["reply"]) == int(turn["prompt"][8:-3]) + 1) for turn in turns)
    first, *_, last = [line for line in cli.metrics(run) if line["step"] > 0]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5) and last["loss"] < 0.5
    assert last["teacher/rewards/accuracies"] > 0.9
    assert cli.summary(run)["eval"]["after"]["nll"] > 0


def test_the_best_reply_is_imitated_but_not_all(tmp_path: Path) -> None:
    args = ["game=preferences", *stored.needed("preferences"), "steps=1", "episodes=4", "player.max_tokens=8"]
    run = cli.finished(tmp_path / "run", *args, "update=rejection", "eval=none")
    turns = [turn for turn in cli.lines(run / "episodes.jsonl") if turn["role"] == "teacher"]
    assert [turn["advantage"] for turn in turns] == [turn["payoff"] for turn in turns]
    refused = cli.run(*args, "update=sft", "eval=none", f"hydra.run.dir={tmp_path / 'other'}")
    assert refused.code == 1
    assert "the teacher's replies to a question are paid 1 and 0, but Imitation would learn all of them" in refused.err


def test_the_example_of_this_package_is_learnt(tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", "game=preferences", "steps=1", "episodes=4", "player.max_tokens=12")
    assert cli.metrics(run)[-1]["pairs"] == 4


@pytest.mark.parametrize("rule", ["ipo", "kto_pair", "sppo"])
def test_other_rules_of_pairs(rule: str, tmp_path: Path) -> None:
    args = ["game=preferences", *stored.needed("preferences"), "steps=1", "episodes=4", "player.max_tokens=8"]
    run = cli.finished(tmp_path / "run", *args, f"update={rule}", "eval=none")
    assert cli.metrics(run)[-1]["pairs"] == 4 and cli.metrics(run)[-1]["grad_norm"] > 0


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (PAIR, {}),
        ({"q": "2+2?", "good": "4", "bad": "5"}, {"question": "q", "demonstration": "good", "rejected": "bad"}),
        (EXPLICIT, {}),
        ({name: asked(("user", "2+2?"), ("assistant", PAIR[name])) for name in ("chosen", "rejected")},
         {"question": "chosen"}),
    ],
)  # fmt: skip
def test_forms_of_pairs(row: dict[str, Any], names: dict[str, str], tmp_path: Path) -> None:
    """Texts, other names, TRL's explicit conversations and its implicit prompts."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row))
    options = [f"task.{name}={value}" for name, value in names.items()]
    cfg = config("game=preferences", f"task.source.path={path}", "task.held_out_share=0", *options)
    item = make(cfg.task, "task").item("2+2?")
    assert (item.demonstration, item.rejected) == ("4", "5")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (PAIR | {"rejected": "4 "}, "row 1 has equal replies as its 'chosen' and 'rejected', so it has no preference"),
        (PAIR | {"rejected": ""}, "row 1 has an empty reply as its 'chosen' and 'rejected'"),
        (PAIR | {"chosen": None}, "row 1 has an empty reply"),
        ({"prompt": "a", "chosen": "b"}, r"row 1 has no field 'rejected' \(its fields: prompt, chosen\)"),
    ],
)  # fmt: skip
def test_pairs_without_a_preference(row: dict[str, Any], message: str) -> None:
    with pytest.raises(SelfplayError, match=message):
        Records([row], **NAMES)


def test_long_pairs_are_not_drawn() -> None:
    rows = [
        PAIR,
        {"prompt": "a", "chosen": "b", "rejected": "c" * 9},
        {"prompt": "d", "chosen": "b" * 9, "rejected": "c"},
    ]
    assert Records(rows, **NAMES, longest=8, held_out_share=0.0)._training == ["2+2?"]


def test_the_teacher_elsewhere_and_without_pairs() -> None:
    teacher = Pair(Records([PAIR], **{**NAMES, "rejected": None}, held_out_share=0.0))
    [chosen, rejected] = [{"role": "system", "content": which} for which in ("chosen", "rejected")]
    assert teacher.act([Ask("teacher", (chosen, *user("2+2?")))])[0].text == "4"
    with pytest.raises(SelfplayError, match=r"task Records has no rejected reply to '2\+2\?'; use task=preferences"):
        teacher.act([Ask("teacher", (rejected, *user("2+2?")))])
    with pytest.raises(SelfplayError, match="without saying which reply, chosen or rejected"):
        teacher.act([Ask("teacher", user("2+2?"))])
    assert Preferences().roles == ("chance", "teacher")


@pytest.mark.parametrize(("update", "name"), [("kto", "KTO"), ("grpo", "PolicyGradient")])
def test_an_update_that_learns_only_from_the_learner_is_refused_with_the_reason(update: str, name: str) -> None:
    cfg = config("game=preferences", *stored.needed("preferences"), f"update={update}", "eval=none")
    told = rf"^update.teachers is \['teacher'\], so .*, but {name} learns only the learner's own; .*update=dpo, ipo"
    with pytest.raises(SelfplayError, match=told):
        check_config(cfg)
    for other in ("dpo", "ipo", "kto_pair", "rejection", "sppo"):
        check_config(config("game=preferences", *stored.needed("preferences"), f"update={other}", "eval=none"))
