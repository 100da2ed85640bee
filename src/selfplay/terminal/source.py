"""Opens what a person names on the command line: a run, one of its checkpoints, or a model. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from selfplay import digests
from selfplay.building import make
from selfplay.core import Policy, SelfplayError
from selfplay.models.averages import holds_weights
from selfplay.models.load import ASSET
from selfplay.runs.checkpoint import LEARNERS
from selfplay.runs.folder import RunFolder
from selfplay.runs.players import last_checkpoint, runs_below, trusted_run

LANGUAGE_MODEL = "selfplay.players.language_model.LanguageModel"
REMEDY = "give another checkpoint"


@dataclass(frozen=True)
class Source:
    """A checkpoint of a run, or a model.

    Attributes:
        name: as typed.
        run: the run; None for a model.
        weights: the folder of the checkpoint; None for a model.
    """

    name: str
    run: RunFolder | None = None
    weights: Path | None = None

    @classmethod
    def named(cls, name: str, trusted: Sequence[str] = ()) -> Source:
        """The source of this name: a run's folder (its last checkpoint), a checkpoint's, or a model's.

        Args:
            trusted: packages that the run's config may call, see `selfplay.runs.trust`.

        Raises:
            SelfplayError: there is none, the run has no checkpoint, or its config calls something untrusted.
        """
        place = Path(name)
        if RunFolder(place).holds_run:
            run = trusted_run(place, trusted)
            if "player" not in run.config or "game" not in run.config:
                raise SelfplayError(f"{place}/config.yaml is not the config of a run; give a run's folder")
            return cls(name, run, last_checkpoint(run))
        if place.is_dir() and RunFolder(place.absolute().parent.parent).holds_run and holds_weights(place):
            return cls(name, trusted_run(place.absolute().parent.parent, trusted), place)
        if runs := runs_below(place):
            raise SelfplayError(f"{name} holds {len(runs)} runs; give one of them, such as {runs[-1]}")
        if place.is_dir() and not holds_weights(place):
            raise SelfplayError(
                f"{name} is neither a run (it has no config.yaml) nor a checkpoint nor a model (it has no weights); "
                "give the folder of one of these"
            )
        if not place.exists() and (name.startswith(("/", ".")) or name.count("/") > 1):
            raise SelfplayError(f"the folder {name} does not exist; give a run, a checkpoint or a model")
        if (place / "table.safetensors").is_file():
            raise SelfplayError(
                f"{name} is a table outside of its run, and the run's config says which game it is of; give "
                "<run>/checkpoints/<step>"
            )
        return cls(name)

    @property
    def choice(self) -> list[str]:
        """The options of a run whose prompts fit this source's player."""
        path = self.name
        if self.run is not None:
            if OmegaConf.select(self.run.config, "player._target_") != LANGUAGE_MODEL:
                return ["player=tabular"]
            path = str(self.run.config.player.path)
        return [f"player={'tiny' if path.startswith(ASSET) else 'hf'}", f"player.path='{path}'"]

    def policies(self, node: DictConfig, learner: str | None = None) -> tuple[Policy, Policy]:
        """The policy, and a frozen copy of it before its training.

        Args:
            node: the config of the player.
            learner: the name of a further learner of the run; None: the first.

        Raises:
            SelfplayError: the player cannot be built, or the checkpoint is broken.
        """
        policy: Policy = make(node, "player" if learner is None else f"learners.{learner}.player")
        base = policy.snapshot()
        if self.weights is not None:
            digests.check(self.weights, REMEDY)
            policy.load(self.weights if learner is None else self.weights / LEARNERS / learner)
        return policy, base


def here(node: Any, device: str) -> Any:
    """The plain config of a part on this device, with language models that generate in this process."""
    if isinstance(node, list):
        return [here(item, device) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: here(value, device) for key, value in node.items()}
    if "device" in found:
        found["device"] = device
    if "engine" in found and found.get("_target_") == LANGUAGE_MODEL:
        found["engine"] = None
    return found


def player_of(source: Source, device: str, changes: Mapping[str, object]) -> Policy:
    """The policy of a source, without a game.

    Args:
        changes: options of the player that leave its weights as they are.

    Raises:
        SelfplayError: see `Source.policies`, or an option does not exist.
    """
    from selfplay.composing import compose

    config = compose(*source.choice) if source.run is None else source.run.config
    node = OmegaConf.create(here(OmegaConf.to_container(config.player, resolve=True), device))
    return source.policies(OmegaConf.merge(node, changes))[0]  # type: ignore[arg-type]
