"""What `daybreak check` asks a cluster about the section `engine:` of the kind kubernetes."""

from __future__ import annotations

from collections.abc import Iterator

from include.engine_config import KubernetesEngine
from include.errors import BadConfig, DaybreakError

# Least privilege that suffices, and what for.
RIGHTS = (
    ("create", "pods", ""),
    ("list", "pods", ""),
    ("get", "pods", ""),
    ("delete", "pods", ""),
    ("get", "pods", "log"),
    ("list", "events", ""),
)


def pod_problems(engine: KubernetesEngine) -> Iterator[DaybreakError]:
    """Whether the cluster can be reached, and whether this account may do there what it takes."""
    from include.engines.kubernetes.cluster import open_cluster

    try:
        cluster = open_cluster(engine)
        missing = [
            f"{verb} {resource}" + (f"/{subresource}" if subresource else "")
            for verb, resource, subresource in RIGHTS
            if not cluster.may(verb, resource, subresource)
        ]
    except DaybreakError as error:
        yield error
        return
    if missing:
        yield BadConfig(
            f"in the namespace {cluster.namespace!r} this account may not {', '.join(missing)}",
            do="give its role these rights, or correct engine.namespace or engine.connection",
        )
