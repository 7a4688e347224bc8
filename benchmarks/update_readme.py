"""Write the tables of README.md from ``benchmarks/results/``: ``python benchmarks/update_readme.py``.

A table stands between ``<!-- table:NAME -->`` and ``<!-- end:NAME -->``; what is between is replaced.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from numbarnn.bench.peers import PEERS
from numbarnn.bench.report import format_seconds, markdown

ROOT = Path(__file__).resolve().parents[1]
CELL_ORDER = ("lstm", "gru", "rnn", "rnn_relu")


def machine_table(bench: dict[str, Any]) -> str:
    """Say where and when the figures were taken."""
    machine = bench["machine"]
    shown = ["numbarnn", "numba", "torch", "keras", "jax", "onnxruntime"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in shown if name in machine["versions"]
    )
    return (
        f"{machine['date'][:10]} on {machine['processor']} ({machine['llvm_cpu']}), {machine['cores']} "
        f"cores, {machine['system']}, Python {machine['python']}, {versions}."
    )


def ratio_table(rows: list[dict[str, Any]], peers: tuple[str, ...]) -> str:
    """Write ratios of a layer: a line for each size, a column for each cell, a number for 1 and N threads."""
    threads = sorted({row["threads"] for row in rows})
    cells = [cell for cell in CELL_ORDER if any(row["cell"] == cell for row in rows)]
    lines: dict[tuple, dict[tuple, str]] = {}
    for row in rows:
        if row["peer"] not in peers:
            continue
        line = (row["batch"], row["steps"], row["inputs"], row["hidden"], row["input_gradient"], row["peer"])
        ratio = row["ratio"]["median"]
        lines.setdefault(line, {})[row["cell"], row["threads"]] = f"{ratio:.{2 if ratio < 3 else 1}f}"
    with_dx = any(row["kind"] == "train" for row in rows)
    header = ["batch, steps, inputs, hidden", *(["dX"] if with_dx else []), "against"]
    header += [f"{cell.upper()}, {' / '.join(map(str, threads))} threads" for cell in cells]
    body = []
    for (*shape, input_gradient, peer), found in sorted(
        lines.items(), key=lambda item: (item[0][5], item[0][3], item[0])
    ):
        start = [", ".join(map(str, shape)), *([("yes" if input_gradient else "no")] if with_dx else [])]
        ratios = [" / ".join(found.get((cell, count), "") for count in threads) for cell in cells]
        body.append([*start, PEERS[peer].title, *ratios])
    return markdown(header, body)


def seconds_table(rows: list[dict[str, Any]]) -> str:
    """Write times and ratios: a line for each cell, size and threads, a column for each framework."""
    peers = [peer for peer in PEERS if any(row["peer"] == peer for row in rows)]
    lines: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["cell"], row["hidden"], row["threads"]), {})[row["peer"]] = row
    body = []
    for (cell, hidden, threads), found in sorted(
        lines.items(), key=lambda x: (CELL_ORDER.index(x[0][0]), x[0][1:])
    ):
        ours = min(row["ours_seconds"]["median"] for row in found.values())
        line = [cell.upper(), str(hidden), str(threads), format_seconds(ours)]
        for peer in peers:
            row = found.get(peer)
            line.append(
                f"{format_seconds(row['peer_seconds']['median'])} ({row['ratio']['median']:.1f})"
                if row
                else ""
            )
        body.append(line)
    return markdown(["cell", "hidden", "threads", "numbarnn", *(PEERS[peer].title for peer in peers)], body)


def cells_table(rows: list[dict[str, Any]]) -> str:
    """Write ratios of the further cells: a line for each, a column for each shape."""
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    threads = sorted({row["threads"] for row in rows})
    lines: dict[str, list[str]] = {}
    for shape in shapes:
        for row in rows:
            if row["shape"] == shape:
                lines.setdefault(row["cell"], [row["cell"], row["nearest"]])
        for name in lines:
            ratios = [
                f"{row['ratio']:.2f}"
                for count in threads
                for row in rows
                if (row["cell"], row["shape"], row["threads"]) == (name, shape, count)
            ]
            lines[name].append(" / ".join(ratios))
    heads = [f"{shape}: {' / '.join(map(str, threads))} threads" for shape in shapes]
    return markdown(["cell", "against", *heads], list(lines.values()))


def startup_table(startup: dict[str, Any]) -> str:
    """Write imports and first fits."""
    body = [[f"`{name}`", f"{value:.2f} s"] for name, value in startup["imports"].items()]
    for cell, row in startup["first_fit"].items():
        body.append([f"first fit ever, {cell} (compiles)", f"{row['empty cache']:.1f} s"])
        body.append([f"first fit of a process, {cell}", f"{row['warm']:.2f} s"])
    return markdown(["", "time"], body)


def accuracy_table(accuracy: dict[str, Any]) -> str:
    """Write errors on ETTh1: a line for each model, a column for each horizon."""
    horizons = sorted({int(horizon) for row in accuracy["summary"].values() for horizon in row})
    rows = {name: {int(h): mse for h, mse in row.items()} for name, row in accuracy["published"].items()}
    for name, row in accuracy["summary"].items():
        contexts = {cell["settings"]["context_length"] for cell in row.values()}
        label = name if name.startswith("context") else f"{name}, {' or '.join(map(str, sorted(contexts)))}"
        rows[f"numbarnn, {label}"] = {int(h): cell["mse"] for h, cell in row.items()}
    body = [[name, *(f"{row[h]:.3f}" if h in row else "" for h in horizons)] for name, row in rows.items()]
    return markdown(["ETTh1, MSE at horizon", *map(str, horizons)], body)


def make_tables(results: Path) -> dict[str, str]:
    """Make every table whose figures are there."""
    tables = {}
    if (results / "bench.json").exists():
        bench = json.loads((results / "bench.json").read_text(encoding="utf-8"))
        kinds = {
            kind: [r for r in bench["results"] if r["kind"] == kind]
            for kind in ("train", "forward", "step", "fit")
        }
        tables["machine"] = machine_table(bench)
        tables |= {kind: ratio_table(kinds[kind], ("torch",)) for kind in ("train", "forward") if kinds[kind]}
        tables |= {kind: seconds_table(kinds[kind]) for kind in ("step", "fit") if kinds[kind]}
    if (results / "startup.json").exists():
        tables["startup"] = startup_table(json.loads((results / "startup.json").read_text(encoding="utf-8")))
    if (results / "cells.json").exists():
        found = json.loads((results / "cells.json").read_text(encoding="utf-8"))
        tables |= {"cells": cells_table(found["rows"]), "long": cells_table(found["long"])}
    if (results / "accuracy_etth1.json").exists():
        accuracy = json.loads((results / "accuracy_etth1.json").read_text(encoding="utf-8"))
        if "summary" in accuracy:
            tables["accuracy"] = accuracy_table(accuracy)
    return tables


def fill(text: str, tables: dict[str, str]) -> str:
    r"""Put the tables between their marks; a mark without a table is left as it is.

    Examples
    --------
    >>> fill("<!-- table:fit -->old<!-- end:fit -->", {"fit": "new"})
    '<!-- table:fit -->\n\nnew\n\n<!-- end:fit -->'
    """
    for name, table in tables.items():
        pattern = rf"(<!-- table:{name} -->).*?(<!-- end:{name} -->)"
        text = re.sub(
            pattern, lambda mark, table=table: f"{mark[1]}\n\n{table}\n\n{mark[2]}", text, flags=re.DOTALL
        )
    return text


def main() -> None:
    """Update README.md."""
    readme = ROOT / "README.md"
    readme.write_text(
        fill(readme.read_text(encoding="utf-8"), make_tables(ROOT / "benchmarks" / "results")),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
