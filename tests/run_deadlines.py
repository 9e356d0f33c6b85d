"""Evaluates deadlines in a real Airflow database: `python -m tests.run_deadlines HOME DAG_ID`.

Prints, as JSON on the last line, the deadline of one DAG run of each kind. The reference goes the
way that it goes in a scheduler: serialized with the DAG, found again through the plugin.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path

import dags.local as local

RUN_AFTER = dt.datetime(2026, 3, 28, 22, 0, tzinfo=dt.UTC)  # 23:00 in Berlin, before its DST change


def main(home: str, dag_id: str) -> None:
    local.configure(Path(home))
    from airflow.models.dagrun import DagRun
    from airflow.serialization.decoders import decode_deadline_alert
    from airflow.serialization.encoders import encode_deadline_alert
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunType

    (alert,) = local.find(dag_id).deadline
    decoded = decode_deadline_alert(json.loads(json.dumps(encode_deadline_alert(alert))))
    found: dict[str, str | None] = {}
    with create_session() as session:
        for kind in DagRunType:
            run = DagRun(dag_id=dag_id, run_id=kind.value, run_type=kind, run_after=RUN_AFTER)
            session.add(run)
            session.flush()
        for run_id in (*(kind.value for kind in DagRunType), "no such run"):
            due = decoded.reference.evaluate_with(
                session=session, interval=decoded.interval, dag_id=dag_id, run_id=run_id
            )
            found[run_id] = due and due.isoformat()
        broken = decoded.reference.inner_ref.deserialize_reference({"time": "?", "zone": "Nowhere"})
        due = broken._evaluate_with(session=session, dag_id=dag_id, run_id="scheduled")
        found["a broken reference"] = due and due.isoformat()
        session.rollback()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
