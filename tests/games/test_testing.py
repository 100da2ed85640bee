"""What `check_game` refuses: for each rule a game that breaks it, and the sentence that this game gets."""

import itertools
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from selfplay.core import Ask, Episode, Game, Play, Player, Reply, SelfplayError, user
from selfplay.testing import Conformance, Unasked, check_game

ROLES = ("first", "second")
LUCK = Ask("chance", user("draw"), ("1", "2"), (3.0, 1.0))


class Pennies(Game):
    """Matching pennies, which keeps every rule; chance says how much is at stake. Others break one of them."""

    roles = ("chance", *ROLES)
    zero_sum = True

    def play(self) -> Play:
        [stake] = yield [LUCK]
        one, two = yield [Ask(role, user("heads or tails?"), ("heads", "tails")) for role in ROLES]
        return self.paid(stake, one, two)

    def paid(self, stake: Reply, one: Reply, two: Reply) -> dict[str, float]:
        won = (1.0 if one.text == two.text else -1.0) * (2.0 if stake.text == "2" else 1.0)
        return {"first": won, "second": -won}


class Story(Game):
    """Free text, which a referee judges."""

    roles = ("writer",)
    judged = ("writer",)

    def play(self) -> Play:
        for _ in range(2):
            yield [Ask("writer", user("write"), group=0)]
        return None


def game(play: Callable[[Any], Play], base: type[Game] = Pennies, **attributes: object) -> Game:
    """A game named "Mine" with this `play`."""
    found: Game = type("Mine", (base,), {"play": play, **attributes})()
    return found


def asking(*asks: Ask, base: type[Game] = Story, **attributes: object) -> Game:
    """A game that makes these asks at once, and then those of a writer."""

    def play(self: Game) -> Play:
        yield list(asks)
        return None

    return game(play, base, **attributes)


def told(broken: object, words: str, **options: Any) -> None:
    with pytest.raises(SelfplayError) as caught:
        check_game(broken, **options)  # type: ignore[arg-type]
    said = str(caught.value)
    assert re.search(words, said), said
    assert "\n" not in said and not said.endswith("."), f"more than one sentence: {said}"
    assert re.search(r"(; |, so |: )(?=\w)", said), f"no remedy: {said}"


def test_a_good_game_is_summarised() -> None:
    """Three nodes of chance, then 2 x (2 + 4)."""
    assert check_game(Pennies()) == Conformance("Pennies", 8, 24, 15, (), "")
    found = check_game(Story(), episodes=3)
    assert (found.episodes, found.turns, found.nodes) == (3, 6, None)
    assert "'writer' replies with free text" in found.not_enumerated
    assert check_game(Pennies(), nodes=14).not_enumerated.startswith("Pennies has more than 14 nodes")


def test_who_forgets_is_told_and_not_refused() -> None:
    def play(self: Game) -> Play:
        yield [Ask("a", user("one"), ("0", "1"))]
        yield [Ask("a", user("two"), ("0", "1"))]
        return {"a": 0.0}

    assert check_game(game(play, roles=("a",))).forgets == ("a",)


# --- What a game declares ---------------------------------------------------------------------------------------------


def test_it_must_be_a_game() -> None:
    told(Pennies, "the class Pennies is not a game; give an instance")
    told(3, "3 is not a game")
    told(Pennies(), "the class Pennies is not a game", again=Pennies)


@pytest.mark.parametrize("roles", [(), ["a"], "ab", ("a", "a"), (1, 2)])
def test_roles_are_different_names(roles: object) -> None:
    told(game(Pennies.play, roles=roles), r"Mine.roles is .*; give a tuple of different names")


@pytest.mark.parametrize("judged", [("chance",), ("second", "third")])
def test_the_judged_are_roles(judged: tuple[str, ...]) -> None:
    told(game(Pennies.play, judged=judged), f"Mine.judged is .*, but '{judged[-1]}' is not a role that can be judged")


def test_players_have_roles() -> None:
    told(Pennies(), "players has 'third', but Pennies has the roles chance, first, second", players={"third": None})
    told(Pennies(), "episodes is 0", episodes=0)


# --- What it asks -----------------------------------------------------------------------------------------------------


def test_play_is_a_generator() -> None:
    told(game(lambda self: {"first": 0.0}), "Mine.play returned a dict, but it must be a generator")  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(("wave", "shown"), [(Ask("writer"), "Ask"), (["writer"], r"\['writer'\]"), (None, "NoneType")])
def test_it_yields_lists_of_asks(wave: Any, shown: str) -> None:
    def play(self: Game) -> Play:
        yield wave
        return None

    told(game(play, Story), f"Mine yielded {shown}, which is not a list of asks; yield")


