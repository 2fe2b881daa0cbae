"""The folder for browsers: hark.js in Node gives Python's bits; the page in Chromium hears its microphone.

What is not installed here is skipped, and says so.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from front_ends import some_sound
from hark.errors import ModelError, ModelFileError, UsageError
from hark.judging.detection import Detector, OperatingPoint
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_model import PackedModel
from hark.runtime import Model
from hark.shipping import wasm_page
from hark.shipping.wasm_page import export_wasm
from packed_models import ARITHMETICS, INNER, random_model

HERE = Path(__file__).parent / "web"
GOLDEN = Path(__file__).parent / "golden"
POINT = OperatingPoint(0.5, 3, 0.25)

Floats = npt.NDArray[np.float32]
Cases = list[dict[str, Any]]
Hear = Callable[[Cases], list[dict[str, Any]]]


def needs(*tools: str) -> None:
    """Skip where a tool is missing."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden model, exported."""
    needs("clang", "wasm-ld")
    folder = tmp_path_factory.mktemp("wasm") / "page"
    export_wasm((GOLDEN / "v1-integer.hark").read_bytes(), folder)
    return folder


@pytest.fixture(scope="module")
def hear(folder: Path) -> Hear:
    """Runs cases through hark.js in Node: stream.mjs says what a case is."""
    needs("node")

    def run(cases: Cases) -> list[dict[str, Any]]:
        command = ["node", HERE / "stream.mjs", folder]
        done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    return run


def models() -> list[PackedModel]:
    """The golden files, and some of every kind of layer."""
    golden = [packing.load(path) for path in sorted(GOLDEN.glob("*.hark"))]
    return [*golden, *(random_model(kind, inner, seed=1) for kind in ARITHMETICS for inner in (INNER, INNER[6:]))]


def case(folder: Path, model: PackedModel, sound: npt.NDArray[Any], **more: Any) -> dict[str, Any]:
    """A case of stream.mjs, its model and sound written to `folder`."""
    name = f"{len(list(folder.iterdir()))}"
    (folder / f"{name}.hark").write_bytes(packing.to_bytes(model))
    sound.tofile(folder / f"{name}.sound")
    files = {"model": str(folder / f"{name}.hark"), "sound": str(folder / f"{name}.sound")}
    return {**files, "kind": str(sound.dtype), "chunks": [], **more}


def bits(values: Floats) -> list[int]:
    return list(values.view(np.uint32).ravel().tolist())


