from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from contract import CHEAPER, SMALL, SMALL_FEATURES, small_sound, small_spotter, spotter
from hark.errors import ModelFileError
from hark.network.crnn import PUBLISHED, STAGE_2, CrnnConfig
from hark.network.spotter import Spotter, SpotterConfig
from hark.shrinking.integer_quantization import calibrate, network_of, quantize_to_integers
from hark.shrinking.pruning import PruningConfig, prune
from hark.shrinking.quantization import Scales, quantize
from hark.storage.model_files import FORMAT, LARGEST_BYTES, digest_of, load, to_bytes
from peak_memory import allocating_at_most

SHRUNK: dict[str, Callable[[Spotter], Spotter]] = {
    "float": lambda model: model,
    "int8": quantize,
    "4 bits": lambda model: quantize(model, bits=4),
    "pruned": lambda model: prune(model, PruningConfig(conv=0.5)),
    "pruned, then int8": lambda model: quantize(prune(model, PruningConfig())),
}
shrunk = pytest.mark.parametrize("shrink", SHRUNK.values(), ids=SHRUNK.keys())


Changes = dict[str, torch.Tensor | None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def refusal(path: Path) -> str:
    """The one line with which a file is refused; it names the file."""
    with pytest.raises(ModelFileError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@shrunk
def test_a_model_comes_back_from_its_file_bit_by_bit(shrink: Callable[[Spotter], Spotter], path: Path) -> None:
    model = shrink(small_spotter())
    path.write_bytes(to_bytes(model))
    loaded = load(path)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded(small_sound().float()), model(small_sound().float()))
    assert to_bytes(loaded) == to_bytes(model)


@pytest.mark.parametrize("name", CHEAPER)
@pytest.mark.parametrize("scales", [None, "row", "matrix"])
def test_cheaper_networks_come_back_bit_by_bit(name: str, scales: Scales | None, path: Path) -> None:
    model = small_spotter(CHEAPER[name])
    if scales:
        model = quantize_to_integers(model, calibrate(model, small_sound().float()), scales=scales)
    path.write_bytes(to_bytes(model))
    loaded = load(path)
    assert loaded.config == model.config
    assert torch.equal(loaded(small_sound().float()), model(small_sound().float()))
    assert to_bytes(loaded) == to_bytes(model)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_come_back_from_their_files(name: str, path: Path) -> None:
    model = spotter(PUBLISHED[name])
    path.write_bytes(to_bytes(model))
    assert {n: t.tolist() for n, t in load(path).state_dict().items()} == {
        n: t.tolist() for n, t in model.state_dict().items()
    }


def test_any_label_comes_back(path: Path) -> None:
    config = SpotterConfig(keyword='مرحبا "häppy"\n☃', features=SMALL_FEATURES, network=SMALL)
    path.write_bytes(to_bytes(Spotter(config)))
    assert load(path).config == config


def test_the_same_model_is_always_the_same_bytes() -> None:
    """Safetensors alone writes its metadata in another order each time, within one process too."""
    model = quantize(small_spotter())
    assert len({to_bytes(model) for _ in range(16)}) == 1


def test_integers_are_stored_as_int8_with_a_scale_per_row() -> None:
    tensors = from_safetensors(to_bytes(quantize(spotter(STAGE_2))))
    assert tensors["network.gru.0.weight_ih"].dtype == torch.int8
    assert tensors["network.gru.0.weight_ih.scale"].shape == (48, 1)
    assert tensors["network.gru.0.bias_ih"].dtype == torch.float32


@pytest.fixture(scope="module")
def content() -> bytes:
    return to_bytes(quantize(small_spotter()))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "model.safetensors"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(place=st.integers(0, 1_000_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_changes_nothing(place: int, bit: int, damaged: Path, content: bytes) -> None:
    """Nothing changes where only the name of the digest is hit; safetensors alone takes most flips in silence."""
    flipped = bytearray(content)
    flipped[place % len(content)] ^= 1 << bit
    damaged.write_bytes(flipped)
    try:
        assert to_bytes(load(damaged)) == content
    except ModelFileError:
        refusal(damaged)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(share: float, damaged: Path, content: bytes) -> None:
    damaged.write_bytes(content[: int(share * len(content))])
    assert "cannot be read as a model" in refusal(damaged)


def test_a_damaged_weight_is_named_as_damage(content: bytes, path: Path) -> None:
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refusal(path) == "damaged, its digest differs; train or export it again"


def rewritten(content: bytes, *, tensors: Changes | None = None, **metadata: str | None) -> bytes:
    """A file with other metadata and tensors, None removes, and the digest that fits: made to deceive."""
    size = int.from_bytes(content[:8], "little")
    values = json.loads(content[8 : 8 + size])["__metadata__"] | metadata
    kept = {name: value for name, value in values.items() if value is not None and name != "digest"}
    held = {name: t for name, t in {**from_safetensors(content), **(tensors or {})}.items() if t is not None}
    return to_safetensors(held, kept | {"digest": digest_of(kept, held)})


def test_a_file_without_its_digest_is_refused(content: bytes, path: Path) -> None:
    size = int.from_bytes(content[:8], "little")
    values = json.loads(content[8 : 8 + size])["__metadata__"]
    del values["digest"]
    path.write_bytes(to_safetensors(from_safetensors(content), values))
    assert "its digest differs" in refusal(path)


def test_a_file_of_before_there_were_other_parts_is_the_network_that_it_was(path: Path) -> None:
    """Neither its configuration nor its calibration tells of them."""
    model = small_spotter()
    model = quantize_to_integers(model, calibrate(model, small_sound().float()))
    bits = network_of(model).calibration
    calibration = json.dumps({"feature_bits": bits.feature_bits, "map_bits": bits.map_bits})
    config = CONFIG | {"network": CONFIG["network"] | {"attention_window": 3}}
    path.write_bytes(rewritten(to_bytes(model), config=json.dumps(config), calibration=calibration))
    assert torch.equal(load(path)(small_sound().float()), model(small_sound().float()))


@pytest.mark.parametrize("found", [None, "pt", "hark-model-2"])
def test_another_format_is_refused(found: str | None, content: bytes, path: Path) -> None:
    path.write_bytes(rewritten(content, format=found))
    assert refusal(path).startswith(f"format {found!r}, expected {FORMAT!r}; a checkpoint of another tool")


def with_setting(part: str, name: str, value: Any) -> str:
    """A configuration with one other value."""
    values = json.loads(json.dumps(CONFIG))
    values[part][name] = value
    return json.dumps(values)


CONFIG = {
    "keyword": "happy",
    "features": {"n_fft": 32, "hop_length": 8, "n_mels": 8},
    "network": {"n_mels": 8, "channels": 2, "kernel": [3, 4], "stride": [2, 2], "hidden": [5, 4]},
}
BAD_CONFIGS = {
    "no JSON": "{",
    "a list": "[]",
    "nothing": "{}",
    "nested without end": "[" * 100_000,
    "a network that is a list": json.dumps(CONFIG | {"network": [1]}),
    "a network that is a word": json.dumps(CONFIG | {"network": "base"}),
    "no front end": json.dumps(CONFIG | {"features": None}),
    "an unknown setting": with_setting("network", "trust_remote_code", True),
    "a number as text": with_setting("network", "dropout", "0.1"),
    "half a channel": with_setting("network", "channels", 2.5),
    "half a hop": with_setting("features", "hop_length", 8.5),
    "half a step to look back": with_setting("network", "attention_window", 2.5),
    "no rate": with_setting("features", "sample_rate", float("nan")),
    "a flat kernel": with_setting("network", "kernel", [3]),
    "a kernel of three axes": with_setting("network", "kernel", [3, 4, 4]),
    "layers in layers": with_setting("network", "hidden", [[5], 4]),
    "no stride": with_setting("network", "stride", [0, 0]),
    "another width": with_setting("network", "hidden", [5, 5]),
    "another depth": with_setting("network", "hidden", [5]),
    "a huge layer": with_setting("network", "hidden", [10**30]),
    "huge layers within bounds": with_setting("network", "hidden", [4096] * 16),
    "a hundred thousand layers": with_setting("network", "hidden", [1] * 100_000),
    "a huge transform": with_setting("features", "n_fft", 10**9),
    "an unknown cell": with_setting("network", "cell", "lstm"),
    "another cell": with_setting("network", "cell", "minimal"),
    "a projection that is not there": with_setting("network", "rank", 3),
    "kernels that are not there": with_setting("network", "convolution", "separable"),
    "other attention": with_setting("network", "attention", "query"),
    "means of nothing": with_setting("network", "pooling", [0, 1]),
    "means of more bands than there are": with_setting("network", "pooling", [9, 1]),
    "a scale for all bands": json.dumps(CONFIG | {"normalization_bands": "one"}),
    "an endless memory": with_setting("network", "attention_window", 10**12),
    "a memory of hours for each step": with_setting("network", "attention_window", 4096),
    "a frame for each sample": with_setting("features", "hop_length", 1) + "",
    "more classes than a spotter has": with_setting("network", "classes", 3),
}


@pytest.mark.parametrize("config", BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_a_configuration_that_is_none_is_refused(config: str, content: bytes, path: Path) -> None:
    """Before anything of the size that it claims is allocated."""
    path.write_bytes(rewritten(content, config=config))
    with allocating_at_most(32 << 20):
        assert refusal(path).startswith("not a valid model (")


@pytest.mark.parametrize("bits", ["", "x", "0", "9", "-8", "1e400", "8" * 5000])
def test_a_width_that_is_none_is_refused(bits: str, content: bytes, path: Path) -> None:
    path.write_bytes(rewritten(content, weight_bits=bits))
    assert refusal(path).startswith("not a valid model (")


@pytest.mark.parametrize("lost", ["conv.weight", "conv.weight.scale", "conv.bias", "classifier.bias"])
def test_a_missing_tensor_is_refused(lost: str, content: bytes, path: Path) -> None:
    path.write_bytes(rewritten(content, tensors={f"network.{lost}": None}))
    assert f"network.{lost}" in refusal(path)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"network.extra": torch.zeros(3)}, "'network.extra' is (3,), expected no such tensor"),
        ({"network.conv.bias.scale": torch.zeros(2)}, "conv.bias.scale' is (2,), expected no such tensor"),
        ({"normalize.scale": torch.zeros(9)}, "'normalize.scale' is (9,)"),
        # Its product with the integers would have 40 million rows.
        ({"network.conv.weight.scale": torch.zeros(10**6, 1, 1, 1)}, "is (1000000, 1, 1, 1), expected (2, 1"),
        ({"network.conv.bias": torch.zeros(2, dtype=torch.float64)}, "'network.conv.bias' is of F64, expected"),
        ({"\x1b[2J": torch.zeros(1)}, r"'\x1b[2J' is (1,), expected no such tensor"),
    ],
)
def test_a_tensor_that_does_not_belong_there_is_refused(
    tensors: Changes, said: str, content: bytes, path: Path
) -> None:
    path.write_bytes(rewritten(content, tensors=tensors))
    assert said in refusal(path)


