"""The command: what it prints and writes, and that every error is one line that says what to do."""

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import numbarnn
from numbarnn import bench, demo, forecasting, forecasting_cli, tables, zones
from numbarnn.cli import main
from numbarnn.training import Trainer

# pipes with names, links and rights
posix = pytest.mark.skipif(os.name != "posix", reason="files here are others")


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


@pytest.mark.parametrize("options", [["--help"], ["demo", "--help"], ["forecast", "--help"]])
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
        (["demo", "--fast"], ["--fast", "numbarnn demo --help"]),
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


class Naive(numbarnn.RNNForecaster):
    """In place of the forecaster: the last value, with what it was given kept for the test to see."""

    def __init__(self, horizon, **parameters):
        super().__init__(horizon, **parameters)
        self.parameters = {"horizon": horizon, **parameters}
        Naive.last = self

    def fit(self, y):
        self.y = y
        return self

    def predict(self, *, X, level):
        self.X = X
        h, time, id_col = (self.parameters.get(name) for name in ("horizon", "time_col", "id_col"))
        rows = np.flatnonzero(self.y[id_col][1:] != self.y[id_col][:-1]) if id_col else np.array([], int)
        rows = np.append(rows, len(self.y[time]) - 1)  # the last one of each series
        ahead = np.arange(1, h + 1) * (self.y[time][1] - self.y[time][0])
        table = {id_col: np.repeat(self.y[id_col][rows], h)} if id_col else {}
        table[time] = (self.y[time][rows][:, None] + ahead).ravel()
        table["RNNForecaster"] = np.repeat(self.y[self.parameters["target_col"]][rows], h).astype(float)
        for each in level or []:
            table[f"RNNForecaster-lo-{each:g}"] = table["RNNForecaster"] - each
            table[f"RNNForecaster-hi-{each:g}"] = table["RNNForecaster"] + each
        return table

    def backtest(self, y, **options):
        self.y, self.options = y, options
        return {"step": np.array(["1", "2", "all"]), "mae": np.array([0.5, 0.7, 0.6])}


@pytest.fixture
def naive(monkeypatch):
    monkeypatch.setattr(forecasting, "RNNForecaster", Naive)
    return Naive


@pytest.fixture
def sales(tmp_path):
    """Two shops, 30 days each; one value is missing, and a promotion is known in advance."""
    path = tmp_path / "sales of shops.csv"
    lines = [
        f"{shop},2024-01-{day:02},{'' if day == 3 else day + 0.5},{day % 7 == 0:d}"
        for shop in ("a", "\u00e9")
        for day in range(1, 31)
    ]
    path.write_text("\n".join(["unique_id,ds,y,promo", *lines]), encoding="utf-8-sig")
    return path


