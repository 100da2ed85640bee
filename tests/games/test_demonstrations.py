"""A teacher's turns: who says them, in whose tokens they are learnt, what the game pays."""

from functools import partial
from pathlib import Path

import cli
import pytest
import torch
from bandit import ASK, table
from configs import config

from selfplay.building import build
from selfplay.core import Ask, Episode, Reply, SelfplayError, Turn, user
from selfplay.games.contest import Contest
from selfplay.games.demonstrations import Demonstrations
from selfplay.players.language_model import LanguageModel
from selfplay.players.nature import Deal
from selfplay.players.scripted import Scripted, known, right
from selfplay.rollout import collate, encode_replies, play, turns_of
from selfplay.tasks.tiny_world import TinyWorld

RIGHT = partial(right, task=TinyWorld(per_cell=1, seed=0))
FREE, PAIR = Ask("solver", user("sort cab")), Ask("solver", user("now"), ("yes", "no"))


def test_a_teacher_knows_the_tiny_world() -> None:
    assert [r.text for r in Scripted(RIGHT).act([FREE, Ask("x", user("add 3 and 4"))])] == ["abc", "7"]
    with pytest.raises(SelfplayError, match="'who\\?' is not a question of task TinyWorld"):
        Scripted(RIGHT).act([Ask("x", user("who?"))])


def test_a_list_of_answers() -> None:
    teacher = Scripted(lambda question: known(question, {"now": "no", "sort cab": "later"}))
    assert [r.text for r in teacher.act([FREE, PAIR])] == ["later", "no"]
    assert teacher.probabilities([PAIR]) == [(0.0, 1.0)]
    with pytest.raises(SelfplayError, match="the list of 2 answers has none to 'then'"):
        teacher.act([Ask("x", user("then"))])
    with pytest.raises(SelfplayError, match=r"'later' is not a legal reply to 'sort cab' \(options: yes, no\)"):
        teacher.act([Ask("x", user("sort cab"), ("yes", "no"))])


def test_the_learner_spells_it(tiny: LanguageModel) -> None:
    """The learner's prompt, the text's tokens with the end; among options the place; no log-probs."""
    reply = tiny.encode_reply(FREE, "abc")
    assert reply.prompt_ids == tiny.render(FREE.messages) and reply.logprobs == ()
    assert reply.reply_ids == (*tiny.tokenizer.encode("abc", add_special_tokens=False), tiny.tokenizer.eos_token_id)
    assert tiny.tokenizer.decode(reply.reply_ids, skip_special_tokens=True) == "abc"
    chosen = tiny.encode_reply(PAIR, "no")
    assert (chosen.reply_ids, chosen.logprobs, chosen.choices) == ((1,), (), tiny.reply_with([PAIR], [1])[0].choices)
    with pytest.raises(SelfplayError, match="'maybe' is not a legal reply to 'now'"):
        tiny.encode_reply(PAIR, "maybe")
    with pytest.raises(SelfplayError, match=r"has 61 tokens, but player\.max_tokens is 48"):
        tiny.encode_reply(FREE, "a" * 60)
    policy = table()
    assert policy.encode_reply(ASK, "r").reply_ids == (2,) and policy.encode_reply(ASK, "r").logprobs == ()


def test_what_was_said_is_what_is_likely(tiny: LanguageModel) -> None:
    """The tokens of a sampled reply, spelled by the learner as a teacher's, have the probabilities that it sampled."""
    [own] = tiny.act([Ask("solver", user("sort cab"), key="k")])
    turn = Turn(FREE, own, payoff=0.0, player="somebody")
    batch = collate(encode_replies([(Episode(0, []), turn)], "learner", tiny), "learner")
    assert batch.off_policy == (True,) and batch.logprobs.tolist() == [[0.0] * batch.replies.shape[1]]
    with torch.no_grad():
        found = tiny.logprobs(batch)[0].tolist()
    assert found == pytest.approx(own.logprobs, abs=1e-5)


