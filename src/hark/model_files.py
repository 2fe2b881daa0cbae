"""Models as files: safetensors, the configuration in the header, integers where quantised; nothing to execute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from hark.errors import ConfigError, ModelFileError
from hark.features import LogMelConfig
from hark.models.crnn import Crnn, CrnnConfig
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
    """The model's file, the same bytes for the same model.

    A quantised weight `w` is stored as int8 `w` and float32 `w.scale`, one per row.
    """
    metadata = {"format": FORMAT, "config": json.dumps(asdict(model.config), separators=(",", ":"))}
    if bits := weight_bits(model):
        metadata["weight_bits"] = str(bits)
    tensors = dict(_tensors(model))
    return _in_one_order(to_safetensors(tensors, metadata | {"digest": digest_of(metadata, tensors)}))


def load(path: Path) -> Spotter:
    """A model from its file, ready to listen.

    Raises:
        ModelFileError: the file is missing, damaged, too large, or not a model of ours.
    """
    metadata, tensors = _read(path)
    try:
        config = config_from(json.loads(metadata["config"]))
        _check_shapes(config, tensors)
        model = Spotter(config)
        if "weight_bits" in metadata:
            model = _quantized(model, tensors, bits=int(metadata["weight_bits"]))
        else:
            model.load_state_dict(tensors)
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, ConfigError) as error:
        raise ModelFileError(f"{path}: not a valid model ({_reason(error)}); train or export it again") from error
    return model.eval()


def config_from(values: dict[str, Any]) -> SpotterConfig:
    """A configuration from plain values, as JSON gives them: nothing unknown, everything of its type."""
    network: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values["network"].items()}
    config = SpotterConfig(
        keyword=str(values["keyword"]),
        features=LogMelConfig(**values["features"]),
        network=CrnnConfig(**network),
    )
    return TypeAdapter(SpotterConfig).validate_json(json.dumps(asdict(config)), strict=True)


def _tensors(model: Spotter) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.state_dict().items():
        if "parametrizations" not in name:
            yield name, tensor.detach().cpu().contiguous()
    for name, weight in quantized_weights(model):
        yield name, weight.levels.cpu().contiguous()
        yield f"{name}.scale", weight.scale.cpu().contiguous()


def _in_one_order(file: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library writes them in a new order each time."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return file[:8] + text.ljust(start - 8) + file[start:]


def digest_of(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """What all a file says comes down to: safetensors alone takes a flipped bit without a word."""
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]  # 64 bits: against accidents, not against forgers


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path}: not a file; expected a model such as model.safetensors")
        if path.stat().st_size > LARGEST_BYTES:
            raise ModelFileError(f"{path}: {path.stat().st_size:,} bytes, expected at most {LARGEST_BYTES:,}")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(
            f"{path}: cannot be read as a model ({_reason(error)}); expected safetensors"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}; "
            'a checkpoint of another tool comes in by "hark import"'
        )
    if metadata.pop("digest", None) != digest_of(metadata, tensors):
        raise ModelFileError(f"{path}: damaged, its digest differs; train or export it again")
    return metadata, tensors


def _check_shapes(config: SpotterConfig, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a configuration that the tensors do not fill before anything of its size is allocated."""
    with torch.device("meta"):
        expected = Crnn(config.network).state_dict(prefix="network.")
    for name, tensor in expected.items():
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if found != tuple(tensor.shape):
            raise ValueError(f"{name} is {found}, expected {tuple(tensor.shape)}")


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


def _reason(error: Exception) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split())[:300]
