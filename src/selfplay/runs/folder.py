"""The files of a run folder: configuration, metrics (one line per step), transcripts and summary."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from selfplay.core import Episode, SelfplayError, Turn
from selfplay.files import append, as_json, lines, read_json, repair, replacing, to_disk
from selfplay.renamed import translated_config, translated_metrics
from selfplay.runs.safe_yaml import read_mapping


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Construct it with `create` or `open`."""

    path: Path

    @classmethod
    def create(cls, path: Path | str, config: DictConfig) -> "RunFolder":
        """Start a run: create the folder and write the resolved `config.yaml` with package versions.

        If several processes might start at once, lock the folder first (`selfplay.runs.claim`).

        Raises:
            SelfplayError: the folder already holds a run, or cannot be written.
        """
        folder = cls(Path(path))
        if folder.holds_run:
            raise SelfplayError(f"{folder.path} already holds a run; resume that run, or choose another folder")
        with to_disk(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        folder.configure(config)
        return folder

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """Open an existing run.

        Raises:
            SelfplayError: there is no run at `path`.
        """
        folder = cls(Path(path))
        if not folder._config.is_file():
            what = "has no config.yaml" if folder.path.is_dir() else "does not exist"
            raise SelfplayError(f"{path} is not a run folder (it {what}); give the folder that holds a config.yaml")
        return folder

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here: config.yaml is the first file that a run writes."""
        return self._config.is_file()

    @property
    def is_blank(self) -> bool:
        """Whether the run has recorded no training step: no metrics after step 0 and no checkpoint."""
        return all(line["step"] == 0 for line in self.metrics()) and not any(self.checkpoints.glob("step-*"))

    def configure(self, config: DictConfig) -> None:
        """Write `config.yaml`, replacing an earlier one."""
        written = {**_plain(config), "versions": _versions()}
        with replacing(self._config) as draft:
            draft.write_text(OmegaConf.to_yaml(OmegaConf.create(written)), encoding="utf-8")

    @property
    def config(self) -> DictConfig:
        """The resolved configuration with which the run was started or last resumed, as plain data with current names.

        Check it with `trust.check_targets` before instantiating any part of it.

        Raises:
            SelfplayError: config.yaml is broken or contains something that no run writes; see `read_mapping`.
        """
        plain = self.recorded
        plain.pop("versions", None)
        return OmegaConf.create(plain)

    @property
    def recorded(self) -> dict[str, Any]:
        """The content of config.yaml as plain data with current names: `config`, and the run's `versions`.

        Raises:
            SelfplayError: see `config`.
        """
        return translated_config(OmegaConf.to_container(read_mapping(self._config), resolve=False))  # type: ignore[arg-type]

    @property
    def checkpoints(self) -> Path:
        """The folder with one subfolder per checkpoint."""
        return self.path / "checkpoints"

    @property
    def population(self) -> Path:
        """The folder with one subfolder per member of the population, for runs that have one."""
        return self.path / "population"

    @property
    def buffer(self) -> Path:
        """The folder with the turns of earlier steps, for updates that learn from them again."""
        return self.path / "buffer"

    @property
    def curves(self) -> Path:
        """Path of the plot of the run's metrics."""
        return self.path / "curves.png"

    def log(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append the step's line to metrics.jsonl.

        Raises:
            SelfplayError: a value is not finite.
        """
        append(self._metrics, [{"step": step, **metrics}])

    def transcribe(
        self,
        step: int,
        episodes: Sequence[Episode],
        advantages: Mapping[int, float] | None = None,
    ) -> None:
        """Append the episodes to episodes.jsonl, one line per turn.

        Args:
            advantages: id(turn) -> advantage; null is written for turns that are missing from it.

        Raises:
            SelfplayError: a score, payoff or advantage is not finite.
        """
        records = [
            {"step": step, "episode": episode.index}
            | ({} if episode.sampled else {"weight": episode.weight})
            | described(turn)
            | {"advantage": (advantages or {}).get(id(turn))}
            for episode in episodes
            for turn in episode.turns
        ]
        append(self._episodes, records)

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl in order, with current metric names.

        Raises:
            SelfplayError: a line other than the last is broken.
        """
        return [translated_metrics(record) for _, record in lines(self._metrics)]

    def rewind(self, step: int) -> None:
        """Delete the lines of all later steps, and a torn last line, so that the run can resume after `step`.

        Raises:
            SelfplayError: a line other than the last is broken.
        """
        for path in (self._metrics, self._episodes):
            repair(path, lambda record: record["step"] <= step)

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json; empty if it has not been written.

        Raises:
            SelfplayError: the file is broken.
        """
        path = self.path / "summary.json"
        return read_json(path, "delete it, and resume the run") if path.exists() else {}

    def summarise(self, summary: Mapping[str, object]) -> None:
        """Write summary.json, replacing an earlier one.

        Raises:
            SelfplayError: a value is not finite.
        """
        path = self.path / "summary.json"
        text = as_json(dict(summary), path, indent=1)
        with replacing(path) as draft:
            draft.write_text(text + "\n", encoding="utf-8")

    @property
    def _config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def _episodes(self) -> Path:
        return self.path / "episodes.jsonl"


def described(turn: Turn) -> dict[str, object]:
    """The part of a line of episodes.jsonl that the turn determines."""
    ask = turn.ask
    plain = ask.group is None or isinstance(ask.group, int | str)
    return {
        "role": ask.role,
        "player": turn.player or None,
        "group": ask.group if plain else repr(ask.group),
        "prompt": ask.prompt,
        "reply": turn.reply.text,
        "scores": turn.scores,
        "payoff": turn.payoff,
    }


def resolved(config: DictConfig) -> DictConfig:
    """The configuration as it would be read back from config.yaml."""
    read = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(_plain(config))))
    assert isinstance(read, DictConfig)
    return read


def difference(here: object, there: object, key: str = "") -> tuple[str, object, object] | None:
    """The first dotted key at which two config nodes differ, with both values, or None. Null equals a missing key."""
    if not (isinstance(here, DictConfig) and isinstance(there, DictConfig)):
        a, b = (OmegaConf.to_container(x) if OmegaConf.is_config(x) else x for x in (here, there))
        return None if a == b else (key, a, b)
    for name in dict.fromkeys([*here, *there]):
        found = difference(here.get(name), there.get(name), f"{key}.{name}" if key else str(name))
        if found:
            return found
    return None


def _plain(config: DictConfig) -> dict[Any, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain


def _versions() -> dict[str, str | int | None]:
    packages = {name: _version(name) for name in ("torch", "transformers", "selfplay")}
    commit, threads = _commit(Path(__file__).parent), torch.get_num_threads()
    return {"python": platform.python_version(), **packages, "commit": commit, "threads": threads}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(source: Path) -> str | None:
    """The commit of the source tree; None without git or a commit, or if this file is not tracked."""
    for command in (["ls-files", "--error-unmatch", "folder.py"], ["rev-parse", "--verify", "HEAD"]):
        try:
            done = subprocess.run(["git", *command], cwd=source, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        if done.returncode:
            return None
    return done.stdout.strip()
