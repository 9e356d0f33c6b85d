"""The `daybreak` command, as its users meet it: what it prints, where, and its exit codes."""

from __future__ import annotations

import datetime as dt
import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from filelock import FileLock
from typer.testing import CliRunner, Result

import daybreak
from daybreak.cli import app
from daybreak.run import RETRIES, Outcome, new_request, run_steps
from include.errors import BadConfig, PermanentError, TransientError
from include.run import Value
from include.settings import PROJECT
from tests.world import World, copy_world

HEAVY = ["pandas", "pyarrow", "numpy", "mlflow", "sklearn", "lightgbm", "great_expectations"]
HEAVY += ["evidently", "duckdb", "deltalake", "obstore", "airflow", "sqlglot", "include.pipeline"]
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
STEPS = ("plan", "extract", "gate", "score", "publish", "drift", "report")


def shell(
    *arguments: str, env: dict[str, str] | None = None, columns: int = 80
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, its output not on a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "daybreak", *arguments],
        cwd=PROJECT,
        env={**os.environ, "COLUMNS": str(columns), **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def invoke(*arguments: str) -> Result:
    """Run the command in this process, where the heavy libraries are loaded already."""
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})


@pytest.fixture(scope="module")
def published(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose `day` was published by the command line; not to be changed."""
    shared = tmp_path_factory.mktemp("published")
    with FileLock(shared / "lock"):
        world = copy_world(built_world, shared / "world")
        done = shell("run", "tiny", "--date", str(world.day), "--json", env=world.env)
    assert done.returncode == 0, done.stderr
    (shared / "world" / "stdout.json").write_text(done.stdout)
    (shared / "world" / "stderr.txt").write_text(done.stderr)
    return world


@pytest.fixture
def there(published: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The published world as this process's environment."""
    for name, value in published.env.items():
        monkeypatch.setenv(name, value)
    return published


# The tool itself


def test_help_loads_no_library_that_takes_time():
    program = (
        "import sys; from daybreak.cli import app\n"
        "try: app(['run', '--help'])\n"
        f"except SystemExit: print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith("[]")


def test_help_names_every_command_and_fits_in_80_columns():
    done = shell("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^│ {command} ", done.stdout, re.MULTILINE), command
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_says_its_exit_codes_and_stands_in_the_readme(name: str):
    text = " ".join(invoke(name, "--help").stdout.split())
    assert "--json" in text
    assert re.search(r"Exit codes: 0 .+, 2 ", text), text
    assert f"`daybreak {name}" in (PROJECT / "README.md").read_text("utf-8")


def test_the_exit_codes_of_a_run_are_in_its_help():
    text = " ".join(shell("run", "--help").stdout.split())
    for said in ("0 published or unchanged", "1 the run failed", "2 bad usage", "3 held"):
        assert said in text


def test_the_version_is_the_packages():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    assert invoke("--version").stdout == f"daybreak {project['version']}\n"
    assert project["scripts"]["daybreak"] == "daybreak.cli:main"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run",), "Missing argument 'NAME'"),
        (("run", "tiny", "--date", "yesterday"), "'yesterday' is no date"),
        (("run", "tiny", "--nonsense"), "No such option"),
        (("versions", "tiny"), "Missing option '--date'"),
        (("runn", "tiny"), "run"),
    ],
)
def test_bad_usage_exits_with_2(arguments, said):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("run", "tinny"), ("check", "tinny"), ("report", "tinny"),
     ("versions", "tinny", "--date", "2026-02-05")],
)  # fmt: skip
def test_an_unknown_pipeline_is_answered_with_the_nearest_and_leaves_nothing(tiny, arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "there is no pipeline 'tinny'" in " ".join(result.stderr.split())
    assert "Did you mean 'tiny'?" in " ".join(result.stderr.split())
    assert not (tiny.home / "workspace" / "tinny").exists()


# A run


def test_a_run_prints_nothing_but_its_json_to_stdout_and_its_steps_to_stderr(published):
    where = published.home.parent
    printed = json.loads((where / "stdout.json").read_text())
    assert printed["state"] == "published" and printed["exit_code"] == 0
    assert printed["partition"] == str(published.day)
    counts = {"in": 300, "scored": 300, "quarantined": 0, "failed": 0, "published": 300}
    assert printed["rows"] == counts
    assert printed["model"] == {"name": "tiny-churn", "version": "1", "alias": "production"}
    assert printed["gate"]["passed"] is True and printed["gate"]["failed"] == []
    assert set(printed["seconds"]) == {*STEPS} - {"report"}
    assert printed["problem"] is None
    assert re.fullmatch(r"v[0-9a-f]{12}", printed["version"])
    for place in (printed["report"]["html"], printed["report"]["json"], printed["table"]):
        assert Path(place.removeprefix("file://")).exists()


def test_off_a_terminal_a_run_is_one_plain_line_a_step(published):
    text = (published.home.parent / "stderr.txt").read_text()
    assert "\x1b" not in text and "\r" not in text
    assert not re.search("[⠀-⣿]", text)  # no frame of a spinner
    told = re.findall(r"^  ✓ (\w+) +\d+\.\d s  (.+)$", text, re.MULTILINE)
    assert [step for step, _ in told] == list(STEPS)
    assert dict(told)["extract"] == "300 rows in 3 parts"
    assert dict(told)["publish"].startswith("published: version v")


def test_the_same_run_again_changes_nothing_and_says_so(there):
    result = invoke("run", "tiny", "--date", str(there.day))
    assert result.exit_code == 0, result.output
    assert re.search(r"│ run +│ tiny 2026-02-05  unchanged +│", result.stdout)
    for said in ("300 in, 300 scored, 0 quarantined", "passed: ", "tiny-churn version 1"):
        assert said in result.stdout
    assert "the same as before" in result.stderr and "scored before" in result.stderr
    path = re.search(r"report +(\S+/report\.html)$", result.stdout, re.MULTILINE)
    assert path and Path(path[1]).exists()


def test_on_a_terminal_the_steps_are_redrawn_and_the_summary_stands_below(there):
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "daybreak", "run", "tiny", "--date", str(there.day)],
        cwd=PROJECT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"},
        stdin=side, stdout=side, stderr=side, close_fds=True,
    )  # fmt: skip
    os.close(side)
    shown = bytearray()
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # Linux says that the other side is closed
            break
        if not chunk:
            break
        shown += chunk
    assert process.wait() == 0
    text = shown.decode()
    assert re.search("[⠀-⣿]", text) and "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    last = plain[plain.rindex("✓ plan") :]
    assert [*re.findall(r"✓ (\w+)", last)] == list(STEPS)
    assert "unchanged" in last and "report.html" in last


