"""A buffer of the turns of the newest steps; on disk, one file per step that never changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

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
                    _write(self._batches[number], draft)
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
                self._batches[number] = _read(file)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise SelfplayError(
                    f"{file} with turns of the buffer cannot be read ({reason}); restore it, or start a new run from "
                    "the last checkpoint with player.path"
                ) from error
            self._stored.add(number)


TENSORS = ("replies", "mask", "logprobs", "payoffs", "groups", "weights", "follows")


def _name(number: int) -> str:
    return f"batch-{number:06d}.safetensors"


def _write(batch: Batch, file: Path) -> None:
    """Save the batch: its tensors, with all prompts in one, and the rest as JSON in the file's metadata."""
    tensors = {name: getattr(batch, name).contiguous() for name in TENSORS if getattr(batch, name) is not None}
    tensors["prompts"] = torch.cat(batch.prompts)
    rest = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name not in tensors}
    lengths = [len(prompt) for prompt in batch.prompts]
    save_file(tensors, file, {"turns": json.dumps({**rest, "lengths": lengths})})


def _read(file: Path) -> Batch:
    with safe_open(file, framework="pt") as opened:
        rest = json.loads(opened.metadata()["turns"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, not a mapping
    prompts = tensors.pop("prompts").split(rest.pop("lengths"))
    choices = tuple(tuple(tuple(option) for option in options) for options in rest.pop("choices"))
    roles, off_policy = tuple(rest.pop("roles")), tuple(rest.pop("off_policy"))
    return Batch(prompts=prompts, choices=choices, roles=roles, off_policy=off_policy, **tensors, **rest)
