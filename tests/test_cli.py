"""The command: what it prints and writes, and that every error is one line that says what to do."""

import sys

import pytest

import numbarnn
from numbarnn import bench, demo
from numbarnn.cli import main


@pytest.fixture
def quick(monkeypatch):
    """Shorten the demo to an epoch on the smallest data set."""
    options = {"normalize": "window", "max_iter": 1, "hidden_size": 8, "n_jobs": 1}
    setting = demo.SETTINGS["weather"]._replace(context_length=365, options=options)
    monkeypatch.setitem(demo.SETTINGS, "weather", setting)
    return ["demo", "--dataset", "weather"]


def failure(capsys, arguments):
    """Run a command that fails; return the one line that it prints."""
    try:
        status = main(arguments)
    except SystemExit as leave:
        status = leave.code
    assert status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_version(capsys):
    with pytest.raises(SystemExit) as leave:
        main(["--version"])
    assert leave.value.code == 0
    assert capsys.readouterr().out == f"numbarnn {numbarnn.__version__}\n"


def test_no_command_shows_what_there_is(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "demo" in out and "bench" in out


@pytest.mark.parametrize("options", [["--help"], ["demo", "--help"]])
def test_help(capsys, options):
    with pytest.raises(SystemExit) as leave:
        main(options)
    assert leave.value.code == 0 and "usage: numbarnn" in capsys.readouterr().out


def test_datasets_on_offer_are_those_of_the_demo():
    for name in demo.SETTINGS:
        assert demo.SETTINGS[name].column in demo.LOADERS[name]().feature_names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], ["invalid choice: 'train'", "numbarnn --help"]),
        (["demo", "--dataset", "stars"], ["invalid choice: 'stars'", "electricity", "numbarnn demo --help"]),
        (["demo", "--fast"], ["--fast", "numbarnn --help"]),
        (["demo", "--output"], ["--output", "numbarnn demo --help"]),
        (["demo", "--output", "no/such/folder/x.png"], ["x.png", "folder must exist", "--output"]),
        (["demo", "--output", "demo.doc"], ["demo.doc", "must end in one of", ".png"]),
    ],
)
def test_errors(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    line = failure(capsys, arguments)
    assert line.startswith("numbarnn: error: ")
    for word in words:
        assert word in line


def test_demo_prints_a_table_and_saves_a_picture(capsys, quick, tmp_path):
    picture = tmp_path / "picture.png"
    assert main([*quick, "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    for words in ("naive (last value)", "seasonal naive", "linear", "RNNForecaster", "MAE", "RMSE", "MASE"):
        assert words in out
    assert str(picture) in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_demo_without_a_picture(capsys, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*quick, "--no-plot"]) == 0
    assert "RNNForecaster" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_demo_without_matplotlib_prints_the_table_and_how_to_get_it(capsys, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(quick) == 0
    out = capsys.readouterr().out
    assert "RNNForecaster" in out and "pip install 'numbarnn[plot]'" in out
    assert not list(tmp_path.iterdir())


def test_errors_of_the_table_are_those_of_its_definitions():
    task = demo._make_task(demo.SETTINGS["co2"], demo.LOADERS["co2"]())
    series = demo.LOADERS["co2"]().data[:, 0]
    train, h = series[:-520], 52
    naive = demo._baselines(task)["seasonal naive (last year)"]
    # the forecast made 100 weeks after the end of the training part
    origin = len(train) + 100
    assert naive[100].tolist() == series[origin - 52 : origin].tolist()
    assert task.futures[100].tolist() == series[origin : origin + h].tolist()
    assert task.contexts[100].tolist() == series[origin - 156 : origin].tolist()
    mae, rmse, mase = demo._errors(task, naive)
    assert mae < rmse and mase == pytest.approx(mae / abs(train[52:] - train[:-52]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", demo.SETTINGS)
def test_the_forecaster_beats_the_naive_forecasts(name):
    errors = demo.run(name, output=None)
    ours = errors.pop("RNNForecaster")
    for other, row in errors.items():
        if "naive" in other:
            assert ours[0] < 0.85 * row[0] and ours[1] < 0.85 * row[1]
        else:
            assert ours[0] < 1.1 * row[0]


def test_bench_hands_on_its_arguments(monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "main", lambda argv: seen.append(argv) or 0)
    assert main(["bench", "--quick", "-x", "1", "--help"]) == 0
    assert seen == [["--quick", "-x", "1", "--help"]]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ValueError("two\nlines"), 1, "numbarnn: error: two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_raised_becomes_a_line(capsys, monkeypatch, error, status, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(demo, "run", fail)
    assert main(["demo"]) == status
    assert words in capsys.readouterr().err
