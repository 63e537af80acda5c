"""The training loop: resuming changes nothing, several processes equal one, schedules are right."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stepaudio.errors import CheckpointError
from stepaudio_recipes.trainer import (
    LoopConfig,
    StepResult,
    Trainer,
    build_optimizers,
    is_finished,
    learning_rate,
    read_average,
)

CPU = torch.device("cpu")
CONFIG = LoopConfig(steps=6, peak_lr=0.1, warmup_steps=2, checkpoint_every_s=0.0)


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def batches(first):
    for step in range(first, 100):
        generator = torch.Generator().manual_seed(step)
        yield step, torch.randn(5, 4, generator=generator)


def run(module, folder, config):
    trainer = Trainer(module, config, folder, CPU)
    trainer.resume()

    def loss_fn(x):
        loss = (module(x) - x.sum(1, keepdim=True)).square().mean()
        return StepResult(loss, {}, len(x))

    return trainer.run(batches(trainer.step), loss_fn)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_continues_as_if_nothing_had_happened(tmp_path, optimizer):
    # Without decay, so that the learning rate does not depend on the length that ends a run.
    config = dataclasses.replace(CONFIG, optimizer=optimizer, hold_fraction=1.0)
    whole = run(model(), tmp_path / "whole", config)
    first = run(model(), tmp_path / "cut", dataclasses.replace(config, steps=4))
    rest = run(model(), tmp_path / "cut", config)
    assert first + rest == whole
    for name, value in read_average(tmp_path / "whole").items():
        assert torch.equal(value, read_average(tmp_path / "cut")[name])
    assert is_finished(tmp_path / "cut", 6)
    assert not is_finished(tmp_path / "cut", 7)
    assert not is_finished(tmp_path / "nothing", 1)


def test_training_learns(tmp_path):
    losses = run(model(), tmp_path, dataclasses.replace(CONFIG, steps=60))
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])


def test_another_model_is_refused(tmp_path):
    run(model(), tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match="another model"):
        run(nn.Linear(4, 1), tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match="run the stage"):
        read_average(tmp_path / "nothing")


def test_learning_rate_warms_up_holds_and_decays():
    config = LoopConfig(
        steps=100, peak_lr=1.0, warmup_steps=10, hold_fraction=0.5, final_lr_ratio=0.1
    )
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[10:50]) == {1.0}
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert learning_rate(config, 100) == pytest.approx(0.1)


def test_optimizers_hold_every_parameter_once():
    module = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)]), "head": nn.Linear(4, 2)})
    parameters = dict(module.named_parameters())
    for kind, count in (("adamw", 1), ("muon", 2)):
        optimizers = build_optimizers(parameters, LoopConfig(steps=1, optimizer=kind))
        held = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
        assert len(optimizers) == count
        assert sorted(held) == sorted(map(id, parameters.values()))


def test_a_bad_batch_does_not_poison_the_weights(tmp_path):
    module = model()
    trainer = Trainer(module, CONFIG, tmp_path, CPU)

    def loss_fn(x):
        factor = float("nan") if trainer.step == 2 else 1.0
        return StepResult(module(x).square().mean() * factor, {}, 1)

    trainer.run(batches(0), loss_fn)
    assert all(torch.isfinite(p).all() for p in module.parameters())


_TWO_WORKERS = """
import sys
from pathlib import Path
import torch
from torch import nn
from stepaudio_recipes.trainer import LoopConfig, StepResult, Trainer, Workers
workers = Workers.join()
torch.manual_seed(3)
module = nn.Linear(4, 1)
config = LoopConfig(steps=3, peak_lr=0.1, warmup_steps=1)
trainer = Trainer(module, config, Path(sys.argv[1]), torch.device("cpu"), workers)
data = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
def batches():
    for step in range(3):
        yield step, data[step].chunk(workers.count)[workers.rank]
trainer.run(batches(), lambda x: StepResult(module(x).square().mean(), {}, 1))
"""


def test_two_processes_equal_one(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(_TWO_WORKERS)
    root = Path(__file__).parents[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "recipes")]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    # What torchrun sets, without torchrun, whose rendezvous needs the name of the machine.
    for folder, count in (("one", 1), ("two", 2)):
        command = [sys.executable, str(script), str(tmp_path / folder)]
        places = [{"WORLD_SIZE": str(count), "RANK": str(rank)} for rank in range(count)]
        running = [
            subprocess.Popen(command, env=env | place, stderr=subprocess.PIPE, text=True)
            for place in places
        ]
        for process in running:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said[-3000:]
    one, two = read_average(tmp_path / "one"), read_average(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
