"""The interpreter of PTX: it computes what instructions mean, and finds what must not be done."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest

from conftest import INTERPRETED
from numbarnn.cuda.driver import cuda, empty, upload

if not INTERPRETED:
    pytest.skip("of interpreted kernels alone", allow_module_level=True)

from ptx import device
from ptx.running import Launch, Memory
from ptx.translation import Module

HEAD = """
.visible .entry kernel(
	.param .u64 out,
	.param .u64 in
)
{
	.reg .pred %p<9>;
	.reg .b32 %r<9>;
	.reg .f32 %f<9>;
	.reg .b64 %rd<9>;
	.reg .f64 %fd<9>;
	ld.param.u64 %rd1, [out];
	ld.param.u64 %rd2, [in];
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd3, %r1, 8;
	add.s64 %rd1, %rd1, %rd3;
	mad.lo.s64 %rd2, %rd3, 3, %rd2;
"""
TAIL = "\n\tret;\n}\n"
BIG, SMALL = 2**63 - 1, -(2**63)
INTEGERS = [
    (7, -2, 5), (-7, 2, 64), (BIG, SMALL, 63), (SMALL, BIG, 1), (-1, 3, 0),
    (12345678901234567, -98765432109876, 200),
]  # fmt: skip
FLOATS = [
    (1.5, -2.25, 0.1), (math.nan, 1.0, -1.0), (math.inf, -math.inf, 1.0), (-0.0, 0.0, 1e300),
    (1e-310, 3.0, -3e-310), (1.0 + 2**-30, 1.0 - 2**-30, -1.0), (2.5, -1e19, 7.0),
    (-3.5, 1e19, 0.5),
]  # fmt: skip


def run(body, operands, dtype):
    """Run instructions in a thread for each row of operands, x1 to x3; return what they leave in x4."""
    letter = "fd" if dtype == "f8" else "rd"
    kind = "f64" if dtype == "f8" else "u64"
    first = 1 if dtype == "f8" else 4
    loads = [f"\tld.global.{kind} %{letter}{first + k}, [%rd2+{8 * k}];\n" for k in range(3)]
    names = {f"x{k + 1}": f"%{letter}{first + k}" for k in range(4)}
    store = f"\n\tst.global.{kind} [%rd1], {names['x4']};"
    text = HEAD + "".join(loads) + body.format(**names) + store + TAIL
    given, memory = np.array(operands, dtype), Memory()
    out = np.zeros(len(given), dtype)
    memory.add(given)
    memory.add(out)
    launch = Launch(Module(text), 1, len(given), [out.ctypes.data, given.ctypes.data], memory)
    launch.start()
    assert not launch.faults
    return out


def wrapped(value, bits=64):
    """Return a Python integer as one of two's complement."""
    value %= 2**bits
    return value - 2**bits if value >= 2 ** (bits - 1) else value


def cut(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("add.s64 {x4}, {x1}, {x2};", lambda a, b, c: a + b),
        ("sub.s64 {x4}, {x1}, -3;", lambda a, b, c: a + 3),
        ("mul.lo.s64 {x4}, {x1}, {x2};", lambda a, b, c: a * b),
        ("mul.hi.s64 {x4}, {x1}, {x2};", lambda a, b, c: a * b >> 64),
        ("mul.hi.s64 {x4}, {x1}, 7378697629483820647;", lambda a, b, c: a * 7378697629483820647 >> 64),
        ("div.s64 {x4}, {x1}, {x2};", lambda a, b, c: cut(a, b)),
        ("rem.s64 {x4}, {x1}, {x2};", lambda a, b, c: a - b * cut(a, b)),
        ("max.s64 {x4}, {x1}, {x2};", lambda a, b, c: max(a, b)),
        ("neg.s64 {x4}, {x1};", lambda a, b, c: -a),
        ("cvt.u32.u64 %r2, {x3}; shl.b64 {x4}, {x1}, %r2;", lambda a, b, c: a << c),
        ("cvt.u32.u64 %r2, {x3}; shr.s64 {x4}, {x1}, %r2;", lambda a, b, c: a >> c),
        ("cvt.u32.u64 %r2, {x3}; shr.u64 {x4}, {x1}, %r2;", lambda a, b, c: a % 2**64 >> c),
        ("shr.s64 {x4}, {x1}, 63;", lambda a, b, c: a >> 63),
        ("cvt.u32.u64 %r2, {x1}; cvt.s64.s32 {x4}, %r2;", lambda a, b, c: wrapped(a, 32)),
        ("cvt.u32.u64 %r2, {x1}; mul.wide.s32 {x4}, %r2, -5;", lambda a, b, c: -5 * wrapped(a, 32)),
        ("setp.lt.s64 %p1, {x1}, {x2}; selp.b64 {x4}, {x1}, 9, %p1;", lambda a, b, c: a if a < b else 9),
        ("setp.lt.u64 %p1, {x1}, {x2}; selp.b64 {x4}, 1, 0, %p1;", lambda a, b, c: a % 2**64 < b % 2**64),
        ("mov.b64 {{%r2, %r3}}, {x1}; mov.b64 {x4}, {{%r3, %r2}};",
         lambda a, b, c: (a >> 32) % 2**32 + (a << 32)),
        # a branch that some take, and a loop of as many rounds as each thread has
        ("setp.gt.s64 %p1, {x1}, 0; mov.u64 {x4}, 1; @%p1 bra $L1; mov.u64 {x4}, 2; $L1:",
         lambda a, b, c: 2 - (a > 0)),
        ("mov.u64 {x4}, 0; $L2: add.s64 {x4}, {x4}, {x2}; sub.s64 {x3}, {x3}, 1; setp.ge.s64 %p1, {x3}, 0;"
         " @%p1 bra $L2;", lambda a, b, c: b * (c + 1)),
        # two registers that change places
        ("mov.u64 {x4}, 3; bra.uni $L3; $L3: mov.u64 %rd8, {x1}; mov.u64 {x1}, {x2}; mov.u64 {x2}, %rd8;"
         " sub.s64 {x4}, {x4}, 1; setp.gt.s64 %p1, {x4}, 0; @%p1 bra $L3; mov.u64 {x4}, {x1};",
         lambda a, b, c: b),
    ],
)  # fmt: skip
def test_integers(body, expected):
    found = run(re.sub(r"(\$L\d:)", r"\n\1\n", body), INTEGERS, "i8")
    np.testing.assert_array_equal(found, [wrapped(int(expected(*row))) for row in INTEGERS])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("div.rn.f64 {x4}, {x1}, {x2};", np.divide),
        ("min.f64 {x4}, {x1}, {x2};", np.fmin),
        ("copysign.f64 {x4}, {x2}, {x1};", np.copysign),
        ("setp.leu.f64 %p1, {x1}, {x2}; selp.f64 {x4}, {x1}, {x2}, %p1;", lambda a, b: np.where(a > b, b, a)),
        ("setp.ne.f64 %p1, {x1}, {x2}; selp.f64 {x4}, 0d3FF0000000000000, {x2}, %p1;",
         lambda a, b: np.where((a < b) | (a > b), 1, b)),
        ("cvt.rni.f64.f64 {x4}, {x1};", lambda a, b: np.rint(a)),
        ("cvt.rzi.s64.f64 %rd4, {x2}; cvt.rn.f64.s64 {x4}, %rd4;",
         lambda a, b: np.clip(np.trunc(b), -(2.0**63), 2.0**63)),
        ("cvt.rn.f32.f64 %f1, {x1}; cvt.sat.f32.f32 %f1, %f1; cvt.f64.f32 {x4}, %f1;",
         lambda a, b: np.clip(np.nan_to_num(a.astype("f4")), 0, 1)),
    ],
)  # fmt: skip
def test_floats(body, expected):
    a, b, _ = np.array(FLOATS).T
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(run(body, FLOATS, "f8"), expected(a, b).astype("f8"))


