"""`to_onnx`: a fitted estimator, or recurrent layers, as one ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import numbarnn
from numbarnn.checks import boolean
from numbarnn.interop.onnx.layers import (
    check_layers,
    check_options,
    join_directions,
    write_layers,
    write_output,
    write_recurrent,
    write_valid,
)
from numbarnn.losses import LOSSES
from numbarnn.network import Network
from numbarnn.recurrent import Recurrent

if TYPE_CHECKING:
    from onnx import ModelProto

    from numbarnn.interop.onnx.graph import Graph

__all__ = ["to_onnx"]

INT64 = 7  # onnx.TensorProto.INT64
OPSET, IR_VERSION = 17, 8  # of June 2022; ONNX Runtime reads them from its version 1.12
# The options that are written, or that say nothing about a fitted network; any other must have its default.
NETWORK_OPTIONS = {
    "cell", "input_size", "hidden_size", "n_outputs", "num_layers", "bidirectional", "dropout",
    "return_sequences", "dtype", "embedding", "stem_sizes", "head_sizes", "initial_state",
    "recurrent_dropout", "residual", "merge", "proj_size",
}  # fmt: skip


def to_onnx(estimator: Any, path: str | PathLike | None = None, *, lengths: bool = False) -> ModelProto:
    """Write a fitted estimator as one ONNX model.

    Parameters
    ----------
    estimator : RNNRegressor, RNNClassifier, Recurrent or sklearn.pipeline.Pipeline
        Fitted. A pipeline may have StandardScaler and MinMaxScaler before one of the first two.
    path : str or path-like, default=None
        File to write the model to.
    lengths : bool, default=False
        Whether the model has a second input "lengths", int32 of shape (n_samples,): the number of valid steps
        of each sample.

    Returns
    -------
    model : onnx.ModelProto
        Its input is "X", float32, of shape (n_samples, n_timesteps, n_features), or (n_samples,
        n_timesteps * n_channels) if that is what the estimator was fitted on. The number of samples may
        differ from call to call, and where X has three dimensions that of steps. Its outputs are what
        `predict` and `predict_proba` return, under the names that skl2onnx gives them: "variable" of a
        regressor; "label" and "probabilities" of a classifier; "output" and the final states, "h" and "c",
        of a `Recurrent`.

    Raises
    ------
    ImportError
        If ``onnx`` is not installed.
    TypeError
        If the estimator is of another class, or `lengths` neither True nor False.
    ValueError
        If ONNX has no operator for its cell or for an option; the message names it.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    Notes
    -----
    The model has opset 17 and IR version 8, which ONNX Runtime reads from its version 1.12.

    All numbers in the model are float32, those of an estimator with ``dtype="float64"`` as well: ONNX Runtime
    has RNN, LSTM and GRU for float32 alone.

    Past the end of a sequence outputs are as those of `predict`: zero, and the first class as label.

    Inputs are not checked, since ONNX has no means for it, where `predict` raises an error. Of `embedding` a
    category of -1 is the last one, and 1.7 is 1; ONNX Runtime refuses those that are too large.

    What ONNX Runtime does by itself (seen in 1.32): its Softplus is infinite for large arguments, so that
    cells with ``softplus`` need `clip` there, and an X without samples or steps may abort the process.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn import Recurrent, to_onnx
    >>> model = to_onnx(Recurrent("gru", input_size=3, hidden_size=8, num_layers=2), lengths=True)
    >>> [node.op_type for node in model.graph.node if node.op_type == "GRU"]
    ['GRU', 'GRU']
    >>> [i.name for i in model.graph.input], [o.name for o in model.graph.output]
    (['X', 'lengths'], ['output', 'h'])
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError('to_onnx needs onnx: pip install "numbarnn[onnx]"') from error
    from numbarnn.interop.onnx.graph import Graph

    graph = Graph(boolean("lengths", lengths))
    if isinstance(estimator, Recurrent):
        write_recurrent(graph, estimator)
    else:
        _write_estimator(graph, *_unpack(estimator))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "numbarnn", graph.inputs, graph.outputs, graph.constants),
        producer_name="numbarnn", producer_version=numbarnn.__version__, ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        onnx.save(model, path)
    return model


