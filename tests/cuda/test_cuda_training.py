"""Estimators with ``device="cuda"``: a fit is the same fit, to rounding, as on the CPU."""

import pickle

import numpy as np
import pytest

from numbarnn import RNNClassifier, RNNRegressor, load, save
from numbarnn.losses import LOSSES
from numbarnn.network import Network
from numbarnn.optimizers import OPTIMIZERS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, T, F = 7, 3, 2
RNG = np.random.default_rng(0)
X, Y, EACH = RNG.standard_normal((N, T, F)), RNG.standard_normal((N, 2)), RNG.standard_normal((N, T))
CATEGORIES = X.copy()
CATEGORIES[:, :, 1] = RNG.integers(0, 3, (N, T))
LENGTHS, WEIGHT = np.array([3, 2, 1, 3, 2, 1, 3]), RNG.random(N)
LONG = RNG.standard_normal((45, 2, 2))  # a batch of 40 is cut in two on the CPU, and drawn in two
MASK = RNG.random((N, T)) < 0.7
MASK[:, 0] = True
BOTH = {"bidirectional": True, "num_layers": 2}
STEPS = {"return_sequences": True}
WINDOWS = {"stateful": True, "batch_size": 2, "cell": "lstm"}  # of two series, one behind the other

# X, y, what else fit is given, options
CASES = {
    "defaults": (X, Y, {}, {}),
    "momentum": (X, EACH, {}, {**STEPS, "solver": "sgd", "momentum": 0.5, "learning_rate": "exponential"}),
    "sgd": (X, Y, {}, {"solver": "sgd", "shuffle": False, "max_grad_norm": 0.01}),
    "rmsprop": (X, EACH, {"lengths": LENGTHS}, {**STEPS, **BOTH, "solver": "rmsprop", "alpha": 0.1}),
    "adamw": (X, Y, {"lengths": LENGTHS, "sample_weight": WEIGHT},
              {**BOTH, "residual": True, "solver": "adamw"}),
    "mask": (X, EACH, {"mask": MASK, "sample_weight": WEIGHT},
             {**STEPS, "cell": "lstm", "residual": True, "num_layers": 2}),
    "merged": (X, Y, {"mask": MASK}, {**BOTH, "merge": "sum", "residual": True, "stem_sizes": (3,)}),
    "product": (X, Y, {}, {"bidirectional": True, "merge": "product", "head_sizes": (4,)}),
    "learned": (X, Y, {}, {"cell": "lstm", "initial_state": "learned", **BOTH}),
    "random": (X, Y, {}, {"initial_state": "random", "num_layers": 2, "dropout": 0.3, "stem_sizes": (3,)}),
    "dropout": (X, EACH, {}, {**STEPS, "dropout": 0.3, "stem_sizes": (3,), "head_sizes": (4,)}),
    "embedding": (CATEGORIES, Y, {}, {"embedding": [(1, 3, 2)], "stem_sizes": (2,)}),
    "stopping": (X, Y, {}, {"early_stopping": True, "validation_fraction": 0.4, "tol": 10.0, "max_iter": 4,
                            "n_iter_no_change": 2}),
    "averages": (X, Y, {}, {"ema_momentum": 0.7, "max_iter": 3}),
    "averages_stopping": (X, EACH, {}, {**STEPS, "ema_momentum": 0.5, "early_stopping": True, "max_iter": 4,
                                        "validation_fraction": 0.4, "learning_rate_init": 0.5}),
    "windows": (X[:6], Y[:6], {}, {**WINDOWS, "num_layers": 2}),
    "windows_steps": (X[:6], EACH[:6], {"mask": MASK[:6]}, {**WINDOWS, **STEPS, "num_layers": 2}),
    "windows_dropout": (X[:6], EACH[:6], {"mask": MASK[:6]},
                        {**WINDOWS, **STEPS, "dropout": 0.3, "num_layers": 2, "stem_sizes": (3,)}),
    "noise": (X, Y, {}, {"cell": "lstm", "recurrent_dropout": 0.3, "zoneout": (0.2, 0.5),
                         "initial_state": "random", "early_stopping": True, "validation_fraction": 0.3}),
    "noise_lengths": (X, EACH, {"lengths": LENGTHS}, {
        **STEPS, **BOTH, "recurrent_dropout": 0.3, "zoneout": 0.2, "dropout": 0.3, "stem_sizes": (3,),
        "head_sizes": (4,), "residual": True, "merge": "mean", "batch_size": 2}),
    "noise_windows": (X[:6], Y[:6], {}, {**WINDOWS, "recurrent_dropout": 0.3, "zoneout": 0.3,
                                         "initial_state": "learned"}),
    "projected": (X, Y, {"lengths": LENGTHS}, {
        **BOTH, "cell": "lstm", "proj_size": 2, "initial_state": "learned", "residual": True,
        "head_sizes": (3,)}),
    "projected_windows": (X[:6], Y[:6], {}, {**WINDOWS, "proj_size": 2, "zoneout": 0.3, "num_layers": 2}),
    "projected_ends": (X, Y, {}, {"bidirectional": True, "cell": "lstm", "proj_size": 1, "merge": "product",
                                  "initial_state": "random"}),
    "two_products": (X, EACH, {"mask": MASK}, {**STEPS, **BOTH, "cell": "article_lstm", "merge": "sum",
                                               "recurrent_dropout": 0.2}),
    "lbfgs": (X, Y, {}, {"solver": "lbfgs", "max_iter": 4, "alpha": 0.1, "stem_sizes": (3,)}),
    "lbfgs_steps": (X, EACH, {"lengths": LENGTHS, "sample_weight": WEIGHT},
                    {**STEPS, **BOTH, "solver": "lbfgs", "max_iter": 3, "initial_state": "learned"}),
    "noise_chunks": (LONG, LONG[:, 0, :1], {}, {"recurrent_dropout": 0.3, "zoneout": 0.2, "dropout": 0.4,
                                                "num_layers": 2, "batch_size": 40, "max_iter": 1}),
    "windows_learned": (X[:6], Y[:6], {"lengths": LENGTHS[:6]},
                        {**WINDOWS, "initial_state": "learned", "early_stopping": True,
                         "validation_fraction": 0.4, "ema_momentum": 0.5}),
    "windows_random": (X[:6], Y[:6], {}, {**WINDOWS, "initial_state": "random", "head_sizes": (3,),
                                          "num_layers": 2, "residual": True}),
    "huber": (X, Y, {}, {"loss": "huber", "delta": 0.5}),
    "quantile": (X, Y, {}, {"loss": "quantile", "quantile": [0.1, 0.5]}),
    "absolute": (X, Y, {}, {"loss": "absolute_error", "max_grad_norm": None}),
    "poisson": (X, np.abs(Y).round(), {}, {"loss": "poisson"}),
    "two": (X, np.arange(N) % 2, {}, {}),
    "three": (X, np.arange(N) % 3, {}, {"class_weight": "balanced", "cell": "rnn"}),
    "three_steps": (X, np.arange(N * T).reshape(N, T) % 3, {"lengths": LENGTHS}, {**STEPS, "alpha": 0.1}),
}  # fmt: skip


