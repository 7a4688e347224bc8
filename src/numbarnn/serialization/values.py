"""Values as JSON and tensors, and back: `Writer` and `Reader`; the package's docstring has the format."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection
from datetime import date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbarnn.serialization.objects import (
    MODELS,
    check_optimizer,
    class_of,
    describe,
    is_known,
    put_together,
    take_apart,
)

__all__ = ["Reader", "Writer"]

_KINDS = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_NUMBERS = {np.dtype(kind).name: np.dtype(kind).type for kind in _KINDS}
_TIMES = re.compile(r"datetime64\[(Y|M|W|D|h|m|s|ms|us|ns)\]")
_LAST_CHARACTER = 0x10FFFF
_PARTS = ("parameters", "state")


class Writer:
    """Turns values into what JSON has, and puts arrays and objects aside.

    Attributes
    ----------
    tensors : dict of str to ndarray
    objects : list of dict

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.serialization.values import Writer
    >>> writer = Writer()
    >>> writer.encode({"a": (1, np.inf), "b": np.zeros((2, 3))}, "x")
    {'dict': [['a', {'tuple': [1, {'float': 'inf'}]}], ['b', {'array': ["x['b']", 'float64', [2, 3]]}]]}
    >>> list(writer.tensors)
    ["x['b']"]
    """

    def __init__(self) -> None:
        self.tensors: dict[str, NDArray] = {}
        self.objects: list[dict] = []
        # what was written is referred to the next time; it is kept, so that nothing else gets its id
        self._written: dict[int, tuple[Any, Any]] = {}
        self._parameters: Collection[str] = ()  # of the model itself

    def encode(self, value: Any, path: str) -> Any:
        """Return a value as JSON has it.

        Parameters
        ----------
        value : object
        path : str
            Where it was found, for messages and names of tensors.

        Raises
        ------
        TypeError
            If it is of a kind that is not written.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
            return value
        if kind is float:
            return {"float": repr(value)}
        if hasattr(value, "to_list"):  # a column of a frame, as it may be given for a list of sizes
            value, kind = value.to_list(), list
        if kind in (list, tuple, range):
            items = [self.encode(each, f"{path}[{i}]") for i, each in enumerate(value)]
            return {"tuple": items} if kind is tuple else items
        if kind is dict:
            return {"dict": [
                [self.encode(key, f"{path}, the key {key!r}"), self.encode(each, f"{path}[{key!r}]")]
                for key, each in value.items()
            ]}  # fmt: skip
        if kind in (date, datetime):
            return {"date" if kind is date else "datetime": value.isoformat()}
        if kind is np.str_:
            return {"scalar": ["str", str(value)]}
        if isinstance(value, np.generic) and value.dtype.name in _NUMBERS:
            return {"scalar": [value.dtype.name, self.encode(value.item(), path)]}
        if id(value) not in self._written:
            if kind is np.ndarray:
                code = self._array(value, path)
            elif is_known(kind):
                code = self._object(value, path)
            else:
                raise self._refusal(value, path)
            self._written[id(value)] = value, code
        return self._written[id(value)][1]

    def _object(self, value, path):
        """Put an object on the list, behind all that it is made of."""
        contents = take_apart(value)
        if not path:
            self._parameters = contents[0]
        parts = {
            part: {key: self.encode(each, f"{path}.{key}" if path else key) for key, each in content.items()}
            for part, content in zip(_PARTS, contents, strict=True)
        }
        self.objects.append({"class": type(value).__name__, **parts})
        return {"ref": len(self.objects) - 1}

    def _array(self, value, path):
        """Make an array a tensor, or a list if it has objects in it."""
        shape, name = list(value.shape), value.dtype.name
        if value.dtype.kind == "O":
            items = [self.encode(each, f"{path}[{i}]") for i, each in enumerate(value.ravel().tolist())]
            return {"objects": [shape, items]}
        plain = np.asarray(value, value.dtype.newbyteorder("="), order="C")
        if value.dtype.kind == "U":
            name, plain = "str", plain[..., np.newaxis].view(np.uint32)  # the width becomes an axis
        elif _TIMES.fullmatch(name):
            plain = plain.view(np.int64)
        elif name not in _NUMBERS:
            raise self._refusal(value, path)
        self.tensors[path] = plain
        return {"array": [path, name, shape]}

    def _refusal(self, value, path):
        """Say that something cannot be saved, and what helps."""
        name, hint = re.match(r"\w*", path)[0], ""
        if name in self._parameters and inspect.isroutine(value):  # pickle has no lambda
            hint = f": leave it out by set_params({name}=None), or use cloudpickle.dump"
        elif name in self._parameters:
            hint = f": change it by set_params({name}=...), or use joblib.dump"
        elif name == "ids_":
            hint = ": make ids texts before fit, as by astype(str), or use joblib.dump"
        elif not (name.startswith("_") or name.endswith("_")):
            hint = ": delete this attribute, or use joblib.dump"
        return TypeError(
            f"{path} was {describe(value)}, which cannot be saved; expected numbers, text, arrays or objects "
            f"of numbarnn{hint}"
        )


