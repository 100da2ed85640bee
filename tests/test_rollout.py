"""Waves, keys and their independence, what settling refuses, and the layout of the tensors."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scripted import Fixed, Script

from selfplay.core import Ask, Episode, Game, Play, Reply, SelfplayError, Turn, user
from selfplay.games.challenger_rewards import lsp
from selfplay.games.dataset import Dataset
from selfplay.games.lsp import LSP
from selfplay.players.language_model import LanguageModel
from selfplay.players.nature import Nature
from selfplay.rollout import collate, play, score_and_pay, turns_of


def game(answers: int = 4) -> LSP:
    return LSP("Write one question.", None, None, answers, lsp, quality_weight=0.5)


def echo() -> Script:
    """Says its own key; its tokens are as many as the key has characters."""
    return Script(lambda ask: Reply(ask.key, (7, 8), tuple(range(1, 1 + len(ask.key))), (-0.5,) * len(ask.key)))


def both(player: Script) -> dict[str, Script]:
    return {"challenger": player, "solver": player}


class Uneven(Game):
    """Episodes of different length: the first player counts down from the number it says first."""

    roles = ("a", "b")

    def play(self) -> Play:
        [first] = yield [Ask("a")]
        for left in range(int(first.text), 0, -1):
            yield [Ask("b", user(str(left))), Ask("a", user(str(left)))]
        return {"a": 1.0, "b": -1.0}


# --- playing ----------------------------------------------------------------------------------------------------------


def test_a_wave_is_one_call() -> None:
    """Five games of LSP are two calls of the learner: 5 questions, then 5 x 4 answers."""
    learner = echo()
    episodes = play(game(), both(learner), range(5), key="k")
    assert [len(call) for call in learner.calls] == [5, 20]
    assert [e.index for e in episodes] == [0, 1, 2, 3, 4]
    assert all([t.ask.role for t in e.turns] == ["challenger"] + ["solver"] * 4 for e in episodes)
    assert all(t.ask.prompt == e.turns[0].reply.text for e in episodes for t in e.turns[1:])


def test_each_player_is_called_once_a_wave() -> None:
    """Episodes of one, two and four waves: a is asked 3 + 2 + 1 + 1 times, b as often after the first wave."""
    a = Script(lambda ask: Reply({"k/0/0": "0", "k/1/0": "1", "k/2/0": "3"}.get(ask.key, "go")))
    b = echo()
    episodes = play(Uneven(), {"a": a, "b": b}, range(3), key="k")
    assert [len(call) for call in a.calls] == [3, 2, 1, 1]
    assert [len(call) for call in b.calls] == [2, 1, 1]
    assert [len(e.turns) for e in episodes] == [1, 3, 7]
    assert all(e.returns == {"a": 1.0, "b": -1.0} for e in episodes)
    assert [t.reply.text for t in episodes[1].turns] == ["1", "k/1/1", "go"]  # each reply stands behind its own ask


def test_keys_name_call_episode_and_turn() -> None:
    player = echo()
    episodes = play(game(2), both(player), [3, 0], key="seed/9")
    assert [t.ask.key for t in episodes[0].turns] == ["seed/9/3/0", "seed/9/3/1", "seed/9/3/2"]
    keys = [ask.key for call in player.calls for ask in call]
    assert len(set(keys)) == len(keys) == 6
    again = echo()
    play(game(2), both(again), [3, 0], key="seed/9")
    assert again.calls == player.calls


def test_eight_at_once_are_eight_alone(tiny: LanguageModel) -> None:
    """Nobody's luck or arithmetic depends on who else plays: texts and tokens are equal, log-probs to rounding."""
    seats = {"challenger": tiny, "solver": tiny}
    together = play(game(2), seats, range(8), key="together")
    alone = [play(game(2), seats, [i], key="together")[0] for i in range(8)]
    for a, b in zip(together, alone, strict=True):
        assert [replace(t.reply, logprobs=()) for t in a.turns] == [replace(t.reply, logprobs=()) for t in b.turns]
        for x, y in zip(a.turns, b.turns, strict=True):
            assert x.reply.logprobs == pytest.approx(y.reply.logprobs, abs=1e-4)
    assert len({t.reply.reply_ids for e in together for t in e.turns}) > 8  # it was not always the same


