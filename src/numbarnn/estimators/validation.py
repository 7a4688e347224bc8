"""Validation: from what people pass as X, y and weights to arrays.

Every check is done before any training; each error names the argument, what it was and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    assert_all_finite,
    check_array,
    check_consistent_length,
    column_or_1d,
)

from numbarnn.blocks import valid_steps
from numbarnn.checks import check_mask
from numbarnn.estimators.sequences import Sequences, all_steps, on_steps


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the argument's name into errors of scikit-learn and NumPy that do not say it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if re.search(rf"\b{re.escape(name)}", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def is_listed(values: Any) -> bool:
    """Whether these are single objects in a list, or in an array, rather than one array."""
    as_objects = isinstance(values, np.ndarray) and values.dtype.kind == "O" and values.ndim == 1
    return isinstance(values, list | tuple) or as_objects


def input_ndim(values: Any) -> int:
    """Return the number of dimensions, of a list one more than its first element has."""
    if is_listed(values) and len(values):
        return 1 + np.ndim(values[0])
    ndim = getattr(values, "ndim", None)
    return np.asarray(values).ndim if ndim is None else ndim


def check_kind(values: Any, name: str, dates: bool = False) -> None:
    """Refuse what NumPy would make numbers of that mean nothing, dates unless `dates`, and complex numbers.

    Of these scikit-learn would print them all.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(
            f"{name} was a masked array; expected no masked values, but `mask` for missing steps"
        )
    kind = getattr(getattr(values, "dtype", None), "kind", "")
    if kind in ("m", "M") and not dates:
        raise TypeError(f"{name} had dtype {values.dtype}; expected numbers")
    if kind == "c":
        # its last words are what scikit-learn's checks look for
        raise ValueError(
            f"{name} had dtype {values.dtype}; expected real numbers: Complex data not supported"
        )


def check_list(X: Any, ndim: int) -> None:
    """Refuse a list of nothing, and one of sequences of unequal length without a dimension for the features.

    NumPy and scikit-learn would speak of arrays there, which the user of a list does not have.
    """
    if not is_listed(X):
        return
    if not len(X):
        raise ValueError("X was empty; expected at least one sample")
    if ndim == 2:
        for i, row in enumerate(X):
            if np.ndim(row) == 1 and len(row) != len(X[0]):
                raise ValueError(
                    f"X[{i}] had {len(row)} numbers and X[0] {len(X[0])}; expected as many in every row, or "
                    "sequences of shape (n_timesteps, n_features), whose numbers of steps may differ"
                )


def check_sequences(X: Any, lengths: Any, masked: bool = False) -> tuple[np.ndarray | Sequences, Any]:
    """Turn three-dimensional input, or a list of sequences, into an array, or `Sequences`, and lengths.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_timesteps, n_features) or list of (T_i, n_features)
    lengths : array-like of int of shape (n_samples,) or None
    masked : bool, default=False
        Whether there is a mask, so that what is in a list need not be finite yet.

    Returns
    -------
    x : ndarray of shape (n_samples, n_timesteps, n_features), or Sequences
        C-contiguous. Floats stay of their type. For `check_values`. Whatever has a value for every step, y
        and masks as well, is `Sequences` from then on where x is, and an array where x is.
    lengths : array-like of int of shape (n_samples,) or None
        Those of the list, or those given. For `check_lengths`.
    """
    if is_listed(X):
        if lengths is not None:
            raise ValueError("lengths was given, but X is a list: its sequences have their own lengths")
        x, lengths = join_sequences(X, "X", 2, finite=not masked)
    else:
        x = check_array(X, allow_nd=True, ensure_2d=False, dtype=[np.float64, np.float32], order="C",
                        ensure_all_finite=False, input_name="X")  # fmt: skip
    if 0 in x.shape:
        raise ValueError(f"X had the shape {x.shape}; expected at least one sample, one step and one feature")
    return x, lengths


def check_values(
    array: np.ndarray | Sequences, valid: np.ndarray | Sequences | None, name: str, dtype: DTypeLike
) -> np.ndarray | Sequences:
    """Return the array with zeros at all steps but the valid ones (see `join`), whatever there was.

    All other values must be finite, and such that `dtype`, the network's, can hold them. What is given is
    not changed.
    """
    rest = None if valid is None else ~all_steps(valid_in(array, valid))

    def check(values):
        if rest is not None and values[rest].any():  # nan is true
            values = values.copy()
            values[rest] = 0
        assert_all_finite(values, input_name=name)
        limit = np.finfo(dtype).max
        if values.dtype != dtype and values.size and max(values.max(), -values.min()) > limit:
            raise ValueError(
                f"{name} contains infinity or a value too large for dtype={np.dtype(dtype).name!r}"
            )
        return values

    return on_steps(check, array)


