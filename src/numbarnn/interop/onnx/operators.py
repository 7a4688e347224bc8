"""The operators around the recurrent ones in the models that `to_onnx` writes, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def _cast(x: NDArray, to: int) -> NDArray:
    from onnx.helper import tensor_dtype_to_np_dtype

    return x.astype(tensor_dtype_to_np_dtype(to))


def _concat(*arrays: NDArray, axis: int) -> NDArray:
    return np.concatenate(arrays, axis)


def _softmax(x: NDArray, axis: int = -1) -> NDArray:
    shifted = np.exp(x - x.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def _reshape(x: NDArray, shape: NDArray) -> NDArray:
    sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())]  # 0: as it was
    return x.reshape(sizes)


def _unsqueeze(x: NDArray, axes: NDArray) -> NDArray:
    return np.expand_dims(x, tuple(axes.tolist()))


def _arg_max(x: NDArray, axis: int = 0, keepdims: int = 1) -> NDArray:
    return x.argmax(axis=axis, keepdims=bool(keepdims)).astype(np.int64)


def _gather(x: NDArray, indices: NDArray, axis: int = 0) -> NDArray:
    return np.asarray(np.take(x, indices, axis=axis))


def _gather_nd(x: NDArray, indices: NDArray, batch_dims: int = 0) -> NDArray:
    batch = np.indices(indices.shape[:-1])[:batch_dims]
    return x[(*batch, *np.moveaxis(indices, -1, 0))]


def _reduce_sum(x: NDArray, axes: NDArray, keepdims: int = 1) -> NDArray:
    return x.sum(axis=tuple(axes.tolist()), keepdims=bool(keepdims))


def _reduce_mean(x: NDArray, axes: Sequence[int], keepdims: int = 1) -> NDArray:
    return x.mean(axis=tuple(axes), keepdims=bool(keepdims))


def _reduce_prod(x: NDArray, axes: Sequence[int], keepdims: int = 1) -> NDArray:
    return x.prod(axis=tuple(axes), keepdims=bool(keepdims))


def _top_k(x: NDArray, k: NDArray, axis: int = -1, largest: int = 1) -> tuple[NDArray, NDArray]:
    order = np.argsort(-x if largest else x, axis=axis, kind="stable")
    order = order.take(np.arange(int(k.item())), axis=axis)
    return np.take_along_axis(x, order, axis=axis), order.astype(np.int64)


def _transpose(x: NDArray, perm: Sequence[int] | None = None) -> NDArray:
    return x.transpose(perm)


def _shape(x: NDArray) -> NDArray:
    return np.array(x.shape, np.int64)


def _range(start: NDArray, limit: NDArray, delta: NDArray) -> NDArray:
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


# Called with the node's inputs and its attributes; an attribute that is no parameter is refused.
OPERATORS: dict[str, Callable] = {
    "Add": lambda a, b: a + b,
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Concat": _concat,
    "Exp": lambda x: np.exp(x),
    "Expand": lambda x, shape: x * np.ones(shape, x.dtype),
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Less": lambda a, b: np.asarray(a < b),
    "MatMul": lambda a, b: a @ b,
    "Mul": lambda a, b: a * b,
    "Range": _range,
    "ReduceMean": _reduce_mean,
    "ReduceProd": _reduce_prod,
    "ReduceSum": _reduce_sum,
    "Relu": lambda x: np.maximum(x, 0),
    "Reshape": _reshape,
    "Shape": _shape,
    "Softmax": _softmax,
    "Sub": lambda a, b: a - b,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda condition, a, b: np.where(condition, a, b),
}
