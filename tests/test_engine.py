"""The C engine against what each bit must be, in every build that this machine can run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from front_ends import COMMON, SIZES, front_ends, some_sound
from hark import _engine
from hark.errors import UsageError
from hark.packed import float32_math, integer_arithmetic, packing
from hark.packed.front_end import log_mels
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.network_reference import NetworkReference, posteriors
from hark.packed.packed_layers import (
    FUNCTIONS,
    Activation,
    Affine,
    Arithmetic,
    Convolution,
    DepthwiseConvolution,
    FastGrnn,
    FloatMatrix,
    Frame,
    Function,
    Gru,
    IntegerMatrix,
    Layer,
    Linear,
    Matrix,
    MinimalGru,
)
from hark.packed.packed_model import PackedModel
from packed_models import ARITHMETICS, CELLS, SEPARABLE, Maker, packed_models, random_model

Floats = npt.NDArray[np.float32]
Sound = npt.NDArray[np.int16] | npt.NDArray[np.float32]

GOLDEN = Path(__file__).parent / "golden"
variants = pytest.mark.parametrize("variant", _engine.VARIANTS)
law = settings(max_examples=60, deadline=None, derandomize=True)


def reference_logits(model: PackedModel, sound: Sound) -> Floats:
    """`(steps, classes)` from the NumPy references."""
    features = log_mels(sound, model.front_end).T[None]
    return NetworkReference(model)(features)[0].T


def identity(arithmetic: Arithmetic, size: int) -> Matrix:
    """It adds nothing but zeros to each value, or in integers multiplies it so much that none becomes another."""
    if arithmetic == "float32":
        return FloatMatrix(np.eye(size, dtype=np.float32), np.zeros(size, np.float32))
    return IntegerMatrix(
        bits=8,
        weights=127 * np.eye(size, dtype=np.int8),
        multipliers=np.full(size, 65_535, np.uint16),
        shift=15,
        bias=np.zeros(size, np.int16),
    )


def listener(config: LogMelConfig) -> PackedModel:
    """A model whose logits are the log-mels."""
    labels = tuple(str(band) for band in range(config.n_mels))
    layers = (Linear(identity("float32", config.n_mels)),)
    return PackedModel(arithmetic="float32", front_end=config, layers=layers, labels=labels)


def opened(model: PackedModel, variant: str) -> _engine.Model:
    return _engine.Model(packing.to_bytes(model), variant)


def enough_sound(model: PackedModel, *, steps: int = 4, seed: int = 0, kind: str = "int16") -> Sound:
    """Sound for some steps, and part of another."""
    frames = model.first_step_frames + (steps - 1) * model.step_frames
    hop = model.front_end.hop_length
    return some_sound(frames * hop + hop // 2, kind=kind, seed=seed)  # type: ignore[arg-type]


@variants
@law
@given(config=front_ends(largest=600), seed=st.integers(0, 99), frames=st.integers(0, 20))
def test_log_mels_of_any_settings_have_the_bits_of_the_reference(
    variant: str, config: LogMelConfig, seed: int, frames: int
) -> None:
    sound = some_sound(frames * config.hop_length + config.hop_length // 3, kind="float32", seed=seed)
    ours = opened(listener(config), variant).stream().step_logits(sound)
    assert np.array_equal(ours, log_mels(sound, config))


@variants
def test_log_mels_by_an_fft_of_each_size_have_the_bits_of_the_reference(variant: str) -> None:
    for size in SIZES:
        config = LogMelConfig(n_fft=size, hop_length=size // 2, n_mels=max(1, size // 10))
        sound = some_sound(2 * size, seed=size)
        assert np.array_equal(
            opened(listener(config), variant).stream().step_logits(sound), log_mels(sound, config)
        )


@variants
@law
@given(model=packed_models(), seed=st.integers(0, 99), kind=st.sampled_from(["int16", "float32"]))
def test_logits_of_any_model_have_the_bits_of_the_reference(
    variant: str, model: PackedModel, seed: int, kind: str
) -> None:
    sound = enough_sound(model, seed=seed, kind=kind)
    ours = opened(model, variant).stream().step_logits(sound)
    assert len(ours) == 4
    assert np.array_equal(ours, reference_logits(model, sound))


@st.composite
def wide_models(draw: st.DrawFn) -> PackedModel:
    """Of up to a hundred bins, nine channels and seventy units: rows and bins of every number of vectors."""
    rng = np.random.default_rng(draw(st.integers(0, 9_999)))
    arithmetic = draw(st.sampled_from(ARITHMETICS))
    make = Maker(arithmetic, rng)
    config = LogMelConfig(hop_length=draw(st.sampled_from([100, 160, 400])), n_mels=draw(st.integers(1, 100)))
    frame = Frame(1, config.n_mels)
    channels, units, classes = draw(st.integers(1, 9)), draw(st.integers(1, 70)), draw(st.integers(1, 40))
    kernel = (draw(st.integers(1, config.n_mels)), draw(st.integers(1, 5)))
    stride = (draw(st.integers(1, 5)), draw(st.integers(1, kernel[1])))
    layers: list[Layer] = [
        make.affine(frame),
        Convolution(make.matrix(channels, kernel[0] * kernel[1]), kernel, stride),
    ]
    frame = layers[-1].after(frame)
    if draw(st.booleans()):
        kernel = (draw(st.integers(1, frame.bins)), draw(st.integers(1, 5)))
        stride = (draw(st.integers(1, 5)), draw(st.integers(1, kernel[1])))
        layers.append(DepthwiseConvolution(make.matrix(channels, kernel[0] * kernel[1]), kernel, stride))
        frame = layers[-1].after(frame)
    layers.append(make.cell(draw(st.sampled_from(CELLS)), frame, units))
    attention = draw(st.sampled_from([make.attention, make.query_attention]))
    layers.append(attention(Frame(1, units)))
    layers.append(make.linear(Frame(1, units), outputs=classes))
    labels = tuple(str(index) for index in range(classes))
    return PackedModel(arithmetic=arithmetic, front_end=config, layers=tuple(layers), labels=labels).check()


@variants
@settings(law, max_examples=40)
@given(model=wide_models(), count=st.integers(1, 9))
def test_wide_layers_have_the_bits_of_the_reference(variant: str, model: PackedModel, count: int) -> None:
    sound = np.stack([enough_sound(model, steps=3, seed=seed) for seed in range(count)])
    ours = opened(model, variant).streams(count).step_logits(sound)
    for row in range(count):
        assert np.array_equal(ours[row], reference_logits(model, sound[row]))


@variants
@law
@given(model=packed_models(), data=st.data())
def test_any_chunking_gives_the_same_bits(variant: str, model: PackedModel, data: st.DataObject) -> None:
    sound = enough_sound(model, steps=3)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sound)), max_size=12)))
    stream = opened(model, variant).stream()
    outputs = [stream.step_logits(sound[begin:end]) for begin, end in pairwise([0, *cuts, len(sound)])]
    assert np.array_equal(np.concatenate(outputs), opened(model, variant).stream().step_logits(sound))


@variants
@pytest.mark.parametrize("frames", range(1, 21))
def test_any_number_of_frames_at_once_gives_the_same_bits(variant: str, frames: int) -> None:
    config = LogMelConfig(n_fft=32, hop_length=12, n_mels=8)
    sound, chunk = some_sound(3 * 20 * 12, seed=frames), 12 * frames + frames % 3
    stream = opened(listener(config), variant).stream()
    outputs = [stream.step_logits(sound[start : start + chunk]) for start in range(0, len(sound), chunk)]
    assert np.array_equal(np.concatenate(outputs), log_mels(sound, config))


@variants
@settings(law, max_examples=30)
@given(model=packed_models(), count=st.integers(1, 19), cut=st.floats(0, 1))
def test_streams_side_by_side_have_the_bits_of_each_alone(
    variant: str, model: PackedModel, count: int, cut: float
) -> None:
    """And do not mix, whatever the others hear."""
    sound = np.stack([enough_sound(model, steps=3, seed=seed) for seed in range(count)])
    engine = opened(model, variant)
    streams, first = engine.streams(count), int(cut * sound.shape[1])
    halves = [np.ascontiguousarray(half) for half in np.split(sound, [first], axis=1)]
    together = np.concatenate([streams.step_logits(half) for half in halves], axis=1)
    for row in range(count):
        assert np.array_equal(together[row], engine.stream().step_logits(sound[row]))


@variants
@settings(law, max_examples=30)
@given(model=packed_models())
def test_posteriors_are_the_softmax_of_the_logits_bit_for_bit(variant: str, model: PackedModel) -> None:
    sound = enough_sound(model)
    ours = opened(model, variant).stream().step(sound)
    expected = posteriors(reference_logits(model, sound).T[None])[0].T
    assert np.array_equal(ours, expected)


@variants
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_functions_of_many_values_have_the_bits_of_the_reference(
    variant: str, arithmetic: Arithmetic, function: Function
) -> None:
    """Log-mels, spread over the function's range, through it and out by an identity that loses nothing."""
    config, is_integer = LogMelConfig(n_mels=100), arithmetic == "integer"
    spread = (np.uint16(40_000), np.int16(9_000), 4) if is_integer else (np.float32(2), np.float32(12), 0)
    affine = Affine(spread[0][None], spread[1][None], spread[2])
    labels = tuple(str(band) for band in range(config.n_mels))
    layers = (affine, Activation(function), Linear(identity(arithmetic, config.n_mels)))
    model = PackedModel(arithmetic=arithmetic, front_end=config, layers=layers, labels=labels)
    sound = some_sound(24_000, seed=1)
    ours = opened(model, variant).stream().step_logits(sound)
    assert len(np.unique(ours)) > 2_000
    assert np.array_equal(ours, reference_logits(model, sound))


