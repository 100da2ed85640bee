"""The small exact games: returns by hand, illegal replies, and what a role sees: its own luck and nobody else's."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from math import comb

import pytest
from configs import config

from selfplay.building import make
from selfplay.core import Ask, Game, Message, Reply, SelfplayError

SMALL = {
    "matrix": ("game.name=stag_hunt",),
    "blotto": ("game.players=3",),
    "kuhn": (),
    "iterated_dilemma": ("game.rounds=3",),
    "negotiation": ("game.items=[1,1]", "game.total=2"),
}
PRIVATE: dict[str, Callable[[str, Sequence[str]], str]] = {  # what a role alone is told of the luck
    "kuhn": lambda role, luck: luck[0].split()[role == "second"],
    "negotiation": lambda role, luck: luck[role == "second"],
}
History = list[list[tuple[Ask, str]]]  # wave by wave


@cache
def game_of(name: str, *overrides: str) -> Game:
    return make(config(f"game={name}", *overrides).game, "game")


def replay(game: Game, waves: Sequence[Sequence[str]]) -> tuple[History, list[Ask], dict[str, float] | None]:
    """What was asked and said so far; what is asked now, or the returns."""
    play, history = game.play(), []
    asks = next(play)
    for said in waves:
        history.append(list(zip(asks, said, strict=True)))
        try:
            asks = play.send([Reply(text) for text in said])
        except StopIteration as end:
            assert said is waves[-1], f"the game ended after {said}"
            return history, [], end.value
    return history, asks, None


def returns(game: Game, *said: str) -> dict[str, float] | None:
    """The returns of these replies in the order of asking."""
    waves: list[list[str]] = []
    left = list(said)
    while left:
        number = len(replay(game, waves)[1])
        assert number, f"the game is over, and {left} is left to say"
        waves.append([left.pop(0) for _ in range(number)])
    return replay(game, waves)[2]


def histories(game: Game, waves: tuple[tuple[str, ...], ...] = ()) -> Iterator[tuple[History, dict[str, float]]]:
    """Every legal play to its end, with its returns."""
    history, asks, paid = replay(game, waves)
    if not asks:
        assert paid is not None
        yield history, paid
        return
    for said in product(*(ask.options for ask in asks)):
        yield from histories(game, (*waves, said))


# --- what every one of them keeps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_role_sees_its_own_luck_and_all_that_was_said_before_and_no_more(name: str) -> None:
    """Messages and information (own luck, public replies of earlier waves) are one to one: no leak, perfect recall."""
    shown: dict[tuple[object, ...], tuple[Message, ...]] = {}
    for history, _ in histories(game_of(name, *SMALL[name])):
        luck: list[str] = []
        public: list[tuple[str, ...]] = []
        for wave in history:
            for ask, _ in wave:
                if ask.role != "chance":
                    known = (ask.role, PRIVATE[name](ask.role, luck) if luck else "", tuple(public))
                    messages = tuple(tuple(m.items()) for m in ask.messages)
                    assert shown.setdefault(known, messages) == messages, "somebody else's luck shows"
            luck += [said for ask, said in wave if ask.role == "chance"]
            public += [tuple(said for ask, said in wave if ask.role != "chance")]
    assert len(set(shown.values())) == len(shown), "two things that a role knows apart look the same"


@pytest.mark.parametrize("name", SMALL)
def test_what_is_shown_is_short_printable_and_one_message(name: str) -> None:
    for history, _ in histories(game_of(name, *SMALL[name])):
        for ask in (ask for wave in history for ask, _ in wave if ask.role != "chance"):
            assert [m["role"] for m in ask.messages] == ["user"]
            assert all(line.isascii() and line.isprintable() for line in ask.prompt.split("\n"))
            assert len(ask.prompt) < 160
            assert ask.options and all(option == option.lower().strip() for option in ask.options)


@pytest.mark.parametrize("bad", ["", "?", " {}", "{} ", "i say {}"])
@pytest.mark.parametrize("name", SMALL)
def test_an_illegal_reply_ends_the_game_and_its_role_pays(name: str, bad: str) -> None:
    """Wherever in the game it is said."""
    game = game_of(name, *SMALL[name], "game.forfeit=7")
    roles = [role for role in game.roles if role != "chance"]
    places = {}
    for history, _ in histories(game):
        for w, wave in enumerate(history):
            for slot, (ask, _) in enumerate(wave):
                places[ask.role, w] = ([[said for _, said in before] for before in history[: w + 1]], slot)
    assert {role for role, _ in places} == set(game.roles)
    for (role, _), (waves, slot) in places.items():
        if role != "chance":
            waves[-1][slot] = bad.format(waves[-1][slot])
            paid = {r: -7.0 if r == role else 7.0 / (len(roles) - 1) for r in roles}
            assert replay(game, waves)[2] == pytest.approx(paid)


@pytest.mark.parametrize("name", ["matrix", "iterated_dilemma"])
def test_two_illegal_replies_at_once_cost_both_the_same(name: str) -> None:
    assert returns(game_of(name), "?", "!") == {"row": 0.0, "column": 0.0}


@pytest.mark.parametrize("name", ["kuhn", "negotiation"])
def test_luck_that_is_none_is_told(name: str) -> None:
    with pytest.raises(SelfplayError, match=r"seats\.chance=nature"):
        returns(game_of(name), *["A A"] * len(replay(game_of(name), [])[1]))


@pytest.mark.parametrize(("name", "most"), [("kuhn", 2), ("matrix", 10), ("iterated_dilemma", 5), ("blotto", 3)])
def test_the_default_forfeit_is_never_less_than_the_loss_of_a_legal_play(name: str, most: int) -> None:
    overrides = ("game.name=chicken",) if name == "matrix" else SMALL[name]
    assert min(min(paid.values()) for _, paid in histories(game_of(name, *overrides))) >= -most
    assert config(f"game={name}").game.forfeit == most


# --- matrix -----------------------------------------------------------------------------------------------------------

CLASSICS = {
    "rock_paper_scissors": ("rock paper -1 1", "rock scissors 1 -1", "paper scissors -1 1", "rock rock 0 0"),
    "matching_pennies": ("heads heads 1 -1", "heads tails -1 1", "tails tails 1 -1", "tails heads -1 1"),
    "prisoners_dilemma": ("cooperate cooperate 3 3", "cooperate defect 0 5", "defect defect 1 1"),
    "stag_hunt": ("stag stag 4 4", "stag hare 1 3", "hare stag 3 1", "hare hare 2 2"),
    "battle_of_the_sexes": ("opera opera 3 2", "football football 2 3", "opera football 0 0"),
    "chicken": ("swerve swerve 0 0", "swerve straight -1 1", "straight straight -10 -10"),
}


@pytest.mark.parametrize("name", CLASSICS)
def test_the_classics(name: str) -> None:
    game = game_of("matrix", f"game.name={name}")
    for line in CLASSICS[name]:
        row, column, a, b = line.split()
        assert returns(game, row, column) == {"row": float(a), "column": float(b)}
    assert game.zero_sum == (name in ("rock_paper_scissors", "matching_pennies"))


def test_each_sees_the_matrix_from_its_own_side() -> None:
    [row, column] = replay(game_of("matrix", "game.name=battle_of_the_sexes"), [])[1]
    told = "battle of the sexes, you are {}\nopera: opera {}, football 0 0\nfootball: opera 0 0, football {}"
    assert row.prompt == told.format("row", "3 2", "2 3")
    assert column.prompt == told.format("column", "2 3", "3 2")
    [_, column] = replay(game_of("matrix", "game.name=matching_pennies"), [])[1]
    assert column.prompt == "matching pennies, you are column\nheads: heads -1, tails 1\ntails: heads 1, tails -1"


def test_a_matrix_of_one_s_own() -> None:
    own = ("game.name=custom", "game.custom.row=[[1,0,2],[3,4,0]]")
    game = game_of("matrix", *own)
    assert game.zero_sum
    assert returns(game, "2", "3") == {"row": 0.0, "column": 0.0} and returns(game, "1", "3") == {
        "row": 2,
        "column": -2,
    }
    assert "-0" not in replay(game, [])[1][1].prompt
    game = game_of(
        "matrix",
        *own,
        "game.custom.column=[[1,0,2],[3,4,5]]",
        "game.custom.rows=[up,down]",
        "game.custom.columns=[l,m,r]",
    )
    assert not game.zero_sum and returns(game, "down", "r") == {"row": 0.0, "column": 5.0}


@pytest.mark.parametrize("zero_sum", [True, False])
def test_a_random_matrix_is_a_function_of_its_seed(zero_sum: bool) -> None:
    def table(seed: int) -> dict[tuple[str, str], tuple[float, float]]:
        args = ("game.name=random", "game.random.size=4", f"game.random.zero_sum={zero_sum}", f"seed={seed}")
        game = game_of("matrix", *args)
        assert game.zero_sum == zero_sum
        return {(h[0][0][1], h[0][1][1]): (paid["row"], paid["column"]) for h, paid in histories(game)}

    assert table(1) == table(1) != table(2)
    paid = [x for both in table(1).values() for x in both]
    assert len(paid) == 2 * 16 and len(set(paid)) > 8 and -1 <= min(paid) < 0 < max(paid) <= 1


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ("game.name=poker", "choose one of rock_paper_scissors"),
        ("game.name=custom game.custom.row=[[1,2],[3]]", "one shape"),
        ("game.name=custom game.custom.row=[]", "one shape"),
        ("game.name=custom game.custom.column=[[1,2]]", "one shape"),
        ("game.name=custom game.custom.rows=[a]", "give 2 distinct names"),
        ("game.name=custom game.custom.columns=[a,a]", "give 2 distinct names"),
        ("game.name=random game.random.size=0", "size is 0"),
        ("game.name=custom game.custom=null", "game.custom is not given; set it, for example to {row: "),
        ("game.name=random game.random=null", "game.random is not given; set it, for example to {size"),
    ],
)
def test_a_wrong_matrix_is_told(overrides: str, told: str) -> None:
    with pytest.raises(SelfplayError, match=told):
        game_of("matrix", *overrides.split())


# --- blotto -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spreads", "paid"),
    [
        (("5 0 0", "3 1 1"), (-0.5, 0.5)),
        (("2 2 1", "2 3 0"), (0.0, 0.0)),  # a tie, one each
        (("4 1 0", "3 1 1"), (0.0, 0.0)),
        (("0 5 0", "0 4 1"), (0.0, 0.0)),
        (("1 3 1", "1 3 1"), (0.0, 0.0)),
        (("3 2 0", "3 1 1"), (0.0, 0.0)),
        (("3 1 1", "3 2 0", "0 0 5"), (-2 / 3, 1 / 3, 1 / 3)),  # the tie at the top of the first field wins nobody
        (("4 1 0", "2 2 1", "2 2 1"), (2 / 3, -1 / 3, -1 / 3)),  # so it does where the third is behind
    ],
)
def test_blotto(spreads: tuple[str, ...], paid: tuple[float, ...]) -> None:
    game = game_of("blotto", f"game.players={len(spreads)}")
    assert returns(game, *spreads) == pytest.approx(dict(zip(game.roles, paid, strict=True)))


def test_blotto_offers_every_way_to_send_all_soldiers() -> None:
    options = replay(game_of("blotto"), [])[1][0].options
    assert len(options) == comb(7, 2) and all(sum(map(int, option.split())) == 5 for option in options)


def test_a_blotto_too_great_is_told() -> None:
    with pytest.raises(SelfplayError, match=r"lower game\.soldiers or game\.fields"):
        game_of("blotto", "game.soldiers=100", "game.fields=10")
    with pytest.raises(SelfplayError, match="players is 1"):
        game_of("blotto", "game.players=1")


# --- kuhn poker -------------------------------------------------------------------------------------------------------

LINES = {"pass pass": 1, "pass bet pass": None, "pass bet bet": 2, "bet pass": None, "bet bet": 2}
FOLDS = {"pass bet pass": -1, "bet pass": 1}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("deal", ["J Q", "J K", "Q J", "Q K", "K J", "K Q"])
def test_kuhn(deal: str, line: str) -> None:
    first_is_higher = deal in ("Q J", "K J", "K Q")
    stake = LINES[line]
    first = FOLDS[line] if stake is None else stake if first_is_higher else -stake
    assert returns(game_of("kuhn"), deal, *line.split()) == {"first": first, "second": -first}


def value(plays: list[tuple[History, dict[str, float]]], policy: Callable[[Ask, str], float]) -> float:
    """What the first earns when every role, chance as well, says a reply with the probability `policy`."""
    total = 0.0
    for history, paid in plays:
        likely = 1.0
        for ask, said in (turn for wave in history for turn in wave):
            likely *= 1 / len(ask.options) if ask.role == "chance" else policy(ask, said)
        total += likely * paid["first"]
    return total


def test_kuhn_s_equilibrium_and_the_nashconv_of_uniform_play() -> None:
    plays = list(histories(game_of("kuhn")))
    assert len(plays) == 30

    bets = {"J none": 0.2, "Q none": 0, "K none": 0.6}  # Kuhn's family at alpha = 1/5
    bets |= {"J pass": 1 / 3, "Q pass": 0, "K pass": 1, "J bet": 0, "Q bet": 1 / 3, "K bet": 1}
    bets |= {"J pass bet": 0, "Q pass bet": 0.2 + 1 / 3, "K pass bet": 1}

    def equilibrium(ask: Ask, said: str) -> float:
        _, card, seen = ask.prompt.split("\n")
        bet = bets[f"{card.removeprefix('card ')} {seen.removeprefix('bets: ')}"]
        return bet if said == "bet" else 1 - bet

    assert value(plays, equilibrium) == pytest.approx(-1 / 18)

    def best(role: str, sign: int) -> float:
        prompts = sorted(
            {ask.prompt for history, _ in plays for wave in history for ask, _ in wave if ask.role == role}
        )
        assert len(prompts) == 6
        values = []
        for plan in product(("pass", "bet"), repeat=6):
            says = dict(zip(prompts, plan, strict=True))
            values.append(
                sign * value(plays, lambda a, s, says=says: float(says[a.prompt] == s) if a.role == role else 0.5)
            )
        return max(values)

    assert best("first", 1) + best("second", -1) == pytest.approx(11 / 12)


# --- iterated prisoner's dilemma --------------------------------------------------------------------------------------


def test_the_iterated_dilemma_pays_the_mean_of_its_rounds() -> None:
    game = game_of("iterated_dilemma", "game.rounds=3")
    c, d = "cooperate", "defect"
    assert returns(game, c, d, d, d, d, c) == {"row": 2.0, "column": 2.0}  # 0 1 5, 5 1 0
    assert returns(game, c, c, c, d, d, d) == {"row": 4 / 3, "column": 3.0}  # 3 0 1, 3 5 1
    assert returns(game_of("iterated_dilemma", "game.rounds=1", "game.sucker=-2"), c, d) == {"row": -2, "column": 5}


def test_the_iterated_dilemma_is_shown_from_one_s_own_side() -> None:
    _, [row, column], _ = replay(game_of("iterated_dilemma"), [["cooperate", "defect"]])
    told = "iterated dilemma, you are {}\nmine, theirs: cc 3, cd 0, dc 5, dd 1\nround 1: {}\nround 2 of 5"
    assert row.prompt == told.format("row", "cooperate, defect")
    assert column.prompt == told.format("column", "defect, cooperate")


@pytest.mark.parametrize("wrong", ["reward=6", "punishment=3", "sucker=1"])
def test_what_is_no_dilemma_is_told(wrong: str) -> None:
    with pytest.raises(SelfplayError, match="T > R > P > S"):
        game_of("iterated_dilemma", f"game.{wrong}")


# --- negotiation ------------------------------------------------------------------------------------------------------


def test_negotiation() -> None:
    """Items 2 1 1; they are worth 1 1 1 to the first and 0 2 2 to the second, 4 in all to each."""
    game = game_of("negotiation")
    drawn = ("1 1 1", "0 2 2")
    assert returns(game, *drawn, "2 0 0", "accept") == {"first": 2.0, "second": 4.0}
    assert returns(game, *drawn, "2 1 1", "0 1 1", "accept") == {"first": 2.0, "second": 4.0}
    assert returns(game, *drawn, "2 1 1", "1 1 0", "accept") == {"first": 2.0, "second": 2.0}
    assert returns(game, *drawn, "2 1 1", "accept") == {"first": 4.0, "second": 0.0}
    assert returns(game, *drawn, "0 0 0", "accept") == {"first": 0.0, "second": 4.0}
    assert returns(game, *drawn, "2 1 1", "2 1 1", "reject") == {"first": 0.0, "second": 0.0}
    assert returns(game_of("negotiation", "game.rounds=2"), *drawn, "2 0 1", "reject") == {"first": 0, "second": 0}


def test_negotiation_s_options() -> None:
    game = game_of("negotiation")
    _, [mine, theirs], _ = replay(game, [])
    assert mine.options == theirs.options and len(mine.options) == 9 and not mine.weights
    assert all(2 * a + b + c == 4 for a, b, c in (map(int, text.split()) for text in mine.options))
    waves = [["1 1 1", "0 2 2"], ["2 1 0"], ["1 0 1"]]
    first, second, last = (replay(game, waves[: n + 1])[1][0] for n in range(3))
    assert len(first.options) == 3 * 2 * 2 and "accept" not in first.options
    assert second.options == ("accept", *first.options) and last.options == ("accept", "reject")
    assert second.prompt == "negotiation, you are second\nitems 2 1 1\nmy values 0 2 2\nthey keep 2 1 0\nround 2 of 3"
    assert last.prompt.endswith("my values 1 1 1\nI keep 2 1 0\nthey keep 1 0 1\nround 3 of 3")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ("game.items=[2,2] game.total=3", "no values of"),
        ("game.items=[]", "no values of"),
        ("game.items=[2,0]", "item 2 is 0"),
        ("game.rounds=1", "rounds is 1"),
        ("game.items=[9,9,9,9,9,9]", "proposals or values"),
        ("game.items=[1,1,1,1] game.total=99", "proposals or values"),
    ],
)
def test_a_negotiation_that_cannot_be_is_told(overrides: str, told: str) -> None:
    with pytest.raises(SelfplayError, match=told):
        game_of("negotiation", *overrides.split())
