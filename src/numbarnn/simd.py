"""SIMD registers as values inside njit code; the only room that writes machine operations.

`Vec` is a whole register of floats. Loads, stores, arithmetic, `tanh`, `sigmoid` and `relu` on it are what
the pointwise part of a cell is written in, so that it always runs at the full width of the processor,
whatever LLVM's vectoriser sees. `tile` is the one matrix product everything else is made of: a few rows times
a few registers, with general strides. The width of a register and the shapes of tiles follow from what the
code generator does with a vector that is too wide (`VECTOR_BYTES`, `REGISTERS`), and from nothing else. At
the end stand the treatment of subnormal numbers, and the words by which threads signal to each other.

NaN and infinities pass through everything here; no fast-math flag that forbids them is ever set.
"""

from __future__ import annotations

import math
import operator
import platform
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, overload, register_model
from numba.np.arrayobj import populate_array

# of functions that are only ever part of others: no entry points, which would have to be compiled as well
INLINED = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
i8, i32, i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
# reassociation and finite-math flags stay off: sums keep their order, NaN is NaN
ALLOWED = ("contract", "nsz", "arcp")


def probe_registers(target_machine: llvm.TargetMachine) -> tuple[int, int]:
    """Find the width in bytes and the number of the vector registers that this code generator uses.

    Asked of the generator itself, by compiling a sum that is too wide for any register: the features of the
    host, a processor set by NUMBA_CPU_NAME, and what LLVM prefers on it are then all answered at once.
    """
    wide = ir.VectorType(ir.FloatType(), 64)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [wide.as_pointer()] * 2), "probe")
    builder = ir.IRBuilder(function.append_basic_block())
    x, y = (builder.load(p, align=4) for p in function.args)
    builder.store(builder.fadd(x, y), function.args[0], align=4)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.triple = target_machine.triple
    assembly = target_machine.emit_assembly(parsed)
    if "zmm" in assembly:
        return 64, 32
    if "ymm" in assembly:
        return 32, 16
    return 16, 16 if "xmm" in assembly else 32


# `_tm` is the machine every njit function is compiled for; the public API has no word for it
VECTOR_BYTES, REGISTERS = probe_registers(cpu_target.target_context.codegen()._tm)


# ---- the type


