"""Regularizers towards the frozen reference: pure estimators, applied in the loss or in the payoff.

In the loss, an estimator maps log pi and log pi_ref of the sampled tokens, [B, T], to a penalty per token, [B, T]. Its
expected gradient on samples of pi need not be that of the divergence whose value it estimates. It is the gradient of

    log_ratio   log pi - log pi_ref          nothing: it is 0 (the paper's term taken literally)
    k3          exp(d) - d - 1, d = -x       forward KL(ref || pi), per token (GRPO as published)
    k2          (log pi - log pi_ref)^2 / 2  reverse KL(pi || ref), per token
    entropy     (log pi)^2 / 2               negative entropy of pi, per token (towards the uniform policy)

In the payoff, a cost is a function of the whole reply's log-ratio x [B], subtracted from the payoff. The cost x gives
the exact gradient of the reverse KL, and 1 - exp(-x) that of the forward KL. Comparison within a group rescales it: a
group mean that includes the turn leaves (1 - 1/G) of it, and division by the standard deviation rescales it further.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from selfplay.options import NotNegative


class Regularizer(Protocol):
    """Two hooks of an update; `beta` is the strength of the regularizer."""

    beta: float

    def loss(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        """[B, T] penalty, with gradient, added to the loss of each token."""
        ...

    def payoff(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        """[B] term, without gradient, added to each turn's payoff before advantages are computed."""
        ...


def log_ratio(logprobs: Tensor, reference: Tensor) -> Tensor:
    """log pi - log pi_ref: as printed in Language Self-Play (2509.07414), equations 4-5. [B, T]"""
    assert logprobs.shape == reference.shape, f"{tuple(logprobs.shape)} and {tuple(reference.shape)}"
    return logprobs - reference


def k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """(log pi - log pi_ref)^2 / 2 (Schulman 2020, "Approximating KL divergence"). [B, T]"""
    return 0.5 * log_ratio(logprobs, reference) ** 2


def entropy(logprobs: Tensor, reference: Tensor) -> Tensor:
    """(log pi)^2 / 2: its expected gradient on samples of pi is that of the negative entropy. [B, T]"""
    assert logprobs.shape == reference.shape, f"{tuple(logprobs.shape)} and {tuple(reference.shape)}"
    return 0.5 * logprobs**2


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log pi_ref - log pi (Schulman 2020; GRPO, 2402.03300, equation 4). [B, T]"""
    d = -log_ratio(logprobs, reference)
    return d.exp() - d - 1


def reverse_cost(ratio: Tensor) -> Tensor:
    """The log-ratio of the whole reply: reverse KL. [B]"""
    return ratio


def forward_cost(ratio: Tensor) -> Tensor:
    """1 - pi_ref / pi, from the log-ratio of the whole reply: forward KL. [B]"""
    return 1 - (-ratio).exp()


class Off:
    """No regularizer."""

    beta = 0.0

    def loss(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        return torch.zeros_like(logprobs)

    def payoff(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        return logprobs.new_zeros(len(logprobs))


class InLoss:
    """A penalty in the loss: beta x estimator, with gradient.

    Args:
        estimator: (log pi, log pi_ref), both [B, T] -> penalty per token [B, T].
        beta: strength.
    """

    def __init__(self, estimator: Callable[[Tensor, Tensor], Tensor] = k2, beta: NotNegative = 0.05) -> None:
        self.estimator, self.beta = estimator, beta

    def loss(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        return self.beta * self.estimator(logprobs, reference)

    def payoff(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        return logprobs.new_zeros(len(logprobs))


class InPayoff:
    """A penalty in the payoff: -beta x cost of the whole reply's log-ratio, without gradient.

    Args:
        cost: log-ratios [B] -> cost [B].
        beta: strength.
    """

    def __init__(self, cost: Callable[[Tensor], Tensor] = reverse_cost, beta: NotNegative = 0.05) -> None:
        self.cost, self.beta = cost, beta

    def loss(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        return torch.zeros_like(logprobs)

    @torch.no_grad()
    def payoff(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        return -self.beta * self.cost((log_ratio(logprobs, reference) * mask).sum(-1))


REVERSE_KL: Regularizer = InLoss()
