"""The products and the moves of data that everything else is made of, against NumPy.

Where bits are compared with NumPy's, the numbers are small integers: their sums are exact in any order.
"""

import itertools

import numpy as np
import pytest

from numbarnn.kernels import dense, pack, threads
from numbarnn.kernels.compiler import kernel
from numbarnn.kernels.gemm import ALONE, gemm
from numbarnn.simd import VECTOR_BYTES

DTYPES = ("float32", "float64")
DEPTHS = (1, 2, 3, 4, 5, 130)
GUARD = 7  # elements around C that nobody may touch


@kernel
def run_gemm(vectors, rows, sums, add, a, a_row, a_block, a_k, w, w_at, w_k, blocks, depth, c, c_at, c_row):
    gemm(vectors, rows, sums, add, a, 0, a_row, a_block, a_k, w, w_at, w_k, blocks, depth, c, c_at, c_row)


def integers(rng, shape, dtype):
    return rng.integers(-8, 9, shape).astype(dtype)


def product(a, w, c, sums, add, transposed=False):
    """C (+)= sum over blocks of A[block] W[block] by `gemm`, from arrays that are larger than it needs.

    a is (blocks, rows, depth), w (blocks, depth, columns), c (rows, columns).
    """
    (blocks, rows, depth), columns = a.shape, c.shape[1]
    a_shape = (blocks, depth + 1, rows + 3) if transposed else (blocks, rows, depth + 3)
    a_flat = np.full(a_shape, np.nan, a.dtype)
    a_here = a_flat[:, :depth, :rows].transpose(0, 2, 1) if transposed else a_flat[:, :, :depth]
    a_here[...] = a
    a_block, a_row, a_k = (stride // a.itemsize for stride in a_here.strides)
    w_flat = np.full((blocks * depth + 1, columns + 5), np.nan, a.dtype)
    w_flat[1:, :columns] = w.reshape(blocks * depth, columns)
    out = np.full((rows, columns + GUARD), 99, a.dtype)
    out[:, :columns] = c
    flat = np.concatenate([np.full(GUARD, 99, a.dtype), out.reshape(-1)])
    vectors = columns * a.itemsize // VECTOR_BYTES
    run_gemm(
        vectors, rows, sums, add, a_flat.reshape(-1), a_row, a_block, a_k,
        w_flat.reshape(-1), columns + 5, columns + 5, blocks, depth, flat, GUARD, columns + GUARD,
    )  # fmt: skip
    out = flat[GUARD:].reshape(rows, columns + GUARD)
    assert (flat[:GUARD] == 99).all() and (out[:, columns:] == 99).all()
    return out[:, :columns]


@pytest.mark.parametrize("sums", [1, ALONE])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_is_numpys_product(dtype, sums):
    rng = np.random.default_rng(0)
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    for vectors, rows, depth, blocks in itertools.product(range(1, 10), range(1, 14), DEPTHS, range(1, 4)):
        a = integers(rng, (blocks, rows, depth), dtype)
        w = integers(rng, (blocks, depth, vectors * lanes), dtype)
        c = integers(rng, (rows, vectors * lanes), dtype)
        add, transposed = bool((rows + depth + blocks) % 2), bool((vectors + depth) % 2)
        expected = c * add + np.tensordot(a.swapaxes(0, 1), w, 2)
        actual = product(a, w, c, sums, add, transposed)
        case = f"{vectors=} {rows=} {depth=} {blocks=} {add=} {transposed=}"
        np.testing.assert_array_equal(actual, expected, case)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_adds_or_not_and_takes_either_layout(dtype):
    rng = np.random.default_rng(1)
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    for vectors, rows, sums, add, transposed in itertools.product(
        range(1, 10), (1, 2, 7), (1, ALONE), (False, True), (False, True)
    ):
        a, w = integers(rng, (2, rows, 3), dtype), integers(rng, (2, 3, vectors * lanes), dtype)
        c = integers(rng, (rows, vectors * lanes), dtype)
        expected = c * add + np.tensordot(a.swapaxes(0, 1), w, 2)
        np.testing.assert_array_equal(product(a, w, c, sums, add, transposed), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, 10))
def test_bits_of_a_row_do_not_depend_on_the_rows_around_it(vectors, dtype):
    rng = np.random.default_rng(vectors)
    columns = vectors * VECTOR_BYTES // np.dtype(dtype).itemsize
    a, w, c = (rng.standard_normal(n).astype(dtype) for n in ((1, 13, 130), (1, 130, columns), (13, columns)))
    whole = product(a, w, c, 1, True)
    for first, last in itertools.combinations(range(14), 2):
        np.testing.assert_array_equal(product(a[:, first:last], w, c[first:last], 1, True), whole[first:last])


@pytest.mark.parametrize("sums", [1, ALONE])
def test_nan_and_infinity_stay_in_their_rows(sums):
    columns = VECTOR_BYTES // 4 * 5
    a, w = np.ones((1, 9, 4), np.float32), np.ones((1, 4, columns), np.float32)
    a[0, 2, 1], a[0, 5, 3], a[0, 7, 0] = np.nan, np.inf, -np.inf
    out = product(a, w, np.zeros((9, columns), np.float32), sums, False)
    assert np.isnan(out[2]).all() and (out[5] == np.inf).all() and (out[7] == -np.inf).all()
    assert (np.delete(out, (2, 5, 7), axis=0) == 4).all()


# ---- packing


