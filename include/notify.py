"""Tell people: one message to every service of DAYBREAK_NOTIFY, through Apprise.

The services' URLs hold passwords and tokens. They go to Apprise and nowhere else: not into a log,
a report or an error, which name a service by its kind ("Slack") and say what Apprise said of it,
with every piece of the URL blotted out.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import unquote

from include import storage
from include.config import Event
from include.run import Value
from include.workspace import Workspace

log = logging.getLogger("daybreak")

Level = Literal["failure", "warning", "success"]

# What a service may refuse for its length; the report has the whole text.
LONGEST_LINE = 1_500
# A shorter piece of a URL, such as a port, is no secret and would blot out common words.
_SHORTEST_SECRET = 4
_quiet = threading.Lock()  # Loggers belong to the whole process.


class Message(Value):
    """One line of title, and lines of plain text."""

    title: str
    body: str
    level: Level

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.title}\n{self.body}".encode()).hexdigest()[:16]


class Notification(Value):
    """What became of a message: the kinds of the services that took it, and of those that did not.

    `failed` has the reason after the kind. `about` tells one message from another: what was sent
    already is not sent again.
    """

    event: Event
    about: str
    title: str
    at: dt.datetime
    sent: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def lines(facts: dict[str, str | None]) -> str:
    """A message's body: one line a fact that is known, each kept to a length that travels."""
    kept = []
    for name, fact in facts.items():
        if fact:
            short = fact if len(fact) <= LONGEST_LINE else f"{fact[: LONGEST_LINE - 1]}…"
            kept.append(f"{name}: {short}")
    return "\n".join(kept)


def notify(
    workspace: Workspace,
    run_id: str,
    event: Event,
    message: Message,
    urls: tuple[str, ...],
    *,
    about: str | None = None,
) -> Notification:
    """Send a message of a run and keep what became of it in the run's folder; never raises.

    The same message, or the same `about`, is sent once: a task that is repeated finds the record
    of what reached everyone. Where one service failed, a repeat sends to all of them again.
    """
    about = about or message.digest
    uri = workspace.notification(run_id, event)
    earlier = _earlier(uri)
    if earlier is not None and earlier.about == about and not earlier.failed:
        log.info("%s: told already, at %s", message.title, earlier.at.isoformat())
        return earlier
    sent, failed = send(message, urls)
    found = Notification(
        event=event,
        about=about,
        title=message.title,
        at=dt.datetime.now(dt.UTC),
        sent=sent,
        failed=failed,
    )
    if failed:
        log.warning("%s: nobody was told by %s", message.title, "; ".join(failed))
    if sent:
        log.info("%s: told by %s", message.title, ", ".join(sent))
    try:
        storage.write(uri, found.model_dump_json(indent=2).encode())
    except Exception as error:  # noqa: BLE001 - a message that was sent is more than its record
        log.warning("%s could not be written: %s", uri, error)
    return found


def notifications(workspace: Workspace, run_id: str) -> list[Notification]:
    """What people were told of a run, the first message first."""
    folder = workspace.notifications(run_id)
    found = [
        Notification.model_validate_json(storage.read(entry.uri))
        for entry in storage.entries(folder)
    ]
    return sorted(found, key=lambda each: each.at)


def send(message: Message, urls: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The kinds of the services that took the message, and of those that did not, with the reason.

    One service that fails keeps it from no other. A service has a few seconds to answer; retries
    are the URL's own (`?retry=3&wait=5`).
    """
    sent, failed = [], []
    for number, url in enumerate(urls, start=1):
        kind, reason = _sent(message, url, _entry(number, url))
        if reason is None:
            sent.append(kind)
        else:
            failed.append(f"{kind}: {reason}")
    return tuple(sent), tuple(failed)


def unusable(urls: tuple[str, ...]) -> tuple[str, ...]:
    """The entries of DAYBREAK_NOTIFY of which Apprise makes no service; nobody is sent anything."""
    import apprise

    found = []
    for number, url in enumerate(urls, start=1):
        with _overheard():
            try:
                service = apprise.Apprise.instantiate(url)
            except Exception:  # noqa: BLE001 - its words hold pieces of the URL
                service = None
        if service is None:
            found.append(_entry(number, url))
    return tuple(found)


def _sent(message: Message, url: str, entry: str) -> tuple[str, str | None]:
    """The service's kind, and why it did not take the message."""
    with _overheard() as said:
        try:
            import apprise

            service = apprise.Apprise.instantiate(url)
            if service is None:
                return entry, "it is no URL that Apprise can use"
            kind, channel = str(service.service_name), apprise.Apprise()
            channel.add(service)
            taken = channel.notify(
                title=message.title,
                body=message.body,
                notify_type=message.level,
                body_format="text",
            )
        except Exception as error:  # noqa: BLE001 - a message that fails must not fail the run
            return entry, blotted(f"{type(error).__name__}: {error}", url)
    if taken:
        return kind, None
    return kind, blotted(" ".join(said) or "the service did not take it", url)


def _entry(number: int, url: str) -> str:
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]{0,19})://", url)
    return f"entry {number} of DAYBREAK_NOTIFY" + (f" ({scheme[1]})" if scheme else "")


def blotted(text: str, url: str) -> str:
    """The text without any piece of the URL behind its scheme."""
    tail = url.partition("://")[2]
    pieces = {*re.split(r"[^A-Za-z0-9_.%-]+", tail), *re.split(r"[/?&=:,]+", unquote(tail))}
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= _SHORTEST_SECRET:
            text = re.sub(re.escape(piece), "…", text, flags=re.IGNORECASE)
    return text


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """What Apprise warns of, kept from every log: it names URLs, and urllib3 prints their paths."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener, apprise = Listener(logging.WARNING), logging.getLogger("apprise")
    requests = logging.getLogger("urllib3")
    with _quiet:
        before = (apprise.propagate, apprise.level, requests.level)
        apprise.addHandler(listener)
        apprise.propagate = False
        apprise.setLevel(logging.WARNING)
        requests.setLevel(logging.WARNING)
        try:
            yield said
        finally:
            apprise.removeHandler(listener)
            apprise.propagate = before[0]
            apprise.setLevel(before[1])
            requests.setLevel(before[2])


def _earlier(uri: str) -> Notification | None:
    try:
        return Notification.model_validate_json(storage.read(uri))
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - better told twice than not at all
        log.warning("%s could not be read: %s", uri, error)
        return None
