"""The kubernetes engine: pods, each of which scores a group of parts.

What counts is the receipts in storage, not how a pod ended. A pod that was evicted, pre-empted or
lost is followed by one for the parts that are still missing; one that was killed for memory by one
that scores in smaller batches. Whoever goes on with a job takes over the pods that run for it.
"""

from __future__ import annotations

from include.engine_config import KubernetesEngine
from include.engines.kubernetes.crew import Kubernetes


def engine(config: KubernetesEngine) -> Kubernetes:
    """The engine of a pipeline's configuration."""
    return Kubernetes(config)