@pytest.mark.parametrize("real", ["f8", "f4"])
def test_products_with_sums_are_rounded_once(real):
    rows = [row for row in FLOATS if np.max(np.abs(row)) < 1e18]
    rows += [(1 + 2**-12, 1 + 2**-12, 2**-80), (1.0, 1.0, -(2.0**-80)), (-1.0, 1.0, 2.0**-80)]
    rows = np.array(rows).astype(real)
    exact = [Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)) for a, b, c in rows]
    if real == "f8":
        found = run("fma.rn.f64 {x4}, {x1}, {x2}, {x3};", rows, "f8")
        np.testing.assert_array_equal(found, [float(each) for each in exact])
        return
    narrow = "cvt.rn.f32.f64 %f1, {x1}; cvt.rn.f32.f64 %f2, {x2}; cvt.rn.f32.f64 %f3, {x3};"
    for mode in ("rn", "rm"):
        found = run(f"{narrow} fma.{mode}.f32 %f4, %f1, %f2, %f3; cvt.f64.f32 {{x4}}, %f4;", rows, "f8")
        for value, each in zip(found, exact, strict=True):
            step, beyond = Fraction(float(np.spacing(np.float32(abs(value))))), each - Fraction(value)
            assert 0 <= beyond <= step if mode == "rm" else abs(beyond) <= step / 2


