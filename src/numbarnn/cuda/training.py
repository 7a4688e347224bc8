"""Training on the device: data, batches, losses, updates and the best weights stay there.

`DeviceTrainer` is a `numbarnn.training.Trainer` whose epochs run on the device; when to stop, rates and what
is reported are the trainer's own. The host learns of an epoch, and of the validation behind it, by one copy
of a few numbers. Only callbacks make it wait more often, and be handed the parameters, before each call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbarnn.blocks import reach, valid_steps
from numbarnn.cuda import pointwise
from numbarnn.cuda.driver import check_device, cuda, download, empty, naming_errors, upload
from numbarnn.cuda.forecasters import DeviceForecaster
from numbarnn.cuda.losses import BLOCKS, THREADS, LossKernel, sums
from numbarnn.cuda.network import DeviceNetwork, NetworkWay
from numbarnn.cuda.optimizers import (
    BATCH,
    FAILED,
    LOSS,
    SEEN,
    SIZE,
    TOTAL,
    VALUE,
    AverageKernel,
    OptimizerKernel,
)
from numbarnn.cuda.program import Program
from numbarnn.cuda.windows import DeviceWindows
from numbarnn.network import Network
from numbarnn.optimizers import Optimizer
from numbarnn.training import WHAT_TO_TRY, History, Latest, Model, Source, Trainer

__all__ = ["DeviceTrainer", "on_device"]


def on_device(trainer: Trainer, network: Model) -> DeviceTrainer:
    """Return the trainer that does the same on the device.

    Raises
    ------
    ValueError
        If there is no kernel for an option; the message names it.
    DeviceError
        If there is no device.
    """
    check_device()
    counterpart = _counterpart(network)
    counterpart.check_options(network)
    with naming_errors():
        LossKernel(trainer.loss, counterpart.outputs_of_row(network), network.dtype)
    return DeviceTrainer(**{each.name: getattr(trainer, each.name) for each in fields(Trainer)})


def _counterpart(network: Model) -> type[DeviceNetwork | DeviceForecaster]:
    """Return what a network is on the device."""
    return DeviceNetwork if isinstance(network, Network) else DeviceForecaster


@dataclass(kw_only=True)
class DeviceTrainer(Trainer):
    """A trainer whose epochs run on the device; the parameters are the same.

    Raises
    ------
    ValueError
        Of `fit` and `epoch`, if there is no kernel for an option; before any work is done.
    DeviceError
        Likewise, if there is no device, it fails, or its memory is too small; the network is then as it was.
    """

    def __post_init__(self) -> None:
        """Nothing is on the device yet."""
        self._session: _Session | None = None

    def fit(
        self, network: Model, optimizer: Optimizer, data: Source, validation: Source | None = None
    ) -> History:
        """See `Trainer.fit`."""
        with naming_errors():
            apart = None if validation is data else validation
            self._session = _Session(self, network, optimizer, apart)
            try:
                return super().fit(network, optimizer, data, validation)
            finally:
                self._session = None

    def epoch(
        self, network: Model, optimizer: Optimizer, data: Source, rate: float, epoch: int = 0,
        interrupted: Callable[[], bool] = bool, average: Latest | None = None,
    ) -> tuple[float, str]:
        """See `Trainer.epoch`; `average` is what `start_average` has returned, and known here."""
        if self._session is not None:
            return self._session.epoch(data, rate, epoch, interrupted)
        with naming_errors():
            session = _Session(self, network, optimizer)
            result = session.epoch(data, rate, epoch, interrupted)
            session.finish()
            return result

    def launched(self, network: Model, optimizer: Optimizer, data: Source) -> Iterator[tuple]:
        """Yield (kernel, threads, arguments) of all that a batch of training and of evaluation launches."""
        session = self._session = _Session(self, network, optimizer)
        self.start_average(network)
        for kind in ("update", "evaluate", "gradient"):
            yield from session.program(data, self.batch_size, kind).launches

    def start_average(self, network: Model) -> Latest:
        """See `Trainer.start_average`."""
        return Latest() if self.ema_momentum is None else self._session.start_average(self.ema_momentum)

    def fit_lbfgs(self, network: Model, data: Source) -> History:
        """See `Trainer.fit_lbfgs`; the host has the parameters, the device each loss and its gradient."""
        with naming_errors():
            self._session = _Session(self, network, None)
            try:
                return super().fit_lbfgs(network, data)
            finally:
                self._session = None

    def evaluate(self, network: Model, data: Source, gradient: NDArray | None = None) -> float:
        """See `Trainer.evaluate`."""
        return self._session.evaluate(data, gradient)

    def keep(self, network: Model) -> Any:
        """See `Trainer.keep`; the copy stays on the device."""
        return self._session.keep()

    def put_back(self, network: Model, kept: Any) -> None:
        """See `Trainer.put_back`."""
        self._session.put_back(kept)

    def _finish(self, history: History, network: Model) -> History:
        self._session.finish()
        return super()._finish(history, network)


class _Data:
    """A source, all of it on the device; `control` is where kernels tell of it."""

    def __init__(self, source: Source, dtype: np.dtype, control: Any) -> None:
        x, y, weight, lengths = source.gather(np.arange(source.n_samples))
        self.n, self.T, self.F = x.shape
        self.k, self.masked = y.shape[-1], lengths is not None
        self.x, self.y = upload(x), upload(y.astype(dtype))
        valid = np.zeros(1) if lengths is None else valid_steps(lengths, self.T)
        self.valid = upload(valid.astype(np.uint8))
        # 0 for no weights, 1 for one a sample, 2 for one a step
        self.weighted = 0 if weight is None else weight.ndim
        self.weight = upload(np.zeros(1, dtype) if weight is None else weight.astype(dtype))
        self.order, self.control = upload(np.arange(self.n)), control
        self.programs: dict[tuple[int, str, bool], Program] = {}
        self.source = source  # by which it is known, so it must live as long
        self._order, self._lengths = np.arange(self.n), lengths

    def shuffle(self, order: NDArray) -> None:
        """Show samples in this order from now on."""
        self._order = order
        self.order.copy_to_device(order)

    def reach(self, start: int, B: int) -> int:
        """Return how many steps there are up to the last that counts in any sample of a batch."""
        return self.T if self._lengths is None else reach(self._lengths[self._order[start : start + B]])

    def gather(self, program: Program, way: NetworkWay, y: Any, weights: Any, size: int) -> None:
        """Add what brings a batch, of at most `size` samples, to the network's inputs and to targets."""
        (T, B, F), masked, chosen = (self.T, way.B, self.F), int(self.masked), (self.control, self.order)
        if masked:
            program.each(pointwise.gather_valid, T * B, T, B, size, *chosen, self.valid, way.valid)
        arrays = self.x, way.valid, way.inputs
        program.each(pointwise.gather_inputs, T * B * F, T, B, F, size, masked, *chosen, *arrays)
        steps, counts = (T, masked) if way.sequences else (1, 0)
        arrays = self.y, self.weight, way.valid, y, weights
        numbers = steps, B, self.k, size, counts, self.weighted
        program.each(pointwise.gather_targets, steps * B, *numbers, *chosen, *arrays)