def test_a_batch_marks_whose_turn_it_was() -> None:
    policy = table()
    own = Turn(ASK, policy.reply_with([ASK], [0])[0], payoff=1.0, player="learner")
    other = Turn(ASK, Reply("q"), payoff=2.0, player="teacher")
    episode = Episode(0, [own, other, Turn(ASK, Reply("s"), payoff=0.0, player="stranger")])
    turns = turns_of([episode], "learner", "teacher")
    assert [turn for _, turn in turns] == [own, other]
    batch = collate(encode_replies(turns, "learner", policy), "learner")
    assert batch.on_policy.tolist() == [True, False] and batch.replies.tolist() == [[0], [1]]
    assert other.reply == Reply("q")  # the transcript keeps what was said
    assert collate(encode_replies(turns[:1], "learner", policy), "learner").off_policy == ()
    with pytest.raises(SelfplayError, match="0 tokens and 0 log-probs"):
        collate(turns[1:])


def test_demonstrations_by_hand() -> None:
    game = Demonstrations(answers=2, quality_weight=0.5)
    players = {"chance": Deal(["sort cab"]), "teacher": Scripted(RIGHT), "solver": Scripted(lambda question: question)}
    [episode] = play(game, players, [0], key="k")
    assert [(t.ask.role, t.ask.prompt, t.reply.text) for t in episode.turns] == [
        ("chance", "", "sort cab"),
        ("teacher", "sort cab", "abc"),
        *[("solver", "sort cab", "sort cab")] * 2,
    ]
    for turn, reward in zip(episode.turns[2:], (1.0, 3.0), strict=True):
        turn.scores = {"reward": reward, "quality": 4.0}
    assert game.payoffs(episode) == [0.0, 0.0, 3.0, 5.0]
    assert Demonstrations(0, 1.0).roles == ("chance", "teacher")


def test_a_contest_by_hand() -> None:
    """Pay-offs log 3 apart win 3 to 1: log 3, 0 against 0, 0."""
    game = Contest(answers=2, quality_weight=1.0)
    ln3 = torch.tensor(3.0).log().item()
    turns = [Turn(Ask("chance"), Reply("?"))]
    turns += [
        Turn(Ask(r), Reply(""), {"reward": x}) for r, x in (("first", ln3), ("first", 0), ("second", 0), ("second", 0))
    ]
    assert game.payoffs(Episode(0, turns)) == pytest.approx([0, 0.25, 0.0, -0.125, -0.125])


def test_supervised_learning_needs_no_reward_and_no_solver(tmp_path: Path) -> None:
    """The teacher alone: its answers become likelier, nobody else is asked."""
    alone = (
        "game=demonstrations",
        "update=sft",
        "game.answers=0",
        "~seats.solver",
        "reward=none",
        "progress_metric=loss",
    )
    run = cli.finished(tmp_path, *alone, "eval=none", "optimized_metric=loss", "steps=3", "episodes=4")
    losses = [line["loss"] for line in cli.metrics(run)]
    assert len(losses) == 3 and min(losses) > 0
    turns = cli.lines(run / "episodes.jsonl")
    assert {turn["role"] for turn in turns} == {"chance", "teacher"}
    assert all(turn["advantage"] == 1.0 for turn in turns if turn["role"] == "teacher")


def test_a_teacher_is_learnt() -> None:
    """Three steps on one lesson make it likelier than it was, and the learner's own answers are only measured."""
    made = build(config("game=demonstrations", "update=sft", "update.optimizer.lr=1e-3", "reward=verifier"))
    lesson = [made.learner.encode_reply(FREE, "zzz")]
    turns = [(Episode(0, []), Turn(FREE, reply, payoff=0.0, player="teacher")) for reply in lesson]
    losses = [made.update.step(collate(turns, "learner")).metrics["loss"] for _ in range(4)]
    assert losses[-1] < losses[0] - 0.1


def test_a_teacher_who_sits_nowhere_is_told() -> None:
    with pytest.raises(SelfplayError, match=r"teachers names 'teacher', which plays no role.*game=demonstrations"):
        build(config("game=dataset", "update=spin"))


def test_the_games_figures(tmp_path: Path) -> None:
    run = cli.finished(
        tmp_path, "game=demonstrations", "update=spin", "update.refresh=1", "eval=none", "optimized_metric=loss",
        "steps=2", "episodes=3", "player.max_tokens=16", "reward=verifier",
    )  # fmt: skip
    first, second = cli.metrics(run)
    assert first["pairs"] == 3 and first["logprob_mismatch"] < 1e-4 and second["logprob_mismatch"] < 1e-4
    assert abs(first["solver/rewards/margins"]) < 1e-5 and first["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert (run / "checkpoints" / "step-000002" / "magnet" / "model.safetensors").is_file()
