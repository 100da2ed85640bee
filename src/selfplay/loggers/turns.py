"""A bounded sample of a step's turns, as the rows of a table."""

from collections.abc import Mapping, Sequence

from selfplay.core import Episode, Turn

LONGEST = 2000  # characters of a prompt or a reply
Row = Mapping[str, str | int | float | None]


def sample(step: int, episodes: Sequence[Episode], most: int) -> list[Row]:
    """Turns of every role but chance, evenly spaced from its lowest to its highest payoff; equal turns count once.

    Args:
        step: the step of the episodes.
        episodes: with scores and payoffs.
        most: number of rows, divided among the roles; at least one per role.

    Returns:
        Rows with the same columns: step, role, player, prompt, reply, payoff, and score/<name> for each score.
    """
    by_role: dict[str, dict[tuple[str, str], Turn]] = {}
    for episode in episodes:
        for turn in episode.turns:
            if turn.ask.role != "chance":
                by_role.setdefault(turn.ask.role, {}).setdefault((turn.ask.prompt, turn.reply.text), turn)
    share = max(most // max(len(by_role), 1), 1)
    chosen = [turn for turns in by_role.values() for turn in _spaced(list(turns.values()), share)]
    names = dict.fromkeys(name for turn in chosen for name in turn.scores)
    return [
        {
            "step": step,
            "role": turn.ask.role,
            "player": turn.player,
            "prompt": _shown(turn.ask.prompt),
            "reply": _shown(turn.reply.text),
            "payoff": turn.payoff,
            **{f"score/{name}": turn.scores.get(name) for name in names},
        }
        for turn in chosen
    ]


def columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str | int | float | None]]]:
    """The names of the columns, and the values row by row."""
    return list(rows[0]), [list(row.values()) for row in rows]


def _spaced(turns: list[Turn], count: int) -> list[Turn]:
    """`count` of the turns by payoff, evenly spaced, the first and the last included; of one, only the last."""
    ordered = sorted(turns, key=lambda turn: turn.payoff)
    if len(ordered) <= count:
        return ordered
    return [ordered[round((len(ordered) - 1) * i / (count - 1)) if count > 1 else -1] for i in range(count)]


def _shown(text: str) -> str:
    """The text as UTF-8 can encode it, cut at `LONGEST` characters."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return whole if len(whole) <= LONGEST else whole[: LONGEST - 1] + "…"
