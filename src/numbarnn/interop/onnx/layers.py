"""Recurrent layers as ONNX nodes: operators, projections, merged directions and residual connections."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from numbarnn.interop.onnx.cells import find_operator, weights_to_onnx
from numbarnn.recurrent import Recurrent

if TYPE_CHECKING:
    from numbarnn.interop.onnx.graph import Graph

INT64 = 7  # onnx.TensorProto.INT64
# The options that are written, or that say nothing about a fitted layer; any other must have its default.
LAYER_OPTIONS = {
    "cell", "input_size", "hidden_size", "num_layers", "bias", "bidirectional", "dropout",
    "recurrent_dropout", "dtype", "init", "forget_bias", "n_jobs", "merge", "residual", "proj_size",
}  # fmt: skip


def check_options(options: Mapping[str, Any], written: set[str], owner: Callable, what: str) -> None:
    """Refuse an option that is not written, unless it has its default."""
    parameters = inspect.signature(owner).parameters
    for name, value in options.items():
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        usual = value == default or not (np.any(value) or np.any(default))  # nothing is 0, (), None, (0, 0)
        if name not in written and not usual:
            raise ValueError(f"{name} of the {what} was {value!r}, which cannot be written as ONNX yet")


def check_layers(layers: Recurrent) -> None:
    """Refuse what ONNX's operators cannot say."""
    find_operator(layers.cell.name, 1)
    check_options(layers.__getstate__()["options"], LAYER_OPTIONS, Recurrent, "recurrent layers")


def write_layers(
    graph: Graph, layers: Recurrent, x: str, initial: Sequence[NDArray] = ()
) -> tuple[str, list[list[str]], str]:
    """Write the stack.

    Parameters
    ----------
    graph : Graph
    layers : Recurrent
    x : str
        Name of the input, of shape (n_samples, n_timesteps, n_features).
    initial : sequence of ndarray of shape (num_layers * directions, hidden_size), default=()
        Initial states of all samples, h first; zeros if there are none.

    Returns
    -------
    output : str
        Name of the last layer's Y, of shape (n_timesteps, directions, n_samples, hidden_size).
    states : list of list of str
        Names of Y_h (and Y_c) of each layer, each of shape (directions, n_samples, hidden_size).
    read : str
        Name of what the last layer reads, of shape (n_timesteps, n_samples, n_features).
    """
    if graph.lengths and layers.residual:  # what is added behind the end of a sequence must be zero
        x = graph.add("Where", write_valid(graph, x), x, np.float32(0))
    read = graph.add("Transpose", x, perm=[1, 0, 2])
    output, first = _write_layer(graph, layers, 0, read, initial)
    states = [first]
    for k in range(1, layers.num_layers):
        read = write_output(graph, layers, k - 1, output, read)
        output, names = _write_layer(graph, layers, k, read, initial)
        states.append(names)
    return output, states, read


def _write_layer(
    graph: Graph, layers: Recurrent, k: int, read: str, initial: Sequence[NDArray]
) -> tuple[str, list[str]]:
    """Write layer k, which reads what has that name; return the names of Y and of the final states."""
    directions = 1 + layers.bidirectional
    operator = find_operator(layers.cell.name, directions)
    suffixes, parameters = [f"l{k}", f"l{k}_reverse"][:directions], dict(layers.parameters)
    if layers.proj_size:  # h before its projection stays in the node, whose weights then contain this
        products = {s: parameters[f"weight_hh_{s}"] @ parameters[f"weight_hr_{s}"] for s in suffixes}
        parameters |= {f"weight_hh_{s}": product for s, product in products.items()}
    arrays = weights_to_onnx(layers.cell.name, parameters, suffixes)
    names = {
        name: "" if array is None else graph.constant(array, f"{name}_l{k}") for name, array in arrays.items()
    }
    begin = [_write_initial(graph, read, state[k * directions :][:directions]) for state in initial]
    inputs = [read, names["W"], names["R"], names["B"], graph.lengths, *begin]
    inputs += [""] * (7 - len(inputs)) + [names["P"]] if names["P"] else []
    states = [f"{state}_l{k}" for state in layers.cell.states]
    output = graph.add(
        operator.op_type, *inputs, out=[f"output_l{k}", *states], hidden_size=layers.hidden_size,
        direction="bidirectional" if layers.bidirectional else "forward",
        **operator.attributes,
    )  # fmt: skip
    if layers.proj_size:
        projections = np.stack([parameters[f"weight_hr_{s}"].T for s in suffixes]).astype(np.float32)
        name = graph.constant(projections, f"projection_l{k}")
        output, states[0] = (graph.add("MatMul", each, name) for each in (output, states[0]))
    return output, states


