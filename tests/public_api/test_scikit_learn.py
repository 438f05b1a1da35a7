"""The contract of scikit-learn: its own checks, arrays, tags, weights, and its tools around the classifier."""

import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from made_data import NAMES, frame, texts_and_labels
from number_texts import NumberTextClassifier
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import DataConversionWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator

from labelfusion import AutoFusionClassifier

FOLDS = (
    "a repeated row is in the fold of its copy, so cross-fitting draws other folds than for one row of double weight"
)
EXPECTED = {"check_sample_weight_equivalence_on_dense_data": FOLDS}
QUICK: dict[str, Any] = {"llm": None, "encoder_training": "probe", "extra_sources": False}


@pytest.fixture
def make(tiny_encoder_dir: str) -> Any:
    def build(**options: Any) -> AutoFusionClassifier:
        return AutoFusionClassifier(**{"encoder": tiny_encoder_dir, **QUICK, **options})

    return build


def checks() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = estimator_checks_generator(NumberTextClassifier(**QUICK), expected_failed_checks=EXPECTED, mark="xfail")
        return list(found)


def name(value: Any) -> str | None:
    return value.func.__name__ if hasattr(value, "func") else None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), checks(), ids=name)
def test_its_checks(estimator: Any, check: Any, tiny_encoder_dir: str) -> None:
    check(estimator.set_params(encoder=tiny_encoder_dir))


def test_there_are_checks() -> None:
    assert len(checks()) > 40


def test_tags_say_text() -> None:
    tags = get_tags(AutoFusionClassifier(multi_label=True))
    assert tags.input_tags.string
    assert tags.input_tags.one_d_array
    assert not tags.input_tags.two_d_array
    assert tags.classifier_tags.multi_label
    assert not get_tags(AutoFusionClassifier()).classifier_tags.multi_label


@pytest.mark.parametrize("named", [True, False])
def test_answers_are_arrays(make: Any, named: bool) -> None:
    texts, numbers = texts_and_labels(60)
    y = np.array(NAMES)[numbers] if named else numbers
    clf = make().fit(texts, y)
    predicted = clf.predict(texts)
    assert isinstance(predicted, np.ndarray)
    assert np.mean(predicted == y) == pytest.approx(clf.score(texts, y))
    assert np.mean(predicted == y) > 0.5
    assert predicted.dtype == clf.classes_.dtype
    assert set(json.loads(json.dumps(predicted.tolist()))) <= set(y.tolist())
    if named:
        json.dumps(list(predicted))  # Python's own strings
    np.testing.assert_allclose(np.exp(clf.predict_log_proba(texts)), clf.predict_proba(texts), rtol=1e-5)


def test_a_column_of_labels_is_flattened_and_numbers_are_no_classes(make: Any) -> None:
    texts, y = texts_and_labels(30)
    flat = make().fit(texts, y)
    with pytest.warns(DataConversionWarning, match=r"\(30, 1\)"):
        column = make().fit(texts, y[:, None])
    np.testing.assert_array_equal(column.predict_proba(texts), flat.predict_proba(texts))
    with pytest.raises(ValueError, match="Unknown label type"):
        make().fit(texts, np.linspace(0, 1, 30))


def multi_label_data() -> tuple[list[str], np.ndarray]:
    texts, numbers = texts_and_labels(60)
    truth = np.eye(3, dtype=int)[numbers]
    truth[::4, 0] = 1
    return [f"{text} movie" if i % 4 == 0 else text for i, text in enumerate(texts)], truth


