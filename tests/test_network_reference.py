from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import chunkings
from hark.packed.network_reference import NetworkReference, posteriors
from hark.packed.packed_layers import Activation, Affine, Convolution, IntegerMatrix, Linear, MeanPooling
from hark.packed.packed_model import PackedModel
from packed_models import ARITHMETICS, packed_models, random_model, some_features

law = settings(max_examples=60, deadline=None, derandomize=True)


@law
@given(model=packed_models(), data=st.data())
def test_any_chunking_gives_the_offline_output_to_the_last_bit(model: PackedModel, data: st.DataObject) -> None:
    network = NetworkReference(model)
    frames = min(60, 3 * model.first_step_frames + 5)
    features = some_features(model, frames)
    state, outputs = network.initial_state(len(features)), []
    for chunk in np.split(features, np.cumsum(data.draw(chunkings(frames)))[:-1], axis=-1):
        logits, state = network.step(chunk, state)
        outputs.append(logits)
    assert np.array_equal(np.concatenate(outputs, axis=-1), network(features))


@law
@given(model=packed_models())
def test_rows_of_a_batch_do_not_mix_and_arguments_stay_as_they_were(model: PackedModel) -> None:
    network = NetworkReference(model)
    features = some_features(model, 2 * model.first_step_frames, batch_size=3)
    before = features.copy()
    together = network(features)
    assert np.array_equal(features, before)
    for row in range(3):
        assert np.array_equal(network(features[row : row + 1])[0], together[row])


@law
@given(model=packed_models())
def test_steps_come_when_the_model_says(model: PackedModel) -> None:
    network, first = NetworkReference(model), model.first_step_frames
    frames = first + 2 * model.step_frames
    for count, steps in ((first - 1, 0), (first, 1), (frames - 1, 2), (frames, 3)):
        assert network(some_features(model, count)).shape == (2, len(model.labels), steps)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_stream_of_extremes_leaves_a_healthy_state(arithmetic: str) -> None:
    """After silence, the loudest there is, noise and no numbers at all, states are finite and within int16."""
    model = random_model(arithmetic, ["convolution", "gru", "gru", "attention"], seed=5)  # type: ignore[arg-type]
    network = NetworkReference(model)
    shape = (1, model.front_end.n_mels, 300)
    pieces = [np.full(shape, level, np.float32) for level in (np.log(1e-9), 11, np.nan, np.inf, -np.inf)]
    state = network.initial_state(1)
    with np.errstate(over="ignore", invalid="ignore"):
        for piece in [*pieces, some_features(model, 300, batch_size=1)]:
            _, state = network.step(piece, state)
    for memory in state[2:]:
        for name, values in memory.items():
            assert np.isfinite(values).all()
            assert name == "energy" or np.abs(values).max() <= (32_767 if arithmetic == "integer" else 1)


def test_attention_forgets_what_is_behind_its_window() -> None:
    model = random_model("integer", ["attention"], seed=8)
    window = model.layers[1].window  # type: ignore[union-attr]
    network = NetworkReference(model)
    features = some_features(model, 3 * window)
    other = features.copy()
    other[..., :window] = 0
    assert np.array_equal(network(features)[..., 2 * window :], network(other)[..., 2 * window :])


def test_a_convolution_counts_its_inputs_time_channel_frequency() -> None:
    """Each weight alone picks one value of one frame."""
    model = random_model("integer", ["linear"], seed=0)
    n_mels = model.front_end.n_mels
    affine = Affine(np.array([1], np.uint16), np.array([0], np.int16), 0)
    two_channels = _picks(2 * n_mels, n_mels)  # channel c of bin b is feature b + 1,000 c
    features = np.arange(n_mels * 4, dtype=np.float32).reshape(1, n_mels, 4)
    for number in range(3 * 2 * 2):
        t, c, k = number // 4, number // 2 % 2, number % 2
        first = Convolution(two_channels, (1, 1), (1, 1))
        picked = Convolution(_picks(1, 12, chosen=number), (2, 3), (1, 1))
        picking = replace(
            model, layers=(affine, first, picked, _passing(n_mels - 1)), logit_bits=0, labels=("",) * (n_mels - 1)
        )
        got = NetworkReference(picking.check())(features)
        expected = (c + 1) * features[0, k : k + n_mels - 1, t : t + 2]
        assert np.array_equal(got[0], expected), (t, c, k)


def _unit(weights: np.ndarray, bias: np.ndarray | None = None) -> IntegerMatrix:
    """A matrix whose multipliers are a quarter, for weights of 4."""
    rows = len(weights)
    return IntegerMatrix(
        bits=8,
        weights=weights.astype(np.int8),
        multipliers=np.full(rows, 1 << 15, np.uint16),
        shift=15,
        bias=np.zeros(rows, np.int16) if bias is None else bias,
    )


def _picks(rows: int, inputs: int, *, chosen: int | None = None) -> IntegerMatrix:
    """One row of weight 1 for `chosen`; else two channels, once and twice the one input."""
    if chosen is None:
        return _unit(np.array([[4], [8]]))
    weights = np.zeros((rows, inputs))
    weights[0, chosen] = 4
    return _unit(weights)


def _passing(size: int) -> Linear:
    return Linear(_unit(4 * np.eye(size)))


def test_pooling_and_activation_by_hand() -> None:
    base = random_model("integer", ["linear"], seed=0)
    affine = Affine(np.array([1], np.uint16), np.array([0], np.int16), 0)
    layers = (affine, MeanPooling((4, 2), (4, 1)), Activation("relu"), _passing(2))
    model = replace(base, layers=layers, labels=("a", "b"), logit_bits=0).check()
    features = np.zeros((1, 8, 3), np.float32)
    features[0, :4] = [[1], [2], [3], [5]]  # means 2.75 and -1.5 of eight values
    features[0, 4:, 0], features[0, 4:, 1:] = -3, 0
    assert NetworkReference(model)(features)[0].tolist() == [[3, 3], [0, 0]]


def test_posteriors_are_per_step() -> None:
    logits = np.array([[[0, 1], [0, -1]]], np.float32)
    found = posteriors(logits)
    assert found.shape == logits.shape
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert found[0, 0, 1] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
