"""The environment: where things are. The one module that reads environment variables."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from include.errors import BadConfig

PROJECT = Path(__file__).resolve().parent.parent

# The telemetry of dependencies, off unless the user's own environment turns it on.
_QUIET = {
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A registry that is away is the orchestrator's to retry: seven tries inside one call, MLflow's
    # default, take four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    # For the server that Prefect starts for one run: uvloop 0.23 was seen to sleep on when a thread
    # had ended its work, until a signal woke it.
    "UVICORN_LOOP": "asyncio",
}


@dataclass(frozen=True)
class AirflowServer:
    """An Airflow's address, and a user with a password or a token; a token goes first."""

    url: str
    user: str | None
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)


@dataclass(frozen=True)
class PrefectServer:
    """The address of a Prefect API, which ends in /api, and Prefect Cloud's key or a login.

    `auth` is `user:password` of a server with basic authentication; a key goes first.
    """

    url: str
    key: str | None = field(repr=False)
    auth: str | None = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """`home` holds what Daybreak makes on this machine; the URIs may lie anywhere else.

    `workspace` and `registry` are URIs, `pipelines` the folder that holds the pipeline folders,
    `connections_file` an airflow_settings.yaml whose connections are the last resort. `airflow` is
    where `daybreak backfill --via airflow` finds Airflow's API server, `prefect` where `--via
    prefect` finds Prefect's. `notify` are Apprise URLs; they hold passwords and tokens.
    `local_airflow_database` is the URL of a PostgreSQL for the Airflow that is started here.
    `storage_connections` are the connections of object stores, each with the bucket's URI that it
    is for, or the empty one for all others.
    """

    home: Path
    workspace: str
    registry: str
    pipelines: Path
    cache: Path
    connections_file: Path
    airflow: AirflowServer
    prefect: PrefectServer
    notify: tuple[str, ...] = field(repr=False)
    local_airflow_database: str | None = field(default=None, repr=False)
    backfill_pool: str | None = None
    storage_connections: tuple[tuple[str, str], ...] = ()


def settings() -> Settings:
    """The settings of this process, from DAYBREAK_* variables and their defaults."""
    home = Path(os.environ.get("DAYBREAK_HOME") or PROJECT / ".daybreak").absolute()
    return Settings(
        home=home,
        workspace=_uri(os.environ.get("DAYBREAK_WORKSPACE") or str(home / "workspace")),
        registry=(
            os.environ.get("DAYBREAK_REGISTRY")
            or os.environ.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{home / 'mlflow.db'}"
        ),
        pipelines=Path(os.environ.get("DAYBREAK_PIPELINES") or PROJECT / "include" / "pipelines"),
        cache=Path(os.environ.get("DAYBREAK_CACHE") or home / "cache"),
        connections_file=Path(
            os.environ.get("DAYBREAK_CONNECTIONS_FILE") or PROJECT / "airflow_settings.yaml"
        ),
        airflow=AirflowServer(
            url=(os.environ.get("DAYBREAK_AIRFLOW_URL") or "http://127.0.0.1:8080").rstrip("/"),
            user=os.environ.get("DAYBREAK_AIRFLOW_USER") or None,
            password=os.environ.get("DAYBREAK_AIRFLOW_PASSWORD") or None,
            token=os.environ.get("DAYBREAK_AIRFLOW_TOKEN") or None,
        ),
        # Prefect's own variables: who has a Prefect has set them for it.
        prefect=PrefectServer(
            url=(os.environ.get("PREFECT_API_URL") or "http://127.0.0.1:4200/api").rstrip("/"),
            key=os.environ.get("PREFECT_API_KEY") or None,
            auth=os.environ.get("PREFECT_API_AUTH_STRING") or None,
        ),
        notify=_urls(os.environ.get("DAYBREAK_NOTIFY") or ""),
        local_airflow_database=os.environ.get("DAYBREAK_AIRFLOW_DATABASE") or None,
        backfill_pool=os.environ.get("DAYBREAK_BACKFILL_POOL") or None,
        storage_connections=_by_bucket(os.environ.get("DAYBREAK_STORAGE_CONNECTION") or ""),
    )


def connection_variable(connection_id: str) -> str | None:
    """The value of AIRFLOW_CONN_<ID>, a URI or JSON, where the environment has one."""
    return os.environ.get(f"AIRFLOW_CONN_{connection_id.upper()}") or None


def current_user() -> str:
    """Who runs this process, for the records of what a person decided."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"uid {os.getuid()}"


def inherited_environment() -> dict[str, str]:
    """A copy of this process's environment, for the children that it starts."""
    return dict(os.environ)


def spark_submitted() -> bool:
    """Whether spark-submit started this process, with a master and settings of its own."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def show_gpus(addresses: Sequence[str]) -> None:
    """Let the libraries of this process see these GPUs alone; before any of them is imported."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(addresses)


@cache
def silence_telemetry() -> None:
    """Turn off what dependencies report home; called before any of them is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def _by_bucket(text: str) -> tuple[tuple[str, str], ...]:
    """`my_aws`, or `s3://bucket=my_aws,gs://other=my_gcp`; a connection's id has no equals sign."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    found = [(prefix, name.strip()) for prefix, _, name in (e.rpartition("=") for e in entries)]
    for prefix, name in found:
        if not re.fullmatch(r"([a-z0-9]+://[^/]+)?", prefix) or not re.fullmatch(r"[\w.-]+", name):
            raise BadConfig(
                f"DAYBREAK_STORAGE_CONNECTION has {prefix or name!r}, which is no connection of a "
                "bucket",
                do="write the id of a connection, or s3://bucket=id for each object store",
            )
    return tuple((prefix, name) for prefix, name in found)


def _urls(text: str) -> tuple[str, ...]:
    """URLs between commas or white space; a comma inside a URL, as in mailto://…?to=a,b, stays."""
    found = re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)", text.strip().strip(","))
    return tuple(url.strip() for url in found if url.strip())


def _uri(location: str) -> str:
    """A URI from a URI or a local path, without a final slash."""
    if "://" in location:
        scheme = location.split("://", 1)[0]
        if scheme not in {"file", "s3", "s3a", "gs", "abfs", "abfss", "az"}:
            raise BadConfig(
                f"DAYBREAK_WORKSPACE is {location!r}, of the unknown scheme {scheme!r}",
                do="use a path, file://, s3://, gs:// or abfs://",
            )
        return location.rstrip("/")
    return Path(location).absolute().as_uri()