def model_of(device, y, **options):
    kind = RNNClassifier if y.dtype.kind == "i" else RNNRegressor
    usual = {"hidden_size": 3, "batch_size": 3, "max_iter": 2, "random_state": 0, "dtype": "float64"}
    return kind(**{"cell": "gru", "device": device, **usual, **options})


def predict(model, x, **given):
    return (model.predict_proba if isinstance(model, RNNClassifier) else model.predict)(x, **given)


@pytest.mark.parametrize("name", CASES)
def test_a_fit_is_as_on_the_cpu(name):
    x, y, given, options = CASES[name]
    models = [model_of(device, y, **options).fit(x, y, **given) for device in ("cuda", "cpu")]
    found, expected = models
    for attribute in ("loss_curve_", "validation_scores_"):
        a, b = (getattr(model, attribute) for model in models)
        assert (a is None) == (b is None)
        assert a is None or np.allclose(a, b, rtol=1e-10, atol=1e-10)
    assert found.n_iter_ == expected.n_iter_
    np.testing.assert_allclose(found.network_.parameters, expected.network_.parameters, atol=1e-10)
    if options.get("solver") != "lbfgs":
        np.testing.assert_allclose(found._optimizer.state, expected._optimizer.state, atol=1e-10)
        assert found._optimizer.n_updates == expected._optimizer.n_updates
    given = {name: value for name, value in given.items() if name != "sample_weight"}
    np.testing.assert_allclose(predict(found, x, **given), predict(expected, x, **given), atol=1e-10)


