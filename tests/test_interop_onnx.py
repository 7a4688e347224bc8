"""ONNX's own node tests, ONNX Runtime's stored answers, and models that `to_onnx` writes."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

import numbarnn
from numbarnn import Recurrent, RNNClassifier, RNNForecaster, RNNRegressor, to_onnx
from numbarnn.cells import CELLS

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

from fixtures.make_onnx import N_CASES, input_names, make_model  # noqa: E402
from numbarnn.interop.onnx import Backend, cells, equations, recurrent  # noqa: E402
from numbarnn.network import Network  # noqa: E402

NODE_TESTS = [
    "gru_batchwise", "gru_bidirectional", "gru_defaults", "gru_reverse", "gru_seq_length",
    "gru_with_initial_bias", "lstm_batchwise", "lstm_bidirectional", "lstm_defaults", "lstm_reverse",
    "lstm_with_initial_bias", "lstm_with_peepholes", "rnn_seq_length", "simple_rnn_batchwise",
    "simple_rnn_bidirectional", "simple_rnn_defaults", "simple_rnn_reverse", "simple_rnn_with_initial_bias",
]  # fmt: skip
COMPILED = [name for name in cells.OPERATORS if name in CELLS]


# ---- ONNX's own tests


@pytest.fixture(scope="module")
def node_tests():
    """Return ONNX's test cases for our operators; those of all operators would take long to make."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case import node
        from onnx.backend.test.case.node import gru, lstm, rnn  # noqa: F401
    ours = {"GRU", "LSTM", "RNN"}
    return {case.name.removeprefix("test_"): case for case in node._NodeTestCases
            if ours & {each.op_type for each in case.model.graph.node}}


def test_all_of_onnx_node_tests_are_run(node_tests):
    assert sorted(node_tests) == NODE_TESTS


@pytest.mark.parametrize("name", NODE_TESTS)
def test_onnx_node_test(node_tests, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.runner import Runner
    case = node_tests[name]
    prepared = Backend.prepare(case.model)
    for inputs, expected in case.data_sets:
        Runner.assert_similar_outputs(expected, prepared.run(inputs), rtol=case.rtol, atol=case.atol)


@pytest.mark.slow
def test_onnx_test_runner_runs_against_the_backend():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test import BackendTest

        runner = BackendTest(Backend, __name__)
    runner.include(r"^test_(gru|lstm|rnn|simple_rnn)_.*_cpu$")
    tests = {name: getattr(class_(name), name) for class_ in runner.test_cases.values()
             for name in dir(class_) if name.startswith("test_")}
    chosen = [name for name, test in tests.items() if not getattr(test, "__unittest_skip__", False)]
    assert sorted(chosen) == [f"test_{name}_cpu" for name in NODE_TESTS]
    for name in chosen:
        tests[name]()


# ---- ONNX Runtime's answers


@pytest.fixture(scope="module")
def runtime_cases():
    """Return the cases of fixtures/make_onnx.py with their arrays."""
    with np.load(Path(__file__).parent / "fixtures" / "onnx_runtime.npz") as stored:
        found, values = json.loads(str(stored["cases"])), stored["values"]
    at = 0
    for case in found:
        for key in ("inputs", "outputs"):
            for name, shape in case[key].items():
                array = values[at : at + np.prod(shape)].reshape(shape)
                case[key][name] = array.astype(np.int32) if name == "sequence_lens" else array
                at += array.size
    assert at == len(values)
    return found


def run(case):
    """Run a stored case, and return its outputs by name."""
    model = make_model(*(case[key] for key in ("op_type", "attributes", "inputs", "wanted", "opset")))
    prepared = Backend.prepare(model)
    return prepared.run([case["inputs"][name] for name in prepared.input_names])._asdict()


@pytest.mark.parametrize("k", range(N_CASES))
def test_outputs_are_those_of_onnx_runtime(runtime_cases, k):
    case = runtime_cases[k]
    found = run(case)
    assert list(found) == case["wanted"]
    for name, expected in case["outputs"].items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=2e-6, err_msg=f"{name} of {case}")


