"""Noise on the states in the time loops of a GPU: recurrent dropout and zoneout.

The mathematics is that of `numbarnn.kernels.noise`. Kernels with noise are made beside those without, which
know nothing of it. What they need stands behind arrays that all kernels take, so that none takes more:

    behind h      hm  (T + 1, B, HR)     with recurrent dropout: h as the recurrent weights see it
    behind kept   rm  (B, HR)            the factors that make it
                  zm  (T, B, 1 + E, H)   with zoneout: z, the part of the old states in the new ones
                  nk  (T, B, 1 + E, H)   the states that the cell gave, before they were mixed with the old
    behind d      dd  (B, HR)            gradient of hm, where a step is a launch

h has HR units, fewer than H where it is a projection. Where nothing is kept there is but z, and one for each
state stands for all steps, rows and units.

Random numbers are drawn on the host by the generator that the CPU uses and in its order, so that a fit is
the same fit on both devices.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from numbarnn.cuda.functions import Equations, inline
from numbarnn.passes import cut_rows

if TYPE_CHECKING:
    from numbarnn.recurrent import Recurrent

__all__ = ["Drawn", "Noise", "mixer", "noise_of", "separator", "size_of"]


class Noise(NamedTuple):
    """Which noise there is on the states.

    Attributes
    ----------
    drops, zones : bool
        Recurrent dropout, zoneout.
    """

    drops: bool = False
    zones: bool = False


def noise_of(recurrent: Recurrent, training: bool) -> Noise:
    """Return which noise there is: recurrent dropout in training only."""
    return Noise(training and recurrent.recurrent_dropout > 0, any(recurrent.zoneout))


def size_of(noise: Noise, eq: Equations, H: int, HR: int, T: int, B: int) -> int:
    """Count what stands behind kept in training; h has HR units, other states H."""
    return noise.drops * B * HR + 2 * noise.zones * T * B * (1 + eq.E) * H


@cache
def mixer(eq: Equations, H: int, HR: int, keeps: bool, noise: Noise) -> Callable:
    """Return ``mix(n, t, b, u, kept, k, new, old)`` for kernels: state k, of the cell's and the old one."""
    one, S, kept_steps, (place, _) = eq.real(1), eq.S, int(eq.M > 0), separator(eq, H, HR, noise)
    W = (1 + eq.E) * H

    def mix(n, t, b, u, kept, k, new, old):
        if keeps:
            at = place(n, t, b, u) + k * H
            kept[at + n.T * n.B * W] = new
        else:
            at = kept_steps * n.B * S * H + k
        z = kept[at]
        return z * old + (one - z) * new

    return inline(mix)


@cache
def separator(eq: Equations, H: int, HR: int, noise: Noise) -> tuple[Callable, Callable]:
    """Return two functions for kernels, of training.

    ``place(n, t, b, u)`` is where zm stands. ``separate(n, t, b, u, kept, gradient, aside, e, at)`` sets
    `aside` to what goes past the cell to the old states, the part of h first, leaves in e what goes through
    it, and returns where nk stands.
    """
    S, E, drops, W = eq.S, eq.E, int(noise.drops), (1 + eq.E) * H

    def place(n, t, b, u):
        return n.T * n.B * S * H + drops * n.B * HR + (t * n.B + b) * W + u

    place = inline(place)

    def separate(n, t, b, u, kept, gradient, aside, e, at):
        z_at = place(n, t, b, u)
        aside[0] = kept[z_at] * gradient
        for k in range(E):
            aside[1 + k] = kept[z_at + (1 + k) * H] * e[at + k * H]
            e[at + k * H] -= aside[1 + k]
        return z_at + n.T * n.B * W

    return place, inline(separate)


class Drawn:
    """What is random in the layers in one batch, on the host; `Recurrent` fills it as it fills a `Pass`.

    Parameters
    ----------
    recurrent : Recurrent
    T, B : int
    steps : int
        How many of the T there are in this batch: the CPU sees no more of them, and draws for no more.
    dropout : bool
        Whether there is dropout between layers.
    noise : Noise

    Attributes
    ----------
    between : list of ndarray of shape (T, B, n_inputs)
        Factors of the inputs of each layer but the first.
    factors : list of ndarray of shape (B, H)
        Of each direction of each layer, those of h.
    parts : list of ndarray of shape (T, B, n_states, H)
        Likewise z.
    masks, state_masks, zones : list of ndarray
        Views of them, as `Pass` has them.
    """

    def __init__(self, recurrent: Recurrent, T: int, B: int, steps: int, dropout: bool, noise: Noise) -> None:
        directions = [*chain.from_iterable(recurrent._layers)]
        dtype, cuts = recurrent.dtype, cut_rows(directions, B)
        widths = [layer[0].sizes.I for layer in recurrent._layers[1:]] if dropout else []
        h = (directions[0].sizes.HR,)
        states = recurrent.cell.n_states, recurrent.hidden_size
        self.between = [np.zeros((T, B, width), dtype) for width in widths]
        self.factors = [np.zeros((B, *h), dtype) for _ in directions if noise.drops]
        self.parts = [np.zeros((T, B, *states), dtype) for _ in directions if noise.zones]

        def chunks(arrays: list[NDArray]) -> list[NDArray]:
            return [array[:steps, a:b] for a, b in cuts for array in arrays]

        self.masks, self.zones = chunks(self.between), chunks(self.parts)
        self.state_masks = [array[a:b] for a, b in cuts for array in self.factors]
        recurrent._draw_noise(self, True)
