from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import hark
from hark.errors import HarkError, ModelError, ModelFileError, UsageError
from hark.judging.detection import OperatingPoint
from hark.packed import packing
from hark.packed.packed_model import PackedModel
from hark.runtime import Model, Runner, Stream
from packed_models import random_model

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def packed() -> PackedModel:
    return random_model("integer", ["convolution", "gru", "attention"], seed=0)


@pytest.fixture(scope="module")
def model(packed: PackedModel) -> Model:
    return Model(packing.to_bytes(packed))


def test_a_model_is_opened_from_a_path_and_from_bytes_alike() -> None:
    path = GOLDEN / "v1-integer.hark"
    sound = np.arange(4_000, dtype=np.int16)
    opened = [hark.Model(path), hark.Model(str(path)), hark.Model(path.read_bytes())]
    first, *others = (model.stream().step(sound) for model in opened)
    assert len(first)
    assert all(np.array_equal(first, other) for other in others)


def test_a_model_says_what_it_is(model: Model, packed: PackedModel) -> None:
    hop = packed.front_end.hop_length
    assert model.labels == packed.labels
    assert model.sample_rate == packed.front_end.sample_rate
    assert (model.step_samples, model.first_step_samples) == (
        packed.step_frames * hop,
        packed.first_step_frames * hop,
    )
    assert model.operating_point == packed.operating_point
    assert model.is_integer


def test_a_model_is_a_runner_and_gives_streams(model: Model) -> None:
    runner: Runner = model
    stream: Stream = runner.stream()
    assert stream.step(np.zeros(0, np.int16)).shape == (0, len(runner.labels))


