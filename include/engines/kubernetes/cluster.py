"""The cluster that the pods run in: which one it is, and its API's faults in our words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.connections import Connection, find_connection
from include.errors import BadConfig, PermanentError, TransientError
from include.settings import inherited_environment

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api, V1Pod

    from include.pod_config import KubernetesEngine

# Where Airflow looks without being told; so that one connection serves it and all else.
DEFAULT_CONNECTION = "kubernetes_default"

# Seconds to connect, and to answer.
TIMEOUT = (10, 60)

_SOURCES = ("in_cluster", "kube_config_path", "kube_config")


@dataclass(frozen=True)
class Access:
    """How to reach a cluster. At most one of the three ways; none is KUBECONFIG, or in-cluster."""

    in_cluster: bool = False
    kube_config_path: str | None = None
    kube_config: dict[str, Any] | None = None
    context: str | None = None
    namespace: str | None = None

    @property
    def named(self) -> bool:
        """Whether it says which cluster, and leaves nothing to KUBECONFIG."""
        return self.in_cluster or bool(self.kube_config_path or self.kube_config)


def access_of(config: KubernetesEngine) -> Access:
    """What the section's connection says; BadConfig where it says two things."""
    connection = find_connection(config.connection or DEFAULT_CONNECTION)
    if connection is None:
        if config.connection is None:
            return Access()
        raise BadConfig(
            f"there is no connection {config.connection!r}",
            do=f"set AIRFLOW_CONN_{config.connection.upper()}, or leave engine.connection out to "
            "use KUBECONFIG",
        )
    return access_by(connection)


def access_by(connection: Connection) -> Access:
    given = {name: value for name in _SOURCES if (value := _extra(connection, name))}
    if len(given) > 1:
        raise BadConfig(
            f"the connection {connection.id!r} has {' and '.join(given)}",
            do="leave one of them: a cluster is reached in one way",
        )
    content = given.get("kube_config")
    return Access(
        in_cluster=bool(given.get("in_cluster")),
        kube_config_path=given.get("kube_config_path"),
        kube_config=json.loads(content) if isinstance(content, str) else content,
        context=_extra(connection, "cluster_context"),
        namespace=_extra(connection, "namespace"),
    )


def _extra(connection: Connection, name: str) -> Any:
    # Airflow's older releases wrote the name with a prefix, and still read it.
    extra = connection.extra
    return extra.get(name) or extra.get(f"extra__kubernetes__{name}") or None


@dataclass(frozen=True)
class Cluster:
    """A namespace of a cluster, through its API; safe to use from several threads."""

    api: CoreV1Api
    namespace: str

    def create(self, pod: V1Pod) -> V1Pod:
        with refused_as_permanent(self.namespace):
            return self.api.create_namespaced_pod(self.namespace, pod, _request_timeout=TIMEOUT)

    def pods(self, selector: str) -> dict[str, V1Pod]:
        """Those whose labels fit `selector`, by name."""
        with faults_as_transient():
            found = self.api.list_namespaced_pod(
                self.namespace, label_selector=selector, _request_timeout=TIMEOUT
            )
        return {pod.metadata.name: pod for pod in found.items}

    def delete(self, name: str, grace_seconds: int | None = None) -> None:
        """Delete a pod; one that is gone already is no error."""
        from kubernetes.client import ApiException

        with faults_as_transient():
            try:
                self.api.delete_namespaced_pod(
                    name,
                    self.namespace,
                    grace_period_seconds=grace_seconds,
                    _request_timeout=TIMEOUT,
                )
            except ApiException as error:
                if error.status != 404:
                    raise

    def log(self, name: str, container: str, since_seconds: int | None = None) -> Iterator[bytes]:
        """The lines of a pod's log, each with its time in front, until the container ends."""
        answer = self.api.read_namespaced_pod_log(
            name,
            self.namespace,
            container=container,
            follow=True,
            timestamps=True,
            since_seconds=since_seconds,
            _preload_content=False,
            _request_timeout=(TIMEOUT[0], None),
        )
        with answer:
            yield from _lines(answer.stream(amt=None, decode_content=False))

    def warnings(self, name: str) -> str:
        """What the cluster's events warn about a pod, newest last, each once."""
        from kubernetes.client import ApiException

        try:
            events = self.api.list_namespaced_event(
                self.namespace,
                field_selector=f"involvedObject.name={name},type=Warning",
                _request_timeout=TIMEOUT,
            ).items
        except ApiException as error:
            return f"(its events cannot be read: {_said(error)})" if error.status == 403 else ""
        events.sort(key=lambda event: str(event.last_timestamp or event.event_time or ""))
        said = dict.fromkeys(f"{event.reason}: {(event.message or '').strip()}" for event in events)
        return "; ".join(list(said)[-3:])

    def may(self, verb: str, resource: str, subresource: str = "") -> bool:
        """Whether this account may do that in the namespace."""
        from kubernetes.client import AuthorizationV1Api
        from kubernetes.client import models as k8s

        review = k8s.V1SelfSubjectAccessReview(
            spec=k8s.V1SelfSubjectAccessReviewSpec(
                resource_attributes=k8s.V1ResourceAttributes(
                    namespace=self.namespace,
                    verb=verb,
                    resource=resource,
                    subresource=subresource,
                )
            )
        )
        with faults_as_transient():
            answer = AuthorizationV1Api(self.api.api_client).create_self_subject_access_review(
                review, _request_timeout=TIMEOUT
            )
        return bool(answer.status.allowed)