class Vec(types.Type):
    """One register of `dtype` (types.float32 or types.float64)."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vec({dtype}, {VECTOR_BYTES} bytes)")


def _llvm_vector(dtype: types.Float) -> ir.VectorType:
    element = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, VECTOR_BYTES * 8 // dtype.bitwidth)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _llvm_vector(fe_type.dtype))


def _constant(vector: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _splat(builder, scalar, vector: ir.VectorType):
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, i32(0))
    first = ir.Constant(ir.VectorType(i32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, undefined, first)


def _call(builder, name: str, *args):
    vector = args[0].type
    element = "f32" if isinstance(vector.element, ir.FloatType) else "f64"
    function_type = ir.FunctionType(vector, [a.type for a in args])
    full_name = f"llvm.{name}.v{vector.count}{element}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, full_name), args)


def _fma(builder, a, b, c):
    # fmuladd, not fma: without FMA hardware it is a product and a sum, not a library call for every lane
    return _call(builder, "fmuladd", a, b, c)


def _horner(builder, x, coefficients):
    value = _constant(x.type, coefficients[0])
    for c in coefficients[1:]:
        value = _fma(builder, value, x, _constant(x.type, c))
    return value


def _binary_operator(python_operator, emit) -> None:
    """Define Vec op Vec, Vec op number, number op Vec; a number takes the type of the Vec."""

    @infer_global(python_operator)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            vectors = [a for a in args if isinstance(a, Vec)]
            numbers = (Vec, types.Float, types.Integer)
            if len(args) == 2 and vectors and all(isinstance(a, numbers) for a in args):
                vec = vectors[0]
                return signature(vec, *[vec if isinstance(a, Vec) else vec.dtype for a in args])

    def lower(context, builder, sig, args):
        vector = context.get_value_type(sig.return_type)
        typed = zip(sig.args, args, strict=True)
        values = [a if isinstance(t, Vec) else _splat(builder, a, vector) for t, a in typed]
        return emit(builder, *values)

    for argument_types in ((Vec, Vec), (Vec, types.Float), (types.Float, Vec)):
        lower_builtin(python_operator, *argument_types)(lower)


_binary_operator(operator.add, lambda b, x, y: b.fadd(x, y, ALLOWED))
_binary_operator(operator.sub, lambda b, x, y: b.fsub(x, y, ALLOWED))
_binary_operator(operator.mul, lambda b, x, y: b.fmul(x, y, ALLOWED))
_binary_operator(operator.truediv, lambda b, x, y: b.fdiv(x, y, ALLOWED))


# ---- memory: offsets count elements of a C-contiguous array; nothing checks bounds


def _address(context, builder, array_type, array, offset):
    if isinstance(array_type, types.Array):
        array = context.make_array(array_type)(context, builder, array).data
    return builder.gep(array, [offset])


@intrinsic
def address(typingctx, array):
    """Take the pointer to the first element: whatever here takes an array takes such a pointer as well."""

    def emit(context, builder, sig, args):
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@intrinsic
def lanes_of(typingctx, array):
    """Count the elements of `array` that one register holds."""
    lanes = VECTOR_BYTES * 8 // array.dtype.bitwidth
    return types.intp(array), lambda context, builder, sig, args: i64(lanes)


def _load(builder, pointer, vector: ir.VectorType):
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = 4
    return value


def _store(builder, value, pointer) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def _prefetch(builder, pointer) -> None:
    """Ask for the cache line at an address in the second-level cache; no address is an error."""
    function = ir.FunctionType(ir.VoidType(), [i8.as_pointer(), i32, i32, i32])
    prefetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
    to_read, second_level, data = i32(0), i32(2), i32(1)
    builder.call(prefetch, [builder.bitcast(pointer, i8.as_pointer()), to_read, second_level, data])


@intrinsic
def load(typingctx, array, offset):
    """Load the register at array[offset:offset + lanes]."""
    vec = Vec(array.dtype)

    def emit(context, builder, sig, args):
        pointer = _address(context, builder, sig.args[0], *args)
        return _load(builder, pointer, context.get_value_type(vec))

    return vec(array, types.intp), emit


@intrinsic
def store(typingctx, array, offset, value):
    """Store a register: array[offset:offset + lanes] = value."""

    def emit(context, builder, sig, args):
        _store(builder, args[2], _address(context, builder, sig.args[0], *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def first_lanes(typingctx, x, count):
    """Keep the first `count` elements of a register; the others become zero, NaN as well."""

    def emit(context, builder, sig, args):
        vector = args[0].type
        lanes = ir.Constant(ir.VectorType(i32, vector.count), list(range(vector.count)))
        counts = builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(args[1], i32), lanes.type))
        return builder.select(counts, args[0], _constant(vector, 0.0))

    return x(x, types.intp), emit


@intrinsic
def sum_lanes(typingctx, x):
    """Sum up the elements of a register, by halves."""

    def emit(context, builder, sig, args):
        (value,) = args
        while value.type.count > 1:
            lanes, half = value.type.count, value.type.count // 2
            undefined = ir.Constant(value.type, ir.Undefined)
            low, high = (
                builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(i32, half), list(places)))
                for places in (range(half), range(half, lanes))
            )
            value = builder.fadd(low, high)
        return builder.extract_element(value, i32(0))

    return x.dtype(x), emit


def load_tuple(context, builder, out: types.UniTuple, array_type, array, offset, stride):
    """Emit the loads of a tuple of registers at offset, offset + stride, ..."""
    vector = context.get_value_type(out.dtype)
    values = []
    for k in range(out.count):
        at = builder.add(offset, builder.mul(i64(k), stride))
        values.append(_load(builder, _address(context, builder, array_type, array, at), vector))
    return context.make_tuple(builder, out, values)


def store_tuple(context, builder, array_type, array, offset, stride, values):
    """Emit the stores of registers at offset, offset + stride, ..."""
    for k, value in enumerate(values):
        at = builder.add(offset, builder.mul(i64(k), stride))
        _store(builder, value, _address(context, builder, array_type, array, at))
    return context.get_dummy_value()


@intrinsic
def store_many(typingctx, array, offset, stride, values):
    """Store a tuple of registers at offset, offset + stride, ..."""

    def emit(context, builder, sig, args):
        return store_tuple(
            context, builder, sig.args[0], *args[:3], cgutils.unpack_tuple(builder, args[3], values.count)
        )

    return types.void(array, types.intp, types.intp, values), emit


# ---- rows: as intrinsics, since every function that is compiled by itself costs a tenth of a second


def _emit_row(context, builder, sig, args, change):
    """Emit b[to + i] = change(a[at + i], b[to + i]) for i < n: whole registers first, then what is left."""
    n, a, at, b, to = args
    vector = _llvm_vector(sig.args[1].dtype)
    source = _address(context, builder, sig.args[1], a, at)
    target = _address(context, builder, sig.args[3], b, to)
    whole = builder.and_(n, i64(-vector.count))
    with cgutils.for_range_slice(builder, i64(0), whole, i64(vector.count), intp=i64) as (i, _):
        from_place, to_place = builder.gep(source, [i]), builder.gep(target, [i])
        value = change(_load(builder, from_place, vector), lambda: _load(builder, to_place, vector))
        _store(builder, value, to_place)
    with cgutils.for_range_slice(builder, whole, n, i64(1), intp=i64) as (i, _):
        from_place, to_place = builder.gep(source, [i]), builder.gep(target, [i])
        builder.store(change(builder.load(from_place), lambda: builder.load(to_place)), to_place)
    return context.get_dummy_value()


@intrinsic
def copy_row(typingctx, n, a, at, b, to):
    """b[to:to + n] = a[at:at + n]."""

    def emit(context, builder, sig, args):
        return _emit_row(context, builder, sig, args, lambda new, old: new)

    return types.void(types.intp, a, types.intp, b, types.intp), emit


@intrinsic
def fetch_row(typingctx, n, a, at):
    """Ask for the cache lines of a[at:at + n] in the second-level cache; they may lie beyond the array."""

    def emit(context, builder, sig, args):
        n, a, at = args
        start = _address(context, builder, sig.args[1], a, at)
        line = i64(64 * 8 // sig.args[1].dtype.bitwidth)
        with cgutils.for_range_slice(builder, i64(0), n, line, intp=i64) as (i, _):
            _prefetch(builder, builder.gep(start, [i]))
        return context.get_dummy_value()

    return types.void(types.intp, a, types.intp), emit


@intrinsic
def add_row(typingctx, n, a, at, b, to):
    """b[to:to + n] += a[at:at + n]."""

    def emit(context, builder, sig, args):
        return _emit_row(context, builder, sig, args, lambda new, old: builder.fadd(old(), new))

    return types.void(types.intp, a, types.intp, b, types.intp), emit


@intrinsic
def clear_units(typingctx, first, last, rows, a, at, stride, part, parts):
    """Zero units `first` to `last` of rows: of `parts` parts, `part` apart, of rows `stride` apart."""
    n = types.intp

    def emit(context, builder, sig, args):
        first, last, rows, a, at, stride, part, parts = args
        start = _address(context, builder, sig.args[3], a, at)
        zero = ir.Constant(start.type.pointee, 0)
        with cgutils.for_range(builder, rows, intp=i64) as row:
            with cgutils.for_range(builder, parts, intp=i64) as piece:
                offset = builder.add(builder.mul(row.index, stride), builder.mul(piece.index, part))
                with cgutils.for_range_slice(builder, first, last, i64(1), intp=i64) as (u, _):
                    builder.store(zero, builder.gep(start, [builder.add(offset, u)]))
        return context.get_dummy_value()

    return types.void(n, n, n, a, n, n, n, n), emit


@intrinsic
def takes_step(typingctx, masked, n_rows, lengths, t, r):
    """Tell whether row r takes step t: one before its end, and not masked.

    A mask (steps, n_rows), if there is one, stands behind the n_rows lengths.
    """

    def emit(context, builder, sig, args):
        masked, n_rows, array, t, r = args
        place = builder.add(builder.mul(n_rows, builder.add(t, i64(1))), r)
        is_masked = builder.icmp_signed("!=", masked, i64(0))
        place = builder.select(is_masked, place, r)
        length, flag = (
            builder.load(_address(context, builder, sig.args[2], array, index)) for index in (r, place)
        )
        counts = builder.or_(builder.not_(is_masked), builder.icmp_signed(">", flag, i64(0)))
        return builder.and_(builder.icmp_signed("<", t, length), counts)

    return types.boolean(types.intp, types.intp, lengths, types.intp, types.intp), emit


# ---- functions of one value: NumPy arrays in Python, Vec in njit code


def tanh(x: Any) -> Any:
    """Hyperbolic tangent of a NumPy array; in njit code of a Vec (to 3e-7 in float32, 3e-16 in float64)."""
    return np.tanh(x)


def sigmoid(x: Any) -> Any:
    """Logistic function 1 / (1 + exp(-x)) of a NumPy array; in njit code of a Vec."""
    return 0.5 * np.tanh(0.5 * np.asarray(x)) + 0.5


def relu(x: Any) -> Any:
    """Rectifier, the larger of x and 0, of a NumPy array; in njit code of a Vec. NaN stays NaN."""
    return np.maximum(x, 0)


def is_positive(x: Any) -> Any:
    """1 where x > 0, else 0 (also for NaN), in the dtype of x."""
    x = np.asarray(x)
    return (x > 0).astype(x.dtype)


def clamp(x: Any, limit: float) -> Any:
    """Bound x to [-limit, limit]. NaN stays NaN."""
    return np.clip(x, -limit, limit)


# tanh(x) = x P(x^2) / Q(x^2) on |x| <= 8, minimax in the relative error, 6.4e-9 (highest power first);
# 1 / (1 + exp(-x)) - 1/2 = tanh(x / 2) / 2 is the same with the powers of 4 in the coefficients
_TANH_P = (1.5230636307705936e-08, 2.189481892855838e-05, 0.0035716076381504536, 0.13444505631923676, 1.0)
_TANH_Q = (8.5225360635377e-07, 0.00034113076981157064, 0.026164479553699493, 0.4677783250808716, 1.0)
_SIGMOID_P = tuple(c / 4.0 ** (5 - k) for k, c in enumerate(_TANH_P))
_SIGMOID_Q = tuple(c / 4.0 ** (4 - k) for k, c in enumerate(_TANH_Q))


@intrinsic
def _clamp(typingctx, x, limit):
    def emit(context, builder, sig, args):
        value, bound = args
        high, low = (_splat(builder, b, value.type) for b in (bound, builder.fneg(bound)))
        # in this order of the operands a comparison with NaN is false and keeps the NaN
        value = builder.select(builder.fcmp_ordered(">", value, high), high, value)
        return builder.select(builder.fcmp_ordered("<", value, low), low, value)

    return x(x, x.dtype), emit


def _emit_rational(builder, x, numerator, denominator):
    square = builder.fmul(x, x)
    top = builder.fmul(x, _horner(builder, square, numerator))
    return builder.fdiv(top, _horner(builder, square, denominator), ALLOWED)


@intrinsic
def _tanh_rational(typingctx, x):
    return x(x), lambda context, builder, sig, args: _emit_rational(builder, args[0], _TANH_P, _TANH_Q)


@intrinsic
def _sigmoid_rational(typingctx, x):
    return x(x), lambda context, builder, sig, args: _emit_rational(builder, args[0], _SIGMOID_P, _SIGMOID_Q)


@intrinsic
def _exp_parts(typingctx, x):
    """(2**n, expm1(r)) for float64 x = n ln 2 + r, |r| <= ln(2) / 2 (Cody and Waite's reduction)."""
    pair = types.UniTuple(x, 2)

    def emit(context, builder, sig, args):
        (value,) = args
        vector = value.type
        integers = ir.VectorType(i64, vector.count)
        # 1.5 * 2**52: adding it rounds to an integer in the low bits
        magic = _constant(vector, 6755399441055744.0)
        shifted = _fma(builder, value, _constant(vector, 1.4426950408889634), magic)
        n = builder.fsub(shifted, magic)
        bias, shift = (ir.Constant(integers, [value] * vector.count) for value in (1023, 52))
        exponent = builder.add(builder.bitcast(shifted, integers), bias)
        power = builder.bitcast(builder.shl(exponent, shift), vector)
        r = _fma(builder, n, _constant(vector, -0.693147180369123816490), value)
        r = _fma(builder, n, _constant(vector, -1.90821492927058770002e-10), r)
        series = _horner(builder, r, [1 / math.factorial(k) for k in range(13, 0, -1)])
        return context.make_tuple(builder, sig.return_type, [power, builder.fmul(series, r)])

    return pair(x), emit


@overload(tanh, jit_options=INLINED)
def _tanh(x):
    if not isinstance(x, Vec):
        return None
    if x.dtype == types.float32:
        return lambda x: _tanh_rational(_clamp(x, 8.0))

    def tanh_double(x):
        power, series = _exp_parts(_clamp(x, 20.0) * 2.0)
        expm1 = power * series + (power - 1.0)  # expm1(2x): no cancellation near 0
        return expm1 / (expm1 + 2.0)

    return tanh_double


@overload(sigmoid, jit_options=INLINED)
def _sigmoid(x):
    if not isinstance(x, Vec):
        return None
    if x.dtype == types.float32:
        return lambda x: _sigmoid_rational(_clamp(x, 16.0)) + 0.5
    return lambda x: tanh(x * 0.5) * 0.5 + 0.5


@intrinsic
def _relu_vec(typingctx, x):
    def emit(context, builder, sig, args):
        zero = _constant(args[0].type, 0.0)
        return builder.select(builder.fcmp_ordered("<", args[0], zero), zero, args[0])

    return x(x), emit


@intrinsic
def _is_positive_vec(typingctx, x):
    def emit(context, builder, sig, args):
        vector = args[0].type
        positive = builder.fcmp_ordered(">", args[0], _constant(vector, 0.0))
        return builder.select(positive, _constant(vector, 1.0), _constant(vector, 0.0))

    return x(x), emit


@overload(clamp, jit_options=INLINED)
def _clamp_vec(x, limit):
    if isinstance(x, Vec):
        return lambda x, limit: _clamp(x, limit)


@overload(relu, jit_options=INLINED)
def _relu(x):
    if isinstance(x, Vec):
        return lambda x: _relu_vec(x)


@overload(is_positive, jit_options=INLINED)
def _is_positive(x):
    if isinstance(x, Vec):
        return lambda x: _is_positive_vec(x)


# ---- the register tile

# A tile keeps in registers its accumulators, the smaller side of its operands and one operand more. It has as
# many rows as fit so, six at most (TILE_ROWS, by the number of registers a row), or two, or one. The third
# number of a shape is how many partial sums it keeps: one, but for the single row of a stream, where two hide
# the latency of a product.
TILE_ROWS = {4: 6, 3: 6, 2: 6, 1: 6} if REGISTERS == 32 else {4: 3, 3: 4, 2: 6, 1: 6}
TILE_SHAPES = [(rows, v, 1) for v, most in TILE_ROWS.items() for rows in (most, 2, 1)]
TILE_SHAPES += [(1, vectors, 2) for vectors in (4, 1)]
TILE_SHAPES += [(4, 4, 1)] if REGISTERS == 32 else []  # what is left of 16, 32 or 64 rows


def _keep_rolled(builder, latch) -> None:
    """Forbid LLVM to unroll the loop whose last block this is.

    For znver3 and znver5 it would, and then run out of registers: half the speed.
    """
    module = builder.module
    # a node for each loop, which add_metadata would not make; its first operand has to be itself
    loop = ir.MDValue(module, (), name=str(len(module.metadata)))
    loop.operands = loop, module.add_metadata(["llvm.loop.unroll.disable"])
    latch.terminator.set_metadata("llvm.loop", loop)


def _emit_tile(builder, n_rows, n_vectors, n_sums, vector, pointers, strides, blocks, depth, add, next_at):
    """Emit the loops of one tile; the accumulators live in registers once LLVM has promoted them."""
    a_start, w_start, c_start = pointers
    a_row, a_block, a_k, w_k, c_row, next_k = strides
    cells = [(r, v) for r in range(n_rows) for v in range(n_vectors)]
    zero = _constant(vector, 0.0)
    sums = [{cell: cgutils.alloca_once_value(builder, zero) for cell in cells} for _ in range(n_sums)]
    outputs = {
        (r, v): builder.gep(c_start, [builder.add(builder.mul(i64(r), c_row), i64(v * vector.count))])
        for r, v in cells
    }
    with builder.if_then(add):
        for cell in cells:
            builder.store(_load(builder, outputs[cell], vector), sums[0][cell])

    # running offsets and one pointer a row: the loop body is loads and products, no index arithmetic
    starts = [builder.gep(a_start, [builder.mul(i64(r), a_row)]) for r in range(n_rows)]
    a_offset, w_offset = (cgutils.alloca_once_value(builder, i64(0)) for _ in range(2))
    next_offset = cgutils.alloca_once_value(builder, next_at)

    def multiply_add(partial):
        a_now, w_now, next_now = map(builder.load, (a_offset, w_offset, next_offset))
        w_pointer = builder.gep(w_start, [w_now])

        def broadcast(r):
            return _splat(builder, builder.load(builder.gep(starts[r], [a_now])), vector)

        def operand(v):
            return _load(builder, builder.gep(w_pointer, [i64(v * vector.count)]), vector)

        # the operands of the shorter side are all kept, those of the longer come one at a time
        order = [(r, v) for v in range(n_vectors) for r in range(n_rows)] if n_rows < n_vectors else cells
        if n_rows > 2:  # in smaller tiles it costs more time than it saves
            _prefetch(builder, builder.gep(w_start, [next_now]))
            builder.store(builder.add(next_now, next_k), next_offset)
        left, right = cache(broadcast), cache(operand)
        for r, v in order:
            builder.store(_fma(builder, left(r), right(v), builder.load(partial[r, v])), partial[r, v])
        builder.store(builder.add(a_now, a_k), a_offset)
        builder.store(builder.add(w_now, w_k), w_offset)

    rounds, rest = builder.sdiv(depth, i64(n_sums)), builder.srem(depth, i64(n_sums))
    with cgutils.for_range(builder, blocks, intp=i64) as block:
        builder.store(builder.mul(block.index, a_block), a_offset)
        with cgutils.for_range(builder, rounds, intp=i64):
            for partial in sums:
                multiply_add(partial)
            latch = builder.block
        _keep_rolled(builder, latch)
        if n_sums > 1:
            with cgutils.for_range(builder, rest, intp=i64):
                multiply_add(sums[0])
                latch = builder.block
            _keep_rolled(builder, latch)
    for cell in cells:
        total = builder.load(sums[0][cell])
        for partial in sums[1:]:
            total = builder.fadd(total, builder.load(partial[cell]))
        _store(builder, total, outputs[cell])


@intrinsic
def tile(
    typingctx, rows, vectors, sums, add,
    a, a_at, a_row, a_block, a_k, w, w_at, w_k, blocks, depth, c, c_at, c_row, next_at, next_k,
):
    """Set C (rows x vectors) to (C if add else 0) + A (rows x blocks*depth) @ W (blocks*depth x vectors).

    (rows, vectors, sums) is one of TILE_SHAPES. C[r, v] lies at c_at + r c_row + v lanes, A[r, (b, k)] at
    a_at + r a_row + b a_block + k a_k, and W[(b, k), v] at w_at + (b depth + k) w_k + v lanes. Tiles of
    more than two rows bring nearer what is read next: with row (b, k) of W what lies
    next_at + (b depth + k) next_k behind w_at.
    """
    n = types.intp
    sig = types.void(n, n, n, types.boolean, a, n, n, n, n, w, n, n, n, n, c, n, n, n, n)

    def emit(context, builder, sig, args):
        (rows, vectors, sums, add,
         a, a_at, a_row, a_block, a_k, w, w_at, w_k, blocks, depth, c, c_at, c_row, next_at, next_k) = args
        vector = _llvm_vector(sig.args[4].dtype)
        places = ((sig.args[4], a, a_at), (sig.args[9], w, w_at), (sig.args[14], c, c_at))
        pointers = [_address(context, builder, *place) for place in places]
        strides = (a_row, a_block, a_k, w_k, c_row, next_k)

        def code(rows, vectors, sums):
            return rows * 16 + vectors * 2 + sums

        asked = builder.add(builder.mul(rows, i64(16)), builder.add(builder.mul(vectors, i64(2)), sums))
        done = builder.append_basic_block("tile.done")
        switch = builder.switch(asked, done)
        for n_rows, n_vectors, n_sums in TILE_SHAPES:
            block = builder.append_basic_block(f"tile.{n_rows}x{n_vectors}")
            switch.add_case(i64(code(n_rows, n_vectors, n_sums)), block)
            builder.position_at_end(block)
            shape = n_rows, n_vectors, n_sums
            _emit_tile(builder, *shape, vector, pointers, strides, blocks, depth, add, next_at)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return sig, emit


# ---- subnormals

_MACHINE = platform.machine().lower()
# flush-to-zero and denormals-are-zero of x86's MXCSR; FZ of ARM's FPCR
_FLUSH_BITS = 0x8040 if _MACHINE in ("x86_64", "amd64", "x86") else 1 << 24


def _read_mode(builder):
    if _MACHINE in ("aarch64", "arm64"):
        return builder.call(_named(builder, "aarch64.get.fpcr", i64), [])
    if _MACHINE not in ("x86_64", "amd64", "x86"):
        return i64(0)
    slot = cgutils.alloca_once(builder, i32)
    store_mode = _named(builder, "x86.sse.stmxcsr", ir.VoidType(), i8.as_pointer())
    builder.call(store_mode, [builder.bitcast(slot, i8.as_pointer())])
    return builder.zext(builder.load(slot), i64)


def _write_mode(builder, mode) -> None:
    if _MACHINE in ("aarch64", "arm64"):
        builder.call(_named(builder, "aarch64.set.fpcr", ir.VoidType(), i64), [mode])
    elif _MACHINE in ("x86_64", "amd64", "x86"):
        slot = cgutils.alloca_once(builder, i32)
        builder.store(builder.trunc(mode, i32), slot)
        load_mode = _named(builder, "x86.sse.ldmxcsr", ir.VoidType(), i8.as_pointer())
        builder.call(load_mode, [builder.bitcast(slot, i8.as_pointer())])


def _named(builder, name: str, result, *arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), f"llvm.{name}")


