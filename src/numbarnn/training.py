"""Training: minibatches, epochs, early stopping, interruption, callbacks, progress.

What is trained, on what, and towards what are given: a `Model`, a source of batches, a `Loss`. A source has
``n_samples`` and ``gather(indices)``, so that a forecaster can hand out windows of one long series without
ever holding them all.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from numbarnn.blocks import valid_steps
from numbarnn.losses import Loss
from numbarnn.optimizers import Optimizer
from numbarnn.schedules import SCHEDULES, ConstantSchedule, Schedule

__all__ = ["Average", "History", "Latest", "Model", "Source", "Trainer", "evaluate", "make_trainer"]

Batch = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]
Callback = Callable[[Mapping[str, Any]], Any]

WHAT_TO_TRY = "try a lower learning_rate_init, a (lower) max_grad_norm, or scale the inputs and targets"


class Model(Protocol):
    """What can be trained: `numbarnn.network.Network` is one.

    Attributes
    ----------
    parameters, gradients : ndarray of shape (n_parameters,)
        `parameters` are changed in place; `backward` fills `gradients`.
    penalized : ndarray of bool of shape (n_parameters,)
        Where the L2 penalty acts.
    dtype : numpy.dtype
    config : dict
        The arguments that it was made with; `fit_lbfgs` looks at ``config["dropout"]``.
    """

    parameters: np.ndarray
    gradients: np.ndarray
    penalized: np.ndarray
    dtype: np.dtype
    config: dict[str, Any]

    def forward(self, x: Any, lengths: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        """Return the raw output of shape (n_samples, n_raw) or (n_samples, n_timesteps, n_raw)."""

    def backward(self, draw: np.ndarray) -> None:
        """Fill `gradients`, given the gradient of the loss with respect to the raw output."""


class Source(Protocol):
    """Where batches come from."""

    n_samples: int

    def gather(self, indices: np.ndarray) -> Batch:
        """Return ``(x, y, sample_weight, lengths)`` of some samples.

        Parameters
        ----------
        indices : ndarray of int of shape (n_batch,)

        Returns
        -------
        x : ndarray of shape (n_batch, n_timesteps, n_features)
            C-contiguous, in the network's dtype. It may be a buffer that the next call overwrites. It goes to
            the network as it is: a network that reads something else may be given it.
        y : ndarray of shape (n_batch, n_targets) or (n_batch, n_timesteps, n_targets)
        sample_weight : ndarray of shape (n_batch,) or (n_batch, n_timesteps) or None
            Scaled so that the mean over all samples (or valid steps) is 1; None for ones.
        lengths : ndarray of int of shape (n_batch,), or of bool of shape (n_batch, n_timesteps), or None
            Number of valid steps of each sample, or which of its steps are valid; None for all.
        """


@dataclass
class History:
    """What happened in training.

    Attributes
    ----------
    loss_curve : list of float
        Mean training loss of each epoch.
    validation_curve : list of float
        Loss of the validation part after each epoch; empty if there is none.
    stopped : {"max_iter", "converged", "callback", "interrupted"}
        Why training ended.
    """

    loss_curve: list[float] = field(default_factory=list)
    validation_curve: list[float] = field(default_factory=list)
    stopped: str = "max_iter"


class Latest:
    """The parameters that the last update left: what is validated and kept where nothing is averaged."""

    def update(self, parameters: np.ndarray) -> None:
        """Take in what an update has left."""

    @contextmanager
    def applied(self, network: Model) -> Iterator[None]:
        """Lend a network what is validated; afterwards it has its own parameters again."""
        yield

    def hand_over(self, network: Model) -> None:
        """Let a network have it for good."""


class Average(Latest):
    """Exponential moving average of parameters over the updates of a training.

    After n updates the weight of the parameters that the i-th one left is in proportion to
    ``momentum**(n - i)``; the parameters that training began with are not in it.

    Parameters
    ----------
    n_parameters : int
    dtype : dtype
        That of the parameters.
    momentum : float
        From 0 (no average, the last parameters) to below 1.

    Attributes
    ----------
    values : ndarray of shape (n_parameters,)
        The average.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.training import Average
    >>> average = Average(1, "float64", momentum=0.5)
    >>> for value in (1.0, 4.0):
    ...     average.update(np.array([value]))
    >>> average.values.tolist()
    [3.0]
    """

    def __init__(self, n_parameters: int, dtype: DTypeLike, momentum: float) -> None:
        self.values = np.zeros(n_parameters, dtype)
        self.momentum = momentum
        self._n_updates = 0

    def update(self, parameters: np.ndarray) -> None:
        """Take in what an update has left."""
        self._n_updates += 1
        # Adam's correction, kept applied: the weights of all updates so far add up to 1
        taken = (1 - self.momentum) / (1 - self.momentum**self._n_updates)
        self.values += self.values.dtype.type(taken) * (parameters - self.values)

    @contextmanager
    def applied(self, network: Model) -> Iterator[None]:
        """See `Latest.applied`."""
        own = network.parameters.copy()
        self.hand_over(network)
        try:
            yield
        finally:
            network.parameters[...] = own

    def hand_over(self, network: Model) -> None:
        """See `Latest.hand_over`."""
        network.parameters[...] = self.values


@dataclass(kw_only=True)
class Trainer:
    """How a network is trained.

    Parameters
    ----------
    loss : Loss
    rng : numpy.random.Generator
        Draws the order of the samples.
    learning_rate : float, default=1e-3
        The rate to start from.
    schedule : Schedule, default=ConstantSchedule()
    batch_size : int, default=32
    max_iter : int, default=100
        Most epochs.
    shuffle : bool, default=True
    alpha : float, default=0.0
        Strength of the L2 penalty on the weights (not the biases): alpha / 2 times their squared norm,
        over the number of samples in the batch, is added to the loss.
    max_grad_norm : float or None, default=None
        Gradients whose Euclidean norm over all parameters is larger are scaled down to it.
    ema_momentum : float or None, default=None
        If given, `fit` averages the parameters over the updates, exponentially with this momentum: see
        `Average`. The averages are validated, and are what the network has at the end; gradients are taken,
        and callbacks are called, with the parameters that the optimizer updates. From 0 to below 1.
    stateful : bool, default=False
        The network carries states from batch to batch: let every epoch of `fit` begin without.
    tol : float, default=1e-4
    n_iter_no_change : int or inf, default=10
        Training ends when this many epochs in a row did not lower the loss by `tol`: the validation part's
        loss if there is one, else the training loss. With inf it does not, and nobody is warned that
        `max_iter` was reached.
    callbacks : sequence of callable, default=()
        Each is called with a mapping after every batch and after every epoch. ``info["event"]`` is "batch" or
        "epoch"; further keys are epoch, loss, learning_rate and network, of a batch also batch and n_batches,
        of an epoch validation_loss, if there is a validation part. A true return value ends training.
        `epoch` tells of batches only, `fit_lbfgs` of epochs only (its iterations; learning_rate is nan).
    between_epochs : callable, default=bool
        Called without arguments after each epoch of `fit` that was not broken off, before the callbacks.
    verbose : int, default=0
        If not 0, a bar on a terminal and a line for each epoch elsewhere.
    warn : bool, default=True
        Warn if `max_iter` came before convergence.
    name : str, default="training"
        What progress and warnings are headed with.
    """

    loss: Loss
    rng: np.random.Generator
    learning_rate: float = 1e-3
    schedule: Schedule = field(default_factory=ConstantSchedule)
    batch_size: int = 32
    max_iter: int = 100
    shuffle: bool = True
    alpha: float = 0.0
    max_grad_norm: float | None = None
    ema_momentum: float | None = None
    stateful: bool = False
    tol: float = 1e-4
    n_iter_no_change: float = 10
    callbacks: Sequence[Callback] = ()
    between_epochs: Callable[[], Any] = bool
    verbose: int = 0
    warn: bool = True
    name: str = "training"

    def fit(
        self, network: Model, optimizer: Optimizer, data: Source, validation: Source | None = None
    ) -> History:
        """Train for up to `max_iter` epochs.

        With a validation part the parameters of its lowest loss are put back at the end; with `ema_momentum`
        these are averages, without a validation part the last ones. Ctrl-C ends training after the batch at
        work; a second one at once.

        Parameters
        ----------
        network : Model
            Its parameters are changed in place.
        optimizer : Optimizer
        data, validation : Source

        Returns
        -------
        history : History

        Raises
        ------
        FloatingPointError
            If the loss, that of the validation part or the gradient is no longer finite. The network is then
            as after the last update.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If training was interrupted, or `max_iter` came before convergence.
        """
        history, average = History(), self.start_average(network)
        lowest, waited, best = math.inf, 0, None
        with _interruptible() as interrupted, _progress(self) as report:
            for epoch in range(self.max_iter):
                watched = history.loss_curve if validation is None else history.validation_curve
                rate = self.schedule(self.learning_rate, epoch, self.max_iter, watched)
                loss, stopped = self.epoch(network, optimizer, data, rate, epoch, interrupted, average)
                history.stopped = stopped or "max_iter"
                history.loss_curve.append(loss)
                info = {"epoch": epoch, "loss": loss, "learning_rate": rate, "network": network}
                if validation is not None:
                    with average.applied(network):
                        found = self.evaluate(network, validation)
                        best = self.keep(network) if found < lowest else best
                    if not math.isfinite(found):
                        raise FloatingPointError(f"the validation loss became {found}: {WHAT_TO_TRY}")
                    info["validation_loss"] = found
                    history.validation_curve.append(found)
                waited = 0 if watched[-1] <= lowest - self.tol else waited + 1
                lowest = min(lowest, watched[-1])
                report(info)
                if history.stopped == "max_iter" and self._call("epoch", info):
                    history.stopped = "callback"
                if self.stateful:
                    network.reset_states()
                if history.stopped == "max_iter" and waited >= self.n_iter_no_change:
                    history.stopped = "converged"
                if history.stopped != "max_iter":
                    break
        if best is None:
            average.hand_over(network)
        else:
            self.put_back(network, best)
        return self._finish(history, network)

    def start_average(self, network: Model) -> Latest:
        """Return what takes in the parameters after every update, and lends those to be validated."""
        if self.ema_momentum is None:
            return Latest()
        return Average(network.parameters.size, network.dtype, self.ema_momentum)

    def evaluate(self, network: Model, data: Source, gradient: np.ndarray | None = None) -> float:
        """Return the mean loss over a source; see `evaluate`."""
        return evaluate(network, self.loss, data, self.batch_size, gradient)

    def keep(self, network: Model) -> Any:
        """Return a copy of the parameters, for `put_back`."""
        return network.parameters.copy()

    def put_back(self, network: Model, kept: Any) -> None:
        """Go back to parameters that `keep` returned."""
        network.parameters[...] = kept

    def epoch(
        self,
        network: Model,
        optimizer: Optimizer,
        data: Source,
        rate: float,
        epoch: int = 0,
        interrupted: Callable[[], bool] = bool,
        average: Latest = Latest(),  # noqa: B008  # it has no state
    ) -> tuple[float, str]:
        """Show every sample to the network once, or fewer if a callback or an interrupt ends it.

        Parameters
        ----------
        network, optimizer, data
            See `fit`.
        rate : float
            Learning rate.
        epoch : int, default=0
            Its number, for callbacks.
        interrupted : callable, default=bool
            Asked after every batch whether to stop.
        average : Latest, default=Latest()
            Takes in the parameters after every batch.

        Returns
        -------
        loss : float
            Mean over the samples (or valid steps) shown.
        stopped : {"", "callback", "interrupted"}
            Why training is to end; empty if it is not.
        """
        n = data.n_samples
        # one batch is the same in any order
        shuffled = self.shuffle and n > self.batch_size
        order = self.rng.permutation(n) if shuffled else np.arange(n)
        decay = self.alpha * network.penalized.astype(network.dtype) if self.alpha else None
        squares = np.empty_like(network.gradients)
        starts = range(0, n, self.batch_size)
        total, seen, stopped = 0.0, 0, ""
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is looked for
            for batch, start in enumerate(starts):
                indices = order[start : start + self.batch_size]
                loss, count = self._gradient(network, data, indices, decay)
                optimizer.update(network.parameters, network.gradients, rate, self._clip(network, squares))
                average.update(network.parameters)
                total += loss * count
                seen += count
                info = {
                    "epoch": epoch, "batch": batch, "n_batches": len(starts), "loss": loss,
                    "learning_rate": rate, "network": network,
                }  # fmt: skip
                stopped = "callback" if self._call("batch", info) else "interrupted" if interrupted() else ""
                if stopped:
                    break
        return total / seen, stopped

    def _gradient(self, network, data, indices, decay):
        """Loss of a batch, and what it is the mean of; its gradient goes to ``network.gradients``."""
        x, y, sample_weight, lengths = data.gather(indices)
        raw = network.forward(x, lengths, training=True)
        shares, count = _shares(raw, sample_weight, lengths)
        loss, draw = self.loss(y, raw, shares)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the training loss became {loss}: {WHAT_TO_TRY}")
        network.backward(draw)
        if decay is not None:
            penalty = decay * network.parameters / len(indices)
            gradients = network.gradients
            gradients += penalty
            loss += 0.5 * float(penalty @ network.parameters)
        return loss, count

    def _clip(self, network, squares):
        """Return the factor that brings the gradient's norm down to `max_grad_norm`."""
        if self.max_grad_norm is None:
            return 1.0
        np.square(network.gradients, out=squares)
        norm = math.sqrt(squares.sum())
        if not math.isfinite(norm):
            raise FloatingPointError(f"the norm of the gradient became {norm}: {WHAT_TO_TRY}")
        return min(1.0, self.max_grad_norm / (norm + 1e-6))

    def fit_lbfgs(self, network: Model, data: Source) -> History:
        """Train by L-BFGS-B (`scipy.optimize.minimize`) on all samples at once; see `fit`.

        `max_iter` counts its iterations and `tol` bounds the largest element of the gradient. There is
        neither schedule nor clipping nor validation.

        Raises
        ------
        ValueError
            If the network has dropout: with a new mask for each evaluation there is no function to minimise.
        """
        if network.config["dropout"] > 0:
            raise ValueError(
                f"dropout was {network.config['dropout']}; solver='lbfgs' expects 0, since it minimises a "
                "function that is the same in every evaluation"
            )
        history = History()
        decay = self.alpha / data.n_samples * network.penalized

        def loss_and_gradient(parameters):
            network.parameters[...] = parameters
            gradient = np.zeros(parameters.shape)
            loss = self.evaluate(network, data, gradient)
            penalty = decay * parameters
            return loss + 0.5 * float(penalty @ parameters), gradient + penalty

        with _interruptible() as interrupted, _progress(self) as report:

            def after_iteration(intermediate_result):
                loss = float(intermediate_result.fun)
                history.loss_curve.append(loss)
                info = {
                    "epoch": len(history.loss_curve) - 1, "loss": loss, "learning_rate": math.nan,
                    "network": network,
                }  # fmt: skip
                report(info)
                if self._call("epoch", info):
                    history.stopped = "callback"
                elif interrupted():
                    history.stopped = "interrupted"
                if history.stopped != "max_iter":
                    raise StopIteration

            # SciPy also counts evaluations, and by default to 15000
            options = {"maxiter": self.max_iter, "maxfun": np.iinfo(np.int32).max, "gtol": self.tol}
            result = minimize(
                loss_and_gradient, network.parameters.astype(float), jac=True, method="L-BFGS-B",
                callback=after_iteration, options=options,
            )  # fmt: skip
        if not math.isfinite(result.fun):
            raise FloatingPointError(f"the training loss became {result.fun}: {WHAT_TO_TRY}")
        network.parameters[...] = result.x
        # status 2: the line search finds nothing lower at this precision
        if history.stopped == "max_iter" and result.status != 1:
            history.stopped = "converged"
        if not history.loss_curve:
            history.loss_curve.append(float(result.fun))
        return self._finish(history, network)

    def _call(self, event, info):
        """Tell the callbacks; whether one of them asks to stop."""
        if event == "epoch":
            self.between_epochs()
        stop = False
        for callback in self.callbacks:
            stop = bool(callback({"event": event, **info})) or stop
        return stop

    def _finish(self, history, network):
        """Warn of an end that came too early."""
        if not np.isfinite(network.parameters).all():
            raise FloatingPointError(f"the network's parameters are no longer finite: {WHAT_TO_TRY}")
        if history.stopped == "interrupted":
            message = "training was interrupted; the estimator holds what was learned until then"
            warnings.warn(f"{self.name}: {message}", ConvergenceWarning, stacklevel=5)
        elif self.warn and history.stopped == "max_iter" and math.isfinite(self.n_iter_no_change):
            message = f"max_iter={self.max_iter} was reached and training has not converged yet"
            warnings.warn(f"{self.name}: {message}", ConvergenceWarning, stacklevel=5)
        return history


