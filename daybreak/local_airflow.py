"""A whole Airflow on this machine, without Docker and without root.

PostgreSQL, API server, scheduler, DAG processor and triggerer as child processes with one
configuration, all ended together. The same parts as in production, so what works here (backfills,
retries, deadlines, several runs at once) works there.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

from daybreak.local_postgres import POSTGRESQL, LocalPostgres
from daybreak.local_settings import connections_of, pools_of
from include.errors import PermanentError
from include.settings import PROJECT, inherited_environment, settings

# In the order of their start; each must stay alive for the deployment to be healthy.
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
HEALTH_PARTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")
START_SECONDS = 180
STOP_SECONDS = 15
# A killed scheduler's workers keep its connection open, and with it the lock without which no other
# scheduler starts a task: PostgreSQL ends the transaction after so long.
IDLE_SECONDS = 120
LOGIN = "admin"
BACKFILL_POOL = "daybreak_backfill"

Progress = Callable[[str], None]


@dataclass
class LocalAirflow:
    """Starts with `start` or as a context manager; `environment` is what its processes see.

    `home` holds the database, logs and secrets and is reused by the next start. `database` is the
    URL of a PostgreSQL of the user's own; without one, a PostgreSQL is started below `home`.
    `overrides` are further environment variables for every process.
    """

    home: Path
    port: int = 8080
    database: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = lambda message: None

    def __post_init__(self) -> None:
        self.home = self.home.absolute()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment: dict[str, str] = {}
        self.postgres: LocalPostgres | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        return _secrets(self.home)["password"]

    def start(self) -> None:
        """Start everything and return once all of it is healthy.

        Raises PermanentError, with the end of the log of what failed, and leaves nothing running.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "logs").mkdir(exist_ok=True)
        try:
            self._refuse_taken_port()
            self.environment = self._environment(self.database or self._start_postgres())
            self.progress("migrating Airflow's database")
            self.command("db", "migrate")
            self._import(settings().connections_file)
            for component in COMPONENTS:
                self.progress(f"starting the {component}")
                self.launch(component)
            self.progress("waiting until all parts are healthy")
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process, the executor's workers included, and the PostgreSQL started here."""
        for process in self.processes.values():
            _signal_group(process, signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.progress(f"{process.pid} did not stop in time and is killed")
            # Workers outlive a scheduler that was killed: the group is ended in any case.
            _signal_group(process, signal.SIGKILL)
            process.wait()
        self.processes.clear()
        if self.postgres is not None:
            self.postgres.stop()
            self.postgres = None

    def __enter__(self) -> LocalAirflow:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def launch(self, component: str) -> subprocess.Popen[bytes]:
        """Start one component in a process group of its own; its log is logs/<component>.log."""
        with (self.home / "logs" / f"{component}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter's airflow
                [*_airflow(), component],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.processes[component] = process
        return process

    def command(self, *arguments: str) -> str:
        """Run one `airflow …` command to its end; its output."""
        done = subprocess.run(  # noqa: S603
            [*_airflow(), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            raise PermanentError(f"airflow {' '.join(arguments)} failed:\n{tail}")
        return done.stdout

    def health(self) -> dict[str, str]:
        """The status of each part as the API server sees it; empty while it does not answer."""
        try:
            with urllib.request.urlopen(  # noqa: S310 - http to our own loopback
                f"{self.address}/api/v2/monitor/health", timeout=5
            ) as answer:
                parts = json.load(answer)
        except (OSError, ValueError):
            return {}
        return {name: parts.get(name, {}).get("status") or "absent" for name in HEALTH_PARTS}

    def dead(self) -> str | None:
        """The first part that is not running any more: PostgreSQL, or a component."""
        if self.postgres is not None and self.postgres.died():
            return POSTGRESQL
        for component, process in self.processes.items():
            if process.poll() is not None:
                return component
        return None

    def log_tail(self, component: str, lines: int = 15) -> str:
        file = self.home / "logs" / f"{component}.log"
        if component == POSTGRESQL and self.postgres is not None:
            file = self.postgres.log
        text = file.read_text("utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _import(self, settings_file: Path) -> None:
        """What `astro dev start` makes of airflow_settings.yaml too."""
        made = {"pools": pools_of(settings_file), "connections": connections_of(settings_file)}
        for kind, content in made.items():
            if content:
                file = self.home / f"{kind}.json"
                _write_private(file, json.dumps(content))
                replacing = ["--overwrite"] if kind == "connections" else []
                self.command(kind, "import", str(file), *replacing)
                file.unlink()

    def _wait_until_healthy(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            component = self.dead()
            if component is not None:
                raise PermanentError(f"the {component} ended:\n{self.log_tail(component)}")
            health = self.health()
            if health and set(health.values()) == {"healthy"}:
                return
            time.sleep(0.5)
        raise PermanentError(
            f"Airflow was not healthy after {START_SECONDS} s: {self.health() or 'no answer'}",
            do=f"read the logs in {self.home / 'logs'}",
        )

    def _refuse_taken_port(self) -> None:
        import socket

        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                raise PermanentError(
                    f"port {self.port} is taken by another process",
                    do="end it, or choose another with --port",
                ) from None

    def _start_postgres(self) -> str:
        self.progress(f"starting {POSTGRESQL}")
        self.postgres = LocalPostgres(self.home / "postgres", self.progress)
        return self.postgres.start("airflow", idle_seconds=IDLE_SECONDS)

    def _environment(self, database: str) -> dict[str, str]:
        keys = _secrets(self.home)
        passwords = self.home / "passwords.json"
        _write_private(passwords, json.dumps({LOGIN: keys["password"]}))
        inherited = inherited_environment()
        environment = {
            name: value
            for name, value in inherited.items()
            if not name.startswith(("AIRFLOW__", "PYTHONDONTWRITEBYTECODE"))
        }
        environment |= {
            "AIRFLOW_HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(PROJECT), inherited.get("PYTHONPATH")))
            ),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{LOGIN}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.address,
            "AIRFLOW__API__SECRET_KEY": keys["secret"],
            "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            # A step is over in seconds here; the default of one second between two looks is felt.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
            # A busy machine answers a task later than the default of five seconds, which fails it.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
        }
        # The same pool as in airflow_settings.yaml, unless the environment names another.
        if BACKFILL_POOL in pools_of(settings().connections_file):
            environment.setdefault("DAYBREAK_BACKFILL_POOL", BACKFILL_POOL)
        return environment | dict(self.overrides)


def serve(airflow: LocalAirflow) -> int:
    """Run until a signal or until a part ends; 0 after Ctrl-C and its like, 1 otherwise."""
    stopped: list[int] = []
    for number in _stopping():
        signal.signal(number, lambda received, frame: stopped.append(received))
    while not stopped:
        component = airflow.dead()
        if component is not None:
            airflow.progress(f"the {component} ended:\n{airflow.log_tail(component)}")
            return 1
        time.sleep(0.3)
    return 0


def _airflow() -> list[str]:
    return [sys.executable, "-m", "airflow"]


def _secrets(home: Path) -> dict[str, str]:
    """The deployment's own secrets, made once: sessions and stored values outlive a restart."""
    file = home / "secrets.json"
    # An empty one was left by a kill, before anything was made with it.
    if not file.exists() or not file.read_text("utf-8").strip():
        values = {name: secrets.token_urlsafe(32) for name in ("jwt", "secret")}
        values["fernet"] = urlsafe_b64encode(secrets.token_bytes(32)).decode()
        values["password"] = secrets.token_urlsafe(9)
        _write_private(file, json.dumps(values))
    try:
        content: dict[str, str] = json.loads(file.read_text("utf-8"))
    except ValueError:
        raise PermanentError(
            "the secrets of this Airflow are no JSON",
            where=str(file),
            do="delete the file: the next start makes others, and the connections that were stored "
            "with the old ones have to be entered again",
        ) from None
    return content


def _write_private(file: Path, text: str) -> None:
    """Write the file whole or not at all, and never readable for others."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    Path(name).replace(file)


def _stopping() -> list[signal.Signals]:
    """Ctrl-C, SIGTERM, and a terminal that is closed, unless nohup keeps that from us."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Once: another signal must not cut short the end of what was started.
    for each in _stopping():
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(message: str) -> None:
    with suppress(OSError):  # the terminal is closed, and everything is to be ended all the same
        print(message, flush=True)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # The group is gone already, which is what the signal is for.


def _die_with_parent() -> None:
    """Let the kernel end this child when its parent dies, also by SIGKILL (Linux)."""
    pr_set_pdeathsig = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def main() -> int:
    """`make airflow`: start, say where, and run until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make airflow", description=main.__doc__)
    parser.add_argument("--port", type=int, default=8080, help="of the UI and API (8080)")
    parser.add_argument(
        "--home", type=Path, default=settings().home / "local-airflow", help="database and logs"
    )
    parser.add_argument(
        "--database",
        default=settings().local_airflow_database,
        help="URL of your own PostgreSQL; with a password rather in DAYBREAK_AIRFLOW_DATABASE",
    )
    arguments = parser.parse_args()
    airflow = LocalAirflow(
        arguments.home,
        arguments.port,
        arguments.database,
        progress=lambda message: _say(f"  {message}"),
    )
    # They end the start-up too, and with it everything that was started.
    for number in _stopping():
        signal.signal(number, _interrupt)
    try:
        with airflow:
            _say(
                f"\nAirflow is healthy: {airflow.address}   login {LOGIN}, "
                f"password {airflow.password}\nCtrl-C ends it."
            )
            return serve(airflow)
    except KeyboardInterrupt:
        return 0
    except PermanentError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
