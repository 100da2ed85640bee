"""What each conf/regularizer pulls along, by enumeration, against the exact gradient of a divergence."""

from collections.abc import Callable
from itertools import combinations, product

import pytest
import torch
from configs import CONF, config
from torch import Tensor

from selfplay.building import make
from selfplay.updates.losses import reinforce
from selfplay.updates.regularizers import Regularizer, forward_cost, k2, k3, log_ratio, reverse_cost

BETA = 0.05
Divergence = Callable[[Tensor, Tensor], Tensor]


def nothing(p: Tensor, q: Tensor) -> Tensor:
    return 0.0 * (p * q).sum()


def reverse(p: Tensor, q: Tensor) -> Tensor:
    """KL(policy || reference)"""
    return (p * (p / q).log()).sum()


def forward(p: Tensor, q: Tensor) -> Tensor:
    """KL(reference || policy)"""
    return (q * (q / p).log()).sum()


def entropy(p: Tensor, q: Tensor) -> Tensor:
    """Minus the policy's entropy; the reference has no part in it."""
    return (p * p.log()).sum()


ONE_TOKEN: dict[str, Divergence] = {
    "none": nothing,
    "literal": nothing,
    "kl_forward": forward,
    "kl_reverse": reverse,
    "entropy": entropy,
    "kl_forward_payoff": forward,
    "kl_reverse_payoff": reverse,
}


def table(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def configured(name: str) -> Regularizer:
    strength = () if name == "none" else (f"regularizer.beta={BETA}",)
    return make(config(f"regularizer={name}", *strength)["regularizer"], name)


def expected_gradient(name: str, logits: Tensor, logp: Tensor, ref: Tensor) -> Tensor:
    """The update's gradient in expectation over replies drawn from the policy: all of them [S, T], by probability."""
    regularizer = configured(name)
    mask = torch.ones_like(logp, dtype=torch.bool)
    paid = regularizer.payoff(logp, ref, mask)
    assert not paid.requires_grad
    losses = reinforce(logp, logp.detach(), mask, paid, regularizer.loss(logp, ref))
    drawn = logp.detach().sum(-1).exp()
    assert float(drawn.sum()) == pytest.approx(1.0, abs=1e-12)
    [gradient] = torch.autograd.grad((drawn * losses).sum(), logits, retain_graph=True)
    return gradient


def exact_gradient(divergence: Tensor, logits: Tensor) -> Tensor:
    [gradient] = torch.autograd.grad(BETA * divergence, logits, retain_graph=True)
    return gradient


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_every_regularizer_is_known_here() -> None:
    assert {path.stem for path in (CONF / "regularizer").glob("*.yaml")} == set(ONE_TOKEN)


@pytest.mark.parametrize("name", ONE_TOKEN)
def test_one_token(name: str) -> None:
    """A categorical table of four outcomes."""
    logits, ref = table(1, 4), table(2, 4).detach().log_softmax(-1)
    gradient = expected_gradient(name, logits, logits.log_softmax(-1)[:, None], ref[:, None])
    p = logits.softmax(-1)
    exact = {d: exact_gradient(d(p, ref.exp()), logits) for d in (nothing, reverse, forward, entropy)}
    close(gradient, exact[ONE_TOKEN[name]])
    for one, other in combinations(exact.values(), 2):
        assert float((one - other).abs().max()) > 1e-3  # so that they could be told apart


class TwoTokens:
    """A policy and a reference over replies of two tokens out of three; the second depends on the first."""

    def __init__(self) -> None:
        self.logits = table(3, 4, 3)  # row 0: the first token; row 1 + a: the second after a
        self.now, self.then = self.logits.log_softmax(-1), table(4, 4, 3).detach().log_softmax(-1)
        self.replies = list(product(range(3), repeat=2))

    def logp(self, rows: Tensor) -> Tensor:
        """[9, 2] of every reply's tokens"""
        return torch.stack([torch.stack([rows[0, a], rows[1 + a, b]]) for a, b in self.replies])

    def token_by_token(self, divergence: Divergence) -> Tensor:
        """The divergences of the states' own distributions, each as often as the policy comes there (held fixed)."""
        visits = torch.cat([torch.ones(1), self.now[0].detach().exp()])
        states = [divergence(self.now[s].exp(), self.then[s].exp()) for s in range(4)]
        return (visits * torch.stack(states)).sum()

    def whole(self, divergence: Divergence) -> Tensor:
        return divergence(self.logp(self.now).sum(-1).exp(), self.logp(self.then).sum(-1).exp())


@pytest.mark.parametrize("name", ONE_TOKEN)
def test_two_tokens(name: str) -> None:
    """In the payoff: the divergence of whole replies, exactly. In the loss: token by token, another gradient."""
    two = TwoTokens()
    gradient = expected_gradient(name, two.logits, two.logp(two.now), two.logp(two.then))
    whole = exact_gradient(two.whole(ONE_TOKEN[name]), two.logits)
    tokens = exact_gradient(two.token_by_token(ONE_TOKEN[name]), two.logits)
    if name.endswith("payoff"):
        close(gradient, whole)
    else:
        close(gradient, tokens)
    if ONE_TOKEN[name] is not nothing:
        assert float((whole - tokens).abs().max()) > 1e-3


def test_estimators_by_hand() -> None:
    """A ratio of 2: log 2, (log 2)^2 / 2, 1/2 + log 2 - 1; and its inverse, and none."""
    half, two = torch.tensor([[0.25, 0.5, 0.5]]).log(), torch.tensor([[0.5, 0.25, 0.5]]).log()
    ln2 = 0.6931471805599453
    assert log_ratio(two, half)[0].tolist() == pytest.approx([ln2, -ln2, 0.0])
    assert k2(two, half)[0].tolist() == pytest.approx([ln2**2 / 2, ln2**2 / 2, 0.0])
    assert k3(two, half)[0].tolist() == pytest.approx([0.5 + ln2 - 1, 2 - ln2 - 1, 0.0])
    whole = torch.tensor([ln2, -ln2, 0.0])
    assert reverse_cost(whole).tolist() == whole.tolist()
    assert forward_cost(whole).tolist() == pytest.approx([0.5, -1.0, 0.0])


@pytest.mark.parametrize("name", ["kl_forward_payoff", "kl_reverse_payoff"])
def test_padding_is_not_paid_for(name: str) -> None:
    regularizer = configured(name)
    mask = torch.tensor([[True, True, False]])
    one = regularizer.payoff(torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[-1.5, -2.0, -1.0]]), mask)
    two = regularizer.payoff(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.0]]), mask[:, :2])
    assert one.tolist() == two.tolist()
    assert abs(one.item()) > 0.01
