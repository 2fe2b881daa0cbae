"""A training loop as its user would write it with plain wandb: a log call in every step.

    python benchmarks/chaos/wandb_victim.py FOLDER [--steps 40]

Prints `init` when `wandb.init` has returned, then each step; `done` at the end.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import wandb


def main() -> None:
    """Log `--steps` steps of 50 ms each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    run = wandb.init(project="victim", dir=str(options.folder), settings=wandb.Settings(console="off"))
    print("init", flush=True)
    for step in range(options.steps):
        time.sleep(0.05)
        run.log({"loss": 1 / (1 + step)})
        print("step", step, flush=True)
    run.finish()
    print("done", flush=True)


if __name__ == "__main__":
    main()