def test_readers_get_the_published_rows_by_date_and_by_version(there):
    table = daybreak.read("tiny", as_of="2026-02-05")
    assert table.num_rows == 300
    assert {"account_id", "churn_probability", "model_version", "run_id"} <= {*table.column_names}
    versions = json.loads(invoke("versions", "tiny", "-d", "2026-02-05", "--json").stdout)
    (version,) = versions["versions"]
    assert version["current"] is True and version["rows"] == 300
    assert daybreak.read("tiny", there.day, version["version"]).equals(table)


def test_what_is_not_there_to_read_is_said(there):
    with pytest.raises(PermanentError, match="2026-01-03"):
        daybreak.read("tiny", as_of=dt.date(2026, 1, 3))
    with pytest.raises(BadConfig, match="'5 February', no date"):
        daybreak.read("tiny", as_of="5 February")
    with pytest.raises(BadConfig, match="Did you mean 'tiny'"):
        daybreak.read("tinny", as_of="2026-02-05")
    assert "has no version of 2026-01-03" in invoke("versions", "tiny", "-d", "2026-01-03").stdout


def test_versions_are_a_table_for_people(there):
    result = invoke("versions", "tiny", "--date", "2026-02-05")
    assert result.exit_code == 0
    assert re.search(r"^ ?current +v[0-9a-f]{12} .* 300", result.stdout, re.MULTILINE)


