"""MLflow: the database `WORKDIR/mlflow.db`, or the server or store that MLFLOW_TRACKING_URI names.

MLFLOW_EXPERIMENT_NAME names the experiment; without it, it is bridge_jax. MLflow's names hold letters, digits and
`_-.:/`, so each other character becomes `_`: `r@1` is `r_1`.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bridge_jax.workdir.tracking import Start

PACKAGE = "mlflow"
INSTALL = "pip install 'bridge_jax[mlflow]'"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # else every import tells its makers
    # The loop waits for every request. MLflow's seven retries of two minutes would hold it for a quarter of an hour.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_VALUE_CHARACTERS = 6000  # at most, of a parameter


class MLflow:
    """A run in MLflow."""

    def __init__(self, client: Any, run_id: str):
        self._client, self.run_id = client, run_id

    def write(self, step: int, when: float, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        millis = round(when * 1000)
        metrics = [Metric(named(name), value, millis, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def finish(self, failed: bool) -> None:
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


def begin(start: Start) -> MLflow:
    """Begin a run with the config as its parameters, or go on with the one of `start.run_id`."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.entities import Param

    logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)  # else two lines about the tables of a new database
    folder = start.workdir.resolve()
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db"))
    if start.run_id:
        client.update_run(start.run_id, status="RUNNING")
        return MLflow(client, start.run_id)
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "bridge_jax")
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    run_id = client.create_run(experiment_id, run_name=folder.name).info.run_id
    client.log_batch(run_id, params=[Param(named(key), value) for key, value in _parameters(start.config)])
    return MLflow(client, run_id)


def named(name: str) -> str:
    """Return a name that MLflow takes."""
    return re.sub(r"[^\w\-.:/]", "_", name, flags=re.ASCII)


def _parameters(config: Mapping[str, Any], root: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _parameters(value, f"{root}{name}.")
        else:
            yield root + name, (value if isinstance(value, str) else json.dumps(value))[:_VALUE_CHARACTERS]
