"""Every kernel compiled without a GPU, and what it takes: registers, spills, shared memory.

Programs are built as they would be on a device, with arrays of the host in place of the device's; nothing
is run. What they would launch, with the very types of its arguments, is compiled to PTX, and `ptxas -v` is
asked. So a kernel that no option reaches is missing here, and one that is launched cannot be.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from numbarnn.cells import CELLS
from numbarnn.cuda import blas, driver
from numbarnn.cuda.driver import cuda
from numbarnn.cuda.program import Program
from numbarnn.cuda.training import DeviceTrainer, on_device
from numbarnn.losses import LOSSES
from numbarnn.network import Network
from numbarnn.optimizers import OPTIMIZERS
from numbarnn.training import Trainer

__all__ = ["CAPABILITIES", "Launch", "find_ptxas", "launches", "measure", "to_ptx"]

CAPABILITIES = ((8, 0), (9, 0))
PROCESSORS = 132  # of the device that plans are made for
_USED = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


class Launch(NamedTuple):
    """A kernel, the Numba types of what it is launched with, and how many registers a thread may have."""

    name: str
    kernel: Callable
    types: tuple
    threads: int
    registers: int | None


def cases() -> Iterator[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """Yield networks, a loss and an optimizer that together launch every kernel.

    Yields
    ------
    label : str
        Of the loops of this case; empty where they are those of another one.
    config : dict
    loss : str
    options : dict
        Of the trainer, and the optimizer under "solver".
    """
    adam = {"solver": "adam"}
    for cell in ("lstm", "gru", "rnn"):
        for hidden in (32, 96, 128):
            yield f"{cell} {hidden}", {"cell": cell, "hidden_size": hidden}, "squared_error", adam
    config = {"cell": "lstm", "hidden_size": 32, "dtype": "float64"}
    yield "lstm 32 float64", config, "squared_error", adam
    for cell in CELLS.values():
        if not cell.loops and cell.name not in ("lstm", "gru", "rnn"):
            yield f"{cell.name} 64", {"cell": cell.name, "hidden_size": 64}, "squared_error", adam
    noise = {"recurrent_dropout": 0.1, "zoneout": 0.1}
    for cell, hidden in (("lstm", 32), ("lstm", 96), ("gru", 96), ("lstm", 128)):
        config = {"cell": cell, "hidden_size": hidden, **noise}
        yield f"{cell} {hidden} noise", config, "squared_error", adam
    config = {"cell": "lstm", "hidden_size": 64, "proj_size": 32}
    yield "lstm 64 projected", config, "squared_error", adam
    yield "lstm 64 projected noise", {**config, **noise}, "squared_error", adam
    rest = {
        "absolute_error": {"merge": "product", "bidirectional": True, "embedding": [(0, 3, 2)]},
        "huber": {"stem_sizes": [5], "head_sizes": [4], "dropout": 0.1, "num_layers": 2},
        "quantile": {"residual": True, "bidirectional": True, "num_layers": 2},
        "poisson": {"initial_state": "learned", "bidirectional": True},
        "log_loss": {"return_sequences": True, "residual": True, "num_layers": 2, "n_outputs": 3},
    }
    solvers = ("sgd", "rmsprop", "adamw", "momentum", "adam")
    for (loss, config), solver in zip(rest.items(), solvers, strict=True):
        yield "", {"cell": "rnn", "hidden_size": 32, **config}, loss, {"solver": solver, "alpha": 0.1}
    yield "", {"cell": "rnn", "hidden_size": 32}, "log_loss", {**adam, "ema_momentum": 0.9}
    # parameters of single units where a step is a launch
    yield "lstm_peephole 128", {"cell": "lstm_peephole", "hidden_size": 128}, "squared_error", adam


def forecasters() -> Iterator[dict[str, Any]]:
    """Yield options of forecasters that together launch what networks of the cases above do not.

    Yields
    ------
    options : dict
        Of `numbarnn.RNNForecaster`.
    """
    usual = {"horizon": 5, "context_length": 12, "segment_length": 3, "hidden_size": 32}
    yield usual
    kinds = {f"{kind}_covariates": [kind] for kind in ("past", "future", "static")}
    # contexts that are longer than the series have fewer segments
    yield {**usual, **kinds, "context_length": 36, "normalize": "window", "loss": "quantile"}
    yield {**usual, **kinds, "decoder": "direct"}
    for loss in ("gaussian", "student_t", "negative_binomial"):
        yield {**usual, **kinds, "decoder": "recursive", "segment_length": "auto", "loss": loss}


def launches() -> dict[str, Launch]:
    """Build the programs of all cases, and return what they would launch, each once.

    Examples
    --------
    >>> from numbarnn.cuda.driver import SIMULATED
    >>> from numbarnn.cuda.resources import launches
    >>> SIMULATED or "forward lstm 96" in launches()
    True
    """
    from numba import typeof

    found: dict[tuple, Launch] = {}
    with _arrays_of_the_host():
        launched = [(label, _launched(config, loss, dict(rest))) for label, config, loss, rest in cases()]
        launched += [("", _launched_by(options)) for options in forecasters()]
        for label, each in launched:
            for kernel, threads, arguments in each:
                types = tuple(typeof(each) for each in arguments)
                key = kernel.py_func.__module__, kernel.py_func.__qualname__, types, id(kernel)
                name = kernel.py_func.__name__.strip("_")
                inside = kernel.py_func.__module__.rpartition(".")[2] in ("halves", "loops", "scan")
                registers = kernel.targetoptions.get("max_registers")
                if key not in found and (label or not inside):
                    name = f"{name} {label}" if inside else name
                    found[key] = Launch(name, kernel, types, threads, registers)
    result: dict[str, Launch] = {}
    for launch in found.values():
        # the same kernel for other types of arguments
        name, number = launch.name, 2
        while name in result:
            name, number = f"{launch.name} ({number})", number + 1
        result[name] = launch
    return result


def _launched(config: dict[str, Any], loss: str, options: dict[str, Any]) -> Iterator[tuple]:
    """Yield (kernel, threads, arguments) of a batch of training and one of prediction."""
    solver = options.pop("solver")
    config = {"input_size": 8, "n_outputs": 1, **config}
    network = Network(**config, random_state=0)
    trainer = Trainer(
        loss=LOSSES[loss](), rng=np.random.default_rng(0), batch_size=32, max_grad_norm=1.0, **options
    )
    kind, extra = ("sgd", {"momentum": 0.9}) if solver == "momentum" else (solver, {})
    optimizer = OPTIMIZERS[kind](network.parameters.size, network.dtype, **extra)
    lengths = np.full(40, 5)
    y = np.zeros((40, 6, 1) if network.return_sequences else (40, 1))
    x = np.zeros((40, 6, config["input_size"]), network.dtype)
    batch = x, y, None, lengths
    source = SimpleNamespace(n_samples=40, gather=lambda indices: batch)
    yield from on_device(trainer, network).launched(network, optimizer, source)


def _launched_by(options: dict[str, Any]) -> Iterator[tuple]:
    """Yield the same of a forecaster, by the programs that it makes in `fit`."""
    from numbarnn import RNNForecaster  # it stands above this room

    steps, ids = 40, np.repeat(["a", "b"], 40)
    values = np.arange(2.0 * steps)
    columns = {kind: options.get(f"{kind}_covariates") for kind in ("past", "future", "static")}
    data = {"unique_id": ids, "ds": np.tile(np.arange(steps), 2), "y": values.copy()}
    for kind, names in columns.items():
        data |= {name: (ids == "a") * 1.0 if kind == "static" else values for name in names or ()}
    data["y"][::5] = np.nan
    found: list[tuple] = []

    def note(trainer: DeviceTrainer, network: Any, optimizer: Any, data: Any, validation: Any = None) -> None:
        found.extend(trainer.launched(network, optimizer, data))
        raise StopIteration

    with mock.patch.object(DeviceTrainer, "fit", note), suppress(StopIteration):
        RNNForecaster(**options, device="cuda", random_state=0, batch_size=32).fit(data)
    yield from found


@contextmanager
def _arrays_of_the_host() -> Iterator[None]:
    """Let arrays be NumPy's, and products nothing, while programs are built."""
    arrays = SimpleNamespace(
        device_array=np.empty, to_device=np.array, jit=cuda.jit, is_available=lambda: True,
        get_current_device=lambda: SimpleNamespace(
            compute_capability=CAPABILITIES[-1], MULTIPROCESSOR_COUNT=PROCESSORS
        ),
    )  # fmt: skip
    with (
        mock.patch.object(driver, "cuda", arrays),
        mock.patch.object(blas, "load", dict),
        mock.patch.object(Program, "product", lambda *arguments, **options: None),
    ):
        yield