def valid_in(x: np.ndarray | Sequences, valid: np.ndarray | Sequences | None) -> np.ndarray | Sequences:
    """Return which steps of x are valid (see `join`), in the form that x has."""
    if isinstance(valid, Sequences):
        return valid
    if isinstance(x, Sequences):
        return on_steps(lambda steps: np.ones(len(steps), bool), x)
    return np.ones(x.shape[:2], bool) if valid is None else valid_steps(valid, x.shape[1])


def check_categories(x: np.ndarray | Sequences, embedding: list[list[int]]) -> None:
    """Raise a ValueError if a feature that `embedding` names holds anything but the numbers of categories."""
    for feature, n_categories, _ in embedding:
        values = all_steps(x)[..., feature]
        wrong = (values < 0) | (values >= n_categories) | (values != np.floor(values))
        if wrong.any():
            raise ValueError(
                f"X had the value {values[wrong][0]:.9g} in feature {feature}, which embedding names; "
                f"expected whole numbers from 0 to {n_categories - 1}"
            )


def check_lengths(lengths: Any, n_samples: int, n_timesteps: int) -> np.ndarray | None:
    """Return `lengths` as an array of int, or None if all are `n_timesteps`."""
    if lengths is None:
        return None
    with naming("lengths"):
        found = np.asarray(lengths)
    if found.dtype.kind not in "iu" or found.shape != (n_samples,):
        raise ValueError(
            f"lengths had the shape {found.shape} and dtype {found.dtype}; expected one integer for each of "
            f"the {n_samples} samples"
        )
    if found.min() < 1 or found.max() > n_timesteps:
        raise ValueError(
            f"lengths were from {found.min()} to {found.max()}; expected from 1 to {n_timesteps} (steps of X)"
        )
    return None if found.min() == n_timesteps else found.astype(np.intp)


def join(
    lengths: np.ndarray | None, mask: Any, X: Any, x: np.ndarray | Sequences
) -> np.ndarray | Sequences | None:
    """Return which steps are valid: those before the end of a sequence that the mask does not leave out.

    Parameters
    ----------
    lengths : ndarray of int of shape (n_samples,) or None
        From `check_lengths`.
    mask : array-like of bool of shape (n_samples, n_timesteps), list of array-like of shape (T_i,), or None
    X : object
        As it was given: if it is a list, there is a sequence of the mask for each of its own.
    x : ndarray of shape (n_samples, n_timesteps, n_features), or Sequences
        From `check_sequences`.

    Returns
    -------
    valid : ndarray of bool of shape (n_samples, n_timesteps), or Sequences of bool, or `lengths` if no more
        steps are left out
    """
    if mask is None:
        return lengths
    n_samples, n_timesteps, _ = x.shape
    if is_listed(X) and is_listed(mask):
        found = _join_mask(mask, np.full(n_samples, n_timesteps) if lengths is None else lengths)
        valid = on_steps(lambda steps: found.reshape(steps.shape[:-1]), x)
    else:
        mask = check_mask(mask, n_samples, n_timesteps)
        valid = mask if lengths is None else mask & valid_steps(lengths, n_timesteps)
        if isinstance(x, Sequences):
            valid = Sequences.unpadded(valid, lengths)
    empty = valid.sum(axis=1) == 0
    if empty.any():
        raise ValueError(
            f"mask left no step of sample {np.argmax(empty)}; expected at least one that is True in each"
        )
    n_steps = valid.size if lengths is None else lengths.sum()
    return lengths if valid.sum() == n_steps else valid


def _join_mask(mask, lengths):
    """Put the masks of a list of sequences one behind the other."""
    if len(mask) != len(lengths):
        raise ValueError(f"mask had {len(mask)} sequences; expected {len(lengths)}, as X")
    rows = []
    for i, (row, n) in enumerate(zip(mask, lengths, strict=True)):
        with naming(f"mask[{i}]"):
            found = np.asarray(row)
        if found.dtype.kind != "b":
            raise TypeError(f"mask[{i}] had dtype {found.dtype}; expected bool, True for steps that count")
        if found.shape != (n,):
            raise ValueError(f"mask[{i}] had shape {found.shape}; expected ({n},), the steps of X[{i}]")
        rows.append(found)
    return np.concatenate(rows)


