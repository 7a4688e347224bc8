"""Weights from PyTorch's modules and state dicts and back; what PyTorch computed with them is in fixtures."""

import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from numbarnn import Recurrent
from numbarnn.torch_weights import MODES, read_torch, torch_names

CELLS = list(MODES.values())
every_cell = pytest.mark.parametrize("cell", CELLS)


class Tensor:
    """The methods of a tensor that are used; NumPy itself must not look into it."""

    def __init__(self, values, element_size=None):
        self._values = np.asarray(values)
        self._element_size = element_size or self._values.itemsize

    def detach(self):
        return self

    cpu = detach

    def is_floating_point(self):
        return self._values.dtype.kind == "f"

    def element_size(self):
        return self._element_size

    def float(self):
        return Tensor(self._values.astype(np.float32))

    def numpy(self):
        assert self._element_size == self._values.itemsize, "NumPy has no bfloat16"
        return self._values

    def __array__(self, *_, **__):
        raise AssertionError("a tensor was not asked for its array")


def state_dict_of(layer, prefix=""):
    return {prefix + name: Tensor(value) for name, value in layer.to_torch_state_dict().items()}


def module_of(layer, **attributes):
    """What `Recurrent.from_torch` looks at in a module."""
    modes = {cell: mode for mode, cell in MODES.items()}
    options = {name: getattr(layer, name) for name in
               ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "dropout")}
    return SimpleNamespace(mode=modes[layer.cell.name], **(options | state_dict_of(layer) | attributes))


def options_of(layer):
    names = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "dropout", "dtype")
    return {"cell": layer.cell.name} | {name: getattr(layer, name) for name in names}


def assert_same(layer, other):
    assert options_of(layer) == options_of(other)
    assert list(layer.parameters) == list(other.parameters)
    for name, value in layer.parameters.items():
        np.testing.assert_array_equal(value, other.parameters[name], err_msg=name)


# ------------------------------------------------------------------ numbers


@every_cell
def test_state_dict_gives_what_pytorch_computed(cell, torch_cases):
    """Final states and gradients in both precisions: test_pytorch in test_recurrent.py, on the same cases."""
    for case in torch_cases(cell):
        layer = Recurrent.from_torch(case.parameters, cell=cell)
        assert options_of(layer) == {"cell": cell, "dropout": 0.0, "dtype": np.float64, **case.options}
        output, _ = layer.forward(case.x, case.state, case.lengths)
        np.testing.assert_allclose(output, case.output, rtol=0, atol=1e-10, err_msg=case.name)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-5), ("float64", 1e-10)])
def test_projections_give_what_pytorch_computed(dtype, tolerance, torch_cases):
    for case in torch_cases("lstm_proj"):
        layer = Recurrent.from_torch(case.parameters, dtype=dtype)
        assert {name: getattr(layer, name) for name in case.options} == case.options
        assert list(layer.parameters) == list(case.parameters) == list(layer.to_torch_state_dict())
        output, (h, c) = layer.forward(case.x, case.state, case.lengths, training=True)
        dx, (dh, dc) = layer.backward(case.doutput, case.dstate)
        found = {"output": output, "h": h, "c": c, "dx": dx, "dh": dh, "dc": dc, **layer.gradients}
        expected = {"output": case.output, "h": case.final[0], "c": case.final[1], "dx": case.dx,
                    "dh": case.dstate_0[0], "dc": case.dstate_0[1], **case.gradients}
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance,
                                       err_msg=f"{case.name} {name}")


def test_projections_make_a_round_trip():
    layer = Recurrent("lstm", 3, 5, num_layers=2, bidirectional=True, proj_size=2, random_state=0)
    for source in (layer.to_torch_state_dict(), state_dict_of(layer), module_of(layer, proj_size=2)):
        assert_same(Recurrent.from_torch(source), layer)


