"""MLflow: a SQLite file in the run's folder, or a store of yours that holds many runs."""

import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfplay.core import SelfplayError
from selfplay.loggers.logger import Logger, flat, remember, remembered, require
from selfplay.options import Name

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # its own: 120 s, seven times over
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MLflow(Logger):
    """A run of `experiment` in the store at `uri`; null is `<run>/loggers/mlflow.db`.

    Raises:
        SelfplayError: a package is missing, or `uri` holds a password.
    """

    def __init__(self, experiment: Name = "selfplay", uri: Name | None = None) -> None:
        require("mlflow", "mlflow", "sqlalchemy", "alembic")
        if uri is not None and re.search(r"//[^/@]*:[^/@]*@", uri):
            raise SelfplayError(
                "logger.mlflow.uri holds a password, which config.yaml would keep; leave it out and export "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        self.experiment, self.uri = experiment, uri

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        for name, value in DEFAULTS.items():  # some are read on import
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
        for i in range(0, len(params), 100):  # as many as a call may hold
            self.client.log_batch(self.id, params=params[i : i + 100])
        return -1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(_named(k), v, now, step) for k, v in metrics.items()])

    def finish(self, summary: Mapping[str, Any]) -> None:
        for name in ("summary.json", "curves.png"):
            if (self.folder / name).exists():
                self.client.log_artifact(self.id, str(self.folder / name))
        self.client.set_terminated(self.id, "FINISHED" if summary["status"] == "finished" else "FAILED")


def _named(key: str) -> str:
    """A name that MLflow takes: letters, digits and a few signs, no empty part, 250 characters at most."""
    return re.sub(r"[^\w\-. :/]|(?<=/)(?=/)", "_", key)[:250]
