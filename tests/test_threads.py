"""Episodes in threads are those of waves, wait for nobody, and fail as those do."""

import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from typing import Any

import cli
import pytest
from language_models import adapted, made, moved
from servers import Double, serving

from selfplay.core import Ask, Episode, Game, Play, Player, Reply, SelfplayError
from selfplay.engines.server.engine import ServerEngine
from selfplay.enumeration import sampled
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.players.language_model import LanguageModel
from selfplay.rollout import play_here
from selfplay.threads import threaded

LSP = ("eval=none", "steps=2", "episodes=5", "game.answers=3", "player.max_tokens=12")


class Talk(Game):
    """Two waves: a question of three words, and an answer."""

    roles = ("asker", "answerer")
    judged = ()

    def play(self) -> Play:
        [asked] = yield [Ask("asker", ({"role": "user", "content": "Write one question."},))]
        yield [Ask("answerer", ({"role": "user", "content": asked.text or "?"},)) for _ in range(2)]

    def payoffs(self, episode: Episode) -> list[float]:
        return [0.0] * len(episode.turns)


class Asking(Talk):
    """Each episode has a prompt of its own."""

    def play(self) -> Play:
        self.count = getattr(self, "count", 0) + 1
        yield [Ask("asker", ({"role": "user", "content": f"add {self.count} and 4"},))]


def seated(players: dict[str, Player]) -> Matchmaker:
    return Matchmaker({"asker": "one", "answerer": "two"}, players)


def trained(seed: int, max_tokens: int) -> LanguageModel:
    policy = made(max_tokens=max_tokens)
    moved(policy, seed)
    return policy


def texts(episodes: Sequence[Episode]) -> list[list[str]]:
    return [[turn.reply.text for turn in episode.turns] for episode in episodes]


@pytest.fixture
def double() -> Iterator[Double]:
    with serving(Double()) as started:
        yield started


def served(policy: LanguageModel, engine: ServerEngine) -> LanguageModel:
    policy.engine = engine
    return policy


def test_players_of_this_process_take_turns() -> None:
    table = seated({"one": made(max_tokens=10), "two": trained(1, 10)})
    waves = sampled(Talk(), table, 1, 6, "k")
    found = threaded(Talk(), table, 1, 6, "k", threads=4)
    assert texts(found) == texts(waves) and [e.index for e in found] == [e.index for e in waves]
    assert found[0].turns[0].reply.logprobs == pytest.approx(waves[0].turns[0].reply.logprobs, abs=1e-5)


class Watched:
    """A call that notes how many threads are in it at a time."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.inside, self.most = call, 0, 0

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.01)
        try:
            return self.call(*given, **named)
        finally:
            self.inside -= 1


class Echo(Player):
    """Answers at once; two of them may share something."""

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply("yes") for _ in asks]


@pytest.mark.parametrize("concurrent", [False, True])
def test_only_players_that_can_act_in_several_threads(concurrent: bool) -> None:
    one, two = Echo(), Echo()
    one.act = two.act = watched = Watched(one.act)  # type: ignore[method-assign]
    one.concurrent = two.concurrent = concurrent
    threaded(Talk(), seated({"one": one, "two": two}), 1, 6, "k", threads=6)
    assert (watched.most > 1) == concurrent


def test_a_tokenizer_serves_one_thread_at_a_time(double: Double) -> None:
    policy = served(made(max_tokens=2), ServerEngine([double.url], seconds=30))
    chat = policy.texts.chat
    chat.ids = watched = Watched(chat.ids)  # type: ignore[method-assign]
    policy.texts._prompts.clear()
    threaded(Asking(), seated({"one": policy, "two": policy}), 1, 6, "k", threads=6)
    assert watched.most == 1


def test_models_of_one_server_take_turns_and_adapters_are_kept_while_they_are_used(double: Double) -> None:
    """Two whole models share the server's weights; four adapters share two places."""
    engine = ServerEngine([double.url], seconds=60)
    table = seated({"one": served(trained(1, 6), engine), "two": served(trained(2, 6), engine)})
    assert texts(threaded(Talk(), table, 1, 6, "k", threads=6)) == texts(sampled(Talk(), table, 1, 6, "k"))
    assert double.calls.count("/update_weights") >= 3


