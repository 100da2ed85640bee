"""selfplay play: each kind of game in this process with typed lines, and two sessions at a pseudo-terminal."""

import re
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import cli
import pytest
from terminals import terminal

from selfplay.building import make
from selfplay.composing import compose
from selfplay.core import Ask, SelfplayError, user
from selfplay.games.kuhn import CARDS, Kuhn
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.replay import Replayed
from selfplay.runs import load
from selfplay.runs.reading import records
from selfplay.terminal import play as command

TABLE = ("game=kuhn", "player=tabular", "regularizer=none", "eval=none", "steps=2", "episodes=4", "checkpoint.keep=0")
Played = Callable[..., cli.Ended]


@pytest.fixture(scope="session")
def kuhn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Kuhn poker with a table, and its two checkpoints."""
    return cli.finished(tmp_path_factory.mktemp("play") / "kuhn", *TABLE)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Played:
    """`selfplay play ARGS` in this process and an empty folder; `typed` lines come from stdin."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path, typed: str = "") -> cli.Ended:
        monkeypatch.setattr("sys.stdin", StringIO(typed))
        code = 0
        try:
            command.main(list(map(str, args)))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return cli.Ended(code, *capsys.readouterr())

    return run


def turns(folder: Path = Path("plays"), name: str = "episodes.jsonl") -> list[dict[str, object]]:
    """The turns of the only transcript of this name."""
    [file] = folder.rglob(name)
    return records(file)


def test_kuhn_with_a_table(kuhn: Path, played: Played) -> None:
    """Cards are hidden until the end; the payoffs are those of the rules."""
    ended = played(
        kuhn, "--role", "second", "--seed", "3", "--episodes", "3", typed="?\nfold\nbet\n1\nPASS\nbet\nbet\n"
    )
    assert ended.code == 0 and ended.err == ""
    said = turns()
    assert {turn["episode"] for turn in said} == {0, 1, 2} and {turn["step"] for turn in said} == {0}
    games = re.split(r"end of game \d", ended.out)
    for episode, shown in enumerate(games[:3]):
        deal, *bets = [turn for turn in said if turn["episode"] == episode]
        first, second = str(deal["reply"]).split()
        mine = shown.rpartition("payoff:")[2]
        assert f"card {second}" in mine and not re.search(rf"\b{first}\b", mine.replace("second", ""))
        assert f"{first} {second}" in games[episode + 1]
        higher = 1 if CARDS.index(first) > CARDS.index(second) else -1
        moves = [turn["reply"] for turn in bets]
        expected = {
            ("pass", "pass"): higher,
            ("bet", "pass"): 1,
            ("bet", "bet"): 2 * higher,
            ("pass", "bet", "pass"): -1,
            ("pass", "bet", "bet"): 2 * higher,
        }[tuple(map(str, moves))]
        assert [turn["payoff"] for turn in bets] == [expected, -expected, expected][: len(bets)]
        assert [turn["player"] for turn in bets] == ["learner", "human", "learner"][: len(bets)]
        assert f"payoff: first (learner) {expected:+d}, second (you) {-expected:+d}" in games[episode + 1]
    assert "'fold' is none of the options" in ended.out and "after 3 games: learner" in ended.out


def test_the_probabilities_are_those_of_the_checkpoint(kuhn: Path, played: Played) -> None:
    """The table learns between its two checkpoints; each says its own, and the run the last one's."""
    shown = {}
    for step in (1, 2):
        folder = kuhn / "checkpoints" / f"step-{step:06d}"
        shown[step] = advised(played, folder, "first", folder)
    assert shown[1] != shown[2] == advised(played, kuhn, "first", kuhn / "checkpoints" / "step-000002")


def test_each_learner_plays_its_own_roles(tmp_path: Path, played: Played) -> None:
    """The second learner is loaded from its own checkpoint; whoever takes its role sees its probabilities."""
    table = ("game=kuhn", "player=tabular", "regularizer=none", "eval=none", "steps=2", "episodes=8")
    run = cli.finished(tmp_path / "two", *table, "+learners.other={}", "seats.second=other")
    advised(played, run, "second", run / "checkpoints" / "step-000002" / "learners" / "other")
    assert {(turn["role"], turn["player"]) for turn in turns()} >= {("first", "learner"), ("second", "human")}
    watched = played(run, "--watch", "--seed", "3", "--out", "watched")
    assert watched.code == 0
    assert {(t["role"], t["player"]) for t in turns(Path("watched"))} >= {("first", "learner"), ("second", "other")}


