"""Safetensors files that are meant to harm: more of F25, entered beside those of `hostile_models`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hostile_models import Place, hostile
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from contract import small_spotter
from hark.shrinking.quantization import quantize
from hark.storage.model_files import digest_of, to_bytes


def with_header(header: bytes | dict[str, Any], body: bytes = b"") -> bytes:
    """A safetensors file with that header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(shape: list[int], start: int, end: int) -> dict[str, Any]:
    """What a safetensors header says of a tensor."""
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


@hostile
def header_of_all_memory(at: Place) -> Path:
    return at.file("length.safetensors", b"\xff" * 7 + b"\x7f{}")


@hostile
def header_of_a_million_tensors(at: Place) -> Path:
    names = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(200_000))
    return at.file("names.safetensors", with_header(b"{" + names + b"}"))


@hostile
def header_longer_than_its_file(at: Place) -> Path:
    return at.file("longer.safetensors", with_header(b"{}").replace(b"\2", b"\xff", 1))


@hostile
def header_nested_a_million_times(at: Place) -> Path:
    return at.file("nested.safetensors", with_header(b'{"a":' + b"[" * 10**6))


@hostile
def tensors_that_overlap(at: Place) -> Path:
    header = {"a": entry([4], 0, 16), "b": entry([4], 8, 24)}
    return at.file("overlap.safetensors", with_header(header, bytes(24)))


@hostile
def tensor_before_the_first_byte(at: Place) -> Path:
    return at.file("negative.safetensors", with_header({"a": entry([1], -4, 0)}, bytes(4)))


@hostile
def tensor_whose_size_overflows(at: Place) -> Path:
    return at.file("overflow.safetensors", with_header({"a": entry([1 << 32, 1 << 32], 0, 0)}))


@hostile
def numbers_of_four_bits(at: Place) -> Path:
    """A kind that the format knows and torch does not."""
    return at.file("f4.safetensors", with_header({"a": {**entry([2], 0, 1), "dtype": "F4"}}, bytes(1)))


@hostile
def tensor_of_a_billion_elements(at: Place) -> Path:
    return at.file("billion.safetensors", with_header({"a": entry([10**9], 0, 4 * 10**9)}, bytes(64)))


@hostile
def two_tensors_of_one_name(at: Place) -> Path:
    one = json.dumps(entry([1], 0, 4)).encode()
    return at.file("twice.safetensors", with_header(b'{"a":' + one + b',"a":' + one + b"}", bytes(4)))


def metadata_of(file: bytes) -> dict[str, str]:
    """What a safetensors file says of itself."""
    found: dict[str, str] = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])["__metadata__"]
    return found


def disguised(**changes: Any) -> bytes:
    """A model whose configuration asks for something else than its tensors are, under a digest that fits."""
    file = to_bytes(small_spotter())
    header = metadata_of(file)
    config = json.loads(header["config"])
    for path, value in changes.items():
        part, _, name = path.partition("__")
        config[part][name] = value
    told = {"format": header["format"], "config": json.dumps(config)}
    tensors = from_safetensors(file)
    return to_safetensors(tensors, told | {"digest": digest_of(told, tensors)})


@hostile
def configuration_of_huge_layers(at: Place) -> Path:
    return at.file("huge.safetensors", disguised(network__hidden=[4096] * 16))


@hostile
def configuration_of_an_endless_memory(at: Place) -> Path:
    return at.file("memory.safetensors", disguised(network__attention_window=4096))


@hostile
def configuration_that_names_code(at: Place) -> Path:
    return at.file("code.safetensors", disguised(network___target_="os.system"))


@hostile
def weight_that_is_no_number(at: Place) -> Path:
    model = small_spotter()
    model.network.conv.bias.data[0] = float("nan")
    return at.file("nan.safetensors", to_bytes(model))


@hostile
def scale_that_is_infinite(at: Place) -> Path:
    """Of an integer 0 it makes NaN."""
    file = to_bytes(quantize(small_spotter()))
    tensors = from_safetensors(file)
    tensors["network.conv.weight.scale"][0] = float("inf")
    told = {name: value for name, value in metadata_of(file).items() if name != "digest"}
    return at.file("infinite.safetensors", to_safetensors(tensors, told | {"digest": digest_of(told, tensors)}))