def test_stored_cases_have_everything_in_them(runtime_cases):
    for op_type in ("RNN", "GRU", "LSTM"):
        here = [case for case in runtime_cases if case["op_type"] == op_type]
        assert len(here) >= 20
        seen = {(name, str(value)) for case in here for name, value in case["attributes"].items()}
        expected = {("direction", d) for d in ("forward", "reverse", "bidirectional")} | {("layout", "1")}
        if op_type == "GRU":
            expected |= {("linear_before_reset", "0"), ("linear_before_reset", "1")}
        if op_type == "LSTM":
            expected |= {("input_forget", "0"), ("input_forget", "1")}
        assert expected <= seen
        assert {"clip", "activations", "activation_alpha", "activation_beta"} <= {name for name, _ in seen}
        inputs = {name for case in here for name in case["inputs"]}
        assert inputs == {"X", "W", "R", "B", "sequence_lens", "initial_h"} | (
            {"initial_c", "P"} if op_type == "LSTM" else set())
    names = {name for case in runtime_cases for name in case["attributes"].get("activations", [])}
    assert names == set(equations.ACTIVATIONS)
    assert {case["opset"] for case in runtime_cases} == {7, 14, 22}
    lengths = np.concatenate([case["inputs"].get("sequence_lens", []) for case in runtime_cases])
    assert (lengths == 0).any()


# ---- nodes


def random_node(op_type, attributes=(), n=3, steps=4, inputs=2, hidden=5, dtype="float32", peepholes=False):
    """Return a case like those stored, with all inputs that the operator has, but P only if asked for."""
    rng = np.random.default_rng(0)
    attributes = dict(attributes)
    d = 1 + (attributes.get("direction") == "bidirectional")
    rows = hidden * len(cells.GATES[op_type])
    shapes = {"X": (steps, n, inputs), "W": (d, rows, inputs), "R": (d, rows, hidden), "B": (d, 2 * rows),
              "initial_h": (d, n, hidden)}
    shapes |= {"initial_c": (d, n, hidden)} if op_type == "LSTM" else {}
    shapes |= {"P": (d, 3 * hidden)} if peepholes else {}
    arrays = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    arrays["sequence_lens"] = np.array([steps, 2, 0], np.int32)[:n]
    wanted = ["Y", "Y_h", "Y_c"][: 2 + (op_type == "LSTM")]
    return {"op_type": op_type, "attributes": attributes, "inputs": arrays, "wanted": wanted}


def run_node(case, name="mine"):
    """Run a case as a single node."""
    inputs = input_names(case["inputs"])
    node = helper.make_node(case["op_type"], inputs, case["wanted"], name=name, **case["attributes"])
    return Backend.run_node(node, [case["inputs"][key] for key in inputs if key])


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("cell", COMPILED)
def test_compiled_cells_are_what_the_equations_say(monkeypatch, cell, direction):
    operator = cells.OPERATORS[cell]
    attributes = dict(operator.attributes, direction=direction)
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * (1 + (direction == "bidirectional"))
    case = random_node(operator.op_type, attributes, dtype="float64", peepholes=operator.peepholes)
    made = []
    make = recurrent.RecurrentNode._make_layer
    monkeypatch.setattr(recurrent.RecurrentNode, "_make_layer",
                        staticmethod(lambda name, weights: made.append(name) or make(name, weights)))
    compiled = run_node(case)
    assert set(made) == {cell}
    monkeypatch.setattr(recurrent, "find_compiled", lambda operator: None)
    for ours, general in zip(compiled, run_node(case), strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, general, rtol=0, atol=1e-12)


@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("general", [False, True])
def test_a_sequence_without_steps_ends_in_its_initial_state(monkeypatch, op_type, general):
    if general:
        monkeypatch.setattr(recurrent, "find_compiled", lambda operator: None)
    case = random_node(op_type, {"direction": "bidirectional"})
    y, y_h, *y_c = run_node(case)
    np.testing.assert_array_equal(y[:, :, 2], 0)
    np.testing.assert_array_equal(y_h[:, 2], case["inputs"]["initial_h"][:, 2])
    assert not y_c or (y_c[0][:, 2] == case["inputs"]["initial_c"][:, 2]).all()


def test_both_directions_may_have_their_own_activations():
    case = random_node("RNN", {"direction": "bidirectional", "activations": ["Tanh", "Elu"]})
    both = run_node(case).Y
    for k, (direction, activation) in enumerate([("forward", "Tanh"), ("reverse", "Elu")]):
        inputs = {name: array[k : k + 1] if name in ("W", "R", "B", "initial_h") else array
                  for name, array in case["inputs"].items()}
        attributes = {"direction": direction, "activations": [activation]}
        np.testing.assert_array_equal(run_node(case | {"attributes": attributes, "inputs": inputs}).Y[:, 0],
                                      both[:, k])


