"""`ForecastNetwork`: what all decoders share, and what a `Trainer` asks of a network.

Letters in comments: n rows of a batch, T segments or steps read, D hidden units, C channels, H horizon, m
segments written, E = H * C elements of a forecast, K raw outputs an element.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from numbarnn.blocks import Dense, Dropout, Embedding, as_state, states_of
from numbarnn.checks import positive_int
from numbarnn.forecasting.windows import Batch, Layout
from numbarnn.parameters import Parameters, dense_shapes
from numbarnn.recurrent import Recurrent, State

__all__ = ["ForecastNetwork", "Widths", "embedding_size", "top_gradient"]

FEW_SERIES = 32  # up to here every series has half of a decoder's input for itself


class Widths(NamedTuple):
    """How many numbers there are beside the values.

    Attributes
    ----------
    past, future : int
        Covariates of a step of the context; of any step.
    static : int
        Covariates of a series.
    observed : int
        Flags of a step that say which channels were observed: 0 or the number of channels.
    """

    past: int = 0
    future: int = 0
    static: int = 0
    observed: int = 0


NO_WIDTHS = Widths()


class ForecastNetwork:
    """A recurrent encoder and a decoder, with all parameters in one vector.

    A subclass gives `_input_size`, `_shapes`, `_build`, `_forward` and `_backward`.

    Parameters
    ----------
    layout : Layout
    n_channels : int
        Values of a step that one row of a batch holds.
    n_raw : int, default=1
        Raw outputs for each element of the forecast.
    n_ids : int, default=1
        Series to be told apart.
    widths : Widths, default=Widths()
    cell : str, default="gru"
        A name in `numbarnn.cells.CELLS`.
    hidden_size : int, default=128
    num_layers : int, default=1
    dropout : float, default=0.0
        Before the head only, in training only.
    series_embedding : int, "auto" or None, default="auto"
        Size of the vector of each series, see `embedding_size`.
    dtype : {"float32", "float64"}, default="float32"
    random_state : int or None, default=None
        Seed of initial parameters and dropout.
    n_jobs : int or None, default=None
        Number of threads; results are the same bits for every number.

    Attributes
    ----------
    parameters, gradients : ndarray of shape (n_parameters,)
        Changed in place by an optimizer and by `backward`.
    penalized : ndarray of bool of shape (n_parameters,)
        True for weights, False for biases and embeddings.
    named_parameters : dict of str to ndarray
        Views of the parameters.
    config : dict
        The arguments that make a network of this shape.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.
    """

    def __init__(
        self,
        layout: Layout,
        n_channels: int,
        n_raw: int = 1,
        n_ids: int = 1,
        widths: Widths = NO_WIDTHS,
        cell: str = "gru",
        hidden_size: int = 128,
        num_layers: int = 1,
        dropout: float = 0.0,
        series_embedding: int | str | None = "auto",
        dtype: DTypeLike = "float32",
        random_state: int | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.config: dict[str, Any] = {
            "layout": layout, "n_channels": n_channels, "n_raw": n_raw, "n_ids": n_ids, "widths": widths,
            "cell": cell, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout,
            "series_embedding": series_embedding, "dtype": np.dtype(dtype).name,
        }  # fmt: skip
        self.layout, self.widths, self.dtype = layout, widths, np.dtype(dtype)
        self.n_channels, self.n_raw = positive_int("n_channels", n_channels), positive_int("n_raw", n_raw)
        self.hidden_size, self.n_ids = positive_int("hidden_size", hidden_size), positive_int("n_ids", n_ids)
        self.n_embedded = embedding_size(series_embedding, n_ids, hidden_size)
        self.n_features = n_channels + widths.observed + widths.future + widths.past  # of a step that is read
        self._n_jobs = n_jobs
        rng = np.random.default_rng(random_state)
        self._random = np.random.default_rng(rng.integers(2**63))  # what dropout is drawn from
        self.encoder = self._recurrent(int(rng.integers(2**31)))
        self._set_up(rng)

    def _set_up(self, rng: np.random.Generator) -> None:
        """Lay out the parameters, and make the blocks that work on them."""
        recurrent = {f"encoder.{name}": a.shape for name, a in self.encoder.parameters.items()}
        shapes = self._shapes()
        if self.n_embedded:
            shapes["series"] = (self.n_ids, self.n_embedded)
        drawn = Parameters(shapes, self.dtype)
        drawn.initialize(rng)
        self._store = Parameters(recurrent | shapes, self.dtype)
        self._store.values[-drawn.values.size :] = drawn.values
        self._parts: list[Dense | Recurrent] = [self.encoder]
        self.series = Embedding(self._store, "series") if self.n_embedded else None
        self.dropout = Dropout(self.config["dropout"], self._random)
        self._build()
        self.encoder.bind(*self._store.flat("encoder."))  # the last to be bound writes its values

    def _recurrent(self, seed: int) -> Recurrent:
        """Make recurrent layers of the network's shape."""
        config = self.config
        return Recurrent(
            config["cell"], self._input_size(), config["hidden_size"], config["num_layers"],
            dtype=self.dtype, random_state=seed, n_jobs=self._n_jobs,
        )  # fmt: skip

    def _dense(self, name: str, relu: bool = False) -> Dense:
        """Make the dense layer of this name."""
        layer = Dense(self._store, name, self._n_jobs, relu)
        self._parts.append(layer)
        return layer

    @property
    def n_jobs(self) -> int | None:
        """Number of threads of every part."""
        return self._n_jobs

    @n_jobs.setter
    def n_jobs(self, value: int | None) -> None:
        self._n_jobs = value
        for part in self._parts:
            part.n_jobs = value

    @property
    def parameters(self) -> NDArray:
        """All parameters in one vector, which may be changed in place."""
        for part in self._parts:
            if isinstance(part, Recurrent):
                part._steppers.clear()  # their packed weights may be about to be out of date
        return self._store.values

    @property
    def gradients(self) -> NDArray:
        """Gradients, in the order of `parameters`, as the last `backward` left them."""
        return self._store.gradients

    @property
    def penalized(self) -> NDArray:
        """True for weights, False for biases and embeddings."""
        return self._store.penalized

    @property
    def named_parameters(self) -> dict[str, NDArray]:
        """Views of the parameters by name."""
        return {name: self._store[name][0] for name in self._store}

    def forward(self, x: Batch, lengths: None = None, training: bool = False) -> NDArray:
        """Raw output.

        Parameters
        ----------
        x : Batch
            In the network's dtype.
        lengths : None
            Not used: the encoder's lengths are in `x`.
        training : bool, default=False
            Keep what `backward` needs, and apply dropout.

        Returns
        -------
        raw_output : ndarray of shape (n, E, K)
            K raw outputs of each step and channel, channels side by side, ``x.offset`` added.
        """
        raw = self._forward(x, training).reshape(len(x.context), -1, self.n_raw)
        return raw if x.offset is None else raw + x.offset

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
        self._backward(draw)

    def snapshot(self) -> tuple[NDArray, dict]:
        """Return a copy of the parameters and of the state of dropout's generator, for `restore`."""
        return self._store.values.copy(), self._random.bit_generator.state

    def restore(self, snapshot: tuple[NDArray, dict]) -> None:
        """Go back to a state that `snapshot` returned."""
        self.parameters[...] = snapshot[0]
        self._random.bit_generator.state = snapshot[1]

    def __getstate__(self) -> dict[str, Any]:
        """Only what the network is: buffers and compiled code are made anew."""
        return {
            "config": self.config, "n_jobs": self._n_jobs, "parameters": self._store.values,
            "random": self._random.bit_generator.state,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the network again."""
        self.__init__(**state["config"], random_state=0, n_jobs=state["n_jobs"])
        self.restore((state["parameters"], state["random"]))

    # ---- what a decoder says of itself

    def _input_size(self) -> int:
        """Return the number of inputs of the recurrent layers."""
        raise NotImplementedError

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return shapes of all parameters but the recurrent layers' and the series embedding."""
        raise NotImplementedError

    def _build(self) -> None:
        """Make the blocks that the parameters belong to."""
        raise NotImplementedError

    def _forward(self, batch: Batch, training: bool) -> NDArray:
        raise NotImplementedError

    def _backward(self, draw: NDArray) -> None:
        raise NotImplementedError


class SegmentReader(ForecastNetwork):
    """What the networks share that read their context segment by segment."""

    def _input_size(self) -> int:
        return self.hidden_size

    def _embed_shapes(self) -> dict[str, tuple[int, ...]]:
        return dense_shapes("embed", self.layout.segment * self.n_features, self.hidden_size)

    def _read(self, batch: Batch, training: bool) -> State:
        """Embed the segments, and return the last state of the recurrent layers."""
        n, steps, width = batch.context.shape
        embedded = self.embed.forward(batch.context.reshape(n * steps, width), training)
        _, state = self.encoder.forward(
            embedded.reshape(n, steps, -1), lengths=batch.lengths, training=training, return_output=False
        )
        return state

    def _embed_backward(self, dembedded: NDArray) -> None:
        self.embed.backward(dembedded.reshape(-1, self.hidden_size), input_gradient=False)


def embedding_size(series_embedding: int | str | None, n_ids: int, hidden_size: int) -> int:
    """Return the size of the vector of each series.

    Parameters
    ----------
    series_embedding : int, "auto" or None
        "auto": none for one series, half of the hidden units for up to 32, fewer for more than that, since
        each is trained on less; None is 0.
    n_ids, hidden_size : int

    Returns
    -------
    size : int

    Raises
    ------
    ValueError
        If it is negative or leaves no hidden unit.

    Examples
    --------
    >>> from numbarnn.forecasting.base import embedding_size
    >>> [embedding_size("auto", n, 128) for n in (1, 7, 100, 100_000)]
    [0, 64, 21, 64]
    """
    if series_embedding is None or (series_embedding == "auto" and n_ids == 1):
        return 0
    if series_embedding == "auto":
        half = hidden_size // 2
        return half if n_ids <= FEW_SERIES else min(half, round(1.6 * n_ids**0.56))
    whole = isinstance(series_embedding, int | np.integer) and not isinstance(series_embedding, bool)
    if not whole or not 0 <= series_embedding < hidden_size:
        expected = f'"auto", None or an integer from 0 to {hidden_size - 1}, one less than hidden_size'
        raise ValueError(f"series_embedding was {series_embedding!r}; expected {expected}")
    return int(series_embedding)


def top_gradient(dh: NDArray, state: State) -> State:
    """Return the gradient of a state of which only h of the top layer was used.

    Parameters
    ----------
    dh : ndarray of shape (n, D)
    state : ndarray or tuple of ndarray
        Of its shape.

    Returns
    -------
    dstate : ndarray or tuple of ndarray
    """
    dstates = [np.zeros_like(part) for part in states_of(state)]
    dstates[0][-1] = dh
    return as_state(dstates)
