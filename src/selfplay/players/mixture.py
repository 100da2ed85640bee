"""A geometric mixture of two policies: p(y) proportional to first(y)^(1 - c) second(y)^c."""

from collections.abc import Sequence

import torch

from selfplay.core import Ask, Player, Policy, Reply, SelfplayError
from selfplay.engines.engine import Mixture
from selfplay.engines.sampling import choose, uniforms
from selfplay.players.language_model import LanguageModel


class GeometricMixture(Player):
    """A player that samples from the geometric mixture of two policies with their current weights.

    For options the mixture is exact. Free text is mixed token by token, as in Nash-MD (2312.00886), with both models at
    the first one's temperature; this differs from the mixture over whole replies, whose normaliser is intractable.

    Args:
        first, second: the policies; for free text, two language models with the same tokenizer.
        coefficient: c, the weight of the second policy, from 0 to 1.

    Raises:
        SelfplayError: the coefficient is out of range; when acting, free text is required of policies that are not
            language models, or the models have different vocabularies.
    """

    def __init__(self, first: Policy, second: Policy, coefficient: float) -> None:
        if not 0 <= coefficient <= 1:
            raise SelfplayError(f"the mixture's coefficient is {coefficient}; choose a number from 0 to 1")
        self.first, self.second, self.coefficient = first, second, coefficient
        self.stateful = first.stateful or second.stateful

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        free = [i for i, ask in enumerate(asks) if not ask.options or self._writes]
        replies = dict(zip(free, self._write([asks[i] for i in free]), strict=True)) if free else {}
        rest = [ask for i, ask in enumerate(asks) if i not in replies]
        chosen = iter(self._choose(rest) if rest else [])
        return [replies[i] if i in replies else next(chosen) for i in range(len(asks))]

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        mixed = []
        pairs = zip(self.first.probabilities(asks), self.second.probabilities(asks), strict=True)
        for p, q in pairs:
            logits = (1 - self.coefficient) * _log(p) + self.coefficient * _log(q)
            mixed.append(tuple(logits.softmax(0).tolist()))
        return mixed

    def _choose(self, asks: Sequence[Ask]) -> list[Reply]:
        """Sample one option per ask, with the uniform of its key."""
        places = []
        for ask, p in zip(asks, self.probabilities(asks), strict=True):
            token, _ = choose(torch.tensor(p).log()[None], torch.from_numpy(uniforms(ask.key, 1)), 1.0)
            places.append(int(token))
        return [Reply(ask.options[place]) for ask, place in zip(asks, places, strict=True)]

    @property
    def _writes(self) -> bool:
        """Whether asks with options are answered with generated text."""
        return isinstance(self.first, LanguageModel) and self.first.choose == "text"

    def _write(self, asks: Sequence[Ask]) -> list[Reply]:
        """Generate free text from both models, with the sampling options of the first."""
        if not isinstance(self.first, LanguageModel) or not isinstance(self.second, LanguageModel):
            raise SelfplayError(
                f"a mixture of {type(self.first).__name__} and {type(self.second).__name__} is asked for free text, "
                "which only language models generate; use player=tiny, or a game with options"
            )
        mixture = Mixture(self.first.weights, self.second.weights, self.coefficient)
        return [Reply(reply.text) for reply in self.first.write(asks, mixture)]


def _log(probabilities: Sequence[float]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log().clamp(min=-1e4)  # finite, so that 0 x log 0 is 0