def advised(played: Played, source: Path, role: str, table: Path) -> list[tuple[str, ...]]:
    """The probabilities that ? shows in six games; they are those of the table in a folder, and not all uniform."""
    policy = make(compose(game="kuhn", player="tabular").player, "player")
    policy.load(table)
    shutil.rmtree("plays", ignore_errors=True)
    out = played(source, "--role", role, "--seed", "3", "--episodes", "6", typed="?\nbet\n" * 6).out
    seen = re.findall(r"user +(kuhn poker)\s+(card .)\s+(bets: .*?)\s*\n", out)
    asked = [Ask(role, user("\n".join(lines)), ("pass", "bet")) for lines in seen]
    shown = re.findall(r"(pass|bet) +([\d.]+)% ", out)
    expected = []
    for ask in asked:
        likely = zip(policy.probabilities([ask])[0], ask.options, strict=True)
        expected += [(option, f"{100 * share:.1f}") for share, option in sorted(likely, key=lambda pair: -pair[0])]
    assert shown == expected and len(shown) == 12 and any(share != "50.0" for _, share in shown)
    return shown


def test_the_transcript_is_that_of_a_run(kuhn: Path, played: Played) -> None:
    """The keys of a run's lines; its episodes can be replayed, and read as a table."""
    played(kuhn, "--role", "first", "--out", "here", "--seed", "1", "--episodes", "2", typed="bet\nbet\nbet\n")
    assert [list(turn) for turn in turns(Path("here"))] == [list(turn) for turn in records(kuhn / "episodes.jsonl")][
        : len(turns(Path("here")))
    ]
    seats = {"chance": "logged", "first": "logged", "second": "logged"}
    episodes = Replayed("here")(Kuhn(), Matchmaker(seats, {}), 1, 2, "0")
    paid = {(e.index, t.ask.role): (e.returns or {}).get(t.ask.role, 0.0) for e in episodes for t in e.turns}
    assert paid == {(turn["episode"], turn["role"]): turn["payoff"] for turn in turns(Path("here"))}
    assert len(load(kuhn).turns) > 0
    again = played(kuhn, "--out", "here")
    assert again.code == 1 and "here/episodes.jsonl already exists; choose another folder with --out" in again.err


def test_no_terminal_reads_lines_until_they_end(kuhn: Path, played: Played) -> None:
    """The role is asked for, an unfinished game is kept apart, and nothing else is written."""
    ended = played(kuhn, "--seed", "3", typed="third\n2\nbet\ny\n")
    assert ended.code == 0 and "'third' is none of the roles" in ended.out and "again? [y/n] y" in ended.out
    assert {turn["episode"] for turn in turns()} == {0}
    left = turns(name="unfinished.jsonl")
    assert left and {(turn["episode"], turn["payoff"]) for turn in left} == {(1, None)}
    assert ended.out.count("transcript: plays/") == 2 and {path.name for path in Path().iterdir()} == {"plays"}
    assert played(kuhn, typed="").code == 0, "nothing typed at all"


@pytest.mark.parametrize("entry", ["n", "no", "/quit"])
def test_enough(kuhn: Path, played: Played, entry: str) -> None:
    ended = played(kuhn, "--role", "second", "--seed", "3", typed=f"bet\nmaybe\n{entry}\n")
    assert ended.code == 0 and "type y for another game, or n" in ended.out and "end of game 2" not in ended.out


