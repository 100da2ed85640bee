"""MLflow: logs to a SQLite file in the run's folder, or to a tracking server."""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.core import SelfplayError
from selfplay.loggers.logger import Logger, flat, remember, remembered, require
from selfplay.loggers.turns import Row, columns
from selfplay.options import Name, Whole

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # MLflow's defaults: 120 s, 7 retries
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MLflow(Logger):
    """Logs a run of an MLflow experiment.

    Args:
        experiment: name of the experiment.
        uri: of the tracking store, such as sqlite:////home/me/runs.db or http://localhost:5000; null for
            `<run>/loggers/mlflow.db`.
        turns: how many turns of the transcript are an artifact, turns/step-<N>.json, at each evaluation; 0: none.

    Raises:
        SelfplayError: a package is missing, or `uri` contains a password.
    """

    def __init__(self, experiment: Name = "selfplay", uri: Name | None = None, turns: Whole = 16) -> None:
        require("mlflow", "mlflow", "sqlalchemy", "alembic")
        if uri is not None and re.search(r"//[^/@]*:[^/@]*@", uri):
            raise SelfplayError(
                "logger.mlflow.uri contains a password, which would be stored in config.yaml; leave it out and export "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        self.experiment, self.uri, self.turns = experiment, uri, turns

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        for name, value in DEFAULTS.items():  # some are read at import
            os.environ.setdefault(name, value)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.folder = folder
        own = (folder / "loggers").resolve()
        own.mkdir(exist_ok=True)
        self.client = MlflowClient(self.uri or f"sqlite:///{own / 'mlflow.db'}")
        known = remembered(folder, "mlflow")
        if known:
            self.id: str = known["id"]
            self.client.update_run(self.id, status="RUNNING")
            names = self.client.get_run(self.id).data.metrics
            return max((m.step for name in names for m in self.client.get_metric_history(self.id, name)), default=-1)
        found = self.client.get_experiment_by_name(self.experiment)
        files = None if self.uri else (own / "mlflow").as_uri()
        experiment = found.experiment_id if found else self.client.create_experiment(self.experiment, files)
        self.id = self.client.create_run(experiment, run_name="/".join(folder.resolve().parts[-2:])).info.run_id
        remember(folder, "mlflow", id=self.id)
        params = [Param(_named(k), str(v)[:6000]) for k, v in flat(config).items()]
        for i in range(0, len(params), 100):  # the limit of a call
            self.client.log_batch(self.id, params=params[i : i + 100])
        return -1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(_named(k), v, now, step) for k, v in metrics.items()])

    def log_turns(self, step: int, rows: Sequence[Row]) -> None:
        names, values = columns(rows)
        # not log_table: its appending downloads what is there, and its tag of all tables has a maximum length
        self.client.log_dict(self.id, {"columns": names, "data": values}, f"turns/step-{step:06d}.json")

    def finish(self, summary: Mapping[str, Any]) -> None:
        for name in ("summary.json", "curves.png"):
            if (self.folder / name).exists():
                self.client.log_artifact(self.id, str(self.folder / name))
        self.client.set_terminated(self.id, "FINISHED" if summary["status"] == "finished" else "FAILED")


def _named(key: str) -> str:
    """Convert to a valid MLflow name: letters, digits and a few signs, no empty part, at most 250 characters."""
    return re.sub(r"[^\w\-. :/]|(?<=/)(?=/)", "_", key)[:250]