class Reader:
    """Makes a model of what a `Writer` wrote, and takes nothing for granted.

    Parameters
    ----------
    tensors : dict of str to ndarray
        They become part of the model.
    """

    def __init__(self, tensors: dict[str, NDArray]) -> None:
        self._tensors = tensors
        self._objects: list[Any] = []
        self._arrays: dict[str, NDArray] = {}
        self._kinds: dict[str, Callable] = {
            "float": self._float, "tuple": self._tuple, "dict": self._dict, "scalar": self._scalar,
            "array": self._array, "objects": self._object_array, "ref": self._ref,
            "date": date.fromisoformat, "datetime": datetime.fromisoformat,
        }  # fmt: skip

    def read(self, entries: Any) -> Any:
        """Return the model that a list of objects describes.

        Raises
        ------
        Exception
            Of any kind if it is no such list.
        """
        for entry in _as_list(entries):
            if type(entry) is not dict or entry.keys() != {"class", *_PARTS}:
                raise ValueError(f"it lists {describe(entry)}; expected class, parameters and state")
            kind = class_of(entry["class"])
            try:
                parts = [{key: self.decode(code) for key, code in entry[part].items()} for part in _PARTS]
                self._objects.append(put_together(kind, *parts))
            except Exception as error:
                raise ValueError(f"{kind.__name__}: {error or type(error).__name__}") from error
        names = [type(each).__name__ for each in self._objects]
        if not names or names[-1] not in MODELS:
            raise ValueError(f"it ends in {names[-1:]}; expected one of {', '.join(MODELS)}")
        extra = self._tensors.keys() - self._arrays.keys()
        if extra:
            raise ValueError(f"it has the tensor {min(extra)!r}, to which nothing refers")
        check_optimizer(self._objects[-1])
        return self._objects[-1]

    def decode(self, code: Any) -> Any:
        """Return the value that `Writer.encode` was given."""
        if type(code) is list:
            return [self.decode(each) for each in code]
        if type(code) is not dict:
            return code
        if len(code) != 1 or next(iter(code)) not in self._kinds:
            raise ValueError(f"a value was {describe(code)}; expected one key, of {', '.join(self._kinds)}")
        ((kind, content),) = code.items()
        return self._kinds[kind](content)

    def _float(self, text):
        if text not in ("nan", "inf", "-inf"):
            raise ValueError(f"a float was {text!r}; expected 'nan', 'inf' or '-inf'")
        return float(text)

    def _tuple(self, items):
        return tuple([self.decode(each) for each in _as_list(items)])

    def _dict(self, pairs):
        return {self.decode(key): self.decode(value) for key, value in _as_list(pairs)}

    def _scalar(self, content):
        name, code = content
        value = self.decode(code)
        if type(value) not in (bool, int, float, str) or (type(value) is str) != (name == "str"):
            raise ValueError(f"a scalar of type {name!r} was {describe(value)}")
        return np.str_(value) if name == "str" else _NUMBERS[name](value)

    def _array(self, content):
        name, dtype, shape = content
        if name not in self._tensors:
            raise ValueError(f"the tensor {name!r} is missing")
        if name not in self._arrays:
            self._arrays[name] = _as_array(name, self._tensors[name], dtype)
        array = self._arrays[name]
        if list(array.shape) != shape:
            raise ValueError(f"the tensor {name!r} was {describe(array)}; expected the shape {shape}")
        return array

    def _object_array(self, content):
        shape, items = content
        array = np.empty(len(_as_list(items)), object)
        for i, code in enumerate(items):
            array[i] = self.decode(code)
        return array.reshape(shape)

    def _ref(self, number):
        if type(number) is not int or not 0 <= number < len(self._objects):
            raise ValueError(f"a reference was {number!r}; expected the number of an object in front")
        return self._objects[number]


def _as_array(name: str, tensor: NDArray, dtype: Any) -> NDArray:
    """Return a tensor as an array of the type that was saved."""
    is_time = isinstance(dtype, str) and _TIMES.fullmatch(dtype) is not None
    stored = np.int64 if is_time else np.uint32 if dtype == "str" else _NUMBERS.get(dtype)
    has_width = dtype != "str" or (tensor.ndim > 0 and tensor.shape[-1] > 0)
    if stored is None or tensor.dtype != stored or not has_width:
        raise ValueError(f"the tensor {name!r} was {describe(tensor)}; expected what holds {dtype!r}")
    if dtype != "str":
        return tensor.view(dtype) if is_time else tensor
    if tensor.size and tensor.max() > _LAST_CHARACTER:
        raise ValueError(f"the tensor {name!r} has the number {tensor.max()}, which is no character")
    return tensor.view(f"U{tensor.shape[-1]}")[..., 0]


def _as_list(value: Any) -> list:
    if type(value) is not list:
        raise ValueError(f"there was {describe(value)}; expected a list")
    return value
