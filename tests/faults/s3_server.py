"""An S3 of the tests' own over HTTP on loopback: `python -m tests.faults.s3_server` says its port.

moto's server in a process of its own, that answers one request at a time: S3 decides a put with
If-None-Match at once, and moto looks first and writes then. POST /_lose?every=N makes it do every
Nth write and lose the answer, which is a 500 instead; POST /_fail?every=N makes it do nothing of
every Nth request and answer 503; 0 ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from include.settings import PROJECT

BUCKET = "daybreak"
KEY = SECRET = "test"


class Server:
    """A running server; `env` is what a process needs to use it."""

    root = f"s3://{BUCKET}"

    def __init__(self, port: int, key: str = KEY, secret: str = SECRET) -> None:
        self.url, self.key, self.secret = f"http://127.0.0.1:{port}", key, secret
        self.env = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
        }

    def connection(self, *, key: str = "") -> dict[str, Any]:
        """An Airflow connection of the server's user."""
        extra = {"region_name": "us-east-1", "endpoint_url": self.url}
        password = key or self.secret
        return {"conn_type": "aws", "login": self.key, "password": password, "extra": extra}

    def post(self, path: str) -> None:
        request = urllib.request.Request(f"{self.url}{path}", method="POST")
        urllib.request.urlopen(request, timeout=60).close()

    def make_bucket(self) -> None:
        request = urllib.request.Request(f"{self.url}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()


@contextmanager
def running(*, guarded: bool = False) -> Iterator[Server]:
    """A server of its own; one that is `guarded` lets only its one user in, by key and signature.

    moto asks nobody for the first few requests: those that make the bucket and the user.
    """
    unasked = {"INITIAL_NO_AUTH_ACTION_COUNT": "4"} if guarded else {}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.s3_server"],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | unasked,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            server = Server(int(process.stdout.readline()))
            server.make_bucket()
            yield Server(int(server.url.rpartition(":")[2]), *_user(server)) if guarded else server
        finally:
            process.kill()


def _user(server: Server) -> tuple[str, str]:
    """A user who may do everything with the bucket: the key and the secret."""
    import boto3

    iam = boto3.client(
        "iam", endpoint_url=server.url, region_name="us-east-1",
        aws_access_key_id=KEY, aws_secret_access_key=SECRET,
    )  # fmt: skip
    iam.create_user(UserName=BUCKET)
    every = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [every]})
    iam.put_user_policy(UserName=BUCKET, PolicyName=BUCKET, PolicyDocument=policy)
    made = iam.create_access_key(UserName=BUCKET)["AccessKey"]
    return made["AccessKeyId"], made["SecretAccessKey"]


class Faulty:
    """The server's application behind a lock, and its faults."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.lock = threading.Lock()
        self.lose = self.fail = self.writes = self.requests = 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        every = int(parse_qs(environ.get("QUERY_STRING", "")).get("every", ["0"])[0])
        if environ["PATH_INFO"] in ("/_lose", "/_fail"):
            setattr(self, environ["PATH_INFO"][2:], every)
            start("200 OK", [])
            return [b""]
        with self.lock:
            self.requests += 1
            if self.fail and self.requests % self.fail == 0:
                # What was sent has to be taken, or the connection breaks instead.
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
            lost = False
            if environ["REQUEST_METHOD"] == "PUT":
                self.writes += 1
                lost = bool(self.lose) and self.writes % self.lose == 0
            if not lost:
                return list(self.app(environ, start))
            list(self.app(environ, lambda *_: None))
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]


def main() -> None:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    app = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    os.environ.update({"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"})
    main()
