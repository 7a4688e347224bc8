"""The training loop: batches, epochs, early stopping, clipping, the penalty, callbacks, Ctrl-C, errors."""

import signal
import threading
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from numbarnn.estimators.sources import ArraySource, Subset
from numbarnn.losses import LOSSES
from numbarnn.network import Network
from numbarnn.optimizers import OPTIMIZERS
from numbarnn.schedules import StepSchedule
from numbarnn.training import Average, Trainer, evaluate, make_trainer

LOSS = LOSSES["squared_error"]()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def problem(rng, n=40, steps=5, sequences=False, lengths=None, weight=None):
    """A small network, and a source of data that it can learn."""
    x = rng.normal(size=(n, steps, 2))
    y = x[:, :, :1] if sequences else x[:, -2, :1]
    network = Network("gru", 2, 6, 1, return_sequences=sequences, dtype="float64", random_state=0, n_jobs=1)
    return network, ArraySource(x, y, weight, lengths, "float64")


def optimizer_for(network, name="adam", **options):
    return OPTIMIZERS[name](network.parameters.size, network.dtype, **options)


def fit(network, source, validation=None, rng=None, **options):
    """Train without the warning that there were too few epochs."""
    trainer = Trainer(loss=LOSS, rng=rng or np.random.default_rng(0), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return trainer.fit(network, optimizer_for(network), source, validation)


# ------------------------------------------------------------------ sources


@pytest.mark.parametrize("stored", ["float64", "float32", "int32"])
def test_source_gathers_into_one_buffer(rng, stored):
    x = (10 * rng.normal(size=(9, 4, 2))).astype(stored)
    source = ArraySource(x, np.arange(9.0), np.ones(9), dtype="float32")
    first = source.gather(np.array([8, 0, 3]))
    assert_array_equal(first[0], x[[8, 0, 3]].astype("float32"))
    assert_array_equal(first[1], [8, 0, 3])
    assert first[0].dtype == first[2].dtype == np.float32 and first[3] is None
    assert np.shares_memory(first[0], source.gather(np.array([1, 2]))[0])


def test_source_cuts_off_steps_that_no_sample_of_the_batch_has(rng):
    x, y = rng.normal(size=(2, 4, 6, 1))
    source = ArraySource(x, y, lengths=np.array([6, 2, 3, 1]), dtype="float64")
    got_x, got_y, _, lengths = source.gather(np.array([1, 2]))
    assert_array_equal(got_x, x[1:3, :3])
    assert_array_equal(got_y, y[1:3, :3])
    assert_array_equal(lengths, [2, 3])


def test_subset(rng):
    _, source = problem(rng)
    subset = Subset(source, np.array([5, 7, 9]))
    assert subset.n_samples == 3
    assert_array_equal(subset.gather(np.array([2, 0]))[0], source.gather(np.array([9, 5]))[0])


# ------------------------------------------------------------------ one step


def test_one_step_of_sgd_is_parameter_minus_rate_times_gradient(rng):
    network, source = problem(rng)
    before = network.parameters.copy()
    gradient = np.zeros_like(before)
    evaluate(network, LOSS, source, 100, gradient)
    Trainer(loss=LOSS, rng=rng, batch_size=100).epoch(network, optimizer_for(network, "sgd"), source, 0.1)
    assert_array_equal(network.parameters, before - 0.1 * gradient)


def test_clipping_brings_the_norm_down_to_the_bound(rng):
    network, source = problem(rng)
    before = network.parameters.copy()
    trainer = Trainer(loss=LOSS, rng=rng, batch_size=100, max_grad_norm=1e-3)
    trainer.epoch(network, optimizer_for(network, "sgd"), source, 1.0)
    assert_allclose(np.linalg.norm(network.parameters - before), 1e-3, rtol=1e-3)


def test_the_penalty_is_on_weights_over_the_number_of_samples(rng):
    network, source = problem(rng)
    before, gradient = network.parameters.copy(), np.zeros_like(network.parameters)
    plain = evaluate(network, LOSS, source, 100, gradient)
    trainer = Trainer(loss=LOSS, rng=rng, batch_size=100, alpha=2.0)
    loss, stopped = trainer.epoch(network, optimizer_for(network, "sgd"), source, 0.1)
    assert stopped == ""
    decay = 2.0 / 40 * np.where(network.penalized, before, 0)
    assert_allclose(loss, plain + 0.5 * decay @ before)
    assert_allclose(network.parameters, before - 0.1 * (gradient + decay))


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_mean_loss_does_not_depend_on_the_batch_size(rng, sequences, weighted, ragged):
    lengths = rng.integers(1, 6, 40) if ragged else None
    weight = rng.uniform(0.5, 1.5, 40) if weighted else None
    network, source = problem(rng, sequences=sequences, lengths=lengths, weight=weight)
    whole, parts = np.zeros((2, network.parameters.size))
    assert_allclose(evaluate(network, LOSS, source, 40, whole), evaluate(network, LOSS, source, 7, parts))
    assert_allclose(whole, parts, rtol=1e-9, atol=1e-12)
    trainer = Trainer(loss=LOSS, rng=rng, batch_size=7)
    shown, _ = trainer.epoch(network, optimizer_for(network, "sgd"), source, 0.0)  # that learns nothing
    assert_allclose(shown, evaluate(network, LOSS, source, 40))


def test_the_loss_is_the_mean_over_valid_steps(rng):
    lengths = np.array([5, 1, 3])
    network, source = problem(rng, n=3, sequences=True, lengths=lengths)
    x, y, _, _ = source.gather(np.arange(3))
    raw = network.forward(x, lengths)
    valid = np.arange(5) < lengths[:, np.newaxis]
    assert_allclose(evaluate(network, LOSS, source, 3), 0.5 * ((raw - y)[valid] ** 2).mean())


# ------------------------------------------------------------------ epochs


def test_training_learns_and_says_what_happened(rng):
    network, source = problem(rng, n=80)
    history = fit(network, source, learning_rate=0.02, max_iter=60, tol=0)
    assert history.loss_curve[-1] < 0.1 * history.loss_curve[0]
    assert history.stopped == "max_iter" and history.validation_curve == []


def test_training_stops_without_progress(rng):
    network, source = problem(rng)
    history = fit(network, source, max_iter=50, tol=10.0, n_iter_no_change=4)
    assert history.stopped == "converged"
    assert len(history.loss_curve) == 5  # the first is always lower than none


def test_too_few_epochs_are_warned_of(rng):
    network, source = problem(rng)
    with pytest.warns(ConvergenceWarning, match="max_iter=2 was reached"):
        Trainer(loss=LOSS, rng=rng, max_iter=2).fit(network, optimizer_for(network), source)


def test_nobody_is_warned_of_max_iter_who_asked_for_no_other_end(rng):
    network, source = problem(rng)
    history = Trainer(loss=LOSS, rng=rng, max_iter=2, n_iter_no_change=np.inf).fit(
        network, optimizer_for(network), source
    )
    assert history.stopped == "max_iter" and len(history.loss_curve) == 2


def test_nobody_is_warned_of_max_iter_who_wants_no_warning(rng):
    network, source = problem(rng)
    history = Trainer(loss=LOSS, rng=rng, max_iter=2, warn=False).fit(network, optimizer_for(network), source)
    assert history.stopped == "max_iter"


def test_the_best_weights_of_the_validation_part_are_put_back(rng):
    network, source = problem(rng, n=60)
    parts = Subset(source, np.arange(12)), Subset(source, np.arange(12, 60))
    history = fit(network, *parts, learning_rate=0.3, max_iter=25, batch_size=4, n_iter_no_change=99)
    curve = history.validation_curve
    assert min(curve) < curve[-1]
    assert_allclose(evaluate(network, LOSS, parts[1], 32), min(curve))


# ------------------------------------------------------------------ averages of the parameters


def averages(seen, momentum):
    """Return the average after every update by its definition: weights momentum ** age that add up to 1."""
    result = []
    for n in range(1, len(seen) + 1):
        weights = momentum ** np.arange(n - 1, -1, -1.0)
        result.append(weights @ seen[:n] / weights.sum())
    return np.array(result)


def recorder(seen):
    """Return a callback that keeps the parameters after every batch."""

    def record(info):
        if info["event"] == "batch":
            seen.append(info["network"].parameters.copy())

    return record


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.97])
def test_averages_are_kept(rng, momentum):
    network, source = problem(rng)
    seen = []
    fit(network, source, batch_size=8, max_iter=4, ema_momentum=momentum, callbacks=[recorder(seen)])
    assert_allclose(network.parameters, averages(np.array(seen), momentum)[-1], rtol=1e-12, atol=1e-15)


