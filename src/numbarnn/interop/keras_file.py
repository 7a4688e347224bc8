"""What a ``.keras`` file says about recurrent layers, and their arrays.

The file is a ZIP archive of JSON and HDF5. It is read as data, with `zipfile`, `json` and h5py alone: nothing
that it says is imported or executed, and no link in it is followed out of it. The archive's checksums find
damage, and no more memory is asked for than what is stored can fill; what was made to do harm, with checksums
that fit, may still hang HDF5's own library.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.cells import find_cell
from numbarnn.cells.general import general_name
from numbarnn.checks import positive_int

if TYPE_CHECKING:
    import h5py

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
HDF5 = b"\x89HDF\r\n\x1a\n"
FAMILIES = {"SimpleRNN": "rnn", "LSTM": "lstm", "GRU": "gru"}
# Keras's activations -> ours that are the same functions; the numbers are those that Keras has
ACTIVATIONS = {
    "elu": "elu",
    "hard_sigmoid": f"hard_sigmoid({1 / 6!r},0.5)",
    "leaky_relu": "leaky_relu(0.2)",
    "linear": "affine",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "softplus": "softplus",
    "softsign": "softsign",
    "sparse_sigmoid": "hard_sigmoid(0.5,0.5)",
    "tanh": "tanh",
}
# merge_mode -> ours; outputs that Keras leaves apart are found side by side
MERGES = {"concat": "concat", None: "concat", "sum": "sum", "ave": "mean", "mul": "product"}
# times that text and numbers are packed at most, where they are at all; below so many bytes it is no matter
MOST_PACKED, ROOM = 20, 2**24
DIRECTIONS = ("forward_layer/", "backward_layer/")


class StoredLayer(NamedTuple):
    """A recurrent layer in a file.

    Parameters
    ----------
    name : str
        As Keras knows it.
    entry : dict
        Its description.
    group : str
        Path of its weights in the HDF5 part.
    masking : str
        Name of a layer in front of it that masks steps, if there is one.
    """

    name: str
    entry: dict[str, Any]
    group: str
    masking: str


def open_model(path: str | os.PathLike) -> tuple[dict[str, StoredLayer], bytes]:
    """Return the recurrent layers in a file, by name and in the model's order, and its HDF5 part.

    Raises
    ------
    ValueError
        If it is no ``.keras`` file or a damaged one, or its model has no recurrent layer.
    """
    with open(path, "rb") as stream:
        if stream.read(len(HDF5)) == HDF5:
            raise ValueError(
                f"source was {path}, an HDF5 file, as Keras 2 wrote models and save_weights writes weights; "
                "expected a .keras file: load it with Keras and save the model as one, or pass "
                "layer.get_weights()"
            )
    try:
        with zipfile.ZipFile(path) as archive:
            missing = {CONFIG, WEIGHTS}.difference(archive.namelist())
            for name in {CONFIG, WEIGHTS} - missing:
                size, whole = archive.getinfo(name).file_size, os.path.getsize(path)
                if size > max(ROOM, MOST_PACKED * whole):
                    raise ValueError(
                        f"source was {path} of {whole} bytes, from which {size} of {name} would be unpacked; "
                        f"expected at most {MOST_PACKED} times as many"
                    )
            config, weights = ("null", b"") if missing else (archive.read(CONFIG), archive.read(WEIGHTS))
        model = json.loads(config)
    except (
        zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError,  # of zipfile
        json.JSONDecodeError, UnicodeDecodeError,
    ) as error:
        raise ValueError(f"source was {path}, no .keras file or a damaged one: {error}") from error
    if missing:
        names = " and ".join(sorted(missing))
        raise ValueError(f"source was {path}, without {names}; expected a .keras file")
    try:
        layers = dict(_recurrent_layers(model))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{CONFIG} in {path} was no Sequential or Functional model of Keras") from error
    if not layers:
        found = dict.fromkeys(_class_names(model))
        raise ValueError(
            f"source was {path}, whose model has no recurrent layer that can be read: it has "
            f"{', '.join(found) or 'no layers'}; expected SimpleRNN, LSTM or GRU of Keras, or Bidirectional "
            "around one (of one in another layer, or derived from one, pass get_weights())"
        )
    return layers, weights


def _class_names(model: Any) -> Iterator[str]:
    """Yield what the layers of a model, and of the models in it, are."""
    for entry in model["config"]["layers"]:
        config, kind = entry["config"], entry["class_name"]
        inner = config.get("layer")
        if "layers" in config:
            yield from _class_names(entry)
        elif kind != "InputLayer":
            yield f"{kind} around {inner.get('class_name')}" if isinstance(inner, dict) else str(kind)


def _recurrent_layers(
    model: Any, outer: str = "", group: str = "", masking: str = ""
) -> Iterator[tuple[str, StoredLayer]]:
    """Yield the recurrent layers of a model and of the models in it, under their names."""
    counts: Counter[str] = Counter()
    for entry in model["config"]["layers"]:
        kind, config = entry["class_name"], entry["config"]
        # Keras calls the groups after the classes, and numbers those of one class in the model's order
        stem = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
        at = f"{group}layers/{stem}" + (f"_{counts[stem]}" if counts[stem] else "")
        counts[stem] += 1
        if "layers" in config:
            yield from _recurrent_layers(entry, f"{outer}{config['name']}/", f"{at}/", masking)
        elif kind in (*FAMILIES, "Bidirectional", "RNN"):
            yield outer + config["name"], StoredLayer(config["name"], entry, at, masking)
        elif kind == "Masking" or config.get("mask_zero"):
            masking = config["name"]


def find_layer(layers: dict[str, StoredLayer], layer: str | int | None) -> StoredLayer:
    """Return the layer of that name or number, or the only one there is.

    Raises
    ------
    ValueError
        If there is none.
    """
    if layer is None and len(layers) == 1:
        return next(iter(layers.values()))
    if isinstance(layer, str) and layer in layers:
        return layers[layer]
    if isinstance(layer, int | np.integer) and not isinstance(layer, bool) and 0 <= layer < len(layers):
        return list(layers.values())[layer]
    expected = ", ".join(map(repr, layers))
    raise ValueError(f"layer was {layer!r}; expected one of {expected}, or a number below {len(layers)}")


# ------------------------------------------------------------------ descriptions


def describe(layer: StoredLayer) -> tuple[str, int, bool, str | None]:
    """Return the cell, the number of units, whether there is a bias, and how directions are merged.

    Raises
    ------
    ValueError, TypeError
        If the layer is of another class, or has an option that changes its numbers and that we do not have.
    """
    name, entry = layer.name, layer.entry
    if entry["class_name"] != "Bidirectional":
        return *_describe_direction(name, entry), None
    config = entry["config"]
    forward, backward = config.get("layer"), config.get("backward_layer")
    found = _describe_direction(name, forward)
    if backward is not None and _describe_direction(name, backward, go_backwards=True) != found:
        raise ValueError(f'layer "{name}" had unlike layers in its two directions; expected like ones')
    merge = config.get("merge_mode", "concat")
    if merge not in list(MERGES):
        raise ValueError(f'layer "{name}" had merge_mode={merge!r}; expected one of {list(MERGES)}')
    return *found, MERGES[merge]


def repeats_masked(layer: StoredLayer) -> bool:
    """Whether Keras gives the output before it again at a masked step; `describe` has looked at the layer."""
    config = layer.entry["config"]
    config = config["layer"]["config"] if layer.entry["class_name"] == "Bidirectional" else config
    returns = config.get("return_sequences") and not config.get("zero_output_for_mask")
    return bool(layer.masking and returns)


def _describe_direction(name: str, entry: Any, go_backwards: bool = False) -> tuple[str, int, bool]:
    """Return the cell of a layer in one direction, its units and whether it has a bias."""
    kind, module, config = (
        (entry.get("class_name"), entry.get("module"), entry.get("config")) if isinstance(entry, dict)
        else (None, None, None)
    )
    if kind not in list(FAMILIES) or not str(module).startswith("keras") or not isinstance(config, dict):
        expected = "SimpleRNN, LSTM or GRU of Keras, or Bidirectional around one"
        raise ValueError(f'layer "{name}" was of class {kind} in {module}; expected {expected}')
    if config.get("go_backwards", go_backwards) is not go_backwards:
        found = config["go_backwards"]
        raise ValueError(f'layer "{name}" had go_backwards={found!r}; expected {go_backwards}')
    family = FAMILIES[kind]
    if kind == "GRU" and not config.get("reset_after", True):
        family = "gru_reset_before"
    found = [_activation(name, config, option) for option in ("recurrent_activation", "activation")]
    units = positive_int(f'units of layer "{name}"', config.get("units"))
    return name_cell(family, *found), units, bool(config.get("use_bias", True))


def _activation(name: str, config: dict[str, Any], option: str) -> str:
    """Return our name of one of a layer's activations, Keras's default if the layer does not tell."""
    found = config.get(option, "tanh" if option == "activation" else "sigmoid")
    if found not in list(ACTIVATIONS):
        expected = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f'layer "{name}" had {option}={found!r}; expected one of {expected}')
    return ACTIVATIONS[found]


def name_cell(family: str, gates: str, others: str) -> str:
    """Return the name of the cell with these activations of the gates, and of all else.

    Examples
    --------
    >>> from numbarnn.interop.keras_file import name_cell
    >>> name_cell("lstm", "sigmoid", "tanh"), name_cell("lstm", "sigmoid", "relu")
    ('lstm', 'lstm[sigmoid,relu,relu]')
    """
    if family == "rnn":
        plain = {"tanh": "rnn", "relu": "rnn_relu"}
        return plain.get(others) or general_name(family, [others])
    if (gates, others) == ("sigmoid", "tanh"):
        return family
    return general_name(family, [gates, others, *[others] * (family == "lstm")])


# ------------------------------------------------------------------ arrays


def family_of(cell: str) -> str:
    """Return the name of a cell without its activations: ``"lstm"`` of ``"lstm[sigmoid,relu,relu]"``."""
    return cell.partition("[")[0]


def check_shapes(names: Sequence[str], arrays: Sequence, cell: str, hidden_size: int, bias: bool) -> None:
    """Check the shapes of Keras's arrays for one direction or for two.

    Parameters
    ----------
    names : sequence of str
        What errors call the arrays.
    arrays : sequence of ndarray or h5py.Dataset
        A kernel, a recurrent kernel and perhaps a bias, for each direction.
    cell : str
    hidden_size : int
    bias : bool

    Raises
    ------
    ValueError
        If one has another shape than expected.
    """
    n_inputs = arrays[0].shape[0] if arrays[0].shape else 0
    columns = len(find_cell(cell).gates) * hidden_size
    shapes = [(n_inputs, columns), (hidden_size, columns)]
    shapes += [(2, columns) if family_of(cell) == "gru" else (columns,)] * bias
    for k, (name, array) in enumerate(zip(names, arrays, strict=True)):
        shape = shapes[k % len(shapes)]
        if array.shape != shape or 0 in shape:
            raise ValueError(f"{name} had shape {array.shape}; expected {shape}")


def read_arrays(layer: StoredLayer, weights: bytes, cell: str, units: int, bias: bool) -> list[NDArray]:
    """Read the arrays of a layer, those of the first direction in front, after a look at their shapes.

    Raises
    ------
    ValueError
        If the HDF5 part is damaged, or an array is missing or has another shape.
    ImportError
        If h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('a .keras file is read with h5py: pip install "numbarnn[keras]"') from error
    directions = DIRECTIONS if layer.entry["class_name"] == "Bidirectional" else ("",)
    paths = [f"{layer.group}/{way}cell/vars/{k}" for way in directions for k in range(2 + bias)]
    try:
        with h5py.File(io.BytesIO(weights), "r") as file:
            _check_name(file, layer)
            datasets = [_descend(file, path, h5py.Dataset) for path in paths]
            check_shapes([f"{path} in {WEIGHTS}" for path in paths], datasets, cell, units, bias)
            for path, dataset in zip(paths, datasets, strict=True):
                stored = min(dataset.id.get_storage_size(), len(weights))  # chunks need not be there
                if dataset.nbytes > MOST_PACKED * stored:
                    raise ValueError(
                        f"{path} in {WEIGHTS} had {stored} bytes for an array of {dataset.nbytes}"
                    )
            return [_as_array(dataset) for dataset in datasets]
    except (OSError, KeyError, RuntimeError) as error:  # what h5py raises
        raise ValueError(f"{WEIGHTS} was no HDF5 file or a damaged one: {error}") from error


