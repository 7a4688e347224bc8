"""A `numbarnn.forecasting.networks.ForecastNetwork` on the device, in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from numbarnn.cuda.decoders import WAYS, ForecastWay
from numbarnn.cuda.dense import Dense
from numbarnn.cuda.driver import naming_errors, upload
from numbarnn.cuda.layers import Layers, check_options
from numbarnn.parameters import starts_of

if TYPE_CHECKING:
    from numbarnn.forecasting.networks import ForecastNetwork

__all__ = ["DeviceForecaster"]


class DeviceForecaster:
    """A network of a forecaster whose parameters are on the device, and which trains there.

    Parameters
    ----------
    network : ForecastNetwork
        What it is made after.

    Attributes
    ----------
    host : ForecastNetwork
    parameters, gradients : device array
        In the order of the network's.
    places : dict of str to int
        Where each parameter begins.
    embed, head, static, future : Dense or None
    drops : bool
        Whether there is dropout before the head.

    Raises
    ------
    ValueError
        If the device has no kernel for an option; the message names it.
    DeviceError
        If there is no device, or it fails.
    """

    def __init__(self, network: ForecastNetwork) -> None:
        self.check_options(network)
        self.host, self.dtype = network, network.dtype
        self.zero = self.dtype.type(0)
        self.drops = network.dropout.drops
        named = network.named_parameters
        self.places = starts_of(named)

        def dense(name: str) -> Dense | None:
            if f"{name}.weight" not in named:
                return None
            outputs, inputs = named[f"{name}.weight"].shape
            return Dense(self.places[f"{name}.weight"], self.places[f"{name}.bias"], inputs, outputs)

        self.embed, self.head, self.static, self.future = map(dense, ("embed", "head", "static", "future"))
        with naming_errors():
            self.parameters = upload(network.parameters)
            self.gradients = upload(np.zeros_like(network.parameters))
            self.layers = Layers(network.encoder, self.parameters, self.gradients)

    @staticmethod
    def outputs_of_row(network: ForecastNetwork) -> int:
        """Return how many raw outputs belong to one target."""
        return network.n_raw

    @staticmethod
    def check_options(network: ForecastNetwork) -> None:
        """Raise a ValueError for what there is no kernel for."""
        name = type(network).__name__
        if name not in WAYS:
            raise ValueError(f"network was {name}; device='cuda' expects one of {', '.join(WAYS)}")
        check_options(network.encoder)

    def way(self, T: int, B: int, training: bool, masked: bool) -> ForecastWay:
        """Return arrays for batches of a shape."""
        return WAYS[type(self.host).__name__](self, T, B, training, masked)

    # ---- states from batch to batch, which a trainer asks for and no forecaster has

    def begins(self, n_samples: int) -> bool:
        """Whether the next batch begins in new states: each does."""
        return True

    def carry(self, n_samples: int) -> None:
        """Note that a batch has left its states."""

    def bring_states(self) -> None:
        """Bring states that are gone on from to the network."""
