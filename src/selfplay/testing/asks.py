"""Checks that a game yields lists of valid asks, and does not change them later."""

from collections.abc import Hashable, Sequence

from selfplay.core import Ask, SelfplayError
from selfplay.players.nature import chances

SPEAKERS = ("system", "user", "assistant")


def checked_wave(name: str, roles: Sequence[str], wave: object) -> list[Ask]:
    """Return what a game yielded as a list; raise SelfplayError unless it contains only valid asks."""
    if not isinstance(wave, list | tuple) or not all(isinstance(ask, Ask) for ask in wave):
        what = type(wave).__name__ if not isinstance(wave, list | tuple) else f"{wave}"
        raise SelfplayError(f"{name} yielded {what}, which is not a list of asks; yield [Ask(...)]")
    for ask in wave:
        if ask.role not in roles:
            raise SelfplayError(f"{name} asked the role '{ask.role}', which is not in its roles; list it there")
        _check_ask(f"{name} asked '{ask.role}'", ask)
    return list(wave)


def _check_ask(prefix: str, ask: Ask) -> None:
    """Raise SelfplayError unless the ask is valid; `prefix` starts the message."""
    for field in ("messages", "options", "weights"):
        value = getattr(ask, field)
        if not isinstance(value, tuple):
            raise SelfplayError(f"{prefix} with the {field} {value!r}, not in a tuple; a tuple of one element is (x,)")
    for message in ask.messages:
        if not isinstance(message, dict) or message.get("role") not in SPEAKERS or not is_text(message.get("content")):
            raise SelfplayError(
                f"{prefix} with the message {message!r}; give {{'role': ..., 'content': <text>}} with one of the roles "
                f"{', '.join(SPEAKERS)}, or use selfplay.user(text)"
            )
    if not all(map(is_text, ask.options)) or len(set(ask.options)) < len(ask.options):
        raise SelfplayError(f"{prefix} with the options {ask.options}; give distinct texts")
    if not isinstance(ask.group, Hashable):
        raise SelfplayError(
            f"{prefix} with the group {ask.group!r}, which cannot be hashed; give a number, text or tuple"
        )
    _check_weights(prefix, ask)


def _check_weights(prefix: str, ask: Ask) -> None:
    """Raise SelfplayError unless there are no weights, or the role is chance with one weight per option."""
    if not ask.weights:
        return
    if ask.role != "chance":
        raise SelfplayError(f"{prefix} with the weights {ask.weights}; leave them out, since only 'chance' has weights")
    try:
        chances(ask)
    except (SelfplayError, TypeError) as error:
        raise SelfplayError(
            f"{prefix} with {len(ask.options)} options and the weights {ask.weights}; give one non-negative number "
            "per option, not all 0"
        ) from error


def check_unchanged(name: str, asked: Sequence[Ask], shown: Sequence[object]) -> None:
    """Raise SelfplayError if the game has changed the messages of an earlier ask."""
    for ask, before in zip(asked, shown, strict=True):
        if contents(ask) != before:
            raise SelfplayError(
                f"{name} changed the messages of an ask of '{ask.role}' after yielding it; make new messages for each "
                "ask"
            )


def contents(ask: Ask) -> object:
    return tuple(tuple(sorted(message.items())) for message in ask.messages)


def is_text(value: object) -> bool:
    """Whether the value is a string, regardless of its type hint."""
    return isinstance(value, str)