@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
def test_half_precision_goes_in_and_out(op_type):
    case = random_node(op_type)
    single = run_node(case)
    half = {name: array if name == "sequence_lens" else array.astype(np.float16)
            for name, array in case["inputs"].items()}
    for a, b in zip(run_node(case | {"inputs": half}), single, strict=True):
        assert a.dtype == np.float16
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-2)


def test_activations_stand_large_numbers_and_let_nan_through():
    x = np.array([-1e4, 1e4, np.nan])
    for name, function in equations.ACTIVATIONS.items():
        parameters = dict.fromkeys(equations.activation_parameters(name), 0.5)
        found = function(x, **parameters)
        assert np.isfinite(found[:2]).all() and (np.isnan(found[2]) or name == "ThresholdedRelu"), name


def with_constants(case, names):
    """Return the model of a case with some of its inputs as constants."""
    inputs = case["inputs"]
    model = make_model(case["op_type"], case["attributes"], inputs, case["wanted"], 14)
    for name in names:
        model.graph.initializer.append(onnx.numpy_helper.from_array(inputs[name], name))
    return model


def test_layers_of_constant_weights_are_kept_and_others_are_not(monkeypatch):
    made, make = [], recurrent.RecurrentNode._make_layer
    monkeypatch.setattr(recurrent.RecurrentNode, "_make_layer",
                        staticmethod(lambda name, weights: made.append(name) or make(name, weights)))
    case = random_node("GRU", {"linear_before_reset": 1})
    prepared = Backend.prepare(with_constants(case, ["W", "R", "B"]))
    assert prepared.input_names == ("X", "sequence_lens", "initial_h")
    first, second = (prepared.run([case["inputs"][name] for name in prepared.input_names]) for _ in range(2))
    np.testing.assert_array_equal(first.Y, second.Y)
    assert len(made) == 1
    prepared = Backend.prepare(with_constants(case, ["W", "B"]))
    feed = [case["inputs"][name] for name in prepared.input_names]
    before = prepared.run(feed).Y
    case["inputs"]["R"][...] = 0
    assert len(made) == 2 and not np.array_equal(prepared.run(feed).Y, before)


# ---- models and nodes that are wrong


@pytest.mark.parametrize(("attributes", "message"), [
    ({"activations": ["Tanh", "Swish", "Tanh"]}, "activations had 'Swish'; expected one of Relu, Tanh"),
    ({"activations": ["Tanh", "Tanh"]}, "activations had 2 names; expected 3"),
    ({"activations": ["Sigmoid", "ScaledTanh", "Tanh"], "activation_alpha": [1.0]},
     "activation_beta had no value for ScaledTanh"),
    ({"activations": ["Sigmoid", "Elu", "Tanh"], "activation_alpha": [1.0, 2.0, 3.0]},
     "activation_alpha had 2 values more"),
    ({"direction": "sideways"}, "direction was 'sideways'; expected 'forward'"),
    ({"layout": 2}, "layout was 2; expected 0 or 1"),
    ({"clip": -1.0}, "clip was -1.0; expected a number above 0"),
    ({"hidden_size": 4}, r"input W had shape \(1, 20, 2\); expected \(1, 16, 2\)"),
    ({"direction": "bidirectional"}, r"input W had shape \(1, 20, 2\); expected \(2, 20, 2\)"),
])  # fmt: skip
def test_an_attribute_without_meaning_is_named(attributes, message):
    case = random_node("LSTM")
    with pytest.raises(ValueError, match=rf"^node 'mine' \(LSTM\): {message}"):
        run_node(case | {"attributes": attributes})


