"""Models as files: safetensors, the configuration in the header, integers where quantised; nothing to execute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from hark.configuration import build, shown
from hark.errors import ConfigError, ModelFileError
from hark.network.crnn import Crnn
from hark.network.layers import Affine
from hark.network.spotter import Spotter, SpotterConfig
from hark.network.weights import check_header_length
from hark.shrinking.integer_network import Calibration, IntegerCrnn
from hark.shrinking.quantization import (
    QuantizedWeight,
    quantized_weights,
    set_quantized_weight,
    weight_bits,
)

FORMAT = "hark-model-1"
LARGEST_BYTES = 16 << 20
_DTYPES = ("F32", "I8")

# How files of others begin: the offset, the bytes there, and what it then is.
_MARKS = (
    (0, b"PK\3\4", 'a zip archive, as torch.save makes them: "hark import" reads those'),
    *((0, bytes((0x80, protocol)), "a pickle, which is never read") for protocol in range(2, 6)),
    (4, b"TFL3", "a TFLite model, which hark does not read"),
    (0, b"\x89HDF", "an HDF5 file, as Keras makes them"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (257, b"ustar", "a tar archive, as .nemo files are"),
)
_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # what may follow the version that an ONNX file begins with


def to_bytes(model: Spotter) -> bytes:
    """The model's file, the same bytes for the same model.

    A quantised weight `w` is stored as int8 `w` and float32 `w.scale`, one per row.
    """
    metadata = {"format": FORMAT, "config": json.dumps(asdict(model.config), separators=(",", ":"))}
    if bits := weight_bits(model):
        metadata["weight_bits"] = str(bits)
    if isinstance(model.network, IntegerCrnn):
        metadata["calibration"] = json.dumps(asdict(model.network.calibration), separators=(",", ":"))
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
        _check_tensors(config, tensors)
        model = Spotter(config)
        if "calibration" in metadata:
            calibration = build(Calibration, json.loads(metadata["calibration"]), where="calibration")
            model.network = IntegerCrnn(config.network, calibration)
        _fill(model, tensors, bits=int(metadata["weight_bits"]) if "weight_bits" in metadata else None)
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, ConfigError) as error:
        raise ModelFileError(f"{path}: not a valid model ({in_brief(error)}); train or export it again") from error
    return model.eval()


def config_from(values: object) -> SpotterConfig:
    """A configuration from plain values, as JSON gives them: nothing unknown, everything of its type.

    Raises:
        ConfigError: it is not valid.
    """
    return build(SpotterConfig, values, where="config")


def head_of(path: Path) -> bytes:
    """The first 512 bytes of what may be a model.

    Raises:
        OSError: it cannot be read.
        ModelFileError: it is no file, or larger than any model.
    """
    if path.exists() and not path.is_file():
        raise ModelFileError(f"{path}: not a file; expected a model such as model.safetensors")
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise ModelFileError(f"{path}: {size:,} bytes, expected at most {LARGEST_BYTES:,}")
    with path.open("rb") as file:
        return file.read(512)


def foreign_format(head: bytes) -> str | None:
    """What a file of others is, by its first 512 bytes; None where that cannot be told. Nothing is parsed."""
    for offset, mark, name in _MARKS:
        if head[offset : offset + len(mark)] == mark:
            return name
    if len(head) > 2 and head[0] == 8 and 0 < head[1] <= 32 and head[2] in _ONNX_FIELDS:
        return "an ONNX model, which hark does not read"
    return None


def in_brief(error: Exception) -> str:
    """An error's message in one line, without what a terminal would obey: parts of it may come from the file."""
    plain = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(plain.split())[:300]


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
        sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]  # 64 bits: against accidents, not against forgers


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    head = b""
    try:
        head = head_of(path)
        check_header_length(head)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: _tensor(file, name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, SafetensorError) as error:
        reason = foreign_format(head) or in_brief(error)
        expected = "expected a run, a .safetensors or a .hark file"
        raise ModelFileError(f"{path}: cannot be read as a model ({reason}); {expected}") from error
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: format {shown(metadata.get('format'))}, expected {FORMAT!r}; "
            'a checkpoint of another tool comes in by "hark import"'
        )
    if metadata.pop("digest", None) != digest_of(metadata, tensors):
        raise ModelFileError(f"{path}: damaged, its digest differs; train or export it again")
    return metadata, tensors


def _tensor(file: Any, name: str) -> Tensor:
    dtype = file.get_slice(name).get_dtype()
    if dtype not in _DTYPES:
        raise ValueError(f"{shown(name)} is of {dtype}, expected one of {', '.join(_DTYPES)}")
    tensor: Tensor = file.get_tensor(name)
    return tensor


def _check_tensors(config: SpotterConfig, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not finite, or not exactly the configuration's, before anything is allocated."""
    with torch.device("meta"):
        expected = {
            **Affine(config.affine_channels).state_dict(prefix="normalize."),
            **Crnn(config.network).state_dict(prefix="network."),
        }
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in [name for name in expected if name in tensors and tensors[name].dtype == torch.int8]:
        shapes[f"{name}.scale"] = (*shapes[name][:1], *[1] * (len(shapes[name]) - 1))
    for name in sorted(shapes.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if found != shapes.get(name):
            raise ValueError(f"{shown(name)} is {found}, expected {shapes.get(name, 'no such tensor')}")
        if not tensors[name].isfinite().all():  # one of them would stay in a stream's state for ever
            raise ValueError(f"{shown(name)} holds NaN or infinite numbers")


def _fill(model: Spotter, tensors: dict[str, Tensor], *, bits: int | None) -> None:
    """Put the file's tensors into `model`: integers with their scales, and all else as it is."""
    integers = [name for name, _ in model.named_parameters() if tensors[name].dtype == torch.int8]
    scales = {f"{name}.scale" for name in integers}
    rest = {name: tensor for name, tensor in tensors.items() if name not in {*integers, *scales}}
    model.load_state_dict(rest, strict=False)  # `_check_tensors` was strict
    for name in integers:
        if bits is None:
            raise ValueError(f"{name} is of I8, yet no weight_bits are told")
        set_quantized_weight(model, name, QuantizedWeight(tensors[name], tensors[f"{name}.scale"]), bits=bits)
