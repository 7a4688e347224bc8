"""`Recurrent`: layers, directions, lengths, states and dropout around the kernels' time loop."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from numbarnn.cells import PROJECTED, Cell, find_cell, is_registered
from numbarnn.checks import (
    as_float,
    as_input,
    boolean,
    check_lengths,
    check_mask,
    number,
    positive_int,
    probability,
)
from numbarnn.kernels.between import MERGES
from numbarnn.kernels.sizes import EMPTY
from numbarnn.kernels.threads import thread_count, worthwhile_threads
from numbarnn.layer import Direction
from numbarnn.limits import check_count
from numbarnn.passes import Buffers, Options, Pass
from numbarnn.streaming import Stepper
from numbarnn.torch_weights import check_torch_options, read_torch

State = NDArray | tuple[NDArray, ...]
INITIALIZATIONS = ("uniform", "orthogonal")
DEVICES = ("cpu", "cuda")
MOST_PASSES = 8  # shapes of batches whose programs are kept
MOST_STEPPERS = 4  # numbers of samples that weights are kept packed for
MOST_LAYERS = 10_000
DTYPES = ("float32", "float64", np.float32, np.float64, np.dtype("float32"), np.dtype("float64"))


class Recurrent:
    """Recurrent layers with `torch.nn`'s options under its names, its parameter layout and its gate order.

    Parameters
    ----------
    cell : str, default="lstm"
        ``"lstm"``, ``"gru"`` (reset after the product), ``"rnn"`` (tanh), ``"rnn_relu"`` or any other key of
        `numbarnn.cells.CELLS`: docs/cells.md has their equations. Also with other activations and clipping,
        as ``"lstm[hard_sigmoid,tanh,tanh;clip=3.0]"``, or a cell of one's own, see `numbarnn.register_cell`.
    input_size : int
        Number of features of a time step.
    hidden_size : int
        Number of hidden units of each layer and direction.
    num_layers : int, default=1
        Number of layers, each reading the output of the one below.
    bias : bool, default=True
        Whether there are ``bias_ih`` and ``bias_hh``, in a cell that can have them.
    dropout : float, default=0.0
        Probability that an output of a layer but the last is set to zero in training, the rest scaled up.
    bidirectional : bool, default=False
        Whether each layer also runs backward in time; both outputs stand side by side, or see `merge`.
    dtype : {"float32", "float64"}, default="float32"
        Type of parameters and results.
    random_state : int, numpy.random.Generator or None, default=None
        Seed of initial parameters and dropout.
    init : {"uniform", "orthogonal"}, default="uniform"
        ``"uniform"``: all parameters from U(-k, k), k = 1 / sqrt(hidden_size), as PyTorch; ``"orthogonal"``:
        recurrent weights orthogonal, input weights Glorot uniform, biases zero, as Keras, but that an LSTM
        has forget biases of 1 there: ``forget_bias=1``.
    forget_bias : float or None, default=None
        Initial bias of the forget gate, where the cell has one; None leaves it to `init`.
    n_jobs : int or None, default=None
        Number of threads; None is all cores. Results are the same bits for every number.
    recurrent_dropout : float, default=0.0
        Probability that a unit of h is zero, for a whole sequence, in what the recurrent weights see of it in
        training, the others scaled up [1]_.
    zoneout : float or sequence of float, default=0.0
        Probability that a unit keeps the state that it had in a time step of training [2]_; one for all
        states or one for each, as (h, c) of an LSTM. Otherwise states are mixed by it, the mean of training.
    merge : {"concat", "sum", "mean", "product"}, default="concat"
        What becomes of the outputs of both directions of a layer, before the next one reads them.
    residual : bool, default=False
        Whether each layer adds its input to its output where both are as wide, as they are from the second
        layer on.
    proj_size : int, default=0
        Of cell "lstm": if not 0, h is a projection of that many units, fewer than hidden_size, as in PyTorch
        [3]_; its weights are ``weight_hr_l0`` (proj_size, hidden_size).
    device : {"cpu", "cuda"}, default="cpu"
        Where `forward` and `backward` run; see docs/cuda.md. Arrays are NumPy's in either case, and `step`,
        whose work is less than what a GPU takes to begin, runs on the CPU. The attribute may be set later.

    Attributes
    ----------
    parameters, gradients : dict of str to ndarray, read-only
        By PyTorch's names: ``weight_ih_l0`` (gates * hidden_size, input_size), ``weight_hh_l0``,
        ``bias_ih_l0``, ``bias_hh_l0``, with ``_reverse`` for the other direction. Parameters may be changed
        in place, ``layer.parameters[name][...] = value``. `backward` overwrites the gradients.
    n_parameters : int
        Number of parameters.
    output_size : int
        Number of outputs of a time step: hidden_size, or proj_size where there is one; twice that of two
        directions that are not merged.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described; the message begins with its name.
    numbarnn.cuda.driver.DeviceError
        If there is no GPU for ``device="cuda"``, or it fails.

    Notes
    -----
    Calls from several threads are served one after the other; different objects run at the same time.

    References
    ----------
    Equations, parameter names and gate order: documentation of torch.nn.LSTM, torch.nn.GRU and torch.nn.RNN.

    .. [1] Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks",
       NIPS (2016), equation 7 with one mask for all gates.
    .. [2] Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR
       (2017), equations 4 to 6.
    .. [3] Sak, Senior and Beaufays, "Long short-term memory based recurrent neural network architectures for
       large vocabulary speech recognition" (2014), arXiv 1402.1128, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn import Recurrent
    >>> layer = Recurrent("gru", input_size=3, hidden_size=8, random_state=0)
    >>> output, state = layer.forward(np.ones((2, 5, 3)), training=True)
    >>> output.shape, state.shape
    ((2, 5, 8), (1, 2, 8))
    >>> dx, dstate = layer.backward(np.ones_like(output))
    >>> dx.shape, layer.gradients["weight_ih_l0"].shape
    ((2, 5, 3), (24, 3))
    """

    def __init__(
        self,
        cell: str = "lstm",
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = "float32",
        random_state: int | np.random.Generator | None = None,
        *,
        init: str = "uniform",
        forget_bias: float | None = None,
        n_jobs: int | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        merge: str = "concat",
        residual: bool = False,
        proj_size: int = 0,
        device: str = "cpu",
    ) -> None:
        self.device, self._on_device = device, None
        self.cell = find_cell(cell)
        self.input_size = positive_int("input_size", input_size)
        self.hidden_size = positive_int("hidden_size", hidden_size)
        self.num_layers = positive_int("num_layers", num_layers)
        self.proj_size = self._check_projection(proj_size)
        self.dropout = probability("dropout", dropout)
        self.recurrent_dropout = probability("recurrent_dropout", recurrent_dropout)
        self.zoneout = self._check_zoneout(zoneout)
        if self.cell.loops and (self.recurrent_dropout or any(self.zoneout)):
            raise ValueError(
                f"recurrent_dropout and zoneout were {recurrent_dropout!r} and {zoneout!r}; "
                f'cell "{cell}" expects 0 of both'
            )
        if self.recurrent_dropout and not self.cell.h_rows:
            raise ValueError(
                f'recurrent_dropout was {recurrent_dropout!r}; cell "{cell}" has no recurrent weights, and '
                "expects 0"
            )
        if merge not in MERGES:
            raise ValueError(f"merge was {merge!r}; expected one of {', '.join(MERGES)}")
        self.merge, self.residual = merge, boolean("residual", residual)
        if dtype is None or dtype not in DTYPES:  # NumPy would take None for float64
            raise ValueError(f"dtype was {dtype!r}; expected float32 or float64")
        if init not in INITIALIZATIONS:
            raise ValueError(f"init was {init!r}; expected one of {', '.join(INITIALIZATIONS)}")
        self.bias, self.bidirectional = boolean("bias", bias), boolean("bidirectional", bidirectional)
        self.dtype = np.dtype(dtype)
        self.n_jobs = n_jobs
        self.init = init
        self.forget_bias = None if forget_bias is None else number("forget_bias", forget_bias)
        thread_count(n_jobs)  # says at once what is wrong with it
        try:
            self._random = np.random.default_rng(random_state)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"random_state was {random_state!r}; expected None, an integer or a Generator"
            ) from error
        side_by_side = 2 if self.bidirectional and merge == "concat" else 1
        self.output_size = (self.proj_size or self.hidden_size) * side_by_side
        if self.residual and self.num_layers == 1 and self.input_size != self.output_size:
            raise ValueError(
                f"residual was True with one layer, whose input is {self.input_size} wide and whose output "
                f"{self.output_size}; expected more layers, or both as wide"
            )
        self._lock = threading.Lock()
        self._busy = False  # a call is at work; if that is so when one begins, the last one never ended
        self._make_layers()
        self._shapes = self._parameter_shapes()
        self.n_parameters = sum(math.prod(shape) for shape in self._shapes.values())
        check_count(self.n_parameters, f"num_layers was {self.num_layers} and hidden_size {self.hidden_size}")
        self.bind(np.zeros(self.n_parameters, self.dtype), np.zeros(self.n_parameters, self.dtype))
        self._initialize()
        if device == "cuda":
            self._device_layers()  # says at once what is missing
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout was {dropout!r} with num_layers=1: it acts between layers, and there is but one",
                stacklevel=2,
            )

    def _check_projection(self, proj_size: int) -> int:
        if isinstance(proj_size, (int, np.integer)) and proj_size == 0 and not isinstance(proj_size, bool):
            return 0
        proj_size = positive_int("proj_size", proj_size)
        if self.cell.name not in PROJECTED:
            raise ValueError(
                f'proj_size was {proj_size} with cell "{self.cell.name}"; expected 0, or cell "lstm"'
            )
        if proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size was {proj_size}; expected less than hidden_size, which is {self.hidden_size}"
            )
        return proj_size

    def _check_zoneout(self, zoneout: float | Sequence[float]) -> tuple[float, ...]:
        """Return a probability for each state."""
        names = self.cell.states
        values = (zoneout,) * len(names) if np.ndim(zoneout) == 0 else tuple(zoneout)
        if len(values) != len(names):
            raise ValueError(f"zoneout was {zoneout!r}; expected a number, or one for each of {names}")
        return tuple(probability("zoneout", value) for value in values)

    def _make_layers(self) -> None:
        """Make the layers and all their buffers."""
        check_count(self.num_layers, f"num_layers was {self.num_layers}")
        if self.num_layers > MOST_LAYERS:
            raise ValueError(f"num_layers was {self.num_layers}; expected at most {MOST_LAYERS}")
        directions = (False, True)[: 1 + self.bidirectional]
        widths = [self.input_size] + [self.output_size] * (self.num_layers - 1)
        self._layers = [
            [self._make_direction(n, reverse) for reverse in directions] for n in widths
        ]
        self._buffers = Buffers(self.dtype)
        self._passes: dict[tuple, Pass] = {}  # for batches of the shapes that came last
        self._kept: tuple[Pass, NDArray] | None = None  # what backward needs of the last forward
        self._steppers: dict[int, Stepper] = {}  # by the number of samples

    def _make_direction(self, n_inputs: int, reverse: bool) -> Direction:
        options = (self.bias, self.dtype, reverse, self.proj_size)
        return Direction(self._kernel_cell, n_inputs, self.hidden_size, *options)

    @property
    def _kernel_cell(self) -> Cell:
        return PROJECTED[self.cell.name] if self.proj_size else self.cell

    def _mend(self) -> None:
        """Make new buffers if the last call was broken off, by Ctrl-C for example; the lock must be held."""
        if self._busy:
            self._make_layers()
            self.bind(self._flat, self._flat_gradients)
            self._busy = False

    @property
    def device(self) -> str:
        """Where `forward` and `backward` run; may be set, and `backward` then waits for another `forward`."""
        return self._device

    @device.setter
    def device(self, device: str) -> None:
        if device not in DEVICES:
            raise ValueError(f"device was {device!r}; expected one of {', '.join(DEVICES)}")
        # what a pass has kept for backward lies where it ran
        self._device, self._kept = device, None

    # ---- parameters

    def _parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for k, layer in enumerate(self._layers):
            for direction in layer:
                suffix = f"_l{k}_reverse" if direction.sizes.reverse else f"_l{k}"
                shapes |= {name + suffix: shape for name, shape in direction.shapes.items()}
        return shapes

    def bind(self, parameters: NDArray, gradients: NDArray) -> None:
        """Use these flat vectors for parameters and gradients from now on; current values move into them.

        Parameters
        ----------
        parameters, gradients : ndarray of shape (n_parameters,)
            C-contiguous, writeable, of the layer's dtype, and apart from each other.

        Raises
        ------
        ValueError, TypeError
            If a vector is not as described; nothing is changed then.
        """
        for name, vector in (("parameters", parameters), ("gradients", gradients)):
            if not isinstance(vector, np.ndarray):
                raise TypeError(f"{name} was {vector!r}; expected an array")
            alike = vector.shape == (self.n_parameters,) and vector.dtype == self.dtype
            if not alike or not vector.flags.c_contiguous:
                raise ValueError(
                    f"{name} was an array of shape {vector.shape} and dtype {vector.dtype}; "
                    f"expected a contiguous one of shape ({self.n_parameters},) and dtype {self.dtype}"
                )
            if not vector.flags.writeable:
                raise ValueError(f"{name} was a read-only array; expected one that can be written to")
        if np.may_share_memory(parameters, gradients):
            raise ValueError("gradients shared memory with parameters; expected another vector")
        old = getattr(self, "_flat", None)
        if old is not None:
            parameters[:] = old
        gradients[:] = 0
        self._flat, self._flat_gradients = parameters, gradients
        self._parameters, self._gradients = {}, {}
        for views, vector in ((self._parameters, parameters), (self._gradients, gradients)):
            at = 0
            for name, shape in self._shapes.items():
                size = math.prod(shape)
                views[name] = vector[at : at + size].reshape(shape)
                at += size
        at = 0
        for direction in (direction for layer in self._layers for direction in layer):
            size = direction.n_parameters
            direction.parameters, direction.gradients = parameters[at : at + size], gradients[at : at + size]
            at += size
        self._kept = None
        self._steppers.clear()
        self._passes.clear()

    @property
    def parameters(self) -> dict[str, NDArray]:
        """Parameters by PyTorch's names; views, which may be changed in place."""
        self._steppers.clear()  # their packed weights may be about to be out of date
        return _Views(self._parameters)

    @property
    def gradients(self) -> dict[str, NDArray]:
        """Gradients by the same names, as the last `backward` left them; views."""
        return _Views(self._gradients)

    def load_parameters(self, parameters: Mapping[str, ArrayLike]) -> None:
        """Take over parameters, for example of a PyTorch ``state_dict`` turned to arrays.

        Parameters
        ----------
        parameters : mapping of str to array-like
            All the names of `parameters`, with arrays of the same shapes.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape is another; nothing is changed then.

        Examples
        --------
        >>> from numbarnn import Recurrent
        >>> a, b = (Recurrent("rnn", 2, 4, random_state=seed) for seed in (0, 1))
        >>> a.load_parameters(b.parameters)
        >>> bool((a.parameters["weight_hh_l0"] == b.parameters["weight_hh_l0"]).all())
        True
        """
        if not isinstance(parameters, Mapping):
            kind = type(parameters).__name__
            raise TypeError(f"parameters was {kind}; expected a mapping of names to arrays")
        if set(parameters) != set(self._shapes):
            missing = sorted(set(self._shapes) - set(parameters))
            unknown = sorted(set(parameters) - set(self._shapes))
            raise ValueError(f"parameters had missing names {missing} and unknown names {unknown}")
        arrays = {
            name: as_float(f'parameters["{name}"]', value, self.dtype) for name, value in parameters.items()
        }
        for name, array in arrays.items():
            if array.shape != self._shapes[name]:
                expected = self._shapes[name]
                raise ValueError(f'parameters["{name}"] had shape {array.shape}; expected {expected}')
        for name, array in arrays.items():
            self._parameters[name][...] = array
        self._kept = None  # backward would mix it with the new weights
        self._steppers.clear()

    def _initialize(self) -> None:
        cell, hidden = self.cell, self.hidden_size
        bound = 1 / np.sqrt(hidden)
        for name, array in self._parameters.items():
            kind = name.rpartition("_l")[0]
            if self.init == "uniform" or kind in cell.units:
                array[...] = self._random.uniform(*cell.initial.get(kind, (-bound, bound)), array.shape)
            elif name.startswith(("weight_ih", "weight_hr")):
                limit = np.sqrt(6 / sum(array.shape))
                array[...] = self._random.uniform(-limit, limit, array.shape)
            elif name.startswith("weight_hh"):
                q, r = np.linalg.qr(self._random.standard_normal(array.shape))
                array[...] = q * np.sign(np.diag(r))
            if self.forget_bias is not None and kind == cell.forget_gate:
                array[...] = self.forget_bias
            elif self.forget_bias is not None and name.startswith("bias"):
                rows, value = (cell.x_rows, self.forget_bias) if "_ih" in name else (cell.h_rows, 0)
                if cell.forget_gate in rows:
                    at = rows.index(cell.forget_gate) * hidden
                    array[at : at + hidden] = value

    def __getstate__(self) -> dict[str, Any]:
        """Keep options, parameters and the random generator: buffers are made again where they are needed."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "dropout", "bidirectional")
        names += ("init", "forget_bias", "n_jobs", "recurrent_dropout", "zoneout", "merge", "residual")
        names += ("proj_size", "device")
        options = {name: getattr(self, name) for name in names}
        options |= {"cell": self.cell.name, "dtype": self.dtype.name}
        return {"options": options, "parameters": self._flat.copy(), "random": self._random}

    def __reduce__(self) -> tuple:
        """Tell the equations as well: a cell's name may stand for others where the layer is built again."""
        return _restored, (type(self), self.__getstate__(), self.cell.digest)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the layer again."""
        # a layer of a GPU is read without one as well: `device` may then be set to "cpu"
        self.__init__(**(state["options"] | {"dropout": 0.0, "device": "cpu"}), random_state=0)
        self.dropout = state["options"]["dropout"]  # whatever there was to say about it has been said
        self.device = state["options"].get("device", "cpu")
        self._flat[:] = state["parameters"]
        self._random = state["random"]

    @classmethod
    def from_torch(
        cls, source: Any, *, cell: str | None = None, prefix: str | None = None, **options: Any
    ) -> Recurrent:
        """Make a layer of a PyTorch module or its weights; the numbers that it gives are the module's.

        Parameters
        ----------
        source : torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU or mapping of str to tensor or array-like
            A module, or a state dict, also that of a larger model with one such layer in it.
        cell : str or None, default=None
            The cell. Needed for a state dict of an RNN with relu: weights do not tell it from one with tanh.
        prefix : str or None, default=None
            Which layer of a state dict with several: what its names begin with, as in ``"encoder.rnn"``.
        **options
            Further arguments of `Recurrent`, in place of what `source` tells: ``dropout``, which a state dict
            does not tell, ``dtype``, ``random_state``, ``n_jobs``.

        Returns
        -------
        Recurrent
            float64 where the weights are, otherwise float32 (for float16 and bfloat16 as well). It takes
            batch-major arrays, whether the module has ``batch_first`` or not.

        Raises
        ------
        ValueError, TypeError
            If there is no such layer or more than one, or it is incomplete.

        Examples
        --------
        >>> import numpy as np
        >>> from numbarnn import Recurrent
        >>> trained = {"rnn.weight_ih_l0": np.ones((16, 3)), "rnn.weight_hh_l0": np.ones((16, 4)),
        ...            "head.weight": np.ones((1, 4))}
        >>> layer = Recurrent.from_torch(trained)
        >>> layer.cell.name, layer.input_size, layer.hidden_size, layer.bias
        ('lstm', 3, 4, False)
        """
        found, parameters = read_torch(source, cell, prefix)
        layer = cls(**(found | options))
        layer.load_parameters(parameters)
        return layer

    def to_torch_state_dict(self) -> dict[str, NDArray]:
        """Return the parameters as the PyTorch layer of the same options names and orders them.

        Returns
        -------
        dict of str to ndarray
            Copies, for ``module.load_state_dict({k: torch.from_numpy(v) for k, v in these.items()})``.

        Raises
        ------
        ValueError
            If PyTorch has no such cell, or no option `merge`, `residual` or `zoneout` that is in use.

        Examples
        --------
        >>> from numbarnn import Recurrent
        >>> list(Recurrent("gru", 3, 4, bias=False).to_torch_state_dict())
        ['weight_ih_l0', 'weight_hh_l0']
        """
        check_torch_options(self)
        return {name: value.copy() for name, value in self._parameters.items()}

    # ---- forward

    def forward(
        self,
        x: ArrayLike,
        state: State | None = None,
        lengths: ArrayLike | None = None,
        training: bool = False,
        *,
        mask: ArrayLike | None = None,
        return_output: bool = True,
    ) -> tuple[NDArray | None, State]:
        """Run over whole sequences.

        Parameters
        ----------
        x : array-like of shape (n_samples, n_timesteps, input_size)
            The sequences, padded behind to one length. Turned into the layer's dtype: in float32, numbers
            beyond its range become infinite, of which NumPy warns.
        state : ndarray or tuple of ndarray, default=None
            Initial state: h, or (h, c) for an LSTM, each (num_layers * directions, n_samples, hidden_size)
            (with a projection h is proj_size wide),
            in PyTorch's order; None is zeros.
        lengths : array-like of int of shape (n_samples,), default=None
            Number of valid steps of each sequence, from 1; None is all of them.
        training : bool, default=False
            Apply dropout and keep what `backward` needs. Otherwise nothing is kept.
        mask : array-like of bool of shape (n_samples, n_timesteps), default=None
            False for steps that are missing, wherever they are: the state is held there and the output is
            zero, as past the end. What x has there is not looked at. A sample may have no step at all: its
            final state is the initial one.
        return_output : bool, default=True
            Whether more than the final state is wanted.

        Returns
        -------
        output : ndarray of shape (n_samples, n_timesteps, output_size) or None
            h of the last layer at each step, zero past a sequence's end.
        state : ndarray or tuple of ndarray
            Final state, that of the last valid step of each sequence; shaped as the initial one.

        Raises
        ------
        ValueError, TypeError
            If an argument has another shape or type.

        Notes
        -----
        Buffers and programs are kept for the last 8 shapes of batches (n_samples, n_timesteps). Where more
        take turns, they are made again in each call: pad sequences to a few lengths, and give `lengths`.
        """
        x = as_input(x, self.input_size, self.dtype)
        if type(training) is not bool:
            training = boolean("training", training)
        if type(return_output) is not bool:
            return_output = boolean("return_output", return_output)
        B, T, _ = x.shape
        state = self._check_state("state", state, self.state_shapes(B))
        lengths = check_lengths(lengths, B, T)
        mask = check_mask(mask, B, T)
        output = None
        if return_output:
            output = np.empty((B, T, self.output_size), self.dtype)
        final = self._new_state(B)
        with self._lock:
            self._mend()
            self._busy = True
            self._run_forward(x, state, lengths, mask, training, output, final)
            self._busy = False
        return output, _public_state(final)

    def _run_forward(
        self, x: NDArray, state: tuple[NDArray, ...] | None, lengths: NDArray, mask: NDArray | None,
        training: bool, output: NDArray | None, final: list[NDArray],
    ) -> None:
        """Go forward on checked arguments: `output` (or nobody) and `final` receive the results."""
        self._kept = None
        if self.device == "cuda":
            way = self._device_layers().forward(x, state, lengths, mask, training, output, final)
            if training:
                self._steppers.clear()
                self._kept = way, lengths
            return
        way = self._pass(x.shape[1], x.shape[0], training, mask is not None)
        lengths = way.lengths(lengths, mask)
        self._draw_noise(way, training)
        way.start(state)
        way.forward.put("x", x)
        way.forward.put("lengths", lengths)
        way.forward.put("out", EMPTY[self.dtype] if output is None else output)
        way.forward.run()
        way.read_final(final)
        if training:
            self._steppers.clear()  # what is trained will change
            self._kept = way, lengths

    def _device_layers(self) -> Any:
        """Return what runs the layers on the GPU, made when it is first asked for."""
        if self._on_device is None:
            from numbarnn.cuda.layers import HostLayers

            self._on_device = HostLayers(self)
        return self._on_device

    def _draw_noise(self, way: Any, training: bool) -> None:
        """Fill what is random in a batch, `masks`, `state_masks` and `zones`, as `Pass` has them."""
        for masks, rate in ((way.masks, self.dropout), (way.state_masks, self.recurrent_dropout)):
            for factors in masks:  # zero or what scales up
                kept = self._random.random(factors.shape, np.float32) >= rate
                np.multiply(kept, self.dtype.type(1 / (1 - rate)), out=factors)
        for zones in way.zones:
            rates = np.array(self.zoneout)[:, np.newaxis]
            zones[...] = self._random.random(zones.shape, np.float32) < rates if training else rates

    def _pass(self, n_timesteps: int, n_samples: int, training: bool, masked: bool) -> Pass:
        """Return what runs batches of this shape, made now or kept from one of the last calls."""
        dropout = training and self.dropout > 0
        noise = training and self.recurrent_dropout > 0, any(self.zoneout)
        key = (n_timesteps, n_samples, training, dropout, noise, masked, self.n_jobs)
        if key in self._passes:
            return self._passes[key]
        threads = []
        for layer in self._layers:
            sizes = layer[0].sizes
            each = sizes.J * (sizes.I * sizes.Sx + sizes.H * sizes.Sh) * len(layer)
            threads.append(worthwhile_threads(n_timesteps * n_samples * each, self.n_jobs))
        grown = self._buffers.n_grown
        options = Options(training, dropout, noise, masked, self.merge, self.residual)
        way = Pass(self._layers, n_timesteps, n_samples, options, threads, self._buffers)
        if grown < self._buffers.n_grown:
            self._passes.clear()  # or they would hold the smaller arrays
        elif len(self._passes) == MOST_PASSES:
            del self._passes[next(iter(self._passes))]
        self._passes[key] = way
        return way

    # ---- backward

    def backward(
        self, doutput: ArrayLike | None, dstate: State | None = None, input_gradient: bool = True
    ) -> tuple[NDArray | None, State]:
        """Back-propagate through the last ``forward(training=True)``, once.

        The parameters must be those of that `forward`: an optimizer changes them afterwards. Where they are
        changed in place in between, which nobody notices, gradients mix old weights and new ones.

        Parameters
        ----------
        doutput : array-like of shape (n_samples, n_timesteps, output_size) or None
            Gradient of the output; None is zeros. Values past a sequence's end do not count.
        dstate : ndarray or tuple of ndarray, default=None
            Gradient of the final state, shaped like it; None is zeros.
        input_gradient : bool, default=True
            Whether the gradient of x is wanted; it costs one more product.

        Returns
        -------
        dx : ndarray of shape (n_samples, n_timesteps, input_size) or None
            Gradient of the input.
        dstate : ndarray or tuple of ndarray
            Gradient of the initial state.

        Raises
        ------
        RuntimeError
            If there is nothing to go back through: the last call was no ``forward(training=True)``, or was
            followed by `load_parameters` or `bind`.
        ValueError, TypeError
            If an argument has another shape or type.

        Notes
        -----
        Numbers below the normal range count as zero here: gradients that fade away would otherwise slow every
        product.
        """
        with self._lock:
            self._mend()
            if self._kept is None:
                raise RuntimeError(
                    "backward was called with nothing kept; call forward(..., training=True) before each "
                    "backward, after any load_parameters or bind"
                )
            if type(input_gradient) is not bool:
                input_gradient = boolean("input_gradient", input_gradient)
            T, B = self._kept[0].T, self._kept[0].B
            if doutput is not None:
                shape = (B, T, self.output_size)
                doutput = as_float("doutput", doutput, self.dtype)
                if doutput.shape != shape:
                    raise ValueError(f"doutput had shape {doutput.shape}; expected {shape}")
            dstate = self._check_state("dstate", dstate, self.state_shapes(B))
            dinitial = self._new_state(B)
            self._busy = True
            dx = self._run_backward(doutput, dstate, input_gradient, dinitial)
            self._busy = False
        return dx, _public_state(dinitial)

    def _run_backward(
        self, doutput: NDArray | None, dstate: tuple[NDArray, ...] | None, input_gradient: bool,
        dinitial: list[NDArray],
    ) -> NDArray | None:
        """Go backward on checked arguments; `dinitial` receives the gradient of the initial states."""
        (way, lengths), self._kept = self._kept, None
        if self.device == "cuda":
            flat = doutput, dstate, input_gradient, dinitial, self._flat_gradients
            return self._device_layers().backward(way, *flat)
        way.start_back(dstate)
        program = way.backward(input_gradient)
        program.put("lengths", lengths)
        program.put("dout", EMPTY[self.dtype] if doutput is None else doutput)
        program.run()
        way.read_initial_gradient(dinitial)
        return way.read_input_gradient() if input_gradient else None

    # ---- streaming

    def step(self, x_t: ArrayLike, state: State | None = None) -> tuple[NDArray, State]:
        """Advance by one time step: the way to serve a stream, in microseconds.

        Parameters
        ----------
        x_t : array-like of shape (n_samples, input_size)
            The inputs of the step.
        state : ndarray or tuple of ndarray, default=None
            State before the step, as in `forward`; None is zeros.

        Returns
        -------
        output : ndarray of shape (n_samples, output_size)
            h of the last layer.
        state : ndarray or tuple of ndarray
            State after the step.

        Raises
        ------
        ValueError, TypeError
            If the layer is bidirectional, or an argument has another shape or type.

        Notes
        -----
        Weights are packed in the first step with a number of samples and used until the next
        `load_parameters`, `bind`, ``forward(training=True)`` or look at `parameters`; packing takes as long
        as many steps, of a layer with hidden_size=512 some milliseconds. Who changes an array in place
        through a reference kept from before must look at `parameters` again.

        Examples
        --------
        >>> import numpy as np
        >>> from numbarnn import Recurrent
        >>> layer, state = Recurrent("lstm", 1, 4, random_state=0), None
        >>> for value in (0.1, 0.2, 0.3):
        ...     output, state = layer.step(np.array([[value]]), state)
        >>> output.shape
        (1, 4)
        """
        if self.bidirectional:
            raise ValueError(
                "step was called on a bidirectional layer, whose output needs the steps to come; use forward"
            )
        x_t = as_float("x_t", x_t, self.dtype)
        shape = x_t.shape
        if len(shape) != 2 or shape[1] != self.input_size or shape[0] == 0:
            raise ValueError(f"x_t had shape {shape}; expected (n_samples, {self.input_size})")
        if self.cell.loops:
            output, state = self.forward(x_t[:, np.newaxis], state)
            return output[:, 0], state
        with self._lock:
            self._mend()
            stepper = self._steppers.get(shape[0])
            if stepper is None:
                stepper = self._make_stepper(shape[0])
            output, new = stepper.run(x_t, self._check_state("state", state, stepper.shapes))
        return output, _public_state(new)

    def _make_stepper(self, n_samples: int) -> Stepper:
        """Pack the weights as they are now for steps of so many samples."""
        if len(self._steppers) == MOST_STEPPERS:
            del self._steppers[next(iter(self._steppers))]
        directions, shapes = [direction for (direction,) in self._layers], self.state_shapes(n_samples)
        stepper = self._steppers[n_samples] = Stepper(directions, shapes, self.zoneout, self.residual)
        return stepper

    # ---- states

    def _new_state(self, n_samples: int) -> list[NDArray]:
        return [np.empty(shape, self.dtype) for shape in self.state_shapes(n_samples)]

    def state_shapes(self, n_samples: int) -> list[tuple[int, int, int]]:
        """Return the shape of each part of the state, h first.

        Parameters
        ----------
        n_samples : int

        Returns
        -------
        shapes : list of tuple of int
            (num_layers * directions, n_samples, hidden_size); of a projected h, proj_size in place of it.

        Examples
        --------
        >>> from numbarnn import Recurrent
        >>> Recurrent("lstm", 3, 8, proj_size=2).state_shapes(5)
        [(1, 5, 2), (1, 5, 8)]
        """
        widths = [self.proj_size or self.hidden_size] + [self.hidden_size] * (self.cell.n_states - 1)
        return [(self.num_layers * len(self._layers[0]), n_samples, width) for width in widths]

    def _check_state(
        self, name: str, state: State | None, shapes: list[tuple[int, int, int]]
    ) -> tuple[NDArray, ...] | None:
        if state is None:
            return None
        states = tuple(state) if isinstance(state, (tuple, list)) else (state,)
        if len(states) != len(shapes):
            names = ", ".join(self.cell.states)
            raise ValueError(
                f"{name} was {len(states)} array(s); "
                f'cell "{self.cell.name}" expected {len(shapes)}: ({names})'
            )
        arrays = tuple([as_float(name, s, self.dtype) for s in states])
        for k, shape in enumerate(shapes):
            if arrays[k].shape != shape:
                part = self.cell.states[k]
                raise ValueError(f"{name} ({part}) had shape {arrays[k].shape}; expected {shape}")
        return arrays


def _restored(kind: type[Recurrent], state: dict[str, Any], digest: str) -> Recurrent:
    """Build a layer again that was copied or pickled."""
    layer = kind.__new__(kind)
    layer.__setstate__(state)
    if is_registered(layer.cell) and layer.cell.digest != digest:
        warnings.warn(
            f'cell "{layer.cell.name}" has other equations here than where the layer was made, which may '
            "give other numbers: register_cell takes those that it was made with",
            stacklevel=2,
        )
    return layer


class _Views(dict):
    """Arrays by name, which stay: to put another array in place of one would change nothing in the layer."""

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise TypeError(
            "the arrays of a layer cannot be replaced; write into one, layer.parameters[name][...] = value, "
            "or call layer.load_parameters"
        )

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple:
        """Copy to a usual dict: the arrays of a copy belong to no layer."""
        return dict, (dict(self),)


def _public_state(state: Sequence[NDArray]) -> State:
    return state[0] if len(state) == 1 else tuple(state)