def open_cluster(config: KubernetesEngine) -> Cluster:
    """Reach the cluster of a pipeline's engine; BadConfig where nothing says which it is."""
    from kubernetes import client
    from kubernetes.config import ConfigException

    access = access_of(config)
    settings = client.Configuration()
    try:
        own_namespace = _load(access, settings)
    except (ConfigException, OSError, ValueError) as error:
        raise BadConfig(
            f"no Kubernetes cluster can be reached: {error}",
            do="name an Airflow connection of the kind kubernetes in engine.connection, or set "
            "KUBECONFIG",
        ) from error
    # A connection for each log that is followed, and some for the rest.
    settings.connection_pool_maxsize = config.pods + 8
    settings.retries = 3
    namespace = config.namespace or access.namespace or own_namespace or "default"
    return Cluster(client.CoreV1Api(client.ApiClient(settings)), namespace)


def _load(access: Access, settings: Any) -> str | None:
    """Fill in `settings`; the namespace that goes with them, where one does."""
    from kubernetes import config as kube

    def in_cluster() -> str:
        kube.load_incluster_config(client_configuration=settings)
        return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()

    if access.in_cluster:
        return in_cluster()
    if access.kube_config is not None:
        kube.load_kube_config_from_dict(
            access.kube_config, context=access.context, client_configuration=settings
        )
        return None
    file = access.kube_config_path or _kubeconfig()
    try:
        kube.load_kube_config(file, context=access.context, client_configuration=settings)
    except kube.ConfigException as error:
        if file is not None:
            raise kube.ConfigException(f"{file}: {error}".rstrip(".")) from None
        try:
            return in_cluster()
        except (kube.ConfigException, OSError):
            raise kube.ConfigException(
                "there is no connection, no KUBECONFIG, no ~/.kube/config, and this is no pod"
            ) from None
    _, active = kube.list_kube_config_contexts(file)
    if access.context is None and active:
        namespace: str | None = active.get("context", {}).get("namespace")
        return namespace
    return None


def kubeconfig_content() -> dict[str, Any] | None:
    """What the files of KUBECONFIG say together, for one who takes no files; None for no file."""
    from kubernetes.config.kube_config import KubeConfigMerger

    file = _kubeconfig()
    merged = KubeConfigMerger(file).config if file else None
    if merged is None:
        return None
    content: dict[str, Any] = dict(merged.value)
    for kind in ("clusters", "contexts", "users"):
        content[kind] = [named.value for named in content[kind]]
    return content


def _kubeconfig() -> str | None:
    """As it is now: the library reads it once, when it is imported, which may be long ago."""
    return inherited_environment().get("KUBECONFIG") or None


@contextmanager
def refused_as_permanent(namespace: str) -> Iterator[None]:
    """A pod that the API server will not have is refused the next time too: quota, rights, schema.

    A quota is full for as long as others fill it; which is for a person to see, not to wait for.
    """
    from kubernetes.client import ApiException

    with faults_as_transient():
        try:
            yield
        except ApiException as error:
            if error.status not in (400, 403, 404, 422):
                raise
            quota = "exceeded quota" in _said(error)
            raise PermanentError(
                f"Kubernetes refuses the pod: {_said(error)}",
                where=f"namespace {namespace}",
                do="raise the quota, or lower engine.pods or engine.resources"
                if quota
                else "correct the engine section, or give this account the right",
            ) from error


@contextmanager
def faults_as_transient() -> Iterator[None]:
    """A cluster's API that is away or busy is so for a while."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (ApiException, HTTPError, OSError) as error:
        said = _said(error) if isinstance(error, ApiException) else str(error)
        if isinstance(error, ApiException) and error.status in (401, 403):
            raise PermanentError(
                f"the Kubernetes API refuses this account: {said}",
                do="give it pods (get, list, watch, create, delete, patch), pods/log and events",
            ) from error
        raise TransientError(
            f"the Kubernetes API does not answer: {said}",
            do="see that the cluster is up and can be reached from here",
        ) from error


def _said(error: Any) -> str:
    """The API server's own message."""
    try:
        message = json.loads(error.body or "{}").get("message")
    except (ValueError, AttributeError):
        message = None
    return str(message or error.reason or error.status)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest
