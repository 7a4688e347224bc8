"""The published model on ETTh1 in PyTorch: ``python benchmarks/published_etth1.py --data ETTh1.csv``.

Model and settings are those that the authors of SegRNN (Lin et al., arXiv 2308.11200) keep beside their code
for contexts of 96 and of 720; their figures there are each of one run with one seed. Here the model is
trained with several, by the protocol of `accuracy_etth1`. Two things differ from their script: every
validation window is counted (theirs leaves out the last, incomplete batch, another one in each epoch), and
the decoder's products are computed once for all segments that share them: the numbers are the same. Finished
runs are kept in the file of --out; the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from accuracy_etth1 import N_TRAIN, N_VALIDATION, PUBLISHED, read, z_score
from numbarnn.bench.report import describe_machine, write_document
from segment_model import SharedSegmentModel

N_KNOWN = N_TRAIN + N_VALIDATION
SEGMENT, HIDDEN, EPOCHS = 24, 512, 30


class Settings(NamedTuple):
    """What differs between the authors' scripts; `n_windows`: of a batch, each with all channels."""

    dropout: float
    n_windows: int
    rate: float
    patience: int


SETTINGS = {96: Settings(0.5, 256, 1e-3, 10), 720: Settings(0.1, 64, 3e-4, 5)}  # by the context


def rows(windows: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return contexts, what followed, and the channel, of each row of windows (n, channels, steps)."""
    n, n_channels, _ = windows.shape
    flat = windows.flatten(0, 1)
    return flat[:, :context], flat[:, context:], torch.arange(n_channels).repeat(n)


def mse(model: nn.Module, windows: torch.Tensor, context: int) -> float:
    """Mean squared error over windows (n, channels, context + horizon)."""
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for batch in windows.split(256):
            x, y, channel = rows(batch, context)
            total += float((model(x, channel) - y).square().sum())
    return total / windows[:, :, context:].numel()


def train(context: int, horizon: int, seed: int, series: np.ndarray) -> dict[str, Any]:
    """Train as the authors' script does; return the errors of the best epoch."""
    dropout, n_windows, rate, patience = SETTINGS[context]
    torch.manual_seed(seed)
    values = torch.from_numpy(series.astype(np.float32))
    stretches = (0, N_TRAIN), (N_TRAIN - context, N_KNOWN), (N_KNOWN - context, len(values))
    fit, stop, test = (values[first:last].unfold(0, context + horizon, 1) for first, last in stretches)
    model = SharedSegmentModel(horizon, SEGMENT, HIDDEN, dropout, series.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    start, curve, best = time.perf_counter(), [], None
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.8 ** max(epoch - 3, 0)
        model.train()
        for chosen in torch.randperm(len(fit)).split(n_windows):
            if len(chosen) == n_windows:
                x, y, channel = rows(fit[chosen], context)
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x, channel), y).backward()
                optimizer.step()
        curve.append(mse(model, stop, context))
        if curve[-1] == min(curve):
            best = {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - int(np.argmin(curve)) >= patience:
            break
        print(f"  epoch {epoch + 1}: {curve[-1]:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    model.load_state_dict(best)
    return {
        "context": context, "horizon": horizon, "seed": seed, "epochs": len(curve),
        "best_epoch": int(np.argmin(curve)) + 1, "validation_mse": min(curve),
        "test_mse": mse(model, test, context),
    }  # fmt: skip


def main() -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="a copy of ETTh1.csv")
    parser.add_argument("--contexts", type=int, nargs="+", default=[96], choices=list(SETTINGS))
    parser.add_argument("--horizons", type=int, nargs="+", default=[96, 192, 336, 720])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "published_etth1.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    series, path = z_score(read(options.data)), Path(options.out)
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    for context, horizon in product(options.contexts, options.horizons):
        for seed in options.seeds:
            key = context, horizon, seed
            if not any((run["context"], run["horizon"], run["seed"]) == key for run in runs):
                runs.append(train(*key, series))
                write_document(path, {"machine": describe_machine(), "runs": runs})
        found = [run["test_mse"] for run in runs if (run["context"], run["horizon"]) == key[:2]]
        each = " ".join(f"{value:.3f}" for value in found)
        published = PUBLISHED[f"published, context {context}"]
        print(
            f"context {context}, horizon {horizon}: {np.mean(found):.3f} ({each}), published "
            f"{published[horizon]:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
