"""What every scorer promises: the library's own scores, to the last bit, however rows arrive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from include.errors import PermanentError
from include.models.mlmodel import MLmodel
from include.models.pinned import folder_digest
from include.scorers import MEMBERS, Output, Scorer, open_scorer

ROWS = 700
CITIES = ["Aachen", "Bonn", "Köln", "Trier"]
TYPES = {"age": "double", "income": "float", "visits": "long", "city": "string", "plan": "string"}
NUMBERS = ["age", "income", "visits"]
WORDS = ["city", "plan"]


def _rows(count: int, seed: int, cities: list[str]) -> pa.Table:
    """Features with missing numbers and strings, as a snapshot has them."""
    rng = np.random.default_rng(seed)
    missing = rng.random((3, count)) < 0.1
    return pa.table(
        {
            "id": pa.array(np.arange(count)),
            "age": pa.array(rng.normal(40, 15, count), mask=missing[0]),
            "income": pa.array(rng.normal(3, 1, count).astype(np.float32)),
            "visits": pa.array(rng.integers(0, 30, count)),
            "city": pa.array(rng.choice(cities, count).tolist(), mask=missing[1]),
            "plan": pa.array(rng.choice(["basic", "plus"], count).tolist(), mask=missing[2]),
        }
    )


TRAINING = _rows(1500, 1, CITIES)
# Hannover was in no training row.
SCORED = _rows(ROWS, 2, [*CITIES, "Hannover"])


def _target(rows: pa.Table) -> np.ndarray[Any, Any]:
    frame = rows.to_pandas()
    noise = np.random.default_rng(3).normal(0, 5, len(frame))
    signal = frame["visits"] + 10 * (frame["city"] == "Köln") + frame["age"].fillna(20) / 5 + noise
    return np.asarray(signal > signal.median(), dtype=np.int64)


def _objects(rows: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = rows.select(list(TYPES)).to_pandas()
    return frame


def _categories(rows: pa.Table) -> pd.DataFrame:
    return _objects(rows).astype(dict.fromkeys(WORDS, "category"))


def _signature(types: dict[str, str] = TYPES, output: str = "double") -> ModelSignature:
    return ModelSignature(
        Schema([ColSpec(kind, name, required=False) for name, kind in types.items()]),
        Schema([ColSpec(output)]),
    )


@dataclass(frozen=True)
class Case:
    """A saved model, what the library itself gives for a table, and whether it rests on BLAS.

    What does may round a row by the rows beside it, within `rtol`.
    """

    folder: Path
    flavor: str
    output: Output
    library: Callable[[pa.Table], np.ndarray[Any, Any]]
    blas: bool = False
    rtol: float = 1e-13

    def scorer(self) -> Scorer:
        columns = tuple(column.name for column in MLmodel(self.folder).inputs())
        return open_scorer(self.folder, self.flavor, columns, self.output)


def _booster(
    objective: str = "binary", target: Any = None, frame: pd.DataFrame | None = None, **more: Any
) -> lightgbm.Booster:
    parameters = {"objective": objective, "num_leaves": 15, "verbosity": -1, "num_threads": 1}
    features = _categories(TRAINING) if frame is None else frame
    labels = _target(TRAINING) if target is None else target
    return lightgbm.train(parameters | more, lightgbm.Dataset(features, labels), 25)


def _pipeline(model: Any, words: Any) -> Pipeline:
    columns = make_column_transformer((words, WORDS), (SimpleImputer(), NUMBERS))
    return make_pipeline(columns, model)


def _lightgbm_booster(folder: Path) -> Case:
    import mlflow.lightgbm

    booster = _booster()
    mlflow.lightgbm.save_model(booster, folder, signature=_signature(), pip_requirements=[])
    return Case(folder, "lightgbm", "probability", lambda rows: booster.predict(_categories(rows)))


def _lightgbm_regressor(folder: Path) -> Case:
    import mlflow.lightgbm

    booster = _booster("regression")
    mlflow.lightgbm.save_model(booster, folder, signature=_signature(), pip_requirements=[])
    return Case(folder, "lightgbm", "value", lambda rows: booster.predict(_categories(rows)))


def _lightgbm_classifier(saved_as: str) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        import mlflow.lightgbm

        model = lightgbm.LGBMClassifier(n_estimators=25, num_leaves=15, verbosity=-1, n_jobs=-1)
        model.fit(_categories(TRAINING), np.where(_target(TRAINING), "stays", "leaves"))
        mlflow.lightgbm.save_model(
            model,
            folder,
            signature=_signature(),
            serialization_format=saved_as,
            pip_requirements=[],
        )
        return Case(
            folder,
            "lightgbm",
            "probability",
            lambda rows: model.predict_proba(_categories(rows))[:, 1],
        )

    return make


def _hist_gradient_boosting(saved_as: str) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        import mlflow.sklearn

        words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        model = _pipeline(HistGradientBoostingClassifier(max_iter=25), words)
        model.fit(_objects(TRAINING), _target(TRAINING))
        mlflow.sklearn.save_model(
            model,
            folder,
            signature=_signature(),
            serialization_format=saved_as,
            pip_requirements=[],
            skops_trusted_types=TRUSTED if saved_as == "skops" else None,
        )
        return Case(
            folder, "sklearn", "probability", lambda rows: model.predict_proba(_objects(rows))[:, 1]
        )

    return make


def _forest(folder: Path) -> Case:
    import mlflow.sklearn

    words = OneHotEncoder(handle_unknown="ignore")
    forest = RandomForestClassifier(20, n_jobs=-1, random_state=0)
    model = _pipeline(forest, words).fit(_objects(TRAINING), _target(TRAINING))
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=_signature(),
        serialization_format="cloudpickle",
        pip_requirements=[],
    )
    model.set_params(randomforestclassifier__n_jobs=1)
    return Case(
        folder, "sklearn", "probability", lambda rows: model.predict_proba(_objects(rows))[:, 1]
    )


def _logistic(folder: Path) -> Case:
    import mlflow.sklearn

    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    model = _pipeline(LogisticRegression(max_iter=2000), words)
    model.fit(_objects(TRAINING), _target(TRAINING))
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=_signature(),
        serialization_format="cloudpickle",
        pip_requirements=[],
    )
    return Case(
        folder,
        "sklearn",
        "probability",
        lambda rows: model.predict_proba(_objects(rows))[:, 1],
        blas=True,
    )


def _linear(folder: Path) -> Case:
    import mlflow.sklearn

    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    model = _pipeline(LinearRegression(), words).fit(_objects(TRAINING), _target(TRAINING) * 1.5)
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=_signature(),
        serialization_format="pickle",
        pip_requirements=[],
    )
    return Case(folder, "sklearn", "value", lambda rows: model.predict(_objects(rows)), blas=True)


def _pyfunc(folder: Path) -> Case:
    import mlflow.pyfunc

    booster = _booster(frame=_objects(TRAINING)[NUMBERS])

    class Churn(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
            return booster.predict(model_input[NUMBERS], num_threads=1)

    mlflow.pyfunc.save_model(
        folder, python_model=Churn(), signature=_signature(), pip_requirements=[]
    )
    return Case(
        folder,
        "python_function",
        "probability",
        lambda rows: booster.predict(_objects(rows)[NUMBERS], num_threads=1),
    )


def _xgboost_booster(folder: Path) -> Case:
    import mlflow.xgboost
    import xgboost

    data = xgboost.DMatrix(_objects(TRAINING)[NUMBERS], _target(TRAINING))
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 4}, data, 25)
    types = {name: TYPES[name] for name in NUMBERS}
    mlflow.xgboost.save_model(booster, folder, signature=_signature(types), pip_requirements=[])
    return Case(
        folder,
        "xgboost",
        "probability",
        lambda rows: booster.predict(xgboost.DMatrix(_objects(rows)[NUMBERS])),
    )


def _xgboost_early(folder: Path) -> Case:
    """Training that was stopped early: the trees after the best one do not count."""
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=200, max_depth=6, early_stopping_rounds=3)
    held_out = _rows(300, 9, CITIES)
    evaluation = [(_objects(held_out)[NUMBERS], _target(held_out))]
    model.fit(_objects(TRAINING)[NUMBERS], _target(TRAINING), eval_set=evaluation, verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    import mlflow.xgboost

    types = {name: TYPES[name] for name in NUMBERS}
    mlflow.xgboost.save_model(model, folder, signature=_signature(types), pip_requirements=[])
    return Case(
        folder,
        "xgboost",
        "probability",
        lambda rows: model.predict_proba(_objects(rows)[NUMBERS])[:, 1],
    )


def _xgboost_categories(folder: Path) -> Case:
    """Categories by name: the model knows the order that they had in training."""
    import mlflow.xgboost
    import xgboost

    names = [*NUMBERS, "plan"]
    model = xgboost.XGBRegressor(n_estimators=25, max_depth=4, enable_categorical=True)
    model.fit(_categories(TRAINING)[names], np.nan_to_num(TRAINING["age"].to_numpy()))
    types = {name: TYPES[name] for name in names}
    mlflow.xgboost.save_model(model, folder, signature=_signature(types), pip_requirements=[])
    return Case(folder, "xgboost", "value", lambda rows: model.predict(_categories(rows)[names]))


def _onnx_graph(outputs: list[str], folder: Path, kind: str = "tensor(float)") -> None:
    """A logistic regression on age, income and visits as an ONNX graph, saved by MLflow.

    `outputs` are its results: `label`, `probabilities` of both classes, or `score` of the second.
    """
    import mlflow.onnx
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    width = {"tensor(float)": np.float32, "tensor(double)": np.float64}[kind]
    number = {"tensor(float)": TensorProto.FLOAT, "tensor(double)": TensorProto.DOUBLE}[kind]
    weights = np.array([[0.05], [-0.4], [0.02]], dtype=width)
    nodes = [
        # A missing number is 40, as the training's imputer would say.
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "fill", "features"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["margin"]),
        helper.make_node("Sigmoid", ["margin"], ["score"]),
        helper.make_node("Sub", ["one", "score"], ["other"]),
        helper.make_node("Concat", ["other", "score"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    shapes = {"label": (TensorProto.INT64, [None]), "probabilities": (number, [None, 2])}
    shapes["score"] = (number, [None, 1])
    graph = helper.make_graph(
        nodes,
        "churn",
        [helper.make_tensor_value_info("features", number, [None, 3])],
        [helper.make_tensor_value_info(name, *shapes[name]) for name in outputs],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array(40, dtype=width), "fill"),
            numpy_helper.from_array(np.array(1, dtype=width), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    types = {name: TYPES[name] for name in NUMBERS}
    mlflow.onnx.save_model(model, folder, signature=_signature(types), pip_requirements=[])


def _onnx(
    outputs: list[str], output: Output, kind: str = "tensor(float)"
) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        import onnxruntime

        _onnx_graph(outputs, folder, kind)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        file = str(folder / "model.onnx")
        session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        width = np.float32 if kind == "tensor(float)" else np.float64

        def library(rows: pa.Table) -> np.ndarray[Any, Any]:
            matrix = _objects(rows)[NUMBERS].to_numpy(dtype=width)
            given = session.run([outputs[-1]], {"features": matrix})[0]
            return np.asarray(given[:, -1])

        return Case(folder, "onnx", output, library, blas=True, rtol=1e-6)

    return make


def _torch(written: str) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        torch = pytest.importorskip("torch", reason="torch is not installed: it is gigabytes")
        import mlflow.pytorch
        from mlflow.types import TensorSpec

        torch.manual_seed(5)
        model = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1), torch.nn.Sigmoid()
        ).eval()
        columns = _signature({name: TYPES[name] for name in NUMBERS})
        number = np.dtype("float32")
        tensors = ModelSignature(
            Schema([TensorSpec(number, (-1, 3))]), Schema([TensorSpec(number, (-1, 1))])
        )
        mlflow.pytorch.save_model(
            model,
            folder,
            signature=columns if written == "pickle" else tensors,
            input_example=None if written == "pickle" else np.ones((4, 3), number),
            pip_requirements=[],
            serialization_format=written,
        )
        # MLflow exports a program only with a signature of tensors, which has no columns.
        mlflow.models.set_signature(str(folder), columns)

        def library(rows: pa.Table) -> np.ndarray[Any, Any]:
            matrix = _objects(rows)[NUMBERS].to_numpy(dtype=np.float32)
            with torch.inference_mode():
                return np.asarray(model(torch.from_numpy(matrix)).numpy()[:, 0])

        return Case(folder, "pytorch", "probability", library, blas=True, rtol=1e-5)

    return make


TRUSTED = [
    "numpy.dtype",
    "sklearn.compose._column_transformer._RemainderColsList",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
]

MODELS: dict[str, Callable[[Path], Case]] = {
    "lightgbm-booster": _lightgbm_booster,
    "lightgbm-regressor": _lightgbm_regressor,
    "lightgbm-classifier-skops": _lightgbm_classifier("skops"),
    "lightgbm-classifier-pickle": _lightgbm_classifier("pickle"),
    "lightgbm-classifier-cloudpickle": _lightgbm_classifier("cloudpickle"),
    "sklearn-hgb-skops": _hist_gradient_boosting("skops"),
    "sklearn-hgb-pickle": _hist_gradient_boosting("pickle"),
    "sklearn-forest": _forest,
    "sklearn-logistic": _logistic,
    "sklearn-linear": _linear,
    "xgboost-booster": _xgboost_booster,
    "xgboost-early": _xgboost_early,
    "xgboost-categories": _xgboost_categories,
    "onnx-label-and-probabilities": _onnx(["label", "probabilities"], "probability"),
    "onnx-double": _onnx(["score"], "probability", "tensor(double)"),
    "onnx-value": _onnx(["score"], "value"),
    "torch-module": _torch("pickle"),
    "torch-exported": _torch("pt2"),
    "pyfunc": _pyfunc,
}


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return MODELS[request.param](tmp_path_factory.mktemp("model") / request.param)


@pytest.fixture(scope="module")
def scorer(case: Case) -> Scorer:
    return case.scorer()


def _scores(scorer: Scorer, rows: pa.Table) -> np.ndarray[Any, Any]:
    (batch,) = rows.combine_chunks().to_batches() or [
        pa.RecordBatch.from_pylist([], schema=rows.schema)
    ]
    scores = scorer.score(batch)
    assert scores.type == pa.float64()
    assert scores.null_count == 0
    assert len(scores) == rows.num_rows
    return np.asarray(scores.to_numpy())


def _same(some: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> bool:
    """To the last bit; a network has no score for a row with a missing value, which is NaN."""
    return np.array_equal(some, others, equal_nan=True)


def test_every_member_is_under_this_contract() -> None:
    assert {name.split("-")[0] for name in MODELS} == set(MEMBERS)


def test_scores_are_the_librarys_own_to_the_last_bit(case: Case, scorer: Scorer) -> None:
    expected = np.asarray(case.library(SCORED), dtype=np.float64)
    assert _same(_scores(scorer, SCORED), expected)
    assert len(np.unique(expected)) > 20


def test_an_empty_batch_has_no_scores(scorer: Scorer) -> None:
    assert len(_scores(scorer, SCORED.slice(0, 0))) == 0


def test_a_row_scores_the_same_alone_and_among_others(case: Case, scorer: Scorer) -> None:
    whole = _scores(scorer, SCORED)
    alone = np.concatenate([_scores(scorer, SCORED.slice(row, 1)) for row in range(12)])
    if case.blas:
        np.testing.assert_allclose(alone, whole[:12], rtol=case.rtol)
    else:
        assert _same(alone, whole[:12])


@pytest.mark.parametrize("size", [3, 64, 257])
def test_where_batches_are_cut_changes_no_score(case: Case, scorer: Scorer, size: int) -> None:
    rows = SCORED.slice(0, min(ROWS, 100 * size))
    whole = _scores(scorer, rows)
    cut = [_scores(scorer, rows.slice(start, size)) for start in range(0, rows.num_rows, size)]
    if case.blas:
        np.testing.assert_allclose(np.concatenate(cut), whole, rtol=case.rtol)
    else:
        assert _same(np.concatenate(cut), whole)


def test_the_order_of_rows_and_columns_changes_no_score(case: Case, scorer: Scorer) -> None:
    order = np.random.default_rng(4).permutation(ROWS)
    shuffled = SCORED.take(order).select(list(reversed(SCORED.column_names)))
    expected = _scores(scorer, SCORED)[order]
    if case.blas:
        np.testing.assert_allclose(_scores(scorer, shuffled), expected, rtol=case.rtol)
    else:
        assert _same(_scores(scorer, shuffled), expected)


def test_dictionary_encoded_strings_score_as_plain_ones(case: Case, scorer: Scorer) -> None:
    encoded = SCORED
    for name in WORDS:
        position = SCORED.column_names.index(name)
        encoded = encoded.set_column(position, name, SCORED[name].dictionary_encode())
    assert _same(_scores(scorer, encoded), _scores(scorer, SCORED))


def test_several_threads_get_the_same_scores(scorer: Scorer) -> None:
    expected = _scores(scorer, SCORED)
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(lambda _: _scores(scorer, SCORED), range(12)):
            assert _same(scores, expected)


def test_a_model_loaded_again_scores_the_same_and_leaves_its_folder_as_it_was(
    case: Case, scorer: Scorer
) -> None:
    before = folder_digest(case.folder)
    assert _same(_scores(case.scorer(), SCORED), _scores(scorer, SCORED))
    assert folder_digest(case.folder) == before


@pytest.mark.parametrize(
    "name",
    [
        "lightgbm-booster",
        "lightgbm-regressor",
        "sklearn-logistic",
        "sklearn-linear",
        "xgboost-booster",
        "xgboost-categories",
        "onnx-label-and-probabilities",
    ],
)
def test_a_classifier_gives_no_plain_value_and_a_regressor_no_probability(
    name: str, tmp_path: Path
) -> None:
    case = MODELS[name](tmp_path / "m")
    other: Output = "value" if case.output == "probability" else "probability"
    columns = tuple(column.name for column in MLmodel(case.folder).inputs())
    with pytest.raises(PermanentError, match=r"output: (value|probability)"):
        open_scorer(case.folder, case.flavor, columns, other)


def _saved_booster(folder: Path, booster: lightgbm.Booster, types: dict[str, str]) -> Path:
    import mlflow.lightgbm

    mlflow.lightgbm.save_model(booster, folder, signature=_signature(types), pip_requirements=[])
    return folder


def test_more_than_two_classes_are_refused(tmp_path: Path) -> None:
    target = np.arange(TRAINING.num_rows) % 3
    folder = _saved_booster(tmp_path / "m", _booster("multiclass", target, num_class=3), TYPES)
    with pytest.raises(PermanentError, match="multiclass"):
        open_scorer(folder, "lightgbm", tuple(TYPES), "probability")
    import mlflow.sklearn

    words = OneHotEncoder(handle_unknown="ignore")
    forest = _pipeline(RandomForestClassifier(3), words).fit(_objects(TRAINING), target)
    mlflow.sklearn.save_model(
        forest,
        tmp_path / "s",
        signature=_signature(),
        serialization_format="cloudpickle",
        pip_requirements=[],
    )
    with pytest.raises(PermanentError, match="3 classes"):
        open_scorer(tmp_path / "s", "sklearn", tuple(TYPES), "probability")


def test_a_signature_in_another_order_than_the_training_changes_no_score(tmp_path: Path) -> None:
    booster = _booster()
    turned = dict(reversed(TYPES.items()))
    folder = _saved_booster(tmp_path / "m", booster, turned)
    scorer = open_scorer(folder, "lightgbm", tuple(turned), "probability")
    assert scorer.columns == tuple(TYPES)
    assert np.array_equal(_scores(scorer, SCORED), booster.predict(_categories(SCORED)))


def test_a_signature_of_other_columns_than_the_training_is_refused(tmp_path: Path) -> None:
    folder = _saved_booster(tmp_path / "m", _booster(), TYPES | {"city": "string"})
    with pytest.raises(PermanentError, match="trained on age, income, visits, city, plan"):
        open_scorer(folder, "lightgbm", ("age", "income"), "probability")


def test_ordered_and_numeric_categories_score_as_in_the_library(tmp_path: Path) -> None:
    def frame(rows: pa.Table) -> pd.DataFrame:
        ordered = pd.CategoricalDtype(["plus", "basic"], ordered=True)
        # A column of a range of its own, so that its positions differ from its values.
        return _objects(rows).astype({"visits": "category", "city": "category", "plan": ordered})

    booster = _booster(frame=frame(TRAINING))
    folder = _saved_booster(tmp_path / "m", booster, TYPES)
    scorer = open_scorer(folder, "lightgbm", tuple(TYPES), "probability")
    assert np.array_equal(_scores(scorer, SCORED), booster.predict(frame(SCORED)))


def test_a_string_where_the_model_takes_a_number_is_named(tmp_path: Path) -> None:
    scorer = _lightgbm_booster(tmp_path / "m").scorer()
    words = SCORED.set_column(1, "age", pa.array(["old"] * ROWS))
    with pytest.raises(PermanentError, match="'age' is string"):
        _scores(scorer, words)


@pytest.mark.parametrize(
    ("given", "output", "found"),
    [
        ("labels", "long", "signature says that it gives long"),
        ("labels", "double", "classes .int64."),
        ("float labels", "double", "exactly 0 or 1"),
        ("margins", "double", "no probabilities"),
    ],
)
def test_a_pyfunc_that_gives_no_probabilities_is_refused(
    tmp_path: Path, given: str, output: str, found: str
) -> None:
    import mlflow.pyfunc

    class Labels(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
            visits = model_input["visits"].to_numpy()
            if given == "margins":
                return visits - 10.5
            return (visits > 10).astype("int64" if given == "labels" else "float64")

    mlflow.pyfunc.save_model(
        tmp_path / "m",
        python_model=Labels(),
        signature=_signature(output=output),
        pip_requirements=[],
    )
    with pytest.raises(PermanentError, match=found):
        _scores(open_scorer(tmp_path / "m", "python_function", tuple(TYPES), "probability"), SCORED)


def test_a_flavour_without_a_member_of_its_own_goes_through_pyfunc(tmp_path: Path) -> None:
    case = _pyfunc(tmp_path / "m")
    scorer = open_scorer(case.folder, "prophet", tuple(TYPES), "probability")
    assert np.array_equal(_scores(scorer, SCORED), case.library(SCORED))


def test_a_model_whose_package_is_missing_says_what_to_install(tmp_path: Path) -> None:
    import sys
    import types

    import mlflow.sklearn

    code = "class Shop(__import__('sklearn').linear_model.LogisticRegression):\n    pass\n"
    module = types.ModuleType("shop_models")
    exec(code, module.__dict__)
    sys.modules["shop_models"] = module
    try:
        model = module.Shop().fit(_objects(TRAINING)[["visits"]], _target(TRAINING))
        mlflow.sklearn.save_model(
            model,
            tmp_path / "m",
            signature=_signature({"visits": "long"}),
            serialization_format="pickle",
            pip_requirements=[],
        )
    finally:
        del sys.modules["shop_models"]
    with pytest.raises(PermanentError, match=r"shop_models.*requirements\.txt"):
        open_scorer(tmp_path / "m", "sklearn", ("visits",), "probability")


def test_a_category_that_xgboost_never_saw_counts_as_missing(tmp_path: Path) -> None:
    scorer = _xgboost_categories(tmp_path / "m").scorer()

    def with_plan(plan: str | None) -> list[float]:
        place = SCORED.column_names.index("plan")
        column = pa.array([plan] * ROWS, pa.string())
        return _scores(scorer, SCORED.set_column(place, "plan", column)).tolist()  # type: ignore[no-any-return]

    assert with_plan("gold") == with_plan(None) != with_plan("plus")


def test_an_onnx_model_of_another_width_or_a_fixed_number_of_rows_is_refused(
    tmp_path: Path,
) -> None:
    case = MODELS["onnx-value"](tmp_path / "m")
    with pytest.raises(PermanentError, match="takes 3 columns, and its signature has 2"):
        open_scorer(case.folder, "onnx", ("age", "income"), "value")


def test_without_a_gpu_the_scorer_says_that_it_is_on_the_cpu(tmp_path: Path) -> None:
    from include.scorers.device import gpus

    case = MODELS["onnx-value"](tmp_path / "m")
    columns = tuple(column.name for column in MLmodel(case.folder).inputs())
    assert open_scorer(case.folder, "onnx", columns, "value", "cpu").device == "cpu"
    chosen = open_scorer(case.folder, "onnx", columns, "value", "auto").device
    assert chosen.startswith(("cuda:0", "cpu (a GPU")) if gpus() else chosen == "cpu (no GPU here)"


def test_a_library_that_is_not_installed_is_named_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    case = MODELS["onnx-value"](tmp_path / "m")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PermanentError, match=r"flavour onnx.*ip install 'daybreak\[onnx\]'"):
        open_scorer(case.folder, "onnx", ("age",), "value")