def test_the_latest_report_of_a_date_is_found_and_its_path_is_all_that_is_printed(there):
    result = invoke("report", "tiny", "--date", "2026-02-05")
    assert result.exit_code == 0
    (path,) = result.stdout.splitlines()
    assert Path(path).name == "report.html" and Path(path).exists()
    as_json = json.loads(invoke("report", "tiny", "--json").stdout)
    assert as_json["state"] in ("published", "unchanged")
    none = invoke("report", "tiny", "--date", "2026-01-03")
    assert none.exit_code == 1
    assert "daybreak run tiny --date 2026-01-03" in " ".join(none.stderr.split())


def test_a_report_that_nothing_can_open_is_named_and_the_exit_code_is_not_zero(
    there, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))  # where no xdg-open is
    result = invoke("report", "tiny", "--open", "--json")
    assert result.exit_code == json.loads(result.stdout)["exit_code"] == 1
    assert "report.html" in result.stderr and "nothing on this machine" in result.stderr


def test_a_run_that_fails_is_one_clear_message_a_report_and_exit_code_1(tiny):
    tiny.configure({"gate": {"min_rows": 5000}})
    result = invoke("run", "tiny", "--date", str(tiny.day))
    assert result.exit_code == 1
    # The report of it is there: what asks for the report has not failed.
    shown = invoke("report", "tiny", "--json")
    printed = json.loads(shown.stdout)
    assert (shown.exit_code, printed["exit_code"], printed["state"]) == (0, 0, "failed")
    assert "Traceback" not in result.output
    said = " ".join(result.stderr.split())
    assert "gate failed: tiny 2026-02-05: " in said and "5,000" in said
    assert re.search(r"✗ gate .*failed", result.stderr)
    assert "✓ report" in result.stderr and "✓ score" not in result.stderr
    assert "failed" in result.stdout and "report.html" in result.stdout


def test_a_failed_run_says_its_problem_in_json_and_debug_shows_where(tiny):
    tiny.configure({"gate": {"min_rows": 5000}})
    result = invoke("run", "tiny", "--date", str(tiny.day), "--json", "--debug")
    printed = json.loads(result.stdout)
    assert printed["exit_code"] == result.exit_code == 1
    assert printed["problem"]["step"] == "gate" and printed["problem"]["error"] == "GateFailed"
    assert "Traceback" in result.stderr and "tasks/gate.py" in result.stderr


def test_a_model_that_does_not_exist_is_bad_configuration(tiny):
    tiny.configure({"model": {"alias": "champion"}})
    result = invoke("run", "tiny", "--date", str(tiny.day), "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["problem"]["step"] == "plan"
    assert "champion" in result.stderr


def test_a_version_whose_scores_moved_too_far_is_held_with_exit_code_3(tiny):
    assert invoke("run", "tiny", "--date", str(tiny.day)).exit_code == 0
    tiny.configure({"predictions": {"audit": {"max_score_psi": 0.00001}}})
    version = tiny.register_model(seed=7)
    result = invoke("run", "tiny", "--date", str(tiny.day), "--model-version", version)
    assert result.exit_code == 3, result.output
    assert "publish failed" in result.stderr or "held" in result.stderr
    assert "held" in result.stdout
    assert set(daybreak.read("tiny", tiny.day)["model_version"].to_pylist()) == {"1"}


def test_another_version_of_the_model_can_be_asked_for(tiny):
    tiny.register_model(seed=7)
    result = invoke("run", "tiny", "--date", str(tiny.day), "--model-version", "1", "--json")
    assert json.loads(result.stdout)["model"]["version"] == "1"


def test_verbose_logs_one_json_line_a_step_to_stderr(there):
    done = shell("run", "tiny", "--date", str(there.day), "-v", "--json", env=there.env)
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line["step"] for line in lines] == list(STEPS)
    assert all(line["pipeline"] == "tiny" and line["seconds"] >= 0 for line in lines)
    assert json.loads(done.stdout)["state"] == "unchanged"


