"""The SparkApplication that a cluster's Spark operator runs; pure, so that a test can read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from include.engine_config import SparkEngine, SparkOperator
from include.spark.rendering import rendered

# Where the image has the project; its Python has the locked requirements.
IN_THE_IMAGE = "/opt/daybreak"


def spark_application(
    engine: SparkEngine, operator: SparkOperator, arguments: Sequence[str]
) -> dict[str, Any]:
    """A SparkApplication whose driver is `python -m tasks` with `arguments`."""
    import pyspark

    settings = rendered(engine.master, engine.conf, engine.gpu, archives=engine.packaging.archives)
    if engine.packaging.python is not None:
        settings.setdefault("spark.pyspark.python", engine.packaging.python)
    gpus = {}
    if engine.gpu is not None:
        gpus = {"gpu": {"name": "nvidia.com/gpu", "quantity": engine.gpu.amount_per_executor}}
    return {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "spec": {
            "type": "Python",
            "pythonVersion": "3",
            "mode": "cluster",
            "sparkVersion": pyspark.__version__,
            "image": operator.image,
            "mainApplicationFile": f"local://{IN_THE_IMAGE}/tasks/__main__.py",
            "arguments": list(arguments),
            # Airflow retries, and what is finished stays.
            "restartPolicy": {"type": "Never"},
            "sparkConf": settings,
            "driver": {
                "cores": 1,
                "memory": operator.driver_memory,
                "serviceAccount": operator.service_account,
                "env": [{"name": "PYTHONPATH", "value": IN_THE_IMAGE}],
            },
            "executor": {
                "instances": operator.executors,
                "cores": operator.cores,
                "memory": operator.memory,
                **gpus,
            },
        },
    }
