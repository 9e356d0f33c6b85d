"""What an orchestrator's page says of a pipeline."""

from __future__ import annotations

from include.pipeline import Pipeline


def page(pipeline: Pipeline) -> str:
    """The pipeline's description and its few facts, as Markdown."""
    config = pipeline.config
    facts = {
        "Schedule": _schedule(pipeline),
        "Partition": _partition(pipeline),
        "Warehouse": f"{config.warehouse.kind}, connection `{config.warehouse.connection}`",
        "Key": _columns(config.key),
        "Model": f"`models:/{config.model.name}@{config.model.alias}`, {config.model.output}",
        "Gate": _gate(pipeline),
        "Predictions": f"{config.predictions.kind} table, score in "
        f"`{config.predictions.score_column}`",
        "Passed through": _columns(config.predictions.pass_through) or "nothing",
        "Owner": config.owner,
    }
    rows = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())
    return f"{config.description}\n\n| | |\n|---|---|\n{rows}\n"


def _schedule(pipeline: Pipeline) -> str:
    schedule = pipeline.config.schedule
    starts = [f"`{schedule.cron}` in {schedule.timezone}"] if schedule.cron else []
    if schedule.assets:
        starts.append(f"when updated: {_columns(schedule.assets)}")
    due = f", due by {schedule.deadline:%H:%M}" if schedule.deadline and schedule.cron else ""
    return ("; ".join(starts) or "when triggered") + due


def _partition(pipeline: Pipeline) -> str:
    rule = pipeline.config.partition
    if rule.lag == 0:
        return f"the {rule.grain} of the run's date"
    if rule.lag == 1:
        return f"the {rule.grain} before the run's date"
    return f"the {rule.grain} {rule.lag} {rule.grain}s before the run's date"


def _gate(pipeline: Pipeline) -> str:
    gate = pipeline.config.gate
    checks = [f"at least {gate.min_rows:,} rows"]
    if gate.max_rows is not None:
        checks = [f"{gate.min_rows:,} to {gate.max_rows:,} rows"]
    checks.append(f"at most {gate.max_quarantined_share:.2%} of them set aside")
    if gate.freshness is not None:
        checks.append(f"`{gate.freshness.column}` at most {gate.freshness.max_age_hours:g} h old")
    expectations = len(pipeline.suite.get("expectations") or ())
    checks.append(f"{expectations} expectation{'' if expectations == 1 else 's'} of suite.yaml")
    return "; ".join(checks)


def _columns(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
