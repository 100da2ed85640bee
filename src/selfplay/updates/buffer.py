"""A buffer of the turns of the newest steps; on disk, one file per step that never changes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from selfplay.core import Batch, SelfplayError
from selfplay.files import replacing


class Buffer:
    """The batches of the newest steps, oldest first.

    Args:
        room: the number of batches to keep.

    Attributes:
        numbers: the number of each batch in the buffer; a run counts its batches from 1 and never uses a number twice.
    """

    def __init__(self, room: int) -> None:
        self.room, self.numbers, self.last = room, list[int](), 0
        self._batches: dict[int, Batch] = {}
        self._stored: set[int] = set()

    def __len__(self) -> int:
        """The number of turns."""
        return sum(len(self._batches[number]) for number in self.numbers)

    def add(self, batch: Batch) -> None:
        """Add a step's turns; the oldest step's are dropped if there are more than `room`."""
        self.last += 1
        self._batches[self.last] = batch
        self._keep([*self.numbers, self.last][-self.room :])

    def clear(self) -> None:
        """Drop all turns."""
        self._keep([])

    def joined(self) -> Batch:
        """All turns in one batch."""
        return Batch.joined([self._batches[number] for number in self.numbers])

    def _keep(self, numbers: Sequence[int]) -> None:
        self.numbers = list(numbers)
        self._batches = {number: self._batches[number] for number in numbers}

    # --- what is kept -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        return {"numbers": self.numbers, "last": self.last}

    def load_state_dict(self, numbers: Sequence[int], last: int) -> None:
        """Go back to a state; turns that are not in memory must follow by `fetch`."""
        self.numbers, self.last = list(numbers), max(last, self.last)
        self._batches = {number: batch for number, batch in self._batches.items() if number in numbers}

    def store(self, folder: Path) -> None:
        """Write the files of batches that have none yet."""
        for number in self.numbers:
            if number not in self._stored:
                folder.mkdir(parents=True, exist_ok=True)
                with replacing(folder / _name(number)) as draft:
                    torch.save(_plain(self._batches[number]), draft)
                self._stored.add(number)

    def fetch(self, folder: Path) -> None:
        """Read the batches that are not in memory.

        Raises:
            SelfplayError: a file is missing or broken.
        """
        for number in self.numbers:
            if number in self._batches:
                continue
            file = folder / _name(number)
            try:
                found = torch.load(file, weights_only=True)
                found["prompts"] = found.pop("prompt_ids").split(found.pop("prompt_lengths"))
                self._batches[number] = Batch(**found)
            except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise SelfplayError(
                    f"{file} with turns of the buffer cannot be read ({reason}); restore it, or start a new run from "
                    "the last checkpoint with player.path"
                ) from error
            self._stored.add(number)


def _name(number: int) -> str:
    return f"batch-{number:06d}.pt"


def _plain(batch: Batch) -> dict[str, object]:
    """The batch as tensors and plain values, its prompts in one tensor."""
    found = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "prompts"}
    lengths = [len(prompt) for prompt in batch.prompts]
    return {**found, "prompt_ids": torch.cat(batch.prompts), "prompt_lengths": lengths}
