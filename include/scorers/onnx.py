"""ONNX through ONNX Runtime: on CUDA where this machine and this installation have it.

A model with one input takes all the columns as one matrix, one with several takes each column by
its name. Numbers have the width that the model declares, mostly float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from include.errors import PermanentError
from include.models.mlmodel import MLmodel
from include.run import ModelInput
from include.scorers import Output
from include.scorers.device import Choice, Device, choose, fallen_back
from include.scorers.model_frames import model_frame
from include.scorers.outputs import one_score_a_row

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    import pandas as pd
    import pyarrow as pa

_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}
_REMEDY = "export the model with its probabilities as an output (in skl2onnx: zipmap=False)"
_GPU, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class _Feed(NamedTuple):
    """An input of the model: the columns that it takes, their type and its number of axes."""

    name: str
    columns: tuple[str, ...]
    dtype: str
    axes: int


class OnnxScorer:
    releases_gil = True

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: tuple[ModelInput, ...],
        output: Output,
        device: str,
        where: str,
    ) -> None:
        self.session = session
        self.inputs = inputs
        self.columns = tuple(column.name for column in inputs)
        self.output = output
        self.device = device
        self.feeds = _feeds(session, self.columns, where)
        self.result = _result(session, output, where)

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        import numpy as np
        import pyarrow as pa

        if batch.num_rows == 0:
            return pa.array([], pa.float64())
        frame = model_frame(batch, self.inputs)
        given = {feed.name: _tensor(frame, feed) for feed in self.feeds}
        [result] = self.session.run([self.result], given)
        if isinstance(result, list):  # a mapping from class to probability for each row
            result = np.array([[row[label] for label in sorted(row)] for row in result])
        scores = one_score_a_row(np.asarray(result), batch.num_rows, self.output, _REMEDY)
        return pa.array(np.ascontiguousarray(scores, dtype=np.float64))


def load(
    folder: Path, columns: tuple[str, ...], output: Output, device: Device = "auto"
) -> OnnxScorer:
    """See `open_scorer`."""
    import onnxruntime

    description = MLmodel(folder)
    file = folder / description.flavors["onnx"]["data"]
    chosen = choose(device, "onnxruntime", _GPU in onnxruntime.get_available_providers())
    session, chosen = _session(file, chosen)
    by_name = {column.name: column for column in description.inputs()}
    inputs = tuple(by_name[name] for name in columns)
    return OnnxScorer(session, inputs, output, chosen.name, str(folder))


def _session(file: Path, chosen: Choice) -> tuple[onnxruntime.InferenceSession, Choice]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Parts run side by side: a pool of threads in each would only make them wait for each other.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if chosen.gpu:
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=[_GPU, _CPU])
        except Exception as error:  # noqa: BLE001 - the CPU can do it, whatever the GPU lacks
            chosen = fallen_back("onnxruntime", error)
        else:
            if _GPU in session.get_providers():
                return session, chosen
            return session, fallen_back("onnxruntime", RuntimeError("CUDA did not start"))
    return onnxruntime.InferenceSession(str(file), options, providers=[_CPU]), chosen


def _feeds(
    session: onnxruntime.InferenceSession, columns: tuple[str, ...], where: str
) -> tuple[_Feed, ...]:
    """How the columns go to the model's inputs."""
    declared = session.get_inputs()
    for each in declared:
        if each.type not in _TYPES:
            raise PermanentError(
                f"the model's input {each.name!r} is a {each.type}",
                where=where,
                do="export it with inputs of numbers or strings",
            )
        if each.shape and isinstance(each.shape[0], int):
            raise PermanentError(
                f"the model's input {each.name!r} takes exactly {each.shape[0]} rows at once",
                where=where,
                do="export it with a dynamic first axis",
            )
    if len(declared) == 1 and [declared[0].name] != list(columns):
        one = declared[0]
        width = one.shape[1] if len(one.shape) == 2 else None
        if isinstance(width, int) and width != len(columns):
            raise PermanentError(
                f"the model takes {width} columns, and its signature has {len(columns)}: "
                f"{', '.join(columns)}",
                where=where,
                do="log it with a signature made of its training features",
            )
        return (_Feed(one.name, columns, _TYPES[one.type], 2),)
    missing = [each.name for each in declared if each.name not in columns]
    if missing:
        raise PermanentError(
            f"the model has the inputs {', '.join(each.name for each in declared)}, and its "
            f"signature lacks {', '.join(missing)}",
            where=where,
            do="log it with a signature made of its training features",
        )
    return tuple(
        _Feed(each.name, (each.name,), _TYPES[each.type], len(each.shape)) for each in declared
    )


def _result(session: onnxruntime.InferenceSession, output: Output, where: str) -> str:
    """The name of the output that holds the scores."""
    outputs = session.get_outputs()
    numbers = [each for each in outputs if each.type in ("tensor(float)", "tensor(double)")]
    maps = [each for each in outputs if each.type.startswith("seq(map(")]
    labels = [each for each in outputs if each not in numbers and each not in maps]
    if output == "value" and len(outputs) > 1 and labels:
        raise PermanentError(
            "the model gives classes and probabilities: it is a classifier",
            where=where,
            do="write `output: probability`",
        )
    candidates = (maps or numbers) if output == "probability" else (numbers or labels)
    named = [each for each in candidates if "prob" in each.name.lower()]
    chosen = named if len(named) == 1 else candidates
    if len(chosen) != 1:
        said = ", ".join(f"{each.name} ({each.type})" for each in outputs)
        raise PermanentError(
            f"of the model's outputs, {said}, not exactly one can be the {output}",
            where=where,
            do=_REMEDY if output == "probability" else "export it with one number a row",
        )
    return str(chosen[0].name)


def _tensor(frame: pd.DataFrame, feed: _Feed) -> np.ndarray[Any, Any]:
    """The columns of a feed; ValueError for a missing value where the model has no word for it."""
    part = frame[list(feed.columns)]
    if feed.dtype in ("int64", "int32", "bool", "object"):
        missing = part.isna()
        if bool(missing.to_numpy().any()):
            name = next(name for name in feed.columns if missing[name].any())
            raise ValueError(f"{name} is missing, and the model takes a {feed.dtype}")
    values = part.to_numpy(dtype=feed.dtype)
    return values if feed.axes == 2 else values[:, 0]
