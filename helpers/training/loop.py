"""The one training loop: device, precision, moving average, log, previews, resume.

It never names a method. A method is a plain object with

- ``networks`` and ``optimizers``, dictionaries by name; ``averaged``, the module whose moving
  average is judged and exported; ``architecture``, what rebuilds that module; ``exported``, what
  its file is called ("generator"); ``score_name``, the name of its score ("kernel_distance");
- ``step(batch, accelerator) -> dict of numbers``, which calls backward and the optimizers
  (``processes.update``); 0-d tensors are numbers, and on a GPU better ones, since reading a float
  waits for the step to end; a method that sets learning rates itself multiplies them by
  ``group.get("slowed", 1)``;
- ``preview(module) -> images`` and ``validate(module) -> float`` (smaller is better); after it
  perhaps ``judgement``, of what the score is made: numbers by name; "word" and "why" are said;
- ``state_dict()`` / ``load_state_dict(state)`` for whatever else it remembers.
"""

import math
import sys
from contextlib import suppress
from functools import partial

from tqdm import tqdm as plain_tqdm
from tqdm.auto import tqdm

from helpers.training.budget import Budget
from helpers.training.processes import any_process, interruptible, is_first
from helpers.training.runs import Run
from helpers.training.state import Training
from helpers.training.threads import Threads


def train(method, draw, run: Run, settings) -> Run:
    """Train ``method`` on the batches that ``draw`` gives until the budget ends; returns the run.

    ``draw(start=, device=, rank=, world_size=)`` is an endless iterator of one process's batches
    from the ``start``-th on: ``functools.partial(data.batches, images, batch_size, seed=seed)``.
    The budget is ``settings.steps`` and ``settings.hours`` (``training.budget``), counted over
    resumes; ``settings.patience`` validations in a row without a better one end it before, where
    there is such a setting. A run folder with checkpoints is continued; a finished one is returned
    as it is. Writes metrics.jsonl, previews/, checkpoints/ and, at every validation that is the
    best so far, the exported network. Ctrl-C and SIGTERM save and return. A full disk does not stop
    the training, only its end.

    Raises ValueError if no budget is set, FloatingPointError if losses explode a second time,
    OSError naming the run's folder if it cannot be written at the beginning or at the end.
    """
    s = settings
    patience = getattr(s, "patience", 0)
    if s.steps < 0 or s.hours < 0 or patience < 0:
        raise ValueError(
            f"steps={s.steps}, hours={s.hours:g}, patience={patience}: a budget is not negative; "
            "0: none."
        )
    if not (s.steps or s.hours):
        raise ValueError("steps=0 and hours=0: give a training budget with one of them.")
    if run.finished(s.steps, s.hours, patience):
        if is_first():
            print(
                f"{run.folder.name} is finished; showing it. Other settings or OCT_RUN train anew."
            )
        return run

    t = Training(method, draw, run, settings)
    resumed = t.resume()
    at, main = t.at, t.main
    threads = Threads() if t.accelerator.num_processes == 1 else None
    if main:
        run.rewind(at.step)  # a killed run repeats what it logged after its last checkpoint
    saved = resumed or t.save()  # from now on there is a good state to go back to
    budget = Budget(s, at.seconds, at.step, at.images)
    log_every = max(1, s.log_every // t.batch_size)  # settings count images, so that they mean
    judge_every = max(1, s.validate_every // t.batch_size)  # the same at every batch size

    bar = progress(t.accelerator.num_processes)(
        total=s.steps or None, disable=not main, unit="step", smoothing=0.05
    )
    with interruptible() as asked:
        over, interrupted, late = any_process(
            [budget.over(at.step) or t.out_of_patience(), False, False], t.accelerator
        )
        while not (over or interrupted or late):
            t.step()
            judging, logging = at.step % judge_every == 0, at.step % log_every == 0
            last = at.step == s.steps
            if at.step % t.read_every and not (judging or logging or last):
                continue
            record = t.read()
            at.seconds = budget.seconds
            exploded, over, interrupted, late = any_process(
                [not t.losses_finite(record, weights=judging), budget.over(at.step), bool(asked),
                 budget.sitting_over()], t.accelerator,
            )  # fmt: skip
            if exploded:
                t.slow_down(record)
                at, over = t.at, False
                continue
            if logging or over:
                t.log()
            if logging and threads:
                threads.fit()
            if judging and not over:
                saved = t.save(best=t.validate_and_keep())
                (over,) = any_process([t.out_of_patience()], t.accelerator)
                budget.ending = max(budget.ending, budget.seconds - at.seconds)
            words = budget.forecast(at.step, at.images)
            with suppress(OSError):  # where what is said goes into a file on the full disk
                bar.set_postfix_str(_status(record, at.best, budget.minutes_left(at.step)), False)
                bar.update(at.step - bar.n)
                if main and words:
                    bar.write(words)
        with suppress(OSError):
            bar.close()
        if not over:
            if main and at.best == math.inf:
                t.export()  # something to look at; the first validation replaces it
            saved = t.save()
        elif at.judged != at.step:
            saved = t.save(best=t.validate_and_keep())
    if main and over and saved:
        early = (s.steps and at.step >= s.steps) or t.patience_over
        run.finish(at.step, at.seconds, at.best, 0 if early else s.hours, at.worse)
    elif main:
        why = "Interrupted" if interrupted else "This sitting is over"
        print(f"{why} at step {at.step}. {run.folder.name} is usable; the same command continues "
              "it.")  # fmt: skip
    if main and not (saved and run.flush()):
        raise OSError(
            f"{run.folder}: no room to save the end of this training. Free some space or point "
            "OCT_RUNS at another folder; the same command continues from the last checkpoint."
        )
    t.accelerator.wait_for_everyone()
    return run


def progress(processes: int):
    """The bar to make. A widget does not reach the page from a process that was forked off the
    notebook's kernel, which would warn of each attempt: there it is a line, twice a minute."""
    if processes > 1 and "ipykernel" in sys.modules:
        return partial(plain_tqdm, mininterval=30)
    return tqdm


def _status(record: dict, best: float, minutes: float) -> str:
    losses = " ".join(f"{n.removeprefix('loss_')[:5]} {v:.2f}" for n, v in record.items()
                      if n.startswith("loss_"))  # fmt: skip
    judged = f" best {best:.3g}" if math.isfinite(best) else ""
    return f"{losses}{judged}, {minutes:.1f} min left"
