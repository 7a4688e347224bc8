"""What a kernel is told about shapes, and how work is cut so that it stays in a cache.

The letters are those of `scan`, which says how the arrays are laid out.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from numbarnn.kernels.gemm import panel_depth, panel_vectors
from numbarnn.simd import VECTOR_BYTES

if TYPE_CHECKING:
    from numbarnn.cells import Cell

LINE_BYTES = 64
WIDE_INPUTS = 48  # from here on the input product is done for several steps at once
L2_BYTES = 256 << 10  # of a second-level cache of 512 KiB or more, what one operand may take
CHUNK_ROWS = 4  # at least, in a chunk of a batch
CHUNK_BYTES = 512 << 10  # at most, of the gradient of a chunk's weights
MOST_BACK = 512 << 10  # gradients of gates that go to the input at once
BLOCK_BYTES = 256 << 10  # of gates in a block of steps
MOST_BLOCKS = 64
KEPT_BYTES = 4 << 20  # of states and gates that a chunk keeps if it can compute them again
EMPTY = {np.dtype(d): np.zeros(0, d) for d in (np.float32, np.float64)}  # an array that nobody asks for


class Sizes(NamedTuple):
    """Sizes and strides, counted in elements, that a kernel is told."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    U: int  # units of a block
    J: int  # blocks
    S: int  # columns of a block of g
    Sh: int  # of these, the columns of the slots that see the state
    Sx: int  # likewise the input
    HR: int  # numbers of h: H, or fewer where h is a projection
    JR: int  # blocks of it
    R: int  # JR U
    projects: int
    D: int  # rows of a block of wh
    E: int  # states beside h
    Sm: int  # columns of a block of second products
    K: int  # parameters of single units
    LZ: int  # from row to row of z
    LX: int  # from row to row of x
    LH: int  # from row to row of h, which stands in x unless there is a mask in between
    LM: int  # from row to row of the middle vectors
    wh: int  # where wh begins in the packed weights, and so on; wx begins at 0
    wm: int
    u: int
    wht: int
    wmt: int
    wxt: int
    g_slots: int
    x_slots: int
    steps: int  # whose input product is done at once
    back: int  # whose gradient goes to the input at once
    reverse: int
    masked: int  # whether there is a mask of steps behind the lengths
    rm: int  # where rm begins in the array of `noise`, and so on; 0 for what there is not
    dd: int
    nk: int
    zm: int
    ds: int
    sums: int  # of a tile: one, but gemm.ALONE for a row that streams
    kx: int  # rows of a panel of wx, of wh, of wm: what stays in the first-level cache
    kh: int
    km: int
    kn: int  # of a panel of g, in the gradient of the weights
    P: int  # columns of a panel of wht
    PM: int  # of wmt
    group: int  # blocks of a panel of wht that one product goes through
    group_m: int  # likewise of wmt


