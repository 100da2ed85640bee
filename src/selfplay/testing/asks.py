"""Whether what a game yields is a list of asks that can be answered, and stays as it was asked."""

from collections.abc import Hashable, Sequence

from selfplay.core import Ask, SelfplayError
from selfplay.players.nature import chances

SPEAKERS = ("system", "user", "assistant")


def checked_wave(name: str, roles: Sequence[str], wave: object) -> list[Ask]:
    """What a game yielded, if it is a list of asks that can be answered."""
    if not isinstance(wave, list | tuple) or not all(isinstance(ask, Ask) for ask in wave):
        what = type(wave).__name__ if not isinstance(wave, list | tuple) else f"{wave}"
        raise SelfplayError(f"{name} yielded {what} where a list of asks belongs; yield [Ask(...)]")
    for ask in wave:
        if ask.role not in roles:
            raise SelfplayError(f"{name} asked the role '{ask.role}', which is not in its roles; list it there")
        _check_ask(f"{name} asked '{ask.role}'", ask)
    return list(wave)


def _check_ask(told: str, ask: Ask) -> None:
    """Raise SelfplayError unless the ask is what it should be; `told` begins the sentence."""
    for field in ("messages", "options", "weights"):
        value = getattr(ask, field)
        if not isinstance(value, tuple):
            raise SelfplayError(f"{told} with {field} that are no tuple but {value!r}; a tuple of one is (x,)")
    for message in ask.messages:
        if not isinstance(message, dict) or message.get("role") not in SPEAKERS or not is_text(message.get("content")):
            raise SelfplayError(
                f"{told} with the message {message!r}; give {{'role': ..., 'content': <text>}} with one of the roles "
                f"{', '.join(SPEAKERS)}, or use selfplay.user(text)"
            )
    if not all(map(is_text, ask.options)) or len(set(ask.options)) < len(ask.options):
        raise SelfplayError(f"{told} with the options {ask.options}; give texts, each of them once")
    if not isinstance(ask.group, Hashable):
        raise SelfplayError(
            f"{told} with the group {ask.group!r}, which cannot be hashed; give a number, text or tuple"
        )
    _check_weights(told, ask)


def _check_weights(told: str, ask: Ask) -> None:
    """Raise SelfplayError unless weights are chance's, one an option."""
    if not ask.weights:
        return
    if ask.role != "chance":
        raise SelfplayError(f"{told} with the weights {ask.weights}; leave them out, they are for 'chance' alone")
    try:
        chances(ask)
    except (SelfplayError, TypeError) as error:
        raise SelfplayError(
            f"{told} with {len(ask.options)} options and the weights {ask.weights}; give one number an option, none "
            "below 0 and not all 0"
        ) from error


def check_unchanged(name: str, asked: Sequence[Ask], shown: Sequence[object]) -> None:
    """Raise SelfplayError where the game has changed an ask that it made earlier."""
    for ask, before in zip(asked, shown, strict=True):
        if contents(ask) != before:
            raise SelfplayError(
                f"{name} changed the messages of an ask of '{ask.role}' after it had been asked; make new messages for "
                "each ask"
            )


def contents(ask: Ask) -> object:
    return tuple(tuple(sorted(message.items())) for message in ask.messages)


def is_text(value: object) -> bool:
    """Whether it is a text, whatever its type hint says."""
    return isinstance(value, str)
