"""Time zones: from times in UTC to what clocks show. Only NumPy and the standard library are used."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import numpy as np

__all__ = ["ZONE_NAME", "constant_offset", "read_zone", "wall_times"]

# what is no text of an object such as "tzlocal()"; pandas would open the file behind "dateutil/"
ZONE_NAME = re.compile(r"(?!dateutil)[\w+\-:/]+")


def read_zone(name: str) -> tzinfo:
    """Return a zone.

    Parameters
    ----------
    name : str
        As in the data base of zones, or an offset such as "+02:00", which pandas spells "UTC+02:00".

    Returns
    -------
    tzinfo

    Raises
    ------
    ValueError
        If there is no such zone.

    Examples
    --------
    >>> from numbarnn.zones import read_zone
    >>> str(read_zone("UTC+02:00")), read_zone("+02:00") == read_zone("UTC+02:00")
    ('UTC+02:00', True)
    """
    if name == "UTC":
        return UTC  # also where there is no data base of zones
    offset = name.removeprefix("UTC")
    if offset[:1] in ("+", "-"):
        return datetime.strptime(offset, "%z").tzinfo
    try:
        return ZoneInfo(name)
    except LookupError as error:
        raise ValueError(
            f"the time zone {name!r} is not known here; expected one such as Europe/Berlin "
            "(where the system has none: pip install tzdata)"
        ) from error


def constant_offset(zone: str) -> np.timedelta64 | None:
    """Return how far clocks of a zone are ahead of UTC, if they never change.

    Parameters
    ----------
    zone : str
        See `read_zone`.

    Returns
    -------
    timedelta64[us] or None

    Examples
    --------
    >>> from numbarnn.zones import constant_offset
    >>> str(constant_offset("+02:00").astype("m8[h]")), constant_offset("Europe/Berlin")
    ('2 hours', None)
    """
    offset = read_zone(zone).utcoffset(None)
    return None if offset is None else np.timedelta64(offset).astype("m8[us]")


def wall_times(times: np.ndarray, zone: str) -> np.ndarray:
    """Return what clocks of a zone show.

    Parameters
    ----------
    times : ndarray of datetime64
        In UTC.
    zone : str
        See `read_zone`.

    Returns
    -------
    ndarray of datetime64[us]

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.zones import wall_times
    >>> wall_times(np.array(["2024-03-31T00", "2024-03-31T01"], "M8[h]"), "Europe/Berlin").astype("M8[h]")
    array(['2024-03-31T01', '2024-03-31T03'], dtype='datetime64[h]')
    """
    times, there = times.astype("M8[us]"), read_zone(zone)
    # clocks change on few days: only on these are the quarters of an hour looked at
    days, which = np.unique(times.astype("M8[D]"), return_inverse=True)
    early, late = _offsets(days, there), _offsets(days + 1, there)
    offsets, changes = early[which], (early != late)[which]
    quarters, which = np.unique(times[changes].astype("M8[m]").astype(np.int64) // 15, return_inverse=True)
    offsets[changes] = _offsets((15 * quarters).astype("M8[m]"), there)[which]
    return times + offsets


def _offsets(times, zone):
    """Offset from UTC at times of any unit, timedelta64[us]."""
    found = [time.replace(tzinfo=UTC).astimezone(zone).utcoffset() for time in times.astype("M8[s]").tolist()]
    return np.array(found, "m8[us]")