def aligned_zeros(size: int, dtype: DTypeLike) -> NDArray:
    """Make a flat array of zeros that begins with a cache line.

    Registers are then never loaded from two lines, and rows that two threads write never share one.

    >>> from numbarnn.kernels.sizes import aligned_zeros
    >>> aligned_zeros(3, "float32")
    array([0., 0., 0.], dtype=float32)
    """
    dtype = np.dtype(dtype)
    whole = np.zeros(size + LINE_BYTES // dtype.itemsize, dtype)
    first = -whole.__array_interface__["data"][0] % LINE_BYTES // dtype.itemsize
    return whole[first : first + size]


def whole_lines(elements: int, itemsize: int) -> int:
    """Count the elements up to the end of a cache line.

    >>> from numbarnn.kernels.sizes import whole_lines
    >>> whole_lines(16, 4), whole_lines(17, 4)
    (16, 32)
    """
    line = LINE_BYTES // itemsize
    return -(-elements // line) * line


def row_stride(elements: int, itemsize: int) -> int:
    """Count the elements from row to row: odd numbers of cache lines, so that rows fall into different sets.

    Rows of one line or less stay as close as they are.

    >>> from numbarnn.kernels.sizes import row_stride
    >>> row_stride(5, 4), row_stride(17, 4), row_stride(64, 4)
    (5, 48, 80)
    """
    line = LINE_BYTES // itemsize
    return elements if elements <= line else -(-elements // line) // 2 * 2 * line + line


def layer_sizes(
    cell: Cell, n_inputs: int, hidden_size: int, itemsize: int, reverse: bool, proj_size: int = 0
) -> Sizes:
    """Give the sizes of a layer before it knows a batch: T, B and what depends on them are 0."""
    lanes = VECTOR_BYTES // itemsize
    n_slots, n_products, n_units = cell.n_slots, len(cell.m_gates), len(cell.units)
    vectors = -(-hidden_size // lanes)
    # cells with few slots take several registers of each, so that a tile is full
    each = 1 if n_slots > 2 else max(1, panel_vectors(vectors) // n_slots)
    units = each * lanes
    blocks = -(-vectors // each)
    padded = blocks * units
    seen = proj_size or hidden_size
    blocks_h = -(-seen // units)
    width = blocks_h * units
    panel, panel_m = (panel_vectors(n // lanes) * lanes for n in (width, padded))
    h_columns, x_columns = len(cell.h_gates) * units, len(cell.x_gates) * units
    m_columns = n_products * units
    depth = width + 1
    joined = n_inputs < WIDE_INPUTS and h_columns == x_columns == n_slots * units  # one product for both
    if joined:
        depth += n_inputs + 1
    parts = {
        "wh": 0 if joined else blocks * (n_inputs + 1) * x_columns,  # wx stands in front of it
        "wm": blocks * depth * h_columns,
        "u": blocks_h * (padded + 1) * m_columns,
        "wht": n_units * padded,
        "wmt": width * blocks * h_columns,
        "wxt": padded * blocks_h * m_columns,
    }
    places = accumulate(whole_lines(part, itemsize) for part in parts.values())
    return Sizes(
        T=0, B=0, I=n_inputs, H=hidden_size, U=units, J=blocks, S=n_slots * units, Sh=h_columns, Sx=x_columns,
        HR=seen, JR=blocks_h, R=width, projects=int(proj_size > 0),
        D=depth, E=cell.n_states - 1, Sm=m_columns, K=n_units,
        LZ=n_inputs + 1 if n_inputs < WIDE_INPUTS else row_stride(n_inputs + 1, itemsize),
        LX=row_stride(depth, itemsize), LH=row_stride(depth, itemsize),
        LM=row_stride(padded + 1, itemsize) if n_products else 0,
        **dict(zip(parts, places, strict=True)),
        g_slots=0, x_slots=0, steps=0, back=0, reverse=int(reverse), masked=0,
        rm=0, dd=0, nk=0, zm=0, ds=0, sums=1,
        kx=panel_depth(x_columns, itemsize, n_inputs + 1), kh=panel_depth(h_columns, itemsize, depth),
        km=panel_depth(m_columns, itemsize, padded + 1),
        # half a panel: the other half is for the rows of x or z, which lie apart
        kn=max(16, panel_depth(h_columns, itemsize) // 2),
        P=panel, PM=panel_m, group=_panel_blocks(panel, h_columns, itemsize),
        group_m=_panel_blocks(panel_m, m_columns, itemsize),
    )


def _panel_blocks(panel: int, columns: int, itemsize: int) -> int:
    """Count the blocks of a transposed panel that one product goes through."""
    return max(1, 2 * panel_depth(panel, itemsize) // max(1, columns))


def batch_sizes(
    sizes: Sizes, n_timesteps: int, n_samples: int, training: bool, masked: bool = False
) -> Sizes:
    """Complete the sizes of a layer for a batch."""
    steps = min(n_timesteps, 1 if sizes.I < WIDE_INPUTS else max(1, 256 // n_samples))
    return sizes._replace(
        T=n_timesteps,
        B=n_samples,
        steps=steps,
        back=max(1, MOST_BACK // (n_samples * sizes.J * sizes.S)),
        g_slots=n_timesteps if training else steps,
        x_slots=n_timesteps + 1 if training else 2,
        masked=int(masked),
    )


def count_chunks(n_samples: int, gradient_bytes: int) -> int:
    """Count the chunks that a batch is cut into: a matter of sizes alone, so that sums have one order.

    Each has arrays of its own, so that two threads do not work on the same pages and fetch each other's
    lines, and a gradient of the weights of its own, from rows that are in the cache of the core that filled
    them. That is worth while as long as the gradient is small.

    >>> from numbarnn.kernels.sizes import count_chunks
    >>> count_chunks(32, 20_000), count_chunks(32, 4_000_000)
    (2, 1)
    """
    return 2 if n_samples >= 2 * CHUNK_ROWS and gradient_bytes <= CHUNK_BYTES else 1


def block_steps(sizes: Sizes, itemsize: int, gradient_bytes: int) -> int:
    """Count the steps of a block of the way back, which is followed by its gradient of the weights.

    What a block keeps is still in the second-level cache then; a large gradient would drive it out.
    """
    if gradient_bytes > CHUNK_BYTES:
        return sizes.T
    step = sizes.B * sizes.J * sizes.S * itemsize
    return min(sizes.T, max(BLOCK_BYTES // step, -(-sizes.T // MOST_BLOCKS), 1))


def backward_blocks(sizes: Sizes, steps: int) -> list[tuple[int, int]]:
    """Cut the way back into blocks of so many steps, last ones first; each begins at a multiple in time."""
    times = [(t, min(sizes.T, t + steps)) for t in range(0, sizes.T, steps)]
    return [(sizes.T - t1, sizes.T - t0) for t0, t1 in times] if sizes.reverse else times[::-1]


def kept_steps(sizes: Sizes, itemsize: int, block: int) -> int:
    """Count the steps, in whole blocks or all, that a cell without recurrent product keeps for the way back.

    In a long sequence it takes less time to compute a block again than to write it to memory and to read it
    from there. The steps that are done last are still in a cache, and kept.
    """
    padded = sizes.J * sizes.U
    step = sizes.B * (sizes.J * sizes.S + sizes.LX + sizes.E * padded) * itemsize
    return min(sizes.T, max(1, KEPT_BYTES // (step * block)) * block)


def noise_sizes(sizes: Sizes, drops: bool, zones: bool) -> tuple[Sizes, int]:
    """Add the places of what `noise` needs to the sizes of a batch; and count its elements."""
    row = sizes.B * sizes.J * sizes.U
    states = row * (1 + sizes.E)
    parts = {
        "rm": drops * sizes.x_slots * row,  # the first part is h
        "dd": drops * row,
        "nk": drops * row,
        "zm": zones * sizes.g_slots * states,
        "ds": zones * sizes.g_slots * states,
    }
    places = dict(zip(parts, accumulate(parts.values()), strict=True))
    used = {name: at for name, at in places.items() if (drops if name in ("rm", "dd") else zones)}
    stride = sizes.J * sizes.U if drops else sizes.LH
    return sizes._replace(LH=stride, **used), places["ds"] + zones * states


def weight_gradient_blocks(
    n_blocks: int, depth: int, columns: int, itemsize: int, threads: int
) -> list[tuple[int, int, int, int]]:
    """Cut dw (n_blocks, depth, columns) into pieces (j0, j1, m0, m1) that stay in the second-level cache.

    There are enough of them to keep every thread busy to the end, where dw is large enough.
    """
    wanted = 1 if threads == 1 else 2 * threads
    parts = max(-(-depth // 264), min(-(-wanted // n_blocks), depth // 6))
    rows = -(-depth // parts)
    group = max(1, min(L2_BYTES // (rows * columns * itemsize), -(-n_blocks * parts // wanted)))
    return [
        (j, min(n_blocks, j + group), m, min(depth, m + rows))
        for m in range(0, depth, rows)
        for j in range(0, n_blocks, group)
    ]
