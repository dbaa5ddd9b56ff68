"""MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from parsit.train.trackers.common import PROJECT, Remembering, one_line
from parsit.types import ParsitError


class Mlflow(Remembering):
    """MLflow: files in DIR/mlflow, or the server that MLFLOW_TRACKING_URI names."""

    kind = "mlflow"

    def begin(self, settings: dict[str, Any]) -> None:
        """Open the run there, or go on with it."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        folder = (self.output_dir / "mlflow").resolve()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for it
        try:
            self._client = MlflowClient(uri or folder.as_uri())
            if not self.resumes:
                self.run_id = self._new_run()
            self._client.update_run(self.run_id, status="RUNNING")
            self._set_parameters(_flat(settings))
        except MlflowException as error:
            raise ParsitError(f"--report_to mlflow: {uri or folder}: {one_line(error)}") from error
        if uri is None:
            show = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {self.output_dir}/mlflow"
            self.say(f"mlflow: `{show}` shows the run")

    def _new_run(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        return self._client.create_run(experiment, run_name=self.name).info.run_id

    def _set_parameters(self, wanted: dict[str, str]) -> None:
        """Parameters cannot be changed there: what is another value on resume becomes a tag with the step."""
        from mlflow.entities import Param

        there = self._client.get_run(self.run_id).data.params
        new = [Param(key, value) for key, value in wanted.items() if key not in there]
        for start in range(0, len(new), 100):  # its limit for one request
            self._client.log_batch(self.run_id, params=new[start : start + 100])
        for key, value in wanted.items():
            if there.get(key, value) != value:
                self._client.set_tag(self.run_id, f"{key}.from_step_{self.first_step + 1}", value)

    def send(self, step: int, values: dict[str, float]) -> None:
        """Send one step's numbers."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def send_text(self, step: int, name: str, text: str) -> None:
        """Send one step's words."""
        self._client.log_text(self.run_id, text, f"{name}/step-{step:07d}.txt")

    def finish(self, failed: bool = False) -> None:
        """See `Tracker.finish`."""
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested settings as `parts.projector.trainable`: text, cut at MLflow's limit of 6,000 characters."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[above + key] = str(value)[:6000]
    return flat
