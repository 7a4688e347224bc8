"""Kernels with an element a thread: what stands between the time loops and the products.

Each goes through its elements in steps of the whole grid, so that any number of threads will do. Rows are
(T, B, width), or (B, width); arrays are flat.
"""

from __future__ import annotations

from numbarnn.cuda.driver import cuda

__all__ = [
    "add", "add_bias", "add_offsets", "add_rows", "collect_states", "columns", "copy", "drop_negative",
    "embed", "embed_back", "fill", "gather_inputs", "gather_targets", "gather_valid", "join_columns",
    "join_ends", "merge", "multiply", "multiply_to", "place_states", "repeat_rows", "repeat_states",
    "rows_in", "rows_out", "segment_inputs", "split", "split_columns", "split_ends", "step_inputs",
    "sum_rows", "take_columns",
]  # fmt: skip


@cuda.jit
def fill(count, value, array):
    """Set the first elements to a value."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        array[i] = value


@cuda.jit
def copy(count, source, at, target, to):
    """Copy elements."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        target[to + i] = source[at + i]


@cuda.jit
def multiply(count, factors, array):
    """Multiply in place."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        array[i] *= factors[i]


@cuda.jit
def multiply_to(count, add, x, x_at, factors, at, out, to):
    """Set out to products, or add them to it if `add`."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        value = x[x_at + i] * factors[at + i]
        out[to + i] = out[to + i] + value if add else value


@cuda.jit
def rows_in(T, B, width, masked, valid, x, rows):
    """From (B, T, width) to (T, B, width); what a step holds that does not count is not looked at."""
    for i in range(cuda.grid(1), T * B * width, cuda.gridsize(1)):
        row, k = i // width, i % width
        t, b = row // B, row % B
        if masked == 0 or valid[row] > 0:
            rows[i] = x[(b * T + t) * width + k]
        else:
            rows[i] = 0


