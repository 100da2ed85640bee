"""How the weights of whole models reach the servers: through a folder, or over NCCL (`engines/server/nccl.py`)."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from selfplay.engines.engine import Weights
from selfplay.engines.server.client import Client
from selfplay.models import checkpoints

FOLDER, NCCL = "folder", "nccl"


class Transfer(ABC):
    """Sends weights from the first process of a run to all servers."""

    @abstractmethod
    def send(self, weights: Weights, label: str, clients: Sequence[Client]) -> None:
        """Let every server load the weights of a model, under a label.

        Raises:
            SelfplayError: a server does not answer, or refuses.
        """


class Folder(Transfer):
    """Through a folder that every server can read.

    Args:
        folder: replaced at every call.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begun = False

    def send(self, weights: Weights, label: str, clients: Sequence[Client]) -> None:
        with weights.placed():
            shutil.rmtree(self.folder, ignore_errors=True)
            checkpoints.save(weights.model, self.folder)
        for client in clients:
            load(client, self.folder, label, self._begun)
        self._begun = True


def load(client: Client, folder: Path, label: str, begun: bool) -> None:
    """Let a server load the weights in the files of a folder, under a label; `begun`: it is not the first time."""
    client.pause()
    if not begun:
        client.prepare(FOLDER, {})
    client.receive({"folder": str(folder)})
    client.finish(label)
