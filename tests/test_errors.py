"""Errors say what was found, where and what to do, wherever they come to light."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import BadConfig, CorruptData, DaybreakError, PermanentError, TransientError

KINDS = (DaybreakError, PermanentError, TransientError, BadConfig, CorruptData)
texts = st.text(max_size=20)


def fail(kind: type[DaybreakError]) -> None:
    raise kind("the key is null in 3 rows", do="filter them", where="features.sql:4").located(
        "flight_delay", "2013-10-01"
    )


def test_one_sentence_says_who_what_where_and_what_to_do():
    with pytest.raises(PermanentError) as raised:
        fail(PermanentError)
    assert str(raised.value) == (
        "flight_delay 2013-10-01: the key is null in 3 rows (features.sql:4). Filter them."
    )


def test_what_is_not_known_leaves_no_trace_in_the_sentence():
    assert str(PermanentError("the table is gone")) == "the table is gone."
    assert str(TransientError("it is locked", pipeline="churn")) == "churn: it is locked."


def test_the_step_fills_in_only_what_the_error_did_not_know():
    error = BadConfig("x", pipeline="mine").located("other", "2013-10-01")
    assert (error.pipeline, error.partition) == ("mine", "2013-10-01")


def test_every_error_is_of_one_of_the_two_kinds():
    assert issubclass(BadConfig, PermanentError) and issubclass(CorruptData, PermanentError)
    assert not issubclass(TransientError, PermanentError)
    assert not issubclass(PermanentError, TransientError)


@pytest.mark.parametrize("kind", KINDS)
@given(found=texts, do=texts, where=texts, pipeline=texts, partition=texts)
def test_an_error_is_the_same_after_pickling_and_copying(
    kind, found, do, where, pipeline, partition
):
    error = kind(found, do=do, where=where, pipeline=pipeline, partition=partition)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is kind
        assert again.fields() == error.fields()
        assert str(again) == str(error)
    assert copy.copy(error).fields() == error.fields()


def test_an_error_of_another_process_arrives_whole():
    with ProcessPoolExecutor(1) as pool:
        error = pool.submit(fail, CorruptData).exception()
    assert type(error) is CorruptData
    assert error.fields() == {
        "error": "CorruptData",
        "found": "the key is null in 3 rows",
        "do": "filter them",
        "where": "features.sql:4",
        "pipeline": "flight_delay",
        "partition": "2013-10-01",
    }
