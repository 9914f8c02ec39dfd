"""What a training carries from step to step, and how a checkpoint puts it back."""

import copy
import io
import math
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import torch
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torchvision.utils import save_image
from tqdm.auto import tqdm

from helpers.training import checkpoint
from helpers.training.network_file import network_bytes
from helpers.training.precision import choose_precision
from helpers.training.processes import average_statistics, make_accelerator
from helpers.training.runs import Run

EXPLODED = 1e5  # no loss of a training that works comes near it
READ_EVERY = 16  # steps of a GPU from one look at the losses to the next: each look waits for it
SLOWER = 0.5  # what the learning rate is multiplied by, once, when the losses explode


@torch.no_grad()
def update_average(average, network, images_seen, batch_size, half_life, ramp) -> None:
    """Exponential moving average of weights and BatchNorm statistics, with a ramp.

    The half-life, counted in images, is ``min(half_life, ramp * images_seen)``, as in the code of
    StyleGAN2-ADA (there with a ramp of 0.05): an average that reaches back to the untrained network
    would be worse than the raw weights in a short run. ``half_life=0`` copies the raw weights,
    ``ramp=0`` means no ramp.
    """
    reach = min(half_life, ramp * images_seen) if ramp else half_life
    decay = 0.5 ** (batch_size / reach) if reach > 0 else 0.0
    means, values = (list(n.state_dict().values()) for n in (average, network))
    real = [k for k, mean in enumerate(means) if mean.is_floating_point()]
    torch._foreach_lerp_([means[k] for k in real],
                         [values[k].to(means[k].dtype) for k in real], 1 - decay)  # fmt: skip
    for mean, value in zip(means, values):
        if not mean.is_floating_point():
            mean.copy_(value)


@dataclass
class Progress:
    """Where a training stands; a checkpoint holds it beside the weights."""

    step: int = 0
    images: int = 0  # seen by all processes together
    seconds: float = 0.0  # of training, over all sittings
    judged: int = 0  # the step of the last validation
    worse: int = 0  # validations since the best one
    best: float = math.inf  # score so far
    slowed: bool = False  # the learning rate was lowered because losses exploded
    records: dict[str, list[float]] = field(default_factory=dict)  # losses not yet in the log


