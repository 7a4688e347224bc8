"""`RNNForecaster(device="cuda")`: a fit is the same fit, to rounding, as on the CPU."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone

from numbarnn import RNNForecaster, load, save
from numbarnn.cuda import driver
from numbarnn.cuda.driver import DeviceMemoryError, DeviceUnavailableError
from numbarnn.forecasting.likelihoods import LIKELIHOODS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:y has")
RNG = np.random.default_rng(0)


def walk(*shape, missing=0.0):
    """Return a random walk, in time along the first axis, with some values missing."""
    values = RNG.standard_normal(shape).cumsum(axis=0)
    values[RNG.random(shape) < missing] = np.nan
    return values


Y, HOLES, PAIR = walk(50), walk(50, missing=0.3), walk(40, 2)
LATE = PAIR.copy()
LATE[:15, 1] = np.nan  # nothing is known of a channel in the first windows
SHORT = [walk(40), walk(9), walk(30, missing=0.2)]
QUANTILES = {"loss": "quantile", "quantiles": (0.1, 0.9)}
JOINT = {"multivariate": "joint"}

# y, options
CASES = {
    "defaults": (Y, {}),
    "window": (Y, {"normalize": "window", "dropout": 0.5}),
    "standard": (Y, {"normalize": "standard", "cell": "lstm", "loss": "absolute_error"}),
    "as_it_is": (Y, {"normalize": None, "loss": "huber", "delta": 0.5, "solver": "sgd"}),
    "quantiles": (HOLES, {**QUANTILES, "normalize": "window"}),
    "layers": (Y, {"num_layers": 2, "cell": "lstm", "alpha": 0.1}),
    "whole_segments": (Y, {"segment_length": 2, "context_length": 6, "dropout": 0.0}),
    "one_segment": (Y, {"segment_length": 5, "context_length": 5, "horizon": 5}),
    "holes": (HOLES, {}),
    "channels": (PAIR, {"series_embedding": 2}),
    "joint": (PAIR, {**JOINT, **QUANTILES}),
    "joint_holes": (LATE, {**JOINT, "normalize": "window"}),
    "short": (SHORT, {"normalize": "window", "cell": "lstm"}),
    "short_last": (SHORT, {"early_stopping": False, "max_grad_norm": None, "series_embedding": None}),
    "sampled": (Y, {"samples_per_epoch": 10, "batch_size": 4, "max_iter": 3}),
    "sampled_once": (Y, {"samples_per_epoch": 10, "batch_size": 16, "max_iter": 3}),
    "sampled_again": (Y, {"samples_per_epoch": 60, "batch_size": 16}),
    "stopping": (Y, {"tol": 10.0, "n_iter_no_change": 2, "max_iter": 4}),
    "cell": (Y, {"cell": "lstm_peephole", "learning_rate": "constant"}),
    "two_products": (Y, {"cell": "mgu"}),
    "averaged": (Y, {"ema_momentum": 0.9, "max_iter": 3}),
}


def frame(*lengths, static=False, past=False, future=False, missing=0.0):
    """Return long columns of series with covariates, and options that name them."""
    total, ids = sum(lengths), np.repeat([f"s{k}" for k in range(len(lengths))], lengths)
    data = {"unique_id": ids, "ds": np.concatenate([np.arange(n) for n in lengths]), "y": walk(total)}
    data["y"][RNG.random(total) < missing] = np.nan
    options = {}
    for kind, wanted in (("static", static), ("past", past), ("future", future)):
        names = [f"{kind}{k}" for k in range(2)] if wanted else []
        for name in names:
            each = {key: RNG.standard_normal() for key in set(ids)}
            data[name] = np.array([each[key] for key in ids]) if kind == "static" else walk(total)
        if wanted:
            options[f"{kind}_covariates"] = names
    return data, options


COVARIATES = {
    "static": (frame(40, 30, static=True), {}),
    "static_alone": (frame(40, static=True), {"series_embedding": None}),
    "past": (frame(40, past=True), {"normalize": "window"}),
    "future": (frame(40, 9, future=True), {"num_layers": 2}),
    "future_holes": (frame(40, 30, future=True, missing=0.3), {"segment_length": 2}),
    "all": (frame(40, 30, static=True, past=True, future=True, missing=0.2), {"cell": "lstm"}),
}


def make(device, **options):
    usual = {
        "horizon": 4, "context_length": 7, "segment_length": 3, "hidden_size": 4, "batch_size": 16,
        "max_iter": 2, "random_state": 0, "dtype": "float64", "n_jobs": 1, "samples_per_epoch": None,
    }  # fmt: skip
    return RNNForecaster(**{**usual, **options, "device": device})


def assert_alike(found, expected, limit=1e-10):
    for attribute in ("loss_curve_", "validation_scores_"):
        a, b = (getattr(each, attribute) for each in (found, expected))
        assert (a is None) == (b is None)
        assert a is None or np.allclose(a, b, rtol=limit, atol=limit)
    np.testing.assert_allclose(found.network_.parameters, expected.network_.parameters, atol=limit)
    np.testing.assert_allclose(found._optimizer.state, expected._optimizer.state, atol=limit)
    assert found._optimizer.n_updates == expected._optimizer.n_updates
    assert found._rng.bit_generator.state == expected._rng.bit_generator.state
    randoms = [each.network_._random.bit_generator.state for each in (found, expected)]
    assert randoms[0] == randoms[1]


@pytest.mark.parametrize("name", CASES)
def test_a_fit_is_as_on_the_cpu(name):
    y, options = CASES[name]
    found, expected = (make(device, **options).fit(y) for device in ("cuda", "cpu"))
    assert_alike(found, expected)
    for a, b in zip(*(np.atleast_1d(each.predict()) for each in (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


DIRECT = ("quantiles", "layers", "joint_holes", "short")


@pytest.mark.parametrize("name", DIRECT)
def test_a_fit_of_a_direct_decoder_is_as_on_the_cpu(name):
    y, options = CASES[name]
    assert_alike(*(make(device, **options, decoder="direct").fit(y) for device in ("cuda", "cpu")))


@pytest.mark.parametrize("decoder", ["segment", "direct", "recursive"])
@pytest.mark.parametrize("name", COVARIATES)
def test_a_fit_with_covariates_is_as_on_the_cpu(name, decoder):
    (data, columns), options = COVARIATES[name]
    options = {**options, "decoder": decoder}
    assert_alike(*(make(device, **columns, **options).fit(data) for device in ("cuda", "cpu")))


COUNTS = np.random.default_rng(1).poisson(3, 50).astype(float)
COUNTS_HOLES = np.where(np.isnan(HOLES), np.nan, COUNTS)
# y, options
RECURSIVE = {
    "defaults": (Y, {}),
    "holes": (HOLES, {"normalize": "window", "num_layers": 2, "loss": "huber"}),
    "channels": (PAIR, {"loss": "gaussian", "series_embedding": 2}),
    "joint": (LATE, {**JOINT, "loss": "student_t", "normalize": "window", "cell": "lstm"}),
    "short": (SHORT, {"loss": "student_t"}),
    "counts": (COUNTS, {"loss": "negative_binomial"}),
    "counts_holes": (COUNTS_HOLES, {"loss": "negative_binomial", "dropout": 0.0}),
    "counts_joint": (COUNTS.reshape(25, 2), {**JOINT, "loss": "negative_binomial", "context_length": 5}),
}


@pytest.mark.parametrize("name", RECURSIVE)
def test_a_fit_of_a_recursive_decoder_is_as_on_the_cpu(name):
    y, options = RECURSIVE[name]
    options = {**options, "decoder": "recursive", "segment_length": "auto"}
    found, expected = (make(device, **options).fit(y) for device in ("cuda", "cpu"))
    assert_alike(found, expected)
    for a, b in zip(*(np.atleast_1d(each.predict()) for each in (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_is_that_of_the_table(name, dtype):
    from numbarnn.cuda.driver import download, empty, upload
    from numbarnn.cuda.losses import LossKernel
    from numbarnn.cuda.program import Program

    loss, rows, rng = LIKELIHOODS[name](), 200, np.random.default_rng(0)
    K = loss.n_raw(1)
    # the last rows are beyond where mean and dispersion of counts are clipped
    raw = (np.repeat([1.0, 8.0, 30.0], [100, 50, 50])[:, np.newaxis] * rng.standard_normal((rows, K)))
    raw, y = raw.astype(dtype), rng.poisson(5, (rows, 1)).astype(dtype)
    weights = rng.random(rows).astype(dtype)
    draw, losses, program = empty(raw.size, dtype), empty(rows, dtype), Program()
    arrays = upload(weights), upload(np.full(1, 2, dtype)), upload(y), upload(raw), draw, losses
    LossKernel(loss, K, np.dtype(dtype)).add(program, rows, *arrays)
    program.run()
    value, gradient = loss(y, raw, weights / 2)
    limit = 1e-5 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(download(losses).astype(float).sum(), value, rtol=limit)
    found = download(draw).reshape(raw.shape)
    np.testing.assert_allclose(found, gradient, rtol=limit, atol=limit * np.abs(gradient).max())


def test_covariates_of_channels_read_together():
    y, X = PAIR, walk(40, 3)
    options = {**JOINT, "past_covariates": [1]}
    assert_alike(*(make(device, **options).fit(y, X) for device in ("cuda", "cpu")))


@pytest.mark.parametrize("name", ["quantiles", "short", "layers"])
def test_gradients_in_float32_are_as_on_the_cpu(name):
    """One step of gradient descent over all windows is the gradient."""
    y, options = CASES[name]
    options = {
        **options, "dtype": "float32", "solver": "sgd", "learning_rate": "constant", "max_grad_norm": None,
        "early_stopping": False, "batch_size": 1000, "max_iter": 1,
    }  # fmt: skip
    start = make("cpu", **options, learning_rate_init=1e-30).fit(y)
    found, expected = (make(each, **options, learning_rate_init=1.0).fit(y) for each in ("cuda", "cpu"))
    np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-5)
    step = expected.network_.parameters - start.network_.parameters
    error = np.abs(found.network_.parameters - expected.network_.parameters).max()
    assert error < 1e-4 * np.abs(step).max()


def test_a_layer_that_is_not_on_the_chip(monkeypatch):
    monkeypatch.setattr("numbarnn.cuda.directions.plan", lambda *arguments: None)
    assert_alike(*(make(device, num_layers=2).fit(HOLES) for device in ("cuda", "cpu")))


def test_fits_are_the_same_bits():
    first, *others = (make("cuda", dtype="float32", dropout=0.3).fit(SHORT) for _ in range(3))
    for other in others:
        assert (other.network_.parameters == first.network_.parameters).all()
        assert other.loss_curve_ == first.loss_curve_


def test_partial_fit_goes_on():
    found, expected = models = [make(device) for device in ("cuda", "cpu")]
    for model in models:
        model.partial_fit(Y).partial_fit(Y[:30])
    assert_alike(found, expected)


def test_partial_fit_of_some_series_is_as_on_the_cpu():
    data, _ = frame(30, 40)
    some = {name: values[30:] for name, values in data.items()}
    found, expected = (make(device, series_embedding=2).fit(data) for device in ("cuda", "cpu"))
    assert_alike(found.partial_fit(some), expected.partial_fit(some))


def test_callbacks_see_what_they_see_on_the_cpu(see_the_same):
    see_the_same(lambda device, note: make(device, callbacks=note, samples_per_epoch=30).fit(Y))


def test_series_are_on_the_device_once_and_windows_nowhere(monkeypatch):
    """What is sent grows with the series and not with the context length."""
    sizes, upload = {}, driver.upload

    def noting(array):
        sizes[length].append(array.nbytes)
        return upload(array)

    monkeypatch.setattr("numbarnn.cuda.windows.upload", noting)
    y = walk(60)
    for length in (8, 16):
        sizes[length] = []
        make("cuda", context_length=length, max_iter=1).fit(y)
    # there are fewer of the longer windows
    assert sum(sizes[16]) <= sum(sizes[8])
    assert sizes[8].count(y.nbytes) == 1


def test_a_model_is_used_on_the_other_device(tmp_path):
    for device, other in (("cuda", "cpu"), ("cpu", "cuda")):
        model = make(device).fit(Y)
        expected = model.predict()
        save(model, tmp_path / "model.safetensors")
        for copy in (pickle.loads(pickle.dumps(model)), load(tmp_path / "model.safetensors")):
            assert copy.device == clone(copy).device == copy.get_params()["device"] == device
            np.testing.assert_allclose(copy.set_params(device=other).predict(), expected, atol=1e-10)
            copy.partial_fit(Y)
            copy.update(Y[:5])


def test_cross_validation_is_as_on_the_cpu():
    found, expected = (
        make(device, max_iter=1).cross_validation(Y, n_windows=2, refit=True) for device in ("cuda", "cpu")
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), atol=1e-9)


def test_what_there_is_no_kernel_for_is_refused_by_name_before_any_work():
    model = make("cuda", cell="lstm_layernorm")
    with pytest.raises(ValueError, match=r"^cell was .*device='cuda' expects"):
        model.fit(Y)
    assert not hasattr(model, "network_")
    model.set_params(device="cpu", max_iter=1).fit(Y)


def test_device_is_one_of_two():
    with pytest.raises(ValueError, match="The 'device' parameter"):
        make("tpu").fit(Y)


def test_a_failure_leaves_the_forecaster_as_it_was(monkeypatch):
    from numba.cuda.cudadrv.driver import CudaAPIError

    def refuse(*arguments, **options):
        text = "CUDA_ERROR_OUT_OF_MEMORY"
        raise CudaAPIError(text) if driver.SIMULATED else CudaAPIError(2, text)

    model = make("cuda").fit(Y)
    expected, before = model.predict(), model.network_.parameters.copy()
    with monkeypatch.context() as patch:
        patch.setattr(driver.cuda, "device_array", refuse)
        for call in (model.fit, model.partial_fit):
            with pytest.raises(DeviceMemoryError, match="device was 'cuda'"):
                call(Y)
    assert (model.network_.parameters == before).all()
    assert (model.predict() == expected).all()
    model.partial_fit(Y)


def test_no_device_is_said_with_the_line_that_installs(monkeypatch):
    monkeypatch.setattr(driver.cuda, "is_available", lambda: False)
    model = make("cuda")
    with pytest.raises(DeviceUnavailableError, match=r"device was 'cuda'.*pip install \"numbarnn\[cuda\]\""):
        model.fit(Y)
    assert not hasattr(model, "network_")
    model.set_params(device="cpu").fit(Y)
