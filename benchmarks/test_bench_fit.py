"""Whole fits for pytest-benchmark: two epochs of 8000 windows, ours and PyTorch's."""

import pytest

from numbarnn.bench.cases import make_cases, our_job
from numbarnn.bench.peers import torch_job

pytest.importorskip("pytest_benchmark")
pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages

THREADS = 2


@pytest.mark.parametrize("contender", ["numbarnn", "torch"])
@pytest.mark.parametrize("case", make_cases(kinds=["fit"]), ids=lambda case: f"{case.label} {case.hidden}")
def test_fit(benchmark, case, contender):
    if contender == "torch":
        pytest.importorskip("torch")
    job = (our_job if contender == "numbarnn" else torch_job)(case, THREADS)
    benchmark.group = f"{case.label} {case.hidden}"
    benchmark.extra_info["epochs"] = job.count
    benchmark.pedantic(job.run, rounds=3, warmup_rounds=1)
