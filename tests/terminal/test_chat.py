"""selfplay chat: a conversation with typed lines in this process, and one at a pseudo-terminal."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import cli
import pytest
from terminals import terminal

from selfplay.core import Ask, Player, Reply, SelfplayError
from selfplay.players.human import Left
from selfplay.runs.reading import records
from selfplay.screen import Screen
from selfplay.terminal import chat as command
from selfplay.terminal.conversation import Conversation
from selfplay.terminal.transcript import Transcript


class Parrot(Player):
    """Repeats the last message, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        self.asks += asks
        if asks[0].prompt == "long":
            raise SelfplayError("the prompt is too long; shorten it")
        return [Reply(f"{ask.prompt}!") for ask in asks]


def held(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str, system: str | None = None) -> list[Ask]:
    monkeypatch.setattr("sys.stdin", StringIO("".join(f"{line}\n" for line in lines)))
    parrot = Parrot()
    with pytest.raises(Left):
        Conversation(Screen(), parrot, system, "7", Transcript(folder)).hold("help")
    return parrot.asks


def contents(ask: Ask) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in ask.messages]


def test_a_conversation_remembers_until_it_is_reset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = ("a", "b", "/reset", "/reset", "", "//c", "/what", "/help", "/quit", "never")
    first, second, third = held(monkeypatch, tmp_path / "talk", *lines, system="be brief")
    begin = ("system", "be brief")
    assert contents(first) == [begin, ("user", "a")]
    assert contents(second) == [begin, ("user", "a"), ("assistant", "a!"), ("user", "b")]
    assert contents(third) == [begin, ("user", "/c")]
    assert len({ask.key for ask in (first, second, third)}) == 3
    kept = [(turn["episode"], turn["prompt"], turn["reply"]) for turn in records(tmp_path / "talk" / "episodes.jsonl")]
    assert kept == [(0, "a", "a!"), (0, "b", "b!"), (1, "/c", "/c!")]


def test_a_message_that_the_model_cannot_read_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, asked = held(monkeypatch, tmp_path / "talk", "long", "a")
    assert contents(asked) == [("user", "a")]
    assert "the prompt is too long; shorten it (/reset begins a new conversation)" in capsys.readouterr().out


def typed(monkeypatch: pytest.MonkeyPatch, text: str, *args: str) -> int:
    monkeypatch.setattr("sys.stdin", StringIO(text))
    try:
        command.main(args)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def test_the_embedded_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Greedy replies do not depend on the seed; nothing is written unless asked."""
    monkeypatch.chdir(tmp_path)
    said = []
    for seed in ("1", "2"):
        assert typed(monkeypatch, "sort cab?\n", "asset:tiny", "--temperature", "0", "--seed", seed) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "you> sort cab?\n" in said[0] and list(tmp_path.iterdir()) == []


def test_errors_are_one_sentence_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ("game=kuhn", "player=tabular", "regularizer=none", "eval=none", "steps=1", "episodes=2")
    run = str(cli.finished(tmp_path / "run", *table))
    capsys.readouterr()
    cases = {
        (run,): f"{run} is a table, which has no words; play its game with: selfplay play {run}",
        (str(tmp_path),): "holds 1 runs; give one of them",
        ("asset:tiny", "--temperature", "-1"): "--temperature is -1.0",
        ("asset:tiny", "--max-tokens", "0"): "--max-tokens is 0, but it must be a whole number, at least 1",
    }
    for args, sentence in cases.items():
        assert typed(monkeypatch, "", *args) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and sentence in err


@pytest.mark.slow
def test_at_a_terminal(tmp_path: Path) -> None:
    with terminal("chat", "asset:tiny", "--temperature", "0", cwd=tmp_path) as screen:
        screen.until("you> ")
        screen.type("3 + 4?")
        screen.until("you> ")
        screen.press("c")
        assert screen.ended() == 130
    assert screen.seen.strip().splitlines()[0] == "asset:tiny: type a message, or /help" and not list(
        tmp_path.iterdir()
    )