class _Average(Latest):
    """An average on the device, where every update of a session's programs takes part in it."""

    def __init__(self, kernel: AverageKernel, network: DeviceNetwork | DeviceForecaster) -> None:
        self.kernel, self._network = kernel, network
        self._own = empty(kernel.values.size, network.dtype)

    @contextmanager
    def applied(self, network: Model) -> Iterator[None]:
        """See `Latest.applied`."""
        _copy(self._network.parameters, self._own)
        self.hand_over(network)
        yield
        _copy(self._own, self._network.parameters)

    def hand_over(self, network: Model) -> None:
        """See `Latest.hand_over`."""
        _copy(self.kernel.values, self._network.parameters)


class _Session:
    """A network, an optimizer and data on the device for as long as it trains.

    Parameters
    ----------
    trainer : Trainer
    network : Model
    optimizer : Optimizer or None
    validation : Source, default=None
        What is evaluated behind every epoch.
    """

    def __init__(
        self, trainer: Trainer, network: Model, optimizer: Optimizer | None, validation: Source | None = None
    ) -> None:
        self._trainer, self._host, self._host_optimizer = trainer, network, optimizer
        self._validation, self._validated = validation, None
        # of the data and of what is validated, side by side, as they are read by one copy
        self._controls = upload(np.zeros(2 * SIZE))
        self._network, dtype = _counterpart(network)(network), network.dtype
        self._loss = LossKernel(trainer.loss, self._network.outputs_of_row(network), dtype)
        # without an optimizer the parameters are the host's, and nothing is brought back
        self._optimizer = None if optimizer is None else OptimizerKernel(optimizer)
        self._data: dict[int, _Data | DeviceWindows] = {}
        self._tables: dict[int, tuple[NDArray, Any]] = {}  # what sources of windows share
        self._size = network.parameters.size
        # sums of blocks: of the loss, the penalty and the squares of the gradient; and a number of steps
        self._partials, self._scale = upload(np.zeros(3 * BLOCKS + 1)), upload(np.ones(1, dtype))
        self._count = upload(np.ones(1, dtype))
        self._penalized = upload(network.penalized.astype(dtype) if trainer.alpha else np.zeros(1, dtype))
        self._squares = empty(self._size if trainer.alpha else 1, dtype)
        self._ways: dict[tuple, tuple[NetworkWay, Any, Any, Any]] = {}
        self._kept: Any = None
        self._average: _Average | None = None
        self._total: Any = None  # of gradients, where they are added up

    # ---- what the trainer asks for

    def epoch(
        self, source: Source, rate: float, epoch: int, interrupted: Callable[[], bool]
    ) -> tuple[float, str]:
        """See `Trainer.epoch`."""
        trainer, data = self._trainer, self._load(source)
        n, size = data.n, trainer.batch_size
        starts = range(0, n, size)
        shuffled = trainer.shuffle and n > size
        data.shuffle(trainer.rng.permutation(n) if shuffled else np.arange(n))
        data.control.copy_to_device(np.zeros(SIZE))
        moved = self._optimizer.start_epoch(rate, len(starts))
        if self._average is not None:
            moved = self._average.kernel.start_epoch(len(starts)) or moved
        if moved:
            data.programs = {key: each for key, each in data.programs.items() if key[1] != "update"}
        stopped, done = "", 0
        for batch, start in enumerate(starts):
            B = min(size, n - start)
            self._run(data, start, B, "update")
            done += 1
            if trainer.callbacks:
                found = self._read()
                info = {
                    "epoch": epoch, "batch": batch, "n_batches": len(starts), "loss": float(found[LOSS]),
                    "learning_rate": rate, "network": self._host,
                }  # fmt: skip
                self.finish()
                stopped = "callback" if trainer._call("batch", info) else ""
            stopped = stopped or ("interrupted" if interrupted() else "")
            if stopped:
                break
        if self._validation is not None:
            with nullcontext() if self._average is None else self._average.applied(self._host):
                self._evaluate(self._validation, "evaluate")
        found = self._read()
        self._host_optimizer.n_updates += done
        return float(found[TOTAL] / found[SEEN]), stopped

    def _read(self) -> NDArray:
        """Copy the few numbers that tell of an epoch; raise if something in it was not finite."""
        found, validated = np.split(download(self._controls), 2)
        if validated[SEEN]:
            self._validated = float(validated[TOTAL] / validated[SEEN])
        if found[FAILED]:
            self.finish()
            what = "training loss" if found[FAILED] == 1 else "norm of the gradient"
            raise FloatingPointError(f"the {what} became {float(found[VALUE])}: {WHAT_TO_TRY}")
        return found

    def evaluate(self, source: Source, gradient: NDArray | None = None) -> float:
        """See `Trainer.evaluate`; what the last epoch has been validated by is known already."""
        if source is self._validation:
            return self._validated
        if gradient is not None:
            self._network.parameters.copy_to_device(self._host.parameters)
            self._gradients_added().copy_to_device(gradient)
        data = self._evaluate(source, "evaluate" if gradient is None else "gradient")
        found = download(data.control)
        if gradient is not None:
            gradient[...] = download(self._total) / found[SEEN]
        return float(found[TOTAL] / found[SEEN])

    def _evaluate(self, source: Source, kind: str) -> _Data | DeviceWindows:
        """Let the loss over a source be added up; return its data, whose control will have it."""
        data, size = self._load(source), self._trainer.batch_size
        data.control.copy_to_device(np.zeros(SIZE))
        for start in range(0, data.n, size):
            self._run(data, start, min(size, data.n - start), kind)
        return data

    def start_average(self, momentum: float) -> Latest:
        """Let updates take part in an average from now on."""
        kernel = AverageKernel(self._size, self._host.dtype, momentum)
        self._average = _Average(kernel, self._network)
        return self._average

    def keep(self) -> Any:
        """Copy the parameters, on the device, to where the copy before is."""
        if self._kept is None:
            self._kept = empty(self._size, self._host.dtype)
        _copy(self._network.parameters, self._kept)
        return self._kept

    def put_back(self, kept: Any) -> None:
        """Take such a copy as the parameters."""
        _copy(kept, self._network.parameters)

    def finish(self) -> None:
        """Bring parameters and the optimizer's state to the host."""
        if self._optimizer is None:
            return
        self._host.parameters[...] = download(self._network.parameters)
        self._network.bring_states()
        self._optimizer.finish()

    # ---- programs

    def program(self, source: Source, B: int, kind: str) -> Program:
        """Return what is done with a batch of B samples; see `_program`."""
        return self._program(self._load(source), B, kind, True)

    def _run(self, data: _Data | DeviceWindows, start: int, B: int, kind: str) -> None:
        """Do it with the B samples from `start` on."""
        begins = self._network.begins(B)
        if kind != "evaluate":
            self._way(data, B, True)[0].draw_noise(begins, data.reach(start, B))
        self._program(data, B, kind, begins).run()
        self._network.carry(B)

    def _gradients_added(self) -> Any:
        """Return where gradients are added up, in float64."""
        if self._total is None:
            self._total = empty(self._size, np.float64)
        return self._total

    def _load(self, source: Source) -> _Data | DeviceWindows:
        if id(source) not in self._data:
            windows = hasattr(source, "tables")  # of series, which are not to be copied out
            control = self._controls[SIZE:] if source is self._validation else self._controls[:SIZE]
            self._data[id(source)] = (
                DeviceWindows(source, self._tables, control)
                if windows
                else _Data(source, self._host.dtype, control)
            )
        return self._data[id(source)]

    def _way(self, data: _Data | DeviceWindows, B: int, training: bool) -> tuple[NetworkWay, Any, Any, Any]:
        """Return the network's arrays for such batches, and those of targets, weights and losses."""
        key = data.T, B, training, data.masked, data.k
        if key not in self._ways:
            way, dtype = self._network.way(data.T, B, training, data.masked), self._host.dtype
            y, weights, losses = (empty(way.rows * width, dtype) for width in (data.k, 1, 1))
            self._ways[key] = way, y, weights, losses
        return self._ways[key]

    def _program(self, data: _Data | DeviceWindows, B: int, kind: str, begins: bool) -> Program:
        """Return all that is done with a batch of B samples.

        Parameters
        ----------
        data : _Data
        B : int
        kind : {"update", "evaluate", "gradient"}
            Whether parameters are updated, the loss is added up, or also its gradient.
        begins : bool
            See `NetworkWay.draw_noise`.
        """
        key, training = (B, kind, begins), kind != "evaluate"
        if key not in data.programs:
            program = data.programs[key] = Program()
            way, y, weights, losses = self._way(data, B, training)
            data.gather(program, way, y, weights, self._trainer.batch_size)
            way.forward(program, begins)
            counted = way.sequences and data.masked
            if counted:
                program.launch(sums, 1, THREADS, way.rows, 0, way.valid, self._partials, 3 * BLOCKS)
            program.launch(_count, 1, 1, int(counted), way.rows, self._partials, self._count)
            draw = way.draw if training else way.raw  # where nobody goes back, it may overwrite the output
            self._loss.add(program, way.rows, weights, self._count, y, way.raw, draw, losses)
            program.launch(sums, BLOCKS, THREADS, way.rows, 0, losses, self._partials, 0)
            if training:
                way.backward(program, begins)
            if kind == "gradient":
                arrays = self._count, self._network.gradients, self._gradients_added()
                program.each(_add_gradient, self._size, self._size, *arrays)
            if kind == "update":
                self._update(program, data, B)
            else:
                program.launch(_add_up, 1, 1, self._partials, self._count, data.control)
        return data.programs[key]

    def _update(self, program: Program, data: _Data | DeviceWindows, B: int) -> None:
        trainer, network, n = self._trainer, self._network, self._size
        if trainer.alpha:
            factor = self._host.dtype.type(trainer.alpha / B)
            arrays = self._penalized, network.parameters, network.gradients, self._squares
            program.each(_penalize, n, n, factor, *arrays)
            program.launch(sums, BLOCKS, THREADS, n, 0, self._squares, self._partials, BLOCKS)
        norm = trainer.max_grad_norm
        if norm is not None:
            program.launch(sums, BLOCKS, THREADS, n, 1, network.gradients, self._partials, 2 * BLOCKS)
        bounds = int(norm is not None), float(norm or 0)
        program.launch(_decide, 1, 1, *bounds, self._partials, self._count, data.control, self._scale)
        gradients = network.parameters, network.gradients
        self._optimizer.add(program, n, *gradients, data.control, self._scale)
        if self._average is not None:
            self._average.kernel.add(program, n, network.parameters, data.control)