def test_forecast_writes_a_table_and_a_picture(naive, sales, tmp_path, capsys):
    out, picture = tmp_path / "out.csv", tmp_path / "out.png"
    arguments = ["forecast", str(sales), "--horizon", "2", "--level", "80", "50.5", "--hidden", "8"]
    assert main([*arguments, "--jobs", "1", "--calendar", "--out", str(out), "--plot", str(picture)]) == 0
    assert out.read_text(encoding="utf-8").splitlines() == [
        "unique_id,ds,RNNForecaster,RNNForecaster-lo-80,RNNForecaster-hi-80,"
        "RNNForecaster-lo-50.5,RNNForecaster-hi-50.5",
        "a,2024-01-31,30.5,-49.5,110.5,-20,81",
        "a,2024-02-01,30.5,-49.5,110.5,-20,81",
        "\u00e9,2024-01-31,30.5,-49.5,110.5,-20,81",
        "\u00e9,2024-02-01,30.5,-49.5,110.5,-20,81",
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    given = naive.last.parameters
    assert given["hidden_size"] == 8 and given["n_jobs"] == 1 and given["calendar"] == "auto"
    assert "max_iter" not in given and "promo" not in naive.last.y
    assert np.isnan(naive.last.y["y"]).sum() == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "out.csv" in captured.err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_device_is_handed_on(naive, sales, device):
    assert main(["forecast", str(sales), "--horizon", "1", "--quiet", "--device", device]) == 0
    assert naive.last.parameters["device"] == device


def test_forecast_prints_the_table_alone(naive, sales, capsys):
    assert main(["forecast", str(sales), "--horizon", "1", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["a,2024-01-31,30.5", "\u00e9,2024-01-31,30.5"]
    assert naive.last.parameters["verbose"] == 0


def test_future_covariates_come_from_another_file(naive, sales, tmp_path, capsys):
    future = tmp_path / "future.csv"
    future.write_text("unique_id,ds,promo\na,2024-01-31,1\n\u00e9,2024-01-31,0\n", encoding="utf-8")
    arguments = ["forecast", str(sales), "--horizon", "1", "--future-covariates", "promo"]
    assert main([*arguments, "--future", str(future), "--quiet"]) == 0
    assert naive.last.X["promo"].tolist() == [1, 0] and naive.last.y["promo"].sum() == 8
    capsys.readouterr()
    assert "--future FILE" in failure(capsys, arguments)
    future.write_text("unique_id,ds\na,2024-01-31\n")
    assert "no column 'promo'; it has unique_id, ds" in failure(capsys, [*arguments, "--future", str(future)])


def test_one_series_whose_columns_can_only_mean_one_thing(naive, tmp_path, capsys):
    path = tmp_path / "load.csv"
    path.write_text("date;load\n2024-01-01 00:00;1\n2024-01-01 00:30;2\n")
    assert main(["forecast", str(path), "--horizon", "2", "--quiet", "--plot", str(tmp_path / "p.svg")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == ["date,RNNForecaster", "2024-01-01 01:00:00,2", "2024-01-01 01:30:00,2"]


@pytest.mark.parametrize("option", [[], ["--id", "shop"]])
def test_ids_of_a_csv_file_come_out_as_they_went_in(naive, tmp_path, capsys, option):
    path = tmp_path / "a.csv"
    ids = ["1e3", "1000", "007", "2024-01", "1180591620717411303424", "12"]
    lines = [f"{each},2024-01-{day:02},{day},0" for each in ids for day in (1, 2)]
    path.write_text("\n".join([f"{'shop' if option else 'unique_id'},ds,y,promo", *lines]))
    future = tmp_path / "future.csv"
    future.write_text("\n".join(["unique_id,shop,ds,promo", *(f"{i},{i},2024-01-03,1" for i in ids)]))
    arguments = ["forecast", str(path), "--horizon", "1", "--quiet", "--future-covariates", "promo"]
    assert main([*arguments, "--future", str(future), *option]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]] == ids
    assert naive.last.X[option[1] if option else "unique_id"].tolist() == ids


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_parquet(naive, sales, tmp_path, monkeypatch, library):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    pytest.importorskip(library)
    monkeypatch.setattr(tables, "find_spec", lambda name: name in ("narwhals", library))
    source, out = tmp_path / "sales.parquet", tmp_path / "out.parquet"
    days = np.tile(np.arange("2024-01-01", "2024-01-31", dtype="M8[D]"), 2)
    table = pyarrow.table(
        {
            "unique_id": ["a"] * 30 + ["\u00e9"] * 30,
            "ds": days,
            "y": [None if day == 2 else day + 0.5 for day in range(30)] * 2,
            "promo": pyarrow.array([1] * 60, pyarrow.decimal128(3, 1)),
        }
    )
    pyarrow.parquet.write_table(table, source)
    arguments = ["forecast", str(source), "--horizon", "1", "--past-covariates", "promo", "--quiet"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert naive.last.y["ds"].dtype == "M8[us]" and (naive.last.y["ds"] == days).all()
    assert np.isnan(naive.last.y["y"]).sum() == 2 and naive.last.y["promo"].sum() == 60
    written = pyarrow.parquet.read_table(out).to_pydict()
    assert written["unique_id"] == ["a", "\u00e9"] and written["RNNForecaster"] == [29.5, 29.5]
    assert [str(time) for time in written["ds"]] == ["2024-01-31 00:00:00"] * 2


def test_texts_of_parquet_are_read_as_those_of_csv(naive, tmp_path, capsys):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    columns = {"unique_id": ["007"] * 2, "ds": ["2024-01-01 00:00+01:00", "2024-01-02 00:00+01:00"]}
    parquet.write_table(pyarrow.table(columns | {"y": ["1.5", None]}), path)
    table = tables.read_table(path, times=["ds"], texts=["unique_id"], numbers=["y"])
    assert table["y"].tolist()[0] == 1.5 and np.isnan(table["y"][1]) and table.zones == {"ds": "+01:00"}
    assert table["unique_id"].tolist() == ["007"] * 2 and str(table["ds"][0]) == "2023-12-31T23:00:00.000000"
    parquet.write_table(pyarrow.table(columns | {"y": ["1.5", "one"]}), path)
    line = failure(capsys, ["forecast", str(path), "--horizon", "1"])
    assert "a.parquet, row 2: the column 'y' holds 'one'; expected numbers" in line


def test_a_frequency_finer_than_the_times_is_warned_of(tmp_path, capsys):
    path = tmp_path / "a.csv"
    days = np.arange("2024-01-01", "2024-02-10", dtype="M8[D]")
    path.write_text("\n".join(["ds,y", *(f"{day},{k}" for k, day in enumerate(days))]))
    short = ["--horizon", "2", "--hidden", "4", "--epochs", "1", "--jobs", "1", "--quiet"]
    assert main(["forecast", str(path), *short, "--freq", "h"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert f"'ds' of {path} has times at multiples of 24 steps of the frequency h alone" in line
    assert line.endswith("expected --freq to be 24h")
    assert "more gaps than times" in failure(capsys, ["forecast", str(path), *short, "--freq", "min"])


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_parquet_of_pandas_and_with_a_zone(tmp_path, monkeypatch, library):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pytest.importorskip(library)
    monkeypatch.setattr(tables, "find_spec", lambda name: name in ("narwhals", library))
    times = pandas.date_range("2024-01-01", periods=2, freq="h", tz="Europe/Berlin", name="time")
    pandas.DataFrame({"y": [1, 2]}, index=times).to_parquet(tmp_path / "a.parquet")
    found = tables.read_table(tmp_path / "a.parquet")
    assert found["y"].tolist() == [1, 2]
    assert found["time"].tolist() == np.array(["2023-12-31T23", "2024-01-01T00"], "M8[us]").tolist()
    assert found.zones == {"time": "Europe/Berlin"}


def write_times(path, times, *names):
    lines = [f"{time}{f',{i}' * len(names)}" for i, time in enumerate(times)]
    path.write_text("\n".join([",".join(["ds", *names]), *lines]))


def test_one_offset_is_kept(naive, tmp_path, capsys):
    path = tmp_path / "a.csv"
    write_times(path, [f"2024-07-{day:02} 00:00:00+02:00" for day in (1, 2, 3)], "y", "promo")
    future = tmp_path / "future.csv"
    write_times(future, ["2024-07-03T22:00Z"], "promo")
    arguments = ["forecast", str(path), "--target", "y", "--horizon", "1", "--quiet"]
    arguments += ["--future-covariates", "promo", "--future", str(future)]
    assert main([*arguments, "--plot", str(tmp_path / "a.svg")]) == 0
    assert capsys.readouterr().out.splitlines() == ["ds,RNNForecaster", "2024-07-04 00:00:00+02:00,2"]
    # the calendar sees what clocks show
    assert naive.last.y["ds"].astype(str).tolist() == [f"2024-07-0{day}T00:00:00.000000" for day in (1, 2, 3)]
    assert naive.last.X["ds"].astype(str).tolist() == ["2024-07-04T00:00:00.000000"]
    write_times(future, ["2024-07-04"], "promo")
    line = failure(capsys, arguments)
    assert "future.csv has no zone; expected a zone or an offset from UTC, as in" in line
    line = failure(capsys, [*arguments, "--timezone", "Mars"])
    assert "'Mars' is no time zone such as Europe/Berlin" in line


def test_a_zone_that_is_not_known():
    with pytest.raises(ValueError, match="time zone 'Mars/Base' is not known here"):
        zones.constant_offset("Mars/Base")
    assert zones.constant_offset("UTC") == np.timedelta64(0)


def test_timezone_needs_times_that_have_one(naive, sales, capsys):
    line = failure(capsys, ["forecast", str(sales), "--horizon", "1", "--timezone", "Europe/Berlin"])
    assert "has no zone and no offset from UTC" in line and "leave --timezone out" in line


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_local_days_across_summer_time(tmp_path, capsys, monkeypatch, library):
    pytest.importorskip("narwhals")
    pytest.importorskip(library)
    path = tmp_path / "a.csv"
    days = [f"2024-{month:02}-{day:02}" for month, n in ((2, 29), (3, 31)) for day in range(1, n + 1)]
    write_times(path, [f"{day} 00:00:00+01:00" for day in days] + ["2024-04-01 00:00:00+02:00"], "y")
    short = ["--horizon", "2", "--hidden", "4", "--epochs", "1", "--jobs", "1", "--quiet", "--calendar"]
    arguments = [str(path), *short]
    line = failure(capsys, ["forecast", *arguments])
    assert "several offsets from UTC; name the zone, as in --timezone Europe/Berlin" in line
    arguments += ["--timezone", "Europe/Berlin"]
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    line = failure(capsys, ["forecast", *arguments])
    assert "the time zone Europe/Berlin needs pandas (or polars) and narwhals: pip install" in line
    monkeypatch.setattr(tables, "find_spec", lambda name: name in ("narwhals", library))
    assert main(["forecast", *arguments, "--plot", str(tmp_path / "a.svg")]) == 0
    times = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert times == ["ds", "2024-04-02 00:00:00+02:00", "2024-04-03 00:00:00+02:00"]
    assert main(["backtest", *arguments, "--windows", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "+02:00", "+05:30", "UTC"])
def test_parquet_keeps_the_zone(tmp_path, monkeypatch, library, zone):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("pandas")
    pytest.importorskip(library)
    if (library, zone) == ("polars", "+05:30"):
        pytest.skip("polars cannot read such a file")
    monkeypatch.setattr(tables, "find_spec", lambda name: name in ("narwhals", library, "pandas"))
    days = [f"2024-03-{day:02}" for day in range(1, 32)] + ["2024-04-01", "2024-04-02"]
    local = pyarrow.array(np.array(days, "M8[us]"))
    times = pyarrow.compute.assume_timezone(local, zone)
    source, out = tmp_path / "a.parquet", tmp_path / "out.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"ds": times, "y": np.arange(len(days))}), source)
    short = ["--horizon", "1", "--hidden", "4", "--epochs", "1", "--jobs", "1", "--quiet"]
    assert main(["forecast", str(source), *short, "--out", str(out)]) == 0
    written = pyarrow.parquet.read_table(out)["ds"]
    expected = pyarrow.compute.assume_timezone(pyarrow.array(np.array(["2024-04-03"], "M8[us]")), zone)
    assert [time.timestamp() for time in written.to_pylist()] == [expected.to_pylist()[0].timestamp()]
    assert written.type.tz == zone or (library == "polars" and zone[0] == "+")


def test_parquet_that_cannot_be_read(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    arguments = ["forecast", str(path), "--horizon", "1"]
    assert "No such file" in failure(capsys, arguments) and not path.exists()
    path.write_text("no parquet")
    assert "a.parquet is no Parquet file that" in failure(capsys, arguments)


@pytest.mark.parametrize("there", [(), ("pandas", "narwhals"), ("pyarrow",)])
def test_parquet_without_a_library_for_it(sales, tmp_path, capsys, monkeypatch, there):
    monkeypatch.setattr(tables, "find_spec", lambda name: name in there)
    expected = "Parquet needs pyarrow (or polars) and narwhals: pip install 'numbarnn[dataframe]'"
    arguments = ["forecast", str(sales), "--horizon", "1", "--out", str(tmp_path / "out.parquet")]
    assert failure(capsys, arguments) == f"numbarnn: error: {expected}"
    assert expected in failure(capsys, ["forecast", "sales.parquet", "--horizon", "1"])


@pytest.mark.parametrize("spelling", [["--level", "80", "50"], ["--level", "80", "--level", "50"]])
def test_many_series_and_letters_that_no_font_has(naive, tmp_path, capsys, spelling):
    ids = ["\u6771\u4eac", *"abcdefg"]
    path, picture = tmp_path / "a.csv", tmp_path / "a.png"
    path.write_text("\n".join(["unique_id,ds,y", *(f"{i},{t},{t}" for i in ids for t in range(30))]), "utf-8")
    arguments = ["forecast", str(path), "--horizon", "2", "--quiet", "--plot", str(picture), *spelling]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert [f"-lo-{level}" in captured.out.splitlines()[0] for level in (80, 50)] == [True, True]
    assert captured.err.splitlines() == [
        "numbarnn: warning: --plot shows the first 6 of 8 series",
        "numbarnn: warning: --plot: the font of pictures lacks letters of names, and shows boxes for them",
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


@posix
def test_an_older_answer_stays_until_the_new_one_is_whole(naive, sales, tmp_path, capsys, monkeypatch):
    older, link = tmp_path / "older.csv", tmp_path / "link.csv"
    older.write_text("older")
    older.chmod(0o640)
    link.symlink_to(older)
    arguments = ["forecast", str(sales), "--horizon", "1", "--quiet", "--out", str(link)]

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "_write_rows", fail)
        line = failure(capsys, arguments)
        assert line == f"numbarnn: error: cannot write {link}: No space left on device"
        assert "cannot write the standard output: No space left" in failure(capsys, arguments[:-2])
    assert older.read_text() == "older"
    assert main(arguments) == 0
    assert older.read_text().startswith("unique_id,ds") and link.is_symlink()
    assert older.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "older.csv", sales.name]
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != link)  # root may write everything
    assert f"cannot write {link}: it is read-only; choose another --out" in failure(capsys, arguments)


@posix
def test_what_is_no_plain_file_is_written_as_it_stands(naive, sales, tmp_path):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    read = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main(["forecast", str(sales), "--horizon", "1", "--quiet", "--out", str(pipe)]) == 0
    assert os.read(read, 9) == b"unique_id" and pipe.is_fifo()
    os.close(read)
    assert main(["forecast", str(sales), "--horizon", "1", "--quiet", "--out", os.devnull]) == 0


def test_the_standard_output_is_utf8_whatever_the_locale_says(naive, sales, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["forecast", str(sales), "--horizon", "1", "--quiet"]) == 0
    assert raw.getvalue().decode().splitlines()[-1] == "\u00e9,2024-01-31,30.5"


def test_calendar_needs_dates(tmp_path, capsys):
    write_times(tmp_path / "a.csv", range(30), "y")
    line = failure(capsys, ["forecast", str(tmp_path / "a.csv"), "--horizon", "1", "--calendar"])
    assert "--calendar needs dates, and --time ds of" in line


def test_ctrl_c_at_the_start_is_one_line(capsys, monkeypatch):
    """Where NumPy is imported; the module of the command itself imports next to nothing."""
    monkeypatch.setattr(forecasting_cli, "add_commands", lambda commands: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "numbarnn: interrupted\n"
    code = "import sys, numbarnn.cli; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_backtest(naive, sales, tmp_path, capsys):
    picture = tmp_path / "errors.png"
    arguments = ["backtest", str(sales), "--horizon", "2", "--windows", "3", "--step", "1", "--refit"]
    assert main([*arguments, "--plot", str(picture), "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines() == ["step,mae", "1,0.5", "2,0.7", "all,0.6"]
    assert naive.last.options == {"n_windows": 3, "step_size": 1, "refit": True, "level": None}
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--horizon", "numbarnn forecast --help"]),
        (["--horizon", "0"], ["'0' is no whole number from 1"]),
        (["--horizon", "2", "--level", "120"], ["'120' is no level in percent, from 1 up to"]),
        (["--horizon", "2", "--level", "0.8"], ["'0.8' is no level in percent"]),
        (["--horizon", "2", "--level", "80", "a.csv"], ["'a.csv' is no level", "put FILE before the opt"]),
        (["--horizon", "2", "--seed", "-1"], ["--seed: '-1' is no whole number from 0 to 4294967295"]),
        (["--horizon", "2", "--jobs", "0"], ["--jobs: '0' is no whole number from 1"]),
        (["--horizon", "2", "--covariates", "a"], ["unknown argument '--covariates'", "forecast --help"]),
        (["--horizon", "2", "--out", "."], ["cannot write .: it is a folder; choose another --out"]),
        (["--horizon", "2", "--target", "x"], ["no column 'x'; it has unique_id, ds, y, promo"]),
        (
            ["--horizon", "2", "--target", "unique_id"],
            ["line 2: the column 'unique_id' holds 'a'; expected numbers"],
        ),
        (["--horizon", "2", "--time", "unique_id"], ["column 'unique_id'", "expected times such as"]),
        (["--horizon", "2", "--out", "no/folder/x.csv"], ["x.csv", "folder must exist", "--out"]),
        (["--horizon", "2", "--out", "x.xls"], ["--out must end in .csv or .parquet"]),
        (["--horizon", "2", "--plot", "x.doc"], ["--plot must end in one of", ".png"]),
        (["--horizon", "2", "--future", "a.csv"], ["--future a.csv was given, but no --future-covariates"]),
        (["--horizon", "2", "--future-covariates", "promo", "--future", "none.csv"], ["none.csv"]),
        (["--horizon", "2", "--future-covariates", "promo"], ["promo must be known for the 2 steps to come"]),
        (["--horizon", "2", "--future-covariates", "nope"], ["has no column 'nope'; it has unique_id, "]),
    ],
)
def test_errors_of_forecast(naive, sales, capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    line = failure(capsys, ["forecast", sales.name, *arguments])
    assert line.startswith("numbarnn: error: ") and all(word in line for word in words), line


@posix
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "sales of shops.csv"], "shops.csv: it is the file of FILE too; choose another --out"),
        (["--out", "link.csv"], "link.csv: it is the file of FILE too"),
        (["--out", "hard.csv"], "hard.csv: it is the file of FILE too"),
        (["--out", "./next.csv", "--future", "next.csv"], "it is the file of --future too"),
        (["--plot", "sales of shops.csv"], "it is the file of FILE too; choose another --plot"),
        (["--out", "new.csv", "--plot", "../{}/new.csv"], "it is the file of --out too"),
    ],
)
def test_no_file_that_is_read_is_written(sales, capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    before = sales.read_bytes()
    (tmp_path / "link.csv").symlink_to(sales)
    (tmp_path / "hard.csv").hardlink_to(sales)
    (tmp_path / "next.csv").write_text("unique_id,ds,promo\n")
    arguments = [each.format(tmp_path.name) for each in arguments]
    assert words in failure(capsys, ["forecast", sales.name, "--horizon", "2", *arguments])
    assert sales.read_bytes() == before


@pytest.fixture
def small(sales):
    """Options that train a real forecaster in no time."""
    return [str(sales), "--horizon", "2", "--hidden", "4", "--epochs", "2", "--jobs", "1"]


def test_progress_and_warnings_do_not_mix_with_the_table(small, capsys):
    assert main(["forecast", *small]) == 0
    captured = capsys.readouterr()
    assert [line.split(",")[0] for line in captured.out.splitlines()] == ["unique_id", *"aa\u00e9\u00e9"]
    assert captured.err.splitlines()[-1].startswith("RNNForecaster: epoch 2/2, loss")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            ["a,2024-01-31,1"],
            "lacks 3 of 4 rows of known-future covariates, the first unique_id='a', ds=2024-02",
        ),
        (
            ["a,2024-01-31,1"],
            "one row for each of the 2 steps after the end of every series, with a number in",
        ),
        (["a,2024-01-31,1"] * 2, "has unique_id='a', ds=2024-01-31 twice"),
        (
            ["a,2024-01-31,", "a,2024-02-01,", "\u00e9,2024-01-31,1", "\u00e9,2024-02-01,1"],
            "was NaN in 2 of 4 rows, the first unique_id='a', ds=2024-01-31; expected a number for each of",
        ),
    ],
)
def test_errors_of_the_future_name_the_file_before_any_training(small, tmp_path, capsys, rows, words):
    future = tmp_path / "next.csv"
    future.write_text("\n".join(["unique_id,ds,promo", *rows]), encoding="utf-8")
    # a training would show its progress, a line before that of the error
    line = failure(capsys, ["forecast", *small, "--future-covariates", "promo", "--future", str(future)])
    assert words in line and f"--future {future} " in line and "make_future" not in line


def test_errors_of_the_forecaster_name_options(small, capsys, monkeypatch):
    line = failure(capsys, ["forecast", *small, "--hidden", str(10**10)])
    assert "error: --hidden, --context and --horizon ask for 600000000" in line
    with monkeypatch.context() as patched:
        patched.setattr("numbarnn.RNNForecaster.fit", Mock(side_effect=MemoryError("Unable to allocate")))
        line = failure(capsys, ["forecast", *small])
    assert "Unable to allocate" in line and "expected a lower --hidden, --context or --horizon" in line
    assert "error: --freq was 'moon'; expected one" in failure(capsys, ["forecast", *small, "--freq", "moon"])
    line = failure(capsys, ["backtest", *small, "--windows", "40"])
    assert f"error: {small[0]} has 30 time steps; expected at least" in line and "--windows=40" in line


@pytest.mark.parametrize(
    ("n_rows", "options", "words"),
    [
        (30, ["--horizon", "20", "--level", "80"], "needs at least 41 time steps of a series for --hor"),
        (30, ["--horizon", "2", "--level", "80", "99"], "--level 99 needs 199 errors of forecasts of the l"),
        (9, ["--horizon", "2", "--level", "50"], "has values for 0; expected a lower --level, a"),
    ],
)
def test_a_level_too_many_is_found_before_any_training(tmp_path, capsys, monkeypatch, n_rows, options, words):
    """The last rows have no value."""
    monkeypatch.setattr(Trainer, "fit", None)
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["ds,y", *(f"{i},{i % 5 if i < n_rows else ''}" for i in range(30))]))
    assert words in failure(capsys, ["forecast", str(path), *options])
    if "20" not in options:
        assert "--level" in failure(capsys, ["backtest", str(path), *options, "--windows", "2"])


