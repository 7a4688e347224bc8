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


def _projected(shapes, proj_size, directions):
    """Return the shapes of the parameters of an LSTM whose h is projected, of those of one without."""
    result = {}
    for name, shape in shapes.items():
        kind, _, end = name.rpartition("_l")
        if kind == "weight_hh":
            result[name], last = (shape[0], proj_size), (f"weight_hr_l{end}", (proj_size, shape[1]))
        else:
            reads = kind == "weight_ih" and end[0] != "0"
            result[name] = (shape[0], proj_size * directions) if reads else shape
        if kind == ("bias_hh" if "bias_hh_l0" in shapes else "weight_hh"):
            result |= [last]
    return result


@pytest.fixture(scope="session")
def torch_cases():
    """Return a function: cell name -> list of what PyTorch computed (see fixtures/make_torch.py).

    ``"lstm_proj"`` is an LSTM with projections.

    Each case has ``name``; ``options`` as Recurrent takes them; ``parameters`` and ``gradients`` as dicts;
    the arrays of the file; ``state`` and ``lengths`` None where they were not given.
    """
    def load(cell):
        proj_size = 2 if cell == "lstm_proj" else 0

        def as_state(stacked):
            if proj_size:
                return tuple(np.split(stacked[0], [proj_size], axis=-1))
            return tuple(stacked) if len(stacked) > 1 else stacked[0]

        cases = []
        with np.load(Path(__file__).parent / "fixtures" / f"torch_{cell}.npz") as stored:
            arrays = dict(stored)
        for layers, directions, bias in product((1, 2), (1, 2), (0, 1)):
            prefix = f"l{layers}_d{directions}_b{bias}_"
            here = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
            hidden, inputs = here["state"].shape[3] - proj_size, here["x"].shape[2]
            family = cell.removesuffix("_proj")
            shapes = oracle.shapes(family, inputs, hidden, layers, bool(bias), directions == 2)
            shapes = _projected(shapes, proj_size, directions) if proj_size else shapes
            for size, (k, (with_lengths, with_state)) in product(
                (3, 1), enumerate(product((False, True), (False, True)))
            ):
                answers = {name: here[f"n{size}_{name}"][k]
                           for name in ("output", "final", "dx", "gradients", "dstate_0")}
                cases.append(SimpleNamespace(
                    name=f"{prefix}n{size}_lengths{with_lengths:d}_state{with_state:d}",
                    options={"input_size": inputs, "hidden_size": hidden, "num_layers": layers,
                             "bias": bool(bias), "bidirectional": directions == 2}
                    | ({"proj_size": proj_size} if proj_size else {}),
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
