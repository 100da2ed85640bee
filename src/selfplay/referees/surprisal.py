"""How unexpected a reply is to a policy."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Episode, Policy, Referee, SelfplayError, Turn, at_least
from selfplay.options import Count, Name, OneOf
from selfplay.parallel import current
from selfplay.rollout import collate

PLAYERS = ("learner", "reference")


class Surprisal(Referee):
    """The mean of -log p over the tokens of a reply, in nats, under the learner or the reference: log perplexity.

    p is the distribution that the policy samples from, with its temperature. A reply of the learner or the reference is
    scored with the tokens that were sampled, any other one with the policy's tokens for its text. A choice among
    options counts as one token.

    Args:
        who: "reference", the learner before the first step, or "learner", the current policy.
        roles: the roles whose turns are scored; empty for those that the game judges.
        batch_size: turns per forward pass.

    Raises:
        SelfplayError: `who` is neither of the two.
        SelfplayError (when scoring): a reply is impossible under the policy, or is not encoded in its tokens.
    """

    def __init__(
        self,
        who: Annotated[str, OneOf(*PLAYERS)] = "reference",
        roles: Sequence[Name] = (),
        batch_size: Count = 384,
    ) -> None:
        at_least(1, batch_size=batch_size)
        if who not in PLAYERS:
            raise SelfplayError(f"surprisal's who is '{who}'; choose one of {', '.join(PLAYERS)}")
        self.who, self.roles, self.batch_size = who, tuple(roles), batch_size

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        policy = players[self.who]
        if policy.stateful and current().size > 1 and not all(turn.player in PLAYERS for turn in turns):
            raise SelfplayError(
                f"surprisal would add states to a {type(policy).__name__} in one process of {current().size}; use one "
                "process, or score only turns of the learner and the reference"
            )
        encoded = [turn if turn.player in PLAYERS else _encoded(turn, policy) for turn in turns]
        order = sorted(range(len(turns)), key=lambda i: (encoded[i].reply.prompt_ids, len(encoded[i].reply.reply_ids)))
        scores = torch.zeros(len(turns))
        for start in range(0, len(turns), self.batch_size):
            rows = order[start : start + self.batch_size]
            scores[torch.tensor(rows)] = surprisal(policy, [encoded[i] for i in rows])
        if bool((wrong := ~scores.isfinite()).any()):
            text = turns[int(wrong.nonzero()[0])].reply.text
            raise SelfplayError(
                f"the reply '{text[:80]}' is impossible under the {self.who}, so its surprisal is not finite; raise "
                "player.top_k, top_p or lower min_p, or leave surprisal out"
            )
        return scores


@torch.no_grad()
def surprisal(policy: Policy, turns: Sequence[Turn]) -> Tensor:
    """[N] mean -log p per token, of turns whose replies have the policy's tokens."""
    batch = collate([(Episode(0, []), turn) for turn in turns], learner="")
    logprobs = policy.logprobs(batch).float().cpu()
    return -torch.where(batch.mask, logprobs, 0.0).sum(1) / batch.mask.sum(1)


def _encoded(turn: Turn, policy: Policy) -> Turn:
    return replace(turn, reply=policy.encode_reply(turn.ask, turn.reply.text))
