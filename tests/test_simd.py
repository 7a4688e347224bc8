"""Registers as values: memory, arithmetic and functions against NumPy, and how wide a register is."""

import operator
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from llvmlite import binding as llvm
from numba import njit

from numbarnn import simd
from numbarnn.simd import (
    first_lanes,
    flush_subnormals,
    is_positive,
    lanes_of,
    load,
    relu,
    restore_mode,
    sigmoid,
    store,
    store_many,
    sum_lanes,
    tanh,
)

DTYPES = ("float32", "float64")
# of tanh and sigmoid; in float32 2.5e-7 where product and sum are one instruction, 3.3e-7 where they are two
BOUNDS = {"float32": 3.3e-7, "float64": 5e-16}
X86, ARM = ("x86_64", "amd64", "x86"), ("aarch64", "arm64")
HAS_MODE = platform.machine().lower() in X86 + ARM


def over_registers(function):
    """function(Vec) as a function of an array whose size is a multiple of the lanes."""

    @njit(error_model="numpy")
    def run(x, out):
        for i in range(0, x.size, lanes_of(x)):
            store(out, i, function(load(x, i)))

    def apply(x):
        padded = np.zeros(-(-x.size // 64) * 64, x.dtype)
        padded[: x.size] = x
        out = np.empty_like(padded)
        run(padded, out)
        return out[: x.size]

    return apply


FUNCTIONS = {f.__name__: over_registers(f) for f in (tanh, sigmoid, relu, is_positive)}


def sweep(dtype):
    """Numbers of both signs from the smallest normal one to the largest, densely where the functions bend."""
    limits = np.finfo(dtype)
    magnitudes = np.concatenate([
        np.geomspace(limits.tiny, limits.max, 20_000, dtype=np.longdouble),
        np.linspace(0, 25, 200_000, dtype=np.longdouble),
    ]).astype(dtype)  # fmt: skip
    return np.concatenate([magnitudes, -magnitudes])


# ---- functions


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanes_are_kept_and_summed_up(dtype):
    @njit(error_model="numpy")
    def run(x, count, kept):
        first = first_lanes(load(x, 0), count)
        store(kept, 0, first)
        return sum_lanes(first)

    x = np.arange(1, simd.VECTOR_BYTES // np.dtype(dtype).itemsize + 1).astype(dtype)
    for count in range(x.size + 3):
        values, kept = x.copy(), np.empty_like(x)
        values[count:] = np.nan
        assert run(values, count, kept) == x[:count].sum()
        np.testing.assert_array_equal(kept, np.where(np.arange(x.size) < count, x, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_exact_to_a_few_units_in_the_last_place(dtype):
    x = sweep(dtype)
    expected = np.tanh(x.astype(np.longdouble))
    error = np.abs(FUNCTIONS["tanh"](x) - expected)
    assert error.max() < BOUNDS[dtype]
    some = np.abs(x) > 1e3 * np.finfo(dtype).tiny  # below, what is computed on the way is subnormal
    assert (error[some] / np.abs(expected[some])).max() < 2 * BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_is_exact_to_a_few_units_in_the_last_place(dtype):
    x = sweep(dtype)
    expected = 0.5 * np.tanh(0.5 * x.astype(np.longdouble)) + 0.5
    assert np.abs(FUNCTIONS["sigmoid"](x) - expected).max() < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_never_leave_their_range(dtype):
    x = sweep(dtype)
    assert np.abs(FUNCTIONS["tanh"](x)).max() <= 1
    assert FUNCTIONS["sigmoid"](x).min() >= 0 and FUNCTIONS["sigmoid"](x).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["relu", "is_positive"])
def test_rectifier_and_its_slope_are_exact(name, dtype):
    x = sweep(dtype)
    np.testing.assert_array_equal(FUNCTIONS[name](x), getattr(simd, name)(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "expected"),  # of NaN, inf, -inf, 0, -0
    [
        ("tanh", (np.nan, 1, -1, 0, 0)),
        ("sigmoid", (np.nan, 1, 0, 0.5, 0.5)),
        ("relu", (np.nan, np.inf, 0, 0, 0)),
        ("is_positive", (0, 1, 0, 0, 0)),
    ],
)
def test_numbers_that_are_special(name, expected, dtype):
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    x = np.tile(special, 16)  # five are no power of two: each comes to stand in every lane
    np.testing.assert_allclose(FUNCTIONS[name](x), np.tile(expected, 16), rtol=0, atol=BOUNDS[dtype])
    np.testing.assert_array_equal(getattr(simd, name)(special), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_stay_as_small_as_they_are(dtype):
    limits = np.finfo(dtype)
    x = np.array([limits.smallest_subnormal, limits.tiny / 8, -limits.tiny / 3], dtype)
    for name in ("tanh", "relu"):
        np.testing.assert_allclose(FUNCTIONS[name](x), getattr(simd, name)(x), rtol=0, atol=limits.tiny)
    np.testing.assert_array_equal(FUNCTIONS["is_positive"](x), [1, 1, 0])
    np.testing.assert_array_equal(FUNCTIONS["sigmoid"](x), 0.5)


# ---- arithmetic

OPERATORS = {f.__name__: f for f in (operator.add, operator.sub, operator.mul, operator.truediv)}


def binary(function):
    @njit(error_model="numpy")
    def vectors(x, y, out):
        for i in range(0, x.size, lanes_of(x)):
            store(out, i, function(load(x, i), load(y, i)))

    @njit(error_model="numpy")
    def numbers(x, y, out):
        """A Vec and an array's number, a float and an integer of Python; each side once."""
        lanes = lanes_of(x)
        for k, i in enumerate(range(0, x.size, lanes)):
            v = load(x, i)
            store(out[0], i, function(v, y[k]))
            store(out[1], i, function(y[k], v))
            store(out[2], i, function(v, 0.75))
            store(out[3], i, function(3, v))

    return vectors, numbers


BINARY = {name: binary(function) for name, function in OPERATORS.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_round_as_numpy_does(name, dtype):
    rng = np.random.default_rng(0)
    vectors, numbers = BINARY[name]
    function = OPERATORS[name]
    x, y = rng.standard_normal((2, 640)).astype(dtype)
    out = np.empty_like(x)
    vectors(x, y, out)
    np.testing.assert_array_equal(out, function(x, y))

    each = np.repeat(y, simd.VECTOR_BYTES // x.itemsize)[: x.size]  # a number in all lanes of its register
    sides = np.empty((4, x.size), dtype)
    numbers(x, y, sides)
    expected = [function(x, each), function(each, x), function(x, x.dtype.type(0.75)), function(3, x)]
    expected = np.stack(expected)
    assert expected.dtype == dtype
    # a division by one number may be a product with its reciprocal
    np.testing.assert_array_max_ulp(sides, expected, 1 if name == "truediv" else 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_let_nan_and_infinity_through(name, dtype):
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.5, np.finfo(dtype).max], dtype)
    x, y = (a.reshape(-1).copy() for a in np.meshgrid(special, special))
    out = np.empty_like(x)
    BINARY[name][0](x, y, out)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out, OPERATORS[name](x, y))


# ---- memory


@njit
def _copy(source, at, target, to):
    store(target, to, load(source, at))


@njit
def _scatter(source, target, to, stride):
    lanes = lanes_of(source)
    store_many(target, to, stride, (load(source, 0), load(source, lanes), load(source, 2 * lanes)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_loads_and_stores_at_any_element(dtype):
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    source = np.arange(3 * lanes, dtype=dtype)
    for at in range(lanes + 1):
        for to in range(lanes + 1):
            target = np.full(3 * lanes, -1, dtype)
            _copy(source, at, target, to)
            expected = np.full_like(target, -1)
            expected[to : to + lanes] = source[at : at + lanes]
            np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tuple_of_registers_is_stored_a_stride_apart(dtype):
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    source, stride = np.arange(3 * lanes, dtype=dtype), lanes + 3
    target = np.full(1 + 3 * stride, -1, dtype)
    _scatter(source, target, 1, stride)
    np.testing.assert_array_equal(target[1:].reshape(3, stride)[:, :lanes], source.reshape(3, lanes))
    assert target[0] == -1 and (target[1:].reshape(3, stride)[:, lanes:] == -1).all()


# ---- subnormals


@njit
def _halve(x, out):
    for i in range(x.size):
        out[i] = x[i] * x.dtype.type(0.5)


@njit
def _halve_flushed(x, before, inside, after):
    _halve(x, before)
    mode = flush_subnormals()
    nested = flush_subnormals()
    _halve(x, inside[0])
    restore_mode(nested)
    _halve(x, inside[1])
    restore_mode(mode)
    _halve(x, after)


@pytest.mark.skipif(not HAS_MODE, reason="this processor's floating-point mode is not known")
@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_are_zero_until_the_mode_is_restored(dtype):
    tiny = np.finfo(dtype).tiny
    x = np.array([tiny, -tiny, tiny / 4, 1.0] * 8, dtype)  # the third is subnormal before it is halved
    before, after, inside = np.empty_like(x), np.empty_like(x), np.empty((2, x.size), dtype)
    _halve_flushed(x, before, inside, after)
    np.testing.assert_array_equal(before, x / 2)
    np.testing.assert_array_equal(after, x / 2)
    np.testing.assert_array_equal(inside, np.tile([0, 0, 0, 0.5] * 8, (2, 1)))
    assert float(tiny) / 4 * 2 == float(tiny) / 2 > 0  # and Python's own arithmetic is as it was


def test_training_leaves_the_callers_mode_alone():
    from numbarnn import Recurrent

    layer = Recurrent("rnn", input_size=2, hidden_size=3, random_state=0)
    output, _ = layer.forward(np.ones((2, 5, 2), np.float32), training=True)
    layer.backward(np.full_like(output, 1e-38))
    for dtype in DTYPES:
        tiny = np.full(64, np.finfo(dtype).tiny)
        assert (tiny / 2 > 0).all()


# ---- the width of a register


def test_registers_of_this_machine():
    assert (simd.VECTOR_BYTES, simd.REGISTERS) in {(64, 32), (32, 16), (16, 16), (16, 32)}
    for vectors, rows in simd.TILE_ROWS.items():
        assert rows * vectors + min(rows, vectors) < simd.REGISTERS


@pytest.mark.parametrize(
    ("triple", "cpu", "expected"),
    [
        ("x86_64-unknown-linux-gnu", "x86-64", (16, 16)),
        ("x86_64-unknown-linux-gnu", "haswell", (32, 16)),
        ("x86_64-pc-windows-msvc", "haswell", (32, 16)),
        ("x86_64-unknown-linux-gnu", "znver3", (32, 16)),
        ("x86_64-unknown-linux-gnu", "skylake-avx512", (64, 32)),
        ("x86_64-unknown-linux-gnu", "sapphirerapids", (64, 32)),
        ("aarch64-unknown-linux-gnu", "generic", (16, 32)),
        ("aarch64-unknown-linux-gnu", "neoverse-v1", (16, 32)),
        ("arm64-apple-macosx", "apple-m1", (16, 32)),
    ],
)
def test_registers_of_other_machines(triple, cpu, expected):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip("llvmlite was built without this target")
    assert simd.probe_registers(target.create_target_machine(cpu=cpu)) == expected


def test_numba_cpu_name_decides():
    code = "from numbarnn import simd; print(simd.VECTOR_BYTES)"
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "16"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="asks for processors of this kind")
@pytest.mark.parametrize("cpu", ["haswell", "znver3", "skylake-avx512", "znver5"])
def test_tiles_stay_in_registers(cpu):
    """Where LLVM unrolls the loop of a tile it runs out of them, at half the speed on Zen 5."""
    code = """
import re
from numba import cfunc, types
from numbarnn import simd
from numbarnn.kernels import gemm
assembly = cfunc(gemm._signature(types.float32))(gemm._gemm)._library.get_asm_str()
most = max(rows * vectors for rows, vectors, _ in simd.TILE_SHAPES)
loops = [each for each in re.split(r"\\n(?=\\.LBB)", assembly) if each.count("vfmadd231ps") >= most / 2]
assert loops and max(each.count("vfmadd") for each in loops) == most
on_stack = re.compile(r"\\(%rsp.*mm\\d|mm\\d+, .*\\(%rsp")
assert not [line for each in loops for line in each.splitlines() if on_stack.search(line)]
"""
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu}
    environment.pop("NUMBA_CPU_FEATURES", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
