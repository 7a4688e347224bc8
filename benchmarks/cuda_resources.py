"""Registers, spills and shared memory of every kernel; no GPU is needed.

``python benchmarks/cuda_resources.py`` compiles every kernel that a program can launch to PTX for sm_80 and
sm_90, asks ``ptxas -v``, and writes ``benchmarks/results/cuda_resources.json``. The tests compare what they
find with that file: a change that makes a kernel take more has to bring a new one. Needs
``pip install -e ".[cuda]"`` and ptxas.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from numbarnn.bench.report import markdown, write_document
from numbarnn.cuda.resources import CAPABILITIES, find_ptxas, launches, measure, ptxas_version, to_ptx

PATH = Path(__file__).parent / "results" / "cuda_resources.json"
COMPILERS = ("numba-cuda", "nvidia-nvvm")


def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in COMPILERS}
    return found | {"ptxas": ptxas_version(find_ptxas())}


def table() -> dict[str, Any]:
    """Measure all kernels.

    Returns
    -------
    dict
        Versions of the compilers, and by architecture and kernel its threads and what `measure` says.
    """
    found: dict[str, Any] = {"versions": versions(), "kernels": {}}
    for capability in CAPABILITIES:
        kernels = found["kernels"]["sm_{}{}".format(*capability)] = {}
        for name, launch in launches().items():
            numbers = measure(launch, to_ptx(launch, capability), capability, find_ptxas())
            kernels[name] = {"threads": launch.threads, **numbers}
    return found


def main() -> None:
    """Write the table, and print the part of it that matters most."""
    content = table()
    write_document(PATH, content)
    columns = ("threads", "registers", "stack", "spills", "shared")
    for architecture, kernels in content["kernels"].items():
        loops = {name: numbers for name, numbers in kernels.items() if " " in name and "(" not in name}
        rows = [[name, *(str(numbers[column]) for column in columns)] for name, numbers in loops.items()]
        print(f"{architecture}, {len(kernels)} kernels in all\n{markdown(['kernel', *columns], rows)}\n")


if __name__ == "__main__":
    main()
