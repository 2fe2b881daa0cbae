"""Weights as safetensors, wherever they come from: a header of sane size, known kinds of numbers, all finite."""

from __future__ import annotations

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor

LARGEST_HEADER_BYTES = 1 << 20


def read_weights(file: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        ValueError: it is none, or a number in it is NaN or infinite.
    """
    check_header_length(file)
    try:
        weights = from_safetensors(file)
        broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    except (SafetensorError, KeyError, RuntimeError) as error:  # the last two: a kind of number that torch lacks
        raise ValueError(str(error)) from error
    if broken:
        raise ValueError(f"{broken[0]} holds NaN or infinite numbers")
    return weights


def check_header_length(file: bytes) -> None:
    """Refuse a header that the library would parse, up to 100 MB of it, into many times its size.

    Raises:
        ValueError: the file, of which the first 8 bytes will do, says that it has one.
    """
    length = int.from_bytes(file[:8], "little")
    if length > LARGEST_HEADER_BYTES:
        raise ValueError(f"its header would be {length:,} bytes long")
