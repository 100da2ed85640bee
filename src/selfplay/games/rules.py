"""What several games share: what chance drew, whether a reply is legal, and what it costs when it is not."""

from collections.abc import Collection, Sequence

from selfplay.core import Ask, Reply, SelfplayError


def drawn(ask: Ask, reply: Reply) -> str:
    """Which of its options chance replied.

    Raises:
        SelfplayError: none of them.
    """
    if reply.text not in ask.options:
        raise SelfplayError(
            f"chance replied '{reply.text}', which is none of its options ({', '.join(ask.options[:3])}, ...); seat "
            "Nature there: seats.chance=nature"
        )
    return reply.text


def illegal(asks: Sequence[Ask], replies: Sequence[Reply]) -> set[str]:
    """The roles whose reply is none of the options that they had. What they meant is never guessed."""
    return {a.role for a, r in zip(asks, replies, strict=True) if a.options and r.text not in a.options}


def forfeited(roles: Sequence[str], offenders: Collection[str], stake: float) -> dict[str, float]:
    """The returns of a game that ends by an illegal reply: each offender pays `stake`, shared among the other roles."""
    paid = dict.fromkeys(roles, 0.0)
    for offender in offenders:
        for role in roles:
            paid[role] += -stake if role == offender else stake / (len(roles) - 1)
    return paid
