"""`Backend`: models of the operators RNN, LSTM and GRU, run by us through ONNX's own interface."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.interop.onnx.cells import GATES
from numbarnn.interop.onnx.operators import OPERATORS
from numbarnn.interop.onnx.recurrent import RecurrentNode

try:
    import onnx
    from onnx.backend import base
except ImportError as error:
    raise ImportError('numbarnn.interop.onnx.Backend needs onnx: pip install "numbarnn[onnx]"') from error

__all__ = ["Backend", "BackendRep"]

RECURRENT_VERSIONS = (7, 14, 22)  # of RNN, LSTM and GRU: what they compute is the same in all of them
OLDEST_OPSET = 13  # of models with other operators than these


class Step(NamedTuple):
    """A node that is ready to run: the names of what goes in and out, and a function."""

    label: str
    run: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class BackendRep(base.BackendRep):
    """A model that is ready to run; `Backend.prepare` makes it.

    Attributes
    ----------
    input_names, output_names : tuple of str
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        inputs = [i for i in graph.input if i.name not in self._constants]
        self.input_names = tuple(i.name for i in inputs)
        self._types = {i.name: i.type.tensor_type for i in inputs}
        self.output_names = tuple(output.name for output in graph.output)
        opset = _opset(model)
        self._steps = []
        for node in graph.node:
            step = _make_step(node, opset, self._constants)
            if node.op_type == "Constant":  # known before a node that has it as weights is made
                self._constants |= _run_step(step, {})
            else:
                self._steps.append(step)
        self._result = base.namedtupledict("Outputs", self.output_names)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[NDArray, ...]:
        """Run the model.

        Parameters
        ----------
        inputs : sequence of ndarray
            In the order of `input_names`.
        **kwargs : dict
            Not used.

        Returns
        -------
        outputs : namedtuple of ndarray
            In the order of `output_names`; also to be had by name.

        Raises
        ------
        ValueError, TypeError
            If there are more or fewer inputs, or one has a shape or type that a node cannot take.
        """
        inputs = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        if len(inputs) != len(self.input_names):
            raise ValueError(f"inputs were {len(inputs)} arrays; expected {', '.join(self.input_names)}")
        arrays = dict(zip(self.input_names, map(np.asarray, inputs), strict=True))
        for name, array in arrays.items():
            _check_shape(name, array, self._types[name])
        values = arrays | self._constants
        for step in self._steps:
            values.update(_run_step(step, values))
        return self._result(*(values[name] for name in self.output_names))


class Backend(base.Backend):
    """ONNX's backend interface for models of the operators RNN, LSTM and GRU.

    It is for what `numbarnn.to_onnx` writes, and for recurrent networks from elsewhere, such as PyTorch's
    export of a module with a dense head: not for models in general. All attributes and inputs of the three
    operators are read, of their versions 7, 14 and 22, and a few other operators around them, which the error
    for an unknown one lists. ``onnx.backend.test.BackendTest(Backend, __name__)`` runs ONNX's
    own tests.

    Notes
    -----
    Nodes with the usual activations and without clipping are run by `numbarnn.Recurrent`, others by a plain
    loop over time in NumPy, which is slower: see `numbarnn.interop.onnx.recurrent.RecurrentNode`, also for
    what the documentation of the operators leaves open.

    Examples
    --------
    >>> import numpy as np
    >>> import numbarnn
    >>> from numbarnn.interop.onnx import Backend
    >>> layer = numbarnn.Recurrent("lstm", input_size=3, hidden_size=4, random_state=0)
    >>> x = np.ones((2, 5, 3), "float32")
    >>> output, h, c = Backend.prepare(numbarnn.to_onnx(layer)).run([x])
    >>> np.allclose(output, layer.forward(x)[0], atol=1e-6)
    True
    """

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether all operators of a model are known here."""
        _check_model(model)
        return cls.supports_device(device) and not _unknown_operators(model.graph.node)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BackendRep:
        """Check a model and make it ready to run.

        Parameters
        ----------
        model : onnx.ModelProto
        device : str, default="CPU"
        **kwargs : dict
            Not used.

        Returns
        -------
        prepared : BackendRep

        Raises
        ------
        NotImplementedError
            If the model has other operators; all of them are listed.
        ValueError
            If the device is another, a node has no X, W or R, or an attribute of a node has no meaning.
        TypeError
            If the model is no ``onnx.ModelProto``.
        onnx.checker.ValidationError
            If it is no valid model.
        """
        _check_model(model)
        _check_device(cls, device)
        _refuse_unknown(model.graph.node)
        _check_weights(model.graph.node)
        super().prepare(model, device, **kwargs)
        return BackendRep(model)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[NDArray, ...]:
        """Run a single node.

        Parameters
        ----------
        node : onnx.NodeProto
        inputs : sequence of ndarray
            In the node's order, without those that it leaves out by an empty name.
        device : str, default="CPU"
        outputs_info : object
            Not used.
        **kwargs : dict
            ``opset_version``: that of the node; the newest if it is not given.

        Returns
        -------
        outputs : namedtuple of ndarray
            Without those that the node leaves out.

        Raises
        ------
        NotImplementedError, ValueError, TypeError, onnx.checker.ValidationError
            As `prepare` and `BackendRep.run`.
        """
        _check_device(cls, device)
        _refuse_unknown([node])
        _check_weights([node])
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        step = _make_step(node, kwargs.get("opset_version", onnx.defs.onnx_opset_version()), {})
        names = [name for name in step.inputs if name]
        inputs = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        if len(inputs) != len(names):
            raise ValueError(f"inputs were {len(inputs)} arrays; expected {', '.join(names)}")
        found = _run_step(step, dict(zip(names, map(np.asarray, inputs), strict=True)))
        return base.namedtupledict("Outputs", list(found))(*found.values())

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models run on a device, such as "CPU" or "CUDA:1": on "CPU" alone."""
        return device.partition(":")[0] == "CPU"