def _as_array(dataset: h5py.Dataset) -> NDArray:
    """Read an array; of bfloat16 HDF5 has no type, and Keras says so beside it."""
    array = np.asarray(dataset)
    if dataset.attrs.get("dtype") == "bfloat16" and array.dtype.itemsize == 2:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array


def _check_name(file: h5py.File, layer: StoredLayer) -> None:
    """Hold the name that later versions of Keras write beside the weights against the layer's."""
    import h5py

    group = _descend(file, layer.group, h5py.Group)
    if "vars" in group:
        name = _descend(group, "vars", h5py.Group).attrs.get("name", layer.name)
        if name != layer.name:
            raise ValueError(f'{layer.group} in {WEIGHTS} was layer "{name}"; expected "{layer.name}"')


def _descend(node: h5py.Group, path: str, kind: type) -> Any:
    """Follow a path; a soft or external link, or a dataset stored elsewhere, could lead out of the file."""
    import h5py

    for name in path.split("/"):
        hard = isinstance(node, h5py.Group) and isinstance(node.get(name, getlink=True), h5py.HardLink)
        node = node[name] if hard else None
    if not isinstance(node, kind) or (kind is h5py.Dataset and (node.external or node.is_virtual)):
        raise ValueError(f"{WEIGHTS} had no {path}; expected the weights of the layer there")
    return node
