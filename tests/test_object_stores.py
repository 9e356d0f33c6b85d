"""An object store's credentials from an Airflow connection: they work, and stand nowhere else."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import daybreak
from include import object_stores, storage
from include.config import Predictions
from include.connections import use_connections_of
from include.errors import BadConfig, PermanentError
from include.settings import PROJECT
from include.stores import open_store
from include.workspace import Workspace
from tests.faults.azure_server import AzureServer
from tests.faults.gcs_server import GoogleServer, private_key
from tests.faults.s3_server import BUCKET, KEY, SECRET, Server, running
from tests.world import NAME, World, copy_world

pytest_plugins = ("tests.faults.places",)

ID = "predictions_s3"
Cloud = Server | GoogleServer | AzureServer


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """An S3 that refuses who does not sign with the one key that it gave out."""
    with running(guarded=True) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(object_stores, "_given", {})
    monkeypatch.setattr(object_stores, "_found", {})
    storage._store.cache_clear()
    yield
    storage._store.cache_clear()


@pytest.fixture(params=["guarded", "gcs_server", "azure_server"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """An S3, a Google Cloud Storage and an Azure Blob Storage, which all look at who asks."""
    server: Cloud = request.getfixturevalue(request.param)
    return server


def connection(server: Cloud, **key: str) -> str:
    """AIRFLOW_CONN_… of the server's user, as JSON."""
    return json.dumps(server.connection(**key))


def test_a_run_with_a_connection_publishes_and_its_secrets_are_nowhere(
    guarded: Server, built_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = copy_world(built_world, tmp_path / "world")
    world.configure({"engine": {"workers": 2}})  # processes, which have to know them too
    root = f"s3://{BUCKET}/{tmp_path.name}"
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **world.env,
        "DAYBREAK_WORKSPACE": root,
        "DAYBREAK_STORAGE_CONNECTION": ID,
        f"AIRFLOW_CONN_{ID.upper()}": connection(guarded),
    }
    command = [sys.executable, "-m", "daybreak", "run", NAME, "--date", str(world.day), "--json"]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    for name in ("DAYBREAK_WORKSPACE", "DAYBREAK_STORAGE_CONNECTION", *world.env):
        monkeypatch.setenv(name, env[name])
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", connection(guarded))
    storage._store.cache_clear()
    assert daybreak.read(NAME, str(world.day)).num_rows == json.loads(done.stdout)["rows"]["scored"]

    stored = [entry.uri for entry in storage.entries(root)]
    assert any(uri.endswith("/job.json") for uri in stored)
    written = {uri: storage.read(uri) for uri in stored}
    written |= {"stdout": done.stdout, "stderr": done.stderr}
    written |= {str(path): path.read_bytes() for path in world.home.rglob("*") if path.is_file()}
    for secret in (guarded.secret, guarded.key):
        assert [name for name, content in written.items() if secret.encode() in content] == []


def told(error: BaseException) -> str:
    """All that a log would tell of an error."""
    return "".join(traceback.format_exception(error))


ASKING: dict[str, Callable[[str], object]] = {
    "write": lambda uri: storage.write(uri, b"x"),
    "create": lambda uri: storage.create(uri, b"x"),
    "read": storage.read,
    "exists": storage.exists,
    "list": lambda uri: list(storage.entries(uri)),
    "delete": lambda uri: storage.delete([uri]),
    "delta": lambda uri: open_store(Predictions(), uri).current_versions(),
}