def test_multi_label_answers_have_the_form_of_y(make: Any, tmp_path: Any) -> None:
    texts, truth = multi_label_data()
    options = {"multi_label": True, "labels": NAMES}
    by_matrix = make(**options).fit(texts, truth)
    matrix = by_matrix.predict(texts)
    assert matrix.dtype == np.int64
    assert matrix.shape == truth.shape
    assert (matrix == truth).mean() > 0.7
    assert "film" in classification_report(truth, matrix, target_names=by_matrix.classes_, zero_division=0)
    lists = [[c for c, yes in zip(NAMES, row, strict=True) if yes] for row in truth]
    by_lists = make(**options).fit(texts, lists)
    named = by_lists.predict(texts)
    assert named.shape == (60,)
    assert [[int(c in row) for c in NAMES] for row in named] == matrix.tolist()
    np.testing.assert_array_equal(by_lists.predict(texts, output="indicator"), matrix)
    np.testing.assert_array_equal(by_matrix.predict(texts, output="names"), named)
    for y in (csr_matrix(truth), pd.DataFrame(truth, columns=NAMES)):
        np.testing.assert_array_equal(make(**options).fit(texts, y).predict(texts), matrix)
    by_matrix.save_pretrained(tmp_path)
    np.testing.assert_array_equal(AutoFusionClassifier.from_pretrained(tmp_path).predict(texts), matrix)
    assert cross_val_score(make(**options), np.array(texts), truth, cv=3, scoring="f1_macro").min() > 0.3
    with pytest.raises(ValueError, match=r"`output` is 'matrix'; expected 'names' .* or 'indicator'"):
        by_matrix.predict(texts, output="matrix")


def test_a_missing_answer_in_both_forms(make: Any) -> None:
    texts, truth = multi_label_data()
    clf = make(multi_label=True, labels=NAMES, empty_texts="skip").fit(texts, truth)
    matrix = clf.predict([*texts[:2], " "])
    assert np.isnan(matrix[2]).all()
    assert not np.isnan(matrix[:2]).any()
    assert clf.predict([*texts[:2], " "], output="names")[2] is None
    single = make(empty_texts="skip").fit(*texts_and_labels(30)).predict(["movie plot", None])
    assert single.dtype == object
    assert single[1] is None


def test_cross_validation_and_search_in_two_processes(make: Any) -> None:
    texts, y = texts_and_labels(60)
    x = np.array(texts, dtype=object)
    alone, parallel = (cross_val_score(make(), x, y, cv=3, n_jobs=n) for n in (1, 2))
    np.testing.assert_allclose(alone, parallel, atol=1e-9)
    assert (cross_val_predict(make(), x, y, cv=3) == y).mean() == pytest.approx(alone.mean())
    search = GridSearchCV(make(), {"pooling": ["mean", "cls"]}, cv=2, n_jobs=2, scoring="f1_macro").fit(texts, y)
    assert search.best_params_["pooling"] in ("mean", "cls")
    assert search.predict(texts).shape == (60,)
    assert search.predict_proba(texts).shape == (60, 3)


def test_pipeline_and_ensembles(make: Any) -> None:
    texts, numbers = texts_and_labels(60)
    y = np.array(NAMES)[numbers]
    lower = FunctionTransformer(lambda x: [text.lower() for text in x])
    words = make_pipeline(TfidfVectorizer(), LogisticRegression())
    both = [("fusion", make()), ("words", words)]
    for tool in (
        make_pipeline(lower, make()),
        VotingClassifier(both, voting="soft"),
        VotingClassifier(both, voting="hard"),
        StackingClassifier(both, cv=3),
        CalibratedClassifierCV(make(), cv=3),
    ):
        fitted = clone(tool).fit(texts, y)
        assert fitted.classes_.tolist() == NAMES
        assert fitted.score(texts, y) > 0.5
    assert np.allclose(fitted.predict_proba(texts).sum(axis=1), 1)


def test_weights_are_routed(make: Any) -> None:
    texts, y = texts_and_labels(60)
    weights = np.where(y == 0, 3.0, 0.5)
    with sklearn.config_context(enable_metadata_routing=True):
        asked = make().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        by_route = cross_validate(asked, np.array(texts), y, cv=3, params={"sample_weight": weights})["test_score"]
    bare = cross_val_score(make(), np.array(texts), y, cv=3)
    assert not np.allclose(by_route, bare)


def test_rows_of_weight_zero_are_left_out(make: Any) -> None:
    table, more = frame(90), frame(30, seed=8)
    options = {"llm": "recorded", "encoder_training": "probe", "extra_sources": True, "fusion": "mlp", "labels": NAMES}
    weights = np.tile([1.0, 2.0, 0.0], 30)[np.random.default_rng(0).permutation(90)]
    kept = weights > 0
    all_rows = make(**options).fit(table, eval_data=more, sample_weight=weights)
    without = make(**options).fit(table[kept], eval_data=more, sample_weight=weights[kept])
    np.testing.assert_array_equal(all_rows.predict_proba(table), without.predict_proba(table))
    equal = make(**options).fit(table, sample_weight=np.full(90, 7.0))
    np.testing.assert_array_equal(equal.predict_proba(table), make(**options).fit(table).predict_proba(table))
    assert not np.allclose(
        make(**options).fit(table[kept], sample_weight=weights[kept]).predict_proba(table),
        make(**options).fit(table[kept]).predict_proba(table),
    )
    found = {entry["row"] for entry in all_rows.suspected_labels()}
    assert found <= set(np.flatnonzero(np.append(kept, np.ones(30, dtype=bool))).tolist())


