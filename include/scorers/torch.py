"""PyTorch: a module or an exported program that takes one float32 matrix of all the columns.

The model ends with what the table holds: one value a row, or for a probability a sigmoid, or a
softmax over two classes. Missing numbers are NaN.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import PermanentError
from include.models.mlmodel import MLmodel
from include.run import ModelInput
from include.scorers import Output
from include.scorers.device import Device, choose, fallen_back
from include.scorers.estimators import add_code
from include.scorers.model_frames import model_frame
from include.scorers.outputs import one_score_a_row

if TYPE_CHECKING:
    import pyarrow as pa

_REMEDY = "end the model with a sigmoid, or with a softmax over two classes"


class TorchScorer:
    # The operators leave Python's lock, and they are nearly all of the work.
    releases_gil = True

    def __init__(
        self, module: Any, inputs: tuple[ModelInput, ...], output: Output, device: str
    ) -> None:
        self.module = module
        self.inputs = inputs
        self.columns = tuple(column.name for column in inputs)
        self.output = output
        self.device = device

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        import numpy as np
        import pyarrow as pa
        import torch

        if batch.num_rows == 0:
            return pa.array([], pa.float64())
        matrix = model_frame(batch, self.inputs).to_numpy(dtype=np.float32)
        place = "cuda:0" if self.device.startswith("cuda") else "cpu"
        with torch.inference_mode():
            given = self.module(torch.from_numpy(np.ascontiguousarray(matrix)).to(place))
        if not isinstance(given, torch.Tensor):
            raise PermanentError(
                f"the model gives a {type(given).__name__}, not a tensor",
                do="wrap it in a module whose forward returns one tensor",
            )
        result = given.to("cpu", torch.float64).numpy()
        scores = one_score_a_row(result, batch.num_rows, self.output, _REMEDY)
        return pa.array(np.ascontiguousarray(scores))


def load(
    folder: Path, columns: tuple[str, ...], output: Output, device: Device = "auto"
) -> TorchScorer:
    """See `open_scorer`."""
    import torch

    description = MLmodel(folder)
    by_name = {column.name: column for column in description.inputs()}
    inputs = tuple(by_name[name] for name in columns)
    words = [column.name for column in inputs if column.type == "string"]
    if words:
        raise PermanentError(
            f"the model takes one matrix of numbers, and its signature has the strings "
            f"{', '.join(words)}",
            where=str(folder),
            do="encode them in features.sql",
        )
    torch.set_num_threads(1)  # parts are the parallelism
    flavor = description.flavors["pytorch"]
    add_code(folder, flavor)
    data = folder / flavor["model_data"]
    chosen = choose(device, "torch", torch.cuda.is_available())
    if chosen.gpu:
        try:
            return TorchScorer(_module(data, "cuda:0"), inputs, output, chosen.name)
        except RuntimeError as error:  # the driver, or the GPU's memory
            chosen = fallen_back("torch", error)
    return TorchScorer(_module(data, "cpu"), inputs, output, chosen.name)


def _module(data: Path, place: str) -> Any:
    """The model on its device, in evaluation mode."""
    import pickle

    import torch

    if (data / "model.pt2").is_file():
        module: Any = torch.export.load(data / "model.pt2").module()
        return module.to(place)
    # MLflow names a pickle module of its own, which writes what the standard one reads.
    module = torch.load(
        data / "model.pth", map_location=place, pickle_module=pickle, weights_only=False
    )
    if not isinstance(module, torch.nn.Module):
        raise PermanentError(
            f"model.pth holds a {type(module).__name__}, not a module",
            where=str(data),
            do="log it with mlflow.pytorch.log_model(model, …)",
        )
    return module.to(place).eval()