def join_sequences(
    sequences: Any, name: str, ndim: int, finite: bool = True
) -> tuple[np.ndarray | Sequences, np.ndarray]:
    """Put sequences into one array, or into `Sequences` if they are of unequal length.

    Parameters
    ----------
    sequences : sequence of array-like of shape (T_i, ...)
    name : str
        For errors.
    ndim : int
        Dimensions that each of them must have.
    finite : bool, default=True
        Whether all values must be finite.

    Returns
    -------
    joined : ndarray of shape (n_sequences, T, ...) or Sequences
        float32 if all sequences are, else float64.
    lengths : ndarray of int of shape (n_sequences,)
    """
    arrays = []
    for i, sequence in enumerate(sequences):
        with naming(f"{name}[{i}]"):
            array = check_array(sequence, ensure_2d=False, allow_nd=True, dtype=[np.float64, np.float32],
                                ensure_min_samples=0, ensure_min_features=0,
                                ensure_all_finite=finite)  # fmt: skip
        if array.ndim != ndim or array.shape[1:] != (arrays[0] if arrays else array).shape[1:]:
            raise ValueError(
                f"{name}[{i}] had the shape {array.shape}; expected {ndim} dimensions, all but the first "
                "the same in every sequence"
            )
        if not len(array):
            raise ValueError(f"{name}[{i}] had no step; expected at least one")
        arrays.append(array)
    lengths = np.array([len(array) for array in arrays])
    steps = np.concatenate(arrays)
    if (lengths == lengths[0]).all():
        return steps.reshape(len(arrays), lengths[0], *steps.shape[1:]), lengths
    return Sequences(steps, lengths), lengths


def check_targets(
    y: Any, x: np.ndarray | Sequences, lengths: np.ndarray | None, valid: np.ndarray | Sequences | None,
    return_sequences: bool, dtype: DTypeLike,
) -> tuple[np.ndarray | Sequences, bool]:
    """Turn numeric targets into an array with a dimension for the outputs.

    Parameters
    ----------
    y : array-like of shape (n_samples[, n_targets]) or (n_samples, n_timesteps[, n_targets]), or list
    x : ndarray of shape (n_samples, n_timesteps, n_features) or Sequences
    lengths : ndarray of int of shape (n_samples,) or None
        Steps of each sequence.
    valid : ndarray, Sequences or None
        See `join`.
    return_sequences : bool
    dtype : dtype

    Returns
    -------
    y : ndarray of shape (n_samples, n_targets) or (n_samples, n_timesteps, n_targets), or Sequences
        Zero at steps that are not valid.
    flat : bool
        Whether there was no dimension for the outputs.
    """
    if y is None:
        raise ValueError("y was None; expected targets")
    check_kind(y, "y")
    if return_sequences and is_listed(y) and input_ndim(y) > 1:
        found, y_lengths = join_sequences(y, "y", input_ndim(y) - 1, finite=valid is lengths)
        check_consistent_length(x, found)
        expected = np.full(len(x), x.shape[1]) if lengths is None else lengths
        if (y_lengths != expected).any():
            i = int(np.argmax(y_lengths != expected))
            raise ValueError(f"y[{i}] had {y_lengths[i]} steps; expected the {expected[i]} of X[{i}]")
        if isinstance(found, Sequences) and not isinstance(x, Sequences):
            found = found[:, : x.shape[1]]
    else:
        found = check_array(y, ensure_2d=False, allow_nd=True, dtype=[np.float64, np.float32],
                            ensure_all_finite=False, input_name="y")  # fmt: skip
        check_consistent_length(x, found)
    first = 2 if return_sequences else 1
    if found.ndim not in (first, first + 1) or (return_sequences and found.shape[1] != x.shape[1]):
        expected = f"({len(x)}, {x.shape[1]})" if return_sequences else f"({len(x)},)"
        raise ValueError(
            f"y had the shape {found.shape}; expected {expected} with or without a dimension for the outputs "
            f"behind it, since return_sequences={return_sequences}"
        )
    if return_sequences and isinstance(x, Sequences) and not isinstance(found, Sequences):
        found = Sequences.unpadded(found, lengths)
    found = check_values(found, valid if return_sequences else None, "y", dtype)
    flat = found.ndim == first
    found = found.astype(dtype, copy=False)
    return (on_steps(lambda steps: steps[..., np.newaxis], found) if flat else found), flat


