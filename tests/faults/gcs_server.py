"""A Google Cloud Storage of the tests' own over HTTP on loopback: the port is what it says first.

The client asks Google's XML API, which is S3's but for a few things. Those are here, before moto's
S3: a bearer token that a service account's key has signed, `x-goog-if-generation-match` on a put,
`x-goog-generation` in every answer about an object, 404 for deleting what is not there. No emulator
in the package registries has them: fake-gcs-server 1.54 neither puts nor deletes over the XML API,
and gcp-storage-emulator has no listing, no deletion and no precondition there.

It proves that Daybreak and its libraries work with a store that answers as Google documents it, and
what they ask of one. It does not prove that Google answers so: nothing here was written by Google.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import parse_qs

from include.settings import PROJECT
from tests.faults.s3_server import BUCKET, Faulty, Server

ACCOUNT = "daybreak@tests.iam.gserviceaccount.com"
# moto lets nobody read who signs nothing; it does not look at what is signed.
SIGNED = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, Signature=b"


@cache
def private_key(name: str) -> str:
    """The key of a service account, as PEM; another name is another key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


class GoogleServer(Server):
    """A running server; `env` is what a process needs to use it."""

    root = f"gs://{BUCKET}"

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.env = {
            "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(self.account("its own")),
            "GOOGLE_BASE_URL": self.url,
        }

    def account(self, key: str) -> dict[str, str]:
        """The service account's key file."""
        return {
            "type": "service_account",
            "client_email": ACCOUNT,
            "private_key_id": "1",
            "private_key": private_key(key),
        }

    def connection(self, *, key: str = "its own") -> dict[str, Any]:
        """An Airflow connection of the service account, with this server in the place of Google."""
        extra = {"keyfile_dict": {**self.account(key), "gcs_base_url": self.url}}
        return {"conn_type": "google_cloud_platform", "extra": extra}


@contextmanager
def running() -> Iterator[GoogleServer]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.gcs_server"],
        cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(private_key("its own"))
            process.stdin.close()
            yield GoogleServer(int(process.stdout.readline()))
        finally:
            process.kill()


class Google:
    """What is Google's about a request and its answer, around S3's application; no two at once."""

    def __init__(self, app: Callable[..., Iterable[bytes]], key: str) -> None:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        self.app = app
        self.key: Any = load_pem_private_key(key.encode(), password=None).public_key()
        self.generations: dict[str, int] = {}
        self.last = 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        name, query = environ["PATH_INFO"], parse_qs(environ["QUERY_STRING"])
        # What was sent has to be taken, or the connection breaks before the answer.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if not self.signed(environ.pop("HTTP_AUTHORIZATION", "")):
            return answer(start, "401 Unauthorized", error("AuthenticationRequired"))
        now = self.generations.get(name, 0)
        wanted = environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH")
        if wanted is not None and int(wanted) != now:
            return answer(start, "412 Precondition Failed", error("PreconditionFailed"))
        is_part = "uploadId" in query
        if environ["REQUEST_METHOD"] == "DELETE" and not is_part and not now:
            return answer(start, "404 Not Found", error("NoSuchKey"))
        environ["wsgi.input"] = io.BytesIO(body)
        environ["HTTP_AUTHORIZATION"] = SIGNED
        # The client writes even a slash of a name as %2F, which moto takes for part of the name.
        for raw in ("RAW_URI", "REQUEST_URI"):
            path, _, asked = environ[raw].partition("?")
            environ[raw] = path.replace("%2F", "/") + (f"?{asked}" if asked else "")
        said: list[Any] = []
        content = list(
            self.app(environ, lambda *status_and_headers: said.extend(status_and_headers))
        )
        status, headers = said[:2]
        if status.startswith("2"):
            self.note(environ["REQUEST_METHOD"], name, is_part)
        if name in self.generations:
            headers = [*headers, ("x-goog-generation", str(self.generations[name]))]
        start(status, headers)
        return content

    def note(self, method: str, name: str, is_part: bool) -> None:
        if method == "DELETE" and not is_part:
            del self.generations[name]
        elif (method == "POST") == is_part and method in ("PUT", "POST"):
            self.last += 1
            self.generations[name] = self.last

    def signed(self, authorization: str) -> bool:
        """Whether it is a token of the service account: a JWT, signed by its key, and in time."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        said, _, signature = authorization.removeprefix("Bearer ").rpartition(".")
        try:
            self.key.verify(decoded(signature), said.encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        claims = json.loads(decoded(said.partition(".")[2]))
        return bool(claims["iss"] == ACCOUNT and claims["exp"] > time.time())


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def error(code: str) -> str:
    return f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>"


def answer(start: Callable[..., Any], status: str, content: str) -> Iterable[bytes]:
    start(status, [("Content-Length", str(len(content)))])
    return [content.encode()]


def main() -> None:
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server
    from werkzeug.test import Client

    s3 = create_backend_app("s3")
    Client(s3).put(f"/{BUCKET}", base_url="http://127.0.0.1")
    app = Faulty(Google(s3, sys.stdin.read()))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
