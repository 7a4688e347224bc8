"""How many parameters may be made: sizes that a file tells of are not believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["at_most", "check_count"]

# by default what can be addressed at all, in float64
_most: ContextVar[int] = ContextVar("most parameters of a network", default=2**60 - 1)


@contextmanager
def at_most(n_parameters: int) -> Iterator[None]:
    """Let networks that are made inside of the block have at most so many parameters.

    Parameters
    ----------
    n_parameters : int

    Examples
    --------
    >>> from numbarnn import Recurrent
    >>> from numbarnn.limits import at_most
    >>> with at_most(100):
    ...     Recurrent("gru", 1, 10**9)
    Traceback (most recent call last):
    ValueError: the sizes ask for 3000000009000000000 parameters or more; expected at most 100
    """
    token = _most.set(n_parameters)
    try:
        yield
    finally:
        _most.reset(token)


def check_count(n_parameters: int) -> None:
    """Raise a ValueError if there may not be so many parameters; call it before they are made.

    Parameters
    ----------
    n_parameters : int
    """
    most = _most.get()
    if n_parameters > most:
        raise ValueError(f"the sizes ask for {n_parameters} parameters or more; expected at most {most}")