def test_two_checkpoints(kuhn: Path, played: Played) -> None:
    """Without roles they take turns; every turn is shown, with its probability."""
    first, second = (kuhn / "checkpoints" / f"step-{step:06d}" for step in (1, 2))
    ended = played(first, "--watch", "--against", second, "--episodes", "2", "--seed", "0")
    assert ended.code == 0, ended.err
    seats = {(turn["episode"], turn["role"]): turn["player"] for turn in turns()}
    assert (seats[0, "first"], seats[0, "second"]) == ("learner", "opponent")
    assert (seats[1, "first"], seats[1, "second"]) == ("opponent", "learner")
    assert len(re.findall(r"> (?:pass|bet) \(\d+%\)", ended.out)) == len(turns()) - 2
    assert {turn["player"] for turn in turns() if turn["role"] == "chance"} == {"nature"}
    played(first, "--watch", "--against", second, "--role", "second", "--out", "fixed", "--seed", "0")
    assert {(t["role"], t["player"]) for t in turns(Path("fixed"))} >= {("first", "opponent"), ("second", "learner")}
    itself = played(first, "--watch", "--seed", "0")
    assert itself.code == 0 and "first (learner)" in itself.out and "again?" not in itself.out


SMALL = ("--seed", "4", "--episodes", "1")
GAMES = {
    "negotiation": (("--role", "first"), "?\n2 1 0\nreject\n", ("my values", "12  2 1 1", "paid")),
    "taboo": (("--role", "defender"), "?\nhm\nI know the word! It is boat\n", ("the model would reply", "chance")),
    "debate": (("--role", "first"), "5\n6\n", ("What does the other debater say?", "reward", "truth")),
    "openspiel": (("--role", "player_0"), "?\nCall\nCall\nCall\nCall\nCall\n", ("Private:", "1 Call", "Raise")),
    "textarena": (("--role", "player_0"), "?\n[0 1]\n" + "[1 1]\n" * 9, ("Current Pile", "[pile quantity]")),
    "kuhn": (("--role", "first"), "?\npass\npass\n", ("card", "1 pass   2 bet")),
}


@pytest.mark.parametrize("game", GAMES)
def test_a_language_model_plays_any_game(game: str, played: Played) -> None:
    args, typed, seen = GAMES[game]
    if game in ("openspiel", "textarena"):
        pytest.importorskip("pyspiel" if game == "openspiel" else "textarena")
    ended = played("asset:tiny", f"game={game}", *args, *SMALL, typed=typed)
    assert ended.code == 0, ended.err
    assert all(text in ended.out for text in (*seen, "end of game 1", "payoff: ", "(you)"))
    human = [turn for turn in turns() if turn["player"] == "human"]
    assert human and {turn["role"] for turn in human} == {args[1]} and human[0]["reply"] in typed
    assert all(isinstance(turn["payoff"], float) for turn in turns())


def test_a_person_asks_the_solver(played: Played) -> None:
    """LSP: the G answers, their scores, and what each is paid."""
    ended = played("asset:tiny", "game.answers=3", "reward=verifier", "game=lsp", *SMALL, typed="1\n3 + 4?\n")
    assert ended.code == 0, ended.err
    challenger, *answers = turns()
    assert (challenger["reply"], challenger["player"], len(answers)) == ("3 + 4?", "human", 3)
    for answer in answers:
        scores = answer["scores"]
        assert isinstance(scores, dict) and scores["reward"] in (0.0, 1.0)
        assert answer["payoff"] == pytest.approx(scores["reward"] + scores["quality"])
    header = next(line.split() for line in ended.out.splitlines() if "reply" in line and "paid" in line)
    assert {"reward", "quality"} <= set(header)


def test_a_person_answers_for_the_solver(played: Played) -> None:
    ended = played("asset:tiny", "--role", "solver", "game.answers=4", *SMALL, typed="5\n7\n\n")
    assert ended.code == 0, ended.err
    _, *answers = turns()
    assert [answer["reply"] for answer in answers] == ["5", "7", "7", "7"]
    assert "solver (you) x3" in re.sub(r"\s+", " ", ended.out)


def test_a_run_with_other_options(tmp_path: Path, played: Played) -> None:
    """A run of the language model plays its own game with a changed option, and another game."""
    run = cli.finished(tmp_path / "run", *cli.SMALL, "steps=1")
    ended = played(run, "game.answers=1", "--role", "challenger", *SMALL, "--out", "own", typed="1 + 1?\n")
    assert ended.code == 0 and len(turns(Path("own"))) == 2, ended.err
    ended = played(run, "game=kuhn", "player.temperature=0.5", *SMALL, "--out", "other", typed="1\n1\n1\n")
    assert ended.code == 0 and {turn["role"] for turn in turns(Path("other"))} >= {"chance", "first"}, ended.err
    twice = {step: played(run, "--watch", "--seed", "1", "--out", step).out for step in ("a", "b")}
    assert twice["a"].replace("a/episodes", "b/episodes") == twice["b"], "the seed determines a game of models"


