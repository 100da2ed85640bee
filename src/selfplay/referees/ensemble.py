"""Several referees as one: their weighted sum or their minimum, with how far they disagree.

Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization" (arXiv 2310.02743): the mean and the worst case of
an ensemble. Where the parts disagree more and more, one of them is being exploited.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from scipy import stats
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.rollout import wrong_scores


class _Parts:
    """Referees with their weights; `metrics` hold the mean of each part and its own metrics, and the disagreement."""

    def __init__(self, parts: Mapping[str, Referee], weights: Mapping[str, float]) -> None:
        self.parts = {str(name): part for name, part in parts.items() if part is not None}
        self.weights = {str(name): float(weight) for name, weight in weights.items()}
        if self.weights and not any(self.weights.values()):
            raise SelfplayError("all weights of an ensemble are 0, so it would measure nothing; change one of them")
        if len(self.parts) < 2:
            raise SelfplayError(f"an ensemble has the parts {list(self.parts)}; give it two at least")
        if set(self.parts) != set(self.weights):
            raise SelfplayError(
                f"an ensemble has the parts {', '.join(self.parts)}, but weights for "
                f"{', '.join(self.weights) or 'none'}; give each part one weight, for example +reward.weights.<part>=1"
            )
        if len({part.roles for part in self.parts.values()}) > 1:
            told = ", ".join(f"{name} of {'/'.join(p.roles) or 'the judged roles'}" for name, p in self.parts.items())
            raise SelfplayError(f"the parts of an ensemble must score the same turns, but score {told}; leave one out")
        self.roles = next(iter(self.parts.values())).roles
        self.metrics: dict[str, float] = {}

    def weighted(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        """[P, N] weight times score of each part, in the order of the parts.

        Raises:
            SelfplayError: a part gave not one finite score a turn.
        """
        given_by = {name: part.score(turns, players) for name, part in self.parts.items()}
        for name, given in given_by.items():
            if wrong_scores(given, len(turns)):
                raise SelfplayError(
                    f"the part '{name}' ({type(self.parts[name]).__name__}) of an ensemble gave no finite score for "
                    f"each of {len(turns)} turns; leave it out with ~reward.parts.{name} ~reward.weights.{name}"
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
    """Σ_p w_p s_p over the parts p.

    Reports of each part its mean over the turns, as `<part>`, and its own metrics, as `<part>/<name>`; and how far the
    parts disagree: `disagreement`, see `spread`, and `kendall`, see `concordance`.

    Args:
        parts: name -> referee, all of the same roles; None leaves a part out.
        weights: name -> weight, one a part.

    Raises:
        SelfplayError: fewer than two parts, weights of others, parts of different roles.
    """

    def __init__(self, parts: Mapping[str, Referee], weights: Mapping[str, float]) -> None:
        self.all = _Parts(parts, weights)
        self.roles = self.all.roles

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        weighted = self.all.weighted(turns, players)
        self.metrics = self.all.metrics
        return weighted.sum(0).float()


class Minimum(Referee):
    """min_p w_p s_p over the parts p: worst-case optimisation. The weights bring the parts to one scale.

    Reports what `WeightedSum` reports, and `<part>/least`: the share of turns in which that part is the least one.

    Args:
        parts: as of `WeightedSum`.
        weights: as of `WeightedSum`.

    Raises:
        SelfplayError: as `WeightedSum`.
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
    """How far P parts disagree on N turns, on average: mean_n sd_p z_pn, with z_pn = (s_pn - mean_n s_pn) / sd_n s_pn.

    Each part is standardised over the batch (0 where it gives one score to all), then the standard deviation over the
    parts (n in the denominator, as over the batch) is averaged over the turns. 0: all parts say the same but for scale
    and offset. For two parts it is the mean of |z_1 - z_2| / 2.

    Args:
        scores: [P, N].
    """
    assert scores.ndim == 2, scores.shape
    centred = scores - scores[:, :1]  # exactly 0 where all are alike
    centred = centred - centred.mean(1, keepdim=True)
    scale = centred.pow(2).mean(1, keepdim=True).sqrt()
    z = torch.where(scale > 0, centred / torch.where(scale > 0, scale, 1.0), 0.0)
    return float(z.std(0, correction=0).mean())


def concordance(scores: Tensor) -> float | None:
    """The mean of Kendall's τ-b over the pairs of parts: 1 for the same order of the turns, -1 for the reverse.

    Pairs with a part that gives one score to all turns have no τ and do not count; None where there is no other pair.

    Args:
        scores: [P, N].
    """
    assert scores.ndim == 2, scores.shape
    told = [row.numpy() for row in scores if bool((row != row[0]).any())]
    taus = [float(stats.kendalltau(one, other).statistic) for one, other in combinations(told, 2)]
    return sum(taus) / len(taus) if taus else None
