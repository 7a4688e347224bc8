"""Hold the figures in ``benchmarks/results/`` against those to reach: ``python benchmarks/targets.py``.

Training steps are ratios to PyTorch at 1 and 2 threads, forward passes at least 1, whole fits ratios to the
fastest peer at 2 threads, start-up times in seconds. Exits with 1 if one is missed.

Beside a ratio that is missed stands the speed it asks for, counting products alone, in GFLOP/s, and the speed
of NumPy's largest product in the same run: more than that nothing reaches that does any other work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# hidden size -> ratio at 1 and at 2 threads
TRAIN = {
    "lstm": {32: (2.1, 4.0), 64: (1.5, 2.2), 128: (1.8, 2.2), 256: (1.5, 1.6), 512: (1.1, 1.2)},
    "gru": {32: (10, 18), 64: (5, 9), 128: (2.2, 3.4), 256: (1.6, 2.1), 512: (1.15, 1.4)},
    "rnn": {32: (9, 13), 64: (4.8, 7), 128: (1.8, 2.7), 256: (1.4, 1.7), 512: (1.2, 1.4)},
}
FIT = {
    "lstm": {32: 3.0, 64: 2.2, 128: 1.8},
    "gru": {32: 3.0, 64: 2.5, 128: 2.5},
    "rnn": {32: 2.5, 64: 2.5, 128: 2.5},
}
WITH_DX = 512  # the last size of the table has the input gradient on both sides
IMPORT_SECONDS, COMPILE_SECONDS, WARM_SECONDS = 0.3, 6.0, 0.5


Check = tuple[str, float, float, dict[str, Any] | None, bool]


def layer_checks(rows: list[dict[str, Any]]) -> Iterator[Check]:
    """Yield (name, found, wanted, row, reached) of training steps and forward passes."""
    for row in rows:
        if row["peer"] != "torch" or row["threads"] > 2:
            continue
        name = f"{row['kind']} {row['cell']} {row['hidden']}, {row['threads']} threads"
        ratio = row["ratio"]["median"]
        if row["kind"] == "forward":
            yield name, ratio, 1.0, row, ratio >= 1.0
        elif row["kind"] == "train" and row["input_gradient"] == (row["hidden"] == WITH_DX):
            wanted = TRAIN[row["cell"]][row["hidden"]][row["threads"] - 1]
            yield name, ratio, wanted, row, ratio >= wanted


def fit_checks(rows: list[dict[str, Any]]) -> Iterator[Check]:
    """Yield the checks of whole fits against the fastest peer."""
    for cell, sizes in FIT.items():
        for hidden, wanted in sizes.items():
            case = ("fit", cell, hidden, 2)
            found = [
                row for row in rows if (row["kind"], row["cell"], row["hidden"], row["threads"]) == case
            ]
            if found:
                row = min(found, key=lambda row: row["ratio"]["median"])
                ratio = row["ratio"]["median"]
                yield f"fit {cell} {hidden}, 2 threads", ratio, wanted, row, ratio >= wanted


def startup_checks(startup: dict[str, Any]) -> Iterator[Check]:
    """Yield the checks of imports and first fits, in seconds."""
    extra = startup["imports"]["import numbarnn"] - startup["imports"]["import sklearn.base"]
    yield "import numbarnn above import sklearn.base, s", extra, IMPORT_SECONDS, None, extra <= IMPORT_SECONDS
    for cell, row in startup["first_fit"].items():
        compiling = row["empty cache"] - row["warm"]
        yield f"compiling {cell}, s", compiling, COMPILE_SECONDS, None, compiling <= COMPILE_SECONDS
        yield f"warm first fit {cell}, s", row["warm"], WARM_SECONDS, None, row["warm"] <= WARM_SECONDS


def bound(row: dict[str, Any] | None, wanted: float) -> str:
    """Say how fast the products of a case would have to be, and how fast NumPy's are."""
    if row is None or "gflop" not in row:
        return ""
    needed = row["gflop"] / (row["peer_seconds"]["median"] / wanted)
    return f"; asks for {needed:.0f} GFLOP/s, NumPy's products reach {row['numpy_gflop_per_second']:.0f}"


def main() -> int:
    """Print every check and say how many are missed."""
    rows = json.loads((RESULTS / "bench.json").read_text(encoding="utf-8"))["results"]
    checks = [*layer_checks(rows), *fit_checks(rows)]
    if (RESULTS / "startup.json").exists():
        checks += startup_checks(json.loads((RESULTS / "startup.json").read_text(encoding="utf-8")))
    for name, found, wanted, row, reached in checks:
        note = "" if reached else bound(row, wanted)
        print(f"{'' if reached else 'MISSED':<7} {name:<46} {found:6.2f} (wanted {wanted:g}){note}")
    missed = sum(not reached for *_, reached in checks)
    print(f"{len(checks) - missed} of {len(checks)} reached")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
