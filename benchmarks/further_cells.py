"""Training steps of the further cells beside those of the nearest of lstm, gru and rnn, in turns.

Run it on an idle machine: ``python benchmarks/further_cells.py``. Writes ``benchmarks/results/cells.json``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from numbarnn import Recurrent
from numbarnn.bench.cases import Job
from numbarnn.bench.measure import Local
from numbarnn.bench.report import describe_machine, format_seconds, write_document

NEAREST = {
    "lstm_peephole": "lstm", "lstm_peephole_candidate": "lstm", "lstm_coupled": "lstm", "minlstm": "lstm",
    "article_lstm": "lstm", "lstm_layernorm": "lstm", "lstm[hard_sigmoid,tanh,tanh;clip=3.0]": "lstm",
    "gru_reset_before": "gru", "mgu": "gru", "mingru": "gru", "article_gru": "gru", "indrnn": "rnn_relu",
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "lstm, proj_size 32": {"proj_size": 32},
    "lstm, recurrent_dropout 0.2": {"recurrent_dropout": 0.2},
    "lstm, zoneout 0.1": {"zoneout": 0.1},
}
SHAPES = ("64, 100, 16, 128", "32, 1000, 16, 128")
# of long sequences, from what stays in a cache to what does not: there only memory holds mingru back
LONG_SHAPES = (
    "8, 1000, 16, 128", "16, 1000, 16, 128", "32, 1000, 16, 64", "32, 1000, 16, 128", "32, 1000, 16, 256"
)


def training_step(cell: str, options: dict[str, Any]) -> Callable[[Any, int], Job]:
    """Make what gives a `Local` the training step of a layer: forward, backward, gradients of parameters."""

    def make(shape: tuple[int, int, int, int], threads: int) -> Job:
        B, T, inputs, hidden = shape
        layer = Recurrent(cell, inputs, hidden, random_state=0, n_jobs=threads, **options)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((B, T, inputs), np.float32)
        doutput = rng.standard_normal((B, T, layer.output_size), np.float32)

        def run() -> None:
            layer.forward(x, training=True)
            layer.backward(doutput, input_gradient=False)

        return Job(run, dict, 1)

    return make


def measure(name: str, nearest: str, shape: str, threads: int, rounds: int) -> dict[str, Any]:
    """Time a cell (or "cell, option") and the nearest old one in turns; the median of the rounds' ratios."""
    sides = [Local(training_step(cell.split(", ")[0], OPTIONS.get(cell, {}))) for cell in (name, nearest)]
    for side in sides:
        side.prepare(tuple(map(int, shape.split(", "))), threads)
    pairs = [[side.time(0.15) for side in sides] for _ in range(rounds)]
    return {
        "cell": name,
        "nearest": nearest,
        "shape": shape,
        "threads": threads,
        "seconds": statistics.median(ours for ours, _ in pairs),
        "ratio": statistics.median(theirs / ours for ours, theirs in pairs),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", default=str(Path(__file__).parent / "results" / "cells.json"))
    arguments = parser.parse_args()
    pairs = NEAREST | dict.fromkeys(OPTIONS, "lstm")
    cases = {"rows": (SHAPES, pairs), "long": (LONG_SHAPES, {"mingru": "gru"})}
    found: dict[str, Any] = {"machine": describe_machine(), "rows": [], "long": []}
    for table, (shapes, cells) in cases.items():
        for threads, shape, (name, nearest) in product(arguments.threads, shapes, cells.items()):
            row = measure(name, nearest, shape, threads, arguments.rounds)
            found[table].append(row)
            print(f"{name:<40} {shape:<18} {threads}  {format_seconds(row['seconds']):>9}  "
                  f"{row['ratio']:.2f} times as fast as {nearest}", flush=True)
    write_document(Path(arguments.output), found)


if __name__ == "__main__":
    main()