def test_a_zero_weight_costs_nothing(make: Any) -> None:
    asked: list[str] = []

    def llm(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.full((len(texts), 3), 1 / 3)

    table = frame(30).drop(columns="llm_scores")
    make(llm=llm, fusion="pool").fit(table, sample_weight=[0.0] * 10 + [1.0] * 20)
    assert sorted(asked) == sorted(table["text"][10:])


@pytest.mark.parametrize("training", ["probe", "full"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_weights_shift_what_is_learnt(make: Any, training: str, multi_label: bool) -> None:
    # The same text with two labels: the weights decide which one is right.
    texts = [f"the movie w{i % 10}" for i in range(60)]
    y: Any = ["yes" if i % 2 else "no" for i in range(60)]
    weights = [9.0 if label == "yes" else 1.0 for label in y]
    if multi_label:
        y = [[label] for label in y]
    options = {"encoder_training": training, "multi_label": multi_label, "num_train_epochs": 2, "max_length": 16}
    clf = make(**options).fit(texts, y, sample_weight=weights)
    assert clf.report_["encoder_training"] == training
    heavy = clf.predict_proba(texts)[:, clf.classes_.tolist().index("yes")]
    even = make(**options).fit(texts, y).predict_proba(texts)[:, 1]
    assert heavy.mean() == pytest.approx(0.9, abs=0.05)
    assert even.mean() == pytest.approx(0.5, abs=0.05)
    by_class = make(**options, class_weight={"yes": 9}).fit(texts, y)
    np.testing.assert_allclose(by_class.predict_proba(texts), clf.predict_proba(texts), atol=1e-6)


def test_fusion_and_calibration_heed_weights(make: Any) -> None:
    rng = np.random.default_rng(0)
    texts, y = [f"the movie w{i % 10} w{i // 10 % 10} {i}" for i in range(600)], rng.permutation(600) % 2
    said = rng.normal(size=600) / 2  # noise: only the frequencies of the classes can be learnt
    scores = np.stack([1 / (1 + np.exp(said)), 1 / (1 + np.exp(-said))], axis=1)[:, None]
    table = pd.DataFrame({"text": texts, "label": y, "llm_scores": scores.tolist()})
    clf = make(llm="recorded", fusion="mlp").fit(table, sample_weight=np.where(y == 1, 4.0, 1.0))
    assert clf.predict_proba(table)[:, 1].mean() == pytest.approx(0.8, abs=0.03)
    assert clf.predict_proba(texts)[:, 1].mean() == pytest.approx(0.8, abs=0.03)


def test_balanced_classes(make: Any) -> None:
    texts = [f"the movie w{i % 10}" for i in range(100)]
    y = np.where(np.random.default_rng(0).permutation(100) < 12, "rare", "usual")  # nothing in the texts tells
    plain, balanced = (make(class_weight=w).fit(texts, y).predict_proba(texts)[:, 0] for w in (None, "balanced"))
    assert plain.mean() == pytest.approx(0.12, abs=0.06)
    assert balanced.mean() == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 29, r"shape \(29,\); expected one number for each row, 30"),
        ([-1.0] + [1.0] * 29, "0 or more, and not only zeros; the smallest is -1"),
        ([0.0] * 30, "not only zeros"),
        ([np.nan] * 30, "finite numbers"),
        (["a"] * 30, "expected one number for each row"),
    ],
)
def test_bad_weights_are_named(make: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().fit(*texts_and_labels(30), sample_weight=weights)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("even", "`class_weight` is 'even'; expected 'balanced'"),
        ({0: -1}, "a number above 0 for each class"),
        ({"film": 2}, r"names the classes \['film'\], which are not in the data"),
    ],
)
def test_bad_class_weights_are_named(make: Any, weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(class_weight=weight).fit(*texts_and_labels(30))
