"""A version that the audit held: the question to a person in Airflow, and what answers it.

The task waits for an answer in Airflow, for one given on the command line (`daybreak approve`), and
for the question's time limit, whichever is first.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context, Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.hitl import (
    get_hitl_detail_content_detail,
    update_hitl_detail_response,
    upsert_hitl_detail,
)
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from dags.airflow_run import connection_of, own_run_id, report_page
from include import storage
from include.connections import use_connections_of
from include.errors import DaybreakError, PermanentError
from include.settings import settings
from include.stored import load
from include.workspace import Workspace

if TYPE_CHECKING:
    from include.approvals import Held

log = logging.getLogger("daybreak")

APPROVE, REJECT = "Approve", "Reject"
POLL_SECONDS = 5.0
UNKNOWN = "unknown"  # the limit is over, and the record could not be read


class AskForApproval(HITLOperator):
    """Asks whether a held version is to be published, and returns what was answered.

    Skipped where the version is not held. What it returns is for `answer_of`.
    """

    def execute(self, context: Context) -> Any:
        use_connections_of(connection_of)
        try:
            return self._ask(context)
        except PermanentError as error:
            raise AirflowFailException(str(error)) from None

    def _ask(self, context: Context) -> Any:
        from include.approval_page import question, subject_of
        from include.approvals import standing_of
        from include.pipeline import planned_pipeline
        from include.reports.records import read_records
        from include.stores import open_store
        from tasks.report import report

        ti = context["ti"]
        workspace = Workspace(settings().workspace, context["dag_run"].dag_id)
        records = read_records(workspace, own_run_id(context))
        run, scored = records.run, records.scored
        if run is None or scored is None:
            raise AirflowSkipException("nothing was scored, so nothing is held")
        version, as_of = scored.version, run.partition.as_of
        standing = standing_of(workspace, as_of, version)
        held, state = standing.held, standing.state(dt.datetime.now(dt.UTC))
        if held is None:
            raise AirflowSkipException(f"version {version} is not held")
        if state != "waiting":
            self.log.info("Version %s was answered before it was asked about", version)
            return {"version": version, "answer": None}
        # The report as it stands, and the message to people: the run may wait for hours.
        report(run.pipeline, own_run_id(context))
        store = open_store(planned_pipeline(run).config.predictions, workspace.predictions())
        self.subject = subject_of(held)
        page = report_page(context["dag_run"].dag_id, context["dag_run"].run_id)
        self.body = question(held, store.manifest(as_of, version), page)
        # Airflow forgets an answer when it is asked again: a retry only waits for it, or finds it.
        asked = f"{self._asked(workspace, context)}{held.question}.json"
        if not storage.exists(asked):
            upsert_hitl_detail(
                ti_id=ti.id,
                options=self.options,
                subject=self.subject,
                body=self.body,
                defaults=self.defaults,
                multiple=False,
                params=self.serialized_params,
            )
            storage.write(asked, held.model_dump_json().encode())
        self.log.info("%s waits for a person: %s", held.version, held.how_to_answer())
        return self.defer(
            trigger=AnswerTrigger(
                workspace=run.workspace,
                pipeline=run.pipeline,
                as_of=as_of.isoformat(),
                version=version,
                ti_id=str(ti.id),
                until=held.until.isoformat(),
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """`event` is Airflow's, of a person's answer, or AnswerTrigger's."""
        use_connections_of(connection_of)  # another process than the one that asked
        try:
            return self._answered(context, event)
        except PermanentError as error:
            raise AirflowFailException(str(error)) from None

    def _answered(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        from include.reports.records import read_records

        workspace = Workspace(settings().workspace, context["dag_run"].dag_id)
        scored = read_records(workspace, own_run_id(context)).scored
        if scored is None:
            raise AirflowFailException("the run's records do not say what was scored")
        version = scored.version
        if event.get("on_record") == UNKNOWN:
            self.log.warning("The time limit is over, and the answer could not be read")
            return {"version": version, "answer": None}
        if event.get("on_record"):
            self.log.info("The question was answered on record: %s", event["on_record"])
            return {"version": version, "answer": None}
        chosen = event["chosen_options"]
        self.validate_chosen_options(chosen)
        given, who = event.get("params_input") or {}, event.get("responded_by_user") or {}
        shown = self._shown(workspace, context)
        at = event["responded_at"]
        return {
            "version": version,
            "answer": {
                "verdict": "approved" if chosen == [APPROVE] else "rejected",
                "by": who.get("name") or who.get("id") or "Airflow",
                "at": at if isinstance(at, str) else at.isoformat(),
                "reason": given.get("reason") or "",
            },
            "shown": {"version": shown.replaces} if shown is not None else None,
        }

    def _shown(self, workspace: Workspace, context: Context) -> Held | None:
        """The question as whoever answered in Airflow has read it: the last that was asked."""
        from include.approvals import Held

        asked = self._asked(workspace, context)
        questions = [
            load(Held, entry.uri, "the question as Airflow showed it")
            for entry in storage.entries(workspace.run(own_run_id(context)))
            if entry.uri.startswith(asked)
        ]
        return max(questions, key=lambda held: held.question, default=None)

    def _asked(self, workspace: Workspace, context: Context) -> str:
        """What the files begin with that say which questions Airflow has shown."""
        return storage.join(workspace.run(own_run_id(context)), f"asked-{context['ti'].id}-")


def ask_for_approval(**task_args: Any) -> AskForApproval:
    """The task that asks; what it says of the version is filled in when it does."""
    reason = Param(
        "",
        type=["null", "string"],
        title="Reason",
        description="Why, for the version's history.",
    )
    return AskForApproval(
        subject="Publish the predictions that the audit held?",
        options=[APPROVE, REJECT],
        defaults=[REJECT],
        params={"reason": reason},
        **task_args,
    )


class AnswerTrigger(BaseTrigger):
    """Fires once a held version is answered, in Airflow or in the workspace, or its time is up.

    Airflow resumes the task itself when somebody answers there. It is looked at here too, for an
    answer that came before the task had begun to wait.

    Whatever keeps it from looking, it looks again until `until`, the question's limit: a trigger
    that fails takes the question with it. After that it fires, and the task meets the error.
    """

    def __init__(
        self,
        workspace: str,
        pipeline: str,
        as_of: str,
        version: str,
        ti_id: str | UUID,
        until: str | None = None,
    ) -> None:
        super().__init__()
        self.workspace, self.pipeline = workspace, pipeline
        self.as_of, self.version, self.ti_id = as_of, version, str(ti_id)
        self.until = until
        self._said = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "dags.approval.AnswerTrigger",
            {
                "workspace": self.workspace,
                "pipeline": self.pipeline,
                "as_of": self.as_of,
                "version": self.version,
                "ti_id": self.ti_id,
                "until": self.until,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        while True:
            given = await self._given()
            if given is not None:
                yield TriggerEvent(given)
                return
            # In a thread: the triggerer's other triggers wait for no storage and no connection.
            verdict = await asyncio.to_thread(self._verdict)
            if verdict is not None:
                if verdict != UNKNOWN:
                    await self._close(verdict)
                yield TriggerEvent({"on_record": verdict})
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _given(self) -> dict[str, Any] | None:
        """What was answered in Airflow, as Airflow itself hands it to a task."""
        try:
            detail = await sync_to_async(get_hitl_detail_content_detail)(ti_id=UUID(self.ti_id))
        except Exception as error:  # noqa: BLE001 - an answer on the command line still counts
            log.warning("Airflow did not say whether it was answered there: %s", error)
            return None
        # None by `DAG.test`, whose Airflow has nobody who could answer there.
        if detail is None or not detail.response_received or not detail.chosen_options:
            return None
        user = detail.responded_by_user
        return {
            "chosen_options": list(detail.chosen_options),
            "params_input": detail.params_input or {},
            "responded_at": detail.responded_at,
            "responded_by_user": {"id": user.id, "name": user.name} if user else None,
        }

    def _verdict(self) -> str | None:
        """What is on record, the time limit's own answer included; None while it waits."""
        from include.approvals import standing_of

        use_connections_of(connection_of)
        now = dt.datetime.now(dt.UTC)
        try:
            workspace, as_of = Workspace(self.workspace, self.pipeline), self.as_of
            standing = standing_of(workspace, dt.date.fromisoformat(as_of), self.version)
            state = standing.state(now)
        except Exception as error:  # noqa: BLE001 - a trigger that ends here loses the answer
            known = isinstance(error, DaybreakError)
            said = str(error) if known else f"{type(error).__name__}: {error}"
            if said != self._said:  # once, and not every five seconds of a night
                log.warning("looked in vain for an answer, and look again: %s", said)
            self._said = said
            late = self.until is not None and now >= dt.datetime.fromisoformat(self.until)
            return UNKNOWN if late else None
        self._said = ""
        return None if state == "waiting" else state

    async def _close(self, verdict: str) -> None:
        """Take the question off the list of actions that Airflow asks for."""
        chosen = [APPROVE if verdict == "approved" else REJECT]
        try:
            await sync_to_async(update_hitl_detail_response)(
                ti_id=UUID(self.ti_id), chosen_options=chosen, params_input={}
            )
        except Exception as error:  # noqa: BLE001 - what is on record goes first in any case
            log.info("the question was closed in Airflow meanwhile: %s", error)


def answer_of(asked: Any) -> tuple[str, Any, Any]:
    """The version, the answer given in Airflow, and what the question said that readers had.

    The last two are None where the answer is on record already.
    """
    from include.approvals import Answer
    from include.stores import Seen

    given, shown = asked["answer"], asked.get("shown")
    return (
        asked["version"],
        None if given is None else Answer.model_validate(given),
        None if shown is None else Seen.model_validate(shown),
    )
