from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hark.errors import ModelFileError
from hark.judging.detection import OperatingPoint
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_layers import Activation, Frame, MeanPooling
from hark.packed.packed_model import PackedModel
from packed_models import Maker, random_model


def model(*inner: Any, arithmetic: Any = "integer", classes: int = 2) -> PackedModel:
    """A valid model with the given layers between affine and end."""
    maker = Maker(arithmetic, np.random.default_rng(0))
    first = maker.affine(Frame(1, 8))
    frame = Frame(1, 8)
    for layer in inner:
        frame = layer.after(frame)
    last = maker.linear(frame, outputs=classes)
    return replace(
        random_model(arithmetic, []), layers=(first, *inner, last), labels=tuple("abcdef"[:classes])
    ).check()


def test_frames_add_up_over_the_layers() -> None:
    """Windows of 3 every 2, and of 4 every 1 of these: 3 + 3 · 2 frames before the first output."""
    pooled = model(MeanPooling((2, 3), (2, 2)), Activation("relu"), MeanPooling((1, 4), (1, 1)))
    assert pooled.first_step_frames == 9
    assert pooled.step_frames == 2
    assert pooled.frames == (Frame(1, 8), Frame(1, 8), Frame(1, 4), Frame(1, 4), Frame(1, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "0 layers, expected 1 to 32"),
        ({"layers": (*model().layers[:1], *(Activation("relu"),) * 32)}, "33 layers, expected 1 to 32"),
        ({"layers": model().layers[:1]}, "another last layer, expected a linear one"),
        ({"layers": model().layers[1:]}, r"layer 0 \(Linear\): another first layer than an affine, expected one"),
        ({"layers": (*model().layers[:1], *model().layers)}, r"layer 1 \(Affine\): an affine behind other layers"),
        ({"arithmetic": "float32"}, r"layer 0 \(Affine\): numbers of type uint16, expected float32"),
        ({"labels": ("a",)}, "1 labels, expected 2, one for each logit"),
        ({"labels": ("a", "é" * 128)}, "the label 'éééééééééééééééééééé'…, expected at most 255 bytes"),
        ({"logit_bits": 31}, "logits of 31 fraction bits, expected 0 to 30"),
        ({"operating_point": OperatingPoint(0.5, 5_000)}, "smoothing over 5,000 steps, expected at most 4,096"),
        (
            {"operating_point": OperatingPoint(0.5, 1, 2_098)},
            "a refractory time of 2098 s, expected less than 2,097",
        ),
        ({"front_end": LogMelConfig(n_fft=44, hop_length=8, n_mels=8)}, "n_fft 44: expected an even number"),
        ({"front_end": LogMelConfig(n_fft=64, hop_length=8, n_mels=9)}, r"layer \d \(\w+\): .* expected"),
    ],
)
def test_a_model_that_breaks_a_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        replace(model(), **changes).check()


def test_a_float_model_needs_no_affine_and_has_no_unit_of_logits() -> None:
    floats = model(arithmetic="float32")
    replace(floats, layers=floats.layers[1:]).check()
    with pytest.raises(ModelFileError, match="logits of 1 fraction bits, expected 0 to 0"):
        replace(floats, logit_bits=1).check()


def test_frames_between_layers_are_bounded() -> None:
    wide = model(Maker("integer", np.random.default_rng(0)).linear(Frame(1, 8), outputs=4_096))
    with pytest.raises(ModelFileError, match=r"layer 1 \(Linear\): frames of 4,097 values, expected at most"):
        model(Maker("integer", np.random.default_rng(0)).linear(Frame(1, 8), outputs=4_097))
    assert wide.frames[-1].size == 4_096


def test_the_first_output_must_come_within_minutes() -> None:
    """Eight poolings of 4 frames each are 65,536 frames; another is too many."""
    pooling = MeanPooling((1, 4), (1, 4))
    assert model(*[pooling] * 8).first_step_frames == 65_536
    with pytest.raises(ModelFileError, match="262,144 frames before the first output, expected at most 65,536"):
        model(*[pooling] * 9)