def test_somebody_is_asked() -> None:
    told(asking(), "Mine ended without any asks")


def test_an_episode_ends() -> None:
    def play(self: Game) -> Play:
        while True:
            yield [Ask("writer")]

    told(game(play, Story), "Mine yielded 1000 lists of asks in one episode; end it")


def test_only_roles_are_asked_and_all_of_them() -> None:
    told(asking(Ask("editor")), "Mine asked the role 'editor', which is not in its roles; list it there")
    told(asking(Ask("writer"), roles=("writer", "editor")), "has the role 'editor', but never asked it in 8 episodes")


TEXT = "the message .*; give {'role'"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        ({"messages": [{"role": "user", "content": "x"}]}, "the messages .*, not in a tuple"),
        ({"messages": ({"role": "teacher", "content": "x"},)}, TEXT),
        ({"messages": ({"role": "user", "content": 3},)}, TEXT),
        ({"messages": ("x",)}, TEXT),
        ({"options": ("heads")}, "the options 'heads', not in a tuple; a tuple of one element is"),
        ({"options": ("a", "b", "a")}, r"the options \('a', 'b', 'a'\); give distinct texts"),
        ({"options": (1, 2)}, r"the options \(1, 2\); give distinct texts"),
        ({"options": ("a", "b"), "weights": (1.0, 1.0)}, r"the weights \(1.0, 1.0\); leave them out"),
        ({"group": ["a"]}, r"the group \['a'\], which cannot be hashed"),
    ],
)
def test_an_ask_can_be_answered(ask: dict[str, Any], words: str) -> None:
    told(asking(Ask("writer", **ask)), f"Mine asked 'writer' with {words}")


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 0.0), (float("inf"), 1.0), ("a", "b")])
def test_chance_has_one_weight_an_option(weights: Any) -> None:
    broken = asking(Ask("chance", (), ("a", "b"), weights), Ask("writer"), roles=("chance", "writer"))
    told(broken, r"Mine asked 'chance' with 2 options and the weights .*; give one non-negative number per option")


def test_what_was_shown_stays() -> None:
    def play(self: Game) -> Play:
        message = {"role": "user", "content": "one"}
        yield [Ask("writer", (message,))]
        message["content"] = "two"
        yield [Ask("writer", (message,))]
        return None

    told(game(play, Story), "Mine changed the messages of an ask of 'writer' after yielding it; make new messages")


# --- An episode is a function of its replies --------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: torch.rand(1), lambda: random.seed(0)])
def test_luck_is_asked_for(draw: Callable[[], object]) -> None:
    def play(self: Game) -> Play:
        draw()
        yield [Ask("writer")]
        return None

    told(game(play, Story), "Mine used or seeded a global random generator; ask the role 'chance'")


@pytest.mark.parametrize("what", ["messages", "options", "group", "end", "returns"])
def test_an_episode_is_a_function_of_its_replies(what: str) -> None:
    """By a counter that outlives the episode, as a generator of the game's own would."""
    count = itertools.count()

    def play(self: Game) -> Play:
        now = str(next(count))
        ask = Ask("first", user(now if what == "messages" else ""), (now,) if what == "options" else ())
        yield [ask if what != "group" else Ask("first", group=now)] * (int(now) + 1 if what == "end" else 1)
        return {"first": float(now) if what == "returns" else 0.0}

    shown = {"end": r"it had 9 turns and then \d+", "returns": "it returned .* and then"}.get(what, "turn 0 asked")
    broken = game(play, roles=("first",), zero_sum=False)
    told(broken, rf"Mine continued differently after the same replies \({shown}.*'chance'")


def test_the_same_replies_by_somebody_else_are_the_same() -> None:
    def play(self: Game) -> Play:
        replies = yield [Ask("writer")]
        yield [Ask("writer", user(str(id(replies[0]))))]
        return None

    told(game(play, Story), "Mine continued differently after the same replies")


def test_a_second_game_of_the_same_arguments_plays_the_same() -> None:
    one, other = (asking(Ask("writer", user(text))) for text in "ab")
    words = r"differently after the same replies \(turn 0 asked 'writer' 'a' .* and then 'writer' 'b'"
    told(one, f"{words}.*; a game given as again= needs the same arguments", again=other)


def test_neighbours_leave_one_another_alone() -> None:
    """The score is kept in the game, and begun anew with each episode: side by side they share it."""

    def play(self: Any) -> Play:
        self.said = ""
        for _ in range(2):
            [reply] = yield [Ask("writer", user(self.said))]
            self.said += reply.text
        return None

    told(game(play, Story), r"episode 1 of Mine differs between parallel and single play \(turn 1 .*local variables")