def test_another_key_is_other_luck() -> None:
    nature = Nature(lambda rng: str(rng.random()))
    seats = {"chance": nature, "solver": echo()}
    texts = [play(Dataset(1, 0.0), seats, range(3), key=k) for k in ("a", "b", "a")]
    first, other, again = ([e.turns[0].reply.text for e in episodes] for episodes in texts)
    assert first == again
    assert len({*first, *other}) == 6


def test_nature_is_uniform_over_options() -> None:
    nature = Nature(lambda rng: "never")
    texts = [r.text for r in nature.act([Ask("chance", options=("x", "y", "z"), key=str(i)) for i in range(900)])]
    assert {c: abs(texts.count(c) - 300) < 50 for c in texts} == {"x": True, "y": True, "z": True}


def test_nature_without_anything_to_say_is_told() -> None:
    with pytest.raises(SelfplayError, match="chance was asked without options"):
        Nature().act([Ask("chance", key="k")])


def test_an_empty_seat_is_told() -> None:
    with pytest.raises(SelfplayError, match=r"'solver' of LSP has no player \(seats: challenger\).*\+seats\.solver="):
        play(game(), {"challenger": echo()}, range(1), key="k")


def test_an_unlisted_role_is_told() -> None:
    class Rogue(Game):
        roles = ("a",)

        def play(self) -> Play:
            yield [Ask("ghost")]
            return None

    with pytest.raises(SelfplayError, match="'ghost', which it does not list"):
        play(Rogue(), {"a": echo()}, range(1), key="k")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_replies_is_told(count: int) -> None:
    class Bad(Script):
        def act(self, asks: object) -> list[Reply]:
            return [Reply("")] * count

    with pytest.raises(SelfplayError, match=f"Bad.act gave {count} replies to 2 asks"):
        play(game(), both(Bad(lambda ask: Reply(""))), range(2), key="k")


# --- seats ------------------------------------------------------------------------------------------------------------


def test_seats_by_episode() -> None:
    """Odd episodes are seated the other way round; a wave is still one call a player."""
    x, y = (Script(lambda ask: Reply("1", (1,), (2,), (-0.5,))) for _ in "xy")
    seats = [{"a": "x", "b": "y"}, {"a": "y", "b": "x"}]
    episodes = play(Uneven(), {"x": x, "y": y}, [0, 1, 2, 5], key="k", seats=lambda index: seats[index % 2])
    assert [[t.player for t in e.turns] for e in episodes] == [list("xyx"), list("yxy"), list("xyx"), list("yxy")]
    assert [[t.ask.role for t in e.turns] for e in episodes] == [list("aba")] * 4
    asked = [[(ask.role, ask.key) for ask in call] for call in x.calls]
    first = [("a", "k/0/0"), ("a", "k/2/0")]
    second = [("a", "k/0/2"), ("b", "k/1/1"), ("a", "k/2/2"), ("b", "k/5/1")]
    assert asked == [first, second]
    assert [len(call) for call in y.calls] == [2, 4]
    assert [(e.index, t.ask.role) for e, t in turns_of(episodes, "y")] == [
        (0, "b"), (1, "a"), (1, "a"), (2, "b"), (5, "a"), (5, "a")
    ]  # fmt: skip
    assert collate(turns_of(episodes, "y")).roles == ("b", "a", "a", "b", "a", "a")


def test_one_player_of_two_names_is_one_call() -> None:
    player = echo()
    episodes = play(
        game(2), {"p": player, "q": player}, range(3), "k", lambda index: {"challenger": "p", "solver": "q"}
    )
    assert [len(call) for call in player.calls] == [3, 6]
    assert [t.player for t in episodes[0].turns] == ["p", "q", "q"]
    a = Script(lambda ask: Reply("1"))
    play(Uneven(), {"x": a, "y": a}, range(4), "k", lambda index: {"a": "xy"[index % 2], "b": "yx"[index % 2]})
    assert [len(call) for call in a.calls] == [4, 8]  # both names in every wave


