"""What holds the policy near its frozen reference: estimators (pure), and where they act (in the loss, in the pay-off).

In the loss, an estimator maps log pi and log pi_ref of the sampled tokens, [B, T], to a term a token, [B, T]. What it
pulls along is its gradient on samples of pi, which is not always the divergence whose value it estimates:

    log_ratio   log pi - log pi_ref          gradient 0 in expectation: no pull (the paper's term taken literally)
    k3          exp(d) - d - 1, d = -x       forward KL(ref || pi), token by token (GRPO as published)
    k2          (log pi - log pi_ref)^2 / 2  reverse KL(pi || ref), token by token
    entropy     (log pi)^2 / 2               minus the entropy of pi, token by token: up towards the uniform policy

In the pay-off, a cost is a function of the whole reply's log-ratio [B]: paid with a minus sign, the log-ratio pulls
along the reverse and one minus the inverse ratio along the forward divergence, exactly (before an update compares it
within a group: a mean that holds the turn itself leaves (1 - 1/G) of it, a division by the spread rescales it).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from selfplay.options import NotNegative


class Regularizer(Protocol):
    """Two hooks of an update; `beta` is its strength."""

    beta: float

    def loss(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        """[B, T], with gradient: added to the loss of each token."""
        ...

    def payoff(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        """[B], without gradient: added to each turn's pay-off before anything is compared."""
        ...


def log_ratio(logprobs: Tensor, reference: Tensor) -> Tensor:
    """log pi - log pi_ref: as printed in Language Self-Play (2509.07414), equations 4-5. [B, T]"""
    assert logprobs.shape == reference.shape, f"{tuple(logprobs.shape)} beside {tuple(reference.shape)}"
    return logprobs - reference


def k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """(log pi - log pi_ref)^2 / 2 (Schulman 2020, "Approximating KL divergence"). [B, T]"""
    return 0.5 * log_ratio(logprobs, reference) ** 2


def entropy(logprobs: Tensor, reference: Tensor) -> Tensor:
    """(log pi)^2 / 2: k2 with a uniform reference, so its gradient on samples of pi is minus the entropy's. [B, T]"""
    assert logprobs.shape == reference.shape, f"{tuple(logprobs.shape)} beside {tuple(reference.shape)}"
    return 0.5 * logprobs**2


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log pi_ref - log pi (Schulman 2020; GRPO, 2402.03300, equation 4). [B, T]"""
    d = -log_ratio(logprobs, reference)
    return d.exp() - d - 1


def reverse_cost(whole: Tensor) -> Tensor:
    """The log-ratio of the whole reply itself. [B]"""
    return whole


def forward_cost(whole: Tensor) -> Tensor:
    """1 - pi_ref / pi of the whole reply. [B]"""
    return 1 - (-whole).exp()


class Off:
    """No regularizer."""

    beta = 0.0

    def loss(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        return torch.zeros_like(logprobs)

    def payoff(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        return logprobs.new_zeros(len(logprobs))


class InLoss:
    """beta times the estimator, differentiated."""

    def __init__(self, estimator: Callable[[Tensor, Tensor], Tensor] = k2, beta: NotNegative = 0.05) -> None:
        self.estimator, self.beta = estimator, beta

    def loss(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        return self.beta * self.estimator(logprobs, reference)

    def payoff(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        return logprobs.new_zeros(len(logprobs))


class InPayoff:
    """Minus beta times the cost of the whole reply's log-ratio, paid and not differentiated."""

    def __init__(self, cost: Callable[[Tensor], Tensor] = reverse_cost, beta: NotNegative = 0.05) -> None:
        self.cost, self.beta = cost, beta

    def loss(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        return torch.zeros_like(logprobs)

    @torch.no_grad()
    def payoff(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        return -self.beta * self.cost((log_ratio(logprobs, reference) * mask).sum(-1))


REVERSE_KL: Regularizer = InLoss()
