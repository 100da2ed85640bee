"""SimPLE's editing of pseudo-labels as a reward: answers that agree with what their neighbours leave of a vote."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn, at_least
from selfplay.engines.embeddings import mean_states
from selfplay.options import Count, Name, OneOf, Range, Share
from selfplay.out_of_memory import Rows
from selfplay.parallel import current
from selfplay.players.language_model import LanguageModel
from selfplay.referees.neighbours import NEIGHBOURS, UNCERTAIN, edited
from selfplay.referees.surprisal import PLAYERS


class EditedLabels(Referee):
    """1 for an answer that equals the edited label of its episode, else 0. For games whose asks have options.

    The answers of an episode to the same role are the views of one input, and their options are labels. The labels that
    disagree most with their neighbours in the model's embedding space, among all views of a step, are left out before
    each episode's vote; ties are decided by the first view's most likely option. See `selfplay.referees.neighbours`.

    Args:
        neighbours: k of the graph.
        share: the fraction of the labels that is left out.
        who: the policy whose hidden states (their mean over the prompt) embed a view, and that breaks ties.
        batch_size: prompts per forward pass.
        roles: the roles whose turns are scored; empty for those that the game judges.

    Raises:
        SelfplayError (when scoring): the policy is no language model, an ask has no options, episodes differ in their
            number of views, several processes share the run, or there are fewer views than neighbours.
    """

    def __init__(
        self,
        neighbours: Annotated[int, Range(2, 10_000)] = NEIGHBOURS,
        share: Share = UNCERTAIN,
        who: Annotated[str, OneOf(*PLAYERS)] = "learner",
        batch_size: Count = 256,
        roles: Sequence[Name] = (),
    ) -> None:
        at_least(1, batch_size=batch_size)
        self.neighbours, self.share, self.who, self.roles = neighbours, share, who, tuple(roles)
        self.rows = Rows(batch_size, "reward.batch_size")

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        model = players[self.who]
        if not isinstance(model, LanguageModel):
            raise SelfplayError(f"reward=edited_labels embeds questions, but the {self.who} is no language model")
        if current().size > 1:
            raise SelfplayError(
                f"reward=edited_labels compares all answers of a step, but each of {current().size} processes scores a "
                "part of them; use reward=agreement, or one process"
            )
        views = _views(turns)
        flat = [place for places in views for place in places]
        with model.forward_passes():
            prompts = [model.render(turns[place].ask.messages) for place in flat]
            states = mean_states(model.model, prompts, self.rows)
        shape = (len(views), len(views[0]))
        labels = torch.tensor([turns[p].ask.options.index(turns[p].reply.text) for p in flat]).view(shape)
        first = model.probabilities([turns[places[0]].ask for places in views])
        fallback = torch.tensor([max(range(len(p)), key=p.__getitem__) for p in first])
        found = edited(states.view(*shape, -1).transpose(0, 1), labels.T, fallback, self.neighbours, self.share)
        self.metrics = {"left_out": float(found.uncertain.float().mean())}
        scores = torch.zeros(len(turns))
        scores[torch.tensor(flat)] = (labels == found.labels[:, None]).float().flatten()
        return scores


def _views(turns: Sequence[Turn]) -> list[list[int]]:
    """The places of each episode's turns of a role, which are equally many."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, turn in enumerate(turns):
        if turn.reply.text not in turn.ask.options:
            raise SelfplayError(
                f"reward=edited_labels takes an answer as one of several labels, but the {turn.ask.role} was asked "
                f"'{turn.ask.prompt[:80]}' without options, or answered none of them; use game=views"
            )
        groups.setdefault((turn.ask.key.rpartition("/")[0], turn.ask.role), []).append(place)
    if len({len(places) for places in groups.values()}) > 1:
        raise SelfplayError(
            "reward=edited_labels needs equally many answers in each episode, but some have "
            f"{min(map(len, groups.values()))} and others {max(map(len, groups.values()))}; use game=views"
        )
    return list(groups.values())
