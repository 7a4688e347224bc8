"""Frequencies, held against pandas' own ranges of times."""

import numpy as np
import pandas as pd
import pytest

from numbarnn.forecasting.calendar import (
    FEATURES,
    calendar_ahead,
    calendar_features,
    names_for,
    with_calendar,
)
from numbarnn.forecasting.frequency import Frequency, infer
from numbarnn.forecasting.series import Columns, read
from numbarnn.zones import wall_times


def test_auto_wants_to_see_a_turn_twice():
    hours = np.datetime64("2024-01-01T00", "us") + np.arange(24 * 800) * np.timedelta64(1, "h")
    for days, expected in ((1, ()), (3, ("hour",)), (30, ("hour", "dayofweek")),
                           (800, ("hour", "dayofweek", "dayofyear"))):  # fmt: skip
        data, _ = read({"ds": hours[: 24 * days], "y": np.zeros(24 * days)})
        assert names_for("auto", data) == expected
        assert names_for(["month"], data) == ("month",)


def stamps(*texts):
    return np.array(texts, "M8[us]")


RANGES = {
    "hours": ("2024-02-28 05:00", "h", "h"),
    "quarters of an hour": ("2024-02-28 05:15", "15min", "15min"),
    "two hours": ("2024-02-28", "2h", "2h"),
    "days": ("2024-02-20", "D", "D"),
    "business days": ("2024-02-20", "B", "B"),
    "sundays": ("2023-12-20", "W-SUN", "7D"),
    "wednesdays": ("2023-12-20", "W-WED", "7D"),
    "month starts": ("2023-12-01", "MS", "MS"),
    "month ends": ("2023-12-31", "ME", "ME"),
    "quarter ends": ("2023-03-31", "QE", "3ME"),
    "quarters that end in january": ("2023-01-31", "QE-JAN", "3ME"),
    "quarter starts": ("2023-01-01", "QS", "3MS"),
    "year starts": ("2000-01-01", "YS", "12MS"),
    "year ends": ("2000-12-31", "YE", "12ME"),
    "seconds": ("2024-02-28", "10s", "10s"),
}


@pytest.mark.parametrize("start, spelled, expected", RANGES.values(), ids=RANGES)
@pytest.mark.parametrize("n", [40, 3, 2])
def test_a_range_of_pandas_is_found_and_continued(start, spelled, expected, n):
    times = pd.date_range(start, periods=n + 30, freq=spelled).to_numpy().astype("M8[us]")
    frequency = infer(times[:n], "ds")
    if not (spelled == "B" and n < 5):  # days, as long as no weekend lies between
        assert str(frequency) == expected
        np.testing.assert_array_equal(frequency.range(times[0], n + 30), times)
    frequency = Frequency.parse(spelled)
    np.testing.assert_array_equal(frequency.range(times[0], 30, n), times[n:])
    np.testing.assert_array_equal(frequency.count(times[0], times), np.arange(n + 30))
    assert Frequency.parse(str(frequency)) == frequency


@pytest.mark.parametrize(
    "spelled, same",
    [("1h", "h"), ("H", "h"), ("1d", "D"), ("1w", "W"), ("1w", "7D"), ("15m", "15min"), ("900s", "15min"),
     ("24h", "D"), ("M", "ME"), ("4QE", "YE"), ("W-MON", "W-SUN"), ("1y", "12mo"), ("1i", "1i")],
)  # fmt: skip
def test_spellings(spelled, same):
    assert Frequency.parse(spelled) == Frequency.parse(same)


@pytest.mark.parametrize("freq", ["", "x", "0D", "-1D", "1.5h", 0, -3, None, True, "DD"])
def test_what_is_no_frequency(freq):
    with pytest.raises(ValueError, match="^freq was .*; expected one like 'h'"):
        Frequency.parse(freq)