def test_float32_is_as_on_the_cpu():
    options = {"dtype": "float32", "cell": "lstm"}
    found, expected = (model_of(device, Y, **options).fit(X, Y) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(found.network_.parameters, expected.network_.parameters, atol=1e-5)


def test_five_fits_are_the_same_bits():
    options = {"dtype": "float32", "dropout": 0.2, "head_sizes": (3,), "early_stopping": True,
               "validation_fraction": 0.4}  # fmt: skip
    fits = [model_of("cuda", Y, **options).fit(X, Y) for _ in range(5)]
    for other in fits[1:]:
        assert (other.network_.parameters == fits[0].network_.parameters).all()
        assert other.loss_curve_ == fits[0].loss_curve_


@pytest.mark.parametrize(
    "options",
    [{}, {"early_stopping": True}, {"early_stopping": True, "ema_momentum": 0.5}, WINDOWS],
)
def test_an_epoch_is_one_small_copy_to_the_host(options, monkeypatch):
    """Validation included; what was learned comes back once, at the end."""
    from numbarnn.cuda import network, optimizers, training

    sizes, epochs = [], 3
    for module in (network, optimizers, training):

        def noting(array, download=module.download):
            sizes.append(array.size)
            return download(array)

        monkeypatch.setattr(module, "download", noting)
    model = model_of("cuda", Y[:6], max_iter=epochs, validation_fraction=0.4, **options).fit(X[:6], Y[:6])
    assert sizes[:epochs] == [2 * optimizers.SIZE] * epochs
    assert sizes[epochs] == model.network_.parameters.size
    assert len(sizes) <= epochs + 3


def test_partial_fit_and_warm_start_go_on():
    for kind in ("partial_fit", "fit"):
        models = [model_of(device, Y, warm_start=True, max_iter=1) for device in ("cuda", "cpu")]
        for model in models:
            getattr(model, kind)(X, Y)
            getattr(model, kind)(X, Y)
        found, expected = models
        np.testing.assert_allclose(found.network_.parameters, expected.network_.parameters, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"initial_state": "learned"}])
def test_states_go_on_between_calls_as_on_the_cpu(options):
    models, found = [model_of(device, Y, **WINDOWS, **options) for device in ("cuda", "cpu")], []
    for model in models:
        predictions = [model.partial_fit(X[:6], Y[:6]).predict(X[:4])]
        predictions += [model.predict(X[:2]), model.partial_fit(X[:2], Y[:2]).predict(X[:2])]
        with pytest.raises(ValueError, match="x had a batch of 1 samples; expected 2"):
            model.set_params(batch_size=1).predict(X[:1])
        model.set_params(batch_size=3).reset_states()
        predictions += [model.predict(X[:3]), *model.network_._carried, model.network_.parameters.copy()]
        found.append(predictions)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    for model in models:  # each goes on where the other one has stopped
        model.set_params(device={"cuda": "cpu", "cpu": "cuda"}[model.device])
    np.testing.assert_allclose(*(model.predict(X[:3]) for model in models), atol=1e-10)


def test_a_callback_may_let_states_begin_anew():
    seen = {"cuda": [], "cpu": []}
    for device, states in seen.items():

        def note(info, states=states):
            if info["event"] == "batch":
                states.append(info["network"]._carried)
                if info["batch"] == 1:
                    info["network"].reset_states()

        model = model_of(device, Y, **WINDOWS, callbacks=note).fit(X[:6], Y[:6])
        states.append([model.network_.parameters])
    for a, b in zip(*seen.values(), strict=True):
        for found, expected in zip(a, b, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-10)


def test_callbacks_see_what_they_see_on_the_cpu(see_the_same):
    see_the_same(lambda device, note: model_of(device, Y, callbacks=note).fit(X, Y))


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": None}])
def test_what_is_not_finite_ends_training_and_changes_nothing(options):
    model = model_of("cuda", Y).fit(X, Y)
    before = model.network_.parameters.copy()
    model.set_params(loss="poisson", learning_rate_init=1e6, max_iter=20, solver="sgd", **options)
    # in the simulator Python's own exp refuses what is too large for it
    with pytest.raises((FloatingPointError, OverflowError)):
        model.fit(X, np.abs(Y) * 1e100)
    assert (model.network_.parameters == before).all()
    assert np.isfinite(model.predict(X)).all()