@pytest.mark.parametrize(
    ("seats", "told"),
    [({"challenger": "p"}, "'solver' of LSP has no player"), ({"challenger": "p", "solver": "z"}, "'solver' of LSP")],
)
def test_a_seat_of_one_episode_is_looked_at(seats: dict[str, str], told: str) -> None:
    right = {"challenger": "p", "solver": "p"}
    with pytest.raises(SelfplayError, match=told):
        play(game(2), {"p": echo()}, range(3), "k", lambda index: seats if index == 2 else right)


# --- settling ---------------------------------------------------------------------------------------------------------


def episodes(count: int = 2) -> list[Episode]:
    return play(game(2), both(echo()), range(count), key="k")


def test_scores_and_payoffs_by_hand() -> None:
    """R 1 0 / 3 1, Q 2 4 / 6 0 at half their weight: the Challenger earns Q - R on average, the Solver R + Q."""
    played = episodes()
    reward, quality = Fixed([1.0, 0.0, 3.0, 1.0]), Fixed([2.0, 4.0, 6.0, 0.0])
    asked = Fixed([1.0, 0.0], roles=("challenger",))
    score_and_pay(game(2), played, {"reward": reward, "quality": quality, "invalid": asked}, {})
    assert [[t.payoff for t in e.turns] for e in played] == [[1.5 - 0.5, 2.0, 2.0], [1.5 - 2.0, 6.0, 1.0]]
    assert [t.ask.role for t in reward.seen] == ["solver"] * 4
    assert [t.ask.role for t in asked.seen] == ["challenger"] * 2
    assert played[1].turns[1].scores == {"reward": 3.0, "quality": 6.0}
    assert played[0].turns[0].scores == {"invalid": 1.0}


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (torch.zeros(3), r"scores of shape \(3,\) for 4 turns"),
        (torch.zeros(4, 1), r"scores of shape \(4, 1\) for 4 turns"),
        (torch.tensor([1.0, math.nan, 2.0, math.nan]), "2 scores like nan for 4 turns"),
        (torch.tensor([1.0, math.inf, 2.0, 0.0]), "1 scores like inf for 4 turns"),
    ],
)
def test_scores_that_are_none_are_refused(scores: torch.Tensor, told: str) -> None:
    played = episodes()
    with pytest.raises(SelfplayError, match=rf"'reward' \(Fixed\) gave {told}"):
        score_and_pay(game(2), played, {"reward": Fixed(scores)}, {})
    assert all(not t.scores and math.isnan(t.payoff) for e in played for t in e.turns)


@pytest.mark.parametrize("payoffs", [[1.0, 2.0], [1.0] * 4, [1.0, math.nan, 2.0], [1.0, -math.inf, 2.0]])
def test_payoffs_that_are_none_are_refused(payoffs: list[float]) -> None:
    class Miser(LSP):
        def payoffs(self, episode: Episode) -> list[float]:
            return payoffs

    with pytest.raises(SelfplayError, match=r"Miser\.payoffs gave .* for the 3 turns of episode 0"):
        score_and_pay(Miser("?", None, None, 2, lsp, 1.0), episodes(), {}, {})


def test_a_score_that_is_needed_is_asked_for() -> None:
    with pytest.raises(SelfplayError, match=r"needs the score 'reward' of a solver turn.*\(scores: quality\)"):
        score_and_pay(game(2), episodes(), {"quality": Fixed(torch.zeros(4))}, {})


def test_default_payoffs_are_the_returns() -> None:
    a = Script(lambda ask: Reply("1"))
    played = play(Uneven(), {"a": a, "b": a}, range(1), key="k")
    score_and_pay(Uneven(), played, {}, {})
    assert [(t.ask.role, t.payoff) for t in played[0].turns] == [("a", 1.0), ("b", -1.0), ("a", 1.0)]


def test_default_payoffs_without_returns_are_rewards() -> None:
    class Quiz(Dataset):
        payoffs = Game.payoffs

    played = play(Quiz(2, 0.0), {"chance": echo(), "solver": echo()}, range(1), key="k")
    score_and_pay(Quiz(2, 0.0), played, {"reward": Fixed([0.25, 0.75])}, {})
    assert [t.payoff for t in played[0].turns] == [0.0, 0.25, 0.75]


