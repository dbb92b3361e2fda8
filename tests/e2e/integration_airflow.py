"""Runs the DAG of docs/integration.md where Airflow is installed, for test_integration.py: two days, and the second one again.

integration_airflow.py OUTPUT DAMAGED WHOLE: the second day's first attempt meets DAMAGED; before the next one WHOLE takes its place.
"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.models.dag import DagModel
from airflow.utils.db import initdb


def main(output: Path, damaged: Path, whole: Path) -> None:
    """Write to `output` as JSON: state and attempts of each run, what the second day had at its retry, after it and after the rerun."""
    initdb()
    bag = DagBag()
    assert not bag.import_errors, bag.import_errors
    dag = bag.dags["semid_daily"]
    task = dag.get_task("enrich")
    told: dict[str, Any] = {"runs": []}

    def mend(_: Any) -> None:
        told["kept"] = parts()
        whole.rename(damaged)

    task.on_retry_callback, task.retry_delay = [mend], datetime.timedelta(0)
    for when, midnight in (("first", 2), ("second", 3), ("rerun", 3)):
        run = dag.test(logical_date=datetime.datetime(2026, 1, midnight, tzinfo=datetime.UTC))
        (instance,) = run.get_task_instances()
        told["runs"].append([str(run.state), instance.try_number])
        told[when] = parts()
        if run.state != "success":
            break  # the next day would wait for this one for ever
    first = DagModel.get_current("semid_daily")
    told["interval"] = [str(first.next_dagrun_data_interval_start), str(first.next_dagrun_create_after)]
    output.write_text(json.dumps(told))


def parts() -> dict[str, int]:
    """The second day's parts, each with the number of its file, which another file of that name would not have."""
    return {part.name: part.stat().st_ino for part in Path("runs/2026-01-02/enriched").glob("part-*")}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