@intrinsic
def flush_subnormals(typingctx):
    """Let subnormal numbers count as zero from here on in this thread.

    Returns the mode to give to `restore_mode`: MXCSR on x86, FPCR on ARM; elsewhere nothing happens.
    """

    def emit(context, builder, sig, args):
        mode = _read_mode(builder)
        _write_mode(builder, builder.or_(mode, i64(_FLUSH_BITS)))
        return mode

    return types.int64(), emit


@intrinsic
def restore_mode(typingctx, mode):
    """Set the floating-point mode that `flush_subnormals` found."""

    def emit(context, builder, sig, args):
        _write_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), emit


# ---- words that threads share, and calls by address


@intrinsic
def atomic_load(typingctx, array, index):
    """Load array[index] of an int64 array; what its writer did before `atomic_store` is visible then."""

    def emit(context, builder, sig, args):
        return builder.load_atomic(_address(context, builder, sig.args[0], *args), "acquire", 8)

    return types.int64(array, types.intp), emit


@intrinsic
def atomic_store(typingctx, array, index, value):
    """Store array[index] = value in an int64 array, after everything done before it."""

    def emit(context, builder, sig, args):
        builder.store_atomic(args[2], _address(context, builder, sig.args[0], *args[:2]), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), emit


@intrinsic
def atomic_add(typingctx, array, index, value):
    """Add to array[index] of an int64 array, after everything done before; returns what it was."""

    def emit(context, builder, sig, args):
        pointer = _address(context, builder, sig.args[0], *args[:2])
        return builder.atomic_rmw("add", pointer, args[2], "acq_rel")

    return types.int64(array, types.intp, types.int64), emit