def test_months_keep_their_day():
    start = np.datetime64("2024-01-31T10:30")
    found = Frequency.parse("1mo").range(start, 4)
    expected = stamps("2024-01-31T10:30", "2024-02-29T10:30", "2024-03-31T10:30", "2024-04-30T10:30")
    np.testing.assert_array_equal(found, expected)
    day_30 = stamps("2024-01-30", "2024-02-29", "2024-03-30", "2024-04-30")
    frequency = infer(day_30, "ds")
    assert str(frequency) == "1mo@30" and Frequency.parse("1mo@30") == frequency
    np.testing.assert_array_equal(frequency.shift(day_30[1], 1), day_30[2])  # reckoned from the shortest too
    assert str(infer(stamps("2024-01-15", "2024-02-15", "2024-03-15"), "ds")) == "1mo"
    assert str(infer(stamps("2023-01-01", "2023-02-01"), "ds")) == "MS"


def test_shift_and_count_broadcast_and_go_back():
    frequency = Frequency.parse("MS")
    starts = stamps("2024-01-01", "2023-06-01")
    np.testing.assert_array_equal(frequency.shift(starts, [-1, 7]), stamps("2023-12-01", "2024-01-01"))
    np.testing.assert_array_equal(frequency.count(starts, starts[::-1]), [-1, 7])
    assert frequency.shift(starts[:, None], np.arange(3)).shape == (2, 3)
    assert Frequency.parse("B").shift(np.datetime64("2024-03-01"), 1) == np.datetime64("2024-03-04")


@pytest.mark.parametrize("freq, off", [("D", "2024-01-02T01"), ("B", "2024-01-06"), ("MS", "2024-02-02"),
                                       ("2D", "2024-01-02"), ("ME", "2024-02-29")])  # fmt: skip
def test_times_off_the_grid(freq, off):
    assert Frequency.parse(freq).count(np.datetime64("2024-01-01"), np.datetime64(off)) == -1


def test_gaps_are_allowed_where_the_rest_fits():
    times = pd.date_range("2024-01-01", periods=50, freq="h").to_numpy().astype("M8[us]")
    assert str(infer(np.delete(times, [3, 4, 20]), "ds")) == "h"
    holidays = pd.bdate_range("2024-01-01", periods=60).to_numpy().astype("M8[us]")
    assert str(infer(np.delete(holidays, [7, 8, 30]), "ds")) == "B"
    months = pd.date_range("2024-01-01", periods=12, freq="MS").to_numpy().astype("M8[us]")
    assert str(infer(np.delete(months, 5), "ds")) == "MS"


def test_uneven_times():
    times = stamps("2024-01-01T00", "2024-01-01T01", "2024-01-01T02", "2024-01-01T02:30", "2024-01-01T03:30")
    with pytest.raises(ValueError, match="ds is uneven: most steps are h, but 2024-01-01T02:30"):
        infer(times, "ds")
    with pytest.raises(ValueError, match="ds has more gaps than times"):
        infer(stamps("2024-01-01T00", "2024-01-01T01", "2024-01-09T01"), "ds")
    with pytest.raises(ValueError, match="expected freq to be given"):
        infer(times[:1], "ds")


def test_whole_numbers():
    assert infer(np.array([0, 10, 15, 20]), "ds") == Frequency(5, "i")
    assert Frequency(5, "i").range(20, 2, 1).tolist() == [25, 30]
    assert Frequency(5, "i").count(np.int64(0), np.array([0, 7, 10])).tolist() == [0, -1, 2]


def test_several_series_share_one():
    times = stamps("2024-01-01", "2024-01-02", "2020-05-05", "2020-05-07", "2020-05-08")
    first = np.array([True, False, True, False, False])
    assert str(infer(times, "ds", first)) == "D"


@pytest.mark.parametrize("freq, season", [("h", 24), ("15min", 96), ("D", 7), ("B", 5), ("W", 52), ("MS", 12),
                                          ("QE", 4), ("YS", 1), (1, 1), ("7h", 1), ("s", 60)])  # fmt: skip
