"""What comes out: lines in the terminal, a JSON file and a picture."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .peers import PEERS

COLUMNS = "{:<15} {:<15} {:>7}  {:<12} {:>9} {:>9} {:>6}  {}"
HEADER = COLUMNS.format("case", "B,T,I,H", "threads", "peer", "ours", "peer", "ratio", "min .. max")


def describe_machine() -> dict[str, Any]:
    """Describe processor, cores, system and the versions of everything that takes part."""
    from llvmlite import binding

    packages = ["numbarnn", "numba", "llvmlite", "numpy", "scipy", "scikit-learn", "jaxlib"]
    packages += [package for peer in PEERS.values() for package in peer.packages]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": processor_name(),
        "llvm_cpu": binding.get_host_cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions_of(packages),
    }


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def processor_name() -> str:
    """Name the processor as its maker does, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def format_seconds(seconds: float) -> str:
    """Write a time with three digits and a fitting unit.

    Examples
    --------
    >>> format_seconds(0.00123), format_seconds(2.5e-6), format_seconds(0.9998)
    ('1.23 ms', '2.5 us', '1 s')
    """
    for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= 0.9995 * scale:  # or it would be written as 1e+03 of the next
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def format_row(row: dict[str, Any]) -> str:
    """Write one comparison as a line of the terminal table."""
    case = f"{row['kind']}{'+dX' if row['input_gradient'] else ''} {row['cell']}"
    shape = ",".join(str(row[name]) for name in ("batch", "steps", "inputs", "hidden"))
    ratio = row["ratio"]
    return COLUMNS.format(
        case,
        shape,
        row["threads"],
        row["peer"],
        format_seconds(row["ours_seconds"]["median"]),
        format_seconds(row["peer_seconds"]["median"]),
        f"{ratio['median']:.2f}",
        f"{ratio['min']:.2f} .. {ratio['max']:.2f}",
    )


def write_json(rows: Sequence[dict[str, Any]], method: dict[str, Any], folder: Path) -> Path:
    """Write machine, method and all figures to ``bench.json``."""
    path = folder / "bench.json"
    write_document(path, {"machine": describe_machine(), "method": method, "results": list(rows)})
    return path


def write_document(path: Path, content: dict[str, Any]) -> None:
    """Write JSON; a file that is there is replaced at once, so that an interruption leaves no half of one."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Lay out a Markdown table.

    Examples
    --------
    >>> print(markdown(["cell", "time"], [["gru", "1 ms"]]))
    | cell | time |
    | --- | --- |
    | gru | 1 ms |
    """
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_picture(rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Draw the ratios as bars to ``bench.png``: a row for each kind, a column for each number of threads."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys((row["kind"], row["input_gradient"]) for row in rows))
    threads = sorted({row["threads"] for row in rows})
    figure = Figure(figsize=(7 * len(threads), 2.6 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), len(threads), squeeze=False)
    for (kind, input_gradient), line in zip(kinds, grid, strict=True):
        for count, axis in zip(threads, line, strict=True):
            panel = (kind, input_gradient, count)
            chosen = [row for row in rows if (row["kind"], row["input_gradient"], row["threads"]) == panel]
            if not chosen:
                axis.set_visible(False)
                continue
            _draw_panel(axis, chosen)
            axis.set_title(f"{kind}{' with dX' if input_gradient else ''}, threads: {count}", loc="left")
    figure.supylabel("time of the other / time of numbarnn")
    path = folder / "bench.png"
    figure.savefig(path, dpi=110)
    return path


def _draw_panel(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    cases = list(dict.fromkeys((row["cell"], row["hidden"]) for row in rows))
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    width = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        chosen = [row for row in rows if row["peer"] == peer]
        places = [cases.index((row["cell"], row["hidden"])) + (number + 0.5) * width - 0.4 for row in chosen]
        ratios = [row["ratio"] for row in chosen]
        middle = [ratio["median"] for ratio in ratios]
        spread = [
            [max(0.0, ratio["median"] - ratio["min"]) for ratio in ratios],
            [max(0.0, ratio["max"] - ratio["median"]) for ratio in ratios],
        ]
        color = f"C{list(PEERS).index(peer)}"
        heights = [value - 1 for value in middle]  # bars start at 1: up is faster than the peer
        axis.bar(
            places, heights, width, bottom=1, yerr=spread, label=PEERS[peer].title, color=color, ecolor="0.3"
        )
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xticks(range(len(cases)), [f"{cell}\n{hidden}" for cell, hidden in cases], fontsize=8)
    axis.legend(fontsize=8)