def test_functions_that_the_compiler_brings():
    """Those of CUDA's library are compiled with a kernel; with them all of them are held against Python's."""

    @cuda.jit
    def kernel(x, out, narrow):
        i = cuda.grid(1)
        out[5 * i], out[5 * i + 1], out[5 * i + 2] = math.exp(x[i]), math.tanh(x[i]), math.lgamma(x[i])
        out[5 * i + 3], out[5 * i + 4] = math.log1p(math.exp(-abs(x[i]))), x[i] // 1.5
        narrow[2 * i], narrow[2 * i + 1] = math.tanh(np.float32(x[i])), math.exp(np.float32(x[i]))

    x = np.array([-30.3, -2.5, -0.7, -1e-5, 1e-9, 0.3, 2.2, 8.0, 171.5])
    out, narrow = empty(5 * len(x), "f8"), empty(2 * len(x), "f4")
    kernel[1, len(x)](upload(x), out, narrow)
    functions = math.exp, math.tanh, math.lgamma, lambda v: math.log1p(math.exp(-abs(v))), lambda v: v // 1.5
    expected = np.array([[function(value) for function in functions] for value in x])
    np.testing.assert_allclose(out.copy_to_host().reshape(-1, 5), expected, rtol=1e-14)
    with np.errstate(over="ignore"):
        expected = np.stack([np.tanh(x.astype("f4")), np.exp(x.astype("f4"))], axis=1)
    np.testing.assert_allclose(narrow.copy_to_host().reshape(-1, 2), expected, rtol=3e-7)


def test_what_is_not_known_is_an_error():
    for body in ("popc.b64 {x4}, {x1};", "mul.hi.u64 {x4}, {x1}, {x2};", "bar.arrive 0, 32;",
                 "@%p1 mov.u64 {x4}, 1;", "cvt.rmi.s64.f64 {x4}, %fd1;"):  # fmt: skip
        with pytest.raises(NotImplementedError):
            run(body, INTEGERS, "i8")


@cuda.jit
def without_barrier(values):
    """Read what a neighbour writes."""
    values[cuda.threadIdx.x] = values[1 - cuda.threadIdx.x]


@cuda.jit
def with_barrier(values):
    """Read it before a barrier."""
    value = values[1 - cuda.threadIdx.x]
    cuda.syncthreads()
    values[cuda.threadIdx.x] = value


@cuda.jit
def with_shared(values):
    """Read what a neighbour has put into shared memory, with no barrier."""
    shared = cuda.shared.array(2, "float64")
    shared[cuda.threadIdx.x] = cuda.threadIdx.x
    values[cuda.threadIdx.x] = shared[1 - cuda.threadIdx.x]


@cuda.jit
def among_blocks(values):
    """Write one element from all blocks: no barrier would help."""
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        values[0] = cuda.blockIdx.x


@cuda.jit
def at_once(values):
    """Write one element from all threads."""
    values[0] = 1


