"""`daybreak check` finds what a night would find, and says all of it at once."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from daybreak.check import check_folder
from daybreak.cli import app
from daybreak.query import inspect_query
from include.settings import PROJECT
from tests.world import World


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments], env={"COLUMNS": "100"})


def found_in(world: World, offline: bool = True) -> list[tuple[str, str, int]]:
    """Kind, sentence and line of each error."""
    return [
        (
            problem.about,
            f"{problem.error.found}. {problem.error.do}",
            int((re.findall(r":(\d+)$", problem.error.where) or [0])[0]),
        )
        for problem in check_folder(world.folder, offline).problems
        if not problem.warning
    ]


def query(sql: str) -> tuple[tuple[str, ...] | None, list[tuple[str, int]]]:
    """The columns, and each problem with its line."""
    seen = inspect_query(sql, "duckdb", "features.sql")
    return seen.columns, [(p.found, int(p.where.rpartition(":")[2])) for p in seen.problems]


# The folder


def test_a_good_folder_passes_and_says_what_was_looked_at(tiny):
    result = check()
    assert result.exit_code == 0, result.output
    assert "tiny  7 columns, 1 expectation, tiny-churn version 1 (production)" in result.stdout
    assert "1 pipeline, 0 errors" in result.stdout


def test_offline_leaves_out_registry_and_connection_and_says_so(tiny, monkeypatch):
    monkeypatch.setenv("DAYBREAK_REGISTRY", "sqlite:////nowhere/mlflow.db")
    monkeypatch.delenv("AIRFLOW_CONN_TINY_WAREHOUSE")
    result = check("--offline")
    assert result.exit_code == 0
    assert "Not checked with --offline: the registry's models and the connections" in result.stdout


def test_every_problem_of_every_folder_is_listed_by_pipeline_with_file_and_line(tiny):
    other = tiny.pipelines / "other"
    shutil.copytree(tiny.folder, other)
    (tiny.folder / "pipeline.yaml").write_text(
        (tiny.folder / "pipeline.yaml").read_text().replace("warehouse:", "warehuose:")
    )
    (tiny.folder / "features.sql").write_text("")
    (other / "features.sql").write_text(
        "SELECT account_id, channel, region,\n balance, visits, tenure_days, updated_at\n"
        "FROM accounts WHERE event_date = $asof"
    )
    (other / "suite.yaml").write_text(
        "expectations:\n  - type: expect_column_to_exits\n    kwargs: {column: region}\n"
        "  - type: expect_column_values_to_not_be_null\n    kwargs: {colum: region}\n"
    )
    result = check("--offline")
    assert result.exit_code == 2
    text = result.stdout
    assert text.index("✗ other") < text.index("✗ tiny")
    for said in (
        "unknown key 'warehuose'",
        "'warehouse' is missing",
        "features.sql is empty",
        "$asof",
        "'expect_column_to_exits' is no known expectation",
        "'colum'",
    ):
        assert said in text, said
    assert re.search(r"did you mean 'warehouse'\?", text)
    assert f"{other}/suite.yaml:2" in text and f"{other}/features.sql:3" in text
    assert "2 pipelines, 6 errors" in text


def test_one_pipeline_can_be_checked_alone(tiny):
    shutil.copytree(tiny.folder, tiny.pipelines / "other")
    (tiny.pipelines / "other" / "suite.yaml").unlink()
    assert check("tiny", "--offline").exit_code == 0
    assert check("other", "--offline").exit_code == 2


def test_json_is_whole_stable_and_alone_on_stdout(tiny):
    (tiny.folder / "features.sql").write_text("SELECT account_id\nFROM accounts\n")
    result = check("--offline", "--json")
    assert result.exit_code == 2
    printed = json.loads(result.stdout)
    assert printed["ok"] is False and printed["offline"] is True
    (pipeline,) = printed["pipelines"]
    assert pipeline["pipeline"] == "tiny" and pipeline["columns"] == ["account_id"]
    assert {frozenset(problem) for problem in pipeline["problems"]} == {
        frozenset(("about", "severity", "found", "where", "do"))
    }
    severities = [problem["severity"] for problem in pipeline["problems"]]
    assert severities.count("warning") == 1  # the query does not depend on the partition


def test_a_folder_of_pipelines_that_is_empty_or_absent_is_an_error(tiny, monkeypatch):
    shutil.rmtree(tiny.folder)
    assert check().exit_code == 2
    monkeypatch.setenv("DAYBREAK_PIPELINES", str(tiny.pipelines / "none"))
    assert "DAYBREAK_PIPELINES" in check().stderr


def test_a_cron_that_airflow_would_refuse_is_found_with_its_line(tiny):
    tiny.configure({"schedule": {"cron": "61 * * * *"}})
    ((about, found, line),) = found_in(tiny)
    assert about == "schedule" and "'61 * * * *'" in found
    written = (tiny.folder / "pipeline.yaml").read_text().splitlines()
    assert "cron:" in written[line - 1]


def test_columns_that_the_configuration_names_must_be_selected(tiny):
    tiny.configure({"predictions": {"pass_through": ["region", "plan"]}})
    (tiny.folder / "features.sql").write_text(
        "SELECT account_id, region, balance, visits, tenure_days\n"
        "FROM accounts WHERE event_date = $as_of\n"
    )
    found = " ".join(found for _, found, _ in found_in(tiny))
    assert "'channel', of the key" in found
    assert "'plan', of predictions.pass_through" in found
    assert "'updated_at', of gate.freshness" in found


def test_the_suites_columns_must_be_selected(tiny):
    (tiny.folder / "suite.yaml").write_text(
        "expectations:\n  - type: expect_column_values_to_not_be_null\n"
        "    kwargs: {column: ballance}\n"
    )
    ((about, found, line),) = found_in(tiny)
    assert about == "suite" and "'ballance'" in found and "'balance'" in found and line == 3


def test_columns_that_only_the_warehouse_knows_are_not_guessed(tiny):
    (tiny.folder / "features.sql").write_text("SELECT * FROM accounts WHERE event_date = $as_of")
    assert found_in(tiny) == []
    assert "columns known to the warehouse only" in check("--offline").stdout


# The registry and the connection


def test_a_model_or_alias_that_the_registry_does_not_have_is_found_with_its_line(tiny):
    tiny.configure({"model": {"alias": "champion"}})
    ((about, found, line),) = found_in(tiny, offline=False)
    assert about == "model" and "'champion'" in found and "production" in found
    assert "alias:" in (tiny.folder / "pipeline.yaml").read_text().splitlines()[line - 1]
    tiny.configure({"model": {"name": "tiny-chrun"}})
    ((about, found, line),) = found_in(tiny, offline=False)
    assert "'tiny-chrun'" in found and "tiny-churn" in found
    assert "name:" in (tiny.folder / "pipeline.yaml").read_text().splitlines()[line - 1]


def test_an_optional_input_that_is_not_selected_is_a_warning(tiny):
    (tiny.folder / "features.sql").write_text(
        "SELECT account_id, channel, region, balance, tenure_days, updated_at\n"
        "FROM accounts WHERE event_date = $as_of\n"
    )
    checked = check_folder(tiny.folder)
    assert checked.ok
    ((problem,)) = checked.problems
    assert problem.warning and "'visits', an optional input of the model" in problem.error.found


def test_a_registry_that_is_not_there_is_a_problem_and_no_crash(tiny, monkeypatch):
    monkeypatch.setenv("DAYBREAK_REGISTRY", "sqlite:////nowhere/mlflow.db")
    ((about, found, _),) = found_in(tiny, offline=False)
    assert about == "model" and "there is no model registry" in found


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "there is no connection 'tiny_warehouse'"),
        ("postgres://host/db", "is of the kind 'postgres', not 'duckdb'"),
        ("duckdb://%2Fnone.duckdb", "/none.duckdb, which is no file"),
    ],
)
def test_a_connection_must_be_there_and_lead_to_a_warehouse_of_its_kind(
    tiny, monkeypatch, value, said
):
    if value is None:
        monkeypatch.delenv("AIRFLOW_CONN_TINY_WAREHOUSE")
    else:
        monkeypatch.setenv("AIRFLOW_CONN_TINY_WAREHOUSE", value)
    ((about, found, line),) = found_in(tiny, offline=False)
    assert about == "warehouse" and said in found
    assert "connection:" in (tiny.folder / "pipeline.yaml").read_text().splitlines()[line - 1]


# The query


@pytest.mark.parametrize(
    ("sql", "said", "line"),
    [
        ("select a\nfrom t where d = {{ ds }}", "{{ starts a template", 2),
        ("select a\nfrom t\nwhere d = '{{ ds }}'", "{{ starts a template", 3),
        ("select a\n{% if x %}", "{% starts a template", 2),
        ("select a\nfrom t where d = '{as_of}' and e = {as_of}", "nothing fills in {as_of}", 2),
        ("select a\nfrom t where d = ${as_of}", "nothing fills in ${as_of}", 2),
        ("select a\nfrom t where d = %(as_of)s", "nothing fills in %(as_of)s", 2),
        ("select a\nfrom t where d = ?", "nothing is bound to '?'", 2),
        ("select a\nfrom t where d = '$as_of'", "$as_of within quotes is text", 2),
        ("select a\n\nfrom t where d = $asof", "the query asks for $asof", 3),
        ("select a from t where d = $1", "the query asks for $1", 1),
        ("select a,, b\nfrom t", 'syntax error at or near ","', 1),
        ("select a\nfrom t\nwhere (", "DuckDB refuses the query", 3),
        ("select 'a\nfrom t", "unterminated", 1),
        ("select 1 as a; select 2 as a", "2 statements", 1),
        ("-- nothing", "0 statements", 1),
        ("insert into t values (1)", "INSERT, no SELECT", 1),
        ("copy t to 'x.csv'", "COPY, no SELECT", 1),
        ("create table u as select * from t", "CREATE, no SELECT", 1),
        ("with gone as (delete from t returning a) select a from gone", "DELETE", 1),
        ("select a, b, a from t", "'a' more than once", 1),
        ("select a, b as A from t", "'a' more than once", 1),
    ],
)
def test_a_query_that_would_fail_or_mean_another_thing_is_found_with_its_line(sql, said, line):
    _, problems = query(sql)
    assert problems, "nothing was found"
    found, at = problems[0]
    assert said in found
    assert at == line


@pytest.mark.parametrize(
    "sql",
    [
        "select a from t where d = $as_of -- not {{ x }}, $nope or ?",
        "select a /* {{ x }} $nope */ from t where d between $partition_start and $partition_end",
        "select {'a': 1} as s, '{x}' as text, x % (y) as rest from t",
        "select regexp_matches(a, '^x{2}$') as m from t where d < $partition_end::timestamp;",
        "from t select a where d = $as_of",
        "select a from t where x = 'costs $5'",
        "with w as materialized (select 1 as a) select a from w qualify row_number() over () = 1",
        "select a from t where j->>'$.as' = 'x'",
    ],
)
def test_what_duckdb_understands_is_left_alone(sql):
    assert query(sql)[1] == []


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("select a, b + 1 as c, t.d from t", ("a", "c", "d")),
        ("with w as (select a, 2 as b from t) select * from w", ("a", "b")),
        ("with w(x) as (select a from t), v as (from w) select v.*, 1 y from v", ("x", "y")),
        ("select * from (select a, b from t) s join (select c from u) r on true", ("a", "b", "c")),
        ("select r.* from (select a from t) s join (select c from u) r on true", ("c",)),
        ("select a from t union all select b from u", ("a",)),
        ('select "Mixed Case" from t', ("Mixed Case",)),
        ("select count(*) as n, max(x) as m from t group by all", ("n", "m")),
        ("select * from t", None),
        ("select * exclude (a) from (select a, b from t) s", None),
        ("select columns('x_.*') from t", None),
        ("select * from (select a, k from t) s join (select b, k from u) r using (k)", None),
        ("select w.* from main.w as w", None),
        ("select struct_column.* from t", None),
    ],
)  # fmt: skip
def test_columns_are_known_where_the_text_alone_says_them(sql, columns):
    assert query(sql) == (columns, [])


WORDS = ["select", "from", "where", "as", "with", "union", *"abc*(),'\"${}%?;-.1\n", "$as_of", "{{"]


@given(st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join))
def test_no_text_breaks_the_inspection(sql):
    columns, problems = query(sql)
    for found, line in problems:
        assert found and "\n" not in found
        assert 1 <= line <= sql.count("\n") + 1
    assert columns is None or columns


def test_the_example_pipelines_pass_offline():
    for folder in sorted((PROJECT / "include" / "pipelines").iterdir()):
        if folder.name.startswith(("_", ".")) or not folder.is_dir():
            continue
        assert check_folder(folder, offline=True).problems == [], folder.name


def test_every_key_of_the_schema_stands_in_the_documentation():
    from pydantic import BaseModel

    from include.config import PipelineConfig

    docs = PROJECT / "docs"
    text = (docs / "configuration.md").read_text("utf-8")
    # An engine has keys of its own, which stand with it.
    engines = (docs / "engines.md").read_text("utf-8")

    def sections_in(annotation: object) -> set[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return {annotation}
        return set().union(*map(sections_in, getattr(annotation, "__args__", ())))

    def keys(section: type[BaseModel], prefix: str = "") -> list[str]:
        names = []
        for name, field in section.model_fields.items():
            names.append(prefix + name)
            for inner in sections_in(field.annotation):
                names += keys(inner, f"{prefix}{name}.")
        return names

    rows = re.compile(r"^\| `([a-z_.]+)`", re.MULTILINE)
    documented = {*rows.findall(text)}
    documented |= {key for key in rows.findall(engines) if key.startswith("engine.")}

    def told(key: str) -> bool:
        """By a row of its own, or by that of the section it is in."""
        return key in documented or ("." in key and told(key.rpartition(".")[0]))

    known = {*keys(PipelineConfig)}
    sections = {key.rpartition(".")[0] for key in known}
    assert [key for key in sorted(known - sections) if not told(key)] == []
    assert documented - known == set()


def test_every_variable_that_is_read_stands_in_the_readme():
    source = (PROJECT / "include" / "settings.py").read_text("utf-8")
    readme = Path(PROJECT / "README.md").read_text("utf-8")
    for variable in set(re.findall(r"DAYBREAK_[A-Z_]+", source)):
        assert f"`{variable}`" in readme, variable


def test_the_pipeline_of_the_readme_passes(tmp_path):
    text = (PROJECT / "README.md").read_text("utf-8")
    blocks = re.findall(r"```(?:yaml|sql)\n(.*?)```", text, re.S)
    written = []
    for content in blocks:
        named = re.match(r"(?:#|--) include/pipelines/([a-z_]+)/([a-z.]+)", content)
        if named:
            file = tmp_path / named[1] / named[2]
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
            written.append(file.name)
    assert written == ["pipeline.yaml", "features.sql", "suite.yaml"]
    assert check_folder(tmp_path / "customer_value", offline=True).problems == []
