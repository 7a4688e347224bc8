"""Schedules: the rate of each epoch, and parameters that make no sense."""

import math
import pickle

import pytest
from sklearn.base import clone

from numbarnn.schedules import SCHEDULES, AdaptiveSchedule, CosineSchedule, ExponentialSchedule, StepSchedule


def rates(schedule, n, losses=()):
    return [schedule(0.1, epoch, n, losses[:epoch]) for epoch in range(n)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_at_the_initial_rate_and_never_rises(name):
    found = rates(SCHEDULES[name](), 60, [1.0] * 60)
    assert found[0] == 0.1
    assert all(later <= earlier for earlier, later in zip(found, found[1:], strict=False))
    assert (found[-1] < found[0]) == (name != "constant")


def test_values():
    assert rates(StepSchedule(every=3, decay=0.1), 7)[2:4] == [0.1, pytest.approx(0.01)]
    assert rates(ExponentialSchedule(decay=0.5), 3) == [0.1, 0.05, 0.025]
    assert rates(ExponentialSchedule(decay=0.5, after=1), 4) == [0.1, 0.1, 0.05, 0.025]
    cosine = CosineSchedule(final=0.1)
    assert cosine(1.0, 25, 100, []) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert cosine(1.0, 100, 100, []) == cosine(1.0, 1000, 100, []) == pytest.approx(0.1)


def test_adaptive_waits_for_a_plateau_and_again_after_each_step():
    schedule = AdaptiveSchedule(patience=2, decay=0.5, tol=0.1)
    losses = [4.0, 3.0, 2.95, 2.94, 2.93, 2.92, 1.0, 0.5]
    assert [schedule(1.0, epoch, 99, losses[:epoch]) for epoch in range(9)] == [
        1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]  # fmt: skip


def test_schedules_are_values():
    schedule = StepSchedule(every=7)
    assert pickle.loads(pickle.dumps(schedule)) == clone(schedule, safe=False) == StepSchedule(every=7)
    assert repr(schedule) == "StepSchedule(every=7, decay=0.5)"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: StepSchedule(every=0), "every"),
        (lambda: StepSchedule(every="a"), "every was 'a'; expected a whole number"),
        (lambda: StepSchedule(every=2.5), "every was 2.5; expected a whole number"),
        (lambda: StepSchedule(decay=0), "decay"),
        (lambda: StepSchedule(decay=math.nan), "decay"),
        (lambda: ExponentialSchedule(decay="a"), "decay was 'a'"),
        (lambda: ExponentialSchedule(after=-1), "after was -1; expected a whole number of epochs from 0"),
        (lambda: CosineSchedule(final="a"), "final was 'a'"),
        (lambda: AdaptiveSchedule(patience=1.5), "patience was 1.5; expected a whole number"),
        (lambda: AdaptiveSchedule(tol=math.nan), "tol"),
        (lambda: ExponentialSchedule(decay=1.1), "decay"),
        (lambda: CosineSchedule(final=-1), "final"),
        (lambda: AdaptiveSchedule(patience=0), "patience"),
        (lambda: AdaptiveSchedule(decay=-1), "decay"),
    ],
)
def test_bad_parameters_are_refused_by_name(make, name):
    with pytest.raises(ValueError, match=name):
        make()
