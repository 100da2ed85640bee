"""Replies that were cut off: which ones they are, and that they are left out of the loss and of nothing else.

The loss itself is compared with TRL's in test_trl.py.
"""

from pathlib import Path

import cli
import torch
from language_models import made

from selfplay.core import Ask, Batch, Episode, Reply, Turn, user
from selfplay.players.tabular import Tabular
from selfplay.rollout import collate

RUN = ("game=dataset", "reward=verifier", "eval=none", "steps=1", "episodes=2", "game.answers=4", "update=grpo",
       "update.mask_truncated=true", "player.temperature=2")  # fmt: skip


def of(*replies: Reply) -> Batch:
    turns = [Turn(Ask("solver", user("who?")), reply, payoff=1.0, player="learner") for reply in replies]
    return collate([(Episode(0, turns), turn) for turn in turns])


def said(*ids: int) -> Reply:
    return Reply("", (1, 2), ids, (-1.0,) * len(ids))


def test_a_reply_of_the_maximum_length_without_an_end_is_truncated() -> None:
    policy = made(max_tokens=3)
    end, letters = policy.texts.end, [ids[0] for ids in map(policy.tokenizer.encode, "abc")]
    replies = [said(*letters), said(*letters[:2], end), said(*letters[:2]), said(end)]
    assert policy.truncated(of(*replies)).tolist() == [True, False, False, False]
    choice = Reply("", (1, 2), (0,), (-1.0,), (tuple(letters), tuple(letters[:1])))
    assert made(max_tokens=1).truncated(of(choice)).tolist() == [False]


def test_a_stop_text_is_an_end() -> None:
    policy = made(max_tokens=3, stop=["c"])
    a, b, c = (policy.tokenizer.encode(text, add_special_tokens=False)[0] for text in "abc")
    assert policy.truncated(of(said(a, b, c), said(c, b, a), said(a, b, b))).tolist() == [False, False, True]


def test_a_table_truncates_nothing() -> None:
    assert Tabular().truncated(of(said(0), said(1))).tolist() == [False, False]


def test_where_all_are_cut_off_nothing_is_learnt(tmp_path: Path) -> None:
    for name, options in {"kl": [], "plain": ["regularizer=none", "update.measure_kl=false"]}.items():
        run = cli.finished(tmp_path / name, *RUN, "player.max_tokens=1", *options)
        last = cli.metrics(run)[-1]
        assert (last["truncated"], last["loss"], last["grad_norm"]) == (1, 0, 0)


def test_the_share_is_logged_and_the_rest_is_learnt(tmp_path: Path) -> None:
    for name, options in {"kl": [], "plain": ["regularizer=none", "update.measure_kl=false"]}.items():
        run = cli.finished(tmp_path / name, *RUN, "episodes=6", "player.max_tokens=4", *options)
        last = cli.metrics(run)[-1]
        assert 0 < last["truncated"] < 1 and last["grad_norm"] > 0
        assert torch.isfinite(torch.tensor([last["loss"], last["solver/entropy"]])).all()
