"""The products and the moves of data that everything else is made of, against NumPy.

Where bits are compared with NumPy's, the numbers are small integers: their sums are exact in any order.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from numbarnn.cells import CELLS
from numbarnn.kernels import dense, pack, sizes, threads
from numbarnn.kernels.compiler import kernel
from numbarnn.kernels.gemm import ALONE, gemm
from numbarnn.kernels.threads import Program
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


def move(plan, source, target, first=0, last=None):
    boxes = first, len(plan) if last is None else last
    Program(source.dtype, 1, [[(pack.move, *boxes, plan, source, target)]]).run()
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
            move(plan, vector, pieces, first, last)
        np.testing.assert_array_equal(pieces, whole)


def test_blocks_may_have_more_rows():
    """The rows of two plans alternate block by block where both say how many a block has."""
    for hidden, units, inputs, gates, weight_at, bias_at, vector, _, _ in random_layers(20, 4):
        blocks, columns, depth = -(-hidden // units), len(gates) * units, inputs + 1
        places = gates, hidden, units, inputs, depth, weight_at, bias_at
        alone = np.array(pack.weight_plan(*places, 0), np.int64)
        expected = move(alone, vector, np.zeros(blocks * depth * columns)).reshape(blocks, depth, columns)
        rows = 2 * depth + 1
        both = pack.weight_plan(*places, 0, rows) + pack.weight_plan(*places, depth * columns, rows)
        packed = move(np.array(both, np.int64), vector, np.zeros(blocks * rows * columns))
        packed = packed.reshape(blocks, rows, columns)
        np.testing.assert_array_equal(packed[:, :depth], expected)
        np.testing.assert_array_equal(packed[:, depth : 2 * depth], expected)
        assert (packed[:, -1] == 0).all()


# ---- how work is cut


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_pieces_of_the_weight_gradient_cover_it_once(cell):
    for inputs, hidden, n_threads in itertools.product((1, 47, 300), (1, 9, 64, 700), (1, 2, 3, 4)):
        layer = sizes.layer_sizes(CELLS[cell], inputs, hidden, 4, False)
        for depth, columns in ((layer.D, layer.Sh), (inputs + 1, layer.Sx)):
            if columns == 0:  # a cell without recurrent weights
                continue
            seen = np.zeros((layer.J, depth), int)
            for j0, j1, m0, m1 in sizes.weight_gradient_blocks(layer.J, depth, columns, 4, n_threads):
                assert j0 < j1 and m0 < m1
                seen[j0:j1, m0:m1] += 1
            assert (seen == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_begin_with_a_cache_line(dtype):
    for size in (1, 5, 1000):
        array = sizes.aligned_zeros(size, dtype)
        assert array.shape == (size,) and array.dtype == dtype and array.flags.c_contiguous
        assert array.ctypes.data % sizes.LINE_BYTES == 0 and not array.any()


# ---- dense


def product_of(a, b, n_jobs=None):
    transposed = not a.flags.c_contiguous
    return dense.Product(*a.shape, b.shape[1], a.dtype, n_jobs, transposed)(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_product_is_numpys(dtype):
    rng = np.random.default_rng(2)
    for rows, depth, columns in itertools.product((1, 2, 7, 40), (1, 3, 129), (1, 2, 5, 16, 33)):
        a, b = integers(rng, (rows, depth), dtype), integers(rng, (depth, columns), dtype)
        forms = (a, a.T.copy().T, np.repeat(a, 2, axis=1)[:, ::2])
        for form, right in itertools.product(forms, (b, np.asfortranarray(b))):
            actual = product_of(form, right)
            np.testing.assert_array_equal(actual, a @ b)
            assert actual.dtype == dtype and actual.flags.c_contiguous


def test_product_of_no_rows():
    assert dense.Product(0, 3, 2, "float64")(np.ones((0, 3)), np.ones((3, 2))).shape == (0, 2)


def test_product_is_used_again_with_other_arrays():
    rng, product = np.random.default_rng(3), dense.Product(5, 4, 3, "float64")
    results = []
    for _ in range(4):
        a, b = integers(rng, (5, 4), "float64"), integers(rng, (4, 3), "float64")
        results.append((product(a, b), a @ b))
    for actual, expected in results:  # no result is overwritten by the next
        np.testing.assert_array_equal(actual, expected)


def test_two_threads_share_a_product():
    rng, product = np.random.default_rng(4), dense.Product(30, 20, 10, "float64")
    pairs = [(integers(rng, (30, 20), "float64"), integers(rng, (20, 10), "float64")) for _ in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for actual, (a, b) in zip(pool.map(lambda pair: product(*pair), pairs), pairs, strict=True):
            np.testing.assert_array_equal(actual, a @ b)


@pytest.mark.parametrize("columns", [1, 7, 24])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_bits_of_a_product_do_not_depend_on_rows_and_threads(columns, dtype, transposed, monkeypatch):
    rng = np.random.default_rng(columns)
    a = rng.standard_normal((41, 300)).astype(dtype)
    b = rng.standard_normal((300, columns)).astype(dtype)
    if transposed:
        a = a.T.copy().T
    whole = product_of(a, b, n_jobs=1)
    for first, last in ((0, 1), (3, 9), (17, 41)):
        np.testing.assert_array_equal(product_of(a[first:last], b), whole[first:last])
    monkeypatch.setattr(threads, "PARALLEL_FLOPS", 0)
    for n_jobs in (2, 3, 5):
        np.testing.assert_array_equal(product_of(a, b, n_jobs), whole)