@pytest.mark.parametrize(("bits", "hidden"), [(None, 560), (8, 1100)])
def test_a_model_takes_no_more_than_twelve_times_its_file(bits: int | None, hidden: int, path: Path) -> None:
    """Integers too, which become floats: no scale is looked for where the file has it."""
    config = SpotterConfig(keyword="x", network=CrnnConfig(channels=2, hidden=(hidden,), attention_window=2))
    path.write_bytes(to_bytes(Spotter(config) if bits is None else quantize(Spotter(config), bits=bits)))
    with allocating_at_most(12 * path.stat().st_size):
        load(path)


def test_a_configuration_that_fits_is_accepted(content: bytes, path: Path) -> None:
    """So that the others are refused for what is wrong with them."""
    path.write_bytes(rewritten(content, config=json.dumps(CONFIG)))
    assert load(path).config.network.hidden == (5, 4)


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        """What an unpickler would do."""
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_never_executed(path: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"network.conv.bias": Canary(canary)}, path)
    assert "cannot be read as a model" in refusal(path)
    assert not canary.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert canary.exists(), "the canary sings where a pickle is executed"


NO_MODELS = {
    "empty": (b"", "cannot be read as a model"),
    "one byte": (b"\x08", "cannot be read as a model"),
    "zeros": (b"\0" * 8, "cannot be read as a model"),
    "a header of all memory": (b"\xff" * 64, "its header would be 18,446,744,073,709,551,615 bytes long"),
    "a header of much memory": (
        (2 << 20).to_bytes(8, "little") + b"{}",
        "header would be 2,097,152 bytes long",
    ),
    "an empty header": (b"\2" + b"\0" * 7 + b"{}", "format None, expected 'hark-model-1'"),
    "a web page": (b"<html>" * 99, "cannot be read as a model (its header would be"),
    "a zip": (b"PK\3\4" + b"\0" * 99, '(a zip archive, as torch.save makes them: "hark import" reads those)'),
    "a pickle": (b"\x80\4\x95" + b"\0" * 99, "cannot be read as a model (a pickle, which is never read)"),
    "TFLite": (b"\x1c\0\0\0TFL3" + b"\0" * 99, "(a TFLite model, which hark does not read)"),
    "ONNX": (b"\x08\x0a\x12\x07pytorch:", "(an ONNX model, which hark does not read)"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 99, "(a gzip archive)"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "(an HDF5 file, as Keras makes them)"),
    "tar": (b"./config.yaml".ljust(257, b"\0") + b"ustar\0" + b"\0" * 99, "(a tar archive, as .nemo files are)"),
}


@pytest.mark.parametrize(("content", "said"), NO_MODELS.values(), ids=NO_MODELS.keys())
def test_what_is_no_model_is_refused_by_what_it_is(content: bytes, said: str, path: Path) -> None:
    path.write_bytes(content)
    assert said in refusal(path)


def test_a_model_that_begins_like_another_format_is_still_read(content: bytes, path: Path) -> None:
    """The length of its header comes first, and may be written like the beginning of a gzip archive."""
    size = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + size], content[8 + size :]
    length = int.from_bytes(b"\x1f\x8b\x08", "little")
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + rest)
    assert to_bytes(load(path)) == content


def test_a_header_that_claims_more_than_the_file_has_is_refused(path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
    assert "cannot be read as a model" in refusal(path)


def test_a_file_larger_than_any_model_is_refused_unread(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    assert refusal(path) == "16,777,217 bytes, expected at most 16,777,216"


def test_a_missing_file_is_refused(path: Path) -> None:
    assert "No such file or directory" in refusal(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "not a file; expected a model such as model.safetensors"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_cannot_block(path: Path) -> None:
    os.mkfifo(path)
    assert "not a file" in refusal(path)