def test_a_game_that_cannot_be_scored_is_kept(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that does not answer pays nothing, and does not end the evening."""

    def broken(*_: object) -> None:
        raise SelfplayError("the judge does not answer; start it")

    monkeypatch.setattr("selfplay.terminal.playing.score_and_pay", broken)
    ended = played("asset:tiny", "game=dataset", "--role", "chance", *SMALL, typed="3 + 4?\n")
    assert ended.code == 0 and "payoff:" not in ended.out and "end of game 1" in ended.out
    assert "nothing is paid, since the game cannot be scored: the judge does not answer; start it" in ended.out
    kept = turns(name="unfinished.jsonl")
    assert kept[0]["reply"] == "3 + 4?" and kept[0]["player"] == "human"
    assert {turn["payoff"] for turn in kept} == {None} and not list(Path("plays").rglob("episodes.jsonl"))


def test_errors_are_one_sentence_each(kuhn: Path, tmp_path: Path, played: Played) -> None:
    empty, sweep, bare = tmp_path / "empty", tmp_path / "sweep", tmp_path / "bare"
    empty.mkdir()
    (sweep / "0").mkdir(parents=True)
    bare.mkdir()
    for folder in (sweep / "0", bare):
        (folder / "config.yaml").write_text((kuhn / "config.yaml").read_text())
    outside = tmp_path / "outside"
    outside.symlink_to(kuhn / "checkpoints" / "step-000001")
    wrong = partial(played, typed="")
    cases = {
        (kuhn, "game=negotiation"): "is a table of the states of its own game (game._target_ is selfplay.games.kuhn",
        (kuhn, "game.forfeit=3"): "is a table of the states of its own game (game.forfeit is 2.0 there and 3 here)",
        (kuhn, "--role", "third"): "--role is third, but the roles of Kuhn are chance, first, second",
        (kuhn, "seats.third=learner"): "'seats.third=learner' changes nothing in the config of",
        (kuhn, "+seats.third=learner"): "seats.third is set, but Kuhn has no such role",
        (kuhn, "steps=3"): "'steps=3' concerns training, and nothing is trained here",
        (kuhn, "player=tiny"): "'player=tiny' names another player than",
        (kuhn, "reward=rm"): "'reward=rm' chooses a part of a new set-up; name its game as well",
        (kuhn, "game.answers=3"): "'game.answers=3' changes nothing in the config of",
        (kuhn, "game="): "game",
        (kuhn, "a b=c"): "'a b=c' is not an override",
        (kuhn, "--against", kuhn, "--role", "first"): "leave out --against, or add --watch",
        (kuhn, "--against", "asset:tiny", "--role", "first", "--role", "second"): "leave out --against",
        (kuhn, "--watch", "--role", "first"): "--role with --watch says which roles SOURCE leaves to --against",
        (kuhn, "--episodes", "0"): "--episodes is 0, but it must be a whole number, at least 1",
        (kuhn, "--temperature", "-1"): "--temperature is -1.0; give 0 for greedy replies, or more",
        ("game=kuhn",): "the first argument is 'game=kuhn'; name a run, a checkpoint or a model before options",
        (empty,): "is neither a run (it has no config.yaml) nor a checkpoint nor a model (it has no weights)",
        (sweep,): f"holds 1 runs; give one of them, such as {sweep / '0'}",
        (bare,): f"{bare} has no checkpoint; give a run that has saved one",
        (outside,): "is a table outside of its run",
        (tmp_path / "none",): f"the folder {tmp_path / 'none'} does not exist",
        ("asset:huge",): "there is no embedded model 'asset:huge'",
        ("asset:tiny", "game=kuhm"): "game has no choice 'kuhm'; did you mean kuhn?",
        ("asset:tiny", "game=kuhn", "game.forfit=1"): "forfit",
        ("asset:tiny", "game=kuhn", "--watch", "--against", kuhn, "game.forfeit=1"): "is a table of the states",
    }
    for args, sentence in cases.items():
        ended = wrong(*args)
        assert ended.code == 1 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, (args, ended)
        assert sentence in ended.err, (args, ended.err)
    assert not Path("plays").exists()


def test_the_config_of_a_run_is_not_trusted(kuhn: Path, tmp_path: Path, played: Played) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    text = (kuhn / "config.yaml").read_text().replace("selfplay.games.kuhn.Kuhn", "os.system")
    (evil / "config.yaml").write_text(text)
    for args in ((evil,), (evil / "checkpoints" / "step-000001",), (kuhn, "--watch", "--against", evil)):
        if args[0] != kuhn:
            (evil / "checkpoints").mkdir(exist_ok=True)
            if not (evil / "checkpoints" / "step-000001").exists():
                (evil / "checkpoints" / "step-000001").symlink_to(kuhn / "checkpoints" / "step-000001")
        ended = played(*args)
        assert ended.code == 1 and "game calls os.system, which is not a component of selfplay" in ended.err, args


@pytest.mark.slow
def test_kuhn_at_a_terminal(kuhn: Path, tmp_path: Path) -> None:
    with terminal("play", str(kuhn), "--seed", "3", cwd=tmp_path) as screen:
        screen.until(r"role \[first\]> ")
        screen.type("2")
        screen.until("second> ")
        screen.type("?")
        assert "%" in screen.until("second> ")
        screen.type("1")
        assert "payoff: first (learner)" in screen.until(r"again\? \[y/n\] ")
        screen.type("y")
        screen.until("second> ")
        screen.press("d")
        assert screen.ended() == 0
    assert "Traceback" not in screen.seen and len(max(screen.seen.splitlines(), key=len)) <= 80
    assert turns(tmp_path / "plays") and turns(tmp_path / "plays", "unfinished.jsonl")


@pytest.mark.slow
def test_ctrl_c_in_a_conversation_of_words(tmp_path: Path) -> None:
    """Taboo with the language model: no noise on the screen, and what was played is kept."""
    with terminal("play", "asset:tiny", "game=taboo", "--role", "attacker", cwd=tmp_path) as screen:
        screen.until("attacker> ")
        screen.type("it is wet")
        screen.until("attacker> ")
        screen.press("c")
        assert screen.ended() == 130
    assert [turn["reply"] for turn in turns(tmp_path / "plays", "unfinished.jsonl")][1] == "it is wet"
    shown = screen.seen.strip().splitlines()
    assert shown[0].startswith("attacker: your turn") and shown[-2].startswith("transcript: plays/")
    assert shown[-1].startswith("the same deals again: --seed ")


@pytest.mark.slow
def test_each_kind_of_game_at_a_terminal(tmp_path: Path) -> None:
    """A person sees the messages of the first turn, types a reply, and leaves with Ctrl-C; what was played is kept."""
    lsp = (("--role", "challenger", "game.answers=2"), "?\nadd 3 and 4\n", ())
    missing = {"openspiel": "pyspiel", "textarena": "textarena"}
    with terminal(cwd=tmp_path) as screen:
        for game, (args, typed, _) in {**GAMES, "lsp": lsp}.items():
            if game in missing and find_spec(missing[game]) is None:
                continue
            reply = typed.removeprefix("?\n").splitlines()[0]
            screen.until(r"\$ ")
            screen.type(shlex.join(["play", "asset:tiny", f"game={game}", *args, "--seed", "4", "--out", game]))
            assert f"{args[1]}: your turn" in screen.until(rf"{args[1]}> ")
            screen.type(reply)
            screen.until(rf"{args[1]}> |again\? \[y/n\] ")
            screen.press("c")
            said = screen.until(r"ended with \d+\s")
            assert f"transcript: {game}" in said and "ended with 130" in said
            kept = [line for file in (tmp_path / game).glob("*.jsonl") for line in cli.lines(file)]
            assert reply in [turn["reply"] for turn in kept if turn["player"] == "human"]
    assert "Traceback" not in screen.seen