def _write_initial(graph: Graph, read: str, state: NDArray) -> str:
    """Write one initial state of all samples, (directions, hidden_size), for as many as there are."""
    directions, hidden = state.shape
    n_samples = graph.add("Gather", graph.add("Shape", read), np.array([1]))
    shape = graph.add("Concat", np.array([directions]), n_samples, np.array([hidden]), axis=0)
    return graph.add("Expand", state[:, np.newaxis].astype(np.float32), shape)


def write_output(graph: Graph, layers: Recurrent, k: int, output: str, read: str) -> str:
    """Write what becomes of the Y of layer k: its output, (n_timesteps, n_samples, n_outputs).

    Parameters
    ----------
    graph : Graph
    layers : Recurrent
    k : int
        Number of the layer, from 0 or, of the last ones, from -1.
    output, read : str
        Names of Y, and of what the layer has read.
    """
    joined = join_directions(graph, output, layers, 1)
    n_read = layers.output_size if k % layers.num_layers else layers.input_size
    adds = layers.residual and n_read == layers.output_size
    return graph.add("Add", read, joined) if adds else joined


def join_directions(graph: Graph, array: str, layers: Recurrent, axis: int) -> str:
    """Merge the directions, which are this axis of an array of shape (..., directions, n_samples, units)."""
    if not layers.bidirectional or layers.merge == "concat":
        moved = graph.add("Transpose", array, perm=[*range(axis), axis + 1, axis, axis + 2])
        return graph.add("Reshape", moved, np.array([0] * (axis + 1) + [layers.output_size]))
    if layers.merge == "sum":  # the only one that has its axes as an input in this opset
        return graph.add("ReduceSum", array, np.array([axis]), keepdims=0)
    op_type = {"mean": "ReduceMean", "product": "ReduceProd"}[layers.merge]
    return graph.add(op_type, array, axes=[axis], keepdims=0)


def write_valid(graph: Graph, x: str) -> str:
    """Write which steps of x are not behind the end of their sequence: (n_samples, n_timesteps, 1)."""
    n_timesteps = graph.add("Gather", graph.add("Shape", x), np.array(1))
    steps = graph.add("Range", np.array(0), n_timesteps, np.array(1))
    ends = graph.add("Unsqueeze", graph.add("Cast", graph.lengths, to=INT64), np.array([1]))
    return graph.add("Unsqueeze", graph.add("Less", steps, ends), np.array([2]))


def write_recurrent(graph: Graph, layers: Recurrent) -> None:
    """Write a `Recurrent`: output and final states."""
    check_layers(layers)
    x = graph.input(["n_samples", "n_timesteps", layers.input_size])
    output, states, read = write_layers(graph, layers, x)
    graph.add("Transpose", write_output(graph, layers, -1, output, read), perm=[1, 0, 2], out="output")
    graph.output("output", np.float32, ["n_samples", "n_timesteps", layers.output_size])
    widths = {"h": layers.proj_size or layers.hidden_size}
    for k, name in enumerate(layers.cell.states):
        graph.add("Concat", *(layer[k] for layer in states), axis=0, out=name)
        width = widths.get(name, layers.hidden_size)
        graph.output(name, np.float32, [layers.num_layers * (1 + layers.bidirectional), "n_samples", width])
