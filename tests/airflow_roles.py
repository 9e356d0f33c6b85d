"""What the processes of an Airflow do with a connection that only its database has.

`python -m tests.airflow_roles < plan.json` prints a JSON object on its last line. Each role has a
process of its own, as in a deployment. Without a server, all of them are marked as Airflow marks
its API server, so that the connection comes straight out of the database.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dags.local as local

Role = Callable[[dict[str, Any]], Any]


def page(plan: dict[str, Any]) -> Any:
    from dags.report_pages import content_of

    content = content_of(plan["pipeline"], plan["airflow_run_id"], "report.json")
    return json.loads(content)["state"] if content is not None else None


def resumed(plan: dict[str, Any]) -> Any:
    """The task after a person's answer: Airflow starts another process for it."""
    from dags.approval import ask_for_approval

    run = SimpleNamespace(dag_id=plan["pipeline"], run_id=plan["airflow_run_id"])
    event = {
        "chosen_options": ["Approve"],
        "params_input": {"reason": "a strike"},
        "responded_at": "2026-03-08T09:00:00+00:00",
        "responded_by_user": {"id": "1", "name": "ann"},
    }
    context: Any = {"dag_run": run, "ti": SimpleNamespace(id="of-the-task")}
    return ask_for_approval(task_id="ask").execute_complete(context, event)


def trigger(plan: dict[str, Any], until: str | None = None) -> Any:
    """The trigger, which looks before anybody has made the connection; how often it complained."""
    import dags.approval as approval

    approval.POLL_SECONDS = 0.1
    complaints: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said = record.getMessage()
            if "looked in vain" in said:
                complaints.append(said)
                if until is None:
                    threading.Thread(target=connect, args=[plan]).start()

    logging.getLogger("daybreak").addHandler(Listener())
    waiting = approval.AnswerTrigger(
        plan["workspace"], plan["pipeline"], plan["as_of"], plan["version"], plan["ti_id"], until
    )

    async def fired() -> Any:
        return (await anext(waiting.run())).payload

    return {"event": asyncio.run(asyncio.wait_for(fired(), 300)), "complaints": complaints}


def too_late(plan: dict[str, Any]) -> Any:
    """The same without the connection, after the question's limit."""
    return trigger(plan, until="2026-03-08T19:40:00+00:00")


def connect(plan: dict[str, Any]) -> None:
    """Put the connection where `airflow connections add` does."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(Connection(conn_id=plan["connection"], **plan["fields"]))


def main() -> None:
    plan = json.load(sys.stdin)
    local.configure(Path(plan["home"]))
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    # In this order: the second trigger sees the connection come.
    roles: tuple[Role, ...] = (too_late, trigger, page, resumed)
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as processes:
        found = {role.__name__: processes.apply(role, (plan,)) for role in roles}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
