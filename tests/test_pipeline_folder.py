"""A pipeline folder is data: whatever is wrong in it is named with its file and line."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.config import PipelineConfig
from include.errors import BadConfig
from include.pipeline import (
    Pipeline,
    load_named,
    load_pipeline,
    pipeline_folders,
    read_pipeline,
)
from include.yaml_lines import parse_yaml

YAML = """\
description: Delay of every flight
warehouse:
  kind: duckdb
  connection: flights
key: [flight_id]
model:
  name: flight_delay
  output: value
"""
SQL = "select flight_id, distance from flights where day = $as_of\n"
SUITE = "expectations: []\n"


def folder(root: Path, yaml: str = YAML, sql: str = SQL, suite: str = SUITE) -> Path:
    place = root / "flight_delay"
    place.mkdir(parents=True, exist_ok=True)
    (place / "pipeline.yaml").write_text(yaml, "utf-8")
    (place / "features.sql").write_text(sql, "utf-8")
    (place / "suite.yaml").write_text(suite, "utf-8")
    return place


def problems(root: Path, yaml: str = YAML, sql: str = SQL, suite: str = SUITE) -> list[BadConfig]:
    pipeline, found = read_pipeline(folder(root, yaml, sql, suite))
    assert (pipeline is None) == bool(found)
    assert all(problem.pipeline == "flight_delay" for problem in found)
    return found


def the_problem(root: Path, yaml: str = YAML, **files: str) -> BadConfig:
    (found,) = problems(root, yaml, **files)
    return found


def line_of(error: BadConfig) -> int:
    return int(error.where.rpartition(":")[2])


def test_the_smallest_pipeline_loads_with_every_default(tmp_path):
    pipeline = load_pipeline(folder(tmp_path))
    assert pipeline.name == "flight_delay"
    assert pipeline.config.schedule.timezone == "UTC"
    assert pipeline.config.predictions.score_column == "score"
    assert pipeline.config.model.alias == "production"
    assert pipeline.sql == SQL


def test_an_unknown_key_is_named_with_its_file_its_line_and_the_nearest_key(tmp_path):
    error = the_problem(tmp_path, YAML + "shedule:\n  cron: '0 6 * * *'\n")
    assert "unknown key 'shedule'" in error.found
    assert error.where == f"{tmp_path}/flight_delay/pipeline.yaml:9"
    assert "did you mean 'schedule'?" in error.do


def test_an_unknown_key_far_below_is_answered_with_the_keys_of_its_own_section(tmp_path):
    text = YAML + "predictions:\n  audit:\n\n    # a comment\n    max_psi: 0.3\n"
    error = the_problem(tmp_path, text)
    assert "predictions.audit.max_psi" in error.found
    assert line_of(error) == 13
    assert "max_score_psi" in error.do and "warehouse" not in error.do


def test_an_unknown_key_within_an_optional_section_finds_that_sections_keys(tmp_path):
    text = YAML + "gate: {freshness: {column: day, max_age_hours: 3, max_age: 4}}\n"
    error = the_problem(tmp_path, text)
    assert "max_age_hours" in error.do


def test_every_problem_of_a_file_is_said_at_once_in_the_order_of_the_lines(tmp_path):
    text = YAML.replace("  output: value\n", "  output: class\n") + (
        "owners: me\npartition: {grain: hour}\ntagz: [a]\n"
    )
    found = problems(tmp_path, text)
    assert [line_of(error) for error in found] == [8, 9, 10, 11]
    assert "did you mean 'owner'?" in found[1].do
    assert "did you mean 'tags'?" in found[3].do
    with pytest.raises(BadConfig) as raised:
        load_pipeline(tmp_path / "flight_delay")
    for said in ("4 problems", "pipeline.yaml:8", "pipeline.yaml:11", "did you mean 'tags'?"):
        assert said in str(raised.value)


def test_problems_of_different_files_are_said_together(tmp_path):
    place = folder(tmp_path, YAML + "nonsense: 1\n", sql="  \n", suite="- a\n- b\n")
    _, found = read_pipeline(place)
    assert [Path(error.where.partition(":")[0]).name for error in found] == [
        "pipeline.yaml",
        "features.sql",
        "suite.yaml",
    ]


@pytest.mark.parametrize("missing", ["pipeline.yaml", "features.sql", "suite.yaml"])
def test_a_missing_file_is_named(tmp_path, missing):
    place = folder(tmp_path)
    (place / missing).unlink()
    with pytest.raises(BadConfig, match=re.escape(f"{missing} is missing")) as raised:
        load_pipeline(place)
    assert raised.value.where == str(place / missing)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    place = folder(tmp_path)
    (place / "suite.yaml").unlink()
    (place / "suite.yaml").mkdir()
    with pytest.raises(BadConfig, match=r"suite\.yaml cannot be read"):
        load_pipeline(place)


def test_a_file_that_is_not_utf8_is_named_and_a_byte_order_mark_is_no_fault(tmp_path):
    place = folder(tmp_path)
    (place / "pipeline.yaml").write_bytes(b"\xef\xbb\xbf" + YAML.encode())
    assert load_pipeline(place).config.description == "Delay of every flight"
    (place / "pipeline.yaml").write_bytes(YAML.replace("Delay", "D\xe9lai").encode("latin-1"))
    with pytest.raises(BadConfig, match=r"pipeline\.yaml is not UTF-8 text: .* at byte 14"):
        load_pipeline(place)


def test_a_key_that_stands_twice_is_refused_rather_than_overwritten(tmp_path):
    error = the_problem(tmp_path, YAML + "owner: a\nowner: b\n")
    assert "'owner' stands twice" in error.found and line_of(error) == 10


@pytest.mark.parametrize(
    ("extra", "said", "line"),
    [
        ("tags: [a\nowner: b\n", "no YAML", 10),
        ("owner: \x07\n", "control characters", 9),
        ("--- \nowner: b\n", "another document", 9),
        ("tags: &t [*t]\n", "alias", 9),
        ("true: 1\n", "'true' as text", 9),
        ("5: 1\n", "'5' as text", 9),
        ("? [a]\n: b\n", "list or a mapping", 9),
        ("<<: {owner: me}\n", "'<<' as text", 9),
        ("owner: !!python/object:os.system x\n", "cannot be read", 9),
        ("schedule:\n  start_date: 2020-13-45\n", "month must be in 1..12", 10),
    ],
)
def test_yaml_that_a_parser_refuses_or_bends_is_an_error_with_its_line(tmp_path, extra, said, line):
    error = the_problem(tmp_path, YAML + extra)
    assert said in error.found
    assert line_of(error) == line
    assert "\n" not in str(error)


def test_an_anchor_and_its_alias_are_two_equal_values(tmp_path):
    text = YAML.replace("key: [flight_id]", "key: &k [flight_id]\ntags: *k")
    assert load_pipeline(folder(tmp_path, text)).config.tags == ("flight_id",)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("schedule: {deadline: 8}", "schedule.deadline"),
        ("schedule: {deadline: '08:00+02:00'}", "no offset"),
        ("schedule: {timezone: Europe/Berln}", "'Europe/Berln' is no IANA time zone"),
        ("schedule: {timezone: UTC+2}", "IANA"),
        ("schedule: {start_date: 86400}", "schedule.start_date"),
        ("partition: {lag: -1}", "greater than or equal to 0, not -1"),
        ("partition: {lag: yes}", "integer, not True"),
        ("partition: {grain: hour}", "'day', 'week' or 'month', not 'hour'"),
        ("gate: {min_rows: 0}", "gate.min_rows"),
        ("gate: {min_rows: 9, max_rows: 8}", "max_rows (8) is below min_rows (9)"),
        ("gate: {max_quarantined_share: 1.5}", "less than or equal to 1, not 1.5"),
        ("gate: {max_quarantined_share: .nan}", "max_quarantined_share"),
        ("gate: {freshness: {column: day}}", "'gate.freshness.max_age_hours' is missing"),
        ("gate: {freshness: {column: a b, max_age_hours: 1}}", "pattern"),
        ("gate:", "gate is a block of keys, not empty"),
        ("gate: 3", "gate is a block of keys, not 3"),
        ("tags: hello", "tags is a list, not 'hello'"),
        ("tags: [1]", "string, not 1"),
        ("description2: x", "did you mean 'description'?"),
        ("engine: {kind: sparc}", "no engine of the kind 'sparc'"),
        ("engine: {kind: sparc}", "did you mean 'spark'? Valid kinds: local, spark, kubernetes"),
        ("engine: {kind: }", "no engine of the kind empty"),
        ("engine: {worker: 2}", "unknown key 'engine.worker'"),
        ("engine: {workers: two}", "engine.workers: input should be a valid integer, not 'two'"),
        ("engine: {kind: spark, workers: 2}", "unknown key 'engine.workers'"),
        ("engine: {kind: spark, gpu: {rapid: yes}}", "unknown key 'engine.gpu.rapid'"),
        ("engine: {kind: spark, gpu: {rapid: yes}}", "did you mean 'rapids'"),
        ("engine: 2", "engine is a block of keys, not 2"),
        ("predictions: {audit: {score_range: [1]}}", "score_range is too short"),
        ("predictions: {audit: {score_range: [2, 1]}}", "is not [low, high]"),
        ("predictions: {audit: {score_range: [.nan, 1]}}", "is not [low, high]"),
        ("predictions: {score_column: run_id}", "['run_id'] are columns that Daybreak adds"),
        ("predictions: {pass_through: [flight_id]}", "['flight_id'] stand more than once"),
        ("drift: {warn_psi: 0.5}", "alert_psi (0.25) is below warn_psi (0.5)"),
        ("drift: {columns: {a: {warn_psi: 1}}}", "alert_psi (0.25) of a is below its warn_psi"),
        ("drift: {columns: {a: {}}, ignore: [a]}", "['a'] have limits and are ignored"),
        ("drift: {columns: {a: {warn: 1}}}", "unknown key 'drift.columns.a.warn'"),
    ],
)
def test_a_value_that_means_nothing_is_refused_in_its_authors_words(tmp_path, extra, said):
    error = the_problem(tmp_path, YAML + extra + "\n")
    assert said.lower() in str(error).lower()
    assert error.do
    assert line_of(error) in (1, 9)


def test_an_empty_pipeline_yaml_says_how_to_start(tmp_path):
    assert "start with" in the_problem(tmp_path, "").do
    assert "no mapping" in the_problem(tmp_path, "- a\n").found


def test_missing_keys_are_all_named(tmp_path):
    found = problems(tmp_path, "description: x\nwarehouse: {kind: duckdb}\n")
    assert sorted(re.findall(r"'(\S+)' is missing", " ".join(e.found for e in found))) == [
        "key",
        "model",
        "warehouse.connection",
    ]


@pytest.mark.parametrize(
    ("written", "meant"), [("10:30", dt.time(10, 30)), ("08:00", dt.time(8)), ("'7:05'", None)]
)
def test_a_time_of_day_is_not_read_as_a_number_to_the_base_60(tmp_path, written, meant):
    yaml = YAML + f"schedule: {{deadline: {written}}}\n"
    if meant is None:
        assert "deadline" in the_problem(tmp_path, yaml).found
    else:
        assert load_pipeline(folder(tmp_path, yaml)).config.schedule.deadline == meant


@pytest.mark.parametrize("name", ["my pipeline", "a/b", "ünïcode", "_private", "1st", "a%20b"])
def test_a_folder_whose_name_cannot_be_a_dag_and_a_path_is_refused(tmp_path, name):
    place = folder(tmp_path)
    renamed = tmp_path / name
    renamed.parent.mkdir(exist_ok=True)
    place.rename(renamed)
    if name == "a/b":
        assert load_pipeline(renamed).name == "b"
        return
    with pytest.raises(BadConfig, match="cannot name a pipeline"):
        load_pipeline(renamed)


def test_only_visible_folders_are_pipelines_and_they_come_by_name(tmp_path):
    for name in ("b", "a", "_shared", ".git", "__pycache__"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text("")
    assert [path.name for path in pipeline_folders(tmp_path)] == ["a", "b"]


def test_an_unknown_pipeline_is_answered_with_the_nearest_one(tmp_path):
    folder(tmp_path)
    with pytest.raises(BadConfig, match="Did you mean .flight_delay.") as raised:
        load_named(tmp_path, "flight_dely")
    assert raised.value.found.startswith("there is no pipeline 'flight_dely'")


def test_without_a_folder_of_pipelines_the_setting_is_named(tmp_path):
    with pytest.raises(BadConfig, match="DAYBREAK_PIPELINES"):
        load_named(tmp_path / "none", "x")


def test_what_shapes_rows_changes_the_digest_and_what_does_not_leaves_it(tmp_path):
    def digest(yaml: str = YAML, **files: str) -> str:
        return load_pipeline(folder(tmp_path, yaml, **files)).digest

    first = digest()
    for same in (
        "owner: me\n",
        "schedule: {cron: '0 6 * * *', deadline: 08:00}\n",
        "engine: {workers: 2}\n",
        "engine: {kind: spark, master: 'local[2]'}\n",
        "snapshot: {part_rows: 5}\n",
        "drift: {trailing: 3}\n",
    ):
        assert digest(YAML + same) == first, same
    for other in (
        "partition: {grain: week}\n",
        "gate: {min_rows: 3}\n",
        "predictions: {score_column: delay}\n",
        "predictions: {pass_through: [carrier]}\n",
    ):
        assert digest(YAML + other) != first, other
    assert digest(YAML.replace("output: value", "output: probability")) != first
    assert digest(sql=SQL + "limit 3") != first
    assert digest(suite="expectations: [{type: x}]\n") != first


def test_a_frozen_pipeline_reads_back_equal_with_open_bounds_and_dates(tmp_path):
    yaml = YAML + "predictions: {audit: {score_range: [0, .inf]}}\n"
    suite = "expectations:\n  - {type: x, min_value: 2013-01-01, at: 2013-01-01 10:00:00}\n"
    pipeline = load_pipeline(folder(tmp_path, yaml, suite=suite))
    again = Pipeline.model_validate_json(pipeline.model_dump_json())
    assert again == pipeline
    assert again.digest == pipeline.digest
    assert again.config.predictions.audit.score_range == (0, float("inf"))
    assert again.suite["expectations"][0]["min_value"] == "2013-01-01"


def test_an_infinite_bound_in_the_suite_is_refused_with_its_line(tmp_path):
    error = the_problem(
        tmp_path, suite="expectations:\n  - type: x\n    kwargs: {max_value: .inf}\n"
    )
    assert "expectations.0.kwargs.max_value" in error.found
    assert error.where.endswith("suite.yaml:3")


plain_text = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufeff\u2028\u2029\x85"),
    max_size=12,
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4),
    max_leaves=12,
)


@given(content=st.dictionaries(plain_text, values, max_size=5))
def test_what_yaml_writes_is_read_back_and_each_key_has_its_line(content):
    import yaml

    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    read, lines = parse_yaml(text, Path("pipeline.yaml"))
    assert read == content
    written = text.splitlines()
    for key in content:
        assert 1 <= lines[(key,)] <= len(written)
    assert [lines[(key,)] for key in content] == sorted(lines[(key,)] for key in content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    content=st.dictionaries(
        st.sampled_from([*PipelineConfig.model_fields, "modle", "x"]), values, max_size=6
    )
)
def test_no_content_of_pipeline_yaml_gives_anything_but_a_clear_error(tmp_path, content):
    import yaml

    text = yaml.safe_dump(content, allow_unicode=True)
    pipeline, found = read_pipeline(folder(tmp_path, text))
    assert pipeline is None
    for error in found:
        assert re.search(r"pipeline\.yaml:\d+$", error.where), error
        assert "\n" not in error.found + error.do
        assert error.do