def test_any_chunking_in_javascript_gives_the_bits_of_python(hear: Hear, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases, expected = [], []
    for model in models():
        for kind in ("int16", "float32"):
            sound = some_sound(9_000, kind=kind, seed=3)  # type: ignore[arg-type]
            stream = Model(packing.to_bytes(model)).stream()
            chunks = [0, 1, *rng.integers(0, 700, 9).tolist(), 4_500]
            cases += [
                case(tmp_path, model, sound, chunks=chunks),
                case(tmp_path, model, sound, wanted="stepLogits"),
            ]
            expected.append(bits(stream.step(sound)))
            stream.reset()
            expected.append(bits(stream.step_logits(sound)))
    assert [found["bits"] for found in hear(cases)] == expected
    assert sum(len(set(numbers)) > 1_000 for numbers in expected) >= len(expected) / 2


def test_javascript_says_of_a_model_what_python_says(hear: Hear, tmp_path: Path) -> None:
    packed = [replace(model, operating_point=point) for model in models() for point in (None, POINT)]
    for found, one in zip(
        hear([case(tmp_path, one, np.zeros(0, np.int16)) for one in packed]), packed, strict=True
    ):
        model = Model(packing.to_bytes(one))
        assert found["labels"] == list(model.labels)
        assert (found["sampleRate"], found["classes"]) == (model.sample_rate, len(model.labels))
        assert (found["stepSamples"], found["firstStepSamples"]) == (model.step_samples, model.first_step_samples)
        assert found["isInteger"] is model.is_integer
        point = found["operatingPoint"]
        assert (point and list(point.values())) == (one.operating_point and list(asdict(POINT).values()))


def test_detections_in_javascript_are_those_of_python(hear: Hear, tmp_path: Path) -> None:
    """At a rate where a refractory time of 10 ms ends at half a sample: both round it to the even one."""
    packed = random_model(
        "float32", ["gru"], seed=3, front_end=LogMelConfig(sample_rate=22_050, n_fft=60, hop_length=20, n_mels=8)
    )
    word = next(index for index, label in enumerate(packed.labels) if label)
    sound = some_sound(30_000, kind="float32", seed=5)
    model = Model(packing.to_bytes(packed))
    posteriors = model.stream().step(sound)[:, word]
    points = [
        OperatingPoint(float(threshold), smoothing, refractory)
        for threshold in np.quantile(posteriors, [0.3, 0.7, 0.95], method="nearest")
        for smoothing, refractory in ((1, 0.01), (2, 0.0), (7, 0.05), (40, 0.25))
    ]
    choices = [
        {"label": packed.labels[word], "threshold": p.threshold}
        | {"smoothingSteps": p.smoothing_steps, "refractoryS": p.refractory_s}
        for p in points
    ]
    cases = [case(tmp_path, packed, sound, choice=choice, chunks=[333] * 60) for choice in choices]
    expected = []
    for point in points:
        detector = detector_of(model, point)
        found, _ = detector.step(posteriors, detector.initial_state())
        expected.append([{"timeS": d.time_s, "score": d.score, "sample": d.sample} for d in found])
    assert [found["detections"] for found in hear(cases)] == expected
    assert sum(len(found) > 3 for found in expected) >= 6


def detector_of(model: Model, point: OperatingPoint) -> Detector:
    return Detector(
        point,
        hop_samples=model.step_samples,
        first_step_samples=model.first_step_samples,
        sample_rate=model.sample_rate,
    )


def test_the_detector_in_javascript_is_that_of_the_file_unless_told_otherwise(hear: Hear, tmp_path: Path) -> None:
    packed = packing.load(GOLDEN / "v1-integer.hark")
    sound = some_sound(16_000, seed=1)
    model = Model(packing.to_bytes(packed))
    posteriors = model.stream().step(sound)[:, 1]
    point = OperatingPoint(float(np.float32(np.median(posteriors))), 2, 0.1)
    file, told = hear(
        [
            case(tmp_path, replace(packed, operating_point=point), sound, choice={}),
            case(tmp_path, replace(packed, operating_point=point), sound, choice={"refractoryS": 0.3}),
        ]
    )
    for found, refractory_s in ((file, 0.1), (told, 0.3)):
        detector = detector_of(model, replace(point, refractory_s=refractory_s))
        expected, _ = detector.step(posteriors, detector.initial_state())
        assert [one["sample"] for one in found["detections"]] == [one.sample for one in expected]
    assert len(file["detections"]) > len(told["detections"]) > 0


def test_javascript_refuses_what_cannot_be_and_says_the_way_out(hear: Hear, tmp_path: Path) -> None:
    golden = packing.load(GOLDEN / "v1-integer.hark")
    nameless = replace(golden, operating_point=None)
    silence = np.zeros(10, np.int16)
    file = packing.to_bytes(replace(golden, metadata={}))
    damaged, foreign, cut = (case(tmp_path, golden, silence) for _ in range(3))
    Path(damaged["model"]).write_bytes(file[:-1] + bytes([file[-1] ^ 1]))
    Path(foreign["model"]).write_bytes(b"RIFF" + file[4:])
    Path(cut["model"]).write_bytes(file[:-9])
    cases = {
        "its checksum differs": damaged,
        "it is no .hark file": foreign,
        "it is cut off": cut,
        "expected one of: hé": case(tmp_path, golden, silence, choice={"label": "no"}),
        "threshold undefined, expected a finite number": case(tmp_path, nameless, silence, choice={}),
        "smoothing over 1.5 steps, expected 1 or more": case(
            tmp_path, golden, silence, choice={"smoothingSteps": 1.5}
        ),
        "a refractory time of -1 s": case(tmp_path, golden, silence, choice={"refractoryS": -1}),
    }
    for found, reason in zip(hear(list(cases.values())), cases, strict=True):
        assert reason in found.get("error", ""), found


def test_the_types_declare_what_there_is(folder: Path) -> None:
    needs("node")
    for name in ("hark", "microphone"):
        ask = f"import * as all from '{folder.as_uri()}/{name}.js'; console.log(Object.keys(all).sort().join())"
        done = subprocess.run(
            ["node", "--input-type=module", "-e", ask], capture_output=True, text=True, check=True
        )
        declared = re.findall(r"^export (?:class|function) (\w+)", (folder / f"{name}.d.ts").read_text(), re.M)
        assert done.stdout.strip() == ",".join(sorted(declared))


@pytest.fixture(scope="module")
def resample(folder: Path) -> Callable[[Floats, int, int, int], Floats]:
    """Resamples through resampler.js in Node, in chunks."""
    needs("node")

    def run(sound: Floats, from_rate: int, to_rate: int, chunk: int) -> Floats:
        numbers = [str(number) for number in (from_rate, to_rate, chunk)]
        command = ["node", HERE / "resample.mjs", folder, *numbers]
        done = subprocess.run(command, input=sound.tobytes(), capture_output=True, timeout=60, check=True)
        return np.frombuffer(done.stdout, np.float32)

    return run


def tone(rate: int, hz: float, seconds: float = 0.3) -> Floats:
    return np.asarray(0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate), np.float32)


