"""`benchmarks/gpu.py` where there is no PyTorch that has a GPU: all of it but the clock and the peer."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import numbarnn.estimators  # noqa: F401  # what stands for PyTorch below would not let it be imported
from numbarnn.bench.cases import CELLS, Case, our_job
from numbarnn.cuda import plans
from numbarnn.cuda import program as programs

LAYER = Case("train", "gru", 2, 3, 2, 3, input_gradient=True)
FIT = Case("fit", "rnn", 4, 3, 2, 3, n_windows=8)


class Pretended:
    """A tensor."""


class Here:
    """Stands for a process; `ended` counts those that were ended."""

    ended = 0

    def __init__(self, work):
        self.do = work

    def end(self):
        Here.ended += 1


@pytest.fixture
def gpu(monkeypatch):
    """Return the script; the peer is our own CPU, the clock is the host's, and all is in this process."""
    path = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def seconds(run, calls):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    monkeypatch.setattr(script, "Worker", Here)
    monkeypatch.setattr(Here, "ended", 0)
    monkeypatch.setattr(script, "torch_side", lambda case: our_job(case, 1))
    monkeypatch.setattr(script, "seconds_of_block", seconds)
    monkeypatch.setattr(script, "clocked", lambda job: seconds(job.run, 1) / job.count)
    for name, value in (("ROUNDS", 2), ("FIT_ROUNDS", 1), ("BLOCK", 1e-9), ("GOALS", {3: 2.0})):
        monkeypatch.setattr(script, name, value)
    return script


def pretend(monkeypatch, available):
    """Let there be a PyTorch that says whether it has a GPU."""
    cuda = SimpleNamespace(is_available=lambda: available, get_device_name=lambda: "NVIDIA Pretended")
    backends = SimpleNamespace(cudnn=SimpleNamespace(version=lambda: 1))
    # libraries look whether an array is a tensor of it
    torch = SimpleNamespace(cuda=cuda, backends=backends, Tensor=Pretended, __version__="0")
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_the_cases_are_those_that_have_goals(gpu):
    goals = {32: 2.0, 64: 2.0, 96: 2.0, 128: 1.0, 256: 1.0, 512: 0.5}
    gpu.GOALS = goals
    wanted = {(32, 100, 8, 32), (32, 100, 8, 64), (32, 100, 8, 96), (64, 100, 16, 128), (64, 100, 16, 256)}
    cases = gpu.cases_of(None)
    for cell in CELLS:
        layers = [case for case in cases if case.cell == cell and case.kind == "train"]
        assert wanted < {case.shape for case in layers}
        assert all(case.input_gradient and gpu.goal_of(case) == goals[case.hidden] for case in layers)
        assert any((case.batch, case.steps, case.hidden) == (256, 100, 512) for case in layers)
    fits = [case for case in cases if case.kind == "fit"]
    assert [case.cell for case in fits] == list(CELLS)
    assert {(case.n_windows, *case.shape) for case in fits} == {(8000, 64, 48, 7, 64)}
    assert gpu.goal_of(fits[0]) == 3.0
    # a process that had to be ended, the tool of the driver, and what is left for imports and the picture
    assert gpu.BUDGET + gpu.START_SECONDS + gpu.CASE_SECONDS + gpu.END_SECONDS + 20 < 480


def test_the_table_of_the_documentation_has_a_row_for_each_case(gpu):
    gpu.GOALS = {32: 2.0, 64: 2.0, 96: 2.0, 128: 1.0, 256: 1.0, 512: 0.5}
    table = (Path(__file__).parents[2] / "docs" / "cuda.md").read_text(encoding="utf-8")
    for case in gpu.cases_of(None):
        assert f"| {', '.join(map(str, case.shape))} | {gpu.goal_of(case):g} |" in table


