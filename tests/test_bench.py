"""`numbarnn bench`: our side of every case, the bookkeeping around it, and the README's tables."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from numbarnn import bench
from numbarnn.bench import cases, measure, peers, report

TINY = {
    "train": cases.Case("train", "gru", 4, 5, 3, 8),
    "train+dX": cases.Case("train", "lstm", 4, 5, 3, 8, input_gradient=True),
    "forward": cases.Case("forward", "rnn", 4, 5, 3, 8),
    "step": cases.Case("step", "lstm", 1, 1, 1, 8),
    "fit": cases.Case("fit", "gru", 8, 6, 3, 8, n_windows=64),
}


def fake_row(case, threads, peer="torch", ratio=2.0):
    def summary(value):
        return {"median": value, "min": value * 0.9, "max": value * 1.1}

    return {
        **case._asdict(),
        "threads": threads,
        "peer": peer,
        "ours_seconds": summary(1e-3),
        "peer_seconds": summary(ratio * 1e-3),
        "ratio": summary(ratio),
        "difference": 0.0,
        "gflop": 1.0,
        "numpy_gflop_per_second": 100.0,
    }


def load_script(name):
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def twin(monkeypatch):
    """A peer that is ourselves, so that no framework is needed."""
    twin = peers.Peer("Twin", ("numpy",), cases.KINDS, cases.our_job)
    monkeypatch.setitem(peers.PEERS, "twin", twin)
    return "twin"


@pytest.mark.parametrize("case", TINY.values(), ids=TINY.keys())
def test_compare_gives_times_and_ratios(case, twin):
    row = measure.compare(case, 1, twin, measure.Local(cases.our_job), measure.Effort(rounds=2, block=0.001))
    assert row["difference"] == 0
    for name in ("ours_seconds", "peer_seconds", "ratio"):
        assert 0 < row[name]["min"] <= row[name]["median"] <= row[name]["max"]


@pytest.mark.parametrize("cell", cases.GATES)
def test_our_training_step_gives_what_peers_are_held_against(cell):
    case = cases.Case("train", cell, 2, 3, 4, 5, input_gradient=True)
    found = cases.our_job(case, 1).results()
    _, weights = cases.layer_data(case)
    assert set(found) == {"output", "dx", *weights}
    assert all(found[name].shape == weights[name].shape for name in weights)
    assert found["dx"].shape == (2, 3, 4)


def test_steps_end_where_forward_ends():
    stream = cases.Case("step", "gru", 1, 1, 1, 8)
    layer_case = stream._replace(kind="forward", steps=cases.STEPS_PER_CALL)
    x, weights = cases.layer_data(stream)
    from numbarnn import Recurrent

    layer = Recurrent("gru", 1, 8)
    layer.load_parameters(weights)
    output, _ = layer.forward(np.repeat(x, layer_case.steps, axis=1))
    np.testing.assert_allclose(cases.our_job(stream, 1).results()["output"], output[:, -1], atol=1e-6)


def test_unequal_results_are_not_timed():
    case = TINY["forward"]
    ours, theirs = {"output": np.zeros(3)}, {"output": np.full(3, 1e-3)}
    with pytest.raises(ValueError, match="results differ by 1.0e-03 in output"):
        measure.check_results(case, ours, theirs)
    with pytest.raises(ValueError, match="results differ"):
        measure.check_results(case, {"output": np.full(3, np.nan)}, theirs)
    with pytest.raises(ValueError, match="only one side has 'dx'"):
        measure.check_results(case, ours, {**ours, "dx": np.zeros(3)})
    with pytest.raises(ValueError, match="shapes of output differ"):
        measure.check_results(case, ours, {"output": np.zeros(4)})
    with pytest.raises(ValueError, match="losses after the same training differ"):
        measure.check_results(TINY["fit"], {"mse": np.array(1.0)}, {"mse": np.array(9.0)})


def test_cases_of_the_tables():
    found = cases.make_cases()
    assert len(found) == 3 * (10 + 5 + 5 + 3)
    assert {case.shape for case in found if case.kind == "train"} == set(cases.LAYER_SHAPES)
    assert len(cases.make_cases(quick=True)) < len(found)


def test_fit_data_are_windows_and_what_follows():
    X, y = cases.fit_data(TINY["fit"])
    assert X.shape == (64, 6, 3) and y.shape == (64,)
    np.testing.assert_array_equal(X[1:, -1, 0], y[:-1])


def test_command_line_writes_json_and_picture(twin, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(bench, "make_cases", lambda *_: [TINY["train"], TINY["step"]])
    monkeypatch.setattr(bench, "Effort", lambda **_: measure.Effort(1, 0.0))
    assert bench.main(["--quick", "--peers", "twin", "--threads", "1,2", "--output", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["case", "B,T,I,H", "threads"]
    assert [line.split()[0] for line in lines[1:-1]] == ["train", "step", "train"]
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["machine"]["versions"]["numba"]
    assert [row["threads"] for row in content["results"]] == [1, 1, 2]
    assert (tmp_path / "bench.png").stat().st_size > 1000


def test_command_line_without_a_peer_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "installed_peers", list)
    assert bench.main(["--output", str(tmp_path)]) == 2
    assert "nothing to compare with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--cells", "transformer"], ["--threads", "0"], ["--threads", "two"], ["--only", "nothing"]]
)
def test_command_line_names_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_seconds_are_written_with_a_fitting_unit():
    assert [report.format_seconds(s) for s in (2.0, 3e-3, 4e-6, 5e-9)] == ["2 s", "3 ms", "4 us", "5 ns"]


def test_readme_tables_are_filled_from_results():
    update = load_script("update_readme")
    rows = [fake_row(case, threads, ratio=threads * 1.5) for case in cases.make_cases() for threads in (1, 2)]
    layer_rows = [row for row in rows if row["kind"] == "train"]
    table = update.ratio_table(layer_rows, ("torch",))
    assert "| 32, 100, 1, 32 | no | PyTorch | 1.50 / 3.0 | 1.50 / 3.0 | 1.50 / 3.0 |" in table.splitlines()
    assert len(table.splitlines()) == 2 + 10
    fit = update.seconds_table([row for row in rows if row["kind"] == "fit"])
    assert "| LSTM | 32 | 2 | 1 ms | 3 ms (3.0) |" in fit.splitlines()
    text = "a <!-- table:fit -->\nold\n<!-- end:fit --> b <!-- table:train --><!-- end:train -->"
    filled = update.fill(text, {"fit": fit})
    assert "old" not in filled and fit in filled and filled.endswith("<!-- table:train --><!-- end:train -->")
    assert update.fill(filled, {"fit": fit}) == filled


def test_errors_stand_beside_the_published_ones():
    update = load_script("update_readme")
    ours = {"96": {"mse": 0.3456, "settings": {"context_length": 720}}}
    table = update.accuracy_table({"published": {"linear": {"96": 0.386}}, "summary": {"best context": ours}})
    assert table.splitlines()[2:] == ["| linear | 0.386 |", "| numbarnn, best context, 720 | 0.346 |"]


def test_readme_has_the_marks_of_every_table():
    update = load_script("update_readme")
    readme = (update.ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("machine", "fit", "train", "forward", "step", "startup", "accuracy"):
        assert readme.count(f"<!-- table:{name} -->") == readme.count(f"<!-- end:{name} -->") == 1


def test_targets_are_compared_with_rows_of_the_same_work():
    targets = load_script("targets")
    rows = [fake_row(case, threads, ratio=100.0) for case in cases.make_cases() for threads in (1, 2)]
    checks = [*targets.layer_checks(rows), *targets.fit_checks(rows)]
    assert len(checks) == 3 * (5 + 5) * 2 + 9
    assert all(reached for *_, reached in checks)
    slow = [fake_row(case, 2, ratio=0.5) for case in cases.make_cases()]
    assert not any(reached for *_, reached in [*targets.layer_checks(slow), *targets.fit_checks(slow)])
    startup = {
        "imports": {"import numbarnn": 0.5, "import sklearn.base": 0.4},
        "first_fit": {"gru": {"empty cache": 9.0, "warm": 0.4}},
    }
    assert [reached for *_, reached in targets.startup_checks(startup)] == [True, False, True]