def test_a_model_is_used_on_the_other_device(tmp_path):
    for device, other in (("cuda", "cpu"), ("cpu", "cuda")):
        model = model_of(device, Y).fit(X, Y)
        expected = model.predict(X)
        save(model, tmp_path / "model.safetensors")
        for copy in (pickle.loads(pickle.dumps(model)), load(tmp_path / "model.safetensors")):
            np.testing.assert_allclose(copy.set_params(device=other).predict(X), expected, atol=1e-10)
            copy.partial_fit(X, Y)


def test_predictions_come_in_batches_that_fit(monkeypatch):
    from numbarnn.cuda.network import DeviceNetwork

    model = model_of("cuda", Y).fit(X, Y)
    expected, sizes = model.predict(X), []
    forward = DeviceNetwork._forward

    def noting(self, x, lengths):
        sizes.append(len(x))
        return forward(self, x, lengths)

    monkeypatch.setattr(DeviceNetwork, "_forward", noting)
    network = DeviceNetwork(model.network_)
    room = 2 * 3 * 8 * (network.rows_that_fit(1) and 1) * 40
    monkeypatch.setattr("numbarnn.cuda.network.free_bytes", lambda: room)
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-12)
    assert len(sizes) > 1
    assert max(sizes) < N


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_that_of_the_optimizer(name):
    from numbarnn.cuda.driver import download, upload
    from numbarnn.cuda.optimizers import BATCH, SIZE, OptimizerKernel
    from numbarnn.cuda.program import Program

    p, g = RNG.standard_normal(5), RNG.standard_normal(5)
    cpu, other = (OPTIMIZERS[name](5, "float64") for _ in range(2))
    expected = p.copy()
    kernel, found = OptimizerKernel(other), upload(p)
    for _ in range(2):
        cpu.update(expected, g, 0.1, 0.5)
    kernel.start_epoch(0.1, 2)
    for k in range(2):
        control = np.zeros(SIZE)
        control[BATCH] = k + 1
        program = Program()
        kernel.add(program, 5, found, upload(g), upload(control), upload(np.full(1, 0.5)))
        program.run()
    np.testing.assert_allclose(download(found), expected, rtol=1e-12)
    np.testing.assert_allclose(kernel.finish(), cpu.state, rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_is_that_of_the_table(name, dtype):
    from numbarnn.cuda.driver import download, empty, upload
    from numbarnn.cuda.losses import LossKernel
    from numbarnn.cuda.program import Program

    loss = LOSSES[name](**({"level": [0.1, 0.7]} if name == "quantile" else {}))
    for n_raw in (1, 4) if name == "log_loss" else (4,):
        raw = (3 * RNG.standard_normal((6, n_raw))).astype(dtype)
        y = np.abs(RNG.standard_normal((6, 2 if name == "quantile" else n_raw))).astype(dtype)
        y[0] = 0
        if name == "log_loss":
            y = RNG.integers(0, max(2, n_raw), (6, 1))
        weights = RNG.random(6).astype(dtype)
        draw, losses, program = empty(raw.size, dtype), empty(6, dtype), Program()
        count = upload(np.full(1, 2, dtype))
        arrays = upload(weights), count, upload(y.astype(dtype)), upload(raw), draw, losses
        LossKernel(loss, n_raw, np.dtype(dtype)).add(program, 6, *arrays)
        program.run()
        value, gradient = loss(y, raw, weights / 2)
        limit = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(download(losses).sum(), value, rtol=limit)
        np.testing.assert_allclose(download(draw).reshape(raw.shape), gradient, rtol=limit, atol=limit)


def test_a_network_is_that_of_the_cpu_where_nothing_is_trained():
    from numbarnn.cuda.network import DeviceNetwork

    network = Network("gru", F, 3, 2, bidirectional=True, random_state=0, dtype="float64")
    np.testing.assert_allclose(DeviceNetwork(network).forward(X), network.forward(X), atol=1e-12)