@every_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [
    {}, {"bias": False}, {"num_layers": 3, "bidirectional": True}, {"num_layers": 2, "dropout": 0.25},
])
def test_round_trip_keeps_every_bit(cell, dtype, options):
    layer = Recurrent(cell, 3, 5, dtype=dtype, random_state=0, **options)
    assert_same(Recurrent.from_torch(module_of(layer)), layer)
    dropout = options.get("dropout", 0.0)
    for source in (layer.to_torch_state_dict(), state_dict_of(layer)):
        assert_same(Recurrent.from_torch(source, cell=cell, dropout=dropout), layer)
    bias, bidirectional = options.get("bias", True), options.get("bidirectional", False)
    assert list(layer.parameters) == torch_names(layer.num_layers, bias, bidirectional)


def test_state_dict_is_a_copy():
    layer = Recurrent("gru", 2, 3, random_state=0)
    state_dict = layer.to_torch_state_dict()
    before = state_dict["weight_hh_l0"].copy()
    layer.parameters["weight_hh_l0"][:] = 0
    np.testing.assert_array_equal(state_dict["weight_hh_l0"], before)
    assert all(type(value) is np.ndarray and value.flags.owndata for value in state_dict.values())


# ------------------------------------------------------------------ what the source tells


@pytest.mark.parametrize(("gates", "cell"), [(1, "rnn"), (3, "gru"), (4, "lstm")])
def test_cell_is_told_by_the_number_of_gates(gates, cell):
    weights = {"weight_ih_l0": np.ones((gates * 5, 2)), "weight_hh_l0": np.ones((gates * 5, 5))}
    assert Recurrent.from_torch(weights).cell.name == cell
    assert Recurrent.from_torch(weights, cell=cell).cell.name == cell


@pytest.mark.parametrize(("stored", "expected"), [
    ([np.float16], "float32"), ([np.float32], "float32"), ([np.float64], "float64"),
    ([np.float32, np.float64], "float64"), ([np.int64], "float32"),
])
def test_type_of_the_weights(stored, expected):
    source = Recurrent("gru", 3, 4, random_state=0).to_torch_state_dict()
    weights = {name: (8 * value).astype(stored[k % len(stored)])
               for k, (name, value) in enumerate(source.items())}
    for values in (weights, {name: Tensor(value) for name, value in weights.items()}):
        layer = Recurrent.from_torch(values)
        assert layer.dtype == expected
        for name, value in layer.parameters.items():
            np.testing.assert_array_equal(value, weights[name])
    assert Recurrent.from_torch(weights, dtype="float64").dtype == np.float64


def test_bfloat16():
    layer = Recurrent("gru", 3, 4, random_state=0)
    tensors = {name: Tensor(value, element_size=2) for name, value in layer.to_torch_state_dict().items()}
    assert_same(Recurrent.from_torch(tensors), layer)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = {name: value.astype(ml_dtypes.bfloat16) for name, value in layer.parameters.items()}
    read = Recurrent.from_torch(arrays)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read.parameters["bias_hh_l0"], arrays["bias_hh_l0"].astype(np.float32))


@pytest.mark.parametrize("prefix", ["", "lstm.", "module.encoder.rnn."])
def test_layer_is_found_in_a_larger_model(prefix):
    layer = Recurrent("lstm", 3, 4, num_layers=2, random_state=0)
    model = state_dict_of(layer, prefix) | {"head.weight": Tensor(np.ones((1, 4))), 5: None}
    for given in (None, prefix, prefix.removesuffix(".")):
        assert_same(Recurrent.from_torch(model, prefix=given), layer)


def test_of_several_layers_the_prefix_tells_which():
    layers = {"encoder.": Recurrent("lstm", 3, 4, random_state=0), "": Recurrent("gru", 5, 2, random_state=0)}
    model = {}
    for prefix, layer in layers.items():
        model |= state_dict_of(layer, prefix)
    for prefix, layer in layers.items():
        assert_same(Recurrent.from_torch(model, prefix=prefix), layer)
    with pytest.raises(ValueError, match=r"prefix.* one of 'encoder.', ''"):
        Recurrent.from_torch(model)
    with pytest.raises(ValueError, match=r"^prefix was 'decoder'.* one of 'encoder.', ''"):
        Recurrent.from_torch(model, prefix="decoder")