def test_averages_do_not_disturb_the_training(rng):
    runs = []
    for momentum in (None, 0.9):
        network, source = problem(np.random.default_rng(0))
        seen = []
        parts = Subset(source, np.arange(30)), Subset(source, np.arange(30, 40))
        fit(network, *parts, batch_size=8, max_iter=3, ema_momentum=momentum, callbacks=[recorder(seen)])
        runs.append(seen)
    assert_array_equal(*runs)


def test_the_best_averages_of_the_validation_part_are_put_back(rng):
    network, source = problem(rng, n=60)
    train, test = Subset(source, np.arange(12)), Subset(source, np.arange(12, 60))
    seen = []
    history = fit(
        network, train, test, learning_rate=0.3, max_iter=25, batch_size=4, n_iter_no_change=99,
        ema_momentum=0.6, callbacks=[recorder(seen)],
    )  # fmt: skip
    after_epochs = averages(np.array(seen), 0.6)[2::3]
    best = int(np.argmin(history.validation_curve))
    assert best < 24  # there is something to go back to
    assert_allclose(network.parameters, after_epochs[best], rtol=1e-12, atol=1e-15)
    for parameters, loss in zip(after_epochs, history.validation_curve, strict=True):
        network.parameters[...] = parameters
        assert_allclose(evaluate(network, LOSS, test, 32), loss)


