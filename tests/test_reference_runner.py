from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import chunkings
from front_ends import some_sound
from hark.packed import packing
from hark.packed.packed_model import PackedModel
from hark.packed.reference_runner import ReferenceRunner
from hark.runtime import Model, Runner
from packed_models import ARITHMETICS, packed_models, random_model

SAMPLES = 1_500


@settings(max_examples=30)
@given(model=packed_models(), data=st.data())
def test_any_chunking_gives_what_the_engine_gives_to_the_last_bit(model: PackedModel, data: st.DataObject) -> None:
    sound = some_sound(SAMPLES, kind=data.draw(st.sampled_from(["int16", "float32"])))
    stream = ReferenceRunner(model).stream()
    chunks = np.split(sound, np.cumsum(data.draw(chunkings(SAMPLES)))[:-1])
    found = np.concatenate([stream.step(chunk) for chunk in chunks])
    assert np.array_equal(found, Model(packing.to_bytes(model)).stream().step(sound))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_it_is_a_runner_with_the_facts_of_the_engine(arithmetic: str) -> None:
    model = random_model(arithmetic, ["convolution", "gru"], seed=3)  # type: ignore[arg-type]
    reference: Runner = ReferenceRunner(model)
    engine = Model(packing.to_bytes(model))
    for fact in ("labels", "sample_rate", "step_samples", "first_step_samples"):
        assert getattr(reference, fact) == getattr(engine, fact)
    first = model.first_step_frames * model.front_end.hop_length
    assert len(reference.stream().step(np.zeros(first - 1, np.int16))) == 0
    assert len(reference.stream().step(np.zeros(first, np.int16))) == 1


def test_after_a_reset_nothing_is_left() -> None:
    model = random_model("integer", ["convolution", "gru", "attention"], seed=1)
    stream, sound = ReferenceRunner(model).stream(), some_sound(SAMPLES)
    first = stream.step_logits(sound[:-3])
    stream.reset()
    assert np.array_equal(stream.step_logits(sound[:-3]), first)
    assert not np.array_equal(stream.step_logits(sound)[: len(first)], first)
