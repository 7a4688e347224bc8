"""The other side: the cases of `numbarnn.bench.cases` done by PyTorch, ONNX Runtime and Keras on JAX.

Every function takes a case and a number of threads and returns a Job. Frameworks are imported inside the
functions; none is needed by numbarnn itself.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .cases import FIT_EPOCHS, STEPS_PER_CALL, Case, Job, fit_data, layer_data

_TORCH_LAYERS = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
    "rnn": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
}


def torch_job(case: Case, threads: int, device: str = "cpu") -> Job:
    """Make a case ready for PyTorch; on "cuda" only training steps and fits."""
    import torch

    torch.set_num_threads(threads)
    if case.kind == "fit":
        return _torch_fit(case, device)
    name, options = _TORCH_LAYERS[case.cell]
    x, weights = layer_data(case)
    weights = {key: torch.from_numpy(array) for key, array in weights.items()}
    if case.kind == "step":
        cell = getattr(torch.nn, f"{name}Cell")(case.inputs, case.hidden, **options)
        cell.load_state_dict({key.removesuffix("_l0"): array for key, array in weights.items()})
        return _torch_steps(cell, torch.from_numpy(x[:, 0]))
    layer = getattr(torch.nn, name)(case.inputs, case.hidden, batch_first=True, **options).to(device)
    layer.load_state_dict(weights)
    x = torch.from_numpy(x).to(device)
    if case.kind == "train":
        return _torch_training_step(layer, x.requires_grad_(case.input_gradient))

    def run() -> Any:
        with torch.inference_mode():
            return layer(x)[0]

    return Job(run, lambda: {"output": run().numpy()})


def _torch_training_step(layer: Any, x: Any) -> Job:
    def run() -> Any:
        layer.zero_grad()
        x.grad = None
        output, _ = layer(x)
        output[:, -1].sum().backward()
        return output

    def results() -> dict[str, np.ndarray]:
        found = {"output": run().detach().cpu().numpy()}
        found |= {name: value.grad.cpu().numpy().copy() for name, value in layer.named_parameters()}
        return found if x.grad is None else {**found, "dx": x.grad.cpu().numpy().copy()}

    return Job(run, results)


def _torch_steps(cell: Any, x_t: Any) -> Job:
    import torch

    def run() -> Any:
        with torch.inference_mode():
            state = None
            for _ in range(STEPS_PER_CALL):
                state = cell(x_t, state)
        return state[0] if isinstance(state, tuple) else state

    return Job(run, lambda: {"output": run().numpy()}, STEPS_PER_CALL)


def _torch_fit(case: Case, device: str) -> Job:
    import torch

    X, y = (torch.from_numpy(array).to(device) for array in fit_data(case))
    name, options = _TORCH_LAYERS[case.cell]

    def run() -> Callable[[], Any]:
        torch.manual_seed(0)
        layer = getattr(torch.nn, name)(case.inputs, case.hidden, batch_first=True, **options).to(device)
        head = torch.nn.Linear(case.hidden, 1).to(device)
        parameters = [*layer.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, fused=True)
        for _ in range(FIT_EPOCHS):
            for rows in torch.randperm(len(X), device=device).split(case.batch):
                optimizer.zero_grad()
                prediction = head(layer(X[rows])[0][:, -1]).squeeze(1)
                torch.nn.functional.mse_loss(prediction, y[rows]).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
        return lambda x: head(layer(x)[0][:, -1]).squeeze(1)

    def results() -> dict[str, np.ndarray]:
        predict = run()
        with torch.inference_mode():
            return {"mse": torch.nn.functional.mse_loss(predict(X), y).cpu().numpy()}

    return Job(run, results, FIT_EPOCHS)


def onnx_job(case: Case, threads: int) -> Job:
    """Make a case ready for ONNX Runtime: a model of one operator, batch-first like the others."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its waiting threads would otherwise spin on the cores while the other side is timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(_onnx_model(case), options, providers=["CPUExecutionProvider"])
    x, _ = layer_data(case)
    if case.kind == "forward":
        forward = lambda: session.run(["output"], {"x": x})[0]  # noqa: E731
        return Job(forward, lambda: {"output": forward()})

    states = ["h", "c"] if case.cell == "lstm" else ["h"]
    names = [f"{state}_next" for state in states]

    def run() -> np.ndarray:
        feed = {state: np.zeros((1, 1, case.hidden), np.float32) for state in states}
        for _ in range(STEPS_PER_CALL):
            found = session.run(names, {"x": x, **feed})
            feed = dict(zip(states, found, strict=True))
        return found[0][0]

    return Job(run, lambda: {"output": run()}, STEPS_PER_CALL)


