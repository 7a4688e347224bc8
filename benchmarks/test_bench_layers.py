"""Layers and single steps for pytest-benchmark: ``pytest benchmarks``.

Peers that are not installed are skipped; groups put ours and the peers of one case below each other.
 `numbarnn bench` measures the same cases in turns.
"""

import pytest

from numbarnn.bench.cases import make_cases, our_job
from numbarnn.bench.peers import PEERS

pytest.importorskip("pytest_benchmark")
pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages

MAKERS = {"numbarnn": our_job} | {name: peer.make_job for name, peer in PEERS.items() if not peer.isolated}
THREADS = 2


@pytest.mark.parametrize("contender", MAKERS)
@pytest.mark.parametrize(
    "case", make_cases(kinds=["train", "forward", "step"]), ids=lambda case: f"{case.label} {case.hidden}"
)
def test_layer(benchmark, case, contender):
    if contender in PEERS:
        for package in PEERS[contender].packages:
            pytest.importorskip(package)
        if case.kind not in PEERS[contender].kinds:
            pytest.skip(f"{contender} does not do {case.kind}")
    job = MAKERS[contender](case, THREADS)
    benchmark.group = f"{case.label} {case.shape}"
    benchmark.extra_info["units"] = job.count
    benchmark(job.run)