def test_a_secret_of_a_connection_is_shown_nowhere(tiny, monkeypatch):
    monkeypatch.setenv(
        "AIRFLOW_CONN_TINY_WAREHOUSE",
        '{"conn_type": "duckdb", "host": "/none.duckdb", "password": "h4sh-hush", "login": "me"}',
    )
    for arguments in (("run", "tiny", "-d", str(tiny.day), "--debug", "-v"), ("check", "--debug")):
        result = invoke(*arguments)
        assert result.exit_code in (1, 2)
        assert "/none.duckdb" in "".join(result.output.split())
        assert "h4sh-hush" not in result.output


# What may pass is tried again


class Notes:
    """A watcher that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def started(self, step: str) -> None:
        self.told.append(("started", step))

    def retrying(self, step: str, error: TransientError, attempt: int, seconds: float) -> None:
        self.told.append((f"retry {attempt} in {seconds:g}", step))

    def finished(self, step: str, seconds: float, result: Value) -> None:
        self.told.append(("finished", step))

    def failed(self, step: str, seconds: float, error: Exception) -> None:
        self.told.append(("failed", step))


WRITER = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(tiny, monkeypatch):
    """A process that holds the warehouse's file for writing, as a nightly load does."""
    from include.warehouses import duckdb

    monkeypatch.setattr(duckdb, "OPEN_ATTEMPTS", 1)  # its own patience is tested elsewhere
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tiny.warehouse)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def outcome_of(tiny: World, notes: Notes, pause) -> Outcome:
    now = dt.datetime(2026, 2, 9, tzinfo=dt.UTC)
    return run_steps(new_request("tiny", now, tiny.day), notes, pause)


def test_a_locked_warehouse_is_tried_again_and_the_run_goes_on(tiny, writer):
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:  # the load is over
            writer.kill()
            writer.wait()

    notes = Notes()
    outcome = outcome_of(tiny, notes, pause)
    assert outcome.error is None and outcome.report is not None
    assert outcome.report.state == "published"
    assert waits == [2, 4]
    assert [told for told in notes.told if told[1] == "extract"] == [
        ("started", "extract"),
        ("retry 1 in 2", "extract"),
        ("retry 2 in 4", "extract"),
        ("finished", "extract"),
    ]


def test_a_fault_that_does_not_pass_fails_the_run_after_three_retries_and_reports(tiny, writer):
    waits: list[float] = []
    notes = Notes()
    outcome = outcome_of(tiny, notes, waits.append)
    assert waits == [2, 4, 8] and len(waits) == RETRIES
    assert outcome.failed_step == "extract"
    assert isinstance(outcome.error, TransientError)
    assert outcome.report is not None and outcome.report.state == "failed"
    assert ("started", "gate") not in notes.told
    assert notes.told[-1] == ("finished", "report")


def test_a_fault_that_no_retry_helps_is_not_tried_again(tiny):
    (tiny.folder / "features.sql").write_text("SELECT account_id FROM accounts")
    outcome = outcome_of(tiny, Notes(), lambda seconds: pytest.fail("waited"))
    assert isinstance(outcome.error, PermanentError) and outcome.failed_step == "extract"


def test_ids_of_runs_sort_by_time_and_are_never_the_same():
    early = dt.datetime(2026, 2, 5, 23, 59, tzinfo=dt.timezone(dt.timedelta(hours=-5)))
    late = dt.datetime(2026, 2, 6, 5, 0, tzinfo=dt.UTC)
    ids = [new_request("x", moment).invocation.id for moment in (early, late)]
    assert ids == sorted(ids) and ids[0].startswith("20260206T045900-")
    assert len({new_request("x", late).invocation.id for _ in range(50)}) > 45