# --- collating --------------------------------------------------------------------------------------------------------


def turn(role: str, tokens: int, payoff: float, group: int | None, prompt: int = 2) -> Turn:
    ids = tuple(range(10, 10 + tokens))
    reply = Reply("", tuple(range(prompt)), ids, tuple(-float(i) for i in ids))
    return Turn(Ask(role, group=group), reply, {}, payoff, "somebody" if role == "x" else "learner")


def test_the_layout_of_a_batch() -> None:
    """Groups: the Challenger's None across the batch; 0 and 1 within an episode; not the same 0 in another."""
    first = [turn("c", 2, 1.0, None), turn("s", 1, 2.0, 0), turn("s", 3, 3.0, 0), turn("s", 1, 4.0, 1, prompt=4)]
    second = [turn("c", 1, 5.0, None), turn("s", 1, 6.0, 0), turn("x", 9, 7.0, 0)]
    got = [Episode(4, first), Episode(2, second)]
    b = collate(turns_of(got, "learner"))
    assert b.roles == ("c", "s", "s", "s", "c", "s")
    assert b.payoffs.tolist() == [1, 2, 3, 4, 5, 6]
    assert b.groups.tolist() == [0, 1, 1, 2, 0, 3]
    assert b.mask.long().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert b.replies.tolist() == [[10, 11, 0], [10, 0, 0], [10, 11, 12], [10, 0, 0], [10, 0, 0], [10, 0, 0]]
    assert b.logprobs.tolist() == [[-10, -11, 0], [-10, 0, 0], [-10, -11, -12], [-10, 0, 0], [-10, 0, 0], [-10, 0, 0]]
    assert [p.tolist() for p in b.prompts] == [[0, 1]] * 3 + [[0, 1, 2, 3]] + [[0, 1]] * 2
    assert [x.dtype for x in (b.replies, b.mask, b.logprobs, b.payoffs, b.groups)] == [
        torch.int64, torch.bool, torch.float32, torch.float32, torch.int64
    ]  # fmt: skip
    assert [t for _, t in turns_of(got, "learner")] == [*first, *second[:2]]
    assert len(b) == 6


def test_choices_stand_beside_their_turns() -> None:
    """A choice is one column, whatever the number of its tokens; rows keep what belongs to them."""
    menu = ((5, 1), (6, 7, 1))
    chosen = Turn(Ask("s", options=("x", "yz")), Reply("yz", (3,), (1,), (-0.25,), menu), {}, 2.0)
    b = collate([(Episode(0, []), t) for t in (turn("s", 3, 1.0, None), chosen)])
    assert b.choices == ((), menu)
    assert b.replies.tolist() == [[10, 11, 12], [1, 0, 0]] and b.mask.sum(1).tolist() == [3, 1]
    part = b.rows(torch.tensor([1]))
    assert part.choices == (menu,) and part.replies.tolist() == [[1]] and part.logprobs.tolist() == [[-0.25]]


def test_rows_of_a_batch() -> None:
    b = collate([(Episode(0, []), turn("s", n, float(n), 0, prompt=n)) for n in (3, 1, 2)])
    part = b.rows(torch.tensor([2, 1]))
    assert part.replies.tolist() == [[10, 11], [10, 0]]
    assert part.mask.tolist() == [[True, True], [True, False]]
    assert part.logprobs.tolist() == [[-10, -11], [-10, 0]]
    assert part.payoffs.tolist() == [2, 1]
    assert [p.tolist() for p in part.prompts] == [[0, 1], [0]]
    assert len(b.rows(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: collate([]), "the learner had no turn"),
        (lambda: collate([(Episode(0, []), turn("s", 0, 0.0, 0))]), "has 0 tokens and 0 log-probs"),
        (
            lambda: collate([(Episode(0, []), Turn(Ask("s"), Reply("x", (1,), (1, 2), (-1.0,))))]),
            "a s turn has 2 tokens and 1 log-probs",
        ),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(SelfplayError, match=told):
        make()
