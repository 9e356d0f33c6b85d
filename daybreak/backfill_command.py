"""What the command `daybreak backfill` does, from its options to its exit code."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from daybreak.backfill import (
    Backfill,
    Only,
    Results,
    Via,
    code_of_results,
    plan_backfill,
    plan_json,
    results_json,
)
from daybreak.backfill_board import board_on, print_plan, results_table, sum_up
from daybreak.exit_codes import FAILED, INTERRUPTED
from include.errors import DaybreakError
from include.settings import settings, silence_telemetry

if TYPE_CHECKING:
    from rich.console import Console

    from daybreak.backfill_prefect import PrefectPlan
    from daybreak.backfill_ticks import AirflowPlan


def backfill_command(
    name: str,
    first: dt.date,
    last: dt.date,
    only: Only,
    via: Via,
    parallel: int,
    dry_run: bool,
    now: dt.datetime,
    out: Console | None,
    err: Console,
) -> tuple[dict[str, Any], int]:
    """Plan and run a backfill; what `--json` prints of it, and the exit code.

    The plan and the results are printed to `out`, where there is one, progress to `err`.
    """
    silence_telemetry()
    airflow: AirflowPlan | None = None
    prefect: PrefectPlan | None = None
    with err.status("Looking at what there is …"):
        backfill = plan_backfill(name, first, last, only, now)
        if via == "airflow":
            from daybreak.airflow_api import AirflowApi
            from daybreak.backfill_ticks import plan_airflow

            api = AirflowApi(settings().airflow)
            airflow = plan_airflow(backfill, api, now, settings().backfill_pool)
            backfill = airflow.backfill
        elif via == "prefect":
            from daybreak.backfill_prefect import plan_prefect
            from daybreak.prefect_api import PrefectApi

            server = PrefectApi(settings().prefect)
            prefect = plan_prefect(backfill, server, now)
    if dry_run:
        if out is not None:
            print_plan(out, backfill, parallel)
        return plan_json(backfill, parallel, via), 0
    err.print(sum_up(backfill, parallel), highlight=False, soft_wrap=True)
    results = Results()
    if backfill.partitions:
        with board_on(err, len(backfill.partitions)) as board:
            try:
                if airflow is not None:
                    from daybreak.backfill_airflow import run_airflow

                    run_airflow(airflow, api, parallel, board, results)
                elif prefect is not None:
                    from daybreak.backfill_prefect import run_prefect

                    run_prefect(prefect, server, parallel, board, results)
                else:
                    from daybreak.backfill_local import run_local

                    run_local(backfill, parallel, board, results)
            except DaybreakError as error:  # what is done by then is shown all the same
                results.error = error
    return _ended(backfill, results, via, out, err)


def _ended(
    backfill: Backfill, results: Results, via: Via, out: Console | None, err: Console
) -> tuple[dict[str, Any], int]:
    found, error = results.complete(backfill), results.error
    code = INTERRUPTED if results.interrupted else FAILED if error else code_of_results(found)
    if out is not None and found:
        out.print(results_table(found))
    if error is not None:
        from rich.text import Text

        err.print(Text.assemble(("Error: ", "bold red"), str(error)), soft_wrap=True)
    return results_json(backfill, found, via, code, error), code
