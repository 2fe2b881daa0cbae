"""A training as its user would write it with plain PyTorch Lightning: what meets the faults beside hark.

    python benchmarks/chaos/lightning_victim.py FOLDER [--workers 1] [--logger raising|wandb] [--megabytes 1]

The same command again goes on from the last checkpoint, as Lightning's documentation has it
(`ckpt_path="last"`). At the end it writes the digest of the final weights to FOLDER/digest.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger, WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

STEPS_PER_EPOCH, EPOCHS, SAVE_EVERY_STEPS = 50, 8, 5


class Classifier(lightning.LightningModule):
    """A GRU over noise, and ballast so that a checkpoint has a size."""

    def __init__(self, ballast_bytes: int) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, 2)
        self.register_buffer("ballast", torch.zeros(ballast_bytes // 4))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """One loss, logged."""
        x, y = batch
        loss = nn.functional.cross_entropy(self.head(self.gru(x)[0][:, -1]), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as everywhere."""
        return torch.optim.Adam(self.parameters(), 1e-3)


class RaisingLogger(Logger):
    """A tracker whose third log fails."""

    name, version = "raising", 0
    calls = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Fail at the third call."""
        self.calls += 1
        if self.calls == 3:
            raise ConnectionError("the tracker is gone")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to log."""


class StepPrinter(Callback):
    """Says each step, for whoever watches whether the training still moves."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        """Print the step that is done."""
        print("step", trainer.global_step, flush=True)


def digest(model: nn.Module) -> str:
    """SHA-256 of all weights."""
    sha = hashlib.sha256()
    for tensor in model.state_dict().values():
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def main() -> None:
    """Train to the end, from the last checkpoint where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--logger", choices=["none", "raising", "wandb"], default="none")
    parser.add_argument("--megabytes", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    lightning.seed_everything(0)
    data = TensorDataset(torch.randn(STEPS_PER_EPOCH * 16, 20, 8), torch.randint(0, 2, (STEPS_PER_EPOCH * 16,)))
    loader = DataLoader(data, 16, shuffle=True, num_workers=options.workers)
    checkpoints = ModelCheckpoint(
        dirpath=options.folder, every_n_train_steps=SAVE_EVERY_STEPS, save_last=True, save_top_k=1
    )
    loggers: dict[str, Any] = {"none": lambda: False, "raising": RaisingLogger, "wandb": WandbLogger}
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        logger=loggers[options.logger](),
        callbacks=[checkpoints, StepPrinter()],
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        log_every_n_steps=1,
    )
    model = Classifier(options.megabytes << 20)
    trainer.fit(model, loader, ckpt_path="last")
    (options.folder / "digest").write_text(digest(model))


if __name__ == "__main__":
    main()
