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
            for size, (k, (with_lengths, with_state)) in product(
                (3, 1), enumerate(product((False, True), (False, True)))
            ):
                answers = {name: here[f"n{size}_{name}"][k]
                           for name in ("output", "final", "dx", "gradients", "dstate_0")}
                cases.append(SimpleNamespace(
                    name=f"{prefix}n{size}_lengths{with_lengths:d}_state{with_state:d}",
                    options={"input_size": inputs, "hidden_size": hidden, "num_layers": layers,
                             "bias": bool(bias), "bidirectional": directions == 2},
                    parameters=_unflatten(here["parameters"], shapes),
                    gradients=_unflatten(answers["gradients"], shapes),
                    x=here["x"][:size], doutput=here["doutput"][:size],
                    dstate=as_state(here["dstate"][:, :, :size]),
                    state=as_state(here["state"][:, :, :size]) if with_state else None,
                    lengths=here["lengths"][:size] if with_lengths else None,
                    output=answers["output"], final=as_state(answers["final"]), dx=answers["dx"],
                    dstate_0=as_state(answers["dstate_0"])))
        return cases

    return load