class Training:
    """One method on its way through one run: its state, and what is done with it."""

    def __init__(self, method, draw, run: Run, settings):
        self.method, self.draw, self.run, self.settings = method, draw, run, settings
        self.accelerator = accelerator = make_accelerator(choose_precision(settings.precision))
        self.read_every = READ_EVERY if accelerator.device.type == "cuda" else 1
        torch.backends.cudnn.benchmark = True  # of a GPU: every batch has the same size
        self.main = accelerator.is_main_process
        self.batch_size = settings.batch_size * accelerator.num_processes
        for network in method.networks.values():
            network.to(accelerator.device, memory_format=torch.channels_last)
        method.optimizers = {
            name: accelerator.prepare_optimizer(o) for name, o in method.optimizers.items()
        }
        self.average = copy.deepcopy(method.averaged).eval().requires_grad_(False)
        self.at, self.unread = Progress(), []
        self._go_on(None)

    def state(self) -> dict:
        """Everything that a checkpoint holds; every process takes part."""
        own = {"random": checkpoint.random_state(), "method": self.method.state_dict()}
        scaler = self.accelerator.scaler
        return {
            "networks": {name: n.state_dict() for name, n in self.method.networks.items()},
            "optimizers": {name: o.state_dict() for name, o in self.method.optimizers.items()},
            "average": self.average.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "progress": asdict(self.at),
            "processes": gather_object([own]),
        }

    def resume(self) -> bool:
        """Back to the newest whole checkpoint; False if there is none."""
        found = [checkpoint.load_latest(self.run.checkpoints) if self.main else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)  # of machines that share no disk, one has it
        if found[0] is None:
            return False
        state = found[0][1]
        for name, network in self.method.networks.items():
            try:
                network.load_state_dict(state["networks"][name])
            except (KeyError, RuntimeError) as error:
                why = str(error).splitlines()[-1].strip()
                raise ValueError(
                    f"{self.run.checkpoints}: the checkpoint is of another {name}, of another size "
                    f"or number of channels ({why}). Set OCT_RUN to another name, or take the "
                    "checkpoint away."
                ) from error
            checkpoint.load_optimizer(self.method.optimizers[name], state["optimizers"][name])
        self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.at = Progress(**state["progress"])
        self._go_on(state["processes"])
        return True

    def _go_on(self, processes: list[dict] | None) -> None:
        """What each process has of its own: batches, random numbers, what the method remembers."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        set_seed(self.settings.seed + rank + 1000 * self.at.step)
        if processes:
            same = len(processes) == count
            self.method.load_state_dict(processes[rank if same else 0]["method"])
            if same:
                checkpoint.load_random(processes[rank]["random"])
        self.stream = self.draw(
            start=self.at.images // self.batch_size, device=self.accelerator.device,
            rank=rank, world_size=count,
        )  # fmt: skip

    def step(self) -> None:
        """One step of the method and of the moving average; ``read`` tells its losses."""
        s, at, method = self.settings, self.at, self.method
        self.unread.append(method.step(next(self.stream), self.accelerator))
        at.step, at.images = at.step + 1, at.images + self.batch_size
        average_statistics(method.networks, self.accelerator)
        update_average(
            self.average, method.averaged, at.images, self.batch_size, s.ema_half_life, s.ema_ramp
        )

    def read(self) -> dict[str, float]:
        """The losses of the steps since the last look, to be logged; returns the worst of each."""
        names = [(name, value) for record in self.unread for name, value in record.items()]
        values = [torch.as_tensor(value, dtype=torch.float64) for _, value in names]
        device = self.accelerator.device
        found = torch.stack([value.to(device) for value in values]).tolist()  # waits once
        self.unread, worst = [], {}
        for (name, _), value in zip(names, found):
            self.at.records.setdefault(name, []).append(value)
            known = worst.get(name, 0.0)
            if not (math.isnan(known) or abs(value) <= abs(known)) or name not in worst:
                worst[name] = value  # NaN is the worst
        return worst

    def losses_finite(self, record: dict, *, weights: bool) -> bool:
        """Whether losses, and if asked all weights, are finite and within reason."""
        networks = self.method.networks.values() if weights else ()
        return all(abs(value) < EXPLODED for value in record.values()) and all(
            bool(weight.isfinite().all()) for network in networks for weight in network.parameters()
        )  # a comparison with NaN is False

    def slow_down(self, record: dict) -> None:
        """Back to the last good state with a lower learning rate; the second time, stop."""
        step, again = self.at.step, self.at.slowed
        what = f"{self.run.folder}: the losses exploded at step {step}: {record}."
        if again:
            raise FloatingPointError(
                f"{what} The learning rate had been lowered already. The last good state is in "
                "checkpoints/. Set a lower lr, a larger batch_size or precision=fp32."
            )
        if not self.resume():
            raise FloatingPointError(f"{what} There is no checkpoint to go back to.")
        for optimizer in self.method.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"], group["slowed"] = group["lr"] * SLOWER, SLOWER
        scaler = self.accelerator.scaler
        if scaler is not None:  # fp16 may have run out of range
            scaler.load_state_dict({**scaler.state_dict(), "scale": scaler.get_scale() / 16})
        self.at.slowed = True
        if self.main:
            self.run.rewind(self.at.step)
            print(f"{what} Back to step {self.at.step}, with {SLOWER:g} of the learning rate.")

    def log(self) -> None:
        """A line with the mean of every loss since the last one."""
        at = self.at
        means = {name: sum(values) / len(values) for name, values in at.records.items()}
        at.records = {}
        if self.main:
            self.run.log(at.step, images=at.images, seconds=at.seconds, **means)

    def validate_and_keep(self) -> bool:
        """Preview, validate, keep the best; whether this is it. The first process does it alone."""
        at, method, sheet = self.at, self.method, io.BytesIO()
        at.judged = at.step
        if not self.main:
            return False
        images = method.preview(self.average)
        save_image(images, sheet, "PNG", nrow=8, normalize=True, value_range=(-1, 1))
        self.run.write(self.run.previews / f"{at.step:08d}.png", sheet.getvalue())
        value = method.validate(self.average)
        if improved := value < at.best:
            at.best = value
            self.export()
        at.worse = 0 if improved else at.worse + 1
        judged = {method.score_name: value, **getattr(method, "judgement", {})}
        self.run.log(at.step, images=at.images, seconds=at.seconds, **judged)
        if "word" in judged:
            with suppress(OSError):  # where what is said goes into a file on the full disk
                tqdm.write(f"{at.images:,} images: {judged['word']}: {judged['why']}.")
        return improved

    @property
    def patience_over(self) -> bool:
        """Whether the validations since the best one are as many as settings.patience allows."""
        patience = getattr(self.settings, "patience", 0)
        return bool(patience) and self.at.worse >= patience

    def out_of_patience(self) -> bool:
        """The same, and said."""
        over = self.patience_over
        if over and self.main:
            print(
                f"{self.at.worse} validations without a better one than {self.at.best:.3g}: "
                f"it ends at step {self.at.step} and the best is kept; OCT_PATIENCE=0 goes on."
            )
        return over

    def export(self) -> None:
        """Write the moving average as it is now to the file that stands for this run."""
        about = {"class": self.settings.class_, "step": self.at.step, "seed": self.settings.seed}
        kept = getattr(self.method, "kept", {})
        content = network_bytes(
            {**self.average.state_dict(), **kept}, {**self.method.architecture, **about}
        )
        self.run.write(self.run.folder / f"{self.method.exported}.safetensors", content)

    def save(self, best=False) -> bool:
        """A checkpoint; False if the disk refused. Log and weights come first, or are lost."""
        state = self.state()
        if not self.main:
            return True
        return self.run.flush() and checkpoint.save(
            self.run.checkpoints, self.at.step, state, best=best
        )