@pytest.mark.parametrize(("name", "change", "message"), [
    ("X", lambda x: x[0], r"input X had shape \(3, 2\); expected 3 dimensions"),
    ("X", lambda x: x[:0], r"input X had shape \(0, 3, 2\); expected no dimension of size 0"),
    ("R", lambda r: r[:, 1:], r"input R had shape \(1, 19, 5\); expected \(1, 20, 5\)"),
    ("B", lambda b: b[:, 1:], r"input B had shape \(1, 39\); expected \(1, 40\)"),
    ("P", lambda p: p[0], r"input P had shape \(15,\); expected \(1, 15\)"),
    ("initial_h", lambda h: h[0], r"input initial_h had shape \(3, 5\); expected \(1, 3, 5\)"),
    ("initial_c", lambda c: c.swapaxes(0, 1), r"input initial_c had shape \(3, 1, 5\); expected"),
    ("sequence_lens", lambda n: n[1:], r"input sequence_lens had shape \(2,\); expected \(3,\)"),
    ("sequence_lens", lambda n: n + 1, "input sequence_lens was .*; expected integers from 0 to 4"),
    ("sequence_lens", lambda n: n / 2, "input sequence_lens was .*; expected integers from 0 to 4"),
])  # fmt: skip
def test_an_input_of_another_shape_is_named(name, change, message):
    case = random_node("LSTM", peepholes=True)
    case["inputs"][name] = change(case["inputs"][name])
    with pytest.raises(ValueError, match=rf"^node 'mine' \(LSTM\): {message}"):
        run_node(case)


def test_integers_are_no_input():
    case = random_node("RNN")
    case["inputs"]["X"] = case["inputs"]["X"].astype(int)
    with pytest.raises(TypeError, match=r"^node 'mine' \(RNN\): input X had dtype int64"):
        run_node(case)


def test_missing_weights_are_named():
    node = helper.make_node("RNN", ["X", "", "R"], ["Y"])
    with pytest.raises(ValueError, match=r"^node 'Y' \(RNN\): the inputs W were missing"):
        Backend.run_node(node, [np.ones((1, 1, 1), "f"), np.ones((1, 1, 1), "f")])
    with pytest.raises(ValueError, match=r"^node 'mine' \(RNN\): the inputs W, R were missing"):
        Backend.run_node(helper.make_node("RNN", ["X"], ["Y"], name="mine"), [])


def test_unknown_attributes_are_left_to_the_checker_of_onnx():
    case = random_node("RNN", {"linear_before_reset": 1})
    with pytest.raises(onnx.checker.ValidationError, match=r"attribute: linear_before_reset"):
        run_node(case)


