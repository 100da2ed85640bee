"""A person at the terminal: what is shown, and what each entry does."""

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

import cli
import pytest
from rich.console import Console

from selfplay.core import Ask, Player, Reply, SelfplayError, user
from selfplay.players.human import Human, Left
from selfplay.screen import Screen, labels, option_meant, printable

MOVE = Ask("first", user("card K"), ("pass", "bet"), key="0")


class Typed(Screen):
    """A screen without a terminal: `lines` are typed, `shown` is what was printed."""

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__()
        self.lines, self.file = iter(lines), StringIO()
        self.console = Console(file=self.file, width=80)

    def read(self, prompt: str) -> str:
        line = next(self.lines, None)
        if line is None:
            raise EOFError
        return line

    @property
    def shown(self) -> str:
        return self.file.getvalue()


class Advisor(Player):
    """Bets in three cases of four, and has one reply to free text."""

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply("forty-two") for _ in asks]

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        return [(0.25, 0.75) for _ in asks]


class Mute(Player):
    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        raise SelfplayError("the prompt is too long; shorten it")


def replied(asks: Sequence[Ask], *lines: str, advisor: Player | None = None) -> tuple[list[str], str]:
    """The texts of the replies, and what was shown."""
    screen = Typed(lines)
    texts = [reply.text for reply in Human(advisor, screen).act(asks)]
    assert next(screen.lines, None) is None, "a line was not read"
    return texts, screen.shown


@pytest.mark.parametrize(
    ("entry", "options", "meant"),
    [
        ("bet", ("pass", "bet"), "bet"),
        ("BET", ("pass", "bet"), "bet"),
        ("2", ("pass", "bet"), "bet"),
        ("#2", ("pass", "bet"), "bet"),
        ("0", ("pass", "bet"), None),
        ("3", ("pass", "bet"), None),
        ("be", ("pass", "bet"), None),
        ("", ("pass", "bet"), None),
        ("a", ("A", "a"), "a"),
        ("1", ("3", "2", "1"), "1"),  # the option, not the first one
        ("#1", ("3", "2", "1"), "3"),
        ("2 1 0", ("0 0 0", "2 1 0"), "2 1 0"),
        ("2", ("0 0 0", "2 1 0"), "2 1 0"),
        ("x", ("X", "x "), None),  # two that differ in more than their case
        ("²", ("pass", "bet"), None),
    ],
)
def test_an_option_is_meant_by_its_text_or_its_number(entry: str, options: tuple[str, ...], meant: str | None) -> None:
    assert option_meant(entry, options) == meant


def test_numbers_get_a_sign_where_options_are_numbers() -> None:
    assert labels(("pass", "bet")) == ["1", "2"] and labels(("7", "pass")) == ["#1", "#2"]


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    assert printable("a\x1b[2Jb\x07\r\n\tc\x9b1m\ud800") == "a?[2Jb?\n\tc?1m?"


def test_a_bad_entry_asks_again_in_one_sentence() -> None:
    texts, shown = replied([MOVE], "fold", "", "/nonsense x", "bet")
    assert texts == ["bet"]
    assert "first: your turn" in shown and "user  card K" in shown and "1 pass   2 bet" in shown
    assert "'fold' is none of the options; type one of them, or its number (1 to 2)\n" in shown
    assert "/nonsense is no command; see /help, or begin with // to reply with it\n" in shown


def test_probabilities_are_shown_on_request_only() -> None:
    assert "%" not in replied([MOVE], "1", advisor=Advisor())[1]
    for request in ("?", "/probs"):
        texts, shown = replied([MOVE], request, "1", advisor=Advisor())
        rows = [line.split() for line in shown.splitlines() if "%" in line]
        assert texts == ["pass"] and rows == [["2", "bet", "75.0%", "#" * 15], ["1", "pass", "25.0%", "#" * 5]]
    assert "there is no model to ask" in replied([MOVE], "?", "1")[1]
    assert "the model cannot say: Mute gives no probabilities" in replied([MOVE], "?", "1", advisor=Mute())[1]