def test_projection_is_read():
    weights = {"weight_ih_l0": (20, 3), "weight_hh_l0": (20, 2), "weight_hr_l0": (2, 5),
               "weight_ih_l1": (20, 2), "weight_hh_l1": (20, 2), "weight_hr_l1": (2, 5)}
    options, parameters = read_torch({name: np.ones(shape) for name, shape in weights.items()})
    assert options == {"cell": "lstm", "dtype": "float64", "input_size": 3, "hidden_size": 5, "num_layers": 2,
                       "bias": False, "bidirectional": False, "proj_size": 2}
    module = SimpleNamespace(mode="LSTM", dropout=0.0, **{k: v for k, v in options.items() if k != "dtype"},
                             **parameters)
    assert read_torch(module)[0] == options | {"dropout": 0.0}


def test_options_are_handed_on():
    source = Recurrent("gru", 2, 3, num_layers=2).to_torch_state_dict()
    layer = Recurrent.from_torch(source, dropout=0.5, n_jobs=1, dtype=np.float64)
    assert (layer.dropout, layer.n_jobs, layer.dtype) == (0.5, 1, np.float64)


# ------------------------------------------------------------------ errors


def weights_of(**change):
    """Weights of a GRU, 3 inputs, 4 units, two layers; ``None`` takes one away."""
    weights = Recurrent("gru", 3, 4, num_layers=2, random_state=0).to_torch_state_dict() | change
    return {name: value for name, value in weights.items() if value is not None}