def small_model(nodes, opset=17):
    """Return a model of nodes from X to Y."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in "XY"]
    graph = helper.make_graph(nodes, "small", infos[:1], infos[1:])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


def test_other_operators_are_listed():
    nodes = [("Erf", "X", "A"), ("Relu", "A", "B"), ("Ceil", "B", "Y")]
    model = small_model([helper.make_node(op_type, [x], [y]) for op_type, x, y in nodes])
    message = r"operators that cannot be run: Ceil, Erf \(node 'A' \(Erf\), node 'Y' \(Ceil\)\); expected"
    with pytest.raises(NotImplementedError, match=message):
        Backend.prepare(model)
    assert not Backend.is_compatible(model)
    other = helper.make_node("LSTM", ["X", "W", "R"], ["Y"], domain="com.example")
    with pytest.raises(NotImplementedError, match=r"cannot be run: com.example.LSTM"):
        Backend.run_node(other, [])


def test_operators_of_other_versions_are_refused():
    with pytest.raises(ValueError, match=r"node 'Y' \(Relu\): the model had opset 12; expected 13 or later"):
        Backend.prepare(small_model([helper.make_node("Relu", ["X"], ["Y"])], opset=12))
    node = helper.make_node("GRU", ["X", "W", "R"], ["Y"], hidden_size=1)
    with pytest.raises(ValueError, match=r"its operator had version 3; expected one of 7, 14, 22"):
        Backend.run_node(node, [np.ones((1, 1, 1), "f")] * 3, opset_version=6)
    node = helper.make_node("ArgMax", ["X"], ["Y"], select_last_index=1)
    with pytest.raises(NotImplementedError, match="attributes select_last_index"):
        Backend.run_node(node, [np.ones((1, 1), "f")])


def test_inputs_are_counted_and_only_the_cpu_is_there():
    model = small_model([helper.make_node("Relu", ["X"], ["Y"])])
    assert Backend.is_compatible(model) and Backend.run_model(model, -np.ones((1, 1), "f")).Y == 0
    with pytest.raises(ValueError, match="inputs were 2 arrays; expected X"):
        Backend.run_model(model, [np.ones((1, 1), "f")] * 2)
    with pytest.raises(ValueError, match="inputs were 0 arrays; expected X"):
        Backend.run_node(model.graph.node[0], [])
    for shape in ((2, 5, 4), (2, 3)):
        with pytest.raises(ValueError, match=r"the input X had shape .*; expected \(n_samples, n_.*, 3\)"):
            Backend.run_model(to_onnx(Recurrent("gru", 3, 2)), np.ones(shape, "f"))
    for call in (Backend.prepare, Backend.is_compatible):
        with pytest.raises(TypeError, match="model was 'x.onnx'; expected an onnx.ModelProto, as onnx.load"):
            call("x.onnx")
    assert Backend.supports_device("CPU") and not Backend.supports_device("CUDA:1")
    for call in (Backend.prepare, lambda model, device: Backend.run_node(model.graph.node[0], [], device)):
        with pytest.raises(ValueError, match="device was 'CUDA'; expected 'CPU'"):
            call(model, "CUDA")


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), [
    ("Constant", [], {"value": onnx.numpy_helper.from_array(np.eye(2))}),
    ("Constant", [], {"value_int": 3}),
    ("Constant", [], {"value_ints": [3, 4]}),
    ("Constant", [], {"value_float": 0.5}),
    ("Constant", [], {"value_floats": [0.5, 2.0]}),
    ("ConstantOfShape", [np.array([2, 3])], {}),
    ("ConstantOfShape", [np.array([2])], {"value": onnx.numpy_helper.from_array(np.array([7]))}),
    ("Gemm", [np.ones((3, 2), "f"), np.eye(3, dtype="f"), np.ones(3, "f")],
     {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1}),
    ("Gemm", [np.ones((3, 2), "f"), np.eye(2, dtype="f")], {}),
    ("Identity", [np.eye(2)], {}),
    ("Sigmoid", [np.array([-1.0, 2.0], "f")], {}),
    ("Tanh", [np.array([-1.0, 2.0], "f")], {}),
    ("Slice", [np.arange(24.0).reshape(2, 3, 4), np.array([-1, 0]), np.array([-99, 2]), np.array([1, 2]),
               np.array([-1, 1])], {}),
    ("Slice", [np.arange(6.0).reshape(2, 3), np.array([1]), np.array([2**62])], {}),
    ("Squeeze", [np.ones((1, 2, 1))], {}),
    ("Squeeze", [np.ones((1, 2, 1)), np.array([-1])], {}),
    ("Reshape", [np.ones((0, 2)), np.array([2, 0])], {"allowzero": 1}),
])  # fmt: skip
def test_operators_that_exports_of_others_have(op_type, inputs, attributes):
    from onnx.reference import ReferenceEvaluator

    names = [f"in{k}" for k in range(len(inputs))]
    node = helper.make_node(op_type, names, ["Y"], **attributes)
    (found,) = Backend.run_node(node, inputs, opset_version=17)
    expected = ReferenceEvaluator(node).run(None, dict(zip(names, inputs, strict=True)))[0]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_weights_may_be_nodes_of_constants(monkeypatch):
    case = random_node("GRU", {"linear_before_reset": 1})
    model = with_constants(case, ["W", "R", "B"])
    feed = [case["inputs"][name] for name in ("X", "sequence_lens", "initial_h")]
    expected = Backend.run_model(model, feed).Y
    for k, tensor in enumerate(model.graph.initializer):
        model.graph.node.insert(k, helper.make_node("Constant", [], [tensor.name], value=tensor))
    left = [each for each in model.graph.input if each.name not in ("W", "R", "B")]
    del model.graph.initializer[:], model.graph.input[:]
    model.graph.input.extend(left)
    np.testing.assert_array_equal(Backend.run_model(model, feed).Y, expected)


# ---- models that we write


def run_backend(model, feed):
    return Backend.run_model(model, list(feed.values()))._asdict()


def run_reference(model, feed):
    """Run a model by ONNX's own, other implementation, which does not know lengths."""
    relu = any(node.op_type == "RNN" and b"Relu" in node.SerializeToString() for node in model.graph.node)
    if "lengths" in feed or relu:
        pytest.skip("onnx.reference has neither sequence_lens nor an RNN with Relu")
    from onnx.reference import ReferenceEvaluator

    outputs = ReferenceEvaluator(model).run(None, feed)
    return dict(zip([o.name for o in model.graph.output], outputs, strict=True))


def run_runtime(model, feed):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


