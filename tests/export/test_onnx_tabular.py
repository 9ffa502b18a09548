"""Tabular students as ONNX answer as the students do: every family, missing and unknown cells, rows on thresholds."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from stillroom.core.errors import StageFailed
from stillroom.core.records import Column
from stillroom.export.onnx_tabular import export_tabular
from stillroom.export.parity import check_parity
from stillroom.models.estimators import resolve_estimator
from stillroom.models.load import load_predictor
from stillroom.models.tabular import TabularPredictor, feature_encoder, prepare

SMALL: dict[str, dict[str, Any]] = {
    "random-forest": {"n_estimators": 20},
    "extra-trees": {"n_estimators": 20},
    "lightgbm": {"n_estimators": 10, "num_leaves": 15, "n_jobs": 1},
    "gradient-boosting": {"max_iter": 10},
    "sklearn.ensemble.GradientBoostingClassifier": {"n_estimators": 10},
    "sklearn.ensemble.GradientBoostingRegressor": {"n_estimators": 10},
    "mlp": {"hidden_layer_sizes": [16], "max_iter": 60},
}
CLASSIFIERS = [
    "decision-tree",
    "extra-trees",
    "gradient-boosting",
    "knn",
    "lightgbm",
    "logistic-regression",
    "mlp",
    "random-forest",
    "sklearn.ensemble.GradientBoostingClassifier",
]
REGRESSORS = [
    "decision-tree",
    "gradient-boosting",
    "knn",
    "lightgbm",
    "linear-regression",
    "mlp",
    "random-forest",
    "ridge",
    "svm",
    "sklearn.ensemble.GradientBoostingRegressor",
    "sklearn.linear_model.PoissonRegressor",
]


def fitted(estimator: Any, features: pd.DataFrame, target: Any, columns: tuple[Column, ...], classes: tuple[str, ...], **more: Any):
    pipeline = Pipeline([("features", feature_encoder(columns, estimator)), ("estimator", estimator)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a network stopped early is good enough to export
        pipeline.fit(prepare(features, columns), target)
    answers = "probabilities" if classes else "values"
    return TabularPredictor(pipeline, classes, columns, **{"answers": answers, **more})


def named(name: str, task: str) -> Any:
    return resolve_estimator(name, SMALL.get(name, {}), task=task, seed=0, place="student")  # type: ignore[arg-type]


def exported(student: TabularPredictor, folder: Path):
    export_tabular(student, folder)
    return load_predictor(folder)


def numeric_columns(features: pd.DataFrame) -> tuple[Column, ...]:
    return tuple(Column(name, "numeric") for name in features)


def bundled(load: Any) -> tuple[pd.DataFrame, Any, tuple[Column, ...], tuple[str, ...]]:
    data = load(as_frame=True)
    return data.data, data.target.to_numpy(), numeric_columns(data.data), tuple(str(name) for name in np.unique(data.target))


@pytest.fixture(scope="module")
def adult(shared_data: Path):
    """Mixed columns with missing cells of both kinds; the test rows also hold categories that training has not seen."""
    table = pd.read_csv(shared_data / "tabular" / "adult_train.csv.gz", nrows=3000).replace("?", None)
    target = (table.pop("income").str.strip() == ">50K").astype(int).to_numpy()
    columns = tuple(Column(name, "numeric" if table[name].dtype.kind in "if" else "categorical") for name in table)
    table.loc[::13, "age"] = np.nan
    unseen = table.copy()
    unseen.loc[::7, "occupation"] = "Lighthouse-keeper"
    unseen.loc[::5, "fnlwgt"] = np.nan  # never missing in training
    return table, target, unseen, columns


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("load", [load_breast_cancer, load_digits], ids=["breast_cancer", "digits"])
def test_classifiers_on_numbers(name: str, load: Any, tmp_path: Path) -> None:
    features, target, columns, classes = bundled(load)
    student = fitted(named(name, "classification"), features[::3].reset_index(drop=True), target[::3], columns, classes)
    check = check_parity(student, exported(student, tmp_path), features, tolerance=1e-5)
    assert check.label_agreement == 1.0
    assert check.n == len(features)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_on_categories_and_missing_cells(name: str, adult, tmp_path: Path) -> None:
    table, target, unseen, columns = adult
    student = fitted(named(name, "classification"), table[:1500], target[:1500], columns, ("<=50K", ">50K"))
    model = exported(student, tmp_path)
    # Two categories may be equally near: which neighbour comes first is then nobody's promise.
    rows = unseen[:300] if name == "knn" else unseen
    check = check_parity(student, model, rows, tolerance=1e-5)
    assert check.label_agreement is not None
    assert check.label_agreement > 0.99
    blank = pd.DataFrame({column.name: [None] for column in columns}).astype({c.name: float for c in columns if c.kind == "numeric"})
    check_parity(student, model, blank, tolerance=1e-5)


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors(name: str, tmp_path: Path) -> None:
    features, target, columns, _ = bundled(load_diabetes)
    student = fitted(named(name, "regression"), features[:250], target[:250], columns, ())
    check_parity(student, exported(student, tmp_path), features, tolerance=1e-5, scale=float(target.std()))


@pytest.mark.parametrize("name", ["lightgbm", "decision-tree", "logistic-regression", "random-forest"])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_temperature_is_undone_inside_the_graph(name: str, scale: float, tmp_path: Path) -> None:
    features, target, columns, classes = bundled(load_digits)
    plain = fitted(named(name, "classification"), features[:600], target[:600], columns, classes)
    scaled = TabularPredictor(plain.pipeline, classes, columns, logit_scale=scale)
    model = exported(scaled, tmp_path)
    check_parity(scaled, model, features, tolerance=1e-5)
    # The reference: powers of the plain answers, renormalised.
    powers = plain.predict_values(features) ** scale
    np.testing.assert_allclose(model.predict_values(features), powers / powers.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeRegressor(max_depth=6, random_state=0),
        named("ridge", "regression"),
        named("knn", "regression"),
        MultiOutputRegressor(HistGradientBoostingRegressor(max_iter=3)),
        MultiOutputRegressor(LGBMRegressor(n_estimators=2, num_leaves=7, n_jobs=1, verbosity=-1)),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_students_that_regress_logits(estimator: Any, tmp_path: Path) -> None:
    features, target, columns, classes = bundled(load_digits)
    logits = 3.0 * np.eye(10)[target] - 0.3
    student = fitted(estimator, features[:500], logits[:500], columns, classes, answers="logits", logit_scale=2.0)
    model = exported(student, tmp_path)
    check_parity(student, model, features, tolerance=1e-5)
    np.testing.assert_allclose(model.predict_values(features).sum(axis=1), 1.0, atol=1e-5)


def test_columns_come_in_class_order_and_an_absent_class_has_probability_zero(tmp_path: Path) -> None:
    features, target, columns, _ = bundled(load_digits)
    classes = tuple(f"digit {i}" for i in range(12))
    for scale in (1.0, 2.0):
        student = fitted(DecisionTreeClassifier(max_depth=5, random_state=0), features, target + 1, columns, classes, logit_scale=scale)
        answers = exported(student, tmp_path).predict_values(features)
        assert answers.shape == (len(features), 12)
        assert (answers[:, [0, 11]] == 0).all()
        np.testing.assert_allclose(answers, student.predict_values(features), atol=1e-6)


def neighbours(seed: int = 0) -> pd.DataFrame:
    """Float32 numbers and their very next neighbours: a midpoint between two of them rounds up as often as down."""
    source = np.random.default_rng(seed)
    low = source.uniform(-1000, 1000, 400).astype(np.float32)
    return pd.DataFrame({"x": np.concatenate([low, np.nextafter(low, np.float32(np.inf))]).astype(np.float64)})


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeClassifier(random_state=0),
        named("random-forest", "classification"),
        LGBMClassifier(n_estimators=5, num_leaves=300, min_child_samples=1, min_data_in_bin=1, max_bin=2000, n_jobs=1, verbosity=-1),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_rows_next_to_a_threshold_stay_on_their_side(estimator: Any, tmp_path: Path) -> None:
    features = neighbours()
    target = np.repeat([0, 1], len(features) // 2)  # only a cut between the two neighbours can tell them apart
    columns = (Column("x", "numeric"),)
    student = fitted(estimator, features, target, columns, ("low", "high"))
    assert (student.predict_values(features).argmax(axis=1) == target).mean() > 0.6
    check = check_parity(student, exported(student, tmp_path), features, tolerance=1e-5)
    assert check.label_agreement == 1.0


@pytest.mark.parametrize("name", ["lightgbm", "gradient-boosting", "decision-tree", "random-forest"])
def test_rows_exactly_on_a_threshold(name: str, tmp_path: Path) -> None:
    """Decimals such as 0.1 and 12.3 have no exact float32; every value that was trained on is predicted on."""
    source = np.random.default_rng(0)
    features = pd.DataFrame({"a": source.integers(0, 300, 900) / 10, "b": source.integers(0, 50, 900) / 100})
    target = ((features.a * 10 + features.b * 100) % 7 > 3).astype(int).to_numpy()
    student = fitted(named(name, "classification"), features, target, numeric_columns(features), ("no", "yes"))
    model = exported(student, tmp_path)
    check_parity(student, model, features, tolerance=1e-5)
    thresholds = np.array(
        [a for node in model_thresholds(tmp_path) for a in (np.nextafter(node, -np.inf), node, np.nextafter(node, np.inf))]
    )
    on_them = pd.DataFrame({"a": thresholds, "b": thresholds[::-1]})
    check_parity(student, model, on_them.astype(np.float32).astype(float), tolerance=1e-5)


def model_thresholds(folder: Path) -> np.ndarray:
    graph = onnx.load(folder / "model.onnx").graph
    trees = next(node for node in graph.node if node.op_type == "TreeEnsembleRegressor")
    values = {attribute.name: attribute for attribute in trees.attribute}
    inner = np.array([mode != b"LEAF" for mode in values["nodes_modes"].strings])
    return np.array(values["nodes_values"].floats, dtype=np.float32)[inner]


def test_missing_numbers_take_the_side_that_training_chose(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    features = pd.DataFrame({"a": source.normal(size=800), "b": source.normal(size=800)})
    features.loc[source.random(800) < 0.3, "a"] = np.nan
    for flipped in (False, True):  # missing goes left in one of the two, right in the other
        target = ((features.a.isna() ^ flipped) | (features.b > 1)).astype(int).to_numpy()
        for name in ("lightgbm", "gradient-boosting", "decision-tree", "logistic-regression"):
            student = fitted(named(name, "classification"), features, target, numeric_columns(features), ("no", "yes"))
            check_parity(student, exported(student, tmp_path), features, tolerance=1e-5)


def test_lightgbm_reads_a_missing_number_as_zero_where_training_had_none(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    features = pd.DataFrame({"a": source.normal(size=800), "b": source.normal(size=800)})
    student = fitted(
        LGBMClassifier(n_estimators=20, n_jobs=1, verbosity=-1),
        features,
        (features.a + features.b > 0.4).astype(int),
        numeric_columns(features),
        ("n", "y"),
    )
    features.loc[::3, "a"], features.loc[::4, "b"] = np.nan, np.nan
    check_parity(student, exported(student, tmp_path), features, tolerance=1e-5)


@pytest.mark.parametrize(
    "estimator",
    [
        LGBMClassifier(n_estimators=10, boosting_type="rf", bagging_freq=1, bagging_fraction=0.6, n_jobs=1, verbosity=-1),
        LGBMClassifier(n_estimators=3, min_child_samples=10_000, n_jobs=1, verbosity=-1),
        DecisionTreeClassifier(min_samples_leaf=10_000),
        named("sklearn.ensemble.GradientBoostingClassifier", "classification").set_params(init="zero"),
    ],
    ids=["averaged boosting", "boosting without a split", "tree without a split", "boosting from zero"],
)
@pytest.mark.parametrize("load", [load_breast_cancer, load_digits], ids=["two classes", "ten classes"])
@pytest.mark.filterwarnings("ignore")
def test_corners_of_tree_families(estimator: Any, load: Any, tmp_path: Path) -> None:
    features, target, columns, classes = bundled(load)
    student = fitted(estimator, features, target, columns, classes)
    check_parity(student, exported(student, tmp_path), features, tolerance=1e-5)


def test_text_columns(tmp_path: Path, shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "banking77" / "train.csv.gz", nrows=700)
    target = pd.factorize(table["category"], sort=True)[0]
    classes = tuple(sorted(table["category"].unique()))
    features, columns = pd.DataFrame({"text": table["text"]}), (Column("text", "text"),)
    student = fitted(named("logistic-regression", "classification"), features, target, columns, classes)
    odd = [
        "",
        None,
        "x",
        "  ",
        "ÉCOLE à la CARTE",
        "ÄÖÜ ß card_1 card's",
        "card_1 transfer",
        "日本語 テスト",
        "#",
        "card\ncard\tCARD",
        "۱۲۳ x1",
    ]
    model = exported(student, tmp_path)
    check_parity(student, model, pd.DataFrame({"text": [*table["text"], *odd]}), tolerance=1e-5)
    check_parity(student, model, pd.DataFrame({"text": ["", None]}), tolerance=1e-5)


def test_rare_categories_share_a_column_and_unknown_ones_join_them(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    cells = [f"c{int(i)}" for i in source.exponential(80, 3000)]
    features = pd.DataFrame({"c": cells, "d": source.choice(["u", "v", None], 3000)})
    columns = (Column("c", "categorical"), Column("d", "categorical"))
    target = np.array([int(cell[1:]) % 2 for cell in cells])
    student = fitted(named("logistic-regression", "classification"), features, target, columns, ("even", "odd"))
    assert student.pipeline.steps[0][1].named_transformers_["categorical"].infrequent_categories_[0] is not None
    strange = pd.DataFrame({"c": ["never seen", None, "", *cells], "d": ["w", None, "u", *features["d"]]})
    check_parity(student, exported(student, tmp_path), strange, tolerance=1e-5)


def test_column_names_are_free_and_a_column_may_have_been_empty(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    names = ["a b/ç.1", "_weight.1", "probabilities_", "empty"]
    features = pd.DataFrame({name: source.normal(size=300) for name in names})
    features["empty"] = np.nan
    target = (features["a b/ç.1"] > 0).astype(int).to_numpy()
    student = fitted(named("logistic-regression", "classification"), features, target, numeric_columns(features), ("no", "yes"))
    check_parity(student, exported(student, tmp_path), features, tolerance=1e-5)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    features, target, columns, classes = bundled(load_breast_cancer)
    student = fitted(named("decision-tree", "classification"), features, target, columns, classes, logit_scale=2.0)
    model = exported(student, tmp_path)
    assert model.classes == classes
    assert model.columns == columns
    content = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(content, full_check=True)
    assert [tuple(d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim)[1] for i in content.graph.input] == [1] * len(columns)
    assert {p.key: p.value for p in content.metadata_props}["classes"] == ", ".join(classes)
    assert [output.name for output in content.graph.output] == ["probabilities"]
    assert "com.microsoft" not in {opset.domain for opset in content.opset_import}


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (LGBMClassifier(n_estimators=3, zero_as_missing=True, n_jobs=1, verbosity=-1), "zero_as_missing"),
        (LGBMClassifier(n_estimators=3, objective="binary", sigmoid=2.0, n_jobs=1, verbosity=-1), "sigmoid"),
        (LGBMClassifier(n_estimators=3, objective="cross_entropy", n_jobs=1, verbosity=-1), "cross_entropy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_onnx_form_is_refused_with_a_way_out(estimator: Any, reason: str, tmp_path: Path) -> None:
    features, target, columns, classes = bundled(load_breast_cancer)
    student = fitted(estimator, features, target, columns, classes)
    with pytest.raises(StageFailed, match=rf"LGBMClassifier cannot be written as ONNX: .*{reason}.*export\.formats: \[\]"):
        export_tabular(student, tmp_path)
    assert not list(tmp_path.iterdir())