def test_posteriors_are_probabilities_of_each_step(model: Model) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 2_000).astype(np.float32)
    posteriors = model.stream().step(sound)
    assert posteriors.shape == ((2_000 - model.first_step_samples) // model.step_samples + 1, len(model.labels))
    np.testing.assert_allclose(posteriors.sum(axis=1), 1, rtol=1e-6)
    assert model.streams(3).step(np.stack([sound] * 3)).shape == (3, *posteriors.shape)


def test_the_detector_is_that_of_the_file() -> None:
    seeds = (random_model("integer", ["gru"], seed=seed) for seed in range(20))
    packed = next(model for model in seeds if model.operating_point)
    model = Model(packing.to_bytes(packed))
    detector = model.detector()
    assert detector.operating_point == OperatingPoint(0.5, 3, 1.25)
    assert (detector.hop_samples, detector.sample_rate) == (model.step_samples, model.sample_rate)


def test_without_an_operating_point_there_is_no_detector() -> None:
    seeds = (random_model("integer", ["gru"], seed=seed) for seed in range(20))
    packed = next(model for model in seeds if not model.operating_point)
    with pytest.raises(ModelError, match="the model has no operating point, expected one in the file"):
        Model(packing.to_bytes(packed)).detector()


def test_a_model_goes_to_another_process_as_its_file_and_a_stream_not_at_all(model: Model) -> None:
    sound = np.arange(2_000, dtype=np.int16)
    again = copy.deepcopy(model)
    assert np.array_equal(again.stream().step(sound), model.stream().step(sound))
    with pytest.raises(TypeError, match=r"cannot pickle 'hark\._engine\.Stream' object"):
        copy.deepcopy(model.stream())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"RIFF", r"a model of 4 bytes: begins with b'RIFF', expected b'HARK'; give a \.hark file"),
        (GOLDEN / "absent.hark", r"absent\.hark: No such file or directory; give the path of a \.hark file"),
        (GOLDEN, r"golden: not a file; give the path of a \.hark file"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(source: bytes | Path, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        Model(source)


def test_a_pipe_cannot_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.hark")
    with pytest.raises(ModelFileError, match="not a file"):
        Model(tmp_path / "a.hark")


def test_a_damaged_model_is_refused_with_the_reason() -> None:
    file = bytearray((GOLDEN / "v1-integer.hark").read_bytes())
    file[40] ^= 1
    with pytest.raises(ModelFileError, match="damaged, its checksum differs; copy it again"):
        Model(bytes(file))


def test_a_file_too_large_for_a_model_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "film.hark"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelFileError, match=r"1,099,511,627,776 bytes, expected at most 16,842,756"):
        Model(path)


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(9), r"sound of type 'd', expected int16, or float32 in -1 to 1; convert it with \.astype"),
        (np.zeros(9, ">i2"), "sound of type '>h', expected int16"),
        (np.zeros(9, np.uint16), "sound of type 'H', expected int16"),
        (b"1234", "sound of type 'B', expected int16"),
        (np.zeros((1, 9), np.int16), r"sound of 2 dimensions, expected \(samples,\)"),
        (np.zeros(18, np.int16)[::2], r"sound as <class 'numpy.ndarray'>, expected one contiguous array"),
        ([0, 0], r"sound as <class 'list'>, expected one contiguous array; numpy\.ascontiguousarray makes it one"),
        (None, "sound as <class 'NoneType'>"),
    ],
)
def test_sound_of_another_kind_is_refused(model: Model, sound: object, message: str) -> None:
    stream = model.stream()
    with pytest.raises(UsageError, match=message):
        stream.step(sound)  # type: ignore[arg-type]
    assert len(stream.step(np.zeros(model.first_step_samples, np.int16))) == 1, "the stream must be as it was"


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(9, np.int16), r"sound of 1 dimensions, expected \(streams, samples\)"),
        (np.zeros((3, 9), np.int16), "sound for 3 streams, expected it for 2"),
    ],
)
def test_sound_for_other_streams_is_refused(model: Model, sound: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.streams(2).step(sound)


@pytest.mark.parametrize("count", [0, -1])
def test_no_streams_are_refused(model: Model, count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} streams, expected 1 or more"):
        model.streams(count)


def test_more_streams_than_memory_are_refused(model: Model) -> None:
    with pytest.raises(MemoryError):
        model.streams(sys.maxsize)


def test_threads_share_a_model_and_each_steps_its_own_stream(model: Model) -> None:
    rng = np.random.default_rng(0)
    sounds = [rng.integers(-9_000, 9_000, 40_000).astype(np.int16) for _ in range(4)]
    results: list[np.ndarray] = [np.empty(0)] * 4

    def listen(index: int) -> None:
        stream = model.stream()
        results[index] = np.concatenate([stream.step_logits(chunk) for chunk in np.split(sounds[index], 40)])

    threads = [threading.Thread(target=listen, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sound, result in zip(sounds, results, strict=True):
        assert np.array_equal(result, model.stream().step_logits(sound))


def test_a_stream_that_another_thread_steps_refuses_and_is_not_harmed(model: Model) -> None:
    """And this thread runs meanwhile: the engine works without the GIL."""
    stream, sound = model.streams(8), np.zeros((8, 400_000), np.int16)
    refusals: list[HarkError] = []
    for _ in range(50):
        worker = threading.Thread(target=stream.step, args=(sound,))
        worker.start()
        while worker.is_alive() and not refusals:
            try:
                stream.replaced_samples  # noqa: B018
                stream.reset()
            except UsageError as error:
                refusals.append(error)
        worker.join()
        if refusals:
            break
    assert "another thread steps this stream" in str(refusals[0])
    stream.reset()
    assert len(stream.step(sound)[0])


def test_hark_names_the_model_and_imports_it_only_when_asked() -> None:
    ask = (
        "import sys, hark; print('hark.runtime' in sys.modules); hark.Model; print('hark.runtime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_without_the_engine_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hark._engine", None)
    monkeypatch.delattr(hark, "_engine", raising=False)
    with pytest.raises(
        ModelError, match=r"hark's engine is not built \(.*\); install hark where there is a C compiler"
    ):
        Model(b"HARK")
