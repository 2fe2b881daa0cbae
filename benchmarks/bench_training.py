"""Training throughput: clips per second with fresh wave augmentation every epoch, the whole loop included.

    python benchmarks/bench_training.py [--epochs 6] [--workers 0 1 2]

Trains on noise of the reference task's size, since speed does not depend on what is said. Prints a table and
appends a JSON line per setting to benchmarks/results/training.jsonl: median and range over the log's windows
of 50 steps, the first left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from hark.learning.batching import Variation
from hark.learning.dataset import Dataset, Task
from hark.learning.devices import Machine
from hark.learning.training import TrainingConfig, train
from hark.network.crnn import BASE, STAGE_2, CrnnConfig
from hark.network.spotter import Spotter, SpotterConfig
from hark.record.environment import environment
from hark.record.runs import Run
from hark.sound.corpus import Clip

RESULTS = Path(__file__).parent / "results" / "training.jsonl"
GOALS = {"base": 1000, "stage-2": 1500}


def noise_task(*, clips: int = 5000, samples: int = 16_000) -> Task:
    """A task of noise: `clips` to train on, a fifth of them positive."""
    rng = np.random.default_rng(0)

    def dataset(count: int) -> Dataset:
        names = tuple(Clip(Path(f"{index}.wav"), "word", str(index)) for index in range(count))
        pcm = rng.integers(-3000, 3000, (count, samples), dtype=np.int16)
        return Dataset(names, pcm, np.arange(count) % 5 == 0)

    noises = tuple(rng.integers(-3000, 3000, 60 * samples, dtype=np.int16) for _ in range(2))
    return Task(
        keyword="word",
        split="speakers",
        fold=0,
        folds=5,
        digest="noise",
        names_speakers=True,
        quarantined=(),
        training=dataset(clips),
        validation=dataset(100),
        testing=dataset(100),
        noises=noises,
        other_sounds=noises,
        judging_noises=noises,
        judging_speech=(),
    )


def rates(network: CrnnConfig, task: Task, *, epochs: int, lived_in_share: float, workers: int) -> list[float]:
    """Clips per second in each window of the log."""
    config = TrainingConfig(
        epochs=epochs, validations=1, save_every_s=3600, variation=Variation(lived_in_share=lived_in_share)
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder), "bench", about={"name": "bench"})
        machine = Machine(device="cpu", workers=workers)
        train(Spotter(SpotterConfig(keyword="word", network=network)), task, config, run=run, machine=machine)
        return [event["rate"] for event in run.events() if event["kind"] == "train"][1:]


def main() -> None:
    """Measure both networks, with and without lived-in state, for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--workers", type=int, nargs="+", default=[0], help="processes that make batches")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the other core makes the batches
    task = noise_task()
    about = environment()
    print(f"{'network':<10}{'lived-in':>9}{'workers':>8}{'clips/s':>10}{'lowest':>9}{'highest':>9}{'goal':>8}")
    settings = itertools.product((("base", BASE), ("stage-2", STAGE_2)), (0.0, 0.3), options.workers)
    for (name, network), share, workers in settings:
        found = rates(network, task, epochs=options.epochs, lived_in_share=share, workers=workers)
        median, low, high = statistics.median(found), min(found), max(found)
        print(f"{name:<10}{share:>9}{workers:>8}{median:>10,.0f}{low:>9,.0f}{high:>9,.0f}{GOALS[name]:>8,}")
        row = {
            "network": name,
            "lived_in_share": share,
            "workers": workers,
            "clips_per_s": median,
            "low": low,
            "high": high,
            "goal": GOALS[name],
        }
        with RESULTS.open("a") as file:
            file.write(json.dumps({**row, "environment": about}) + "\n")


if __name__ == "__main__":
    main()
