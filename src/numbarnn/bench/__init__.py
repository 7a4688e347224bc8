"""Our layers and estimators beside PyTorch, ONNX Runtime and Keras, whichever is installed.

Both sides get the same weights, data and number of threads, and their results are compared before anything
is timed. Times are taken in turns (ours, peer, ours, peer); what counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .cases import CELLS, GATES, KINDS, Case, make_cases
from .measure import Effort, Local, Remote, can_isolate, compare
from .peers import PEERS, installed_peers
from .report import HEADER, format_row, write_json, write_picture

__all__ = ["main", "run_cases"]

METHOD = (
    "float32, batch-first, same weights and threads on both sides, results compared to 1e-4 before timing; "
    "rounds of ours, peer in turns; ratio = peer / ours of a round; median, min and max over rounds"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark's command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after ``numbarnn bench``; those of the process if None.

    Returns
    -------
    int
        0, or 2 when no peer is installed.
    """
    arguments = make_parser().parse_args(argv)
    peers = [name for name in installed_peers() if name in arguments.peers]
    if not peers:
        print(f"nothing to compare with: install one of {', '.join(arguments.peers)}", file=sys.stderr)
        return 2
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    effort = Effort(rounds=3, block=0.05) if arguments.quick else Effort()
    cases = make_cases(arguments.cells, arguments.only, arguments.quick)
    print(HEADER)
    rows = []
    for row in run_cases(cases, arguments.threads, peers, effort):
        print(format_row(row), flush=True)
        rows.append(row)
        write_json(rows, {"text": METHOD, **effort._asdict()}, folder)  # an interrupted run keeps its figures
    written = [folder / "bench.json"]
    try:
        written.append(write_picture(rows, folder))
    except ImportError:
        print('no picture: pip install "numbarnn[plot]"')
    print("wrote", *written)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of ``numbarnn bench``."""
    parser = argparse.ArgumentParser(prog="numbarnn bench", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer sizes and rounds: rougher figures in minutes"
    )
    for name, allowed, default in (("cells", GATES, CELLS), ("peers", PEERS, PEERS), ("only", KINDS, KINDS)):
        shown = "all" if len(default) == len(allowed) else ",".join(default)
        parser.add_argument(
            f"--{name}",
            type=_choices(allowed),
            default=list(default),
            metavar="NAME,...",
            help=f"some of {', '.join(allowed)} (default: {shown})",
        )
    parser.add_argument(
        "--threads",
        type=_thread_counts,
        default=_default_threads(),
        metavar="N,...",
        help="numbers of threads (default: 1 and all cores)",
    )
    parser.add_argument(
        "--output",
        default="bench-results",
        metavar="DIR",
        help="folder for bench.json and bench.png (default: %(default)s)",
    )
    return parser


def run_cases(
    cases: Iterable[Case], threads: Sequence[int], peers: Sequence[str], effort: Effort
) -> Iterator[dict[str, Any]]:
    """Measure every case against every peer that can do it; yields the rows of `compare`.

    Single time steps are measured on one thread only: there is nothing in them to divide.
    """
    cases = list(cases)
    for count in threads:
        for peer in peers:
            kinds = {*PEERS[peer].kinds} - ({"step"} if count != threads[0] else set())
            chosen = [case for case in cases if case.kind in kinds]
            isolated = PEERS[peer].isolated
            if not chosen or (isolated and not can_isolate(count)):
                continue
            contender = Remote(peer, count) if isolated else Local(PEERS[peer].make_job)
            try:
                for case in chosen:
                    yield compare(case, count, peer, contender, effort)
            finally:
                contender.close()


def _choices(allowed: Iterable[str]) -> Any:
    names = list(allowed)

    def parse(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(names)}")
        return found

    return parse


def _thread_counts(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of threads from 1, as in 1,2")
    return [int(part) for part in parts]


def _default_threads() -> list[int]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({1, cores})
