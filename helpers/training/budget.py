"""How long a training may go on: steps, hours over all sittings, hours of this sitting."""

import time

STARTED = time.monotonic()  # this process; a notebook imports its helpers before it reads data


class Budget:
    """Counts the training time, says when to stop, and after a minute what will come of it.

    ``settings.steps`` and ``settings.hours`` (0: no such limit) end the training, the first that
    is reached; ``hours`` count over all sittings. ``settings.session_hours`` ends this sitting,
    counted from the start of the process: a machine that is taken away then has nothing left to
    lose. ``settings.useful_images`` is how many a result worth looking at takes. Both may be
    missing. ``seconds``, ``step`` and ``images`` are where the training stands already.
    """

    def __init__(self, settings, seconds=0.0, step=0, images=0, clock=time.monotonic):
        self.steps, self.hours = settings.steps, settings.hours
        self.session_hours = getattr(settings, "session_hours", 0)
        self.useful_images = getattr(settings, "useful_images", 0)
        self.clock, self.before, self.began = clock, seconds, clock()
        self.ending = 0.0  # seconds that validating and saving take, which the end needs too
        self.asked = self.pause = 0.0  # when over() was called last, and how long before that
        self.mark, self.forecast_due = None, True

    @property
    def seconds(self) -> float:
        """Of training, this sitting's and those before."""
        return self.before + self.clock() - self.began

    def over(self, step: int) -> bool:
        """Whether the training ends here, in time to validate and save within its hours."""
        now = self.seconds
        self.asked, self.pause = now, now - self.asked if self.asked else 0.0
        in_time = not self.hours or now + self.pause + self.ending < 3600 * self.hours
        return not in_time or bool(self.steps and step >= self.steps)

    def sitting_over(self) -> bool:
        """Whether this sitting ends here, in time to save."""
        end = 3600 * self.session_hours
        return bool(end) and self.clock() - STARTED + 2 * self.ending >= end

    def minutes_left(self, step: int) -> float:
        left = [3600 * self.hours - self.seconds] if self.hours else []
        if self.steps:
            left.append(self.seconds / max(step, 1) * (self.steps - step))
        return max(0.0, min(left)) / 60

    def forecast(self, step: int, images: int) -> str | None:
        """Once, after the first minute: speed, finish, and what to change if that is too late."""
        if self.mark is None:  # the first step of a sitting is slower than the others
            self.mark = (self.clock(), step, images)
            return None
        began, first, before = self.mark
        if not self.forecast_due or self.clock() - began < 60 or step < first + 3:
            return None
        self.forecast_due = False
        pace = (self.clock() - began) / (step - first)  # seconds a step
        batch = (images - before) / (step - first)
        in_hours = (3600 * self.hours - self.ending - self.seconds) / pace
        left = int(in_hours) if self.hours else self.steps - step
        if self.steps:
            left = min(left, self.steps - step)
        last, seen = step + left, images + left * batch
        lines = [
            f"{pace:.3g} s a step, {batch / pace:.3g} images/s: this training ends at step "
            f"{last:,} with {seen:,.0f} images seen, {_duration(left * pace)} from now."
        ]
        if self.steps and last < self.steps:
            hours = (self.seconds + (self.steps - step) * pace + self.ending) / 3600
            lines.append(
                f"hours={self.hours:g} do not reach steps={self.steps:,}: that takes "
                f"hours={hours:.2g}, or a smaller size or width."
            )
        if seen < self.useful_images:
            more = (self.useful_images - images) / batch
            hours = (self.seconds + more * pace + self.ending) / 3600
            lines.append(
                f"That is little: before {self.useful_images:,} images a result is seldom worth "
                f"looking at. Set hours={hours:.2g} and steps=0 or {step + more:,.0f}; or make a "
                "step cheaper: half the size, half the width, a GPU."
            )
        session = 3600 * self.session_hours - (self.clock() - STARTED) - 2 * self.ending
        if self.session_hours and session < left * pace:
            sittings = 2 + int((left * pace - session) / (3600 * self.session_hours))
            lines.append(
                f"This sitting ends before that, {_duration(session)} from now; the same command "
                f"goes on then, {sittings} sittings in all."
            )
        return "\n".join(lines)


def _duration(seconds: float) -> str:
    clock = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    if seconds < 3 * 3600:
        return f"{max(0, seconds) / 60:.0f} minutes ({clock})"
    return f"{seconds / 3600:.1f} hours ({clock})"