def _copy(source: Any, target: Any) -> None:
    """Copy parameters, on the device."""
    program = Program()
    program.each(pointwise.copy, source.size, source.size, source, 0, target, 0)
    program.run()


@cuda.jit
def _count(counted, rows, partials, count):
    """Set the number of rows that a mean is over."""
    if cuda.grid(1) == 0:
        count[0] = partials[3 * BLOCKS] if counted else rows


@cuda.jit
def _penalize(n, factor, penalized, p, g, products):
    """Add the gradient of the L2 penalty; products become twice its parts."""
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        slope = factor * penalized[i] * p[i]
        g[i] += slope
        products[i] = slope * p[i]


@cuda.jit
def _decide(bounded, bound, partials, count, control, scale):
    """Count a batch, and decide how its gradient is scaled; what is not finite ends training."""
    if cuda.grid(1) == 0 and control[FAILED] == 0:
        loss, penalty, square = 0.0, 0.0, 0.0
        for k in range(BLOCKS):
            loss += partials[k]
            penalty += partials[BLOCKS + k]
            square += partials[2 * BLOCKS + k]
        norm = math.sqrt(square)
        factor = 1.0
        if bounded and bound / (norm + 1e-6) < 1.0:
            factor = bound / (norm + 1e-6)
        control[BATCH] += 1
        if not math.isfinite(loss):
            control[FAILED] = 1
            control[VALUE] = loss
        elif bounded and not math.isfinite(norm):
            control[FAILED] = 2
            control[VALUE] = norm
        else:
            loss += 0.5 * penalty
            control[LOSS] = loss
            control[TOTAL] += loss * count[0]
            control[SEEN] += count[0]
        scale[0] = factor


@cuda.jit
def _add_up(partials, count, control):
    """Count a batch that is only evaluated."""
    if cuda.grid(1) == 0:
        loss = 0.0
        for k in range(BLOCKS):
            loss += partials[k]
        control[BATCH] += 1
        control[TOTAL] += loss * count[0]
        control[SEEN] += count[0]


@cuda.jit
def _add_gradient(n, count, g, total):
    """Add the gradient of a mean, times what it is over."""
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        total[i] += count[0] * g[i]
