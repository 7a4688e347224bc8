"""Which objects there are in files, what they are made of, and how they are put together again."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import numpy as np

from numbarnn.limits import at_most
from numbarnn.zones import ZONE_NAME

__all__ = [
    "CLASSES",
    "MODELS",
    "check_optimizer",
    "class_of",
    "describe",
    "is_known",
    "put_together",
    "take_apart",
]

# what can be saved on its own
MODELS = ("RNNRegressor", "RNNClassifier", "RNNForecaster", "Recurrent", "Network")

_HOMES = {
    "estimators": ("RNNClassifier", "RNNRegressor"),
    "recurrent": ("Recurrent",),
    "network": ("Network",),
    "losses": ("SquaredError", "AbsoluteError", "Huber", "Quantile", "Poisson", "LogLoss"),
    "optimizers": ("SGD", "RMSprop", "Adam", "AdamW"),
    "schedules": (
        "ConstantSchedule", "StepSchedule", "ExponentialSchedule", "CosineSchedule", "AdaptiveSchedule",
    ),
    "forecasting.forecaster": ("RNNForecaster",),
    "forecasting.direct": ("DirectNetwork",),
    "forecasting.recursive": ("RecursiveNetwork",),
    "forecasting.segment": ("SegmentNetwork",),
    "forecasting.base": ("Widths",),
    "forecasting.windows": ("Layout",),
    "forecasting.linear": ("LinearForecast",),
    "forecasting.model": ("ForecastModel",),
    "forecasting.scaling": ("CovariateScaler", "Normalizer", "Standardizer"),
    "forecasting.likelihoods": ("Gaussian", "StudentT", "NegativeBinomial"),
    "forecasting.conformal": ("Conformal",),
    "forecasting.sets": ("Columns", "Covariates", "Form", "SeriesSet"),
    "forecasting.native": ("Backend",),
    "forecasting.frequency": ("Frequency",),
}  # fmt: skip

# every class that a file may name -> the module that it is in
CLASSES = {name: f"numbarnn.{home}" for home, names in _HOMES.items() for name in names}
CLASSES |= {"Generator": "numpy.random", "RandomState": "numpy.random"}

_RANDOM = (np.random.Generator, np.random.RandomState)
_BIT_GENERATORS = {
    name: getattr(np.random, name) for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
}
# with one of these beyond its end NumPy would read beyond an array
_POSITIONS = {"pos": 624, "buffer_pos": 4}

# a data frame is made by the library that the file names: those that narwhals itself has
_LIBRARIES = ("dict", "cudf", "modin", "pandas", "polars", "pyarrow")


def class_of(name: Any) -> type:
    """Return a class of the table.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(f"it names the class {name!r}, which this version of numbarnn does not have")
    return getattr(import_module(CLASSES[name]), name)


def is_known(kind: type, names: Container[str] = CLASSES) -> bool:
    """Whether a class is in the table: the class itself, not one derived from it."""
    return kind.__name__ in names and class_of(kind.__name__) is kind