def test_ctrl_c_leaves_the_average_of_what_was_done(rng):
    network, source = problem(rng)
    seen = []

    def interrupt(info):
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    callbacks = [recorder(seen), interrupt]
    trainer = Trainer(loss=LOSS, rng=rng, batch_size=8, ema_momentum=0.8, callbacks=callbacks)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        trainer.fit(network, optimizer_for(network), source)
    assert len(seen) == 3
    assert_allclose(network.parameters, averages(np.array(seen), 0.8)[-1], rtol=1e-12, atol=1e-15)


def test_a_network_that_was_lent_an_average_gets_its_own_parameters_back(rng):
    network, _ = problem(rng)
    own = network.parameters.copy()
    average = Average(own.size, own.dtype, 0.5)
    with pytest.raises(KeyboardInterrupt), average.applied(network):
        assert not network.parameters.any()
        raise KeyboardInterrupt
    assert_array_equal(network.parameters, own)


# ------------------------------------------------------------------ order, rates, callbacks


def test_shuffling_follows_the_generator(rng):
    runs = []
    for seed, shuffle in ((1, True), (1, True), (2, True), (1, False), (2, False)):
        network, source = problem(np.random.default_rng(0))
        fit(network, source, rng=np.random.default_rng(seed), batch_size=8, max_iter=3, shuffle=shuffle)
        runs.append(network.parameters)
    assert_array_equal(runs[0], runs[1])
    assert_array_equal(runs[3], runs[4])
    assert (runs[0] != runs[2]).any()


def test_the_schedule_sets_the_rate_of_each_epoch(rng):
    network, source = problem(rng)
    seen = []
    schedule = StepSchedule(every=1)
    fit(network, source, learning_rate=1.0, schedule=schedule, max_iter=3, callbacks=[seen.append])
    assert [info["learning_rate"] for info in seen if info["event"] == "epoch"] == [1.0, 0.5, 0.25]