def random_layers(count, seed):
    """Sizes of a layer, and its weight (gates * H, inputs) and bias as parts of one vector."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        hidden, units, inputs, n_gates = (int(n) for n in rng.integers(1, (30, 17, 20, 5)))
        gates = tuple(rng.permutation(n_gates)[: rng.integers(1, n_gates + 1)].tolist())
        weight_at, gap = (int(n) for n in rng.integers(0, 5, 2))
        bias_at = weight_at + n_gates * hidden * inputs + gap
        vector = rng.standard_normal(bias_at + n_gates * hidden)
        weight = vector[weight_at : bias_at - gap].reshape(n_gates, hidden, inputs)
        bias = vector[bias_at:].reshape(n_gates, hidden)
        yield hidden, units, inputs, gates, weight_at, bias_at, vector, weight, bias


def move(plan, source, target):
    pack.move(np.zeros(2, np.int64), 0, len(plan), plan, source, target)
    return target


@pytest.mark.parametrize("with_bias", [True, False])
def test_weight_plan_there_and_back(with_bias):
    for hidden, units, inputs, gates, weight_at, bias_at, vector, weight, bias in random_layers(60, 1):
        blocks, depth, to = -(-hidden // units), inputs + 3, 4
        places = (weight_at, bias_at if with_bias else None, to)
        plan = np.array(pack.weight_plan(gates, hidden, units, inputs, depth, *places), np.int64)
        packed = move(plan, vector, np.zeros(to + blocks * depth * len(gates) * units))
        expected = np.zeros((blocks * units, depth, len(gates)))
        expected[:hidden, :inputs] = weight[list(gates)].transpose(1, 2, 0)
        if with_bias:
            expected[:hidden, -1] = bias[list(gates)].T
        expected = expected.reshape(blocks, units, depth, len(gates)).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(packed[to:], expected.reshape(-1))

        back = move(pack.reversed_plan(plan), packed, np.full_like(vector, np.nan))
        moved = np.full_like(vector, np.nan)
        moved_weight = moved[weight_at:][: weight.size].reshape(weight.shape)
        moved_weight[list(gates)] = weight[list(gates)]
        if with_bias:
            moved[bias_at:].reshape(bias.shape)[list(gates)] = bias[list(gates)]
        np.testing.assert_array_equal(back, moved)


def test_transposed_plan_there_and_back():
    for k, (hidden, units, inputs, gates, weight_at, _, vector, weight, _) in enumerate(random_layers(60, 2)):
        blocks, panel = -(-hidden // units), 1 + k % 9
        panels = -(-inputs // panel)
        boxes = pack.transposed_plan(gates, hidden, units, blocks, inputs, panel, weight_at, 0)
        plan = np.array(boxes, np.int64)
        packed = move(plan, vector, np.zeros(panels * blocks * len(gates) * units * panel))
        expected = np.zeros((len(gates), blocks * units, panels * panel))
        expected[:, :hidden, :inputs] = weight[list(gates)]
        expected = expected.reshape(len(gates), blocks, units, panels, panel).transpose(3, 1, 0, 2, 4)
        np.testing.assert_array_equal(packed, expected.reshape(-1))

        back = move(pack.reversed_plan(plan), packed, np.zeros_like(vector))
        moved = np.zeros_like(vector)
        moved[weight_at:][: weight.size].reshape(weight.shape)[list(gates)] = weight[list(gates)]
        np.testing.assert_array_equal(back, moved)


def test_a_plan_may_be_cut_anywhere():
    *_, (hidden, units, inputs, gates, weight_at, bias_at, vector, _, _) = random_layers(5, 3)
    depth, blocks = inputs + 1, -(-hidden // units)
    plan = np.array(pack.weight_plan(gates, hidden, units, inputs, depth, weight_at, bias_at, 0), np.int64)
    whole = move(plan, vector, np.zeros(blocks * depth * len(gates) * units))
    for cut in range(len(plan) + 1):
        pieces = np.zeros_like(whole)
        for first, last in ((0, cut), (cut, len(plan))):
            pack.move(np.zeros(2, np.int64), first, last, plan, vector, pieces)
        np.testing.assert_array_equal(pieces, whole)


# ---- dense


@pytest.mark.parametrize("dtype", DTYPES)
def test_matmul_is_numpys_product(dtype):
    rng = np.random.default_rng(2)
    for rows, depth, columns in itertools.product((1, 2, 7, 40), (1, 3, 129), (1, 2, 5, 16, 33)):
        a, b = integers(rng, (rows, depth), dtype), integers(rng, (depth, columns), dtype)
        forms = (a, a.T.copy().T, np.repeat(a, 2, axis=1)[:, ::2])
        for form, right in itertools.product(forms, (b, np.asfortranarray(b))):
            actual = dense.matmul(form, right)
            np.testing.assert_array_equal(actual, a @ b)
            assert actual.dtype == dtype and actual.flags.c_contiguous


def test_matmul_of_no_rows():
    assert dense.matmul(np.ones((0, 3)), np.ones((3, 2))).shape == (0, 2)


@pytest.mark.parametrize("columns", [1, 7, 24])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_matmul_bits_do_not_depend_on_rows_and_threads(columns, dtype, transposed, monkeypatch):
    rng = np.random.default_rng(columns)
    a = rng.standard_normal((41, 300)).astype(dtype)
    b = rng.standard_normal((300, columns)).astype(dtype)
    if transposed:
        a = a.T.copy().T
    whole = dense.matmul(a, b, n_jobs=1)
    for first, last in ((0, 1), (3, 9), (17, 41)):
        np.testing.assert_array_equal(dense.matmul(a[first:last], b), whole[first:last])
    monkeypatch.setattr(threads, "PARALLEL_FLOPS", 0)
    for n_jobs in (2, 3, 5):
        np.testing.assert_array_equal(dense.matmul(a, b, n_jobs=n_jobs), whole)
