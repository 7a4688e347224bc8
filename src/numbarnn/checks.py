"""Checks of single arguments: each returns what it was given in the form that is worked with.

What is wrong is a TypeError or a ValueError whose message begins with the argument's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_CATEGORIES = 2**24  # whole numbers up to here are exact in float32


def number(name: str, value: Any) -> float:
    """Take any real number but a bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} was {value!r}; expected a number")
    if not np.isfinite(value):
        raise ValueError(f"{name} was {value!r}; expected a finite number")
    return float(value)


def boolean(name: str, value: Any) -> bool:
    """Take True or False, no number that could stand for them."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} was {value!r}; expected True or False")
    return bool(value)


def positive_int(name: str, value: Any) -> int:
    """Take a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} was {value!r}; expected a positive integer")
    if value < 1:
        raise ValueError(f"{name} was {value}; expected a positive integer")
    return int(value)


def sizes_of(name: str, sizes: Sequence[int]) -> list[int]:
    """Take the units of each of some dense layers: positive integers."""
    return [positive_int(f"{name}[{k}]", size) for k, size in enumerate(sizes)]


def categories(name: str, entries: Sequence[Sequence[int]] | None, input_size: int) -> list[list[int]]:
    """Take (feature, n_categories, size) for some of the features 0 to input_size - 1, or None for none."""
    found: dict[int, list[int]] = {}
    for entry in entries or ():
        three = isinstance(entry, list | tuple) and len(entry) == 3
        whole = three and all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in entry)
        if not whole or min(entry[1:]) < 1 or entry[1] > MOST_CATEGORIES or not 0 <= entry[0] < input_size:
            raise ValueError(
                f"{name} had {entry!r} in it; expected (feature, n_categories, size), integers: feature "
                f"from 0 to {input_size - 1}, n_categories from 1 to {MOST_CATEGORIES}, size from 1"
            )
        if entry[0] in found:
            raise ValueError(f"{name} had feature {entry[0]} twice; expected each feature at most once")
        found[int(entry[0])] = [int(n) for n in entry]
    return list(found.values())


def as_float(name: str, value: ArrayLike, dtype: np.dtype) -> NDArray:
    """Take an array of real numbers, C-contiguous, writeable, of `dtype`; a copy only if it is not so."""
    # a kernel would be compiled again for a read-only array
    if type(value) is np.ndarray and value.dtype == dtype and value.flags.carray:
        return value
    array = _as_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} had dtype {array.dtype}; expected real numbers")
    return np.array(array, dtype, order="C")


def _as_array(name: str, value: ArrayLike) -> NDArray:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name} was a masked array; expected no masked values, but `mask` for missing steps"
        )
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of unequal length
        raise ValueError(f"{name} was no array: {error}") from error
    except RuntimeError as error:  # PyTorch's of a tensor that requires its gradient
        raise TypeError(f"{name} was no array: {error}") from error


def as_input(x: ArrayLike, input_size: int, dtype: np.dtype) -> NDArray:
    """Take x of shape (n_samples, n_timesteps, input_size), none of them 0."""
    x = as_float("x", x, dtype)
    if x.ndim != 3 or x.shape[2] != input_size:
        raise ValueError(f"x had shape {x.shape}; expected (n_samples, n_timesteps, {input_size})")
    if 0 in x.shape:
        raise ValueError(f"x had shape {x.shape}; expected at least one sample and one time step")
    return x


def probability(name: str, value: Any) -> float:
    """Take a probability below 1."""
    if not 0 <= number(name, value) < 1:
        raise ValueError(f"{name} was {value!r}; expected a probability from 0 up to, not including, 1")
    return float(value)


def check_mask(mask: ArrayLike | None, n_samples: int, n_timesteps: int) -> NDArray | None:
    """Take which steps of each sample count, (n_samples, n_timesteps) of bool; None is all of them."""
    if mask is None:
        return None
    mask = _as_array("mask", mask)
    if mask.dtype.kind != "b":
        raise TypeError(f"mask had dtype {mask.dtype}; expected bool, True for the steps that count")
    if mask.shape != (n_samples, n_timesteps):
        raise ValueError(f"mask had shape {mask.shape}; expected {(n_samples, n_timesteps)}")
    return mask


def check_lengths(lengths: ArrayLike | None, n_samples: int, n_timesteps: int) -> NDArray:
    """Take the number of valid steps of each sample, as int64; None is all of them."""
    if lengths is None:
        return np.full(n_samples, n_timesteps, np.int64)
    lengths = _as_array("lengths", lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths had dtype {lengths.dtype}; expected integers")
    if lengths.shape != (n_samples,):
        raise ValueError(f"lengths had shape {lengths.shape}; expected ({n_samples},)")
    low, high = lengths.min(), lengths.max()
    if low < 1 or high > n_timesteps:
        raise ValueError(f"lengths were from {low} to {high}; expected from 1 to n_timesteps = {n_timesteps}")
    return np.array(lengths, np.int64)  # a copy: backward reads it as well
