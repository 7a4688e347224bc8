"""Fixtures shared by the tests."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import oracle

collect_ignore = ["fixtures/make_torch.py"]  # imports PyTorch


def _unflatten(vector, shapes):
    """Cut a flat vector into a dict of arrays of the given shapes."""
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in
            zip(shapes.items(), np.split(vector, ends[:-1]), strict=True)}


@pytest.fixture(scope="session")
def torch_cases():
    """Return a function: cell name -> list of what PyTorch computed (see fixtures/make_torch.py).

    Each case has ``name``; ``options`` as Recurrent takes them; ``parameters`` and ``gradients`` as dicts;
    the arrays of the file; ``state`` and ``lengths`` None where they were not given.
    """
    def load(cell):
        def as_state(stacked):
            return tuple(stacked) if len(stacked) > 1 else stacked[0]

        cases = []
        with np.load(Path(__file__).parent / "fixtures" / f"torch_{cell}.npz") as stored:
            arrays = dict(stored)
        for layers, directions, bias in product((1, 2), (1, 2), (0, 1)):
            prefix = f"l{layers}_d{directions}_b{bias}_"
            here = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
            hidden, inputs = here["state"].shape[3], here["x"].shape[2]
            shapes = oracle.shapes(cell, inputs, hidden, layers, bool(bias), directions == 2)
            for k, (with_lengths, with_state) in enumerate(product((False, True), (False, True))):
                cases.append(SimpleNamespace(
                    name=f"{prefix}lengths{with_lengths:d}_state{with_state:d}",
                    options={"input_size": inputs, "hidden_size": hidden, "num_layers": layers,
                             "bias": bool(bias), "bidirectional": directions == 2},
                    parameters=_unflatten(here["parameters"], shapes),
                    gradients=_unflatten(here["gradients"][k], shapes),
                    x=here["x"], doutput=here["doutput"], dstate=as_state(here["dstate"]),
                    state=as_state(here["state"]) if with_state else None,
                    lengths=here["lengths"] if with_lengths else None,
                    output=here["output"][k], final=as_state(here["final"][k]), dx=here["dx"][k],
                    dstate_0=as_state(here["dstate_0"][k])))
        return cases

    return load
