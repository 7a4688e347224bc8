"""Networks of the forecaster: `DECODERS` is the table name -> class, `make_network` makes one."""

from __future__ import annotations

from typing import Any

from numbarnn.forecasting.base import ForecastNetwork, Widths
from numbarnn.forecasting.direct import DirectNetwork
from numbarnn.forecasting.recursive import RecursiveNetwork
from numbarnn.forecasting.segment import SegmentNetwork
from numbarnn.forecasting.windows import Layout

__all__ = ["DECODERS", "ForecastNetwork", "Widths", "make_network"]

DECODERS: dict[str, type[ForecastNetwork]] = {
    "segment": SegmentNetwork,
    "direct": DirectNetwork,
    "recursive": RecursiveNetwork,
}


def make_network(
    decoder: str, layout: Layout, n_channels: int, *arguments: Any, **options: Any
) -> ForecastNetwork:
    """Make a network.

    Parameters
    ----------
    decoder : str
        A name in `DECODERS`.
    layout : Layout
    n_channels : int
    arguments, options
        The others of `ForecastNetwork`: n_raw, n_ids, widths, cell, hidden_size, num_layers, dropout,
        series_embedding, dtype, random_state, n_jobs.

    Returns
    -------
    network : ForecastNetwork

    Raises
    ------
    ValueError
        If there is no such decoder.

    Examples
    --------
    >>> from numbarnn.forecasting.networks import make_network
    >>> from numbarnn.forecasting.windows import Layout
    >>> make_network("segment", Layout(96, 48, 24, 24), 1, hidden_size=8).parameters.size
    864
    """
    if decoder not in DECODERS:
        names = ", ".join(f'"{name}"' for name in DECODERS)
        raise ValueError(f"decoder was {decoder!r}; expected one of {names}")
    return DECODERS[decoder](layout, n_channels, *arguments, **options)