def test_everything_is_measured_and_written(gpu, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    pretend(monkeypatch, True)
    monkeypatch.setattr(gpu, "cases_of", lambda only: [LAYER, FIT])
    folder = tmp_path / "of" / "results"
    gpu.main(["--output", str(folder)])
    written = json.loads((folder / "cuda_nvidia_pretended.json").read_text())
    assert (folder / "cuda_nvidia_pretended.png").stat().st_size > 0
    assert {"numba-cuda", "cuda-bindings", "driver"} <= set(written["machine"]["versions"])
    assert written["device"] == "NVIDIA Pretended"
    assert written["method"]["tf32"] is False
    layer, fit = written["results"]
    for row, names in ((layer, ("recorded", "library")), (fit, ("recorded", "cpu"))):
        assert row["failed"] == row["wrong"] == {}
        assert set(row["differences"]) == {"ours", *names}
        for name in names:
            assert row[f"{name}_seconds"]["median"] > 0
        assert row["ratio_peer"]["median"] > 0
    assert {"output", "dx", "weight_hh_l0"} < set(layer["differences"]["ours"])
    assert max(layer["differences"]["ours"].values()) < 1e-5
    assert capsys.readouterr().out.count(" ratio ") == 2


def test_what_fails_is_noted_and_the_rest_goes_on(gpu):
    def fail():
        raise ZeroDivisionError("of this side")

    makers, rows = gpu.layer_jobs(LAYER), []
    jobs, notes = gpu.ready(LAYER, {**makers, "recorded": fail})
    assert notes["failed"] == {"recorded": "ZeroDivisionError: of this side"}
    assert set(jobs) == {"peer", "ours", "library"}
    gpu.layer_jobs = lambda case: {**makers, "ours": fail}
    gpu.measure([LAYER, LAYER], math.inf, lambda found: rows.append(found[-1]))
    assert [row["error"] for row in rows] == ["ZeroDivisionError: of this side"] * 2
    assert "not measured: ZeroDivisionError" in gpu.describe(rows[0])
    assert Here.ended == 2


def test_wrong_results_are_timed_and_marked(gpu):
    makers = gpu.layer_jobs(LAYER)

    def wrong():
        job = makers["ours"]()
        return job._replace(results=lambda: {**(found := job.results()), "dx": found["dx"] + 1})

    gpu.layer_jobs = lambda case: {"ours": wrong, "peer": makers["peer"]}
    row = gpu.measured(LAYER)
    assert row["ours_seconds"]["median"] > 0
    wrong_arrays = {name for name, difference in row["differences"]["ours"].items() if difference > 1e-4}
    assert wrong_arrays == {"dx"}
    assert "ours wrong: train+dX gru (2, 3, 2, 3): results differ by 1.0e+00 in dx" in gpu.describe(row)


def test_a_report_that_fails_leaves_no_process(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "measured", lambda case: {"failed": {}})
    with pytest.raises(ZeroDivisionError):
        gpu.measure([LAYER], math.inf, lambda rows: 1 / 0)
    assert Here.ended == 1


@pytest.fixture
def module(monkeypatch):
    """Return the script as a module that another process can import."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.delitem(sys.modules, "gpu", raising=False)
    return importlib.import_module("gpu")


def test_cases_are_measured_in_a_process_of_its_own(module):
    """Without PyTorch on a GPU they are not, and the other process says so."""
    rows, unknown = [], LAYER._replace(cell="unknown")
    module.measure([unknown], math.inf, lambda found: rows.append(found[-1]))
    assert rows[0]["cell"] == "unknown"
    assert not rows[0]["error"].startswith(("TimeoutError", "ChildProcessError"))


def test_a_process_that_does_not_answer_is_ended_and_one_that_dies_is_seen_at_once(module, monkeypatch):
    worker = module.Worker(time.sleep)
    assert worker.do(0) is None
    monkeypatch.setattr(module, "CASE_SECONDS", 0.2)
    with pytest.raises(TimeoutError, match="no answer in 0.2 s"):
        worker.do(100)
    worker.end()
    assert not worker._process.is_alive()
    monkeypatch.setattr(module, "CASE_SECONDS", 100)
    worker, start = module.Worker(os._exit), time.monotonic()
    for _ in range(2):
        with pytest.raises(ChildProcessError, match="died, code 3"):
            worker.do(3)
    assert time.monotonic() - start < 100
    worker.end()


def test_a_tool_that_does_not_answer_holds_up_nothing(gpu, monkeypatch):
    def run(line, timeout, **options):
        raise subprocess.TimeoutExpired(line, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    assert gpu.driver() == ""


def test_when_time_is_over_cases_are_named_as_not_measured(gpu):
    rows = []
    gpu.measure([LAYER, FIT], -math.inf, lambda found: rows.append(found[-1]))
    assert all("not measured" in gpu.describe(row) and "goal" in row for row in rows)
    assert len(rows) == 2


def test_the_side_that_is_recorded_and_that_off_the_chip_are_those(gpu, monkeypatch):
    made = []
    for name, make in gpu.layer_jobs(LAYER).items():
        if name != "peer":
            program = make().run.__self__
            made.append((name, program._records, len(program)))
    records = {name: flag for name, flag, _ in made}
    lengths = {name: length for name, _, length in made}
    assert not records["ours"]
    assert records["recorded"] == records["library"] == (not programs.SIMULATED)
    assert lengths["ours"] == lengths["recorded"] < lengths["library"]
    monkeypatch.setattr(plans, "plan", lambda *arguments: None)
    assert "library" not in gpu.layer_jobs(LAYER)


def test_without_a_gpu_nothing_is_written(gpu, monkeypatch, tmp_path, capsys):
    pretend(monkeypatch, False)
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main(["--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())
    gpu.main(["--list"])
    assert capsys.readouterr().out.count("ratio at least") == 21
