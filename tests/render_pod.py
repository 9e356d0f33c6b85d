"""Prints the pod that Airflow's task makes of a template: `python -m tests.render_pod < plan.json`.

The plan is {"folder": of a pipeline, "template", "arguments"}; the pod is JSON on the last line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    from airflow.sdk import DAG

    from dags.pods import score_on_pods
    from include.engines.kubernetes.pod import manifest
    from include.pipeline import load_pipeline

    plan = json.load(sys.stdin)
    engine = load_pipeline(Path(plan["folder"])).config.engine
    with DAG("rendered", schedule=None) as dag:
        score_on_pods(engine, {}, {}, {})
    mapped: Any = dag.get_task("pods.pod")
    own = ("task_id", "dag", "task_group", "map_index_template", "pod_template_dict")
    options = {name: value for name, value in mapped.partial_kwargs.items() if name not in own}
    task = mapped.operator_class(
        task_id="pod",
        pod_template_dict=plan["template"],
        arguments=plan["arguments"],
        **options,
    )
    print(json.dumps(manifest(task.build_pod_request_obj(dry_run=True))))


if __name__ == "__main__":
    main()
