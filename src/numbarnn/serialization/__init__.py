"""Models as safetensors files, without pickle: `save` and `load`.

All arrays of a model are tensors of the file, under names such as "network_.parameters". All else is in its
metadata: "format" ("numbarnn"), "format_version", "numbarnn_version", "sha256" of the objects and the
tensors, by which damage is found, "equations", which tells a cell of one's own from others of its name, and
"objects", a JSON list of what the model is made of, parts before what holds them, the model last. An entry is
``{"class": name, "parameters": {...}, "state": {...}}``: what the class is called with, and other attributes.
In values numbers, text, true, false, null and lists stand for themselves; all else is an object with one
key::

    {"float": "nan"}                    or "inf", "-inf"
    {"tuple": [...]}
    {"dict": [[key, value], ...]}
    {"date": text}                      ISO 8601, as {"datetime": text}
    {"scalar": [dtype, value]}          a NumPy scalar
    {"array": [tensor, dtype, shape]}   text as a tensor of its characters' numbers, times as one of int64
    {"objects": [shape, [...]]}         an array of dtype object
    {"ref": number}                     an entry of the list; the same one for the same object

What is in a file is data. Only the classes of `objects.CLASSES` are made, nothing is imported or called by a
name from the file, and networks have no more parameters than it brings. Everything is compared with what such
an object really has, since kernels do not look at the bounds of arrays.
"""

from numbarnn.serialization.files import FORMAT_VERSION, load, save

__all__ = ["FORMAT_VERSION", "load", "save"]