def make_trainer(
    estimator: Any, n_samples: int, loss: Loss, rng: np.random.Generator, **changes: Any
) -> Trainer:
    """Make the trainer that the parameters of an estimator or a forecaster ask for.

    Parameters
    ----------
    estimator : object
        With the attributes `learning_rate_init`, `learning_rate` (a name or a schedule), `batch_size` (or
        "auto"), `callbacks` (None, one or several), perhaps `shuffle`, and others named as in `Trainer`.
    n_samples : int
        For the batch size "auto": about a hundredth of it, a power of two from 32 to 256.
    loss, rng
        See `Trainer`.
    changes
        What is used in place of attributes of the estimator, and `warn`.

    Returns
    -------
    trainer : Trainer

    Raises
    ------
    ValueError
        If one of several callbacks is not callable.
    """
    names = ("learning_rate", "batch_size", "callbacks", "max_iter", "alpha", "max_grad_norm",
             "ema_momentum", "tol", "n_iter_no_change", "verbose")  # fmt: skip
    options = {name: getattr(estimator, name) for name in names} | changes
    schedule, batch_size, callbacks = (options.pop(name) for name in names[:3])
    if batch_size == "auto":
        batch_size = min(1 << max(n_samples // 100, 32).bit_length() - 1, 256)
    callbacks = (callbacks,) if callable(callbacks) else tuple(callbacks or ())
    for callback in callbacks:
        if not callable(callback):
            raise ValueError(f"callbacks had {callback!r} in it; expected callables")
    return Trainer(
        loss=loss, rng=rng, learning_rate=estimator.learning_rate_init, batch_size=batch_size,
        schedule=SCHEDULES[schedule]() if isinstance(schedule, str) else schedule, callbacks=callbacks,
        shuffle=getattr(estimator, "shuffle", True), name=type(estimator).__name__,
        **options,
    )  # fmt: skip


def evaluate(
    network: Model, loss: Loss, data: Source, batch_size: int, gradient: np.ndarray | None = None
) -> float:
    """Mean loss over a source, batch by batch.

    Parameters
    ----------
    network : Model
    loss : Loss
    data : Source
    batch_size : int
        Has no influence on the result but for rounding.
    gradient : ndarray of shape (n_parameters,), default=None
        If given, zeros to which the gradient is added.

    Returns
    -------
    loss : float
    """
    total, count = 0.0, 0
    for start in range(0, data.n_samples, batch_size):
        indices = np.arange(start, min(start + batch_size, data.n_samples))
        x, y, sample_weight, lengths = data.gather(indices)
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what is not finite
            raw = network.forward(x, lengths, training=gradient is not None)
            shares, n = _shares(raw, sample_weight, lengths)
            value, draw = loss(y, raw, shares)
            total += value * n
            count += n
            if gradient is not None:
                network.backward(draw)
                gradient += n * network.gradients
    if gradient is not None:
        gradient /= count
    return total / count


def _shares(raw, sample_weight, lengths):
    """Factor of each sample or valid step in a batch's mean (None: all the same), and how many there are."""
    n = len(raw)
    if raw.ndim == 2:
        return None if sample_weight is None else sample_weight / n, n
    steps = raw.shape[1]
    weight = 1 if sample_weight is None else sample_weight.reshape(n, -1)
    if lengths is None:
        n *= steps
        return None if sample_weight is None else weight / n, n
    n = int(lengths.sum())  # of either kind
    valid = valid_steps(lengths, steps)
    return (valid * weight / n).astype(raw.dtype), n


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C; what is yielded tells whether there was one."""
    asked = []

    def note(signum, frame):
        asked.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    ours = threading.current_thread() is threading.main_thread()
    # a handler of somebody else's is left alone
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _progress(trainer: Trainer) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield what shows an epoch on stderr: on a bar if that is a terminal, else on a line."""
    if not trainer.verbose or sys.stderr is None:  # there is none in a program without a console
        yield lambda info: None
    elif getattr(sys.stderr, "isatty", bool)():  # what stands in for it may have `write` alone
        from tqdm import tqdm

        with tqdm(total=trainer.max_iter, desc=trainer.name, unit="epoch") as bar:

            def advance(info):
                bar.set_postfix_str(_losses(info), refresh=False)
                bar.update()

            yield advance
    else:
        yield lambda info: print(
            f"{trainer.name}: epoch {info['epoch'] + 1}/{trainer.max_iter}, {_losses(info)}",
            file=sys.stderr,
            flush=hasattr(sys.stderr, "flush"),
        )


def _losses(info):
    names = (("loss", "loss"), ("validation_loss", "validation loss"))
    return ", ".join(f"{name} {info[key]:.5g}" for key, name in names if key in info)
