"""A game of two roles that have nothing to do with each other."""

from selfplay.core import Ask, Episode, Game, Play, user


class Apart(Game):
    """Two games side by side: each role names a number of its own, and is paid for it alone."""

    roles = ("left", "right")

    def play(self) -> Play:
        asks = [Ask(role, user(f"what is {number}+4?"), group=0) for role, number in (("left", 3), ("right", 2))]
        yield [asks[0], asks[1]] * 2
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        return [float(len(turn.reply.text)) + 10.0 * (turn.reply.text[:1] in "67") for turn in episode.turns]


def silent(question: str) -> str:
    """The other side, which says nothing that matters."""
    return "9"