@variants
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_wide_cell_has_the_right_bits_for_thousands_of_steps(
    variant: str, arithmetic: Arithmetic, kind: type[Gru | MinimalGru | FastGrnn]
) -> None:
    """Its states come out one by one, and so often that the rare ties of rounding are among them."""
    rng = np.random.default_rng(7)
    make, config, units = Maker(arithmetic, rng), LogMelConfig(n_fft=8, hop_length=2, n_mels=2), 70
    biases = (kind.gates + 1) * units
    bias = rng.normal(0, 0.5, biases) if arithmetic == "float32" else rng.integers(-2_000, 2_000, biases)
    rows = [make.matrix(kind.gates * units, inputs, bias=False) for inputs in (2, units)]
    cell = kind(rows[0], rows[1], bias.astype(np.float32 if arithmetic == "float32" else np.int16))
    labels = tuple(str(unit) for unit in range(units))
    layers = (make.affine(Frame(1, 2)), cell, Linear(identity(arithmetic, units)))
    model = PackedModel(arithmetic=arithmetic, front_end=config, layers=layers, labels=labels)
    sound = some_sound(6_000, seed=1)
    ours = opened(model, variant).stream().step_logits(sound)
    assert np.array_equal(ours, reference_logits(model, sound))


@variants
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("config", COMMON, ids=lambda config: f"{config.n_fft}")
def test_common_front_ends_feed_every_layer(variant: str, arithmetic: Arithmetic, config: LogMelConfig) -> None:
    for inner in (["convolution", "gru", "gru", "attention"], SEPARABLE):
        model = random_model(arithmetic, inner, seed=3, front_end=config)
        sound = enough_sound(model, steps=12)
        assert np.array_equal(opened(model, variant).stream().step_logits(sound), reference_logits(model, sound))


