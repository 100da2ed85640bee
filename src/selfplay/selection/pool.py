"""A pool of training questions, and what a strategy can know of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from selfplay.core import Ask, Episode, Player, Policy, SelfplayError, Turn, user
from selfplay.engines.embeddings import mean_states
from selfplay.out_of_memory import Rows
from selfplay.parallel import current, merged
from selfplay.players.language_model import LanguageModel
from selfplay.rollout import collate
from selfplay.updates.descent import frozen_logprobs

TRIES = 50  # draws per question of the pool before it is reported as too small


class Pool:
    """N distinct training questions, with the results of the answers so far.

    Args:
        draw: samples a training question.
        size: N.
        seed: of the draws; the same seed gives the same questions in the same order.
        batch_size: questions per forward pass.

    Attributes:
        questions: N texts.
        tried: [N] how many answers to each question were scored.
        solved: [N] the sum of their scores.

    Raises:
        SelfplayError: the source has fewer than `size` questions.
    """

    def __init__(self, draw: Callable[[Random], str], size: int, seed: int, batch_size: int) -> None:
        found: dict[str, int] = {}
        for i in range(TRIES * size):
            found.setdefault(draw(Random(f"pool/{seed}/{i}")), len(found))
            if len(found) == size:
                break
        else:
            raise SelfplayError(
                f"a pool of {size} questions was asked for, but {TRIES * size} draws gave only {len(found)} different "
                f"ones; set players.nature.size={len(found)}, or take a larger task"
            )
        self.places, self.questions, self.rows = found, tuple(found), Rows(batch_size, "players.nature.batch_size")
        self.tried, self.solved = torch.zeros(size), torch.zeros(size)

    def __len__(self) -> int:
        return len(self.questions)

    def count(self, episodes: Sequence[Episode], measure: str) -> None:
        """Add the scores named `measure` of the turns that follow each question."""
        for episode in episodes:
            place: int | None = None
            for turn in episode.turns:
                if turn.ask.role == "chance":
                    place = self.places.get(turn.reply.text)
                elif place is not None and measure in turn.scores:
                    self.tried[place] += episode.weight
                    self.solved[place] += episode.weight * turn.scores[measure]

    @property
    def digest(self) -> int:
        """A checksum of the questions and their order."""
        return zlib.crc32("\0".join(self.questions).encode())

    def view(self, step: int, players: Mapping[str, Player], teacher: str) -> PoolView:
        """What is known before a step; see `PoolView`."""
        return PoolView(self, step, players, teacher)


class PoolView:
    """What a strategy may know of a pool before a step. All of it is computed when it is asked for.

    Attributes:
        step: the number of the step, from 1.
        questions: N texts.
        tried: [N] scored answers to each question so far.
        solved: [N] the sum of their scores.
    """

    def __init__(self, pool: Pool, step: int, players: Mapping[str, Player], teacher: str) -> None:
        self.step, self.questions = step, pool.questions
        self.tried, self.solved = pool.tried.clone(), pool.solved.clone()
        self._rows, self._players, self._teacher = pool.rows, players, teacher

    def __len__(self) -> int:
        return len(self.questions)

    def surprisal(self, who: str) -> Tensor:
        """[N] the mean surprisal of each question's demonstration under a policy, in nats per token.

        The demonstration is the teacher's reply to the question, with its end token. exp of it is the perplexity.

        Args:
            who: "learner", "reference" or another policy among the players.

        Raises:
            SelfplayError: there is no such policy or no teacher, or the policy cannot produce a demonstration.
        """
        policy: Policy = self._policy(who)
        if self._teacher not in self._players:
            raise SelfplayError(
                f"this strategy needs demonstrations, but there is no player '{self._teacher}' (players: "
                f"{', '.join(self._players)}); use game=demonstrations, or define players.{self._teacher}"
            )
        asks = [Ask("demonstration", user(text), key=f"pool/{i}") for i, text in enumerate(self.questions)]
        shown = self._players[self._teacher].act(asks)
        turns = [
            Turn(ask, replace(policy.encode_reply(ask, reply.text), logprobs=()), payoff=0.0, player=self._teacher)
            for ask, reply in zip(asks, shown, strict=True)
        ]
        batch = collate([(Episode(i, [turn]), turn) for i, turn in enumerate(turns)], "learner")
        found = frozen_logprobs(policy, batch, self._rows)
        return -found.sum(1) / batch.mask.sum(1)

    def embed(self, who: str) -> Tensor:
        """[N, H] the mean of the last hidden states of each question's prompt, scaled to length 1.

        Raises:
            SelfplayError: the player is not a language model.
        """
        model: LanguageModel = self._policy(who, language_model=True)
        prompts = [model.render(user(text)) for text in self.questions]
        processes, mine = current(), range(len(prompts))
        with processes.whole(), model.forward_passes():
            parts = processes.collect(
                lambda: list(mean_states(model.model, [prompts[i] for i in processes.share(mine)], self._rows))
            )
        states = torch.stack(merged(parts))
        unit: Tensor = states / states.norm(dim=1, keepdim=True)
        return unit

    def _policy(self, who: str, language_model: bool = False) -> Any:
        kind: Any = LanguageModel if language_model else Policy
        found = self._players.get(who)
        if not isinstance(found, kind):
            known = ", ".join(name for name, player in self._players.items() if isinstance(player, kind)) or "none"
            wanted = "a language model" if language_model else "a policy"
            raise SelfplayError(f"the strategy reads the player '{who}', which is not {wanted} (there are: {known})")
        return found