def test_free_text_and_what_the_model_would_reply() -> None:
    question = Ask("solver", user("6 times 7?"))
    texts, shown = replied([question], "?", "", "//slash", advisor=Advisor())
    assert texts == ["/slash"] and "the model would reply: forty-two" in shown
    assert "a reply cannot be empty" in shown
    assert "the model cannot say: the prompt is too long" in replied([question], "?", "x", advisor=Mute())[1]


def test_alternatives_are_answered_once_or_one_by_one() -> None:
    """LSP asks for G answers to one question; another question in the same call is another one."""
    asks = [Ask("solver", user("1?"), group=0, key=str(i)) for i in range(4)]
    asks += [Ask("solver", user("2?"), group=1, key=str(i)) for i in (4, 5)]
    assert replied(asks, "a", "", "b", "")[0] == ["a"] * 4 + ["b"] * 2
    texts, shown = replied(asks, "a", "c", "", "b", "d")
    assert texts == ["a", "c", "c", "c", "b", "d"]
    assert "3 more to the same messages" in shown and "2 more to the same messages" in shown
    ungrouped = [Ask("first", user("1?"), key=str(i)) for i in (0, 1)]  # two episodes, not alternatives
    assert replied(ungrouped, "a", "b")[0] == ["a", "b"]


def test_what_was_shown_is_not_shown_again() -> None:
    talk = user("begin")
    more = (*talk, {"role": "assistant", "content": "mine"}, *user("yours"))
    screen = Typed(["mine", "/all", "x", "y"])
    human = Human(screen=screen)
    human.act([Ask("first", talk)])
    before = len(screen.shown)
    human.act([Ask("first", more)])
    second = screen.shown[before:]
    assert second.index("(what was shown before is left out") < second.index("mine") < second.index("begin")
    assert second.count("begin") == 1 and second.count("yours") == 2  # by /all
    before = len(screen.shown)
    human.act([Ask("first", user("begin anew"))])
    assert "begin anew" in screen.shown[before:], "another message that begins alike is not cut"


def test_a_text_that_grew_shows_its_end() -> None:
    screen = Typed(["x", "y", "z"])
    human = Human(screen=screen)
    human.act([Ask("first", user("board 1"))])
    human.act([Ask("first", user("board 1\nboard 2"))])
    assert screen.shown.count("board 1") == 1 and screen.shown.count("board 2") == 1
    human.act([Ask("second", user("board 1\nboard 2"))])
    assert screen.shown.count("board 1") == 2, "another role has seen nothing"


@pytest.mark.parametrize("lines", [(), ("/quit",), ("fold", "/quit")])
def test_leaving(lines: tuple[str, ...]) -> None:
    with pytest.raises(Left):
        Human(screen=Typed(lines)).act([MOVE])
    assert issubclass(Left, KeyboardInterrupt)  # so that a run is interrupted, with its checkpoint


def test_a_config_can_seat_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seat = ("+players.me._target_=selfplay.players.human.Human", "seats.second=me")
    run = ("game=kuhn", "player=tabular", "regularizer=none", "eval=none", "episodes=2", *seat)
    monkeypatch.setattr("sys.stdin", StringIO("1\n" * 9))
    folder = cli.finished(tmp_path / "run", *run, "steps=1")
    turns = [line for line in cli.lines(folder / "episodes.jsonl") if line["player"] == "me"]
    assert {(turn["role"], turn["reply"]) for turn in turns} == {("second", "pass")} and len(turns) >= 2
    monkeypatch.setattr("sys.stdin", StringIO("/quit\n"))
    left = cli.run(*run, "steps=1", f"hydra.run.dir={tmp_path / 'left'}")
    assert left.code == 130 and cli.summary(tmp_path / "left")["status"] == "interrupted"
