"""A folder of C hears what Python hears, to the last bit, and no WAV can harm it.

What is not installed here is skipped, and says so.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from contract import spotter
from hark.errors import ModelFileError, UsageError
from hark.judging.detection import Detection, Detector, OperatingPoint
from hark.network.crnn import STAGE_2
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_model import PackedModel
from hark.runtime import Model, detector_for
from hark.shipping.c_folder import export_c
from hark.shipping.model_packing import pack
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
from packed_models import SEPARABLE, random_model
from test_engine_builds import SANITIZERS, deepest_stack, needs, run

Pcm = npt.NDArray[np.int16]
Heard = tuple[str, float, float]
"""Label, time in seconds, score."""

INNER = ("convolution", "gru", "attention")
METADATA = {"source": "a */ b // ??/", "licence": "CC0-1.0"}
POINT = OperatingPoint(0.5, 3, 0.25)


@cache
def models() -> dict[str, PackedModel]:
    """Their thresholds are such that scores cross them."""
    eight_khz = LogMelConfig(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=16)
    one_pass = LogMelConfig(sample_rate=11_025, n_fft=16, hop_length=8, n_mels=4)
    float32 = random_model("float32", INNER, seed=0, front_end=eight_khz)
    three = random_model("integer", INNER, seed=30, front_end=one_pass)
    alone = random_model("integer", SEPARABLE, seed=18, front_end=eight_khz)
    student = spotter(STAGE_2)
    integers = quantize_to_integers(student, calibrate(student, torch.zeros(1, 16_000)))
    drawn = {
        "stage 2": pack(integers, metadata=METADATA),
        "float32 at 8 kHz": replace(float32, labels=("wörd", "")),
        "words": replace(three, labels=('say "hé"\n', "", "two\\")),
        "one class of the smaller kinds": replace(alone, labels=("alone",)),
    }
    return {name: replace(model, operating_point=crossed(model)) for name, model in drawn.items()}


def crossed(model: PackedModel) -> OperatingPoint:
    """An operating point in the midst of a word's scores, as the file holds it."""
    word = next(index for index, label in enumerate(model.labels) if label)
    posteriors = Model(packing.to_bytes(model)).stream().step(sound())[:, word]
    return replace(POINT, threshold=float(np.float32(np.median(posteriors))))


@cache
def sound() -> Pcm:
    """Eight seconds of noise, every quarter of another loudness, silence among them."""
    rng = np.random.default_rng(3)
    loudness = rng.choice([0, 30, 3_000, 20_000], 32).repeat(4_000)
    return np.clip(loudness * rng.normal(size=128_000), -32_768, 32_767).astype(np.int16)


