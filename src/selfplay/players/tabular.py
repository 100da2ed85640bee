"""A tabular policy, for games small enough to be solved exactly."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from selfplay.core import Ask, Batch, Policy, Reply, SelfplayError, at_least, option_index
from selfplay.options import Count, Range, Seed, Temperature

State = tuple[str, ...]  # the role, and the contents of all messages it observes
WEIGHTS, STATES = "table.safetensors", "states.json"


class Tabular(Policy):
    """A softmax policy with one row of logits per information state, identified by the role and its messages.

    A reply is one action, the index of the option; `Reply.prompt_ids` holds the row index. Rows are allocated when
    states are first visited, and snapshots share the row indices.

    Args:
        states: maximum number of information states.
        actions: maximum number of options of a state.
        spread: standard deviation of the initial logits; 0 starts from the uniform policy.
        temperature: sampling temperature; log-probabilities are those of the tempered distribution.
        seed: seed of the initial logits.

    Raises (when acting):
        SelfplayError: an ask has no options, or `states` or `actions` is exceeded.
    """

    stateful = True  # rows are allocated as states are visited

    def __init__(
        self,
        states: Count = 4096,
        actions: Count = 32,
        spread: Annotated[float, Range(0, 100)] = 0.0,
        temperature: Temperature = 1.0,
        seed: Seed = 0,
    ) -> None:
        at_least(1, states=states, actions=actions)
        if temperature <= 0:
            raise SelfplayError(f"player.temperature is {temperature}; a learner must explore, so take one above 0")
        generator = torch.Generator().manual_seed(seed)
        self._begin(spread * torch.randn(states, actions, generator=generator))
        self.temperature = temperature
        self.frozen = False
        self.index: dict[State, int] = {}  # in order of first visit
        self.options: list[int] = []  # number of options of each row

    def _begin(self, initial: Tensor) -> None:
        """Set the initial parameters: [states, actions, ...]."""
        self.initial, self.logits = initial, Parameter(initial.clone())

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        rows = torch.tensor([self._row(ask) for ask in asks])
        logp = self._log_softmax(rows).detach()
        if self.temperature == 0:
            actions = logp.argmax(-1)
        else:
            cumulative = logp.double().exp().cumsum(-1)
            points = torch.tensor([uniform(ask.key) for ask in asks], dtype=torch.float64)[:, None]
            actions = torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True)[:, 0]
        return self.reply_with(asks, actions.tolist())

    def reply_with(self, asks: Sequence[Ask], places: Sequence[int]) -> list[Reply]:
        rows = [self._row(ask) for ask in asks]
        actions = torch.tensor(places)
        taken = self._log_softmax(torch.tensor(rows)).detach().gather(-1, actions[:, None])[:, 0]
        return [
            Reply(ask.options[a], (row,), (a,), (p,))
            for ask, row, a, p in zip(asks, rows, places, taken.tolist(), strict=True)
        ]

    def encode_reply(self, ask: Ask, text: str) -> Reply:
        return Reply(text, (self._row(ask),), (option_index(ask, text),))

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        p = self._log_softmax(torch.tensor([self._row(ask) for ask in asks])).detach().double().exp()
        if self.temperature == 0:
            p = torch.nn.functional.one_hot(p.argmax(-1), p.shape[1]).double()
        p = p / p.sum(-1, keepdim=True)
        return [tuple(row[: len(ask.options)].tolist()) for row, ask in zip(p, asks, strict=True)]

    def logprobs(self, batch: Batch) -> Tensor:
        rows = torch.cat(batch.prompts)
        return self._log_softmax(rows).gather(-1, batch.replies[:, :1])

    def rounding(self, batch: Batch) -> Tensor:
        largest = float(self.logits.detach()[torch.cat(batch.prompts)].abs().max()) / (self.temperature or 1.0)
        return torch.full(batch.replies.shape, 64 * torch.finfo(self.logits.dtype).eps * largest)

    def _log_softmax(self, rows: Tensor) -> Tensor:
        """[N, actions] log-probabilities, -inf beyond a state's options."""
        preferences = self._preferences(rows) / (self.temperature or 1.0)
        return torch.log_softmax(preferences.masked_fill(~self._there(rows), -torch.inf), -1)

    def _preferences(self, rows: Tensor) -> Tensor:
        """[N, actions] the logits at temperature 1."""
        return self.logits[rows]

    def _there(self, rows: Tensor) -> Tensor:
        """[N, actions] bool, the options of each state."""
        counts = torch.tensor([self.options[row] for row in rows.tolist()])
        return torch.arange(self.logits.shape[1])[None] < counts[:, None]

    def _row(self, ask: Ask) -> int:
        state = (ask.role, *(message["content"] for message in ask.messages))
        row = self.index.get(state)
        if row is None:
            row = self._enter(state, len(ask.options))
        if self.options[row] != len(ask.options):
            raise SelfplayError(
                f"the state {state} had {self.options[row]} options and now has {len(ask.options)}; the messages of a "
                "game must determine its options"
            )
        return row

    def _enter(self, state: State, options: int) -> int:
        room, width = self.logits.shape[:2]
        if options == 0:
            raise SelfplayError(
                f"a table cannot generate free text, but the game asks '{state[0]}' for it; use player=tiny"
            )
        if options > width:
            raise SelfplayError(f"a state of '{state[0]}' has {options} options; raise player.actions (now {width})")
        if len(self.options) == room:
            raise SelfplayError(f"the game has more than {room} information states; raise player.states")
        self.index[state] = len(self.options)
        self.options.append(options)
        return self.index[state]

    # --- copies -------------------------------------------------------------------------------------------------------

    def parameters(self) -> list[Parameter]:
        return [] if self.frozen else [self.logits]

    def snapshot(self) -> "Tabular":
        twin = self.with_temperature(self.temperature)
        twin.logits, twin.frozen = Parameter(self.logits.detach().clone(), requires_grad=False), True
        return twin

    @torch.no_grad()
    def restore(self, snapshot: Policy) -> None:
        assert isinstance(snapshot, Tabular)
        self.logits.copy_(snapshot.logits)

    def with_temperature(self, temperature: float) -> "Tabular":
        twin = object.__new__(type(self))
        twin.__dict__ |= self.__dict__ | {"temperature": temperature}
        return twin

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the rows in use (table.safetensors) and their states (states.json)."""
        save_file({"logits": self.logits.detach()[: len(self.options)].clone()}, folder / WEIGHTS)
        states = [{"state": list(state), "options": self.options[row]} for state, row in self.index.items()]
        (folder / STATES).write_text(json.dumps(states, indent=0) + "\n", encoding="utf-8")

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Load what `save` wrote; states that are not in it get their initial row."""
        try:
            logits = load_file(folder / WEIGHTS)["logits"]
            states = json.loads((folder / STATES).read_text(encoding="utf-8"))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise SelfplayError(
                f"the checkpoint {folder} is not a table or is broken ({error}); resume from another"
            ) from error
        if logits.shape[0] != len(states) or logits.shape[1:] != self.logits.shape[1:]:
            raise SelfplayError(
                f"the checkpoint {folder} holds {len(states)} states in a table of shape {tuple(logits.shape)}, the "
                f"player has rows of {self.logits.shape[1]}; resume with the player it was made with"
            )
        self.logits.copy_(self.initial)
        for row, entry in zip(logits, states, strict=True):
            state = tuple(entry["state"])
            here = self.index.get(state)
            self.logits[self._enter(state, entry["options"]) if here is None else here] = row


def uniform(key: str) -> float:
    """A uniform in [0, 1), a pure function of the key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") / 2**64