@pytest.mark.parametrize("rates", [(48_000, 16_000), (44_100, 16_000), (48_000, 8_000), (8_000, 16_000)])
def test_resampling_keeps_tones_in_their_place(resample: Any, rates: tuple[int, int]) -> None:
    """What comes out is the same tone at the other rate, from the same first moment."""
    for hz in (100, 1_000, 3_400):
        found, expected = resample(tone(rates[0], hz), *rates, 128), tone(rates[1], hz)
        inner = slice(300, len(found) - 300)
        np.testing.assert_allclose(found[inner], expected[: len(found)][inner], atol=1e-3)
        assert 0 < len(expected) - len(found) < 0.015 * rates[1]


def test_resampling_removes_what_the_slower_rate_cannot_hold(resample: Any) -> None:
    kept, removed = (resample(tone(48_000, hz), 48_000, 16_000, 128)[300:-300].std() for hz in (7_000, 8_100))
    assert kept == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert removed < 1e-3 * kept


@pytest.mark.parametrize("chunk", [1, 7, 128, 100_000])
def test_resampling_gives_the_same_for_any_chunking(resample: Any, chunk: int) -> None:
    sound = some_sound(4_410, kind="float32")
    assert np.array_equal(resample(sound, 44_100, 16_000, chunk), resample(sound, 44_100, 16_000, 441))


def test_the_folder_has_every_file_that_its_files_name(folder: Path) -> None:
    named = {
        name
        for path in [*folder.glob("*.js"), *folder.glob("*.ts"), folder / "index.html"]
        for name in re.findall(
            r'(?:from "\./|src="|href="(?!data:)|new URL\("|import\("\./)([^"]+)"', path.read_text()
        )
    }
    assert {"hark.wasm", "word.hark", "worklet.js", "page.css"} <= named
    assert named <= {path.name for path in folder.iterdir()}


def test_the_model_goes_along_as_it_is(folder: Path) -> None:
    assert (folder / "word.hark").read_bytes() == (GOLDEN / "v1-integer.hark").read_bytes()


def test_without_a_compiler_nothing_is_written_and_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"no clang and no wasm-ld .*apt install clang lld"):
        export_wasm((GOLDEN / "v1-integer.hark").read_bytes(), tmp_path / "page")
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("clang", "wasm-ld")
    monkeypatch.setattr(wasm_page, "CLANG", ("clang", "--target=nowhere"))
    with pytest.raises(ModelError, match=r"not compiled to WebAssembly \(.*nowhere.*clang 11"):
        export_wasm((GOLDEN / "v1-integer.hark").read_bytes(), tmp_path / "page")
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="begins with b'RIFF'"):
        export_wasm(b"RIFF" + bytes(60), tmp_path / "page")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        export_wasm((GOLDEN / "v1-integer.hark").read_bytes(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