# --- Who is paid what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paid", [[], [1.0], [1.0, float("nan")], [1.0, 1e300], ["1", "2"], None])
def test_each_turn_has_one_finite_payoff(paid: Any) -> None:
    told(game(Story.play, Story, payoffs=lambda self, episode: paid), "Mine.payoffs gave .* one finite payoff per turn")


def test_payoffs_are_a_function_of_the_episode() -> None:
    count = itertools.count()
    broken = game(Story.play, Story, payoffs=lambda self, episode: [float(next(count)), 0.0])
    told(broken, "differs between parallel and single play|payoffs returned .* and then .* for the same episode")
    times = itertools.count()

    def payoffs(self: Game, episode: Episode) -> list[float]:
        first = not any(turn.scores.get("seen") for turn in episode.turns)
        episode.turns[0].scores["seen"] = 1.0 + next(times)
        return [float(first), 0.0]

    told(
        game(Story.play, Story, payoffs=payoffs),
        r"Mine.payoffs returned \[1.0, 0.0\] and then \[0.0, 0.0\] for the same episode",
    )


def test_chance_earns_nothing() -> None:
    broken = game(Pennies.play, payoffs=lambda self, episode: [1.0] * len(episode.turns))
    told(broken, "Mine.payoffs paid 1 to 'chance'; pay it 0")


def test_payoffs_that_fail_are_told() -> None:
    told(game(Story.play, Story, payoffs=lambda self, episode: [1 / 0]), "Mine.payoffs raised ZeroDivisionError")


def test_scores_are_drawn_for_a_game_that_reads_others() -> None:
    def payoffs(self: Game, episode: Episode) -> list[float]:
        assert all(0 <= turn.scores["style"] <= 3 for turn in episode.turns)
        return [turn.scores["style"] for turn in episode.turns]

    assert check_game(game(Story.play, Story, payoffs=payoffs), scores={"style": 3.0}).turns == 16
    told(Story(), "needs the score 'reward' .* choose a referee", scores={"style": 3.0})


@pytest.mark.parametrize("returns", [{"first": 1.0}, {"first": 1.0, "second": 0.0, "chance": 0.0}, 1.0, [1.0, -1.0]])
def test_each_role_has_a_return(returns: Any) -> None:
    broken = game(Pennies.play, zero_sum=False, paid=lambda self, *replies: returns)
    told(broken, "Mine ended with the returns .*; return one number for each of the roles first, second")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None])
def test_returns_are_finite_numbers(value: Any) -> None:
    broken = game(Pennies.play, paid=lambda self, *replies: {"first": value, "second": 0.0})
    told(broken, "Mine ended with the returns .*; return finite numbers")


def test_zero_sum_is_a_claim() -> None:
    broken = game(Pennies.play, paid=lambda self, *replies: {"first": 1.0, "second": -0.5})
    told(broken, "Mine claims zero_sum, but its returns .* add up to 0.5; fix them, or set zero_sum = False")
    told(game(Story.play, Story, zero_sum=True), "Mine claims zero_sum, but returned None")


# --- Any reply --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError, SelfplayError])
def test_any_reply_of_a_role_is_taken(error: type[Exception]) -> None:
    def play(self: Game) -> Play:
        [reply] = yield [Ask("writer", user("yes or no?"), ("yes", "no"))]
        if reply.text not in ("yes", "no"):
            raise error("what?")
        return None

    told(game(play, Story), f"Mine.play raised {error.__name__} .* after the replies writer .*; handle replies of any")


def test_any_reply_of_a_role_is_paid() -> None:
    def payoffs(self: Game, episode: Episode) -> list[float]:
        return [float("ab".index(turn.reply.text)) for turn in episode.turns]

    told(asking(Ask("writer", options=("a", "b")), payoffs=payoffs), "Mine.payoffs raised ValueError .* the replies '")


def test_free_text_may_be_anything() -> None:
    def play(self: Game) -> Play:
        [reply] = yield [Ask("writer", user("a number?"))]
        if reply.text.isdecimal():
            int(reply.text)  # which Python refuses beyond 4,300 digits
        return None

    told(game(play, Story), "Mine.play raised ValueError .* after the replies writer '9{40}...'; handle replies of any")


def test_a_mistake_before_any_reply_is_told() -> None:
    def play(self: Game) -> Play:
        yield [Ask(self.nobody)]  # type: ignore[attr-defined]
        return None

    told(game(play, Story), "Mine.play raised AttributeError .* before the first reply; fix it")


