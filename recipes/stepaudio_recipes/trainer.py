"""The training loop that recipes share: schedule, averaging, progress, checkpoints, resuming."""

from __future__ import annotations

import atexit
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from stepaudio.errors import CheckpointError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

BatchT = TypeVar("BatchT")

_LAST = "last.pt"
_LOG = "log.jsonl"
_METRIC_SMOOTHING = 0.98
LOG_EVERY = 20  # steps


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length, optimiser and bookkeeping of one training stage.

    Attributes:
        steps: optimiser updates.
        optimizer: "muon" orthogonalises the updates of the matrices inside the layers (Jordan et
            al. 2024), which needs fewer updates; embeddings, heads, convolutions and vectors
            take AdamW in either case.
        peak_lr: learning rate behind the warm-up.
        final_lr_ratio: learning rate at the end, relative to the peak.
        warmup_steps: linear warm-up.
        hold_fraction: share of the run at the peak before the cosine decay starts.
        weight_decay: on matrices only.
        betas: AdamW betas.
        grad_clip: largest gradient norm.
        ema_decay: decay of the averaged weights that are evaluated and kept; 0: none.
        checkpoint_every_s: seconds between checkpoints.
        evaluate_every: steps between evaluations; 0: only at the end.
    """

    steps: int
    optimizer: Literal["adamw", "muon"] = "adamw"
    peak_lr: float = 1e-3
    final_lr_ratio: float = 0.02
    warmup_steps: int = 200
    hold_fraction: float = 0.4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    checkpoint_every_s: float = 120.0
    evaluate_every: int = 0


@dataclass(frozen=True)
class StepResult:
    """What a recipe's loss function returns for one batch.

    Attributes:
        loss: scalar to minimise.
        metrics: numbers to log.
        tokens: tokens that the step processed (audio and text), for the throughput shown.
    """

    loss: Tensor
    metrics: Mapping[str, float]
    tokens: int


def learning_rate(config: LoopConfig, step: int) -> float:
    """Warm-up, hold, then cosine decay to `final_lr_ratio`."""
    if step < config.warmup_steps:
        return config.peak_lr * (step + 1) / config.warmup_steps
    decay_from = max(config.warmup_steps, int(config.steps * config.hold_fraction))
    if step < decay_from:
        return config.peak_lr
    progress = (step - decay_from) / max(config.steps - decay_from, 1)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return config.peak_lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


def build_optimizers(
    parameters: Mapping[str, nn.Parameter], config: LoopConfig
) -> list[torch.optim.Optimizer]:
    """Optimisers that together hold every parameter once."""
    muon = {}
    if config.optimizer == "muon":
        muon = {n: p for n, p in parameters.items() if p.dim() == 2 and _is_inside_a_layer(n)}
    others = [p for n, p in parameters.items() if n not in muon]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.peak_lr, betas=config.betas, fused=True)
    ]
    if muon:
        optimizers.append(
            torch.optim.Muon(
                list(muon.values()),
                lr=config.peak_lr,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",  # so that both share one learning rate
            )
        )
    return optimizers


def _is_inside_a_layer(name: str) -> bool:
    return ".blocks." in f".{name}" or ".layers." in f".{name}"


def is_finished(folder: Path, steps: int) -> bool:
    """Whether a stage's checkpoint has come to its last step."""
    path = folder / _LAST
    if not path.exists():
        return False
    return bool(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"] >= steps)


def read_average(folder: Path) -> dict[str, Tensor]:
    """Averaged weights of a stage's checkpoint by parameter name.

    Raises:
        CheckpointError: the stage has no checkpoint.
    """
    path = folder / _LAST
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; run the stage {folder.name!r} first")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return dict(state["average"] or state["parameters"])


@dataclass(frozen=True)
class Workers:
    """Processes that train one model together, each on its own batches.

    Attributes:
        rank: index of this process.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Workers:
        """Join the processes that torchrun has started; alone without it."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            # A process that leaves without a word is an error to those that still wait for it.
            atexit.register(dist.destroy_process_group)
        return cls(dist.get_rank(), count)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        offset = 0
        for tensor in tensors:
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()

    def wait(self) -> None:
        """Let every process come to this point."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def half_precision(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """Compute in bfloat16 where PyTorch thinks it safe.

    On a CPU attention is then taken apart: PyTorch's own kernel is slow in backward for the short
    sequences that recipes have.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=enabled))
        if enabled and device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


