"""The operators around the recurrent ones in what `to_onnx` and PyTorch's export write, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def _cast(x: NDArray, to: int) -> NDArray:
    from onnx.helper import tensor_dtype_to_np_dtype

    return x.astype(tensor_dtype_to_np_dtype(to))


def _constant(
    value: NDArray | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
) -> NDArray:
    whole = value_ints if value_int is None else value_int
    real = value_floats if value_float is None else value_float
    plain = np.asarray(real, np.float32) if whole is None else np.asarray(whole, np.int64)
    return plain if value is None else value


def _constant_of_shape(shape: NDArray, value: NDArray | None = None) -> NDArray:
    return np.full(shape, np.float32(0) if value is None else value)


def _gemm(
    a: NDArray, b: NDArray, c: NDArray | None = None, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> NDArray:  # fmt: skip
    product = np.float32(alpha) * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + np.float32(beta) * c


def _slice(
    x: NDArray, starts: NDArray, ends: NDArray, axes: NDArray | None = None, steps: NDArray | None = None
) -> NDArray:
    where = [slice(None)] * x.ndim
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones_like(starts) if steps is None else steps
    for axis, start, end, step in zip(*map(np.ndarray.tolist, (axes, starts, ends, steps)), strict=True):
        where[axis] = slice(start, end, step)
    return x[tuple(where)]


def _squeeze(x: NDArray, axes: NDArray | None = None) -> NDArray:
    return x.squeeze(None if axes is None else tuple(axes.tolist()))


def _concat(*arrays: NDArray, axis: int) -> NDArray:
    return np.concatenate(arrays, axis)


def _softmax(x: NDArray, axis: int = -1) -> NDArray:
    shifted = np.exp(x - x.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def _reshape(x: NDArray, shape: NDArray, allowzero: int = 0) -> NDArray:
    kept = None if allowzero else 0  # the size that says: as it was
    sizes = [x.shape[i] if size == kept else size for i, size in enumerate(shape.tolist())]
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
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Exp": lambda x: np.exp(x),
    "Expand": lambda x, shape: x * np.ones(shape, x.dtype),
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Identity": lambda x: x,
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
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Slice": _slice,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": lambda a, b: a - b,
    "Tanh": lambda x: np.tanh(x),
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda condition, a, b: np.where(condition, a, b),
}