def test_seasons(freq, season):
    assert Frequency.parse(freq).season_length == season


def test_calendar_features_agree_with_pandas():
    times = pd.date_range("2023-12-25 03:00", periods=400, freq="7h")
    parts = {"hour": (times.hour, 24), "dayofweek": (times.day_of_week, 7), "dayofmonth": (times.day - 1, 31),
             "dayofyear": (times.day_of_year - 1, 366), "month": (times.month - 1, 12),
             "quarter": (times.quarter - 1, 4), "week": ((times.day_of_year - 1) // 7, 53)}  # fmt: skip
    assert set(parts) == set(FEATURES)
    for name, (value, period) in parts.items():
        turn = 2 * np.pi * np.asarray(value) / period
        found = calendar_features(times.to_numpy(), name)
        np.testing.assert_allclose(found, np.stack([np.sin(turn), np.cos(turn)], axis=1), atol=1e-12)


@pytest.mark.parametrize("freq, n", [("h", 3), ("D", 3), ("B", 3), ("W", 1), ("MS", 1), ("YS", 0)])
def test_calendar_of_the_future_goes_on_with_that_of_the_past(freq, n):
    times = pd.date_range("2020-01-01", periods=60, freq=freq).to_numpy()
    whole, _ = read({"ds": times, "y": np.arange(60.0)}, options=Columns(freq=freq))
    whole = with_calendar(whole, "auto")
    early = whole.cut([50])
    ahead = calendar_ahead(early, 10, "auto")
    assert ahead.shape == (1, 10, 2 * n) and len(whole.names.future) == 2 * n
    if n:
        np.testing.assert_array_equal(ahead[0], whole.future[50:])


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("freq", ["h", "15min", "D"])
@pytest.mark.parametrize("change", ["2024-03-31", "2024-10-27"])
def test_calendar_goes_by_the_clocks_of_the_zone(library, freq, change):
    days = pd.Timedelta(days=4)
    times = pd.date_range(pd.Timestamp(change) - days, periods=9 * 96, freq=freq, tz="Europe/Berlin")
    times = times[times < pd.Timestamp(change, tz="Europe/Berlin") + days]
    frame = pd.DataFrame({"ds": times, "y": 1.0})
    names = ("hour", "dayofweek", "dayofyear")
    expected = calendar_features(times.tz_localize(None).to_numpy(), names)
    if library == "polars":
        frame = pytest.importorskip("polars").from_pandas(frame)
        assert frame.schema["ds"].time_zone == "Europe/Berlin"
    n = len(times) // 4  # the future begins before the clocks change
    early, late = frame[:n], frame[n:]
    data, form = read(early)
    np.testing.assert_allclose(with_calendar(data, names).future, expected[:n], atol=1e-12)
    ahead = calendar_ahead(data, len(times) - n, names)
    np.testing.assert_allclose(ahead[0], expected[n:], atol=1e-12)
    later, _ = read(late, form=form)
    np.testing.assert_allclose(with_calendar(later, names).future, expected[n:], atol=1e-12)
    both = with_calendar(data.append(later, "y"), names)
    np.testing.assert_allclose(both.future, expected, atol=1e-12)


@pytest.mark.parametrize(
    "zone",
    ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC+05:45", "-03:00"],
)
def test_wall_times_are_those_of_pandas(zone):
    times = pd.date_range("2019-12-31", "2021-01-02", freq="15min", tz="UTC")
    found = wall_times(times.tz_localize(None).to_numpy(), zone)
    np.testing.assert_array_equal(found, times.tz_convert(zone).tz_localize(None).to_numpy())


def test_calendar_that_cannot_be():
    with pytest.raises(ValueError, match="the data have no dates"):
        with_calendar(read(np.arange(5.0))[0], "auto")
    with pytest.raises(ValueError, match="calendar was 'moon'; expected 'auto' or names among"):
        calendar_features(stamps("2024-01-01"), ["moon"])
