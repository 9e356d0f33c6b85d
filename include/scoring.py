"""One part in, one part and its receipt out: the hot path, the same on every engine."""

from __future__ import annotations

import datetime as dt

from include.run import ModelVersion, Value


class ScoringJob(Value):
    """All that a worker needs to score any part of a version; JSON, in storage.

    Made once per version: whoever resumes it reads the same `run_id` and `scored_at`, so that a
    part has the same bytes whoever scores it. `parts_uri` is where scored parts go and
    `receipts_uri` where their receipts go.
    """

    pipeline: str
    as_of: dt.date
    version: str
    run_id: str
    scored_at: dt.datetime
    model: ModelVersion
    output: str
    key: tuple[str, ...]
    pass_through: tuple[str, ...]
    score_column: str
    quarantine_uri: str | None
    parts_uri: str
    receipts_uri: str