@variants
def test_steps_come_when_the_model_says(variant: str) -> None:
    model = random_model("integer", ["convolution", "pooling", "gru"], seed=4)
    engine = opened(model, variant)
    about = engine.describe()
    first, step = about["first_step_samples"], about["step_samples"]
    hop = model.front_end.hop_length
    assert (first, step) == (model.first_step_frames * hop, model.step_frames * hop)
    for samples, steps in ((first - 1, 0), (first, 1), (first + step - 1, 1), (first + step, 2)):
        assert len(engine.stream().step(np.zeros(samples, np.int16))) == steps


@variants
def test_a_stream_that_is_reset_begins_anew_and_a_copy_goes_its_own_way(variant: str) -> None:
    model = random_model("integer", ["convolution", "gru", "attention"], seed=2)
    sound, other = enough_sound(model, steps=6), enough_sound(model, steps=6, seed=1)
    stream = opened(model, variant).stream()
    first = stream.step_logits(sound)
    copy = stream.copy()
    on = stream.step_logits(other)
    assert np.array_equal(copy.step_logits(other), on)
    stream.reset()
    assert np.array_equal(stream.step_logits(sound), first)


@variants
def test_what_is_no_number_is_silence_and_is_counted(variant: str) -> None:
    model = random_model("float32", ["gru", "attention"], seed=1)
    sound = enough_sound(model, steps=20, kind="float32")
    sound[20] = 2.0**20  # the loudest that counts
    hostile, silent = sound.copy(), sound.copy()
    where = np.arange(7, len(sound), 11)
    hostile[where] = np.resize(np.float32([np.nan, np.inf, -np.inf, 2.0**20 + 0.125, -1e38]), len(where))
    silent[where] = 0
    stream = opened(model, variant).stream()
    assert np.array_equal(stream.step_logits(hostile), opened(model, variant).stream().step_logits(silent))
    assert stream.replaced_samples == len(where)
    stream.reset()
    assert stream.replaced_samples == 0


