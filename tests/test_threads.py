"""Threads of a training beside other work: two that share a core wait for each other."""

from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest
import torch

from helpers.training import threads

Times = namedtuple("Times", "user idle guest")


@pytest.fixture
def machine(monkeypatch):
    """Four cores and a clock of their own: what all processes and this one spent so far."""
    state = SimpleNamespace(clock=0.0, all_of_us=0.0, this=0.0)

    def cpu_times():
        idle = 4 * state.clock - state.all_of_us
        return Times(state.all_of_us + 5, idle, 5)  # as Linux counts: guests are in user too

    class Process:
        def cpu_times(self):
            return SimpleNamespace(user=state.this, system=0.0)

    def work(seconds, this=0.0, others=0.0):
        """``seconds`` pass in which this process and others keep so many cores busy."""
        state.clock += seconds
        state.this += seconds * this
        state.all_of_us += seconds * (this + others)

    state.work = work
    monkeypatch.setattr(threads.Threads, "fitted", 0)
    monkeypatch.setattr(threads.Threads, "most", 0)
    monkeypatch.setattr(psutil, "cpu_times", cpu_times)
    monkeypatch.setattr(psutil, "Process", Process)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads.time, "monotonic", lambda: state.clock)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield state
    torch.set_num_threads(before)


def watched(machine, monkeypatch, **busy):
    monkeypatch.setattr(threads.time, "sleep", lambda seconds: machine.work(seconds, **busy))
    return threads.Threads()


def test_a_quiet_machine_is_used_whole(machine, monkeypatch):
    watched(machine, monkeypatch, others=0.3)
    assert torch.get_num_threads() == 4


def test_cores_that_others_keep_busy_are_left_to_them(machine, monkeypatch):
    watched(machine, monkeypatch, others=1.0)
    assert torch.get_num_threads() == 3


def test_a_training_keeps_one_thread_on_a_full_machine(machine, monkeypatch):
    watched(machine, monkeypatch, others=4.0)
    assert torch.get_num_threads() == 1


def test_its_own_work_is_not_taken_for_others(machine, monkeypatch):
    fitted = watched(machine, monkeypatch)
    machine.work(60, this=3.9)
    fitted.fit()
    assert torch.get_num_threads() == 4


def test_it_follows_what_others_do_while_it_trains(machine, monkeypatch):
    fitted = watched(machine, monkeypatch)
    counts = []
    for others in (2.0, 0.0):
        machine.work(60, this=1.0, others=others)
        fitted.fit()
        counts.append(torch.get_num_threads())
    assert counts == [2, 4]


def test_there_are_never_more_than_were_set_before(machine, monkeypatch):
    torch.set_num_threads(2)
    watched(machine, monkeypatch)
    assert torch.get_num_threads() == 2


def test_one_thread_by_order_is_not_waited_for(machine, monkeypatch):
    torch.set_num_threads(1)
    watched(machine, monkeypatch)
    assert torch.get_num_threads() == 1 and machine.clock == 0


def test_the_next_training_may_have_back_what_the_last_one_left_to_others(machine, monkeypatch):
    watched(machine, monkeypatch, others=4.0)
    assert torch.get_num_threads() == 1
    watched(machine, monkeypatch)
    assert torch.get_num_threads() == 4
