"""Credentials of object stores: an Airflow connection's, or else those of the environment.

DAYBREAK_STORAGE_CONNECTION names the connection. Addresses are written into manifests and read for
years, credentials change: so no URI and no pipeline.yaml holds even the connection's name.

The options are by the names that obstore and delta-rs share, those of the Rust crate object_store.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

from include.connections import Connection, connection
from include.errors import BadConfig
from include.settings import settings

Options = dict[str, str]

# Schemes of URIs, and the kinds of connections, as Airflow calls them, that are for each.
_AMAZON, _GOOGLE = ("aws", "s3"), ("google_cloud_platform",)
_AZURE = ("wasb", "adls", "azure_data_lake")
_KINDS = {
    "s3": _AMAZON,
    "s3a": _AMAZON,
    "gs": _GOOGLE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "az": _AZURE,
}

# Of the parent process, for a worker process that has no orchestrator to ask for a connection.
_given: dict[str, Options] = {}
_found: dict[str, Options] = {}


def options(uri: str) -> Options:
    """What is to be said to the object store of `uri`; empty where the environment says all.

    Raises BadConfig for a connection that is not there, or of another kind than the store.
    """
    split = urlsplit(uri)
    if split.scheme not in _KINDS:
        return {}
    root = f"{split.scheme}://{split.netloc}"
    if root in _given:
        return dict(_given[root])
    of = dict(settings().storage_connections)
    name = of.get(root) or of.get("")
    if name is None:
        return {}
    _found[root] = _of(split.scheme, connection(name))
    return dict(_found[root])


def known() -> dict[str, Options]:
    """The options of all stores that this process has used, by their roots; they hold secrets."""
    return _given | _found


def use(stores: dict[str, Options]) -> None:
    """Use for these stores what another process knew of them."""
    _given.update(stores)


def _of(scheme: str, found: Connection) -> Options:
    fitting, read = _KINDS[scheme], _READERS[_KINDS[scheme][0]]
    kind = found.kind.replace("-", "_")  # a URI's scheme has no underscores
    if kind not in fitting:
        raise BadConfig(
            f"connection {found.id!r} is of the kind {found.kind!r}, and {scheme}:// needs one of "
            f"the kind {fitting[0]!r}",
            do="correct DAYBREAK_STORAGE_CONNECTION, or name one connection for each store: "
            "s3://bucket=one,gs://bucket=other",
        )
    options: Options = read(found)
    endpoint = options.get(_ENDPOINTS.get(fitting[0], ""), "")
    if endpoint and not re.match(r"https?://[^/]", endpoint):
        raise BadConfig(
            f"connection {found.id!r} has the endpoint {endpoint!r}, which is no URL",
            do="write it as https://host or http://host:port",
        )
    options["allow_http"] = "true" if endpoint.startswith("http://") else ""
    return {name: value for name, value in options.items() if value}


def _extra(found: Connection, name: str) -> Any:
    """A key of the extra; older releases of Airflow write it with a prefix."""
    prefixed = f"extra__{found.kind.replace('-', '_')}__{name}"
    return found.extra.get(name) or found.extra.get(prefixed)


def _text(found: Connection, name: str) -> str:
    return str(_extra(found, name) or "")


def _amazon(found: Connection) -> Options:
    """As the Amazon provider reads them; without a login, the keys are the environment's."""
    if _extra(found, "role_arn"):
        raise BadConfig(
            f"connection {found.id!r} has a role_arn, and Daybreak assumes no roles",
            do="let the machine have the role and take the connection's keys out, or write the "
            "keys of a session into it",
        )
    service = (_extra(found, "service_config") or {}).get("s3") or {}
    return {
        "aws_access_key_id": found.login or _text(found, "aws_access_key_id"),
        "aws_secret_access_key": found.password or _text(found, "aws_secret_access_key"),
        "aws_session_token": _text(found, "aws_session_token"),
        "aws_region": _text(found, "region_name"),
        "aws_endpoint": str(service.get("endpoint_url") or _text(found, "endpoint_url")),
    }


def _google(found: Connection) -> Options:
    """A service account's key, as JSON or as a file; without one, the machine's credentials.

    `gcs_base_url` in that JSON is the endpoint, where it is not Google's own.
    """
    key = _extra(found, "keyfile_dict")
    return {
        "google_service_account_key": json.dumps(key) if isinstance(key, dict) else key or "",
        "google_service_account": _text(found, "key_path"),
    }


def _azure(found: Connection) -> Options:
    """An account's key or a token, or with a tenant_id an application: its id and its secret."""
    parts = dict(
        part.split("=", 1) for part in _text(found, "connection_string").split(";") if "=" in part
    )
    account, endpoint = _azure_host(found.host)
    name, suffix = parts.get("AccountName", ""), parts.get("EndpointSuffix", "core.windows.net")
    if suffix != "core.windows.net":
        endpoint = f"{parts.get('DefaultEndpointsProtocol', 'https')}://{name}.blob.{suffix}"
    tenant = _text(found, "tenant_id")
    options = {
        "azure_storage_account_name": name or account or ("" if tenant else found.login),
        "azure_storage_endpoint": (
            _text(found, "azure_endpoint") or parts.get("BlobEndpoint") or endpoint
        ).rstrip("/"),
        "azure_storage_sas_token": _text(found, "sas_token")
        or parts.get("SharedAccessSignature", ""),
    }
    if tenant:
        return options | {
            "azure_storage_client_id": found.login,
            "azure_storage_client_secret": found.password,
            "azure_storage_tenant_id": tenant,
        }
    key = parts.get("AccountKey") or found.password or _text(found, "shared_access_key")
    return options | {"azure_storage_account_key": key}


def _azure_host(host: str) -> tuple[str, str]:
    """The account and the endpoint of a connection's host; "" for what it does not say.

    It is the account's name or a URL, of Azure's public cloud, of another cloud or of a private
    endpoint. The libraries ask for blobs, also where the URL is that of Data Lake Storage.
    """
    if not re.search("[./:]", host):
        return host, ""
    url = host if "://" in host else f"https://{host}"
    of_azure = re.match(r"https?://([a-z0-9]+)\.(?:[a-z0-9]+\.)?(?:blob|dfs)\.([a-z.]+)", url)
    account = of_azure[1] if of_azure else ""
    if of_azure and of_azure[2] == "core.windows.net" and ".privatelink." not in url:
        return account, ""
    return account, url.replace(".dfs.", ".blob.", 1)


_READERS = {_AMAZON[0]: _amazon, _GOOGLE[0]: _google, _AZURE[0]: _azure}
_ENDPOINTS = {_AMAZON[0]: "aws_endpoint", _AZURE[0]: "azure_storage_endpoint"}
