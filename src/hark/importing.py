"""Checkpoints of others: read in a limited helper process, weights only, and nothing in them is executed.

`python -m hark.importing FILE` is the helper: it writes the tensors of a PyTorch checkpoint to stdout as
safetensors. Should the unpickler be broken into or fed a bomb, that process is what it reaches.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from hark.errors import ModelFileError
from hark.models.crnn import from_reference
from hark.models.spotter import Spotter, SpotterConfig, with_network

TIMEOUT_S = 60
MEMORY_BYTES = 8 << 30  # of address space: torch alone maps some
LARGEST_FILE_BYTES = 256 << 20
WRAPPERS = ("state_dict", "model_state_dict", "model")


def import_checkpoint(path: Path, *, keyword: str) -> Spotter:
    """A spotter from a checkpoint of the reference's network (`.pth` with a state dict).

    Raises:
        ModelFileError: the file is missing, not a plain state dict, or of another network.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; expected a PyTorch checkpoint")
    if path.stat().st_size > LARGEST_FILE_BYTES:
        raise ModelFileError(f"{path}: {path.stat().st_size:,} bytes, expected at most {LARGEST_FILE_BYTES:,}")
    try:
        network = from_reference(_weights_by_helper(path))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    return with_network(Spotter(SpotterConfig(keyword=keyword, network=network.config)), network).eval()


def _weights_by_helper(path: Path) -> dict[str, torch.Tensor]:
    # -P: with the current folder on its path, the helper would import whatever lies there as torch.
    command = [sys.executable, "-P", "-m", "hark.importing", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ModelFileError(f"not read within {TIMEOUT_S} s; expected a PyTorch state dict") from None
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines() or ["the helper died"]
        raise ModelFileError(f"{told[-1]}; expected a PyTorch state dict of plain tensors")
    try:
        return from_safetensors(done.stdout)
    except SafetensorError as error:
        raise ModelFileError(f"the helper gave no tensors ({error})") from error


def _read_weights(path: Path) -> bytes:
    """The tensors of a checkpoint as safetensors; only the limited helper calls this."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in WRAPPERS:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(wrapper), dict):
            checkpoint = checkpoint[wrapper]
    if not isinstance(checkpoint, dict) or not all(isinstance(t, torch.Tensor) for t in checkpoint.values()):
        raise ValueError(f"holds a {type(checkpoint).__name__}, not a state dict")
    return bytes(to_safetensors({str(k): t.float().contiguous().clone() for k, t in checkpoint.items()}))


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_S, TIMEOUT_S))
    try:
        sys.stdout.buffer.write(_read_weights(Path(sys.argv[1])))
    except Exception as error:
        sys.exit(_reason(error))


def _reason(error: Exception) -> str:
    """An error's first line; torch's own, that unpickling everything would help, is no advice to pass on."""
    if type(error).__name__ == "UnpicklingError":
        return "holds something else than weights"
    if not isinstance(error, ValueError | RuntimeError):  # such as KeyError: 101, from what is no checkpoint
        return "is no PyTorch checkpoint"
    return str(error).strip().splitlines()[0]


if __name__ == "__main__":
    _main()
