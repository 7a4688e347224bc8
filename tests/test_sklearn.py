"""The estimators by scikit-learn's own checks, and inside its tools."""

import json
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from numbarnn import RNNClassifier, RNNRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SMALL = {"hidden_size": 6, "max_iter": 3, "random_state": 0, "n_jobs": 1}

CHECK = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numbarnn
from sklearn.utils.estimator_checks import check_estimator
estimator = getattr(numbarnn, sys.argv[1])(**json.loads(sys.argv[2]))
results = check_estimator(estimator, on_skip=None, on_fail=None)
print(json.dumps([(r["check_name"], r["status"], str(r["exception"])) for r in results]))
"""


def check(name, **parameters):
    """Run check_estimator in a process where no check is skipped for a missing setting of SciPy's."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, name, json.dumps(parameters)],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["RNNRegressor", "RNNClassifier"])
@pytest.mark.parametrize(
    "parameters",
    [
        # the defaults but for the number of threads: other processes may want the cores
        {"n_jobs": 1},
        pytest.param({"n_jobs": 1, "cell": "lstm", "batch_size": 64, "learning_rate_init": 0.01,
                      "dtype": "float64"}, marks=pytest.mark.slow),
        pytest.param({"n_jobs": 2, "cell": "rnn", "hidden_size": 32, "learning_rate_init": 0.01},
                     marks=pytest.mark.slow),
    ],
    ids=str,
)  # fmt: skip
def test_every_check_of_scikit_learn_passes(name, parameters):
    results = check(name, **parameters)
    assert [r for r in results if r[1] != "passed"] == []
    assert len(results) >= 52


@pytest.fixture
def series():
    """Windows of a noisy wave, in time order, and what comes next."""
    wave = np.sin(np.arange(120) / 3) + 0.1 * np.random.default_rng(0).normal(size=120)
    windows = np.lib.stride_tricks.sliding_window_view(wave, 9)
    return windows[:, :8], windows[:, 8]


def test_grid_search_gives_the_same_with_one_job_and_with_two(series):
    grid = {"cell": ["gru", "lstm"], "learning_rate_init": [1e-3, 1e-2]}
    searches = [
        GridSearchCV(RNNRegressor(**SMALL), grid, cv=TimeSeriesSplit(2), n_jobs=n).fit(*series)
        for n in (1, 2)
    ]
    for key in ("mean_test_score", "split0_test_score", "rank_test_score"):
        assert_array_equal(*(search.cv_results_[key] for search in searches))
    assert_array_equal(*(search.best_estimator_.network_.parameters for search in searches))


def test_pipeline_and_time_series_split(series):
    X, y = series
    model = make_pipeline(
        StandardScaler(),
        TransformedTargetRegressor(
            RNNRegressor(**{**SMALL, "max_iter": 40, "learning_rate_init": 0.02}),
            transformer=StandardScaler(),
        ),
    )
    scores = cross_val_score(model, X, y, cv=TimeSeriesSplit(3))
    assert scores[-1] > 0.8


def test_three_dimensions_and_weights_in_cross_validation(series):
    X, y = series
    scores = cross_val_score(
        RNNClassifier(**SMALL), X.reshape(-1, 4, 2), y > 0, params={"sample_weight": np.ones(len(y))}, cv=3
    )
    assert len(scores) == 3


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_joblib_dump(series, tmp_path, mmap_mode):
    X, y = series
    model = RNNRegressor(**SMALL).fit(X, y)
    joblib.dump(model, tmp_path / "model")
    loaded = joblib.load(tmp_path / "model", mmap_mode=mmap_mode)
    assert_array_equal(loaded.predict(X), model.predict(X))
    assert_array_equal(loaded.partial_fit(X, y).predict(X), model.partial_fit(X, y).predict(X))


def test_several_threads_may_predict_with_one_estimator(series):
    X, y = series
    model = RNNRegressor(**SMALL).fit(X, y)
    parts = [X[i : i + 20] for i in range(0, 100, 10)]
    found = joblib.Parallel(n_jobs=4, prefer="threads")(
        joblib.delayed(model.predict)(part) for part in parts * 5
    )
    for part, result in zip(parts * 5, found, strict=True):
        assert_array_equal(result, model.predict(part))


def test_iris():
    X, y = load_iris(return_X_y=True)
    model = RNNClassifier(**{**SMALL, "max_iter": 60, "learning_rate_init": 0.02}, n_channels=2)
    assert cross_val_score(model, StandardScaler().fit_transform(X), y, cv=3).mean() > 0.9


def test_parameters_can_be_read_and_set():
    model = RNNRegressor(cell="lstm")
    assert model.get_params()["cell"] == "lstm"
    assert model.set_params(cell="rnn", dropout=0.5).cell == "rnn"
    with pytest.raises(ValueError, match="units"):
        model.set_params(units=3)
