"""The model of Lin et al. (SegRNN, arXiv 2308.11200, 2023) in PyTorch, for benchmarks beside it."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["SegmentModel", "SharedSegmentModel"]


class SegmentModel(nn.Module):
    """Segments of the context read one by one by a GRU, those of the forecast written all at once.

    The decoder is that of the authors: the GRU makes one step from each pair of a state and a segment.
    """

    def __init__(self, horizon: int, segment: int, hidden: int, dropout: float, n_channels: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(segment, hidden), nn.ReLU())
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.position = nn.Parameter(torch.randn(horizon // segment, hidden // 2))
        self.channel = nn.Parameter(torch.randn(n_channels, hidden // 2))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, segment))

    def forward(self, x: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
        """Forecast rows (n, context) of the channels (n,): (n, horizon)."""
        last = x[:, -1:]
        _, h = self.gru(self.embed((x - last).view(len(x), -1, self.embed[0].in_features)))
        return self.head(self.decode(h[0], channel)).flatten(1) + last

    def decode(self, h: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
        """Make a step from the states (n, hidden) to each of m segments: (n, m, hidden)."""
        n, m = len(h), len(self.position)
        pairs = self.position.expand(n, m, -1), self.channel[channel].unsqueeze(1).expand(n, m, -1)
        _, decoded = self.gru(torch.cat(pairs, dim=2).flatten(0, 1)[:, None], h.repeat_interleave(m, 0)[None])
        return decoded[0].view(n, m, -1)


class SharedSegmentModel(SegmentModel):
    """The same numbers with less work: the products of a state are computed once, not for each segment."""

    def decode(self, h: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
        """See `SegmentModel`."""
        gru, linear = self.gru, nn.functional.linear
        by_position, by_channel = gru.weight_ih_l0.split(self.position.shape[1], dim=1)
        # parts of a segment are the same in all rows, those of a channel and of a state are of a row
        reset_m, update_m, new_m = linear(self.position, by_position).chunk(3, dim=-1)
        of_channel = linear(self.channel, by_channel, gru.bias_ih_l0)[channel].unsqueeze(1)
        reset_c, update_c, new_c = of_channel.chunk(3, dim=-1)
        h = h.unsqueeze(1)
        reset_h, update_h, new_h = linear(h, gru.weight_hh_l0, gru.bias_hh_l0).chunk(3, dim=-1)
        reset = torch.sigmoid(reset_m + (reset_c + reset_h))
        update = torch.sigmoid(update_m + (update_c + update_h))
        new = torch.tanh(new_m + new_c + reset * new_h)
        return new + update * (h - new)