RUNNERS = [run_backend, run_reference, run_runtime]
X = np.random.default_rng(0).normal(size=(12, 5, 3)).astype("float32")
LENGTHS = np.array([5, 1, 3, 4, 2, 5, 3, 1, 2, 4, 5, 3])
SUM = X.sum(axis=(1, 2))
STEPS = X.sum(axis=2)
FIT = {"hidden_size": 4, "max_iter": 1, "n_iter_no_change": np.inf, "random_state": 0, "n_jobs": 1}
REGRESSORS = {
    "plain": (RNNRegressor(**FIT), X, SUM),
    "two outputs": (RNNRegressor("lstm", num_layers=2, bidirectional=True, **FIT), X, X[:, -1, :2]),
    "every step": (RNNRegressor(return_sequences=True, **FIT), X, STEPS),
    "every step, outputs": (RNNRegressor("lstm", num_layers=3, bidirectional=True, return_sequences=True,
                                         **FIT), X, X[:, :, :2]),
    "poisson": (RNNRegressor(loss="poisson", **FIT), X, np.abs(SUM)),
    "poisson, steps": (RNNRegressor(loss="poisson", return_sequences=True, **FIT), X, np.abs(STEPS)),
    "quantile": (RNNRegressor(loss="quantile", quantile=0.2, **FIT), X, SUM),
    "quantiles": (RNNRegressor(loss="quantile", quantile=[0.9, 0.1, 0.5], **FIT), X, SUM),
    "quantiles, steps": (RNNRegressor(loss="quantile", quantile=[0.1, 0.9], return_sequences=True, **FIT), X,
                         X[:, :, :2]),
    "huber": (RNNRegressor(loss="huber", **FIT), X, SUM),
    "float64": (RNNRegressor("lstm", dtype="float64", **FIT), X, SUM),
    "windows": (RNNRegressor(**FIT), X.reshape(12, -1), SUM),
    "windows, steps": (RNNRegressor(n_channels=3, return_sequences=True, **FIT), X.reshape(12, -1), STEPS),
    "scaled": (make_pipeline(StandardScaler(), "passthrough", MinMaxScaler((-1, 3)), RNNRegressor(**FIT)),
               1000 + 10 * X.reshape(12, -1), SUM),
    "not centered": (make_pipeline(StandardScaler(with_mean=False), StandardScaler(with_std=False),
                                   RNNRegressor(n_channels=3, **FIT)), X.reshape(12, -1), SUM),
    "dense layers": (RNNRegressor(stem_sizes=[6], head_sizes=[5, 4], bidirectional=True, **FIT), X, SUM),
    "dense layers, steps": (RNNRegressor(stem_sizes=[6, 5], head_sizes=[5], return_sequences=True, **FIT),
                            X, STEPS),
    "embeddings": (RNNRegressor(embedding=[(1, 3, 2), (0, 4, 5)], **FIT), np.abs(X.round()).clip(0, 2), SUM),
    "one embedding": (RNNRegressor(embedding=[(0, 3, 2)], **FIT), np.abs(X[..., :1].round()).clip(0, 2), SUM),
    "learned state": (RNNRegressor("lstm", num_layers=2, bidirectional=True, initial_state="learned",
                                   **FIT | {"learning_rate_init": 0.3}), X, SUM),
    "random state": (RNNRegressor(initial_state="random", **FIT), X, SUM),
    "sums": (RNNRegressor("lstm", num_layers=2, bidirectional=True, merge="sum", **FIT), X, SUM),
    "products, steps": (RNNRegressor(bidirectional=True, merge="product", return_sequences=True, **FIT), X,
                        STEPS),
    "residual": (RNNRegressor("lstm", num_layers=2, residual=True, **FIT), X, SUM),
    "residual, both directions": (RNNRegressor(num_layers=2, bidirectional=True, residual=True, **FIT), X,
                                  SUM),
    "residual, means": (RNNRegressor(num_layers=2, bidirectional=True, merge="mean", residual=True,
                                     stem_sizes=[4], **FIT), X, SUM),
    "residual, steps": (RNNRegressor(num_layers=2, residual=True, stem_sizes=[4], return_sequences=True,
                                     **FIT), X, STEPS),
}  # fmt: skip
CLASSIFIERS = {
    "strings": (RNNClassifier(**FIT), X, np.where(SUM > 0, "up", "down")),
    "three strings": (RNNClassifier("lstm", **FIT), X, np.array(["a", "b", "c"] * 4, object)),
    "booleans": (RNNClassifier(bidirectional=True, **FIT), X, SUM > 0),
    "integers": (RNNClassifier(num_layers=2, **FIT), X.reshape(12, -1), np.array([7, -1, 3] * 4)),
    "floats": (RNNClassifier(**FIT), X, np.array([1.0, 2.0, 7.0] * 4)),
    "every step": (RNNClassifier(return_sequences=True, **FIT), X, STEPS.round().clip(-1, 1).astype(int)),
    "every step, two": (RNNClassifier(return_sequences=True, **FIT), X, STEPS > 0),
}  # fmt: skip