def test_wrong_keys_are_refused_in_one_clear_error_that_holds_no_secret(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = key = base64.b64encode(b"wr0ng" * 13).decode()
    if isinstance(cloud, GoogleServer):
        key, secret = "another", private_key("another").splitlines()[1]
    uri = f"{cloud.root}/refused"
    monkeypatch.setenv("DAYBREAK_STORAGE_CONNECTION", f"{cloud.root}={ID}")
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", connection(cloud, key=key))
    for name, ask in ASKING.items():
        with pytest.raises(PermanentError) as raised:
            ask(uri)
        assert uri in str(raised.value), name
        assert secret not in told(raised.value), name
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", connection(cloud))
    storage._store.cache_clear()
    assert not storage.exists(uri)
    assert open_store(Predictions(), uri).current_versions() == {}


def test_a_bucket_that_is_not_there_is_one_clear_error(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{cloud.root}-of-nobody/x"
    monkeypatch.setenv("DAYBREAK_STORAGE_CONNECTION", ID)
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", connection(cloud))
    for name in ("write", "create", "list"):
        with pytest.raises(PermanentError, match="Create that bucket") as raised:
            ASKING[name](uri)
        assert uri in str(raised.value), name


KEY_FILE = {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": "s3cret"}}
BROKEN: list[tuple[str, dict[str, object], str]] = [
    (
        "gs://a",
        {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": "s3cret"}},
        "decode",
    ),
    (
        "gs://a",
        {"conn_type": "google_cloud_platform", "extra": {"key_path": "/no/key.json"}},
        "/no/key.json",
    ),
    (
        "abfs://a",
        {"conn_type": "wasb", "login": "acme", "password": "s3cret!"},
        "Invalid Access Key",
    ),
    ("abfs://a", {"conn_type": "wasb", "password": "s3cretA="}, "Account must be specified"),
    (
        "abfs://a@acme.dfs.core.chinacloudapi.cn",
        {"conn_type": "wasb", "login": "acme", "password": "s3cretA="},
        "did not match",
    ),
    (
        "s3://a",
        {"conn_type": "aws", "login": "k", "password": "s3cret", "extra": {"endpoint_url": "r2/x"}},
        "no URL",
    ),
]


@pytest.mark.parametrize(("root", "values", "found"), BROKEN)
def test_a_connection_that_reaches_no_store_at_all_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, root: str, values: dict[str, object], found: str
) -> None:
    """Not one that is tried again, and from Delta the same as from a single object."""
    monkeypatch.setenv("DAYBREAK_STORAGE_CONNECTION", ID)
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", json.dumps(values))
    for name, ask in ASKING.items():
        with pytest.raises(BadConfig) as raised:
            ask(f"{root}/x")
        assert found in str(raised.value), name
        assert "s3cret" not in told(raised.value), name


def test_addresses_of_azure_in_each_form_are_the_same_objects(
    azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBREAK_STORAGE_CONNECTION", ID)
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", connection(azure_server))
    whole = "daybreak@acme.dfs.core.windows.net"
    roots = [azure_server.root, "az://daybreak", f"abfs://{whole}", f"abfss://{whole}"]
    storage.write(f"{azure_server.root}/forms/a", b"a")
    for root in roots:
        assert storage.read(f"{root}/forms/a") == b"a"
        assert [entry.uri for entry in storage.entries(f"{root}/forms")] == [f"{root}/forms/a"]
        assert open_store(Predictions(), f"{root}/table").current_versions() == {}


def test_a_shared_access_signature_is_enough_and_stands_in_no_error(
    azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for deleting: Azurite answers 500 to a batch that is signed so."""
    monkeypatch.setenv("DAYBREAK_STORAGE_CONNECTION", ID)
    text = f"BlobEndpoint={azure_server.url};AccountName=acme;SharedAccessSignature="
    good = azure_server.sas()
    for token in (good, good.replace("sig=", "sig=s3cret")):
        values = {"conn_type": "wasb", "extra": {"connection_string": text + token}}
        monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", json.dumps(values))
        storage._store.cache_clear()
        uri = f"{azure_server.root}/signed"
        if token == good:
            storage.write(uri, b"x")
            assert storage.read(uri) == b"x"
            assert open_store(Predictions(), f"{uri}/table").current_versions() == {}
            continue
        for name in ("write", "read", "list", "delta"):
            with pytest.raises(PermanentError) as raised:
                ASKING[name](uri)
            assert "s3cret" not in told(raised.value), name


def test_a_connection_that_only_the_orchestrator_knows_reaches_worker_processes(
    guarded: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a connection in Airflow's database does: a spawned process has nobody to ask."""
    from include.connections import Connection

    monkeypatch.setenv("DAYBREAK_STORAGE_CONNECTION", ID)
    extra = {"region_name": "us-east-1", "endpoint_url": guarded.url}
    known = Connection(ID, "aws", login=guarded.key, password=guarded.secret, extra=extra)
    use_connections_of(lambda name: known if name == ID else None)
    try:
        storage.write(f"s3://{BUCKET}/asked", b"for")
        handed = object_stores.known()
    finally:
        use_connections_of(lambda name: None)
    object_stores._found.clear()
    storage._store.cache_clear()
    with pytest.raises(BadConfig, match=ID):
        storage.read(f"s3://{BUCKET}/asked")
    object_stores.use(handed)
    assert storage.read(f"s3://{BUCKET}/asked") == b"for"


def options(monkeypatch: pytest.MonkeyPatch, uri: str, **values: object) -> dict[str, str]:
    monkeypatch.setenv("DAYBREAK_STORAGE_CONNECTION", ID)
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", json.dumps(values))
    object_stores._found.clear()
    return object_stores.options(uri)


def test_connections_of_every_cloud_are_read_as_airflows_providers_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = {"aws_session_token": "t", "service_config": {"s3": {"endpoint_url": "https://r2"}}}
    assert options(
        monkeypatch, "s3://a/b", conn_type="aws", login="k", password="s", extra=session
    ) == {
        "aws_access_key_id": "k",
        "aws_secret_access_key": "s",
        "aws_session_token": "t",
        "aws_endpoint": "https://r2",
    }
    google = {"extra__google_cloud_platform__keyfile_dict": {"type": "service_account"}}
    assert options(monkeypatch, "gs://a", conn_type="google_cloud_platform", extra=google) == {
        "google_service_account_key": '{"type": "service_account"}'
    }
    assert options(
        monkeypatch, "gs://a", conn_type="google_cloud_platform", extra={"key_path": "/run/k.json"}
    ) == {"google_service_account": "/run/k.json"}
    key = {"azure_storage_account_name": "acme", "azure_storage_account_key": "a2V5"}
    assert (
        options(monkeypatch, "abfs://box/x", conn_type="wasb", login="acme", password="a2V5") == key
    )
    text = "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=a2V5;EndpointSuffix="
    for suffix, more in [
        ("core.windows.net", {}),
        (
            "core.chinacloudapi.cn",
            {"azure_storage_endpoint": "https://acme.blob.core.chinacloudapi.cn"},
        ),
    ]:
        extra = {"connection_string": text + suffix}
        assert options(monkeypatch, "abfs://box", conn_type="wasb", extra=extra) == key | more
    assert options(
        monkeypatch, "abfs://box", conn_type="wasb", host="https://acme.blob.core.windows.net",
        login="app", password="s", extra={"tenant_id": "t"},
    ) == {
        "azure_storage_account_name": "acme",
        "azure_storage_client_id": "app",
        "azure_storage_client_secret": "s",
        "azure_storage_tenant_id": "t",
    }  # fmt: skip
    assert object_stores.options("file:///disk") == {}


@pytest.mark.parametrize(
    ("host", "account", "endpoint"),
    [
        ("acme", "acme", ""),
        ("acme.blob.core.windows.net", "acme", ""),
        ("https://acme.dfs.core.windows.net/", "acme", ""),
        (
            "https://acme.z7.blob.storage.azure.net",
            "acme",
            "https://acme.z7.blob.storage.azure.net",
        ),
        (
            "https://acme.dfs.core.usgovcloudapi.net",
            "acme",
            "https://acme.blob.core.usgovcloudapi.net",
        ),
        (
            "https://acme.privatelink.blob.core.windows.net",
            "acme",
            "https://acme.privatelink.blob.core.windows.net",
        ),
        ("https://blobs.acme.example", "login", "https://blobs.acme.example"),
        ("http://127.0.0.1:10000/acme", "login", "http://127.0.0.1:10000/acme"),
    ],
)
def test_the_host_of_an_azure_connection_is_an_account_or_an_endpoint(
    monkeypatch: pytest.MonkeyPatch, host: str, account: str, endpoint: str
) -> None:
    known = {"conn_type": "wasb", "host": host, "login": "login", "password": "a2V5"}
    found = options(monkeypatch, "abfs://box", **known)
    assert found["azure_storage_account_name"] == account
    assert found.get("azure_storage_endpoint", "") == endpoint
    assert ("allow_http" in found) == endpoint.startswith("http://")
    own = {"azure_endpoint": "https://10.0.0.9/"}
    found = options(monkeypatch, "abfs://box", **known, extra=own)
    assert found["azure_storage_endpoint"] == "https://10.0.0.9"


def test_obstore_and_delta_know_these_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused by name where a library knows them not; nothing is asked over a network."""
    options(monkeypatch, "abfs://box", conn_type="wasb", login="acme", password="a2V5")
    storage._store("abfs://box")
    key = {"type": "service_account", "project_id": "p", "private_key_id": "i", "client_email": "e"}
    options(monkeypatch, "gs://a", conn_type="google_cloud_platform", extra={"keyfile_dict": key})
    with pytest.raises(Exception, match="private_key"):
        storage._store("gs://a")


@pytest.mark.parametrize(
    ("setting", "values", "said"),
    [
        (ID, {"conn_type": "wasb"}, "of the kind 'wasb', and s3:// needs"),
        (ID, {"conn_type": "aws", "extra": {"role_arn": "arn:x"}}, "assumes no roles"),
        ("s3://a/b=x", {"conn_type": "aws"}, "no connection of a bucket"),
        ("nobody", {"conn_type": "aws"}, "there is no connection 'nobody'"),
    ],
)
def test_a_connection_that_cannot_serve_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, setting: str, values: dict[str, object], said: str
) -> None:
    monkeypatch.setenv("DAYBREAK_STORAGE_CONNECTION", setting)
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", json.dumps(values))
    with pytest.raises(BadConfig, match=said):
        object_stores.options("s3://a/b")


def test_each_bucket_may_have_a_connection_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_STORAGE_CONNECTION", "s3://one=c1, s3://two=c2,c3")
    for name in ("c1", "c2", "c3"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", f"aws://{name}:secret@")
    buckets = {"s3://one/x": "c1", "s3://two": "c2", "s3://three/y": "c3"}
    found = {uri: object_stores.options(uri)["aws_access_key_id"] for uri in buckets}
    assert found == buckets


def test_without_a_connection_the_environment_is_asked(guarded: Server) -> None:
    assert object_stores.options(f"s3://{BUCKET}") == {}
    assert Workspace(f"s3://{BUCKET}", NAME).predictions() == f"s3://{BUCKET}/{NAME}/predictions"
    assert guarded.key != KEY and guarded.secret != SECRET
