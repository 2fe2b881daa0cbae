from __future__ import annotations

import numpy as np
import torch

from contract import small_spotter
from front_ends import some_sound
from hark.packed import packing
from hark.runtime import Model, Runner
from hark.shipping.model_packing import pack
from hark.shipping.torch_runner import TorchRunner


def test_torch_and_the_engine_agree_through_the_same_door_to_1e_5() -> None:
    spotter = small_spotter()
    runners: list[Runner] = [TorchRunner(spotter), Model(packing.to_bytes(pack(spotter)))]
    sound = some_sound(3_000, kind="float32", seed=4)
    for facts in ("labels", "sample_rate", "step_samples", "first_step_samples"):
        assert getattr(runners[0], facts) == getattr(runners[1], facts)
    outputs = []
    for runner in runners:
        stream = runner.stream()
        outputs.append(np.concatenate([stream.step_logits(chunk) for chunk in np.split(sound, [7, 900, 901])]))
        stream.reset()
        assert np.array_equal(stream.step(sound).argmax(axis=1), outputs[-1].argmax(axis=1))
    assert len(outputs[0]) > 50
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=1e-5)


def test_int16_is_a_32768th_and_the_sound_stays_as_it_was() -> None:
    runner, sound = TorchRunner(small_spotter()), np.asarray(some_sound(600), np.int16)
    before = sound.copy()
    as_float = (sound / 32_768).astype(np.float32)
    assert np.array_equal(runner.stream().step_logits(sound), runner.stream().step_logits(as_float))
    assert np.array_equal(sound, before)


def test_posteriors_are_the_softmax_of_the_logits() -> None:
    runner, sound = TorchRunner(small_spotter()), some_sound(600, kind="float32")
    logits = torch.from_numpy(runner.stream().step_logits(sound))
    np.testing.assert_allclose(runner.stream().step(sound), torch.softmax(logits, dim=-1).numpy(), rtol=1e-6)
