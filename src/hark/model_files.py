"""Models as files: safetensors, the configuration in the header, integers where quantised; nothing to execute."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from hark.errors import ConfigError, ModelFileError
from hark.features import LogMelConfig
from hark.models.crnn import CrnnConfig
from hark.models.spotter import Spotter, SpotterConfig
from hark.quantization import (
    QuantizedWeight,
    quantize,
    quantized_weights,
    set_quantized_weight,
    weight_bits,
)

FORMAT = "hark-model-1"
LARGEST_BYTES = 256 << 20


def to_bytes(model: Spotter) -> bytes:
    """The model's file. A quantised weight `w` is stored as int8 `w` and float32 `w.scale`, one per row."""
    metadata = {"format": FORMAT, "config": json.dumps(asdict(model.config), separators=(",", ":"))}
    if bits := weight_bits(model):
        metadata["weight_bits"] = str(bits)
    return bytes(to_safetensors(dict(_tensors(model)), metadata))


def load(path: Path) -> Spotter:
    """A model from its file, ready to listen.

    Raises:
        ModelFileError: the file is missing, damaged, too large, or not a model of ours.
    """
    metadata, tensors = _read(path)
    try:
        model = Spotter(config_from(json.loads(metadata["config"])))
        if "weight_bits" in metadata:
            model = _quantized(model, tensors, bits=int(metadata["weight_bits"]))
        else:
            model.load_state_dict(tensors)
    except (ValueError, TypeError, KeyError, RuntimeError, ConfigError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(f"{path}: not a valid model ({reason}); train or export it again") from error
    return model.eval()


def config_from(values: dict[str, Any]) -> SpotterConfig:
    """A configuration from plain values, as JSON gives them."""
    network: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values["network"].items()}
    return SpotterConfig(
        keyword=str(values["keyword"]),
        features=LogMelConfig(**values["features"]),
        network=CrnnConfig(**network),
    )


def _tensors(model: Spotter) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.state_dict().items():
        if "parametrizations" not in name:
            yield name, tensor.detach().cpu().contiguous()
    for name, weight in quantized_weights(model):
        yield name, weight.levels.cpu().contiguous()
        yield f"{name}.scale", weight.scale.cpu().contiguous()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ModelFileError(f"{path}: {path.stat().st_size:,} bytes, expected at most {LARGEST_BYTES:,}")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: cannot be read as a model ({error}); expected safetensors") from error
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}; "
            'a checkpoint of another tool comes in by "hark import"'
        )
    return metadata, tensors


def _quantized(model: Spotter, tensors: dict[str, Tensor], *, bits: int) -> Spotter:
    """`model` with the file's tensors: values of integer weights first, then the exact integers and scales."""
    weights = {
        name: QuantizedWeight(tensors[name], tensors[f"{name}.scale"])
        for name, tensor in tensors.items()
        if tensor.dtype == torch.int8
    }
    scales = {f"{name}.scale" for name in weights}
    values = {name: w.levels * w.scale for name, w in weights.items()}
    model.load_state_dict({name: values.get(name, t) for name, t in tensors.items() if name not in scales})
    quantized = quantize(model, bits=bits)
    for name, weight in weights.items():
        set_quantized_weight(quantized, name, weight)
    return quantized
