"""People hear of a run once, in words that help, and no URL of a service is ever shown."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daybreak.run import run_steps
from include import storage
from include.audit import HeldForApproval
from include.errors import PermanentError
from include.notify import Message, blotted, notifications, notify, send
from include.run import Report
from include.settings import settings
from include.workspace import Workspace
from tasks.report import report
from tests.inbox import Inbox
from tests.test_report import Night
from tests.world import World

MESSAGE = Message(title="churn 2026-03-08: failed at gate", body="What: rows", level="failure")


class Silent:
    """A watcher that says nothing."""

    def started(self, *told: Any) -> None: ...

    retrying = finished = failed = started


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox() as listening:
        yield listening


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace((tmp_path / "workspace").as_uri(), "churn")


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, urls: str, **rules: Any) -> Night:
    """A run's folder that `report` finds, with the pipeline's rules of notification."""
    made = Night(tmp_path / "workspace")
    config = made.pipeline.config.model_copy(
        update={"notify": made.pipeline.config.notify.model_copy(update=rules)}
    )
    made.pipeline = made.pipeline.model_copy(update={"config": config})
    monkeypatch.setenv("DAYBREAK_WORKSPACE", made.workspace.root)
    monkeypatch.setenv("DAYBREAK_NOTIFY", urls)
    return made


def failed_gate(made: Night) -> None:
    made.plan()
    made.extract()
    made.gate(PermanentError("12,034 rows, and min_rows is 20,000", do="look at the source"))


def content(made: Report) -> dict[str, Any]:
    return dict(json.loads(storage.read(made.json_uri)))


def test_urls_stand_between_commas_or_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "DAYBREAK_NOTIFY", " json://a/b,\n slack://x/y/z\tmailto://u:p@h?to=a@b.c,d@e.f, "
    )
    assert settings().notify == ("json://a/b", "slack://x/y/z", "mailto://u:p@h?to=a@b.c,d@e.f")
    assert "slack" not in repr(settings())
    monkeypatch.setenv("DAYBREAK_NOTIFY", " ")
    assert settings().notify == ()


def test_a_message_reaches_every_service(inbox: Inbox) -> None:
    with Inbox() as other:
        sent, failed = send(MESSAGE, (inbox.url, other.url))
    assert (sent, failed) == (("JSON", "JSON"), ())
    (message,) = inbox.messages
    assert message["title"] == MESSAGE.title
    assert message["message"] == MESSAGE.body
    assert message["type"] == "failure"
    assert other.messages == [message]


def test_a_service_that_fails_keeps_the_message_from_no_other(inbox: Inbox) -> None:
    with Inbox(status=500) as broken:
        urls = (broken.url, f"json://127.0.0.1:{closed_port()}", "nonsense", inbox.url)
        sent, failed = send(MESSAGE, urls)
    assert sent == ("JSON",)
    assert len(inbox.messages) == 1
    assert [reason.split(":")[0] for reason in failed] == [
        "JSON",
        "JSON",
        "entry 3 of DAYBREAK_NOTIFY",
    ]
    assert "500" in failed[0]


def test_no_piece_of_a_url_is_shown_or_logged(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    secrets = ("hunter2secret", "pass%40word", "pass@word", "T0KENT0KEN", "queryvalue")
    with Inbox(status=403) as refusing:
        urls = (
            f"json://someone:hunter2secret@127.0.0.1:{refusing.port}/T0KENT0KEN?+x=queryvalue",
            f"json://someone:pass%40word@127.0.0.1:{closed_port()}/T0KENT0KEN",
            "slack://T0KENT0KEN/hunter2secret",
            "nosuchthing://hunter2secret/T0KENT0KEN",
            "hunter2secret",
        )
        found = notify(workspace, "cli-1", "failure", MESSAGE, urls)
    assert len(found.failed) == len(urls) and not found.sent
    stored = storage.read(workspace.notification("cli-1", "failure")).decode()
    for shown in (stored, caplog.text, repr(found)):
        assert not [secret for secret in secrets if secret in shown]


def test_blotting_leaves_the_reason() -> None:
    url = "slack://user:s3cr3t@host.example/AAAA/BBBB"
    said = "host.example refused s3cr3t: Forbidden, error=403"
    assert blotted(said, url) == "… refused …: Forbidden, error=403"


def test_the_same_message_is_sent_once_and_another_again(
    workspace: Workspace, inbox: Inbox
) -> None:
    other = MESSAGE.model_copy(update={"body": "What: the warehouse is away"})
    for message in (MESSAGE, MESSAGE, other, other):
        notify(workspace, "cli-1", "failure", message, (inbox.url,))
    assert [each["message"] for each in inbox.messages] == [MESSAGE.body, other.body]


def test_what_reached_not_everyone_is_sent_again(workspace: Workspace, inbox: Inbox) -> None:
    inbox.status = 500
    first = notify(workspace, "cli-1", "failure", MESSAGE, (inbox.url,))
    inbox.status = 200
    second = notify(workspace, "cli-1", "failure", MESSAGE, (inbox.url,))
    assert (first.sent, second.sent, second.failed) == ((), ("JSON",), ())
    assert notifications(workspace, "cli-1") == [second]


def test_a_record_that_cannot_be_written_costs_no_message(
    workspace: Workspace, inbox: Inbox, tmp_path: Path
) -> None:
    (tmp_path / "workspace" / "churn" / "runs" / "cli-1").mkdir(parents=True)
    (tmp_path / "workspace" / "churn" / "runs" / "cli-1" / "notifications").write_text("a file")
    assert notify(workspace, "cli-1", "failure", MESSAGE, (inbox.url,)).sent == ("JSON",)


def test_a_failed_run_says_what_where_what_to_do_and_what_readers_see(
    tiny: World, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBREAK_NOTIFY", inbox.url)
    good = run_steps(tiny.request(run="good"), Silent())
    assert good.report is not None and inbox.messages == []  # `published` is not told by default
    tiny.configure({"gate": {"min_rows": 100_000}})
    day_after = tiny.day.replace(day=tiny.day.day + 1)
    failed = run_steps(tiny.request(day_after, run="failed"), Silent())
    assert failed.report is not None
    (message,) = inbox.messages
    assert message["title"] == f"tiny {day_after}: failed at gate"
    said = dict(line.split(": ", 1) for line in message["message"].splitlines())
    assert "min_rows" in said["What"] or "100,000" in said["What"]
    assert said["Where"].startswith("step gate")
    assert said["Do"]
    version = content(good.report)["publish"]["version"]
    assert f"see version {version} of {tiny.day}" in said["Readers"]
    assert said["Report"] == failed.report.html
    told = content(failed.report)["notifications"]
    assert [(each["event"], each["sent"], each["failed"]) for each in told] == [
        ("failure", ["JSON"], [])
    ]


def test_a_run_that_cannot_be_planned_is_told_with_what_readers_see(
    tiny: World, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBREAK_NOTIFY", inbox.url)
    run_steps(tiny.request(run="good"), Silent())
    run_steps(tiny.request(run="bad", model_version="99"), Silent())
    (message,) = inbox.messages
    assert message["title"].endswith(": failed at plan")
    assert f"of {tiny.day}, 300 rows" in message["message"]


def test_a_service_that_is_away_changes_nothing_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = night(tmp_path, monkeypatch, f"json://127.0.0.1:{closed_port()}")
    failed_gate(made)
    written = report(made.workspace.pipeline, made.run_id)
    assert written.state == "failed"
    (told,) = content(written)["notifications"]
    assert told["sent"] == [] and told["failed"]
    assert "nobody was told by JSON" in caplog.text
    assert "not told by JSON" in storage.read(written.html).decode()


def test_a_report_that_is_written_again_tells_nobody_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inbox: Inbox
) -> None:
    made = night(tmp_path, monkeypatch, inbox.url)
    failed_gate(made)
    for _ in range(2):
        written = report(made.workspace.pipeline, made.run_id)
    assert len(inbox.messages) == 1
    assert [each["event"] for each in content(written)["notifications"]] == ["failure"]


def test_a_held_version_asks_for_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inbox: Inbox
) -> None:
    made = night(tmp_path, monkeypatch, inbox.url)
    made.plan()
    made.extract()
    made.gate()
    made.step("score", None)
    made.step("publish", None, HeldForApproval("the scores moved by 0.9", do="approve it"))
    report(made.workspace.pipeline, made.run_id)
    (message,) = inbox.messages
    assert message["title"] == "customer_churn 2026-03-08: held, waits for a person"
    assert message["type"] == "warning"
    assert "What: the scores moved by 0.9" in message["message"]
    assert "Do: Approve it." in message["message"]


def test_people_are_told_only_of_what_the_pipeline_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inbox: Inbox
) -> None:
    made = night(tmp_path, monkeypatch, inbox.url, on=("held", "drift"))
    failed_gate(made)
    written = report(made.workspace.pipeline, made.run_id)
    assert inbox.messages == []
    assert content(written)["notifications"] == []


def test_a_published_run_is_told_where_the_pipeline_says_so(
    tiny: World, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.configure({"notify": {"on": ["published"]}})
    monkeypatch.setenv("DAYBREAK_NOTIFY", inbox.url)
    for run in ("first", "again"):  # the second finds the version unchanged
        run_steps(tiny.request(run=run), Silent())
    (message,) = inbox.messages
    assert message["title"] == f"tiny {tiny.day}: published"
    assert message["type"] == "success"


def test_loggers_are_left_as_they_were(inbox: Inbox) -> None:
    before = [
        (logging.getLogger(name).level, logging.getLogger(name).propagate)
        for name in ("apprise", "urllib3")
    ]
    send(MESSAGE, (inbox.url,))
    after = [
        (logging.getLogger(name).level, logging.getLogger(name).propagate)
        for name in ("apprise", "urllib3")
    ]
    assert before == after