def _unpack(estimator: Any) -> tuple[list, Any]:
    """Return the scalers of a pipeline and its last step, fitted."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    scalers = []
    if isinstance(estimator, Pipeline):
        *before, (_, estimator) = estimator.steps
        scalers = [step for _, step in before if step not in (None, "passthrough")]
    if not isinstance(estimator, numbarnn.RNNRegressor | numbarnn.RNNClassifier):
        expected = "RNNRegressor, RNNClassifier, Recurrent, or a Pipeline that ends in one of the first two"
        raise TypeError(f"estimator was {type(estimator).__name__}; expected {expected}")
    for step in [*scalers, estimator]:
        check_is_fitted(step)
    return scalers, estimator


# ---- estimators


def _write_estimator(graph: Graph, scalers: list, estimator: Any) -> None:
    """Write scalers, layers, head and what the loss makes of its output."""
    network, loss = estimator.network_, estimator._trained_loss
    check_options(network.config, NETWORK_OPTIONS, Network, "network")
    check_layers(network.recurrent)
    if network.recurrent.proj_size and network.config["initial_state"] == "learned":
        raise ValueError(
            "initial_state of the network was 'learned', which is not written as ONNX with proj_size"
        )
    kind = {cls: name for name, cls in LOSSES.items()}.get(type(loss))
    if kind is None:
        raise ValueError(f"loss was {type(loss).__name__}; expected one of {', '.join(LOSSES)}")
    n_features = network.config["input_size"]
    if estimator._input_ndim == 2:
        x = graph.input(["n_samples", estimator.n_features_in_])
        x = _write_scalers(graph, scalers, x)
        x = graph.add("Reshape", x, np.array([0, -1, n_features]))
    else:
        x = graph.input(["n_samples", "n_timesteps", n_features])
    parameters = network.named_parameters
    initial = [values for name, values in parameters.items() if name.startswith("initial_state.")]
    below = _write_embedding(graph, network, x)
    below = _write_stack(graph, parameters, "stem", len(network.config["stem_sizes"]), below)
    features = _write_features(graph, network, below, initial)
    name = "probabilities" if kind == "log_loss" else "result"
    if graph.lengths and network.return_sequences:
        result = _write_head(graph, network, kind, features)
        graph.add("Where", write_valid(graph, x), result, np.float32(0), out=name)
    else:
        _write_head(graph, network, kind, features, name)
    leading = ["n_samples", _steps(estimator)] if network.return_sequences else ["n_samples"]
    if kind == "log_loss":
        _write_classes(graph, estimator.classes_, leading)
    else:
        _write_targets(graph, estimator, leading)


def _write_features(graph: Graph, network: Network, x: str, initial: Sequence[NDArray]) -> str:
    """Write the recurrent layers and what the head sees of them."""
    layers = network.recurrent
    output, states, read = write_layers(graph, layers, x, initial)
    if network.return_sequences:
        return graph.add("Transpose", write_output(graph, layers, -1, output, read), perm=[1, 0, 2])
    if not layers.residual:  # of the last valid step; of the other direction, of the first
        return join_directions(graph, states[-1][0], layers, 0)
    output = write_output(graph, layers, -1, output, read)
    if graph.lengths:
        last = graph.add("Sub", graph.add("Cast", graph.lengths, to=INT64), np.array(1))
        found = graph.add("Transpose", output, perm=[1, 0, 2])
        found = graph.add("GatherND", found, graph.add("Unsqueeze", last, np.array([1])), batch_dims=1)
        ends = [graph.add("Unsqueeze", found, np.array([0]))]
    else:
        ends = [graph.add("Gather", output, np.array([-1]), axis=0)]
    if layers.bidirectional:
        ends.append(graph.add("Gather", output, np.array([0]), axis=0))
        if layers.merge == "concat":
            halves = np.split(np.arange(layers.output_size), 2)
            ends = [graph.add("Gather", end, half, axis=2) for end, half in zip(ends, halves, strict=True)]
    return join_directions(graph, graph.add("Concat", *ends, axis=0), layers, 0)


def _steps(estimator: Any) -> int | str:
    """Return the number of steps if it is always the same."""
    if estimator._input_ndim == 2:
        return estimator.n_features_in_ // estimator.network_.config["input_size"]
    return "n_timesteps"


def _write_scalers(graph: Graph, scalers: list, x: str) -> str:
    """Write scalers of columns, each as (x - center) * factor + shift."""
    for scaler in scalers:
        for op_type, values in zip(("Sub", "Mul", "Add"), _scaling(scaler), strict=True):
            x = graph.add(op_type, x, np.asarray(values, np.float32))
    return x


def _scaling(scaler: Any) -> tuple[Any, Any, Any]:
    """Return center, factor and shift of a fitted scaler."""
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    if type(scaler) is StandardScaler:
        center = 0.0 if scaler.mean_ is None or not scaler.with_mean else scaler.mean_
        return center, 1.0 if scaler.scale_ is None else 1 / scaler.scale_, 0.0
    if type(scaler) is MinMaxScaler and not scaler.clip:
        return scaler.data_min_, scaler.scale_, scaler.feature_range[0]
    raise ValueError(
        f"a step of the pipeline was {scaler}; expected StandardScaler, or MinMaxScaler without clip"
    )


def _write_embedding(graph: Graph, network: Network, x: str) -> str:
    """Write what puts learned vectors in the place of categories, behind the other features."""
    config = network.config
    if not config["embedding"]:
        return x
    if graph.lengths:  # Gather would refuse what stands behind the end of a sequence, if it is no category
        x = graph.add("Where", write_valid(graph, x), x, np.float32(0))
    categorical = [feature for feature, _, _ in config["embedding"]]
    numeric = [k for k in range(config["input_size"]) if k not in categorical]
    parts = [graph.add("Gather", x, np.array(numeric), axis=2)] if numeric else []
    for feature in categorical:
        numbers = graph.add("Cast", graph.add("Gather", x, np.array(feature), axis=2), to=INT64)
        name = f"embedding.{feature}"
        table = graph.constant(network.named_parameters[name].astype(np.float32), name)
        parts.append(graph.add("Gather", table, numbers))
    return graph.add("Concat", *parts, axis=2)


def _write_dense(
    graph: Graph, name: str, weight: NDArray, bias: NDArray, x: str, link: str | None, out: str = ""
) -> str:
    """Write a dense layer, and the operator behind it if there is one."""
    product = graph.add("MatMul", x, graph.constant(weight.T.astype(np.float32), f"{name}.weight"))
    bias = graph.constant(bias.astype(np.float32), f"{name}.bias")
    raw = graph.add("Add", product, bias, out="" if link else out)
    return graph.add(link, raw, out=out) if link else raw


def _write_stack(graph: Graph, parameters: Mapping[str, NDArray], name: str, n_layers: int, x: str) -> str:
    """Write hidden dense layers with their rectifiers."""
    for k in range(n_layers):
        layer = f"{name}.{k}"
        weight, bias = parameters[f"{layer}.weight"], parameters[f"{layer}.bias"]
        x = _write_dense(graph, layer, weight, bias, x, "Relu")
    return x


def _write_head(graph: Graph, network: Network, kind: str, features: str, out: str = "") -> str:
    """Write the dense layers of the head and the inverse link function; of a classifier, probabilities."""
    parameters = network.named_parameters
    x = _write_stack(graph, parameters, "head", len(network.config["head_sizes"]), features)
    weight, bias = parameters["head.weight"], parameters["head.bias"]
    if kind == "log_loss" and len(bias) == 1:  # the logistic function is softmax over zero and the raw output
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    link = {"log_loss": "Softmax", "poisson": "Exp"}.get(kind)
    return _write_dense(graph, "head", weight, bias, x, link, out)


def _write_classes(graph: Graph, classes: NDArray, leading: list) -> None:
    """Write what becomes of "probabilities": labels."""
    kinds = {"U": object, "i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}
    found = np.asarray(classes.tolist())  # of an array of objects, what they are
    if found.dtype.kind not in kinds:
        raise ValueError(f"classes_ were {classes}; expected strings, numbers or booleans")
    classes = found.astype(kinds[found.dtype.kind])
    graph.output("label", classes.dtype, leading)
    graph.output("probabilities", np.float32, [*leading, len(classes)])
    best = graph.add("ArgMax", "probabilities", axis=-1, keepdims=0)
    graph.add("Gather", graph.constant(classes, "classes"), best, out="label")


def _write_targets(graph: Graph, estimator: Any, leading: list) -> None:
    """Write what becomes of "result": "variable" in the shape of `predict`, several quantiles sorted."""
    levels = np.asarray(getattr(estimator._trained_loss, "level", 0.0))
    shape = [] if estimator._flat else [estimator.n_outputs_]
    shape += levels.shape
    graph.output("variable", np.float32, [*leading, *shape])
    many, sizes = levels.ndim == 1, np.array([0] * len(leading) + shape)  # 0: as it is
    result = graph.add("Reshape", "result", sizes, out="" if many else "variable")
    if many:
        found = graph.add("TopK", result, np.array([levels.size]), out=["quantiles", "order"], largest=0)
        graph.add("Gather", found, np.argsort(np.argsort(levels)), out="variable", axis=-1)
