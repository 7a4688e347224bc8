"""How many parameters may be made: as many as memory holds, and of a file no more than it brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["at_most", "check_count"]

MOST_PARAMETERS = 2**31  # in float32 and with gradients and packed weights 32 GiB
_most: ContextVar[int] = ContextVar("most parameters of a network", default=MOST_PARAMETERS)


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
    >>> with at_most(100):  # doctest: +NORMALIZE_WHITESPACE
    ...     Recurrent("gru", 1, 10**9)
    Traceback (most recent call last):
    ValueError: input_size was 1 and hidden_size 1000000000: the sizes ask for 3000000009000000000 parameters
    or more; expected at most 100
    """
    token = _most.set(n_parameters)
    try:
        yield
    finally:
        _most.reset(token)


def check_count(n_parameters: int, sizes: str) -> None:
    """Raise a ValueError if there may not be so many parameters; call it before they are made.

    Parameters
    ----------
    n_parameters : int
    sizes : str
        What the sizes were, by name, for the error.
    """
    most = _most.get()
    if n_parameters > most:
        raise ValueError(
            f"{sizes}: the sizes ask for {n_parameters} parameters or more; expected at most {most}"
        )