def take_apart(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what an object of a class of the table is made of.

    Returns
    -------
    parameters : dict of str to object
        What its class is called with, of a tuple, a dataclass or an estimator; else none.
    state : dict of str to object
        All else.
    """
    if isinstance(value, np.random.Generator):
        return {}, value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return {}, value.get_state(legacy=False)
    if isinstance(value, tuple):
        return value._asdict(), {}
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}, {}
    if _is_called(type(value)):
        parameters = value.get_params(deep=False)
        return parameters, {key: each for key, each in vars(value).items() if key not in parameters}
    return {}, value.__getstate__() or {}


def put_together(kind: type, parameters: dict[str, Any], state: dict[str, Any]) -> Any:
    """Make an object of what `take_apart` returned, which may have been tampered with since.

    Raises
    ------
    Exception
        Of any kind if that is not what such an object is made of.
    """
    called = _is_called(kind)
    if parameters and not called:
        raise ValueError(f"it has the parameters {', '.join(parameters)}; expected none")
    if kind in _RANDOM:
        return _random(kind, state)
    if not called and kind.__getstate__ is not object.__getstate__:
        value = kind.__new__(kind)
        # whatever sizes the state tells of, there may be no more parameters than it brings
        with at_most(_count(state)):
            value.__setstate__(state)
        _check_alike(state, value.__getstate__(), "")
        return value
    value = kind(**parameters) if called else kind.__new__(kind)
    if kind.__name__ == "Backend":
        _check_backend(value)
    for name in state:
        of_class = name.startswith("__") or callable(getattr(kind, name, None))
        if is_dataclass(kind) or of_class or not name.isidentifier():
            raise ValueError(f"it has the attribute {name!r}, which is no data of a {kind.__name__}")
    if state:
        vars(value).update(state)
    return value


def _is_called(kind: type) -> bool:
    """Whether objects are made by calling the class with all that they are."""
    return issubclass(kind, tuple) or is_dataclass(kind) or hasattr(kind, "get_params")


def _count(value: Any) -> int:
    """Count the numbers in all arrays of a state."""
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list | tuple) else 0


def _random(kind: type, state: dict[str, Any]) -> Any:
    """Make a generator of random numbers. NumPy does not look closely at what it is given."""
    name = state["bit_generator"]
    if not isinstance(name, str) or name not in _BIT_GENERATORS:
        raise ValueError(f"bit_generator was {name!r}; expected one of {', '.join(_BIT_GENERATORS)}")
    value = kind(_BIT_GENERATORS[name](0))
    _check_alike(state, take_apart(value)[1], "")
    for key, last in _POSITIONS.items():
        position = state.get(key, state["state"].get(key, 0))
        if not 0 <= position <= last:
            raise ValueError(f"{key} was {position}; expected 0 to {last}")
    if kind is np.random.RandomState:
        value.set_state(state)
    else:
        value.bit_generator.state = state
    return value


def _check_alike(given: Any, expected: Any, path: str) -> None:
    """Raise a ValueError unless there are the same types, shapes and keys."""
    same = type(given) is type(expected)
    if same and isinstance(given, np.ndarray):
        same = given.dtype == expected.dtype and given.shape == expected.shape
    elif same and isinstance(given, dict):
        same = given.keys() <= expected.keys()  # a file of before may have fewer options
    elif same and isinstance(given, list | tuple):
        same = len(given) == len(expected)
    if not same:
        what = f"{path} was" if path else "it was"
        raise ValueError(f"{what} {describe(given)}; expected {describe(expected)}")
    if isinstance(given, dict):
        for key, value in given.items():
            _check_alike(value, expected[key], f"{path}.{key}" if path else key)
    elif isinstance(given, list | tuple):
        for i, (value, wanted) in enumerate(zip(given, expected, strict=True)):
            _check_alike(value, wanted, f"{path}[{i}]")


def _check_backend(value: Any) -> None:
    """Raise a ValueError unless frames can be written by such a library with such a zone."""
    if value.library not in _LIBRARIES:
        raise ValueError(f"library was {value.library!r}; expected one of {', '.join(_LIBRARIES)}")
    if value.time_zone is not None and not ZONE_NAME.fullmatch(value.time_zone):
        raise ValueError(f"time_zone was {value.time_zone!r}; expected one such as 'Europe/Berlin'")


def check_optimizer(model: Any) -> None:
    """Raise a ValueError if the optimizer's state is not as large as the network: kernels rely on it."""
    optimizer = vars(model).get("_optimizer")
    if optimizer is not None:
        values, state = model.network_.parameters, optimizer.state
        shape = optimizer.n_states, values.size
        if state.shape != shape or state.dtype != values.dtype:
            expected = f"an array of shape {shape} and dtype {values.dtype}"
            raise ValueError(f"_optimizer.state was {describe(state)}; expected {expected}")


def describe(value: Any) -> str:
    """Say in a few words what something is."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, dict):
        return f"a dict with the keys {', '.join(map(str, value))}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"