def _check_model(model: Any) -> None:
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model was {model!r}; expected an onnx.ModelProto, as onnx.load(path) reads it")


def _check_shape(name: str, array: NDArray, declared: onnx.TypeProto.Tensor) -> None:
    """Hold an input against the model's own words: a node that cannot take it has other names."""
    sizes = declared.shape.dim
    fits = len(sizes) == array.ndim and all(
        not size.HasField("dim_value") or size.dim_value == n
        for size, n in zip(sizes, array.shape, strict=True)
    )
    if declared.HasField("shape") and not fits:
        expected = ", ".join(str(size.dim_value or size.dim_param or "any") for size in sizes)
        raise ValueError(f"the input {name} had shape {array.shape}; expected ({expected})")


def _check_device(backend: type[Backend], device: str) -> None:
    if not backend.supports_device(device):
        raise ValueError(f"device was {device!r}; expected 'CPU'")


def _label(node: onnx.NodeProto) -> str:
    """Name a node for errors: by its first output if it has no name."""
    name = node.name or next((output for output in node.output if output), "")
    return f"node {name!r} ({node.op_type})"


def _is_known(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx") and (node.op_type in GATES or node.op_type in OPERATORS)


def _unknown_operators(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    unknown = {f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes if not _is_known(node)}
    return sorted(unknown)


def _refuse_unknown(nodes: Sequence[onnx.NodeProto]) -> None:
    unknown = _unknown_operators(nodes)
    if unknown:
        where = ", ".join(_label(node) for node in nodes if not _is_known(node))
        raise NotImplementedError(
            f"the model has operators that cannot be run: {', '.join(unknown)} ({where}); expected "
            f"{', '.join(sorted(GATES))}, and around them {', '.join(sorted(OPERATORS))}"
        )


def _check_weights(nodes: Iterable[onnx.NodeProto]) -> None:
    """Name what is missing, which ONNX's checker gives a number."""
    for node in nodes:
        given = [*node.input, "", "", ""]
        missing = [name for name, found in zip(("X", "W", "R"), given, strict=False) if not found]
        if node.op_type in GATES and missing:
            raise ValueError(f"{_label(node)}: the inputs {', '.join(missing)} were missing")


def _opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _make_step(node: onnx.NodeProto, opset: int, constants: dict[str, NDArray]) -> Step:
    """Check a node's version and attributes and make it ready to run."""
    label = _label(node)
    attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}
    inputs, outputs = tuple(node.input), tuple(node.output)
    if node.op_type in GATES:
        version = onnx.defs.get_schema(node.op_type, opset).since_version
        if version not in RECURRENT_VERSIONS:
            expected = ", ".join(map(str, RECURRENT_VERSIONS))
            raise ValueError(f"{label}: its operator had version {version}; expected one of {expected}")
        names = [name for k, name in enumerate(inputs) if name and k in (1, 2, 3, 7)]  # W, R, B, P
        fixed = all(name in constants for name in names)
        wanted = [bool(name) for name in outputs]
        return Step(label, RecurrentNode(label, node.op_type, attributes, wanted, fixed), inputs, outputs)
    if opset < OLDEST_OPSET:
        raise ValueError(f"{label}: the model had opset {opset}; expected {OLDEST_OPSET} or later")
    function = OPERATORS[node.op_type]
    unknown = sorted(set(attributes) - set(inspect.signature(function).parameters))
    if unknown:
        raise NotImplementedError(f"{label}: it had the attributes {', '.join(unknown)}, which are not known")
    return Step(label, partial(function, **attributes), inputs, outputs)


def _plain(value: Any) -> Any:
    """Return an attribute's value with str in the place of bytes, and an array in that of a tensor."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _run_step(step: Step, values: dict[str, NDArray]) -> dict[str, NDArray]:
    """Return the outputs of a node by name, but for those that it leaves out."""
    results = step.run(*(values[name] if name else None for name in step.inputs))
    results = results if isinstance(results, list | tuple) else [results]
    return {name: array for name, array in zip(step.outputs, results, strict=False) if name}
