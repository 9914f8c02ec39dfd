"""As many threads as cores are idle."""

import time

import psutil
import torch


class Threads:
    """Fits torch's threads to the cores that other processes leave.

    Two threads on two cores of which one is taken wait for each other at every layer: measured, a
    DCGAN's step took ten times as long as on one thread. There are never more of them than were set
    before; the last number stays, for whatever comes after a training. Another number sums in
    another order: a run is repeated bit for bit with one thread alone (OMP_NUM_THREADS=1).
    """

    fitted, most = 0, 0  # what was set last, here, and the number before the first time

    def __init__(self, watch=0.3):
        now = torch.get_num_threads()
        if now != Threads.fitted:  # by somebody else, who may have meant it
            Threads.most = now
        self.cores = psutil.cpu_count()
        self.before = self._spent()
        if self.most > 1:
            time.sleep(watch)
            self.fit()

    def fit(self) -> None:
        """By what others took since the last call, in cores."""
        now = self._spent()
        seconds, all_of_us, this = (b - a for a, b in zip(self.before, now))
        self.before = now
        idle = self.cores - (all_of_us - this) / max(seconds, 1e-3)
        if self.most > 1:
            Threads.fitted = max(1, min(self.most, round(idle)))
            torch.set_num_threads(Threads.fitted)

    def _spent(self) -> tuple[float, float, float]:
        """Seconds: of the clock, of all cores and processes, of this process."""
        machine, this = psutil.cpu_times(), psutil.Process().cpu_times()
        busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0)
        busy -= getattr(machine, "guest", 0) + getattr(machine, "guest_nice", 0)  # counted twice
        return time.monotonic(), busy, this.user + this.system
