"""How a layer is spread over the threads of a block, and which layers are.

A block of threads takes a few rows of the batch through all time steps. Its threads hold the recurrent
weights in registers, each thread some of them: of `Q` sums the part of every P-th input,

    total[q] = sum over i of weight[q, i P + part] vector[i P + part]        q < Q, i < L

so that one load from shared memory serves Q sums, and neighbouring threads load neighbouring elements. The P
parts of a sum are added, in their order, by the thread that has the unit. Whether a layer fits is a matter of
registers: a block has 65536 of 4 bytes, a thread at most 255.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from numbarnn.cuda.driver import SIMULATED
from numbarnn.cuda.functions import Equations

__all__ = ["Mapping", "Plan", "plan"]

REGISTERS, MOST_REGISTERS, MOST_THREADS, WARP = 65536, 255, 1024, 32
# what a thread needs besides its weights, in registers; `ptxas -v` says whether it is enough
OVERHEAD = 56
# more weights a thread than this make the loop over them long and the block small
MOST_WEIGHTS = 96
# without more than the 48 KB that every device gives a block, and that need not be asked for
SHARED_BYTES = 48 * 1024
MOST_ROWS = 4
LEAST_THREADS = 128
if SIMULATED:  # whose threads are dear: as few as show every index at work
    WARP, LEAST_THREADS, MOST_ROWS = 1, 2, 2


class Mapping(NamedTuple):
    """Where the elements of a matrix of weights are held that a vector is multiplied by.

    Attributes
    ----------
    Q, P, L : int
        Sums a thread works on, threads that share a sum, inputs of a sum that a thread has.
    groups : int
        Threads of one part.
    threads : int
        All of a block.
    depth : int
        Inputs up to whole parts, P L.
    stride : int
        From the parts of one to the parts of the next, in shared memory, such that no two threads of a warp
        meet in a bank.
    registers : int
        What a thread may have.
    """

    Q: int
    P: int
    L: int
    groups: int
    threads: int
    depth: int
    stride: int
    registers: int


class Plan(NamedTuple):
    """How a layer runs on the chip.

    Attributes
    ----------
    rows : int
        Rows of the batch in a block.
    forward, backward : Mapping
    """

    rows: int
    forward: Mapping
    backward: Mapping


def plan(equations: Equations, hidden_size: int, n_samples: int, n_processors: int) -> Plan | None:
    """Decide how a layer runs: on the chip, or None for a product of the library in each step.

    The only place where this is decided; the one number to change after a measurement is `MOST_WEIGHTS`.

    Parameters
    ----------
    equations : Equations
    hidden_size, n_samples : int
    n_processors : int
        Of the device; there is no use in fewer blocks than it has.

    Returns
    -------
    plan : Plan or None
    """
    NH, H, words = len(equations.h_gates), hidden_size, np.dtype(equations.real).itemsize // 4
    if equations.M:  # there would be two matrices to hold
        return None
    if NH == 0:  # nothing to hold: units go each their own way
        threads = min(MOST_THREADS // 4, _up(H, WARP))
        forward = backward = Mapping(1, 1, 0, 0, threads, 1, 1, MOST_REGISTERS)
    else:
        forward, backward = _mapping(NH * H, H, NH, words), _mapping(H, NH * H, NH, words)
        if forward is None or backward is None:
            return None
    rows = _rows(n_samples, n_processors)
    while rows and max(_shared_bytes(equations, H, rows, m) for m in (forward, backward)) > SHARED_BYTES:
        rows //= 2
    return Plan(rows, forward, backward) if rows else None


def _rows(n_samples: int, n_processors: int) -> int:
    """Return the fewest rows, a power of two, with which every block has a processor of its own."""
    rows = 1
    while rows < MOST_ROWS and -(-n_samples // rows) > n_processors:
        rows *= 2
    return rows


def _shared_bytes(equations: Equations, H: int, rows: int, mapping: Mapping) -> int:
    vectors = mapping.depth + H + equations.E * H + mapping.P * mapping.stride
    return rows * vectors * np.dtype(equations.real).itemsize


def _mapping(n_outputs: int, n_inputs: int, Q: int, words: int) -> Mapping | None:
    """Spread a matrix over as few threads as give `LEAST_THREADS`, if there are enough registers."""
    groups, found = -(-n_outputs // Q), None
    for P in (1, 2, 4, 8, 16, 32):
        threads, L = _up(groups * P, WARP), -(-n_inputs // P)
        if threads > MOST_THREADS or (found and found.threads >= LEAST_THREADS):
            break
        registers = min(MOST_REGISTERS, REGISTERS // _up(threads, 32) // 8 * 8)
        if Q * L <= MOST_WEIGHTS and Q * L * words <= registers - OVERHEAD * (1 + words) // 2:
            # P threads beside each other write to P places that are this far apart
            stride = _up(Q * groups, 32) + max(1, 32 // P // words)
            found = Mapping(Q, P, L, groups, threads, P * L, stride, registers)
    return found


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
