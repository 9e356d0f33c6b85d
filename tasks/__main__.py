"""`python -m tasks score JOB_URI [--parts 0-3,7]`: what a pod or an executor runs.

It loads the job, scores those of the parts that have no receipt yet, and prints a line of JSON for
each to stdout. All that it needs of the run is the job's URI.

Exit codes: 0 every one of the parts has a receipt; 1 a failure that a retry cannot help; 75 a retry
may help, or SIGTERM: what is finished stays, and the same command goes on from there; 2 a wrong
command line. Before 1 or 75 for a failure, its record lies beside the receipts.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from include import part_ranges
from include.errors import DaybreakError, PermanentError, TransientError
from include.run import Part
from include.termination import RESUMABLE, Terminated, ended_by_sigterm, leave

if TYPE_CHECKING:
    from include.engines import Engine

PERMANENT = 1


def main(arguments: list[str] | None = None) -> int:
    """Parse, score, and answer with the exit code."""
    parser = argparse.ArgumentParser("python -m tasks", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    score = steps.add_parser("score", help="score parts of a job that `score` has stored")
    score.add_argument("job_uri", metavar="JOB_URI")
    score.add_argument("--parts", type=_indexes, default=None, metavar="0-3,7")
    score.add_argument("--workers", type=int, default=0, metavar="N", help="0 is one per core")
    score.add_argument(
        "--batch-rows",
        type=int,
        default=0,
        metavar="N",
        help="give the model so many rows at a time where memory is short; 0 is a whole part",
    )
    score.add_argument(
        "--engine",
        metavar="JSON",
        help="an engine section of pipeline.yaml; this machine's cores where it is left out. This "
        "is the driver that spark-submit runs",
    )
    options = parser.parse_args(arguments)
    try:
        with ended_by_sigterm():
            engine = _engine(options.engine, options.workers, options.batch_rows)
            _score(options.job_uri, options.parts, engine)
    except Terminated:
        _say(state="stopped", message="stopped by SIGTERM; the same command goes on from here")
        leave(RESUMABLE)
    except TransientError as error:
        _say(state="failed", retry=True, **error.fields())
        return RESUMABLE
    except DaybreakError as error:
        _say(state="failed", retry=False, **error.fields())
        return PERMANENT
    return 0


def _engine(section: str | None, workers: int, batch_rows: int) -> Engine:
    from include.engine_config import EngineConfig
    from include.engines import open_engine
    from include.engines.local import Local

    if section is None:
        return Local(workers, batch_rows=batch_rows)
    return open_engine(TypeAdapter(EngineConfig).validate_json(section))


def _score(job_uri: str, indexes: list[int] | None, engine: Engine) -> None:
    from include.pace import Pace
    from include.receipts import forget_failures, receipts
    from include.scoring import load_job
    from include.snapshots import manifest_at

    job = load_job(job_uri)
    manifest = manifest_at(job.snapshot_uri)
    parts = _chosen(manifest.parts, indexes, job_uri)
    rows = {part.index: part.rows for part in parts}
    finished = {r.part for r in receipts(job) if rows.get(r.part) == r.rows_in}
    rest = [part for part in parts if part.index not in finished]
    forget_failures(job, [part.index for part in rest])
    pace = Pace(
        rows=sum(rows.values()),
        parts=len(parts),
        rows_done=sum(rows[index] for index in finished),
        parts_done=len(finished),
    )
    _say(state="started", job=job_uri, pipeline=job.pipeline, version=job.version, **pace.fields())
    with closing(engine.score(job, rest)) as scored:  # type: ignore[type-var]
        for receipt in scored:
            pace.add(receipt)
            _say(
                part=receipt.part,
                scored=receipt.scored,
                quarantined=receipt.quarantined,
                failed=receipt.failed,
                seconds=receipt.seconds,
                device=receipt.device,
                **pace.fields(),
            )
    _say(state="done", **pace.fields())


def _chosen(parts: tuple[Part, ...], indexes: list[int] | None, job_uri: str) -> list[Part]:
    if indexes is None:
        return list(parts)
    by_index = {part.index: part for part in parts}
    unknown = [index for index in indexes if index not in by_index]
    if unknown:
        raise PermanentError(
            f"the snapshot has no part {', '.join(map(str, unknown))}: it has {len(parts)} parts, "
            "from 0",
            where=job_uri,
            do="correct --parts",
        )
    return [by_index[index] for index in indexes]


def _indexes(text: str) -> list[int]:
    """`0-3,7` as [0, 1, 2, 3, 7]."""
    try:
        return part_ranges.indexes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    sys.exit(main())
