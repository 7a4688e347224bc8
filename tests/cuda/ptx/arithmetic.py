"""Instructions that compute, as expressions of NumPy in a, b and c."""

from functools import cache

import numpy as np
from numba import types, vectorize
from numba.extending import intrinsic

__all__ = ["COMPARISONS", "FUNCTIONS", "expression_of"]


@intrinsic
def _llvm_fma(typing, a, b, c):
    return a(a, a, a), lambda context, builder, signature, arguments: builder.fma(*arguments)


@cache
def _compiled_fma():
    signatures = [real(real, real, real) for real in (types.float32, types.float64)]
    return vectorize(signatures, nopython=True)(lambda a, b, c: _llvm_fma(a, b, c))


def fma(a, b, c):
    """Return a b + c, rounded once."""
    return _compiled_fma()(a, b, c)


def fma_down(a, b, c):
    """Return a b + c of float32, rounded towards minus infinity."""
    near, error = _sum_and_error(a.astype("f8") * b.astype("f8"), c.astype("f8"))  # the product is exact
    return np.where(error < 0, np.nextafter(near, np.float32(-np.inf)), near)


def add_to_zero(a, b):
    """Return a + b of float32, rounded towards zero."""
    near, error = _sum_and_error(a.astype("f8"), b.astype("f8"))
    return np.where(error * near < 0, np.nextafter(near, np.float32(0)), near)


def _sum_and_error(a, b):
    """Return a + b of float64 as float32, and a number of the sign of what that lacks."""
    total = a + b
    part = total - a
    lost = (a - (total - part)) + (b - part)
    near = total.astype("f4")
    return near, np.where(near == total, lost, total - near)


def truncated_divide(a, b):
    """Return a quotient of integers, cut off as in C; one by 0 is any number."""
    b = np.where(b == 0, b + b.dtype.type(1), b)
    quotient = a // b
    return quotient + ((a != quotient * b) & ((a < 0) != (b < 0))).astype(a.dtype)


def multiply_high(a, b):
    """Return the upper half of the product of two int64."""
    low, half = np.int64(0xFFFFFFFF), np.int64(32)
    a1, a0, b1, b0 = a >> half, a & low, b >> half, b & low
    middle = a1 * b0 + (a0.astype("u8") * b0.astype("u8") >> np.uint64(32)).astype("i8")
    return a1 * b1 + (middle >> half) + ((a0 * b1 + (middle & low)) >> half)


def shift_left(a, count):
    """Return a shifted, by its width or more too."""
    width = 8 * a.dtype.itemsize
    shifted = a << np.minimum(count, width - 1).astype(a.dtype)
    return np.where(count < width, shifted, shifted.dtype.type(0))


def shift_right(a, count):
    """Return a shifted; beyond its width nothing is left but the sign of what has one."""
    width = 8 * a.dtype.itemsize
    shifted = a >> np.minimum(count, width - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(count < width, shifted, shifted.dtype.type(0))


def to_integer(value, kind):
    """Return a float cut off, at most what the type can hold; NaN is 0."""
    limits = np.iinfo(kind)
    whole = np.nan_to_num(np.trunc(value.astype("f8")), posinf=np.inf, neginf=-np.inf)
    inside = np.where((whole > limits.min) & (whole < limits.max), whole, 0).astype(kind)
    ends = np.where(whole >= limits.max, np.array(limits.max, kind), np.array(limits.min, kind))
    return np.where((whole >= limits.max) | (whole <= limits.min), ends, inside)


def saturate(value):
    """Return a float between 0 and 1; NaN is 0."""
    return np.fmin(np.fmax(value, value.dtype.type(0)), value.dtype.type(1))


def flush(value):
    """Return zero for what is not normal."""
    small = np.abs(value) < np.finfo(value.dtype).tiny
    return np.where(small, np.copysign(value.dtype.type(0), value), value)


def clear_low_word(value):
    """Return float64 without the lower half of its bits."""
    return (value.view("u8") & np.uint64(0xFFFFFFFF00000000)).view("f8")


FUNCTIONS = {
    each.__name__: each
    for each in (
        fma, fma_down, add_to_zero, truncated_divide, multiply_high, shift_left, shift_right, to_integer,
        saturate, flush, clear_low_word,
    )
} | {"np": np}  # fmt: skip

# by the whole instruction, by the kind of its type ("div.s"), or without it
_EXPRESSIONS = {
    "add": "a + b", "sub": "a - b", "mul": "a * b", "mul.lo": "a * b", "mul.rn": "a * b", "add.rn": "a + b",
    "add.rz.f32": "add_to_zero(a, b)", "mul.hi.s64": "multiply_high(a, b)", "mad.lo": "a * b + c",
    "div.s": "truncated_divide(a, b)", "div.u": "truncated_divide(a, b)", "div.rn": "a / b",
    "rem.s": "a - truncated_divide(a, b) * b", "rem.u": "a - truncated_divide(a, b) * b",
    "fma.rn": "fma(a, b, c)", "fma.rm.f32": "fma_down(a, b, c)",
    "and": "a & b", "or": "a | b", "xor": "a ^ b", "not": "~a", "neg": "-a", "abs": "np.abs(a)",
    "mov": "a", "cvta.to.global": "a", "copysign": "np.copysign(b, a)",
    "shl": "shift_left(a, b)", "shr": "shift_right(a, b)",
    "min.f": "np.fmin(a, b)", "max.f": "np.fmax(a, b)",
    "min": "np.minimum(a, b)", "max": "np.maximum(a, b)",
    "sqrt.rn": "np.sqrt(a)", "rcp.rn": "1 / a", "rcp.approx.ftz.f32": "flush(1 / flush(a))",
    "rcp.approx.ftz.f64": "clear_low_word(1 / flush(a))", "ex2.approx.ftz.f32": "flush(np.exp2(flush(a)))",
}  # fmt: skip

# a "u" behind those of floats says that they hold where an operand is NaN
COMPARISONS = {
    "eq": "a == b", "ne": "(a < b) | (a > b)", "lt": "a < b", "le": "a <= b", "gt": "a > b", "ge": "a >= b",
    "equ": "~((a < b) | (a > b))", "neu": "a != b", "ltu": "~(a >= b)", "leu": "~(a > b)",
    "gtu": "~(a <= b)", "geu": "~(a < b)", "num": "(a == a) & (b == b)", "nan": "(a != a) | (b != b)",
}  # fmt: skip


def expression_of(instruction):
    """Return the expression of an instruction, such as "add.f32".

    Raises
    ------
    NotImplementedError
    """
    end = instruction.rindex(".")
    for name in (instruction, instruction[: end + 2], instruction[:end]):
        if name in _EXPRESSIONS:
            return _EXPRESSIONS[name]
    raise NotImplementedError(instruction)