def test_callbacks_see_every_batch_and_every_epoch(rng):
    network, source = problem(rng)
    seen = []
    fit(network, source, source, batch_size=16, max_iter=2, callbacks=[seen.append])
    assert [info["event"] for info in seen] == ["batch"] * 3 + ["epoch"] + ["batch"] * 3 + ["epoch"]
    assert [info["batch"] for info in seen[:3]] == [0, 1, 2]
    assert seen[3]["epoch"] == 0 and seen[7]["epoch"] == 1 and seen[0]["n_batches"] == 3
    assert seen[7]["network"] is network and np.isfinite(seen[7]["validation_loss"])


@pytest.mark.parametrize("event", ["batch", "epoch"])
def test_a_callback_may_end_training(rng, event):
    network, source = problem(rng)
    history = fit(network, source, batch_size=8, callbacks=[lambda info: info["event"] == event])
    assert history.stopped == "callback"
    assert len(history.loss_curve) == 1


def test_an_epoch_that_a_callback_ends_is_the_mean_over_what_was_shown(rng):
    network, source = problem(rng)
    seen = []
    trainer = Trainer(
        loss=LOSS, rng=rng, batch_size=16, callbacks=[seen.append, lambda info: info["batch"] == 1]
    )
    loss, stopped = trainer.epoch(network, optimizer_for(network), source, 0.1)
    assert stopped == "callback" and len(seen) == 2
    assert_allclose(loss, np.mean([info["loss"] for info in seen]))


# ------------------------------------------------------------------ what goes wrong


def test_ctrl_c_ends_training_after_the_batch(rng):
    network, source = problem(rng)
    batches = []

    def interrupt_in_third_batch(info):
        batches.append(info["event"])
        if len(batches) == 3:
            signal.raise_signal(signal.SIGINT)

    trainer = Trainer(loss=LOSS, rng=rng, batch_size=8, callbacks=[interrupt_in_third_batch])
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        history = trainer.fit(network, optimizer_for(network), source)
    assert history.stopped == "interrupted" and batches == ["batch"] * 3
    assert np.isfinite(history.loss_curve).all()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_it_at_once(rng):
    network, source = problem(rng)

    def twice(info):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(network, source, callbacks=[twice])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_works_outside_the_main_thread(rng):
    network, source = problem(rng)
    histories = []
    # warnings' filters are not for threads to change
    trainer = Trainer(loss=LOSS, rng=rng, max_iter=9, tol=10.0, n_iter_no_change=1)
    thread = threading.Thread(
        target=lambda: histories.append(trainer.fit(network, optimizer_for(network), source))
    )
    thread.start()
    thread.join()
    assert len(histories[0].loss_curve) == 2


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_loss_that_is_not_finite_says_what_to_try(rng, max_grad_norm):
    network, source = problem(rng)
    network.parameters[-1] = 1e200
    with pytest.raises(FloatingPointError, match="learning_rate_init.*max_grad_norm.*scale"):
        fit(network, source, max_grad_norm=max_grad_norm)


def test_a_validation_loss_that_is_not_finite_says_what_to_try(rng):
    network, source = problem(rng)
    x = rng.normal(size=(5, 5, 2))
    validation = ArraySource(x, np.full((5, 1), 1e300), dtype="float64")
    with pytest.raises(FloatingPointError, match="validation loss became inf.*learning_rate_init"):
        fit(network, source, validation)


def test_a_gradient_that_is_not_finite_is_not_applied(rng):
    network, source = problem(rng)
    before = network.parameters.copy()
    loss = lambda y, raw, weight: (1.0, np.full_like(raw, np.inf))  # noqa: E731
    trainer = Trainer(loss=loss, rng=rng, max_grad_norm=1.0)
    with pytest.raises(FloatingPointError, match="gradient"):
        trainer.fit(network, optimizer_for(network), source)
    assert_array_equal(network.parameters, before)


# ------------------------------------------------------------------ progress


def test_progress_is_lines_where_there_is_no_terminal(rng, capsys):
    network, source = problem(rng)
    fit(network, source, source, max_iter=2, verbose=1, name="Name")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("Name: epoch 2/2, loss 0.") and "validation loss 0." in lines[1]


