"""Sample the episodes of a step in threads: none waits for the replies of another."""

from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock

from selfplay.clients.transport import side_by_side
from selfplay.core import Ask, Episode, Game, Player, Reply, SelfplayError, at_least
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.options import Count
from selfplay.parallel import current, merged
from selfplay.rollout import play_here


class OneAtATime(Player):
    """A player that acts for one thread at a time.

    Args:
        player: the player.
        lock: shared by all such players of a step, since they may share a model.
    """

    def __init__(self, player: Player, lock: Lock) -> None:
        self.player, self.lock = player, lock

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        with self.lock:
            return self.player.act(asks)


def threaded(
    game: Game, opponent: Matchmaker, step: int, episodes: int, key: str, threads: Count = 16
) -> list[Episode]:
    """Sample `episodes` episodes, each in a thread of its own; they are those of `rollout=sampled`.

    With `rollout=sampled` all episodes wait for the longest reply of each wave. In threads an episode goes on as soon
    as its own replies are there, which pays where a server samples them (`engine=server`). Players that are not
    `concurrent` act for one thread at a time.

    Args:
        threads: maximum number of episodes that are played at a time.

    Raises:
        SelfplayError: a player is changed by acting, so its replies would depend on which thread comes first.
    """
    at_least(1, **{"rollout.threads": threads})
    for name, player in opponent.players.items():
        if player.stateful:
            raise SelfplayError(
                f"the player '{name}' ({type(player).__name__}) is changed by acting, so episodes cannot be played in "
                "threads; take rollout=sampled"
            )
    lock, seats, processes = Lock(), opponent.seats(step), current()
    players = {n: p if p.concurrent else OneAtATime(p, lock) for n, p in opponent.players.items()}

    def mine() -> list[Episode]:
        indices = processes.share(range(episodes))
        calls: list[Callable[[], list[Episode]]] = [
            partial(play_here, game, players, [index], key, seats) for index in indices
        ]
        played: dict[int, Episode] = {}
        for place, found in side_by_side(calls, threads):
            if isinstance(found, Exception):
                raise found
            played[place] = found[0]
        return [played[place] for place in range(len(indices))]

    with processes.whole():
        return merged(processes.collect(mine))
