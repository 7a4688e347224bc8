"""The command ``numbarnn``: forecasts, backtests, a demonstration and a benchmark."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from . import __version__

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and say where help is to be had."""

    def error(self, message: str) -> NoReturn:
        """Print the message without the usage, and leave with status 2."""
        message = message.replace("required: FILE", "required: FILE, before the options")
        self.exit(2, f"numbarnn: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; None takes those of the process.

    Returns
    -------
    int
        Exit status: 0, 1 where something failed, or 130 after Ctrl-C. Wrong arguments leave with status 2, as
        argparse does.

    Examples
    --------
    >>> from numbarnn.cli import main
    >>> main([])  # doctest: +ELLIPSIS
    usage: numbarnn ...
    ...
    0
    """
    with _interrupts() as interrupts:
        try:
            status = _run(argv)
        except KeyboardInterrupt:
            # a terminal shows ^C on the line of the progress
            print("\n" * sys.stderr.isatty() + "numbarnn: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # who reads the table has seen enough, as head has
            _drop_output()
            return 1
        except (FloatingPointError, ImportError, MemoryError, OSError, TypeError, ValueError) as error:
            text = str(error)
            if isinstance(error, OSError) and error.filename is not None:
                text = f"cannot open {error.filename}: {error.strerror}; check its name and its rights"
            print(f"numbarnn: error: {' '.join(text.split())}", file=sys.stderr)
            try:
                sys.stdout.flush()
            except OSError:  # a full disk
                _drop_output()
            return 1
    return 130 if interrupts else status


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Let Ctrl-C end the command, where a fit alone would end itself and return; yield a list of them."""
    interrupts = []

    def note(signum, frame):
        interrupts.append(signum)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    # a handler of somebody else's is left alone
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _drop_output() -> None:
    """Leave what was not written: Python would try again at its end, and say so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str] | None) -> int:
    """Do what the arguments say; return the exit status."""
    parser = _build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "bench":
        command = f" {arguments.command}" if arguments.command else ""
        parser.exit(2, f"numbarnn: error: unknown argument {rest[0]!r} (see numbarnn{command} --help)\n")
    if arguments.command == "demo":
        from .demo import run

        run(arguments.dataset, output=None if arguments.no_plot else arguments.output)
    elif arguments.command == "bench":
        from .bench import main as bench

        return bench(rest) or 0
    elif arguments.command:
        arguments.run(arguments)
        sys.stdout.flush()  # here, where a closed pipe is no matter
    else:
        parser.print_help()
    return 0


def _build_parser() -> argparse.ArgumentParser:
    """Describe the subcommands."""
    # imports NumPy: here, where Ctrl-C is one line
    from .forecasting_cli import add_commands

    parser = _Parser(
        prog="numbarnn", description="Recurrent networks on a CPU, without a deep-learning framework."
    )
    parser.add_argument("--version", action="version", version=f"numbarnn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a forecaster on real data, compare it with simple methods, save a picture",
        description="Train a forecaster on data that comes with the package (under a minute on two cores), "
        "compare it on held-out data with naive, seasonal naive and linear forecasts, and save a picture.",
    )
    demo.add_argument(
        "--dataset",
        choices=["electricity", "co2", "weather"],
        default="electricity",
        help="hourly electricity demand of the USA, weekly CO2 at Mauna Loa, or daily weather of Seattle "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--output", metavar="FILE", default="demo.png", help="the picture (default: %(default)s)"
    )
    demo.add_argument("--no-plot", action="store_true", help="print the table only")
    add_commands(commands)
    # everything after "bench" belongs to the benchmark's own parser, --help included
    commands.add_parser("bench", add_help=False, help="time training and prediction beside other libraries")
    return parser


if __name__ == "__main__":
    sys.exit(main())
