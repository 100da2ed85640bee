"""What a policy gradient need not read, it does not read, and the step is the same."""

from dataclasses import replace

import pytest
import torch
from language_models import batch_for, made

from selfplay.core import Ask, Batch, user
from selfplay.players.language_model import LanguageModel
from selfplay.updates.aggregations import per_reply
from selfplay.updates.policy_gradient import PolicyGradient
from selfplay.updates.regularizers import InLoss, Off, k2


def update_of(policy: LanguageModel, **changes: object) -> PolicyGradient:
    arguments: dict[str, object] = {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=1e-3),
        "aggregation": per_reply,
        "regularizer": Off(),
        "micro_batch": 4,
    }
    return PolicyGradient(policy, policy.snapshot(), ("solver",), **(arguments | changes))  # type: ignore[arg-type]


def batch(policy: LanguageModel, payoffs: list[float]) -> Batch:
    """Three groups of three turns."""
    asks = [Ask("solver", user(f"add {n} and 4"), key=f"{n}/{i}") for n in range(3) for i in range(3)]
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    return replace(batch_for(policy, asks), payoffs=torch.tensor(payoffs), groups=groups)


def count(policy: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """(is it the learner, turns) of each reading."""
    read: list[tuple[bool, int]] = []
    plain = LanguageModel.logprobs
    monkeypatch.setattr(
        LanguageModel, "logprobs", lambda self, b: read.append((self is policy, len(b))) or plain(self, b)
    )
    return read


@pytest.mark.parametrize(
    ("payoffs", "turns"), [([1, 2, 4, 3, 3, 3, 0, 1, 0], 6), ([2.0] * 9, 1)], ids=["one silent group", "all silent"]
)
def test_silent_turns_and_the_reference_are_not_read(
    payoffs: list[float], turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = made(), made()
    start = [p.detach().clone() for p in policies[0].parameters()]
    updates = [update_of(policy, measure_kl=kl) for policy, kl in zip(policies, (True, False), strict=True)]
    for round in range(2):  # the second with what the optimizer remembers of the first
        paid = [5.0, 2, 4, 3, 9, 3, 0, 1, 0] if round == 0 else payoffs
        batches = [batch(policy, paid) for policy in policies]
        read = count(policies[1], monkeypatch)
        whole, part = (update.step(b) for update, b in zip(updates, batches, strict=True))
        monkeypatch.undo()
    assert sum(n for _, n in read) == 9 + 9 + turns and not any(n == 9 and own for own, n in read[2:])
    assert {name for name in whole.metrics if name not in part.metrics} == {"solver/kl"}
    for name in ("loss", "grad_norm", "solver/entropy"):
        assert part.metrics[name] == pytest.approx(whole.metrics[name], abs=1e-6)
    assert part.advantages is not None and len(part.advantages) == 9
    moved = [
        torch.cat([(p.detach() - q).flatten() for p, q in zip(policy.parameters(), start, strict=True)])
        for policy in policies
    ]
    assert float((moved[0] - moved[1]).norm()) <= 2e-5 * float(moved[0].norm()), "Adam divides roundings by small roots"


def test_a_regularizer_pulls_at_silent_turns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = made()
    update = update_of(policy, measure_kl=False, regularizer=InLoss(k2, 0.1))
    read = count(policy, monkeypatch)
    metrics = update.step(batch(policy, [2.0] * 9)).metrics
    assert sum(n for _, n in read) == 18 and "solver/kl" in metrics
