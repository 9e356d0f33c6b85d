"""Objects by URI: whole or not at all, whatever their names and however many writers."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include import storage
from include.errors import DaybreakError, PermanentError, TransientError
from include.settings import PROJECT
from include.storage import join

AWKWARD = ["x y", "100%", "%20", "ü", "日本", "as_of=2013-10-01", "a#b", "a?b", "a+b", "a:b", "~t",
           "[x]", "a*b", "q'\"|", "a&b", "@home"]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> str:
    return (tmp_path / "a b%20ü=1").as_uri()


@pytest.mark.parametrize("name", AWKWARD)
def test_an_object_keeps_its_name_on_disk_and_is_found_by_it(tmp_path, root, name):
    uri = join(root, "below", name)
    storage.write(uri, b"content")
    assert (tmp_path / "a b%20ü=1" / "below" / name).read_bytes() == b"content"
    assert storage.local_path(uri) == tmp_path / "a b%20ü=1" / "below" / name
    assert storage.exists(uri) and storage.read(uri) == b"content"
    assert [entry.uri for entry in storage.entries(root)] == [uri]
    assert storage.create(uri, b"other") is False
    storage.delete([uri])
    assert not storage.exists(uri)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    name=st.text(
        st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"),
        min_size=1,
        max_size=30,
    ).filter(lambda name: name not in (".", "..") and name == name.strip("/"))
)
def test_any_file_name_is_written_read_and_listed(tmp_path, name):
    root = (tmp_path / "any").as_uri()
    uri = join(root, name)
    storage.write(uri, name.encode())
    assert storage.read(uri).decode() == name
    assert uri in {entry.uri for entry in storage.entries(root)}
    storage.delete([uri])


def test_a_written_object_is_replaced_whole(root):
    uri = join(root, "x")
    storage.write(uri, b"long content")
    storage.write(uri, b"short")
    assert storage.read(uri) == b"short"


def test_readers_see_the_old_bytes_or_the_new_and_never_a_mixture(root):
    uri, size, stop = join(root, "x"), 400_000, threading.Event()
    storage.write(uri, b"a" * size)
    faults: list[str] = []

    def read() -> None:
        while not stop.is_set():
            content = storage.read(uri)
            if len(content) != size or content not in (b"a" * size, b"b" * size):
                faults.append(f"{len(content)} bytes of {set(content[:1] + content[-1:])}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        storage.write(uri, (b"b" if turn % 2 else b"a") * size)
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []


RACER = """
import sys, time
from include import storage
uri, who, start = sys.argv[1], sys.argv[2], sys.argv[3]
storage.exists("file:///")
import obstore
print("ready", flush=True)
sys.stdin.readline()
wins = [n for n in range(40) if storage.create(f"{uri}/{n}", (who * 1000).encode())]
print(" ".join(map(str, wins)))
"""


def test_of_many_processes_that_create_an_object_exactly_one_wins(root):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, root, who, ""],
            cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for who in "abcd"
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = {}
    for who, racer in zip("abcd", racers, strict=True):
        said, _ = racer.communicate(timeout=60)
        assert racer.returncode == 0
        for number in said.split():
            assert wins.setdefault(number, who) == who
    assert len(wins) == 40
    for number, who in wins.items():
        assert storage.read(join(root, number)) == (who * 1000).encode()
    assert len(list(storage.entries(root))) == 40  # no temporary file is left behind


def test_what_is_not_there_is_file_not_found_and_may_be_deleted(root):
    with pytest.raises(FileNotFoundError):
        storage.read(join(root, "none"))
    assert not storage.exists(join(root, "none"))
    assert list(storage.entries(root)) == []
    storage.delete([join(root, "none"), join(root, "none", "deeper")])


def test_a_list_is_in_the_order_of_names_with_sizes_and_times_and_stays_below(root):
    for name in ("b/2", "b/10", "a", "ba/1", "b/é", "b/z"):
        storage.write(join(root, name), name.encode())
    listed = list(storage.entries(join(root, "b")))
    assert [entry.uri for entry in listed] == [
        join(root, name) for name in ("b/10", "b/2", "b/z", "b/é")
    ]
    assert [entry.size for entry in listed] == [4, 3, 3, 4]
    assert all(entry.modified_at.tzinfo is not None for entry in listed)
    assert all(abs(entry.modified_at - listed[0].modified_at) < dt.timedelta(minutes=1)
               for entry in listed)  # fmt: skip
    assert [entry.uri for entry in storage.entries(join(root, "b") + "/")] == [
        entry.uri for entry in listed
    ]


def test_an_empty_object_is_an_object(root):
    assert storage.create(join(root, "empty"), b"") is True
    assert storage.read(join(root, "empty")) == b""


def test_a_write_that_the_disk_refuses_names_the_object_and_is_of_our_kind(root):
    storage.write(join(root, "file"), b"")
    storage.write(join(root, "folder", "file"), b"")
    with pytest.raises(DaybreakError, match="storage could not write") as raised:
        storage.write(join(root, "folder"), b"")
    assert join(root, "folder") in str(raised.value)
    assert isinstance(raised.value, TransientError | PermanentError)


def test_names_are_joined_with_one_slash_and_quoted_once():
    assert join("s3://bucket/", "a/", "/b/c") == "s3://bucket/a/b/c"
    assert join("file:///x", "100% of it") == "file:///x/" + quote("100% of it")
    assert storage.local_path("s3://bucket/a") is None


@pytest.fixture(scope="module")
def bucket(request):
    """A bucket of a real S3 server on loopback."""
    import os

    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    import boto3

    boto3.client("s3").create_bucket(Bucket="daybreak")
    storage._store.cache_clear()
    yield "s3://daybreak/work"
    server.stop()
    storage._store.cache_clear()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.mark.parametrize("name", ["x", "as_of=2013-10-01/x y", "100%", "ü", "a+b"])
def test_an_object_store_behaves_as_the_disk_does(bucket, name):
    root = f"{bucket}/{quote(name)}"
    uri = join(root, name)
    with pytest.raises(FileNotFoundError):
        storage.read(uri)
    assert not storage.exists(uri)
    assert storage.create(uri, b"first") is True
    assert storage.create(uri, b"second") is False
    assert storage.read(uri) == b"first"
    storage.write(uri, b"third")
    assert storage.read(uri) == b"third"
    assert [(entry.uri, entry.size) for entry in storage.entries(root)] == [(uri, 5)]
    storage.delete([uri, uri])
    assert not storage.exists(uri)


def test_a_directory_in_the_place_of_an_object_is_a_storage_fault_that_names_it(tmp_path):
    (tmp_path / "part.parquet").mkdir()
    with pytest.raises(TransientError, match=r"could not read file:///.*part\.parquet"):
        storage.read((tmp_path / "part.parquet").as_uri())


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_the_end_of_an_object_is_read_alone_and_a_short_one_whole(place, root, request):
    uri = join(root if place == "disk" else request.getfixturevalue("bucket"), "ends")
    with pytest.raises(FileNotFoundError):
        storage.read_end(uri, 4)
    storage.write(uri, b"0123456789")
    assert storage.read_end(uri, 4) == (b"6789", 10)
    assert storage.read_end(uri, 10) == (b"0123456789", 10)
    assert storage.read_end(uri, 1000) == (b"0123456789", 10)
    storage.write(uri, b"")
    assert storage.read_end(uri, 4) == (b"", 0)


def test_what_a_killed_writer_left_is_no_object_and_can_be_deleted(root):
    uri = join(root, "below", "x y")
    storage.write(uri, b"whole")
    torn = storage.local_path(uri).with_name("x y#1")
    torn.write_bytes(b"wh")
    torn.with_name("a#b").write_bytes(b"an object")
    assert [entry.uri for entry in storage.entries(root)] == [join(root, "below", "a#b"), uri]
    (found,) = storage.unfinished(root)
    assert (found.uri, found.size) == (join(root, "below", "x y#1"), 2)
    storage.delete([found.uri, found.uri])
    assert list(storage.unfinished(root)) == []
    assert storage.read(uri) == b"whole"
    assert list(storage.unfinished("s3://bucket/anything")) == []


def test_a_bucket_that_is_not_there_is_an_error_that_names_it(bucket):
    with pytest.raises(PermanentError, match="s3://nobody/x.*(?i:create that bucket)"):
        storage.write("s3://nobody/x", b"1")
