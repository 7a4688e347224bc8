"""`save` and `load`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import warnings
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from numbarnn import __version__
from numbarnn.cells.check import fingerprint
from numbarnn.serialization.objects import MODELS, is_known
from numbarnn.serialization.values import Reader, Writer

__all__ = ["FORMAT_VERSION", "load", "save"]

# to be raised when files can no longer be read by the version before
FORMAT_VERSION = 1


def save(estimator: Any, path: str | os.PathLike) -> None:
    """Write a model to a safetensors file.

    Everything that it holds is in the file: parameters, weights, what was fitted, the state of the optimizer
    and of random generators, of a forecaster the end of each series. After `load` all methods, further
    training as well, give the same bits.

    Parameters
    ----------
    estimator : RNNRegressor, RNNClassifier, RNNForecaster, Recurrent or Network
        Fitted or not.
    path : str or path
        Usually ends in ``.safetensors``. A file of that name is replaced once the new one is complete, which
        gets its permissions.

    Raises
    ------
    TypeError
        If it is no such model, or holds what cannot be saved, such as callbacks; the message says where.
        Nothing is written then.
    OSError
        If there is no such folder, or it cannot be written to.

    See Also
    --------
    load

    Notes
    -----
    Of a cell of your own only the name is saved, and what tells its equations from others: register it again
    before `load`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numbarnn
    >>> from numbarnn import Recurrent
    >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
    >>> numbarnn.save(Recurrent("gru", 3, 4, random_state=0), path)
    >>> numbarnn.load(path).hidden_size
    4
    """
    target = os.path.realpath(_path(path))
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"path was {os.fspath(path)!r}; expected a folder {folder!r} that exists")
    if os.path.isdir(target):
        raise IsADirectoryError(f"path was {os.fspath(path)!r}, which is a folder; expected a file")
    if not is_known(type(estimator), MODELS):
        raise TypeError(_no_model(estimator))
    writer = Writer()
    writer.encode(estimator, "")
    objects = json.dumps(writer.objects, allow_nan=False)
    metadata = {
        "format": "numbarnn",
        "format_version": str(FORMAT_VERSION),
        "numbarnn_version": __version__,
        "sha256": _digest(objects, writer.tensors),
        "objects": objects,
        "equations": fingerprint(_cell_of(estimator)),
    }
    _replace(target, to_bytes(writer.tensors, metadata))


def load(path: str | os.PathLike) -> Any:
    """Read a model that `save` wrote.

    A file is never executed: one from somebody else can be wrong, not dangerous.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    RNNRegressor, RNNClassifier, RNNForecaster, Recurrent or Network
        Whatever was saved.

    Warns
    -----
    UserWarning
        If the cell is one of your own, and had other equations when the model was saved.

    Raises
    ------
    ValueError
        If the file is damaged, holds no model of numbarnn, was written in a newer format, or names a cell
        that is not registered.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import numbarnn
    >>> from numbarnn import RNNRegressor
    >>> X, y = np.ones((8, 5, 2)), np.ones(8)
    >>> model = RNNRegressor(hidden_size=4, max_iter=1, n_iter_no_change=np.inf, random_state=0).fit(X, y)
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> numbarnn.save(model, path)
    >>> bool((numbarnn.load(path).predict(X) == model.predict(X)).all())
    True
    """
    name = _path(path)
    if os.path.isdir(name):
        raise IsADirectoryError(f"path was {name!r}, which is a folder; expected a file")
    try:
        file = safe_open(name, framework="np")
    except SafetensorError as error:
        raise ValueError(f"{name} is no safetensors file, or damaged: {error}") from error
    with file:
        metadata = file.metadata() or {}
        text = _objects_of(metadata, name)
        try:
            # copies: they outlive the file, which may then be replaced
            tensors = {key: np.array(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
            if metadata.get("sha256", "") not in ("", _digest(text, tensors)):  # the first files have none
                raise ValueError("it is damaged, its content is not what was written")
            model = Reader(tensors).read(json.loads(text, parse_constant=_no_constant))
        except Exception as error:  # whatever is wrong in a file shows in some error
            raise ValueError(f"{name} cannot be loaded: {error or type(error).__name__}") from error
    cell = _cell_of(model)
    if metadata.get("equations", "") not in ("", fingerprint(cell)):  # earlier files have none
        warnings.warn(
            f"the cell {cell!r} has other equations than when {name} was saved: answers will be others",
            UserWarning,
            stacklevel=2,
        )
    return model


def _cell_of(model: Any) -> str:
    """Return the name of a model's cell."""
    cell = getattr(model, "recurrent", model).cell
    return getattr(cell, "name", str(cell))


def _no_model(value: Any) -> str:
    """Say what to do about an object that is no model of ours."""
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    what = f"the class {name}" if isinstance(value, type) else f"a {name}"
    hint = "joblib.dump saves any object"
    if hasattr(value, "steps"):
        hint = "save its last step, estimator[-1], and the others with joblib.dump, or all with joblib.dump"
    elif hasattr(value, "estimator"):
        hint = "save what it has fitted, such as best_estimator_, or use joblib.dump"
    return f"estimator was {what}; expected one of {', '.join(MODELS)}: {hint}"


def _path(path: Any) -> str:
    try:
        return os.fsdecode(path)
    except TypeError as error:
        raise TypeError(f"path was {path!r}; expected a str or a path") from error


def _objects_of(metadata: dict[str, str], name: str) -> str:
    """Return the text of the list of objects, if this version can read it."""
    if metadata.get("format") != "numbarnn" or "objects" not in metadata:
        raise ValueError(f"{name} is a safetensors file, but holds no model of numbarnn")
    version = metadata.get("format_version", "")
    if not version.isdecimal() or version == "0":
        raise ValueError(f"{name} is damaged: format_version was {version!r}; expected a number from 1")
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"{name} has format {version}, written by numbarnn {metadata.get('numbarnn_version')}; this is "
            f"numbarnn {__version__}, which reads up to format {FORMAT_VERSION}: "
            "pip install --upgrade numbarnn"
        )
    return metadata["objects"]


def _digest(objects: str, tensors: dict[str, np.ndarray]) -> str:
    """Return what tells whether anything in a file has changed since it was written."""
    digest = hashlib.sha256(objects.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _replace(target: str, content: bytes) -> None:
    """Put content into a file such that there is the old one or the new one whatever happens."""
    # a short name: that of the target may be as long as names can be
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if os.path.exists(target):  # before there is something to be read
                shutil.copymode(target, temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