class Trainer(Generic[BatchT]):
    """Runs one stage of a recipe; everything that must survive a kill is in its folder.

    Args:
        module: holds every parameter to train (those with ``requires_grad``).
        config: loop settings.
        folder: checkpoints and logs; a run resumes from what is here.
        device: where the module is.
        workers: processes that share the work; they must start with equal weights.
    """

    def __init__(
        self,
        module: nn.Module,
        config: LoopConfig,
        folder: Path,
        device: torch.device,
        workers: Workers = Workers(),
    ) -> None:
        self.module, self.config, self.folder, self.device = module, config, folder, device
        self.workers = workers
        self.step = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.parameters = dict(named)
        self.optimizers = build_optimizers(self.parameters, config)
        self.average = {n: p.detach().clone() for n, p in named} if config.ema_decay else {}

    # ---- checkpoints -----------------------------------------------------------------------

    def save(self) -> None:
        """Write the resumable state; the previous one is replaced only when this is complete."""
        if not self.workers.is_main:
            return
        temporary = self.folder / (_LAST + ".partial")
        torch.save(
            {
                "step": self.step,
                "seconds": self.seconds,
                "config": dataclasses.asdict(self.config),
                "parameters": {n: p.detach() for n, p in self.parameters.items()},
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
            temporary,
        )
        os.replace(temporary, self.folder / _LAST)

    def resume(self) -> bool:
        """Continue from the folder's checkpoint, if there is one.

        Raises:
            CheckpointError: the checkpoint belongs to another model.
        """
        path = self.folder / _LAST
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if {n: p.shape for n, p in state["parameters"].items()} != {
            n: p.shape for n, p in self.parameters.items()
        }:
            raise CheckpointError(
                f"{path}: written by another model or stage; choose another output_dir"
            )
        with torch.no_grad():
            for name, value in state["parameters"].items():
                self.parameters[name].copy_(value)
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    # ---- the loop --------------------------------------------------------------------------

    def run(
        self,
        batches: Iterator[tuple[int, BatchT]],
        loss_fn: Callable[[BatchT], StepResult],
        evaluate: Callable[[], Mapping[str, float]] | None = None,
    ) -> list[float]:
        """Train up to ``config.steps`` and return the losses of the steps run here.

        Args:
            batches: (step, batch) pairs of this process from the current step on.
            loss_fn: forward pass.
            evaluate: called with the averaged weights in place.
        """
        losses: list[float] = []
        smooth: dict[str, float] = {}
        writer = self._writer()
        saved_at = time.monotonic()
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=self.folder.name,
            smoothing=0.02,
            mininterval=1.0,
            dynamic_ncols=True,
            disable=not self.workers.is_main,
        )
        self.module.train()
        while self.step < self.config.steps:
            started = time.monotonic()
            step, batch = next(batches)
            assert step == self.step, "the data is out of step with the optimiser"
            result = loss_fn(batch)
            self._update(result.loss)
            elapsed = time.monotonic() - started
            self.seconds += elapsed
            losses.append(float(result.loss.detach()))
            speed = self.workers.count * result.tokens / elapsed
            shown = {"loss": losses[-1], **result.metrics, "tokens/s": speed}
            for name, value in shown.items():
                if math.isfinite(value):
                    old = smooth.get(name, value)
                    smooth[name] = _METRIC_SMOOTHING * old + (1 - _METRIC_SMOOTHING) * value
            bar.set_postfix({n: f"{v:.3g}" for n, v in smooth.items()}, refresh=False)
            bar.update()
            if self.step % LOG_EVERY == 0:
                self._log(writer, smooth)
            last = self.step == self.config.steps
            due = self.config.evaluate_every and self.step % self.config.evaluate_every == 0
            if evaluate is not None and (last or due) and self.workers.is_main:
                self._log(writer, self.evaluated(evaluate))
            if last or time.monotonic() - saved_at > self.config.checkpoint_every_s:
                self.save()
                saved_at = time.monotonic()
        bar.close()
        if writer is not None:
            writer.close()
        self.workers.wait()
        return losses

    def _update(self, loss: Tensor) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.config, self.step)
        loss.backward()
        self.workers.average([p.grad for p in self.parameters.values() if p.grad is not None])
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.grad_clip)
        if torch.isfinite(norm):  # one bad batch must not poison the run
            for optimizer in self.optimizers:
                optimizer.step()
        for parameter in self.parameters.values():
            parameter.grad = None
        self.step += 1
        if self.average:
            # A short memory at first, or the average would hold on to the random start.
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(self.average.values()), list(self.parameters.values()), 1 - decay
                )

    def evaluated(self, evaluate: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Run `evaluate` with the averaged weights, then put the trained ones back."""
        trained = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.load_average()
        self.module.eval()
        with torch.no_grad():
            metrics = evaluate()
            for name, value in trained.items():
                self.parameters[name].copy_(value)
        self.module.train()
        return metrics

    def load_average(self) -> None:
        """Put the averaged weights into the module."""
        with torch.no_grad():
            for name, value in self.average.items():
                self.parameters[name].copy_(value)

    def _writer(self) -> SummaryWriter | None:
        if not self.workers.is_main:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "tensorboard"))

    def _log(self, writer: SummaryWriter | None, metrics: Mapping[str, float]) -> None:
        if writer is None:
            return
        lr = learning_rate(self.config, self.step)
        row = {"step": self.step, "seconds": round(self.seconds, 1), "lr": lr, **metrics}
        with (self.folder / _LOG).open("a") as log:
            log.write(json.dumps(row) + "\n")
        for name, value in metrics.items():
            writer.add_scalar(name, value, self.step)