def fit(table, name):
    """Fit what stands in the table, and return it with its X."""
    estimator, x, y = table[name]
    return estimator.fit(x, y), np.asarray(x, "float32")


def compare(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", REGRESSORS)
def test_regressor(name, runner, lengths):
    estimator, x = fit(REGRESSORS, name)
    if lengths is not None and hasattr(estimator, "steps"):
        pytest.skip("a pipeline has no lengths")
    given = {} if lengths is None else {"lengths": lengths}
    model = to_onnx(estimator, lengths=lengths is not None)
    feed = {"X": x} | {key: value.astype(np.int32) for key, value in given.items()}
    compare(runner(model, feed)["variable"], estimator.predict(x, **given))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier(name, runner, lengths):
    estimator, x = fit(CLASSIFIERS, name)
    given = {} if lengths is None else {"lengths": lengths}
    model = to_onnx(estimator, lengths=lengths is not None)
    found = runner(model, {"X": x} | {key: value.astype(np.int32) for key, value in given.items()})
    assert list(found) == ["label", "probabilities"]
    compare(found["probabilities"], estimator.predict_proba(x, **given))
    np.testing.assert_array_equal(found["label"], estimator.predict(x, **given))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", COMPILED)
def test_layers_come_back_from_onnx(cell, bias, bidirectional, lengths):
    # in float64, which the backend computes in: nothing more is compiled
    compare_layers(lengths, cell, num_layers=2, bias=bias, bidirectional=bidirectional)


def compare_layers(lengths, cell, hidden_size=4, **options):
    """Hold what layers give against what their model gives."""
    layers = Recurrent(cell, 3, hidden_size, dtype="float64", random_state=0, **options)
    model = to_onnx(layers, lengths=lengths is not None)
    feed = {"X": X} | ({} if lengths is None else {"lengths": lengths.astype(np.int32)})
    output, state = layers.forward(X, lengths=lengths)
    expected = {"output": output} | dict(
        zip(layers.cell.states, state if isinstance(state, tuple) else (state,), strict=True))
    for runner in (run_backend, run_runtime):
        found = runner(model, feed)
        assert list(found) == list(expected)
        for name, array in expected.items():
            compare(found[name], array)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("options", [
    {"bidirectional": True, "merge": "sum"}, {"bidirectional": True, "merge": "mean", "num_layers": 2},
    {"bidirectional": True, "merge": "product", "num_layers": 2}, {"merge": "product"},
    {"residual": True, "num_layers": 3}, {"residual": True, "num_layers": 2, "bidirectional": True},
    {"residual": True, "hidden_size": 3}, {"residual": True, "hidden_size": 3, "bidirectional": True,
                                           "merge": "sum"},
    {"proj_size": 2}, {"proj_size": 3, "num_layers": 2, "bidirectional": True, "bias": False},
    {"proj_size": 3, "num_layers": 2, "bidirectional": True, "merge": "mean", "residual": True},
    {"recurrent_dropout": 0.5},
], ids=str)  # fmt: skip
def test_options_of_layers_come_back_from_onnx(options, lengths):
    compare_layers(lengths, "lstm", **options)


@pytest.mark.parametrize("cell", [
    "rnn[leaky_relu(0.3)]", "gru[hard_sigmoid,scaled_tanh(0.5,0.8);clip=0.7]",
    "lstm_peephole_coupled[sigmoid,tanh,softplus]",
])  # fmt: skip
def test_other_activations_and_clipping_come_back_from_onnx(cell):
    compare_layers(LENGTHS, cell, bidirectional=True)


def test_batches_and_steps_may_be_of_any_number():
    estimator, _ = fit(REGRESSORS, "every step")
    prepared = Backend.prepare(to_onnx(estimator))
    for n, steps in ((1, 1), (7, 2), (2, 30)):
        x = np.ones((n, steps, 3), "float32")
        compare(prepared.run([x]).variable, estimator.predict(x))


def test_file_and_what_the_model_says_of_itself(tmp_path):
    estimator, x = fit(REGRESSORS, "windows")
    model = to_onnx(estimator, tmp_path / "model.onnx")
    stored = onnx.load(tmp_path / "model.onnx")
    assert stored == model and stored.producer_name == "numbarnn"
    assert stored.ir_version == 8 and [o.version for o in stored.opset_import] == [17]
    assert stored.graph.input[0].type.tensor_type.shape.dim[1].dim_value == x.shape[1]


def test_constants_are_float32():
    for dtype in ("float32", "float64"):
        constants = to_onnx(Recurrent("lstm", 2, 3, dtype=dtype)).graph.initializer
        assert {tensor.data_type for tensor in constants} == {TensorProto.FLOAT, TensorProto.INT64}


def test_options_that_cannot_be_written_are_named():
    estimator = RNNRegressor(stateful=True, **FIT).fit(X, SUM)
    with pytest.raises(ValueError, match="stateful of the network was True, which cannot be written"):
        to_onnx(estimator)
    estimator.network_.config |= {"stateful": False, "zoneout": [0.1]}
    with pytest.raises(ValueError, match=r"zoneout of the network was \[0.1\], which cannot be written"):
        to_onnx(estimator)
    with pytest.raises(ValueError, match=r"zoneout of the recurrent layers was \(0.0, 0.1\), which cannot"):
        to_onnx(Recurrent("lstm", 2, 3, zoneout=(0, 0.1)))


@pytest.mark.parametrize("runner", [run_backend, run_runtime])
def test_behind_the_end_of_a_sequence_there_need_be_no_category(runner):
    estimator, x = fit(REGRESSORS, "embeddings")
    for padding in (np.nan, 99):
        padded = np.where(np.arange(5)[:, np.newaxis] < LENGTHS[:, np.newaxis, np.newaxis], x, padding)
        padded = padded.astype("float32")
        feed = {"X": padded, "lengths": LENGTHS.astype(np.int32)}
        found = runner(to_onnx(estimator, lengths=True), feed)["variable"]
        compare(found, estimator.predict(padded, lengths=LENGTHS))


def test_networks_with_projections():
    estimator = RNNRegressor("lstm", dtype="float64", bidirectional=True, **FIT).fit(X, SUM)
    network = {"num_layers": 2, "bidirectional": True, "proj_size": 2, "residual": True, "dtype": "float64"}
    estimator.network_ = Network("lstm", 3, 4, 1, random_state=0, **network)
    expected = estimator.predict(X, lengths=LENGTHS)
    for runner in (run_backend, run_runtime):
        found = runner(to_onnx(estimator, lengths=True), {"X": X, "lengths": LENGTHS.astype(np.int32)})
        compare(found["variable"], expected)
    estimator.network_ = Network("lstm", 3, 4, 1, initial_state="learned", **network)
    with pytest.raises(ValueError, match="initial_state of the network was 'learned', which is not written"):
        to_onnx(estimator)


def test_labels_are_strings_numbers_or_booleans():
    estimator = RNNClassifier(**FIT).fit(X, SUM > 0)
    estimator.classes_ = np.array([1, None], object)
    with pytest.raises(ValueError, match="classes_ were .*; expected strings, numbers or booleans"):
        to_onnx(estimator)


def test_cells_without_operator_are_refused(monkeypatch):
    monkeypatch.delitem(cells.OPERATORS, "rnn")
    expected = r"gru, .*lstm_peephole_coupled\[\.\.\.\], rnn_relu"
    with pytest.raises(ValueError, match=rf"cell was 'rnn', for which .* expected one of {expected}"):
        to_onnx(Recurrent("rnn", 2, 3))
    with pytest.raises(TypeError, match="lengths was 'no'; expected True or False"):
        to_onnx(Recurrent("gru", 2, 3), lengths="no")


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match="estimator was RNNForecaster; expected RNNRegressor, RNNClassifier"):
        to_onnx(RNNForecaster(horizon=1))
    with pytest.raises(NotFittedError):
        to_onnx(RNNRegressor())
    windows = X.reshape(12, -1)
    for scaler in (MaxAbsScaler(), MinMaxScaler(clip=True)):
        pipeline = make_pipeline(scaler, RNNRegressor(**FIT)).fit(windows, SUM)
        with pytest.raises(ValueError, match="a step of the pipeline was M.*expected StandardScaler"):
            to_onnx(pipeline)


def test_without_onnx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "numbarnn\[onnx\]"'):
        numbarnn.to_onnx(Recurrent("rnn", 2, 3))
