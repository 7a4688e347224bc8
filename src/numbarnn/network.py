"""Network: a stack of recurrent layers between dense ones, with all parameters in one vector.

An optimizer sees two flat vectors, `parameters` and `gradients`; the layers work on views of them.

Letters in comments: n samples, T steps, F inputs, H hidden units, D directions, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from numbarnn.blocks import Dense, DenseStack, Embedding, states_of, valid_steps
from numbarnn.checks import boolean, categories, sizes_of
from numbarnn.parameters import Parameters, dense_shapes, dense_stack_shapes
from numbarnn.recurrent import Recurrent

__all__ = ["Network"]

INITIAL_STATES = ("zeros", "random", "learned")
# Standard deviation of random initial states: a tenth of what h can be, enough for the layers to learn not to
# depend on it, and too little to drown what the first steps bring.
RANDOM_STATE_SCALE = 0.1
# how the ends of both directions become one vector, and how its gradient is handed back to them
_MERGES = {
    "concat": (lambda a, b: np.concatenate([a, b], axis=1), lambda a, b, d: np.split(d, 2, axis=1)),
    "sum": (lambda a, b: a + b, lambda a, b, d: (d, d)),
    "mean": (lambda a, b: (a + b) / 2, lambda a, b, d: (d / 2, d / 2)),
    "product": (lambda a, b: a * b, lambda a, b, d: (d * b, d * a)),
}


class Network:
    """Recurrent layers between dense ones, with an output for the last valid step or for every step.

    Parameters
    ----------
    cell : str
        A name in `numbarnn.cells.CELLS`.
    input_size, hidden_size, n_outputs : int
    num_layers : int, default=1
    bidirectional : bool, default=False
        The head then sees the last state of the forward direction and that of the reverse direction, which
        has come to the first step, put together as `merge` says.
    dropout : float, default=0.0
        Between the recurrent layers and behind every hidden dense layer, in training only.
    return_sequences : bool, default=False
        An output for every step, not only for the last.
    dtype : {"float32", "float64"}, default="float32"
    random_state : int or None, default=None
    embedding : sequence of (feature, n_categories, size) or None, default=None
        Features of x that hold whole numbers from 0 to n_categories - 1. Each is replaced by a learned vector
        of this size; the vectors stand behind the other features, in this order.
    stem_sizes, head_sizes : sequence of int, default=()
        Units of the hidden dense layers (relu) before the recurrent layers, applied to every step, and after
        them.
    initial_state : {"zeros", "random", "learned"}, default="zeros"
        "random": drawn anew for every batch in training, from a normal distribution with a standard deviation
        of 0.1, and zeros otherwise. "learned": a vector for each layer, direction and part of the state,
        which all samples share; zeros before training.
    stateful : bool, default=False
        Let sample i begin in the state that sample i of the last call ended in, until `reset_states`.
        Gradients do not go back beyond the call.
    residual, merge, recurrent_dropout, zoneout, proj_size, init, forget_bias, n_jobs
        See `numbarnn.Recurrent`. With `residual` the head sees what the top layer puts out at the steps where
        its directions end, which is not only their state.

    Attributes
    ----------
    parameters, gradients : ndarray of shape (n_parameters,)
        All parameters, changed in place: those of the recurrent layers first, then embeddings, dense layers,
        initial states.
    penalized : ndarray of bool of shape (n_parameters,)
        True for weights, False for biases, embeddings and initial states.
    config : dict
        The arguments that make a network of this shape: JSON can hold it.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.network import Network
    >>> network = Network("gru", input_size=3, hidden_size=8, n_outputs=2, random_state=0)
    >>> network.forward(np.zeros((5, 10, 3), "float32")).shape
    (5, 2)
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        n_outputs: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        return_sequences: bool = False,
        dtype: DTypeLike = "float32",
        random_state: int | None = None,
        *,
        embedding: Sequence[Sequence[int]] | None = None,
        stem_sizes: Sequence[int] = (),
        head_sizes: Sequence[int] = (),
        initial_state: str = "zeros",
        stateful: bool = False,
        residual: bool = False,
        merge: str = "concat",
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        proj_size: int = 0,
        init: str = "uniform",
        forget_bias: float | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.config: dict[str, Any] = {
            "cell": cell, "input_size": input_size, "hidden_size": hidden_size, "n_outputs": n_outputs,
            "num_layers": num_layers, "bidirectional": bidirectional, "dropout": dropout,
            "return_sequences": return_sequences, "dtype": np.dtype(dtype).name,
            "embedding": categories("embedding", embedding, input_size),
            "stem_sizes": sizes_of("stem_sizes", stem_sizes),
            "head_sizes": sizes_of("head_sizes", head_sizes),
            "initial_state": initial_state, "stateful": boolean("stateful", stateful), "residual": residual,
            "merge": merge, "recurrent_dropout": recurrent_dropout,
            "zoneout": np.asarray(zoneout).tolist(), "proj_size": proj_size,
        }  # fmt: skip
        if initial_state not in INITIAL_STATES:
            expected = ", ".join(INITIAL_STATES)
            raise ValueError(f"initial_state was {initial_state!r}; expected one of {expected}")
        if stateful and bidirectional:
            raise ValueError(
                "bidirectional was True; stateful=True expects False: the reverse direction would go on from "
                "what comes later"
            )
        self.return_sequences, self.dtype = return_sequences, np.dtype(dtype)
        self._directions = 2 if bidirectional else 1
        # features of a step when vectors have taken the place of categories
        self._step_size = input_size + sum(size - 1 for _, _, size in self.config["embedding"])
        rng = np.random.default_rng(random_state)
        # what the recurrent layers, dropout and random initial states are drawn from
        self._random = np.random.default_rng(int(rng.integers(2**31)))
        self.recurrent = self._make_recurrent(init, forget_bias, n_jobs)
        self._lay_out(rng)
        self._build(n_jobs)
        self._carried: tuple[NDArray, ...] | None = None  # final states of the last call, if stateful
        self._tape: tuple | None = None

    def _make_recurrent(self, init, forget_bias, n_jobs):
        config = self.config
        below = [self._step_size, *config["stem_sizes"]]
        # a single layer has nothing to drop; it says so, unless dense layers have
        alone = config["num_layers"] == 1 and (config["stem_sizes"] or config["head_sizes"])
        passed_on = ("residual", "merge", "recurrent_dropout", "zoneout", "proj_size")
        return Recurrent(
            config["cell"], below[-1], config["hidden_size"], num_layers=config["num_layers"],
            bidirectional=config["bidirectional"], dropout=0.0 if alone else config["dropout"],
            dtype=self.dtype, random_state=self._random, init=init, forget_bias=forget_bias, n_jobs=n_jobs,
            **{name: config[name] for name in passed_on},
        )  # fmt: skip

    def _lay_out(self, rng):
        """Make the vectors of parameters and gradients, and fill in first values."""
        config, recurrent = self.config, self.recurrent
        above = [recurrent.output_size, *config["head_sizes"]]
        shapes = {f"embedding.{feature}": (n, size) for feature, n, size in config["embedding"]}
        shapes |= dense_stack_shapes("stem", self._step_size, config["stem_sizes"])
        shapes |= dense_stack_shapes("head", above[0], config["head_sizes"])
        shapes |= dense_shapes("head", above[-1], config["n_outputs"])
        states = {}
        if config["initial_state"] == "learned":
            named = zip(recurrent.cell.states, recurrent.state_shapes(1), strict=True)
            states = {f"initial_state.{name}": (rows, width) for name, (rows, _, width) in named}
        drawn = Parameters(shapes, self.dtype)
        drawn.initialize(rng)
        layers = {f"recurrent.{name}": values.shape for name, values in recurrent.parameters.items()}
        self._store = Parameters(layers | shapes | states, self.dtype)
        self._store.values[recurrent.n_parameters :][: drawn.values.size] = drawn.values
        self.gradients, self.penalized = self._store.gradients, self._store.penalized
        recurrent.bind(*self._store.flat("recurrent."))

    def _build(self, n_jobs):
        """Make the blocks that work on the parameters."""
        config, store = self.config, self._store
        rest = [config["dropout"], self._random, n_jobs]
        self.embeddings = [Embedding(store, f"embedding.{feature}") for feature, _, _ in config["embedding"]]
        self.stem = DenseStack(store, "stem", len(config["stem_sizes"]), *rest)
        self.hidden = DenseStack(store, "head", len(config["head_sizes"]), *rest)
        self.head = Dense(store, "head", n_jobs)
        categorical = {feature for feature, _, _ in config["embedding"]}
        self._numeric = [k for k in range(config["input_size"]) if k not in categorical]
        names = self.recurrent.cell.states if config["initial_state"] == "learned" else ()
        self._learned = [store[f"initial_state.{name}"] for name in names]
        # whether the head sees what the recurrent layers put out, or only the final state
        self._by_output = self.return_sequences or config["residual"]
        self._join, self._part = _MERGES[config["merge"]]

    @property
    def n_jobs(self) -> int | None:
        """Number of threads of every part."""
        return self.recurrent.n_jobs

    @n_jobs.setter
    def n_jobs(self, value: int | None) -> None:
        for part in (self.recurrent, self.head, *self.stem.layers, *self.hidden.layers):
            part.n_jobs = value

    @property
    def parameters(self) -> NDArray:
        """All parameters in one vector, which may be changed in place."""
        self.recurrent._steppers.clear()  # their packed weights may be about to be out of date
        return self._store.values

    @property
    def named_parameters(self) -> dict[str, NDArray]:
        """Views of the parameters by name.

        ``recurrent.`` and PyTorch's name; ``embedding.{feature}``; ``stem.0.weight``, ``stem.0.bias``, ...;
        likewise ``head.0.weight``, ...; ``head.weight`` and ``head.bias`` of the output layer;
        ``initial_state.h``, ...
        """
        self.recurrent._steppers.clear()
        return {name: self._store[name][0] for name in self._store}

    def forward(self, x: NDArray, lengths: NDArray | None = None, training: bool = False) -> NDArray:
        """Raw output of the head.

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_timesteps, input_size)
            In the network's dtype. Categories are whole numbers within their range.
        lengths : ndarray of int of shape (n_samples,) or of bool of shape (n_samples, n_timesteps), \
default=None
            Number of valid steps of each sample, or which of its steps are valid, at least one; None for all.
            Others change no state, and what x has there means nothing, but it must be numbers as elsewhere.
        training : bool, default=False
            Keep what `backward` needs, apply dropout and draw random initial states.

        Returns
        -------
        raw_output : ndarray of shape (n_samples, n_outputs) or (n_samples, n_timesteps, n_outputs)

        Raises
        ------
        ValueError
            If a stateful network is given another number of samples than in the last call.
        """
        state = self._initial_state(len(x), training)
        masked = lengths is not None and lengths.ndim == 2
        output, final = self.recurrent.forward(
            self._read(x, training), state, None if masked else lengths, training,
            mask=lengths if masked else None, return_output=self._by_output,
        )  # fmt: skip
        final = states_of(final)
        seen = output if self._by_output else final[0]
        where, ends = (), []
        if self.return_sequences:
            features = seen.reshape(-1, seen.shape[2])  # [n * T, D * H]
        else:
            where = self._ends(x.shape[1], lengths)
            ends = [seen[index] for index in where]  # [n, H] each
            features = self._join(*ends) if len(ends) == 2 else ends[0]
        raw = self.head.forward(self.hidden.forward(features, training), training)
        if training:
            shapes = [seen.shape] if self._by_output else [part.shape for part in final]
            self._tape = shapes, where, ends, self._carried is None
        if self.config["stateful"]:
            self._carried = final
        return raw.reshape(*x.shape[:2], -1) if self.return_sequences else raw

    def backward(self, draw: NDArray) -> None:
        """Fill `gradients` for the last `forward` that was called with training=True.

        Parameters
        ----------
        draw : ndarray of the shape of the raw output
            Gradient of the loss with respect to it.

        Raises
        ------
        RuntimeError
            If there was no ``forward(training=True)`` before it.
        """
        if self._tape is None:
            raise RuntimeError("backward was called without forward(training=True) before it")
        (shapes, where, ends, begun), self._tape = self._tape, None
        dfeatures = self.hidden.backward(self.head.backward(draw.reshape(-1, draw.shape[-1])))
        if self.return_sequences:
            dseen = [dfeatures.reshape(shapes[0])]
        else:
            dseen = [np.zeros(shape, self.dtype) for shape in shapes]
            dends = self._part(*ends, dfeatures) if len(ends) == 2 else [dfeatures]
            for index, dend in zip(where, dends, strict=True):
                dseen[0][index] += dend
        doutput, dstate = (dseen[0], None) if self._by_output else (None, tuple(dseen))
        below = bool(self.embeddings or self.stem.layers)
        dx, dinitial = self.recurrent.backward(doutput, dstate, input_gradient=below)
        if below:
            self._read_backward(dx)
        for (_, gradient), part in zip(self._learned, states_of(dinitial), strict=False):
            gradient[...] = part.sum(axis=1) if begun else 0

    def _read(self, x, training):
        """Embed the categories and apply the dense layers of every step: [n, T, F] to what is read."""
        n, n_timesteps, _ = x.shape
        if self.embeddings:
            columns = [entry[0] for entry in self.config["embedding"]]
            indices = x[:, :, columns].reshape(-1, len(columns)).astype(np.intp)  # [n * T, columns]
            pairs = zip(self.embeddings, indices.T, strict=True)
            vectors = [table.forward(column, training) for table, column in pairs]
            numeric = x[:, :, self._numeric].reshape(len(indices), -1)
            x = np.concatenate([numeric, *vectors], axis=1).reshape(n, n_timesteps, -1)
        if self.stem.layers:
            x = self.stem.forward(x.reshape(n * n_timesteps, -1), training).reshape(n, n_timesteps, -1)
        return x

    def _read_backward(self, dx):
        """Fill the gradients of the dense layers before the recurrent ones and of the embeddings."""
        rows = self.stem.backward(dx.reshape(-1, dx.shape[2]), input_gradient=bool(self.embeddings))
        at = len(self._numeric)
        for table, (_, _, size) in zip(self.embeddings, self.config["embedding"], strict=True):
            table.backward(rows[:, at : at + size])
            at += size

    def _ends(self, n_timesteps, lengths):
        """Return, for each direction, the index of its end: in h of all layers, or in the output."""
        if not self._by_output:
            return range(-self._directions, 0)  # the top layer's
        rows, first, last = slice(None), 0, n_timesteps - 1
        if lengths is not None:
            valid = valid_steps(lengths, n_timesteps)
            rows, first, last = np.arange(len(valid)), valid.argmax(1), last - valid[:, ::-1].argmax(1)
        parts = [slice(None)] * 2
        if self._directions == 2 and self.config["merge"] == "concat":
            middle = self.recurrent.output_size // 2
            parts = slice(0, middle), slice(middle, None)
        return [(rows, last, parts[0]), (rows, first, parts[1])][: self._directions]

    # ---- states

    def reset_states(self) -> None:
        """Let the next call of a stateful network begin anew."""
        self._carried = None

    def _initial_state(self, n, training):
        """Return the state that `n` samples begin in: parts [L * D, n, H], or None for zeros."""
        if self._carried is not None:
            kept = self._carried[0].shape[1]
            if n != kept:
                raise ValueError(
                    f"x had a batch of {n} samples; expected {kept}, as batch_size was before, whose states "
                    "are gone on from: to begin anew call reset_states"
                )
            return self._carried
        if self._learned:
            return tuple(np.repeat(values[:, np.newaxis], n, axis=1) for values, _ in self._learned)
        if training and self.config["initial_state"] == "random":
            draw, shapes = self._random.standard_normal, self.recurrent.state_shapes(n)
            return tuple(RANDOM_STATE_SCALE * draw(shape, self.dtype) for shape in shapes)
        return None

    # ---- copies

    def snapshot(self) -> tuple:
        """Return the parameters, the generator's state and the states carried, for `restore`."""
        return self._store.values.copy(), self._random.bit_generator.state, self._carried

    def restore(self, snapshot: tuple) -> None:
        """Go back to a state that `snapshot` returned."""
        self.parameters[...] = snapshot[0]
        self._random.bit_generator.state = snapshot[1]
        self._carried = snapshot[2]

    def __getstate__(self) -> dict:
        """Keep what the network is: buffers and compiled code are made anew."""
        names = ("parameters", "random", "carried")
        return {"config": self.config, "n_jobs": self.n_jobs} | dict(zip(names, self.snapshot(), strict=True))

    def __setstate__(self, state: dict) -> None:
        """Build the network again."""
        # without dropout at first: that it does nothing in a single layer was said when the network was made
        self.__init__(**{**state["config"], "dropout": 0.0}, n_jobs=state["n_jobs"], random_state=0)
        self.config = state["config"]
        self.recurrent.dropout = self.config["dropout"]
        for dropout in (*self.stem.dropouts, *self.hidden.dropouts):
            dropout.rate = self.config["dropout"]
        self.restore((state["parameters"], state["random"], state["carried"]))