def to_ptx(launch: Launch, capability: tuple[int, int]) -> str:
    """Compile a kernel; no device is needed.

    Parameters
    ----------
    launch : Launch
    capability : tuple of int

    Returns
    -------
    ptx : str
    """
    from numba import types
    from numba.cuda import dispatcher

    device = SimpleNamespace(compute_capability=capability)
    with mock.patch.object(dispatcher, "get_current_device", lambda: device):
        signature = types.void(*launch.types)
        options = {"cc": capability, "output": "ptx", "device": False, "abi": "numba"}
        return cuda.compile(launch.kernel.py_func, signature, **options)[0]


def find_ptxas() -> str | None:
    """Return where NVIDIA's assembler is, if it is installed."""
    try:
        import nvidia
    except ImportError:
        found = []
    else:
        found = [file for path in nvidia.__path__ for file in Path(path).glob("*/bin/ptxas")]
    return shutil.which("ptxas") or (str(found[0]) if found else None)


def ptxas_version(ptxas: str) -> str:
    """Return its version, such as "13.0"."""
    text = subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release (\d+\.\d+)", text)[1]


def measure(launch: Launch, ptx: str, capability: tuple[int, int], ptxas: str) -> dict[str, int]:
    """Ask ptxas what a kernel takes.

    Returns
    -------
    dict
        Registers of a thread, bytes of its stack, bytes that are spilled, and of shared memory of a block.
    """
    # a compiler that is newer than the assembler writes no instruction that this one lacks, only its number
    known = {"12": "8.0"}.get(ptxas_version(ptxas).partition(".")[0], "9.0")
    newest = re.search(r"\.version (\d+\.\d+)", ptx)[1]
    if float(newest) > float(known):
        ptx = ptx.replace(f".version {newest}", f".version {known}", 1)
    command = [ptxas, "-v", f"-arch=sm_{capability[0]}{capability[1]}", "-o", "/dev/null", "-"]
    if launch.registers:
        command.append(f"--maxrregcount={launch.registers}")
    text = subprocess.run(command, input=ptx, capture_output=True, text=True, check=True).stderr
    stack, stores, loads = map(int, _USED.search(text).groups())
    shared = re.search(r"(\d+) bytes smem", text)
    return {
        "registers": int(re.search(r"Used (\d+) registers", text)[1]),
        "stack": stack,
        "spills": stores + loads,
        "shared": int(shared[1]) if shared else 0,
    }