def wav(samples: Pcm, rate: int) -> bytes:
    """A recording, with a chunk of odd length before its sound."""
    data = samples.astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    chunks = form + struct.pack("<4sI", b"LIST", 3) + b"abc\0" + struct.pack("<4sI", b"data", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def expected(model: PackedModel, point: OperatingPoint | None = None) -> list[Heard]:
    """What the engine and the detector of Python find in the sound."""
    opened = Model(packing.to_bytes(model))
    detector = detector_for(opened, point or model.operating_point or POINT)
    posteriors = opened.stream().step(sound())
    found = [(label, *timed) for index, label in enumerate(opened.labels) if label
             for timed in times(detector, posteriors[:, index])]  # fmt: skip
    return sorted(found, key=lambda heard: heard[1])


def times(detector: Detector, posteriors: npt.NDArray[np.float32]) -> list[tuple[float, float]]:
    found: list[Detection]
    found, _ = detector.step(posteriors, detector.initial_state())
    return [(detection.time_s, detection.score) for detection in found]


def exported(model: PackedModel, folder: Path) -> Path:
    """The folder of a model, with the sound as a recording."""
    export_c(packing.to_bytes(model), folder)
    (folder / "sound.wav").write_bytes(wav(sound(), model.front_end.sample_rate))
    return folder


def heard(command: Sequence[object], folder: Path) -> list[Heard]:
    """What a program says in JSON, of the recording alone."""
    lines = [json.loads(line) for line in run([*command, "--json", folder / "sound.wav"]).splitlines()]
    assert {line["file"] for line in lines} <= {str(folder / "sound.wav")}
    return [(line["label"], line["time_s"], line["score"]) for line in lines]


def build(folder: Path, compiler: str, *flags: str) -> Path:
    needs("make", compiler)
    run(["make", "-B", "-C", folder, f"CC={compiler}", f"CFLAGS={' '.join(['-Werror', *flags])}"])
    return folder / "spot"


@pytest.fixture(scope="module")
def stage_2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(models()["stage 2"], tmp_path_factory.mktemp("c") / "stage-2")


@pytest.fixture(scope="module")
def checked_spot(stage_2_folder: Path) -> Path:
    """The program of stage 2, under sanitizers."""
    return build(stage_2_folder, "gcc", *SANITIZERS)


def test_detections_are_those_of_python_to_the_last_bit(checked_spot: Path, stage_2_folder: Path) -> None:
    found = heard([checked_spot], stage_2_folder)
    assert found == expected(models()["stage 2"])
    assert len(found) > 2


@pytest.mark.parametrize("name", list(models())[1:])
def test_any_front_end_and_any_words_are_heard_alike(name: str, tmp_path: Path) -> None:
    folder = exported(models()[name], tmp_path / "c")
    found = heard([build(folder, "gcc", "-O1")], folder)
    assert found == expected(models()[name])
    assert len(found) > 2


BUILDS: dict[str, tuple[str, list[str], list[str]]] = {
    "clang": ("clang", ["-O2"], []),
    "Arm 64 bit": ("aarch64-linux-gnu-gcc", ["-O2", "-static"], ["qemu-aarch64"]),
    "Arm 32 bit": (
        "arm-none-eabi-gcc",
        ["-Os", "-march=armv7-a", "-marm", "-mfloat-abi=hard", "-mfpu=vfpv3-d16", "--specs=rdimon.specs"],
        ["qemu-arm"],
    ),
}


@pytest.mark.parametrize(("compiler", "flags", "runner"), BUILDS.values(), ids=BUILDS)
def test_every_build_hears_the_same(compiler: str, flags: list[str], runner: list[str], tmp_path: Path) -> None:
    needs(compiler, *runner)
    for spec in (flag.partition("=")[2] for flag in flags if flag.startswith("--specs=")):
        if run([compiler, f"-print-file-name={spec}"]).strip() == spec:
            pytest.skip("newlib for Arm: not installed")
    folder = exported(models()["stage 2"], tmp_path / "c")
    assert heard([*runner, build(folder, compiler, *flags)], folder) == expected(models()["stage 2"])


def test_lines_for_people_tell_file_time_score_and_word(checked_spot: Path, stage_2_folder: Path) -> None:
    path = stage_2_folder / "sound.wav"
    lines = [
        f"{path}  {time_s:.3f} s  {score:.3f}  {label}" for label, time_s, score in expected(models()["stage 2"])
    ]
    assert run([checked_spot, path]).splitlines() == lines


def test_options_replace_the_models_operating_point(checked_spot: Path, stage_2_folder: Path) -> None:
    point = OperatingPoint(models()["stage 2"].operating_point.threshold - 0.01, 20, 0.0)  # type: ignore[union-attr]
    options = ["--threshold", point.threshold, "--smoothing", point.smoothing_steps, "--refractory", 0]
    found = heard([checked_spot, *options], stage_2_folder)
    assert found == expected(models()["stage 2"], point)
    assert found != expected(models()["stage 2"])


def test_a_model_without_an_operating_point_asks_for_a_threshold(tmp_path: Path) -> None:
    model = replace(models()["words"], operating_point=None)
    folder = exported(model, tmp_path / "c")
    spot = build(folder, "gcc", "-O1")
    assert refused([spot, folder / "sound.wav"], 2).startswith(
        "the model has no operating point: give --threshold\n"
    )
    point = OperatingPoint(models()["words"].operating_point.threshold)  # type: ignore[union-attr]
    assert heard([spot, "--threshold", point.threshold], folder) == expected(model, point)


def refused(command: Sequence[object], code: int) -> str:
    """What a program says to a call that fails with `code`."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no FILE"),
        (["--loud", "a.wav"], "--loud"),
        (["--threshold"], "--threshold"),
        (["--threshold", "nan", "a.wav"], "--threshold"),
        (["--threshold", "0.5x", "a.wav"], "--threshold"),
        (["--smoothing", "2.5", "a.wav"], "--smoothing"),
        (["--smoothing", "4097", "a.wav"], "--smoothing"),
        (["--refractory", "-1", "a.wav"], "--refractory"),
    ],
)
def test_a_wrong_call_is_answered_with_the_usage(checked_spot: Path, options: list[str], said: str) -> None:
    first, usage, _ = refused([checked_spot, *options], 2).splitlines()
    assert first == said
    assert usage.startswith("usage: spot ")


WHOLE = wav(np.arange(160, dtype=np.int16), 16_000)


def with_format(*, kind: int = 1, channels: int = 1, rate: int = 16_000, block: int = 2, bits: int = 16) -> bytes:
    form = struct.pack("<HHIIHH", kind, channels, rate, 32_000, block, bits)
    return WHOLE[:20] + form + WHOLE[36:]


HOSTILE = {
    "nothing": (b"", "no WAV file"),
    "another format": (b"fLaC" + WHOLE[4:], "no WAV file"),
    "no sound": (WHOLE[:36], "cut off before its sound begins"),
    "cut off": (WHOLE[:-1], "cut off within its sound"),
    "cut off within its format": (WHOLE[:30], "cut off within its format"),
    "no format": (WHOLE[:12] + WHOLE[36:], "its sound comes before its format"),
    "a short format": (WHOLE[:16] + struct.pack("<I", 14) + WHOLE[20:], "a format that is too short"),
    "a chunk of 4 GB": (WHOLE[:40] + b"\xff" * 4 + WHOLE[44:], "cut off before its sound begins"),
    "chunks without end": (WHOLE[:36] + struct.pack("<4sI", b"JUNK", 0) * 2_000, "too many chunks"),
    "half a sample": (WHOLE[:52] + struct.pack("<I", 319) + WHOLE[56:], "half a sample at its end"),
    "more promised than held": (WHOLE[:52] + b"\xfe\xff\xff\xff" + WHOLE[56:], "cut off within its sound"),
    "two channels": (with_format(channels=2), "format 1, 2 channels, 16000 Hz"),
    "another rate": (with_format(rate=44_100), "format 1, 1 channels, 44100 Hz"),
    "24 bits": (with_format(bits=24, block=3), "format 1, 1 channels, 16000 Hz, 24 bits, blocks of 3; expected"),
    "no integers": (with_format(kind=3), "format 3, "),
    "a block that is no sample": (with_format(block=0), "format 1, 1 channels, 16000 Hz, 16 bits, blocks of 0"),
}


@pytest.mark.parametrize(("content", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_wav_that_is_not_what_was_asked_for_is_refused(
    checked_spot: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    lines = refused([checked_spot, path], 1).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: {said}")


def test_no_damage_to_a_header_is_more_than_an_error(checked_spot: Path, tmp_path: Path) -> None:
    """200 files, each with some bytes changed, in one call under sanitizers."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.wav" for index in range(200)]
    for path in paths:
        content = bytearray(WHOLE[: rng.integers(len(WHOLE))] if rng.random() < 0.2 else WHOLE)
        for place in rng.integers(0, min(56, len(content) or 1), 3)[: len(content)]:
            content[place] = rng.choice([0, 1, 127, 128, 255])
        path.write_bytes(content)
    done = subprocess.run([checked_spot, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert all(re.match(rf"{re.escape(str(tmp_path))}/\d+\.wav: ", line) for line in lines), done.stderr
    assert len(lines) > 100


def test_a_file_that_is_not_there_is_told_and_the_next_one_heard(checked_spot: Path, stage_2_folder: Path) -> None:
    command = [checked_spot, "none.wav", stage_2_folder / "sound.wav"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "none.wav: cannot be opened\n")
    assert len(done.stdout.splitlines()) == len(expected(models()["stage 2"]))


def test_nothing_is_allocated(stage_2_folder: Path) -> None:
    needs("make", "gcc", "nm")
    run(["make", "-C", stage_2_folder, "arm", "ARM=", "ARMFLAGS=-O2"])
    undefined = {line.split()[-1] for line in run(["nm", "-u", stage_2_folder / "arm" / "spotter.o"]).splitlines()}
    assert undefined <= {"memcpy", "memmove", "memset", "model_file", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


@pytest.fixture(scope="module")
def cortex_m4(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, int]]]:
    """A folder made for a Cortex-M4, and what each of its objects takes."""
    needs("make", "arm-none-eabi-gcc", "arm-none-eabi-size", "arm-none-eabi-nm")
    folder = exported(models()["stage 2"], tmp_path_factory.mktemp("m4") / "c")
    (folder / "device.c").write_text((folder / "device.c").read_text() + "char opened[sizeof(hark_model)];\n")
    flags = re.search(r"ARMFLAGS := (.*)", (folder / "Makefile").read_text())
    assert flags
    printed = run(["make", "-C", folder, "arm", f"ARMFLAGS={flags[1]} -Werror -fcallgraph-info=su"])
    rows = [line.split() for line in printed.splitlines() if line.endswith(".o") and line.split()[0].isdigit()]
    return folder, {row[-1]: dict(zip(("text", "data", "bss"), map(int, row), strict=False)) for row in rows}


def test_a_cortex_m4_takes_what_the_readme_says(cortex_m4: tuple[Path, dict[str, dict[str, int]]]) -> None:
    folder, sizes = cortex_m4
    memory = Model(packing.to_bytes(models()["stage 2"])).device_memory
    opened = run(["arm-none-eabi-nm", "--print-size", "--radix=d", folder / "arm" / "device.o"])
    assert f" {memory.opened_model:08d} B opened" in opened
    detector = 40 + 2 * (20 + 4 * POINT.smoothing_steps)
    buffer = 2 * 160
    held = sizes["arm/device.o"]["bss"] - memory.opened_model - buffer
    told = memory.state + memory.scratch + memory.opened_model + detector
    assert 0 <= told - held <= 64, "pointers of 32 bits save some bytes"
    graph = (folder / "arm" / "spotter.ci").read_text()
    assert deepest_stack(graph, "hark_step") == pytest.approx(memory.stack, abs=64)
    assert f"| **RAM** | **{memory.total:,}** |" in (folder / "README.md").read_text()


def test_engine_and_detector_for_a_cortex_m4_are_at_most_24_kilobytes(
    cortex_m4: tuple[Path, dict[str, dict[str, int]]],
) -> None:
    _, sizes = cortex_m4
    assert sizes["arm/spotter.o"]["text"] <= 24 * 1024
    assert sizes["arm/spotter.o"]["data"] == sizes["arm/spotter.o"]["bss"] == 0
    model = replace(models()["stage 2"], metadata={})
    assert 0 <= sizes["arm/model.o"]["text"] - len(packing.to_bytes(model)) < 4, "metadata are no part of it"


def test_provenance_is_kept_in_a_comment(stage_2_folder: Path) -> None:
    first = (stage_2_folder / "model.c").read_text().splitlines()[0]
    assert json.loads(first.removeprefix("/* ").removesuffix(" */")) == METADATA


def test_a_damaged_file_or_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    file = packing.to_bytes(replace(models()["words"], metadata={}))
    with pytest.raises(ModelFileError, match="cut off at"):
        export_c(file[:-1], tmp_path / "c")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="is not empty, expected a new or an empty folder"):
        export_c(file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write: Callable[[Path, str], int] = Path.write_text

    def full(path: Path, text: str) -> int:
        if path.name == "spotter.c":
            raise OSError(28, "No space left on device")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Exception, match="No space left on device; free some space"):
        export_c(packing.to_bytes(models()["words"]), tmp_path / "c")
    assert not list(tmp_path.iterdir())