def press_ctrl_c_in_fit(monkeypatch, number):
    """Press it in the training of this number, from 0."""
    fit, fits = Trainer.fit, []

    def press(self, *arguments):
        fits.append(self)
        if len(fits) == number + 1:
            self.callbacks = [lambda info: signal.raise_signal(signal.SIGINT)]
        return fit(self, *arguments)

    monkeypatch.setattr(Trainer, "fit", press)
    # the background jobs of a shell ignore it, and Python then sets no handler
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("command", ["forecast", "backtest"])
def test_ctrl_c_is_one_line(small, capsys, monkeypatch, command):
    press_ctrl_c_in_fit(monkeypatch, 0)
    assert main([command, *small, "--quiet"]) == 130
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "numbarnn: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_backtest_loses_no_window(small, capsys, monkeypatch):
    arguments = ["backtest", *small, "--quiet", "--refit", "--windows"]
    press_ctrl_c_in_fit(monkeypatch, 2)
    assert main([*arguments, "3"]) == 130
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 4
    assert captured.err == "numbarnn: warning: interrupted: the last 1 of 3 windows are left out\n"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("times", "option", "expected"),
    [
        (range(20240101, 20240132), [], ["2024-02-01", "2024-02-02"]),
        ([*range(202301, 202313), *range(202401, 202413)], [], ["2025-01-01", "2025-02-01"]),
        (range(20240101, 20240132), ["--freq", "1"], ["20240132", "20240133"]),
        (range(20240101, 20240133), [], ["20240133", "20240134"]),
        (range(300), ["--freq", "1"], ["300", "301"]),
    ],
)
def test_whole_numbers_that_are_dates_are_read_as_dates(tmp_path, capsys, times, option, expected, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        write_times(path, times, "y")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"ds": list(times), "y": range(len(times))}), path)
    short = ["--horizon", "2", "--hidden", "4", "--epochs", "1", "--jobs", "1", "--quiet"]
    assert main(["forecast", str(path), *short, *option]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]] == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no lines; expected a header"),
        ("ds,y\n", "has only one line; expected a header"),
        ("ds,y\n\n2024-01-01,1\n2024-01-02\n", "a.csv, line 4 has 1 cell; expected 2"),
        ("ds,ds\n2024-01-01,1\n", "two columns of the same name"),
        ("ds,y\n31.01.2024,1\n", "a.csv, line 2: the column 'ds' holds '31.01.2024'; expected times such as"),
        ("ds,y\n2024-01-01,1\n,2\n", "a.csv, line 3: the column 'ds' is empty; expected a time in each row"),
        ("ds\n2024-01-01\n", "a.csv has one column, ds; expected two at least: times and numbers"),
        ("ds,y,unique_id\n2024-01-01,1,a\n2024-01-02,2, \n", "--id unique_id of {} has no value in 1 of 2 "),
        ("a,b\n1,2\n", "there is no column of times; name it with --time: a, b"),
        (
            "ds,a,b\n2024-01-01,1,2\n",
            "there are 2 columns of numbers to forecast; name one with --target: a, b",
        ),
        ("when,a\n2024-01-01,x\n", "there is no column of numbers to forecast; name it with --target: a"),
        (
            "ds,y\n2024-01-01,20.0\n\n2024-01-02,-\n2024-01-03,one\n",
            "a.csv, line 5: the column 'y' holds 'one'; expected numbers (an empty cell where it is missing)",
        ),
        (
            'ds,y\n2024-01-01,"20,0"\n',
            "holds '20,0'; expected numbers (an empty cell where it is missing, a dec",
        ),
        (
            "ds\ty\n2024-01-01\t1,234\n",
            "holds '1,234'; expected numbers (an empty cell where it is missing, no",
        ),
        ("ds;y\n2024-01-01;1,5\n2024-01-01;1.234,5\n", "line 3: the column 'y' holds '1.234,5'; expected"),
        ("ds,y\n2024-01-01,1\n\n2024-01-02,-inf\n", "a.csv, line 4: the column 'y' holds '-inf'; expected"),
        ("2024-01-01,1\n2024-01-02,2\n", "a.csv has no header: its first line holds '2024-01-01'; add"),
        ("a;5,5;1\nb;2;3\n", "a.csv has no header: its first line holds '1'; add one"),
        ("ds,y\n2024-01-01 12:00 AM,1\n", "line 2: the column 'ds' holds '2024-01-01 12:00 AM'; exp"),
        ("ds,y\n2024-01-01T00:00 UTC,1\n", "line 2: the column 'ds' holds '2024-01-01T00:00 UTC'; e"),
        (
            "ds,shop,y\n2024-01-01,a,1\n2024-01-02,a,1\n2024-01-01,b,2\n",
            "2024-01-01 comes after 2024-01-02; if the file holds several series, name their column with "
            "--id (columns of texts: shop), otherwise sort its rows by ds",
        ),
        ("ds,y\n5,1\n5,2\n", "5 comes after 5; if the file holds several series, name their column with"),
        ("ds,y\n2024-01-01T00:00Z,1\n2024-01-01,2\n", "line 3: the column 'ds' begins with an offset from"),
    ],
)
def test_errors_of_tables(tmp_path, capsys, text, words):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert words.format(path) in failure(capsys, ["forecast", str(path), "--horizon", "1"])