@pytest.mark.parametrize(("source", "message"), [
    ({}, "source had no entry"),
    ({"head.weight": np.ones((2, 2))}, "source had no entry"),
    (weights_of(weight_ih_l0=None), "no weight_ih_l0"),
    (weights_of(weight_hh_l0=None), "no weight_hh_l0"),
    (weights_of(weight_hh_l1=None), r"missing entries \['weight_hh_l1'\]"),
    (weights_of(bias_hh_l0=None), r"missing entries \['bias_hh_l0'\]"),
    (weights_of(weight_hh_l0_reverse=np.ones((12, 4))), "missing entries .*weight_hh_l1_reverse"),
    (weights_of(weight_ih_l3=np.ones((12, 4))), "unknown entries .*weight_ih_l3"),
    (weights_of(weight_ih_l0=np.ones(12)), "weight_ih_l0 in source had shape"),
    (weights_of(bias_ih_l1=np.ones((12, 1))), "bias_ih_l1 in source had shape"),
    (weights_of(weight_hh_l0=np.ones((12, 0))), "weight_hh_l0 in source had shape"),
    (weights_of(weight_ih_l0=np.ones((13, 3))), "weight_ih_l0 in source had 13 rows for 4 hidden units"),
    (weights_of(weight_ih_l0=np.ones((8, 3))), "weight_ih_l0 in source had 8 rows for 4 hidden units"),
    (weights_of(weight_ih_l1=np.ones((12, 5))), r'"weight_ih_l1"\] had shape \(12, 5\); expected \(12, 4\)'),
    (weights_of(bias_ih_l1=np.full(12, "a")), "bias_ih_l1"),
    ({"epoch": 3, "state_dict": weights_of()}, r"source had no entry .*: pass source\['state_dict'\], which"),
    ({"rnn._all_weight_values.0.param": None}, "source had no entry .*: pass those of the module that was"),
    (weights_of(weight_hh_l0=None, weight_hh_l0_g=0), "no weight_hh_l0; .*: pass the module, which"),
    (weights_of(weight_hh_l0=None) | {"parametrizations.weight_hh_l0.original0": 0}, "no .*: pass the mod"),
    ("lstm.pt", "source was a str"),
    (None, "source was a NoneType"),
    (SimpleNamespace(mode="CONV"), "source was a SimpleNamespace"),
    (SimpleNamespace(mode="GRU", **options_of(Recurrent("gru", 3, 4))), "Namespace without weight_ih"),
])
def test_bad_sources(source, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Recurrent.from_torch(source)


@pytest.mark.parametrize("cell", ["lstm", "rnn_relu", "transformer"])
def test_cell_must_be_that_of_the_weights(cell):
    layer = Recurrent("gru", 3, 4)
    for source in (layer.to_torch_state_dict(), module_of(layer)):
        with pytest.raises(ValueError, match=rf"^cell was '{cell}'; expected gru"):
            Recurrent.from_torch(source, cell=cell)


def test_module_has_no_prefix():
    with pytest.raises(ValueError, match=r"^prefix was 'lstm'"):
        Recurrent.from_torch(module_of(Recurrent("lstm", 3, 4)), prefix="lstm")


def test_cell_that_pytorch_does_not_have():
    layer = Recurrent("gru", 3, 4)
    layer.cell = SimpleNamespace(name="mgu")
    with pytest.raises(ValueError, match=r"^cell was 'mgu'; expected one that PyTorch has: rnn"):
        layer.to_torch_state_dict()


@pytest.mark.parametrize(("options", "message"), [
    ({"bidirectional": True, "merge": "sum"}, "merge was 'sum'; expected 'concat'"),
    ({"num_layers": 2, "residual": True}, "residual was True; expected none"),
    ({"zoneout": 0.1}, r"zoneout was \(0.1, 0.1\); expected none"),
])  # fmt: skip
def test_options_that_pytorch_does_not_have(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Recurrent("lstm", 3, 4, **options).to_torch_state_dict()


# ------------------------------------------------------------------ PyTorch itself


def test_pytorch_is_not_imported():
    code = ("import sys; from numbarnn import Recurrent; "
            "Recurrent.from_torch(Recurrent('gru', 2, 3).to_torch_state_dict()); "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


WITH_PYTORCH = """
import numpy as np, torch
from numbarnn import Recurrent

torch.manual_seed(0)
lstm, gru, rnn = torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN
for make, cell, options in [
    (lstm, "lstm", {"num_layers": 2, "bidirectional": True, "dropout": 0.5}),
    (lstm, "lstm", {"num_layers": 2, "proj_size": 2, "bias": False}),
    (gru, "gru", {"bias": False}), (rnn, "rnn", {}), (rnn, "rnn_relu", {"nonlinearity": "relu"}),
]:
    for dtype in (torch.float32, torch.float64):
        module = make(3, 5, batch_first=True, dtype=dtype, **options).eval()
        x = torch.randn(2, 7, 3, dtype=dtype)
        expected = module(x)[0].detach().numpy()
        model = torch.nn.Sequential(module, torch.nn.Linear(5, 1))
        for source in (module, module.state_dict(), model.state_dict(), dict(module.named_parameters())):
            layer = Recurrent.from_torch(source, cell=cell)
            assert layer.dropout == (options.get("dropout", 0.0) if source is module else 0.0)
            assert layer.dtype == expected.dtype
            np.testing.assert_allclose(layer.forward(x.numpy())[0], expected, rtol=0, atol=2e-6)
        other = make(3, 5, batch_first=True, dtype=dtype, **options).eval()
        other.load_state_dict({k: torch.from_numpy(v) for k, v in layer.to_torch_state_dict().items()})
        for name, value in module.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
    for dtype in (torch.bfloat16, torch.float16):
        half = make(3, 5, dtype=dtype, **options)
        read = Recurrent.from_torch(half)
        for name, value in read.parameters.items():
            assert value.dtype == np.float32 and (value == half.state_dict()[name].float().numpy()).all()
module = gru(3, 4)
torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
weight = Recurrent.from_torch(module).parameters["weight_hh_l0"]
assert (weight == module.weight_hh_l0.detach().numpy()).all()
"""


@pytest.mark.slow
def test_with_pytorch_itself():
    """In a process of its own: PyTorch brings threads and settings of the processor along."""
    if find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    subprocess.run([sys.executable, "-c", WITH_PYTORCH], check=True)