def test_progress_needs_no_more_of_stderr_than_write(rng, monkeypatch):
    class Lines(list):
        write = list.append

    for stream in (Lines(), None):  # None: a program without a console
        network, source = problem(rng)
        monkeypatch.setattr("sys.stderr", stream)
        fit(network, source, max_iter=2, verbose=1, name="Name")
        if stream is not None:
            assert "".join(stream).count("Name: epoch") == 2


def test_progress_is_a_bar_on_a_terminal(rng, capsys, monkeypatch):
    network, source = problem(rng)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(network, source, max_iter=2, verbose=1, name="Name")
    captured = capsys.readouterr()
    assert captured.out == "" and "Name: 100%" in captured.err


def test_silence_is_the_default(rng, capsys):
    network, source = problem(rng)
    fit(network, source, max_iter=2)
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------ L-BFGS


def test_lbfgs_learns(rng):
    network, source = problem(rng, n=80)
    seen = []
    trainer = Trainer(loss=LOSS, rng=rng, max_iter=300, alpha=1e-3, tol=1e-3, callbacks=[seen.append])
    history = trainer.fit_lbfgs(network, source)
    assert history.stopped == "converged"
    assert history.loss_curve[-1] < 0.02 * history.loss_curve[0]
    assert len(seen) == len(history.loss_curve)
    assert {"event", "epoch", "loss", "learning_rate", "network"} == set(seen[0])
    assert np.isnan(seen[0]["learning_rate"])


def test_lbfgs_counts_iterations_not_evaluations(rng, monkeypatch):
    network, source = problem(rng)
    options = []

    def note(*args, **kwargs):
        options.append(kwargs["options"])
        return minimize(*args, **kwargs)

    monkeypatch.setattr("numbarnn.training.minimize", note)
    with pytest.warns(ConvergenceWarning, match="max_iter=3"):
        Trainer(loss=LOSS, rng=rng, max_iter=3).fit_lbfgs(network, source)
    assert options[0]["maxiter"] == 3 and options[0]["maxfun"] > 1_000_000_000


def test_lbfgs_refuses_dropout(rng):
    network = Network("gru", 2, 6, 1, num_layers=2, dropout=0.5, dtype="float64", random_state=0, n_jobs=1)
    with pytest.raises(ValueError, match="^dropout was 0.5; solver='lbfgs' expects 0"):
        Trainer(loss=LOSS, rng=rng).fit_lbfgs(network, problem(rng)[1])


class Parameters:
    """As much of an estimator as make_trainer looks at."""

    learning_rate_init, learning_rate, batch_size, callbacks = 0.1, "step", "auto", None
    max_iter, alpha, max_grad_norm, tol, n_iter_no_change, verbose = 7, 0.5, None, 1e-3, 3, 0
    ema_momentum = 0.9


@pytest.mark.parametrize(("n", "expected"), [(1, 32), (6399, 32), (6400, 64), (25600, 256), (10**7, 256)])
def test_the_trainer_that_parameters_ask_for(rng, n, expected):
    trainer = make_trainer(Parameters(), n, LOSS, rng)
    assert trainer.batch_size == expected
    assert trainer.schedule == StepSchedule() and trainer.learning_rate == 0.1
    assert trainer.shuffle and trainer.callbacks == () and trainer.name == "Parameters"
    assert (trainer.max_iter, trainer.alpha, trainer.tol, trainer.ema_momentum) == (7, 0.5, 1e-3, 0.9)


def test_lbfgs_may_be_ended_by_a_callback_and_by_max_iter(rng):
    network, source = problem(rng)
    trainer = Trainer(loss=LOSS, rng=rng, callbacks=[lambda info: info["epoch"] == 2])
    history = trainer.fit_lbfgs(network, source)
    assert history.stopped == "callback" and len(history.loss_curve) == 3
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        Trainer(loss=LOSS, rng=rng, max_iter=2).fit_lbfgs(network, source)