def _onnx_model(case: Case) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    operator = {"lstm": "LSTM", "gru": "GRU"}.get(case.cell, "RNN")
    order = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}.get(case.cell, [0])  # PyTorch's gates in ONNX's order
    _, weights = layer_data(case)
    w_ih, w_hh, b_ih, b_hh = (
        np.concatenate([np.split(array, len(order))[gate] for gate in order]) for array in weights.values()
    )
    constants = {"W": w_ih[None], "R": w_hh[None], "B": np.concatenate([b_ih, b_hh])[None]}
    options: dict[str, Any] = {"hidden_size": case.hidden}
    if case.cell == "gru":
        options["linear_before_reset"] = 1
    if case.cell == "rnn_relu":
        options["activations"] = ["Relu"]
    states = ["h", "c"] if case.cell == "lstm" else ["h"]
    float32 = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", float32, [case.batch, case.steps, case.inputs])]
    nodes = [helper.make_node("Transpose", ["x"], ["time_major"], perm=[1, 0, 2])]
    if case.kind == "step":
        names = [f"{state}_next" for state in states]
        state_shape = [1, case.batch, case.hidden]
        inputs += [helper.make_tensor_value_info(name, float32, state_shape) for name in states]
        outputs = [helper.make_tensor_value_info(name, float32, state_shape) for name in names]
        operands = ["time_major", "W", "R", "B", "", *states]
        nodes += [helper.make_node(operator, operands, ["", *names], **options)]
    else:
        outputs = [helper.make_tensor_value_info("output", float32, [case.batch, case.steps, case.hidden])]
        constants["direction"] = np.array([1])
        nodes += [
            helper.make_node(operator, ["time_major", "W", "R", "B"], ["Y"], **options),
            helper.make_node("Squeeze", ["Y", "direction"], ["one_direction"]),
            helper.make_node("Transpose", ["one_direction"], ["output"], perm=[1, 0, 2]),
        ]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "layer", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def keras_job(case: Case, threads: int) -> Job:
    """Make a case ready for Keras on JAX, compiled as a whole; threads are limited by the process's cores."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    if case.kind == "fit":
        return _keras_fit(case)
    import jax
    from jax import numpy as jnp

    x, weights = layer_data(case)
    layer = _keras_layer(case, return_sequences=True)
    layer.build(x.shape)
    for variable, array in zip(layer.trainable_variables, _to_keras(case.cell, weights), strict=True):
        variable.assign(array)
    variables = [variable.value for variable in layer.trainable_variables]
    if case.kind == "step":
        return _keras_steps(layer, variables, jnp.asarray(x[:, 0]))
    rest = [variable.value for variable in layer.non_trainable_variables]
    x = jnp.asarray(x)

    def forward(variables: list, x: Any) -> Any:
        return layer.stateless_call(variables, rest, x)[0]

    if case.kind == "forward":
        call = jax.jit(forward)
        run = lambda: jax.block_until_ready(call(variables, x))  # noqa: E731
        return Job(run, lambda: {"output": np.asarray(run())})

    def loss(variables: list, x: Any) -> tuple[Any, Any]:
        output = forward(variables, x)
        return output[:, -1].sum(), output

    wanted = (0, 1) if case.input_gradient else (0,)
    step = jax.jit(jax.value_and_grad(loss, argnums=wanted, has_aux=True))
    run = lambda: jax.block_until_ready(step(variables, x))  # noqa: E731

    def results() -> dict[str, np.ndarray]:
        (_, output), gradients = run()
        found = {"output": np.asarray(output), **_from_keras(case.cell, gradients[0])}
        return {**found, "dx": np.asarray(gradients[1])} if case.input_gradient else found

    return Job(run, results)


def _keras_layer(case: Case, return_sequences: bool) -> Any:
    import keras

    options: dict[str, Any] = {"return_sequences": return_sequences}
    if case.cell == "rnn_relu":
        options["activation"] = "relu"
    return {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}.get(case.cell, keras.layers.SimpleRNN)(
        case.hidden, **options
    )


def _to_keras(cell: str, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Turn PyTorch's arrays into Keras's (kernel, recurrent kernel, bias); its GRU has z before r."""
    w_ih, w_hh, b_ih, b_hh = weights.values()
    if cell != "gru":
        return [w_ih.T, w_hh.T, b_ih + b_hh]
    w_ih, w_hh, b_ih, b_hh = (_swap_reset_and_update(array) for array in (w_ih, w_hh, b_ih, b_hh))
    return [w_ih.T, w_hh.T, np.stack([b_ih, b_hh])]


