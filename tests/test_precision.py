"""fp16 as on a T4, as far as a CPU can show it: autocast, gradient scaler, double backward.

The CPU's own fp16 kernels stand in for CUDA's, and the scaler, autocast and optimizer wrapper are
those that accelerate uses there. That CUDA's kernels behave alike is not tested here.
"""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from support.methods import METHODS, REPRESENTATIVES

from helpers.training import checkpoint
from helpers.training.state import Training

each_method = pytest.mark.parametrize("method", REPRESENTATIVES)


class Half:
    """An accelerator with fp16 on the CPU, which accelerate itself leaves to GPUs."""

    num_processes = 1

    def __init__(self, scale=2.0**16):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def autocast(self):
        return torch.autocast("cpu", torch.float16)

    def backward(self, loss):
        self.scaler.scale(loss).backward()


def one_step(name, folder, half: Half | None):
    """A step from the same batch and the same random numbers; the method and its record."""
    AcceleratorState._reset_state()
    accelerator = Accelerator()
    method, draw, _, _ = METHODS[name](folder, steps=1)
    if half:
        method.optimizers = {
            n: AcceleratedOptimizer(o, scaler=half.scaler) for n, o in method.optimizers.items()
        }
    torch.manual_seed(0)
    record = method.step(next(draw(start=0, rank=0, world_size=1)), half or accelerator)
    record = {key: float(value) for key, value in record.items()}
    return method, record


def gradient(network):
    return torch.cat([p.grad.flatten() for p in network.parameters()]).double()


@pytest.mark.slow
@each_method
def test_gradients_in_fp16_are_those_of_fp32(tmp_path, method):
    half = Half(scale=2.0**10)
    single, record = one_step(method, tmp_path / "single", None)
    halved, half_record = one_step(method, tmp_path / "half", half)
    for name, value in record.items():
        # of eight logits near zero, one may change its sign
        least = 0.25 if name == "sign_real" else 0.02
        near = 0.05 if "aligned" in method else 0.02  # the RPE's row is read by a steep softmax
        assert half_record[name] == pytest.approx(value, rel=near, abs=least), name
    if "aligned" in method:
        assert record["penalty"] > 0  # the second derivatives were there
    for name, network in single.networks.items():
        one, other = gradient(network), gradient(halved.networks[name])
        assert other.isfinite().all()
        assert torch.cosine_similarity(one, other, dim=0) > 0.98
        near = 0.1 if "aligned" in method else 0.05  # a scale of 2^10 left on would be far off
        assert other.norm() / one.norm() == pytest.approx(1, rel=near)


@pytest.mark.slow
@each_method
def test_a_gradient_beyond_fp16_skips_the_step_and_lowers_the_scale(tmp_path, method):
    half = Half(scale=2.0**100)
    trained, record = one_step(method, tmp_path, half)
    untrained = METHODS[method](tmp_path / "untrained", steps=1)[0]
    for name, network in trained.networks.items():
        for one, other in zip(network.parameters(), untrained.networks[name].parameters()):
            assert torch.equal(one, other)
    assert half.scaler.get_scale() < 2.0**100
    assert all(value == value for value in record.values())  # the losses themselves are numbers


def test_a_checkpoint_holds_the_scaler_and_an_explosion_lowers_it(tmp_path):
    training = Training(*METHODS["gan best"](tmp_path, steps=4))
    training.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    training.run.rewind(0)
    assert training.save()
    saved = copy.deepcopy(checkpoint.load_latest(training.run.checkpoints)[1]["scaler"])
    assert saved["scale"] == 4096.0
    training.accelerator.scaler.load_state_dict({**saved, "scale": 1.0})
    assert training.resume() and training.accelerator.scaler.get_scale() == 4096.0
    training.slow_down({"loss_generator": float("nan")})
    assert training.accelerator.scaler.get_scale() == 256.0