@cuda.jit
def rows_out(T, B, width, rows, x):
    """From (T, B, width) to (B, T, width)."""
    for i in range(cuda.grid(1), T * B * width, cuda.gridsize(1)):
        row, k = i // width, i % width
        x[((row % B) * T + row // B) * width + k] = rows[i]


@cuda.jit
def add_rows(B, width, masked, valid, source, target, count):
    """Add rows of steps that count."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        if masked == 0 or valid[i // width] > 0:
            target[i] += source[i]


@cuda.jit
def place_states(B, H, E, at, given, zero, states, h, h_at, e, e_at):
    """Copy direction `at` of states (E + 1, directions, B, H) to h (B, H) and e (B, E, H); else zeros."""
    part = states.size // (E + 1)
    for i in range(cuda.grid(1), (E + 1) * B * H, cuda.gridsize(1)):
        k, rest = i // (B * H), i % (B * H)
        b, u = rest // H, rest % H
        value = states[k * part + at * B * H + rest] if given else zero
        if k == 0:
            h[h_at + rest] = value
        else:
            e[e_at + (b * E + k - 1) * H + u] = value


@cuda.jit
def collect_states(B, H, E, at, states, h, h_at, e, e_at):
    """Copy the other way."""
    part = states.size // (E + 1)
    for i in range(cuda.grid(1), (E + 1) * B * H, cuda.gridsize(1)):
        k, rest = i // (B * H), i % (B * H)
        b, u = rest // H, rest % H
        value = h[h_at + rest] if k == 0 else e[e_at + (b * E + k - 1) * H + u]
        states[k * part + at * B * H + rest] = value


# ---- two directions; `kind` is the place of the merge in `numbarnn.kernels.between.MERGES`


@cuda.jit
def merge(count, kind, half, a, a_at, b, b_at, out):
    """Sum, mean or product of the outputs of two directions."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        x, y = a[a_at + i], b[b_at + i]
        if kind == 3:
            out[i] = x * y
        elif kind == 2:
            out[i] = (x + y) * half
        else:
            out[i] = x + y


@cuda.jit
def split(count, kind, half, dout, a, a_at, b, b_at, da, db):
    """Hand the gradient of a merge back to the two."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        gradient = dout[i]
        if kind == 3:
            da[i], db[i] = gradient * b[b_at + i], gradient * a[a_at + i]
        elif kind == 2:
            da[i] = db[i] = gradient * half
        else:
            da[i] = db[i] = gradient


@cuda.jit
def join_ends(T, B, width, reverse_from, masked, valid, out, ends):
    """Of outputs (T, B, width) take the last step that counts, from column `reverse_from` on the first."""
    for i in range(cuda.grid(1), B * width, cuda.gridsize(1)):
        b, k = i // width, i % width
        step = -1
        for s in range(T):
            t = s if k >= reverse_from else T - 1 - s
            if step < 0 and (masked == 0 or valid[t * B + b] > 0):
                step = t
        ends[i] = out[(step * B + b) * width + k]


@cuda.jit
def split_ends(T, B, width, reverse_from, masked, adds, valid, dends, dout):
    """Hand the gradient of the ends back; all other steps have none, or what they had if `adds`."""
    for i in range(cuda.grid(1), B * width, cuda.gridsize(1)):
        b, k = i // width, i % width
        step = -1
        for s in range(T):
            t = s if k >= reverse_from else T - 1 - s
            if step < 0 and (masked == 0 or valid[t * B + b] > 0):
                step = t
            if adds == 0:
                dout[(t * B + b) * width + k] = 0
        dout[(step * B + b) * width + k] += dends[i]


# ---- dense layers


@cuda.jit
def add_bias(count, width, relu, zero, p, at, y):
    """Add a row to every row, and set what is negative to zero if `relu`."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        value = y[i] + p[at + i % width]
        if relu and value < 0:
            value = zero
        y[i] = value


@cuda.jit
def drop_negative(count, y, dy):
    """Set the gradient to zero where the rectifier's output is."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        if not y[i] > 0:
            dy[i] = 0


# ---- what a network reads, and what it starts from


@cuda.jit
def join_columns(rows, width, a, a_at, b, b_at, out):
    """Put rows of a and of b, both `width` wide, side by side."""
    for i in range(cuda.grid(1), rows * width, cuda.gridsize(1)):
        to = i // width * 2 * width + i % width
        out[to] = a[a_at + i]
        out[to + width] = b[b_at + i]


@cuda.jit
def split_columns(rows, width, dout, da, db):
    """Take them apart again."""
    for i in range(cuda.grid(1), rows * width, cuda.gridsize(1)):
        at = i // width * 2 * width + i % width
        da[i] = dout[at]
        db[i] = dout[at + width]


@cuda.jit
def take_columns(rows, inputs, width, columns, x, out):
    """Copy some columns of x (rows, inputs) to the first of out (rows, width)."""
    n = columns.size
    for i in range(cuda.grid(1), rows * n, cuda.gridsize(1)):
        out[i // n * width + i % n] = x[i // n * inputs + columns[i % n]]


@cuda.jit
def embed(rows, inputs, width, feature, to, size, p, at, x, out):
    """Put the vector of each row's category into columns `to` to to + size."""
    for i in range(cuda.grid(1), rows * size, cuda.gridsize(1)):
        r, k = i // size, i % size
        out[r * width + to + k] = p[at + int(x[r * inputs + feature]) * size + k]


@cuda.jit
def embed_back(rows, inputs, width, feature, to, size, count, zero, x, dout, g, at):
    """Sum the gradient of each vector over the rows of its category, in their order; count of the table."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        number, k = i // size, i % size
        total = zero
        for r in range(rows):
            if int(x[r * inputs + feature]) == number:
                total += dout[r * width + to + k]
        g[at + i] = total


@cuda.jit
def repeat_states(count, B, H, p, at, states):
    """Let all B rows of a batch begin in the same states: (D, H) to (D, B, H), count elements."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        states[i] = p[at + i // (B * H) * H + i % H]


# ---- what a forecaster reads and writes


@cuda.jit
def columns(rows, width, x, x_at, x_width, y, y_at, y_width):
    """Copy `width` columns, from `x_at` on in rows of x to `y_at` on in rows of y."""
    for i in range(cuda.grid(1), rows * width, cuda.gridsize(1)):
        r, k = i // width, i % width
        y[y_at + r * y_width + k] = x[x_at + r * x_width + k]


@cuda.jit
def add(count, source, target):
    """Add elements."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        target[i] += source[i]


@cuda.jit
def repeat_rows(count, times, width, source, target):
    """Write every row so many times behind each other; count elements of target."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        target[i] = source[i // width // times * width + i % width]


@cuda.jit
def sum_rows(count, times, width, zero, source, target):
    """Sum so many rows that stand behind each other; count elements of target."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        total = zero
        for j in range(times):
            total += source[(i // width * times + j) * width + i % width]
        target[i] = total


@cuda.jit
def segment_inputs(count, m, D, own, p, at, table, series, has_static, static, has_future, future, out):
    """Put vectors of the m positions, `own` wide, beside the series', and add the covariates' layers."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        k, row = i % D, i // D
        if k < own:
            value = p[at + row % m * own + k]
        else:
            value = p[table + series[row // m] * (D - own) + k - own]
        if has_static:
            value += static[row // m * D + k]
        if has_future:
            value += future[i]
        out[i] = value


@cuda.jit
def step_inputs(count, B, width, read, size, p, table, series, static, inputs, out):
    """Put behind the `read` columns of every step the vector of its series and the static covariates."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        k, row = i % width, i // width
        if k < read:
            out[i] = inputs[row * read + k]
        elif k < read + size:
            out[i] = p[table + series[row % B] * size + k - read]
        else:
            out[i] = static[row % B * (width - read - size) + k - read - size]


@cuda.jit
def add_offsets(count, period, offset, raw):
    """Add to rows what stands in `period` elements, again and again."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        raw[i] += offset[i % period]


# ---- batches of a data set; `control[0]` is the number of the batch


@cuda.jit
def gather_valid(T, B, size, control, order, valids, valid):
    """Take which steps count: from (n, T) to (T, B)."""
    start = int(control[0]) * size
    for i in range(cuda.grid(1), T * B, cuda.gridsize(1)):
        valid[i] = valids[order[start + i % B] * T + i // B]


@cuda.jit
def gather_inputs(T, B, F, size, masked, control, order, xs, valid, rows):
    """Take the inputs: from (n, T, F) to (T, B, F), zero where a step does not count."""
    start = int(control[0]) * size
    for i in range(cuda.grid(1), T * B * F, cuda.gridsize(1)):
        row, k = i // F, i % F
        if masked == 0 or valid[row] > 0:
            rows[i] = xs[(order[start + row % B] * T + row // B) * F + k]
        else:
            rows[i] = 0


@cuda.jit
def gather_targets(steps, B, k, size, masked, weighted, control, order, ys, ws, valid, y, weights):
    """Take targets (n, steps, k) and weights (n, steps), or (n,) if weighted is 1, to (steps, B, ...).

    A step that does not count has weight 0; without weights it is 1 elsewhere.
    """
    start = int(control[0]) * size
    for i in range(cuda.grid(1), steps * B, cuda.gridsize(1)):
        t, sample = i // B, order[start + i % B]
        for j in range(k):
            y[i * k + j] = ys[(sample * steps + t) * k + j]
        if masked and valid[i] == 0:
            weights[i] = 0
        elif weighted == 0:
            weights[i] = 1
        else:
            weights[i] = ws[sample if weighted == 1 else sample * steps + t]