def _from_keras(cell: str, arrays: list) -> dict[str, np.ndarray]:
    kernel, recurrent, bias = (np.asarray(array) for array in arrays)
    biases = bias if cell == "gru" else (bias, bias)
    found = dict(
        zip(
            ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"),
            (kernel.T, recurrent.T, *biases),
            strict=True,
        )
    )
    return {name: _swap_reset_and_update(a) for name, a in found.items()} if cell == "gru" else found


def _swap_reset_and_update(array: np.ndarray) -> np.ndarray:
    first, second, third = np.split(array, 3)
    return np.concatenate([second, first, third])


def _keras_steps(layer: Any, variables: list, x_t: Any) -> Job:
    import jax

    cell = layer.cell
    rest = [variable.value for variable in cell.non_trainable_variables]
    step = jax.jit(lambda variables, x, states: cell.stateless_call(variables, rest, x, states)[0])
    zeros = layer.get_initial_state(1)

    def run() -> Any:
        states = zeros
        for _ in range(STEPS_PER_CALL):
            output, states = jax.block_until_ready(step(variables, x_t, states))
        return output

    return Job(run, lambda: {"output": np.asarray(run())}, STEPS_PER_CALL)


def _keras_fit(case: Case) -> Job:
    import keras

    X, y = fit_data(case)
    keras.utils.set_random_seed(0)
    # Compiled once and then trained on: its compilation is not counted.
    model = keras.Sequential([_keras_layer(case, return_sequences=False), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0), "mse", jit_compile=True)

    def run() -> Any:
        model.fit(X, y, batch_size=case.batch, epochs=FIT_EPOCHS, shuffle=True, verbose=0)

    def results() -> dict[str, np.ndarray]:
        run()
        return {"mse": np.asarray(model.evaluate(X, y, batch_size=512, verbose=0))}

    return Job(run, results, FIT_EPOCHS)


class Peer(NamedTuple):
    """A framework we are measured against.

    Attributes
    ----------
    title : str
        Its name in tables.
    packages : tuple of str
        What must be importable; the versions of all of them are recorded.
    kinds : tuple of str
        The kinds of cases that it can do.
    make_job : callable
        (case, threads) -> Job.
    isolated : bool
        Run it in a process of its own, limited to as many cores as it has threads.
    """

    title: str
    packages: tuple[str, ...]
    kinds: tuple[str, ...]
    make_job: Callable[[Case, int], Job]
    isolated: bool = False


PEERS = {
    "torch": Peer("PyTorch", ("torch",), ("train", "forward", "step", "fit"), torch_job),
    "onnxruntime": Peer("ONNX Runtime", ("onnxruntime", "onnx"), ("forward", "step"), onnx_job),
    "keras": Peer(
        "Keras on JAX", ("keras", "jax"), ("train", "forward", "step", "fit"), keras_job, isolated=True
    ),
}


def installed_peers() -> list[str]:
    """List the peers whose packages can be imported.

    Examples
    --------
    >>> set(installed_peers()) <= set(PEERS)
    True
    """
    return [name for name, peer in PEERS.items() if all(importlib.util.find_spec(p) for p in peer.packages)]
