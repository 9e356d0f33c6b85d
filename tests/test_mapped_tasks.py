"""A run on pods whose parts are all scored: Airflow skips a task that is mapped over nothing."""

from __future__ import annotations

from include.engines.kubernetes.pod import PARTS, option_of
from tasks.extract import extract
from tasks.gate import gate
from tasks.plan import plan
from tasks.pods import pods
from tasks.score import score
from tests.world import World


def test_where_nothing_is_left_to_score_the_pods_task_still_has_one_instance(tiny: World) -> None:
    (tiny.folder / "suite.yaml").write_text("expectations: []\n", "utf-8")
    run = plan(tiny.request())
    snapshot = extract(run)
    gated = gate(run, snapshot)
    score(run, snapshot, gated)
    file = tiny.folder / "pipeline.yaml"
    local = "engine:\n  kind: local\n  workers: 1\n"
    text = file.read_text("utf-8")
    assert local in text
    file.write_text(text.replace(local, "engine: {kind: kubernetes, image: 'x:1'}\n"), "utf-8")
    again = plan(tiny.request(run="again"))
    (arguments,) = pods(again, extract(again), gate(again, snapshot)).arguments
    # Of no parts: whoever starts pods starts none for it, and the run goes on to its end.
    assert option_of(arguments, PARTS) == ""