@posix
@pytest.mark.parametrize("file", ["-", "/dev/stdin", "/dev/fd/{}"])
def test_a_table_from_a_pipe(sales, file):
    """By its name, or as the shell gives one for <(...)."""
    read, write = os.pipe()
    with open(write, "wb") as pipe:
        pipe.write(sales.read_bytes())
    command = [sys.executable, "-m", "numbarnn", "forecast", file.format(read), "--horizon", "2", "--quiet"]
    options = {"stdin": read, "pass_fds": [read], "capture_output": True, "text": True}
    found = subprocess.run([*command, "--target", "none"], **options)
    os.close(read)
    name = "/dev/stdin" if file == "-" else file.format(read)
    assert found.stderr == f"numbarnn: error: {name} has no column 'none'; it has unique_id, ds, y, promo\n"


def test_a_pipe_that_is_closed(sales):
    """As by head, which has read enough."""
    command = [sys.executable, "-m", "numbarnn", "forecast", str(sales), "--horizon", "2", "--quiet"]
    command += ["--epochs", "1", "--hidden", "4", "--jobs", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


def test_a_file_that_is_no_text(tmp_path, capsys):
    path = tmp_path / "a.csv"
    assert "a.csv" in failure(capsys, ["forecast", str(path), "--horizon", "1"])
    path.write_bytes(b"\xff\xfe\x00" * 9)
    assert "is no CSV file in UTF-8" in failure(capsys, ["forecast", str(path), "--horizon", "1"])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-2"], np.array([1, -2])),
        (["007", "1"], np.array([7.0, 1.0])),
        (["1", "NA"], np.array([1.0, np.nan])),
        (["1", "N/A", "-", "null", "nan", ""], np.array([1.0] + 5 * [np.nan])),
        (["", ""], np.array([np.nan, np.nan])),
        (["a", ""], np.array(["a", ""])),
        (["2024-01-31 18:00", "2024-02-01T00:00"], np.array(["2024-01-31T18", "2024-02-01"], "M8[us]")),
        (["2024-01-13T12-05", "2024-01-14T12+05"], np.array(["2024-01-13T17", "2024-01-14T07"], "M8[us]")),
        (["2024-01-31T18:00+01:00"], np.array(["2024-01-31T17"], "M8[us]")),
        (["2024-xyz"], np.array(["2024-xyz"])),
    ],
)
def test_a_column_has_one_type(tmp_path, cells, expected):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["a,b", *(f"{cell},1" for cell in cells)]))
    column = tables.read_table(path)["a"]
    assert column.dtype == expected.dtype
    np.testing.assert_array_equal(column, expected)


@pytest.mark.parametrize(
    ("separator", "cells", "expected"),
    [
        (";", ["20,0", "1,234", "-0,5", "", "7"], [20.0, 1.234, -0.5, np.nan, 7.0]),
        ("\t", ["20,0", "1,234"], [20.0, 1.234]),
        ("\t", ["20.5", "1"], [20.5, 1.0]),
        ("|", ["20,0", "1,234"], [20.0, 1.234]),
        ("|", ["1,234", "5,678"], ["1,234", "5,678"]),
        ("\t", ["1,234", "5,678"], ["1,234", "5,678"]),
        (";", ["1,5", "1.5"], ["1,5", "1.5"]),
    ],
)
def test_semicolons_tabs_and_decimal_commas(tmp_path, separator, cells, expected):
    path = tmp_path / "a.csv"
    path.write_text("\n".join([f"a{separator}b", *(f"{cell}{separator}1" for cell in cells)]))
    table = tables.read_table(path)
    np.testing.assert_array_equal(table["a"], expected)
    assert table["b"].tolist() == [1] * len(cells)
