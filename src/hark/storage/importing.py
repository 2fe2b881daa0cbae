"""Checkpoints of others: read in a confined helper process, weights only, and nothing in them is executed.

`python -m hark.storage.importing` is the helper: it gives back the tensors of a PyTorch checkpoint as
safetensors. Should the unpickler be broken into or fed a bomb, that process is what it reaches.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from resource import getpagesize
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

from hark.confinement import Answer, Helper, HelperLost, HelperRefused, Limits, serve
from hark.errors import ConfigError, ModelFileError
from hark.network.reference import from_reference
from hark.network.spotter import Spotter, SpotterConfig, with_network
from hark.network.weights import LARGEST_HEADER_BYTES, read_weights
from hark.storage.model_files import LARGEST_BYTES, foreign_format, head_of, in_brief

LIMITS = Limits(memory_bytes=256 << 20, answer_s=20.0, answer_bytes=LARGEST_BYTES + LARGEST_HEADER_BYTES)
"""Memory on top of what torch itself maps: 0.6 GiB, and several times as much where it is built for CUDA."""
WRAPPERS = ("state_dict", "model_state_dict", "model")
EXPECTED = "expected a PyTorch state dict of plain tensors"


def import_checkpoint(path: Path, *, keyword: str) -> Spotter:
    """A spotter from a checkpoint of the reference's network (`.pth` with a state dict).

    Raises:
        ModelFileError: the file is missing, not a plain state dict, or of another network.
    """
    try:
        head = head_of(path)
        if not head.startswith((b"PK\3\4", b"\x80")):  # as a zip archive, or a pickle of protocol 2 and later
            raise ModelFileError(f"{path}: {foreign_format(head) or 'no PyTorch checkpoint'}; {EXPECTED}")
        weights = _weights_by_helper(path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); {EXPECTED}") from error
    except (HelperRefused, ValueError) as error:
        raise ModelFileError(f"{path}: {error}; {EXPECTED}") from error
    except HelperLost as error:
        raise ModelFileError(f"{path}: the helper that reads it {error}; {EXPECTED}") from error
    try:
        network = from_reference(weights)
        return with_network(Spotter(SpotterConfig(keyword=keyword, network=network.config)), network).eval()
    except (ModelFileError, ConfigError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def _weights_by_helper(path: Path) -> dict[str, torch.Tensor]:
    with Helper("hark.storage.importing", LIMITS) as helper:
        _, raw = helper.ask({"path": str(path.absolute())})
    return read_weights(bytes(raw))


def _answer(question: dict[str, Any]) -> Answer:
    """What the helper gives for a path: no JSON, the tensors of the checkpoint there."""
    try:
        return {}, _read_weights(Path(question["path"]))
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes torch raise
        raise ModelFileError(_reason(error)) from error


def _read_weights(path: Path) -> bytes:
    """The tensors of a checkpoint as safetensors; only the confined helper calls this."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in WRAPPERS:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(wrapper), dict):
            checkpoint = checkpoint[wrapper]
    if not isinstance(checkpoint, dict) or not all(isinstance(t, torch.Tensor) for t in checkpoint.values()):
        raise ValueError(f"holds a {type(checkpoint).__name__}, not a state dict")
    numbers = sum(tensor.numel() for tensor in checkpoint.values())
    if 4 * numbers > LARGEST_BYTES:  # a billion of them may be views of a single one
        raise ValueError(f"holds {numbers:,} numbers, more than the {LARGEST_BYTES // 4:,} that a model may have")
    return bytes(to_safetensors({str(k): t.float().contiguous().clone() for k, t in checkpoint.items()}))


def _reason(error: Exception) -> str:
    """An error's first sentence; torch's own, that unpickling everything would help, is no advice to pass on."""
    if type(error).__name__ == "UnpicklingError":
        return "holds something else than weights"
    if "can't allocate memory" in str(error):
        return "asks for more memory than any model needs"
    if not isinstance(error, ValueError | RuntimeError):  # such as KeyError: 101, from what is no checkpoint
        return "is no PyTorch checkpoint"
    return in_brief(error).partition(". ")[0]


def _mapped_bytes() -> int:
    """The address space that this process has by now: torch, above all."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * getpagesize()
    except OSError:  # not Linux: 8 GiB are enough for any build
        return 8 << 30


if __name__ == "__main__":
    serve(_answer, replace(LIMITS, memory_bytes=LIMITS.memory_bytes + _mapped_bytes()))
