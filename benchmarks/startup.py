"""Start-up times in fresh processes: imports, the first fit ever on a machine, the first fit of a process.

Run it on an idle machine: ``python benchmarks/startup.py``. Writes ``benchmarks/results/startup.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from numbarnn.bench.report import describe_machine, write_document

TIMED_IMPORT = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
TIMED_FIT = """
import time
import numpy as np
from numbarnn import RNNRegressor
X = np.random.default_rng(0).standard_normal((256, 24, 3)).astype(np.float32)
start = time.perf_counter()
RNNRegressor(cell={cell!r}, hidden_size=32, max_iter=1, random_state=0).fit(X, X[:, -1, 0])
print(time.perf_counter() - start)
"""


def seconds(code: str, repeats: int, **environment: str) -> float:
    """Return the median over fresh processes of the number of seconds that the code prints."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    answers = [
        subprocess.run(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True
        )
        for _ in range(repeats)
    ]
    return statistics.median(float(answer.stdout) for answer in answers)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", default="lstm,gru,rnn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", default=str(Path(__file__).parent / "results" / "startup.json"))
    arguments = parser.parse_args()

    statements = {
        "import sklearn.base": "import sklearn.base",
        "import numbarnn": "import numbarnn",
        "from numbarnn import RNNRegressor": "from numbarnn import RNNRegressor",
    }
    imports = {
        name: seconds(TIMED_IMPORT.format(code), arguments.repeats) for name, code in statements.items()
    }
    fits = {}
    for cell in arguments.cells.split(","):
        with tempfile.TemporaryDirectory() as folder:
            code = TIMED_FIT.format(cell=cell)
            cold = seconds(code, 1, NUMBA_CACHE_DIR=folder)
            fits[cell] = {
                "empty cache": cold,
                "warm": seconds(code, arguments.repeats, NUMBA_CACHE_DIR=folder),
            }
    for name, value in imports.items():
        print(f"{name:<36} {value:6.3f} s")
    for cell, row in fits.items():
        print(f"first fit, {cell:<8} empty cache {row['empty cache']:6.2f} s, warm {row['warm']:6.3f} s")
    found = {"machine": describe_machine(), "imports": imports, "first_fit": fits}
    write_document(Path(arguments.output), found)


if __name__ == "__main__":
    main()