def test_chance_may_be_refused_but_nothing_else_may_happen() -> None:
    def refusing(self: Game) -> Play:
        [stake] = yield [LUCK]
        if stake.text not in LUCK.options:
            raise SelfplayError("that is no stake")
        yield [Ask(role, options=("a",)) for role in ROLES]
        return dict.fromkeys(ROLES, 0.0)

    def failing(self: Game) -> Play:
        [stake] = yield [LUCK]
        yield [Ask(role, options=("heads", "tails")) for role in ROLES]
        return {"first": float(stake.text), "second": -float(stake.text)}

    assert check_game(game(refusing)).nodes == 7
    told(
        game(failing),
        "Mine.play raised ValueError .* after the replies chance .*, first .*, second .*; handle replies of any text, "
        "for example with chance_outcome and illegal of selfplay",
    )


def test_an_illegal_reply_costs_what_zero_sum_allows() -> None:
    def paid(self: Game, stake: Reply, one: Reply, two: Reply) -> dict[str, float]:
        legal = one.text in ("heads", "tails")
        return {"first": 0.0 if legal else -1.0, "second": 0.0}

    told(game(Pennies.play, paid=paid), "Mine claims zero_sum, but its returns .* add up to -1")


# --- Everywhere that the game can go ----------------------------------------------------------------------------------


def rare(end: Callable[[], dict[str, float]]) -> Game:
    """A game that does what it should not after one of 4,096 ways alone."""

    def play(self: Game) -> Play:
        said = ""
        for _ in range(6):
            [reply] = yield [Ask("first", user(said), tuple("abcd"))]
            said += reply.text
        return end() if said == "dadada" else {"first": 0.0}

    return game(play, roles=("first",))


def test_what_happens_once_in_four_thousand_ways_is_found() -> None:
    assert check_game(rare(lambda: {"first": 0.0})).nodes == sum(4**depth for depth in range(7))
    told(rare(lambda: {"first": 1.0}), "Mine claims zero_sum, but its returns .* add up to 1")
    told(rare(lambda: {}), "Mine ended with the returns {}")
    told(rare(lambda: 1 / 0), "Mine.play raised ZeroDivisionError .* after the replies first 'd', .* first 'a';")  # type: ignore[arg-type, return-value]


def test_who_sees_the_same_has_the_same_options() -> None:
    def play(self: Game) -> Play:
        [x] = yield [LUCK]
        yield [Ask(role, user("same"), tuple("ab")[: 1 if x.text == "1" else 2]) for role in ROLES]
        return dict.fromkeys(ROLES, 0.0)

    told(game(play), r"'first' of Mine has the options \('a',\) or \('a', 'b'\) .*make the messages")


def test_chance_may_take_each_of_its_options() -> None:
    def play(self: Game) -> Play:
        [x] = yield [Ask("chance", (), ("1", "2"), (1e9, 1.0))]
        if x.text != "1":
            raise SelfplayError("that is no stake")
        yield [Ask(role, options=("a",)) for role in ROLES]
        return dict.fromkeys(ROLES, 0.0)

    told(game(play), r"Mine refused one of the options that it gave to 'chance' \(that is no stake\); fix its options")


# --- How it is checked ------------------------------------------------------------------------------------------------


def test_players_of_one_s_own_reach_what_chance_would_not() -> None:
    class Knows(Player):
        def act(self, asks: Sequence[Ask]) -> list[Reply]:
            return [Reply("xyzzy") for _ in asks]

    def play(self: Game) -> Play:
        [word] = yield [Ask("writer")]
        if word.text == "xyzzy":
            yield [Ask("editor")]
        return None

    hidden = game(play, Story, roles=("writer", "editor"), judged=("writer", "editor"))
    told(hidden, "has the role 'editor', but never asked it")
    assert check_game(hidden, players={"writer": Knows()}).turns == 16


def test_what_is_unasked_for_is_a_function_of_the_key() -> None:
    asks = [Ask("writer", options=("a", "b"), key=str(i)) for i in range(64)]

    class Silent(Player):
        def act(self, asks: Sequence[Ask]) -> list[Reply]:
            return [Reply("a") for _ in asks]

    said = [reply.text for reply in Unasked(Silent()).act(asks)]
    assert said == [Unasked(Silent()).act([ask])[0].text for ask in asks]
    assert 20 < said.count("a") < 44 and len(set(said)) > 5


def test_it_leaves_global_luck_alone_and_needs_no_pytest() -> None:
    script = (
        "import random, sys\n"
        "from selfplay.testing import check_game\n"
        "from selfplay.games.kuhn import Kuhn\n"
        "before = random.getstate()\n"
        "print(check_game(Kuhn(2.0)).nodes)\n"
        "assert random.getstate() == before\n"
        "assert 'pytest' not in sys.modules and not any('transformers' == name for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "55", done.stderr
