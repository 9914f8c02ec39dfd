"""When a training ends, and what it says after a minute; with a clock of its own."""

from support.clock import Clock

from helpers import config
from helpers.training import budget
from helpers.training.budget import Budget


def budget_for(clock, monkeypatch, *, seconds=0.0, step=0, images=0, **limits):
    monkeypatch.setattr(budget, "STARTED", clock.now)
    settings = config.TrainGan(**limits)
    return Budget(settings, seconds, step, images, clock)


def run_for(budget, clock, seconds, pace, batch):
    """Steps for so many seconds; what was foretold, and the last step."""
    step, said = 0, []
    while clock.now < 1000 + seconds:
        clock.now += pace
        step += 1
        if words := budget.forecast(step, step * batch):
            said.append((clock.now - 1000, words))
    return said, step


def test_hours_count_over_resumes_and_leave_time_to_save(monkeypatch):
    clock = Clock()
    hours = budget_for(clock, monkeypatch, hours=1.0, seconds=1800.0)
    clock.now += 1700
    assert not hours.over(10) and hours.seconds == 3500
    clock.now += 40
    assert not hours.over(11)
    clock.now += 40  # another step as long as this one would come too late
    assert hours.over(12)
    clock = Clock()
    hours = budget_for(clock, monkeypatch, hours=1.0)
    hours.ending = 30.0  # a validation and a save take half a minute
    clock.now += 3565
    assert not hours.over(1)
    clock.now += 6
    assert hours.over(2)


def test_steps_end_it_too(monkeypatch):
    steps = budget_for(Clock(), monkeypatch, steps=10, hours=1.0)
    assert not steps.over(9) and steps.over(10)


def test_the_finish_is_foretold_after_a_minute_once(monkeypatch):
    clock = Clock()
    said, _ = run_for(budget_for(clock, monkeypatch, hours=2.0), clock, 300, pace=0.5, batch=16)
    ((when, words),) = said
    assert 60 <= when < 62
    assert "0.5 s a step, 32 images/s" in words
    assert "at step 14,400 with 230,4" in words and "2 hours" not in words.split("now")[1]


def test_a_budget_that_will_not_reach_says_what_to_change(monkeypatch):
    clock = Clock()
    few = budget_for(clock, monkeypatch, hours=1.0, steps=100_000, useful_images=25_000)
    ((_, words),) = run_for(few, clock, 120, pace=2.0, batch=8)[0]  # 14,400 images in the hour
    assert "hours=1 do not reach steps=100,000: that takes hours=56" in words
    assert "before 25,000 images" in words and "Set hours=1.7" in words and "half the size" in words
    clock = Clock()
    enough = budget_for(clock, monkeypatch, hours=2.0, useful_images=25_000)
    ((_, words),) = run_for(enough, clock, 120, pace=2.0, batch=8)[0]
    assert "\n" not in words


def test_a_sitting_ends_before_its_limit_and_says_how_many_it_takes(monkeypatch):
    clock = Clock()
    long = budget_for(clock, monkeypatch, hours=30.0, session_hours=11.5)
    ((_, words),) = run_for(long, clock, 120, pace=2.0, batch=32)[0]
    assert "3 sittings in all" in words
    long.ending = 60.0
    clock.now = 1000 + 11.5 * 3600 - 100
    assert long.sitting_over() and not long.over(5)