@cuda.jit
def with_a_barrier_for_some(values):
    """Let one thread alone wait."""
    if cuda.threadIdx.x == 0:
        cuda.syncthreads()
    values[cuda.threadIdx.x] = 0


@cuda.jit
def beyond(values):
    """Write one element too many."""
    values[cuda.threadIdx.x + 1] = 0


@cuda.jit
def beyond_shared(values):
    """Read an element of shared memory that is none."""
    shared = cuda.shared.array(2, "float64")
    shared[cuda.threadIdx.x] = 0
    values[cuda.threadIdx.x] = shared[cuda.threadIdx.x + values.size]


@cuda.jit
def unwritten(values):
    """Read shared memory that nobody has written."""
    shared = cuda.shared.array(2, "float64")
    values[cuda.threadIdx.x] = shared[cuda.threadIdx.x]


@pytest.mark.parametrize(
    ("kernel", "found"),
    [
        (with_barrier, []),
        (without_barrier, ["a race"]),
        (with_shared, ["a race"]),
        (among_blocks, ["a race"]),
        (at_once, ["a race"]),
        (with_a_barrier_for_some, ["threads of a block are at different barriers"]),
        (beyond, ["outside of all arrays"]),
        (beyond_shared, ["outside of all arrays"]),
        (unwritten, ["nobody has written"]),
    ],
)
def test_faults_are_found(kernel, found):
    kernel[2 if kernel is among_blocks else 1, 2](upload(np.zeros(2)))
    assert {fault.partition(":")[0] for _, fault in device.FAULTS} == set(found)
    device.FAULTS.clear()


def test_arrays_that_are_gone_must_not_be_touched():
    values = upload(np.zeros(2))
    configured, gone = with_barrier[1, 2], values.ctypes.data
    configured(values)
    del values
    memory = device._MEMORY
    assert not list(memory.find(np.array([gone], np.uint64), 8))
    fresh = empty(3, "f8")
    with_barrier[1, 2](fresh[:2])
    assert {fault.partition(":")[0] for _, fault in device.FAULTS} == {"nobody has written"}
    device.FAULTS.clear()


@cuda.jit
def in_two_sizes(values, halves):
    """Write the whole of an element and the upper half of it."""
    if cuda.threadIdx.x == 0:
        values[0] = 1
    else:
        halves[1] = 1


def test_an_array_has_elements_of_one_size():
    values = upload(np.zeros(2))
    in_two_sizes[1, 2](values, values.view("float32"))
    assert {fault.partition(":")[0] for _, fault in device.FAULTS} == {"elements of another size than before"}
    device.FAULTS.clear()


CALLED = """
.func (.param .b64 func_retval0) half(
	.param .b64 half_param_0
)
{
	.reg .f64 %fd<4>;
	ld.param.f64 %fd1, [half_param_0];
	mul.f64 %fd2, %fd1, 0d3FE0000000000000;
	st.param.f64 [func_retval0+0], %fd2;
	ret;
}
"""
CALL = """
	{{{{
	.param .b64 param0;
	st.param.{kind} [param0+0], {of};
	.param .b64 retval0;
	call.uni (retval0), half, (param0);
	ld.param.f64 {to}, [retval0+0];
	}}}}
"""


def test_functions_may_be_called_twice_and_with_bits(monkeypatch):
    monkeypatch.setitem(globals(), "HEAD", CALLED + HEAD)
    calls = CALL.format(kind="f64", of="{x1}", to="%fd5") + CALL.format(kind="f64", of="{x2}", to="%fd6")
    found = run(calls + "\tsub.f64 {x4}, %fd5, %fd6;", [(3.0, 1.0, 0.0), (-1.0, 5.0, 0.0)], "f8")
    np.testing.assert_array_equal(found, [1.0, -3.0])
    bits = "\tmov.b64 %rd5, {x1};" + CALL.format(kind="b64", of="%rd5", to="{x4}")
    np.testing.assert_array_equal(run(bits, [(3.0, 0.0, 0.0)], "f8"), [1.5])
