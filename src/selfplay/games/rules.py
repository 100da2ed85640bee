"""What several games share: whether a reply is legal, and what it costs when it is not."""

from collections.abc import Collection, Sequence

from selfplay.core import Ask, Reply


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
