"""Referee ensembles: the weighted sum or the minimum of several referees, with measures of their disagreement.

Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization" (arXiv 2310.02743): mean and worst-case
optimisation. Growing disagreement suggests that one of the parts is being exploited.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from scipy import stats
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.rollout import wrong_scores


class _Parts:
    """Weighted referees; `metrics` hold each part's mean and own metrics, and the disagreement measures."""

    def __init__(self, parts: Mapping[str, Referee], weights: Mapping[str, float]) -> None:
        self.parts = {str(name): part for name, part in parts.items() if part is not None}
        self.weights = {str(name): float(weight) for name, weight in weights.items()}
        if self.weights and not any(self.weights.values()):
            raise SelfplayError("all weights of an ensemble are 0; give at least one part a non-zero weight")
        if len(self.parts) < 2:
            raise SelfplayError(f"an ensemble has the parts {list(self.parts)}; give it at least two")
        if set(self.parts) != set(self.weights):
            raise SelfplayError(
                f"an ensemble has the parts {', '.join(self.parts)}, but weights for "
                f"{', '.join(self.weights) or 'none'}; give each part one weight, for example +reward.weights.<part>=1"
            )
        if len({part.roles for part in self.parts.values()}) > 1:
            scored = ", ".join(f"{name}: {'/'.join(p.roles) or 'the judged roles'}" for name, p in self.parts.items())
            raise SelfplayError(f"the parts of an ensemble score different roles ({scored}); leave one out")
        self.roles = next(iter(self.parts.values())).roles
        self.metrics: dict[str, float] = {}

    def weighted(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        """[P, N] weighted scores, one row per part.

        Raises:
            SelfplayError: a part does not return one finite score per turn.
        """
        given_by = {name: part.score(turns, players) for name, part in self.parts.items()}
        for name, given in given_by.items():
            if wrong_scores(given, len(turns)):
                raise SelfplayError(
                    f"the part '{name}' ({type(self.parts[name]).__name__}) of an ensemble did not return a finite "
                    f"score for each of {len(turns)} turns; leave it out with ~reward.parts.{name} "
                    f"~reward.weights.{name}"
                )
        scores = {name: given.double().cpu() for name, given in given_by.items()}
        self.metrics = {name: float(given.mean()) for name, given in scores.items()}
        for name, part in self.parts.items():
            self.metrics |= {f"{name}/{key}": value for key, value in part.metrics.items()}
        table = torch.stack(list(scores.values()))
        self.metrics |= {"disagreement": spread(table)}
        if (tau := concordance(table)) is not None:
            self.metrics["kendall"] = tau
        return table * torch.tensor([self.weights[name] for name in scores], dtype=torch.float64)[:, None]


class WeightedSum(Referee):
    """The weighted sum Σ_p w_p s_p over the parts p.

    Reports each part's mean score as `<part>` and its own metrics as `<part>/<name>`, and the disagreement of the
    parts: `disagreement`, see `spread`, and `kendall`, see `concordance`.

    Args:
        parts: name -> referee, all scoring the same roles; None leaves a part out.
        weights: name -> weight, one per part.

    Raises:
        SelfplayError: there are fewer than two parts, the names of parts and weights differ, all weights are 0, or
            parts score different roles.
    """

    def __init__(self, parts: Mapping[str, Referee], weights: Mapping[str, float]) -> None:
        self.all = _Parts(parts, weights)
        self.roles = self.all.roles

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        weighted = self.all.weighted(turns, players)
        self.metrics = self.all.metrics
        return weighted.sum(0).float()


class Minimum(Referee):
    """The minimum min_p w_p s_p over the parts p (worst-case optimisation); the weights bring parts to a common scale.

    Reports the metrics of `WeightedSum`, and `<part>/least`: the fraction of turns in which the part is the minimum.

    Args:
        parts: as in `WeightedSum`.
        weights: as in `WeightedSum`.

    Raises:
        SelfplayError: as in `WeightedSum`.
    """

    def __init__(self, parts: Mapping[str, Referee], weights: Mapping[str, float]) -> None:
        self.all = _Parts(parts, weights)
        self.roles = self.all.roles

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        weighted = self.all.weighted(turns, players)
        least = weighted.min(0).values
        ties = (weighted == least).double()
        shares = (ties / ties.sum(0)).mean(1)
        self.metrics = self.all.metrics | {
            f"{name}/least": float(share) for name, share in zip(self.all.parts, shares, strict=True)
        }
        return least.float()


def spread(scores: Tensor) -> float:
    """Mean disagreement of P parts on N turns: mean_n sd_p z_pn, with z_pn = (s_pn - mean_n s_pn) / sd_n s_pn.

    Each part is standardised over the batch (to 0 if its scores are constant). The population standard deviation over
    the parts is then averaged over the turns. It is 0 if all parts agree up to scale and offset; for two parts it is
    the mean of |z_1 - z_2| / 2.

    Args:
        scores: [P, N].
    """
    assert scores.ndim == 2, scores.shape
    centred = scores - scores[:, :1]  # exactly 0 for constant scores
    centred = centred - centred.mean(1, keepdim=True)
    scale = centred.pow(2).mean(1, keepdim=True).sqrt()
    z = torch.where(scale > 0, centred / torch.where(scale > 0, scale, 1.0), 0.0)
    return float(z.std(0, correction=0).mean())


def concordance(scores: Tensor) -> float | None:
    """The mean of Kendall's τ-b over pairs of parts: 1 if they rank the turns identically, -1 if in reverse.

    Parts with constant scores have no τ and are skipped; None if fewer than two parts remain.

    Args:
        scores: [P, N].
    """
    assert scores.ndim == 2, scores.shape
    varying = [row.numpy() for row in scores if bool((row != row[0]).any())]
    taus = [float(stats.kendalltau(one, other).statistic) for one, other in combinations(varying, 2)]
    return sum(taus) / len(taus) if taus else None