def test_more_adapters_than_places(double: Double) -> None:
    engine = ServerEngine([double.url], seconds=60, adapters=2)
    learner = adapted()
    frozen = []
    for step in range(1, 4):
        moved(learner, step)
        frozen.append(learner.snapshot())
    for policy in (learner, *frozen):
        policy.max_tokens, policy.engine = 6, engine

    class Four(Matchmaker):
        def seats(self, step: int):  # type: ignore[no-untyped-def, override]
            return lambda index: {"asker": str(index % 4), "answerer": str((index + 1) % 4)}

    table = Four({}, {str(i): policy for i, policy in enumerate((learner, *frozen))})
    found = threaded(Talk(), table, 1, 8, "k", threads=8)
    assert len(double.adapters) == 2
    assert texts(found) == texts(sampled(Talk(), table, 1, 8, "k"))


def test_an_episode_goes_on_while_another_waits(double: Double) -> None:
    """The first question of episode 0 is held back until another episode has been asked for its answers."""
    answered = Event()

    def holds_back(_: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
        if route == "/inference/v1/generate":
            generated = double.calls.count(route)
            if generated == 1:
                assert answered.wait(20), "every episode waits for the first"
            elif generated > 4:  # four questions, then answers
                answered.set()
        return False

    double.misbehaves = holds_back
    policy = served(made(max_tokens=4), ServerEngine([double.url], seconds=30))
    table = seated({"one": policy, "two": policy})
    found = threaded(Talk(), table, 1, 4, "k", threads=4)
    assert answered.is_set() and all(len(episode.turns) == 3 for episode in found)


def test_no_more_requests_at_a_time_than_allowed(double: Double) -> None:
    running, most = [0], [0]

    def counts(_: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
        if route == "/inference/v1/generate":
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.05)
            running[0] -= 1
        return False

    double.misbehaves = counts
    policy = served(made(max_tokens=2), ServerEngine([double.url], seconds=30, requests=3))
    threaded(Talk(), seated({"one": policy, "two": policy}), 1, 8, "k", threads=8)
    assert 1 < most[0] <= 3


def test_a_run_in_threads_is_the_run_in_waves(double: Double, tmp_path: Path) -> None:
    waves = cli.finished(tmp_path / "waves", *LSP)
    on = ("engine=server", f"engine.urls=[{double.url}]", "engine.seconds=60", "rollout=threads")
    run = cli.finished(tmp_path / "threads", *LSP, *on)
    assert [t["reply"] for t in cli.lines(run / "episodes.jsonl")] == [
        t["reply"] for t in cli.lines(waves / "episodes.jsonl")
    ]


def test_a_server_that_fails_ends_the_run(double: Double, tmp_path: Path) -> None:
    def refuses(_: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
        if route == "/inference/v1/generate" and double.calls.count(route) > 7:
            handler.reply(500, {"error": {"message": "no memory"}})  # type: ignore[attr-defined]
            return True
        return False

    double.misbehaves = refuses
    on = ("engine=server", f"engine.urls=[{double.url}]", "engine.seconds=60", "rollout=threads")
    ended = cli.run(*LSP, *on, f"hydra.run.dir={tmp_path}")
    assert ended.code == 1 and "(status 500: no memory)" in ended.err and "Traceback" not in ended.err


def test_what_cannot_be_played_in_threads_is_told() -> None:
    class Counting(Player):
        stateful = True

        def act(self, asks: Sequence[Ask]) -> list[Reply]:
            return [Reply("a") for _ in asks]

    table = seated({"one": Counting(), "two": Counting()})
    with pytest.raises(SelfplayError, match=r"the player 'one' \(Counting\) is changed by acting"):
        threaded(Talk(), table, 1, 2, "k")
    with pytest.raises(SelfplayError, match=r"rollout\.threads is 0"):
        threaded(Talk(), table, 1, 2, "k", threads=0)
    assert len(play_here(Talk(), table.players, [0], "k", table.seats(1))[0].turns) == 3