def check_labels(
    y: Any, x: np.ndarray | Sequences, lengths: np.ndarray | None, valid: np.ndarray | Sequences | None,
    return_sequences: bool,
) -> tuple[np.ndarray, np.ndarray | Sequences]:
    """Turn class labels into one row of valid labels, and say where each belongs.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_timesteps), or list of (T_i,)
    x : ndarray of shape (n_samples, n_timesteps, n_features) or Sequences
    lengths : ndarray of int of shape (n_samples,) or None
        Steps of each sequence.
    valid : ndarray, Sequences or None
        See `join`.
    return_sequences : bool

    Returns
    -------
    labels : ndarray of shape (n_valid,)
    valid : ndarray of bool of shape (n_samples, 1) or (n_samples, n_timesteps), or Sequences of bool
        Where the labels belong; see `placed`.
    """
    if y is None:
        raise ValueError("y was None; expected labels")
    check_kind(y, "y", dates=True)
    if not return_sequences:
        labels = column_or_1d(y, warn=True)
        check_consistent_length(x, labels)
        valid = np.ones((len(x), 1), bool)
    else:
        check_consistent_length(x, y)
        steps = np.full(len(x), x.shape[1]) if lengths is None else lengths
        y = y if is_listed(y) else np.asarray(y)
        if input_ndim(y) == 1:
            raise ValueError(
                f"y had one label for each of {len(y)} samples; expected one for each step, {x.shape[:2]} "
                "or a list of sequences, since return_sequences=True"
            )
        rows = [column_or_1d(row) for row in y]
        for i, row in enumerate(rows):
            if len(row) not in (steps[i], x.shape[1]):
                raise ValueError(f"y[{i}] had {len(row)} steps; expected a label for each of {steps[i]}")
        valid = valid_in(x, valid)
        both = zip(rows, valid, strict=True)
        labels = np.concatenate([row[: len(here)][here[: len(row)]] for row, here in both])
    check_classification_targets(labels)
    return labels, valid


def placed(values: np.ndarray, valid: np.ndarray | Sequences) -> np.ndarray | Sequences:
    """Put values where `valid` is true, and zeros elsewhere."""

    def place(where):
        found = np.zeros(where.shape, values.dtype)
        found[where] = values
        return found

    return on_steps(place, valid)


def check_weights(sample_weight: Any, x: np.ndarray | Sequences) -> np.ndarray | None:
    """Return the weights as float64, not negative and not all zero."""
    if sample_weight is None:
        return None
    with naming("sample_weight"):
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
    if not np.isfinite(weight.sum()):
        raise ValueError("sample_weight had an infinite sum; expected smaller numbers")
    if not weight.any():
        raise ValueError("sample_weight was zero for all samples; expected at least one non-zero number")
    return weight


def merge_equal(x, y, weight, lengths):
    """Make one sample of equal ones, with the sum of their weights, and sort the samples.

    Where one batch holds all samples, neither their order nor writing one twice means anything; done so, it
    does not change a bit either. With dropout or other noise equal samples have one draw in common.

    Returns
    -------
    x, y, weight, lengths
        The weights are never None.
    """
    parts = [x.reshape(len(x), -1), y.reshape(len(x), -1)]
    if lengths is not None:
        parts.append(lengths.reshape(len(x), -1))
    rows = np.ascontiguousarray(np.concatenate(parts, axis=1, dtype=np.float64))
    rows += 0.0  # of the two zeros, which are equal, one
    # compared as bytes: with axis=0 NumPy makes a field of each number, hundreds of bytes in long sequences
    rows = rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel()
    _, first, group = np.unique(rows, return_index=True, return_inverse=True)
    weight = np.ones(len(x)) if weight is None else weight
    total = np.zeros((len(first), *weight.shape[1:]))
    np.add.at(total, group.ravel(), weight)  # ravel: in NumPy 2.0.0 the groups had a second dimension
    return x[first], y[first], total, None if lengths is None else lengths[first]
