"""What reliability costs: throughput of a whole training against that of the bare loop.

    python benchmarks/bench_reliability.py [--epochs 6] [--pairs 8]

Bare: the loop alone, over the same batches, made by one thread: no run directory, checkpoints, event log,
progress, signals or watchdog, no care for memory. Whole: `train` as it is used, in a locked run, mirrored to
TensorBoard and to W&B offline. Both in turn, each in a fresh process, and the order changes from pair to pair;
the models must come out byte-identical, else the two would not have done the same work.

Prints a line per pair, and appends one JSON line to benchmarks/results/reliability.jsonl: median and range over
the pairs of whole / bare, by the clock and by the processor time of the training process, which hardly depends on
what else the machine does. (Counting instructions under valgrind would not: torch takes hours there.)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from bench_training import noise_task
from hark.learning.batching import Batch, Batches
from hark.learning.dataset import Task
from hark.learning.devices import Machine
from hark.learning.trainee import Trainee
from hark.learning.training import (
    Lesson,
    TrainingConfig,
    cross_entropy,
    learning_rate,
    make_optimizer,
    normalize,
    set_pace,
    train,
)
from hark.learning.validation import validate
from hark.network.crnn import BASE, Trace
from hark.network.spotter import Spotter, SpotterConfig
from hark.record.environment import environment
from hark.record.mirror import mirrors
from hark.record.runs import Run
from hark.storage.model_files import to_bytes

RESULTS = Path(__file__).parent / "results" / "reliability.jsonl"
TRACKERS = ("tensorboard", "wandb")
GOAL = 0.98
EPOCHS_PER_VALIDATION = 5  # as in a training of the default length

Objective = Callable[[Trace, Batch], Tensor]


@dataclass
class Clock:
    """An objective that notes when it is first asked, by the clock and by this process's processor time."""

    first: tuple[float, float] = field(default=(0.0, 0.0))

    def __call__(self, trace: Trace, batch: Batch) -> Tensor:
        """The cross-entropy."""
        if self.first == (0.0, 0.0):
            self.first = now()
        return cross_entropy(trace, batch)

    def since_first(self) -> dict[str, float]:
        """Seconds since then."""
        return dict(
            zip(("loop_s", "loop_cpu_s"), (b - a for a, b in zip(self.first, now(), strict=True)), strict=True)
        )


def now() -> tuple[float, float]:
    """Seconds by the clock and on the processors, all threads of this process together."""
    return time.monotonic(), time.process_time()


def bare(model: Spotter, task: Task, config: TrainingConfig) -> dict[str, Any]:
    """The loop alone."""
    clock = Clock()
    fabric = Fabric(accelerator="cpu", devices=1, precision=config.precision)
    normalize(model, task.training, seed=config.seed)
    trainee = Trainee(model, make_optimizer(model, config), averaging=config.averaging)
    lesson = fabric.setup_module(Lesson(trainee.model, clock))
    optimizer = fabric.setup_optimizers(trainee.optimizer)
    data = Batches(task, config.variation, model.config.features, config.batch_size, config.seed)
    total = config.epochs * data.per_epoch
    with ThreadPoolExecutor(1) as maker:
        following = maker.submit(data.make, 0)
        for step in range(total):
            batch = following.result()
            following = maker.submit(data.make, min(step + 1, total - 1))
            set_pace(optimizer, learning_rate(config, step, total), config.seed, step)
            lesson.train()
            loss = lesson(batch)
            optimizer.zero_grad()
            fabric.backward(loss)
            fabric.clip_gradients(lesson, optimizer, max_norm=config.clip_norm)
            optimizer.step()
            trainee.advance()
            loss.item()
            if trainee.step % max(1, total // config.validations) == 0 or trainee.step == total:
                validate(trainee.average, task.validation)
    return clock.since_first() | result(trainee.average)


def whole(model: Spotter, task: Task, config: TrainingConfig) -> dict[str, Any]:
    """`train`, in a run, with everything."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder), "bench", about={"kind": "train"})
        with run.at_work():
            began = time.monotonic()
            with mirrors(run, TRACKERS):
                start_s = time.monotonic() - began
                trained = train(model, task, config, run=run, objective=clock, machine=Machine(device="cpu"))
                figures = clock.since_first()
                ended = time.monotonic()
            end_s = time.monotonic() - ended
        with suppress(ChildProcessError):  # the trackers' processes, which may need longer
            while True:
                os.wait()
        trackers = resource.getrusage(resource.RUSAGE_CHILDREN)
        kinds = [event["kind"] for event in run.events()]
        told = [event["message"] for event in run.events() if "tracker" in event]
    costs = {"start_s": start_s, "end_s": end_s, "trackers_cpu_s": trackers.ru_utime + trackers.ru_stime}
    saves = {"saves": kinds.count("saved"), "events": len(kinds), "told_of_trackers": told}
    return figures | costs | saves | result(trained)


def result(model: Spotter) -> dict[str, Any]:
    """What must be the same on both sides."""
    return {"sha256": hashlib.sha256(to_bytes(model.cpu().eval())).hexdigest()}


def measure(side: str, epochs: int) -> dict[str, Any]:
    """One side in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--epochs", str(epochs)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def one_side(side: str, epochs: int) -> dict[str, Any]:
    """One side in this process, one thread computing and the other core making the batches."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TrainingConfig(epochs=epochs, validations=max(1, epochs // EPOCHS_PER_VALIDATION))
    model, task = Spotter(SpotterConfig(keyword="word", network=BASE)), noise_task()
    return {"bare": bare, "whole": whole}[side](model, task, config)


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def main() -> None:
    """Measure pairs; or one side, for the process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--side", choices=["bare", "whole"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(one_side(options.side, options.epochs)))
        return
    pairs = []
    print(f"{'pair':>4}{'bare s':>9}{'whole s':>9}{'throughput':>12}{'processor':>11}{'start s':>9}{'end s':>7}")
    for number in range(options.pairs):
        order = ("bare", "whole") if number % 2 == 0 else ("whole", "bare")
        pair = {side: measure(side, options.epochs) for side in order}
        if pair["bare"]["sha256"] != pair["whole"]["sha256"]:
            sys.exit("the two sides have trained different models, so their times cannot be compared")
        pairs.append(pair)
        a, b = pair["bare"], pair["whole"]
        print(
            f"{number:>4}{a['loop_s']:>9.2f}{b['loop_s']:>9.2f}{a['loop_s'] / b['loop_s']:>12.4f}"
            f"{b['loop_cpu_s'] / a['loop_cpu_s']:>11.4f}{b['start_s']:>9.3f}{b['end_s']:>7.3f}",
            flush=True,
        )
    row = {
        "throughput": spread([pair["bare"]["loop_s"] / pair["whole"]["loop_s"] for pair in pairs]),
        "processor_time": spread([pair["whole"]["loop_cpu_s"] / pair["bare"]["loop_cpu_s"] for pair in pairs]),
        "start_s": spread([pair["whole"]["start_s"] for pair in pairs]),
        "end_s": spread([pair["whole"]["end_s"] for pair in pairs]),
        "goal": GOAL,
        "epochs": options.epochs,
        "trackers": TRACKERS,
        "pairs": pairs,
        "environment": environment(),
    }
    for name in ("throughput", "processor_time"):
        figures = row[name]
        print(f"{name}, whole / bare: {figures['median']:.4f} ({figures['low']:.4f} to {figures['high']:.4f})")
    print(f"goal: a throughput of at least {GOAL}")
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