@intrinsic
def atomic_exchange(typingctx, array, index, old, new):
    """Replace array[index] of an int64 array by `new` if it is `old`; tells whether it was."""

    def emit(context, builder, sig, args):
        pointer = _address(context, builder, sig.args[0], *args[:2])
        done = builder.cmpxchg(pointer, args[2], args[3], "acq_rel", "monotonic")
        return builder.extract_value(done, 1)

    return types.boolean(array, types.intp, types.int64, types.int64), emit


@intrinsic
def call(typingctx, place):
    """Call a C function with one pointer: at the address `place` lies its own, behind it the pointer."""

    def emit(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], i64.as_pointer())
        function, argument = (builder.load(builder.gep(pointer, [i64(k)])) for k in (0, 1))
        c_function = ir.FunctionType(ir.VoidType(), [i64.as_pointer()]).as_pointer()
        builder.call(builder.inttoptr(function, c_function), [builder.inttoptr(argument, i64.as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int64), emit


def take_arguments(arguments: tuple[types.Type, ...]) -> Any:
    """Make the intrinsic that reads arguments of these types from words, as `compiler.Task` has them lie."""
    out = types.Tuple(arguments)

    @intrinsic
    def take(typingctx, words):
        def emit(context, builder, sig, args):
            position = 0

            def word():
                nonlocal position
                position += 1
                return builder.load(builder.gep(args[0], [i64(position - 1)]))

            def value(kind):
                if isinstance(kind, types.Array):
                    return _array_at(context, builder, kind, word(), word())
                if isinstance(kind, types.NamedUniTuple):
                    return context.make_tuple(builder, kind, [word() for _ in range(kind.count)])
                return word() if kind == types.intp else context.get_dummy_value()

            return context.make_tuple(builder, out, [value(kind) for kind in arguments])

        return out(words), emit

    return take


def _array_at(context, builder, kind, place, count):
    """Emit an array of `count` elements at an address; nobody owns it."""
    array = context.make_array(kind)(context, builder)
    size = i64(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    data = builder.inttoptr(place, array.data.type)
    populate_array(array, data, [count], [size], size, None)
    return array._getvalue()


@intrinsic
def pause(typingctx):
    """Tell the processor that this thread spins (some tens of cycles)."""

    def emit(context, builder, sig, args):
        if _MACHINE in ("aarch64", "arm64"):
            builder.call(_named(builder, "aarch64.isb", ir.VoidType(), i32), [i32(15)])
        elif _MACHINE in ("x86_64", "amd64", "x86"):
            builder.call(_named(builder, "x86.sse2.pause", ir.VoidType()), [])
        return context.get_dummy_value()

    return types.void(), emit
