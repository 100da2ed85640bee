"""Helpers shared by several games: chance outcomes, and the detection and penalty of illegal replies."""

from collections.abc import Collection, Sequence

from selfplay.core import Ask, Reply, SelfplayError


def chance_outcome(ask: Ask, reply: Reply) -> str:
    """The option that chance chose.

    Raises:
        SelfplayError: the reply is not one of the ask's options.
    """
    if reply.text not in ask.options:
        raise SelfplayError(
            f"chance replied '{reply.text}', which is not one of its options ({', '.join(ask.options[:3])}, ...); "
            "assign Nature to the role with seats.chance=nature"
        )
    return reply.text


def illegal(asks: Sequence[Ask], replies: Sequence[Reply]) -> set[str]:
    """The roles whose reply does not match one of their options exactly."""
    return {a.role for a, r in zip(asks, replies, strict=True) if a.options and r.text not in a.options}


def forfeited(roles: Sequence[str], offenders: Collection[str], stake: float) -> dict[str, float]:
    """The returns after illegal replies: each offender pays `stake`, split equally among the other roles.

    Args:
        roles: all roles of the game but "chance", at least two.
        offenders: the roles that replied illegally.
        stake: what each offender pays.
    """
    paid = dict.fromkeys(roles, 0.0)
    for offender in offenders:
        for role in roles:
            paid[role] += -stake if role == offender else stake / (len(roles) - 1)
    return paid