@variants
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_second_of_each_extreme_leaves_a_healthy_state(variant: str, arithmetic: Arithmetic) -> None:
    """After silence, full scale, a constant and clipped noise a stream gives what the reference gives."""
    models = [
        random_model(arithmetic, inner, seed=5) for inner in (["convolution", "gru", "attention"], SEPARABLE)
    ]
    rng = np.random.default_rng(0)
    levels = [
        np.zeros(8_000),
        np.full(8_000, 32_767),
        np.full(8_000, -32_768),
        rng.choice([-32_768, 32_767], 8_000),
    ]
    sound = np.concatenate(levels).astype(np.int16)
    for model in models:
        ours = opened(model, variant).stream().step_logits(sound)
        assert np.all(np.isfinite(ours))
        assert np.array_equal(ours, reference_logits(model, sound))


@variants
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_of_a_fast_cell_fit_32_bits(variant: str, sign: Literal[-1, 1]) -> None:
    """After silence all states are -32,767; loud sound, or more silence, brings A + b + 1 to an end of int32."""
    row = np.array([127] * 512 + [56] * 8 + [66], np.int8)
    units, full = len(row), np.full(1, 65_535, np.uint16)
    rows = np.tile(row, (units, 1))
    from_input = IntegerMatrix(bits=8, weights=rows, multipliers=full, shift=15)
    from_state = IntegerMatrix(bits=8, weights=sign * rows, multipliers=full, shift=15)
    bias = np.repeat(np.int16([32_767 if sign < 0 else -32_768, 32_767]), units)
    assert integer_arithmetic.product(from_input, np.full((1, units), 32_767)).max() == 2**30 - 2**14 - 1
    layers = (
        Affine(full, np.full(1, 32_767, np.int16), 0),
        FastGrnn(from_input, from_state, bias),
        Linear(identity("integer", units)),
    )
    model = PackedModel(
        arithmetic="integer",
        front_end=LogMelConfig(sample_rate=1_000, n_fft=4_096, hop_length=4_096, n_mels=units),
        layers=layers,
        labels=tuple(str(unit) for unit in range(units)),
    ).check()
    silent, loud = (
        np.zeros((1 if sign < 0 else 2) * 4_096, np.int16),
        np.asarray(some_sound(3 * 4_096, seed=2), np.int16),
    )
    sound = np.concatenate([silent, loud])
    ours = opened(model, variant).stream().step_logits(sound)
    assert len(np.unique(ours)) > 1
    assert np.array_equal(ours, reference_logits(model, sound))


@variants
@pytest.mark.parametrize("inner", [SEPARABLE, ["convolution", "gru", "attention"]])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_model_of_one_class_gives_the_sigmoid_of_its_logit(
    variant: str, arithmetic: Arithmetic, inner: list[str]
) -> None:
    models = (random_model(arithmetic, inner, seed=seed) for seed in range(20))
    model = next(model for model in models if len(model.labels) == 1)
    sound, engine = enough_sound(model, steps=9), opened(model, variant)
    logits = engine.stream().step_logits(sound)
    assert engine.describe()["labels"] == ("wörd",)
    assert np.array_equal(logits, reference_logits(model, sound))
    assert np.array_equal(engine.stream().step(sound), float32_math.sigmoid(logits))


@variants
@pytest.mark.parametrize("name", [path.name for path in sorted(GOLDEN.glob("*.hark"))])
def test_golden_files_open_for_ever_with_the_bits_of_the_reference(variant: str, name: str) -> None:
    file = (GOLDEN / name).read_bytes()
    model = packing.from_bytes(file)
    sound = enough_sound(model, steps=8)
    assert np.array_equal(_engine.Model(file, variant).stream().step_logits(sound), reference_logits(model, sound))


def test_a_variant_that_is_not_there_is_refused() -> None:
    file = (GOLDEN / "v1-integer.hark").read_bytes()
    with pytest.raises(
        UsageError, match=r"no variant 'mmx' of the engine here, expected one of hark\._engine\.VARIANTS"
    ):
        _engine.Model(file, "mmx")
