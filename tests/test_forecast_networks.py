"""Networks of the forecaster against plain NumPy loops and finite differences; copies, bits, seeds."""

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import oracle
from numbarnn.forecasting.networks import DECODERS, Widths, make_network
from numbarnn.forecasting.windows import Batch, Layout
from numbarnn.losses import LOSSES
from numbarnn.optimizers import OPTIMIZERS
from numbarnn.training import Trainer

CONTEXT, HORIZON, SEGMENT, DECODE = 7, 5, 3, 2
PLAIN = {"n_channels": 1, "n_raw": 1, "n_ids": 1, "widths": Widths(), "lengths": False}
FULL = {"n_channels": 2, "n_raw": 2, "n_ids": 3, "widths": Widths(1, 2, 2, 2), "lengths": True}


def layout_of(decoder):
    """A horizon that is no multiple of the segment."""
    if decoder == "recursive":
        return Layout(CONTEXT, HORIZON, 1, 1, stepwise=True)
    return Layout(CONTEXT, HORIZON, SEGMENT, DECODE)


def make(decoder, case=FULL, cell="gru", num_layers=1, dtype="float64", **options):
    """Return a network and a batch of 4 rows for it."""
    case = dict(case)
    with_lengths = case.pop("lengths")
    network = make_network(
        decoder, layout_of(decoder), cell=cell, hidden_size=6, num_layers=num_layers, dtype=dtype,
        **({"dropout": 0.0, "random_state": 0, "n_jobs": 1} | case | options),
    )  # fmt: skip
    return network, batch_of(network, 4, with_lengths)


def batch_of(network, n, with_lengths=True, training=True):
    """Return a random batch."""
    rng, layout, widths = np.random.default_rng(1), network.layout, network.widths
    steps, m = -(-layout.context // layout.segment), -(-layout.horizon // layout.decode)
    if layout.stepwise and training:
        steps = layout.context + layout.horizon - 1
    n_elements = (steps if layout.stepwise else layout.horizon) * network.n_channels

    def draw(*shape):
        return rng.normal(size=shape).astype(network.dtype)

    future = None
    if widths.future and not (layout.stepwise and training):
        shape = (layout.horizon, widths.future) if layout.stepwise else (m, layout.decode * widths.future)
        future = draw(n, *shape)
    return Batch(
        draw(n, steps, layout.segment * network.n_features),
        np.array([steps, 1, 2, steps] * n)[:n] if with_lengths else None,
        np.array([2, 0, 2, 1] * n)[:n] % network.n_ids,
        future,
        draw(n, widths.static) if widths.static else None,
        draw(n, n_elements if training else network.n_channels, network.n_raw) if with_lengths else None,
    )


def row_of(batch, r):
    """Return a batch of one row."""
    return Batch(*(None if part is None else part[r : r + 1] for part in batch))


# ---- against the paper's equations


def encode(network, named, batch):
    """Return the final states as the oracle has them."""
    parameters = {k.removeprefix("encoder."): v for k, v in named.items() if k.startswith("encoder.")}
    x = batch.context
    if not network.layout.stepwise:
        x = np.maximum(x @ named["embed.weight"].T + named["embed.bias"], 0)
    return parameters, oracle.forward(network.config["cell"], parameters, x, lengths=batch.lengths)


def plain_segment(network, batch):
    """One row and one segment of the forecast after the other."""
    named, layout, cell = network.named_parameters, network.layout, network.config["cell"]
    parameters, (_, state, _) = encode(network, named, batch)
    rows = []
    for r in range(len(batch.context)):
        own = [part[:, r : r + 1] for part in (state if isinstance(state, tuple) else (state,))]
        own = tuple(own) if len(own) > 1 else own[0]
        written = []
        for k in range(-(-layout.horizon // layout.decode)):
            series = named["series"][batch.series[r]] if "series" in named else []
            d = np.concatenate([named["position"][k], series])
            if batch.static is not None:
                d = d + named["static.weight"] @ batch.static[r] + named["static.bias"]
            if batch.future is not None:
                d = d + np.maximum(named["future.weight"] @ batch.future[r, k] + named["future.bias"], 0)
            h = oracle.forward(cell, parameters, d[np.newaxis, np.newaxis], own)[0][0, 0]
            written.append(named["head.weight"] @ h + named["head.bias"])
        rows.append(np.concatenate(written).reshape(-1, network.n_raw)[: layout.horizon * network.n_channels])
    return np.stack(rows) + (0 if batch.offset is None else batch.offset)


@pytest.mark.parametrize("case", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize(("cell", "num_layers"), [("gru", 1), ("lstm", 2), ("rnn", 1)])
def test_segment_network_is_the_equations_of_the_paper(cell, num_layers, case):
    network, batch = make("segment", case, cell, num_layers)
    assert_allclose(network.forward(batch), plain_segment(network, batch), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", [PLAIN, FULL], ids=["plain", "full"])
def test_direct_network_is_one_dense_layer_on_what_was_found(case):
    network, batch = make("direct", case)
    named = network.named_parameters
    _, (_, state, _) = encode(network, named, batch)
    parts = [state[-1]]
    if case is FULL:
        future = batch.future.reshape(len(state[-1]), -1) @ named["future.weight"].T + named["future.bias"]
        parts += [named["series"][batch.series], batch.static, np.maximum(future, 0)]
    raw = np.concatenate(parts, axis=1) @ named["head.weight"].T + named["head.bias"]
    raw = raw.reshape(len(raw), -1, network.n_raw) + (0 if batch.offset is None else batch.offset)
    assert_allclose(network.forward(batch), raw, rtol=1e-12, atol=1e-12)


# ---- gradients


@pytest.mark.parametrize("case", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("decoder", DECODERS)
def test_gradient_of_every_parameter(decoder, cell, num_layers, case):
    network, batch = make(decoder, case, cell, num_layers)
    raw = network.forward(batch, training=True)
    draw = np.random.default_rng(2).normal(size=raw.shape)
    network.gradients[:] = np.nan  # all are written
    network.backward(draw)
    found = network.gradients.copy()
    # the derivative along random directions, and that of some parameters of every kind
    rng, parameters = np.random.default_rng(3), network.parameters
    directions = [rng.normal(size=parameters.size) for _ in range(20)]
    at = 0
    for values in network.named_parameters.values():
        for k in rng.choice(values.size, 3):
            directions.append(np.zeros(parameters.size))
            directions[-1][at + k] = 1
        at += values.size
    before = parameters.copy()
    for direction in directions:
        ends = []
        for sign in (1, -1):
            parameters[:] = before + sign * 1e-6 * direction
            ends.append((network.forward(batch) * draw).sum())
        slope = (ends[0] - ends[1]) / 2e-6
        assert_allclose(found @ direction, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradient_with_dropout(decoder):
    network, batch = make(decoder, dropout=0.3)
    start = network.snapshot()

    def value():
        network._random.bit_generator.state = start[1]
        return (network.forward(batch, training=True) * draw).sum()

    draw = np.random.default_rng(2).normal(size=network.forward(batch, training=True).shape)
    value()
    network.backward(draw)
    found, direction = network.gradients.copy(), np.random.default_rng(3).normal(size=network.gradients.size)
    ends = []
    for sign in (1, -1):
        network.parameters[:] = start[0] + sign * 1e-6 * direction
        ends.append(value())
    assert_allclose(found @ direction, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


# ---- bits


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_row_has_the_same_bits_alone_and_among_others(decoder):
    network, _ = make(decoder, dtype="float32")
    batch = batch_of(network, 9)
    together = network.forward(batch)
    alone = [network.forward(row_of(batch, r)) for r in range(9)]
    assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_same_bits_for_any_number_of_threads(decoder):
    results = []
    for n_jobs in (1, 2):
        network = make_network(
            decoder, layout_of(decoder), 2, 2, 3, Widths(1, 2, 2, 2), hidden_size=40, dropout=0.2,
            n_jobs=n_jobs, random_state=0,
        )  # fmt: skip
        batch = batch_of(network, 600)
        raw = network.forward(batch, training=True)
        network.backward(raw)
        results.append((raw, network.gradients.copy()))
        assert network.n_jobs == n_jobs
    for one, two in zip(*results, strict=True):
        assert_array_equal(one, two)


@pytest.mark.parametrize("decoder", DECODERS)
def test_set_threads_afterwards(decoder):
    network, batch = make(decoder)
    before = network.forward(batch)
    network.n_jobs = 2
    assert {part.n_jobs for part in network._parts} == {2}
    assert_array_equal(network.forward(batch), before)


@pytest.mark.parametrize("decoder", DECODERS)
def test_float32_stays_float32(decoder):
    network, batch = make(decoder, dtype="float32")
    raw = network.forward(batch, training=True)
    network.backward(np.ones_like(raw))
    assert raw.dtype == network.parameters.dtype == network.gradients.dtype == np.float32
    double, _ = make(decoder)
    assert_allclose(double.parameters, network.parameters, rtol=1e-6)
    same = Batch(*(part.astype(float) if part is not None and part.dtype == "f4" else part for part in batch))
    assert_allclose(raw, double.forward(same), rtol=1e-4, atol=1e-5)


# ---- parameters


@pytest.mark.parametrize("decoder", DECODERS)
def test_one_vector_holds_every_parameter_once(decoder):
    network, batch = make(decoder)
    named = network.named_parameters
    assert sum(values.size for values in named.values()) == network.parameters.size
    network.parameters[:] = np.arange(network.parameters.size)
    assert_array_equal(np.concatenate([values.ravel() for values in named.values()]), network.parameters)
    expected = [np.full(values.size, "weight" in name) for name, values in named.items()]
    assert_array_equal(network.penalized, np.concatenate(expected))
    network.parameters[:] = 0  # the encoder and the decoder of the segments both see it
    assert_array_equal(network.forward(batch._replace(offset=None)), 0)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("make_again", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_go_on_alike(decoder, make_again):
    network, batch = make(decoder, dropout=0.3)
    network.forward(batch, training=True)
    other = make_again(network)
    assert other.config == network.config and other.n_jobs == network.n_jobs
    assert_array_equal(other.parameters, network.parameters)
    assert not np.shares_memory(other.parameters, network.parameters)
    assert_array_equal(other.forward(batch, training=True), network.forward(batch, training=True))


@pytest.mark.parametrize("decoder", DECODERS)
def test_restore(decoder):
    network, batch = make(decoder, dropout=0.3)
    snapshot = network.snapshot()
    first = network.forward(batch, training=True)
    network.parameters[:] += 1
    network.forward(batch, training=True)
    network.restore(snapshot)
    assert_array_equal(network.forward(batch, training=True), first)
    assert (network.forward(batch) != first).any()


@pytest.mark.parametrize("decoder", DECODERS)
def test_seeds(decoder):
    one, two, other = (make(decoder, random_state=seed)[0].parameters for seed in (5, 5, 6))
    assert_array_equal(one, two)
    assert (one != other).all()


@pytest.mark.parametrize("decoder", DECODERS)
def test_backward_without_forward(decoder):
    network, batch = make(decoder)
    raw = network.forward(batch)
    with pytest.raises(RuntimeError, match="backward was called without"):
        network.backward(raw)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout was 1.0; expected a probability"),
        ({"series_embedding": 6}, "series_embedding was 6; expected .* from 0 to 5"),
        ({"series_embedding": "large"}, "series_embedding was 'large'"),
        ({"n_raw": 0}, "n_raw was 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make("segment", **options)


def test_unknown_decoder():
    with pytest.raises(ValueError, match="decoder was 'parallel'; expected one of \"segment\""):
        make_network("parallel", layout_of("segment"), 1)


def test_a_batch_of_another_width_is_refused():
    network, batch = make("direct")
    with pytest.raises(ValueError, match='x of the layer "embed" had shape'):
        network.forward(batch._replace(context=batch.context[:, :, :-1].copy()))


# ---- step by step


def full_context(network, batch, values):
    """Return what would have been read, had `values` (n, h * C) been known: (n, L + h - 1, n_features)."""
    n, widths, channels = len(values), network.widths, network.n_channels
    values = values.reshape(n, -1, channels)[:, :-1]
    steps = values.shape[1]
    last = batch.context[:, -1:, network.n_features - widths.past :]
    parts = [values, np.ones((n, steps, widths.observed)), batch.future[:, 1 : steps + 1]]
    parts.append(np.broadcast_to(last, (n, steps, widths.past)))
    return np.concatenate([batch.context, np.concatenate(parts, axis=2)], axis=1)


@pytest.mark.parametrize(("cell", "num_layers"), [("gru", 1), ("lstm", 2)])
def test_a_forecast_fed_back_is_what_reading_it_gives(cell, num_layers):
    network, _ = make("recursive", cell=cell, num_layers=num_layers)
    batch = batch_of(network, 4, with_lengths=False, training=False)
    values = network.generate(batch, HORIZON)
    assert values.shape == (4, HORIZON * 2, 1)
    whole = batch._replace(context=full_context(network, batch, values), future=None)
    read = network.forward(whole)[:, -HORIZON * 2 :, :1]
    assert_allclose(values, read, rtol=1e-10, atol=1e-12)


def test_counts_are_scaled_before_they_are_read():
    network, _ = make("recursive")
    batch = batch_of(network, 4, with_lengths=False, training=False)
    scale = np.array([[1.0], [2.0], [4.0], [8.0]])
    values = network.generate(batch, HORIZON, lambda raw: 10 * raw[..., 1], scale=scale)
    whole = batch._replace(context=full_context(network, batch, values[:, :, 0] / scale), future=None)
    read = 10 * network.forward(whole)[:, -HORIZON * 2 :, 1]
    assert_allclose(values[:, :, 0], read, rtol=1e-10, atol=1e-12)


def test_paths():
    network, _ = make("recursive")
    batch = batch_of(network, 4, training=False)
    noise = np.random.default_rng(0)
    paths = network.generate(batch, HORIZON, lambda raw: raw[..., 0] + noise.normal(size=(12, 2)), n_paths=3)
    assert paths.shape == (4, HORIZON * 2, 3)
    assert np.ptp(paths, axis=2).min() > 0
    without_noise = network.generate(batch, HORIZON, n_paths=3)
    assert_array_equal(without_noise, np.repeat(network.generate(batch, HORIZON), 3, axis=2))


def test_contexts_of_different_lengths():
    network, _ = make("recursive")
    batch = batch_of(network, 4, training=False)
    together = network.generate(batch, HORIZON)
    for r, length in enumerate(batch.lengths):
        row = row_of(batch, r)
        row = row._replace(context=row.context[:, :length].copy(), lengths=None)
        assert_array_equal(network.generate(row, HORIZON), together[r : r + 1])


def test_future_covariates_must_reach():
    network, _ = make("recursive")
    batch = batch_of(network, 4, training=False)
    with pytest.raises(ValueError, match=r"batch.future had shape \(4, 5, 2\); expected \(n, 6, 2\)"):
        network.generate(batch, 6)


# ---- trained


class Sines:
    """Windows of sines; a `numbarnn.training.Source`."""

    n_samples = 256

    def __init__(self, layout):
        rng = np.random.default_rng(0)
        length = layout.context + layout.horizon
        phase = rng.uniform(0, 2 * np.pi, (self.n_samples, 1))
        self.values = np.sin(2 * np.pi * np.arange(length) / 12 + phase).astype("float32")
        self.layout = layout

    def gather(self, indices):
        """See `numbarnn.training.Source`."""
        values, context = self.values[indices, :, np.newaxis], self.layout.context
        if self.layout.stepwise:
            x, y = values[:, :-1], values[:, 1:]
        else:
            x, y = values[:, :context].reshape(len(values), -1, self.layout.segment), values[:, context:]
        return Batch(np.ascontiguousarray(x), None, np.zeros(len(values), np.int64)), y, None, None


@pytest.mark.parametrize("decoder", DECODERS)
def test_learns_sines(decoder):
    layout = Layout(12, 10, 1, 1, stepwise=True) if decoder == "recursive" else Layout(12, 10, 4, 5)
    source = Sines(layout)
    network = make_network(decoder, layout, 1, hidden_size=16, dropout=0.0, random_state=0, n_jobs=1)
    optimizer = OPTIMIZERS["adam"](network.parameters.size, network.dtype)
    rng = np.random.default_rng(0)
    trainer = Trainer(
        loss=LOSSES["squared_error"](), rng=rng, batch_size=32, max_iter=30, learning_rate=0.01,
        n_iter_no_change=np.inf,
    )  # fmt: skip
    trainer.fit(network, optimizer, source)
    x, y, _, _ = source.gather(np.arange(50))
    if decoder == "recursive":
        found, y = network.generate(x._replace(context=x.context[:, :12].copy()), 10), y[:, -10:]
    else:
        found = network.forward(x)
    assert np.sqrt(np.mean((found - y) ** 2)) < 0.1
