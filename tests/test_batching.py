"""Batches: each a function of its number alone, balanced, varied as told, and nothing changed on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from hark.errors import ConfigError, CorpusError, UsageError
from hark.learning.batching import Batch, Batches, Variation, hear
from hark.learning.dataset import Source, Task, load_task
from hark.network.features import LogMel, LogMelConfig
from hark.sound.policies import WaveAugmentation

CLIP_FRAMES = 100
HOP = LogMelConfig().hop_length
PLAIN = Variation(policy="none", mask_bins=0, mask_frames=0, lived_in_share=0.0)

MakeBatches = Callable[..., Batches]


@pytest.fixture
def batches(tiny_task: Task) -> MakeBatches:
    """Batches of the tiny task in the default variation, unless told otherwise."""

    def make(variation: Variation | None = None, *, size: int = 16, seed: int = 3) -> Batches:
        return Batches(tiny_task, variation or Variation(), LogMelConfig(), size, seed)

    return make


def stream(data: Batches, start: int, stop: int) -> list[Batch]:
    """The batches `start` to `stop`."""
    return [data.make(number) for number in range(start, stop)]


def digest(batch: Batch) -> str:
    """What a batch holds, to the last bit."""
    sha = hashlib.sha256(str(batch.past_frames).encode())
    for tensor in (batch.waveforms, batch.targets, batch.masks):
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return sha.hexdigest()


def test_a_batch_is_a_function_of_its_number_alone(batches: MakeBatches) -> None:
    """Whatever was made before it, wherever the stream began, in whatever object."""
    seventh = digest(batches().make(7))
    data = batches()
    for earlier in (12, 0, 8):
        data.make(earlier)
    assert digest(data.make(7)) == seventh
    for start in range(5, 8):
        streamed = dict(zip(range(start, 9), stream(data, start, 9), strict=True))
        assert digest(streamed[7]) == seventh


def seventh_digest(source: Source) -> str:
    """The digest of batch 7 for a process that has made no other."""
    return digest(Batches(load_task(source, fold=0), Variation(), LogMelConfig(), 16, 3).make(7))


def test_a_batch_is_the_same_in_another_process(batches: MakeBatches, tiny_source: Source) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(seventh_digest, tiny_source).result() == digest(batches().make(7))


def test_batches_differ_by_number_epoch_and_seed(batches: MakeBatches) -> None:
    one, other = batches(), batches(seed=4)
    assert one.per_epoch == 3
    assert len({digest(batch) for batch in (*stream(one, 0, 6), *stream(other, 0, 6))}) == 12


def test_an_epoch_has_as_many_clips_as_the_training_part(batches: MakeBatches, tiny_task: Task) -> None:
    """The last batch of an epoch may be smaller; here 40 clips are 16 + 16 + 8."""
    assert [len(batch.targets) for batch in stream(batches(PLAIN), 0, 4)] == [16, 16, 8, 16]
    (all_at_once,) = stream(batches(PLAIN, size=1000), 0, 1)
    assert len(all_at_once.targets) == len(tiny_task.training) == 40


def test_classes_are_balanced_however_rare_the_keyword(tiny_task: Task) -> None:
    rare = np.flatnonzero(tiny_task.training.targets)[:2]
    rows = [*rare.tolist(), *np.flatnonzero(~tiny_task.training.targets).tolist()]
    data = tiny_task.training
    skewed = replace(
        data, clips=tuple(data.clips[row] for row in rows), pcm=data.pcm[rows], targets=data.targets[rows]
    )
    drawn = Batches(replace(tiny_task, training=skewed), PLAIN, LogMelConfig(), 26, 0)
    targets = torch.cat([batch.targets for batch in stream(drawn, 0, 40)])
    # 1,040 fair draws: 4.5 deviations are 0.07.
    assert float(targets.double().mean()) == pytest.approx(0.5, abs=0.07)


def test_targets_and_sound_of_a_batch_belong_together(batches: MakeBatches, tiny_task: Task) -> None:
    """Without any variation each row is a clip of the training part as it was recorded."""
    clips = {
        row.tobytes(): target
        for row, target in zip(tiny_task.training.pcm, tiny_task.training.targets, strict=True)
    }
    batch = batches(PLAIN).make(0)
    recorded = (batch.waveforms.numpy() * 32_768).astype(np.int16)
    assert batch.past_frames == 0
    assert not batch.masks.any()
    assert [clips[row.tobytes()] for row in recorded] == batch.targets.tolist()


def test_the_past_is_whole_frames_before_all_clips_of_some_batches(batches: MakeBatches) -> None:
    variation = replace(PLAIN, lived_in_share=0.5, lived_in_max_s=0.5)
    data, plain = batches(variation), batches(PLAIN)
    pasts = []
    for number in range(12):
        batch = data.make(number)
        pasts.append(batch.past_frames)
        samples = batch.past_frames * HOP
        assert batch.waveforms.shape == (len(batch.targets), samples + CLIP_FRAMES * HOP)
        assert batch.masks.shape == (len(batch.targets), 40, CLIP_FRAMES)
        assert torch.equal(batch.waveforms[:, samples:], plain.make(number).waveforms)
    assert min(pasts) == 0
    assert 0 < max(pasts) <= 50
    assert len(set(pasts)) > 3


@pytest.mark.parametrize("times", [2, 4, 5])
def test_a_front_end_at_a_part_of_the_rate_gets_the_batches_of_one_with_as_many_frames(
    tiny_task: Task, times: int
) -> None:
    """Drawn, varied and lived-in alike; only what is heard of them is another thing."""
    slow = LogMelConfig(sample_rate=16_000 // times, hop_length=80, n_fft=160, n_mels=16)
    fast = LogMelConfig(hop_length=80 * times, n_mels=16)
    ones, others = (Batches(tiny_task, Variation(lived_in_share=1.0), config, 8, 3) for config in (slow, fast))
    for number in range(4):
        one, other = ones.make(number), others.make(number)
        assert digest(one) == digest(other)
        heard = one.log_mels(LogMel(slow))
        assert heard.shape == other.log_mels(LogMel(fast)).shape
        assert heard.shape[-1] == one.past_frames + one.masks.shape[-1]


def test_training_hears_of_a_clip_what_judging_hears(tiny_task: Task) -> None:
    """But for the 16 bits that judging rounds to."""
    front_end = LogMel(LogMelConfig(sample_rate=8_000, hop_length=160, n_fft=256, n_mels=16))
    data = tiny_task.training
    judged = front_end(data.at_rate(8_000).waveforms(slice(None)))
    trained = hear(front_end, data.waveforms(slice(None)))
    assert float((trained - judged).abs().mean()) < 0.005


@pytest.mark.parametrize("rate", [11_025, 48_000])
def test_a_front_end_for_which_there_are_no_whole_hops_is_refused(tiny_task: Task, rate: int) -> None:
    front_end = LogMelConfig(sample_rate=rate)
    with pytest.raises(ConfigError, match=f"front_end.sample_rate is {rate}, expected 16000, at which recordings"):
        Batches(tiny_task, Variation(), front_end, 8, 0).make(0)


@pytest.mark.parametrize(("share", "lived_in"), [(0.0, 0), (1.0, 6)])
def test_the_share_of_lived_in_batches_is_the_one_asked_for(
    batches: MakeBatches, share: float, lived_in: int
) -> None:
    data = batches(replace(PLAIN, lived_in_share=share))
    assert sum(batch.past_frames > 0 for batch in stream(data, 0, 6)) == lived_in


def test_each_clip_of_a_batch_has_a_past_of_its_own(batches: MakeBatches) -> None:
    batch = batches(replace(PLAIN, lived_in_share=1.0)).make(0)
    pasts = batch.waveforms[:, : batch.past_frames * HOP]
    assert len({row.numpy().tobytes() for row in pasts}) == len(pasts)
    assert float(pasts.abs().amax(dim=1).min()) > 0


def test_without_other_sound_there_is_no_past(tiny_task: Task) -> None:
    silent = replace(tiny_task, other_sounds=())
    assert Batches(silent, replace(PLAIN, lived_in_share=1.0), LogMelConfig(), 8, 0).make(0).past_frames == 0


def test_masks_hide_at_most_what_was_allowed(batches: MakeBatches) -> None:
    data = batches(replace(PLAIN, mask_bins=4, mask_frames=9))
    masks = torch.cat([batch.masks for batch in stream(data, 0, 6)])
    whole_bins, whole_frames = masks.all(dim=2), masks.all(dim=1)
    assert torch.equal(masks, whole_bins[:, :, None] | whole_frames[:, None, :])
    assert int(whole_bins.sum(dim=1).max()) == 4
    assert int(whole_frames.sum(dim=1).max()) == 9
    assert int(whole_bins.sum(dim=1).min()) == int(whole_frames.sum(dim=1).min()) == 0


def test_masking_more_than_there_is_hides_at_most_everything(batches: MakeBatches) -> None:
    batch = batches(replace(PLAIN, mask_bins=1000, mask_frames=1000)).make(0)
    assert batch.masks.shape == (16, 40, CLIP_FRAMES)


@pytest.mark.parametrize("policy", ["full", "reference"])
def test_a_clip_sounds_different_every_time_it_is_heard(tiny_task: Task, policy: str) -> None:
    one = replace(
        tiny_task.training,
        clips=(tiny_task.training.clips[0],) * 2,
        pcm=np.stack([tiny_task.training.pcm[0]] * 2),
        targets=np.array([True, False]),
    )
    variation = replace(PLAIN, policy=policy)  # type: ignore[arg-type]
    data = Batches(replace(tiny_task, training=one), variation, LogMelConfig(), 2, 0)
    heard = torch.cat([batch.waveforms for batch in stream(data, 0, 12)])
    assert len({row.numpy().tobytes() for row in heard}) >= 8


def test_a_clip_that_is_drawn_twice_in_an_epoch_sounds_different_each_time(batches: MakeBatches) -> None:
    hissing = replace(PLAIN, policy="full", wave=WaveAugmentation(gaussian_probability=1.0))
    drawn, heard = (batches(variation, size=40).make(0).waveforms for variation in (PLAIN, hissing))
    assert len({row.numpy().tobytes() for row in drawn}) < 40
    assert len({row.numpy().tobytes() for row in heard}) == 40


def test_the_chain_of_the_full_policy_is_the_one_given(batches: MakeBatches) -> None:
    """A chain in which nothing is ever likely leaves every clip alone."""
    names = [name for name in vars(WaveAugmentation()) if name.endswith("_probability")]
    nothing = WaveAugmentation(**dict.fromkeys(names, 0.0))
    quiet = batches(replace(PLAIN, policy="full", wave=nothing))
    assert torch.equal(quiet.make(1).waveforms, batches(PLAIN).make(1).waveforms)


def test_making_a_batch_changes_nothing_it_was_given(batches: MakeBatches, tiny_task: Task) -> None:
    sounds = (tiny_task.training.pcm, tiny_task.training.targets, *tiny_task.noises, *tiny_task.other_sounds)
    before = [sound.copy() for sound in sounds]
    variation = Variation(lived_in_share=1.0)
    for batch in stream(batches(variation), 0, 6):
        batch.waveforms.zero_()
        batch.targets.zero_()
    assert all(np.array_equal(sound, copy) for sound, copy in zip(sounds, before, strict=True))


def test_log_mels_are_those_of_the_front_end_and_computed_once(batches: MakeBatches) -> None:
    front_end = LogMel(LogMelConfig())
    batch = batches().make(0)
    log_mels = batch.log_mels(front_end)
    assert log_mels.shape == (16, 40, batch.past_frames + CLIP_FRAMES)
    assert torch.equal(log_mels, front_end(batch.waveforms))
    assert batch.log_mels(front_end) is log_mels


def test_a_batch_that_moves_stays_what_it_was(batches: MakeBatches) -> None:
    batch = batches().make(2)
    assert digest(batch.to(torch.device("cpu"))) == digest(batch)


def test_a_batch_splits_into_parts_and_its_features_with_it(batches: MakeBatches) -> None:
    front_end = LogMel(LogMelConfig())
    batch = batches(Variation(lived_in_share=1.0)).make(0)
    parts = batch.split(6)
    assert [len(part) for part in parts] == [6, 6, 4]
    assert {part.past_frames for part in parts} == {batch.past_frames}
    for name in ("waveforms", "targets", "masks"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert torch.cat([part.log_mels(front_end) for part in parts]).shape == batch.log_mels(front_end).shape
    (whole,) = batch.split(100)
    assert digest(whole) == digest(batch)


def test_a_batch_survives_the_way_through_arrays(batches: MakeBatches) -> None:
    batch = batches().make(2)
    arrays = batch.as_arrays()
    assert not any(isinstance(part, torch.Tensor) for part in arrays)
    assert digest(Batch.from_arrays(*arrays)) == digest(batch)


def test_a_clip_of_a_batch_can_be_made_alone(batches: MakeBatches) -> None:
    data = batches(Variation(lived_in_share=0.0))
    for number in (0, 5):
        made = data.make(number).waveforms.numpy()
        for place in range(len(made)):
            assert np.array_equal(data.clip(number, place), made[place])


def test_clips_in_quarantine_are_replaced_from_a_batch_on_by_the_next_of_their_class(
    batches: MakeBatches, tiny_task: Task
) -> None:
    targets = tiny_task.training.targets
    data = batches()
    positives, negatives = np.flatnonzero(targets).tolist(), np.flatnonzero(~targets).tolist()
    since = 4
    spoiled = (*positives[2:4], negatives[-1])
    takes_over = {positives[2]: positives[4], positives[3]: positives[4], negatives[-1]: negatives[0]}
    without = replace(data, quarantine=tuple((row, since) for row in spoiled))
    replaced = 0
    for number in range(12):
        drawn = data.rows(number).tolist()
        expected = [takes_over.get(row, row) if number >= since else row for row in drawn]
        assert without.rows(number).tolist() == expected
        assert without.make(number).targets.tolist() == targets[expected].astype(int).tolist()
        replaced += expected != drawn
    assert replaced > 3


def test_a_class_that_is_all_in_quarantine_is_an_error(batches: MakeBatches, tiny_task: Task) -> None:
    rows = np.flatnonzero(tiny_task.training.targets).tolist()
    with pytest.raises(CorpusError, match="all clips of 'beep' or all others are in quarantine"):
        replace(batches(), quarantine=tuple((row, 0) for row in rows)).make(0)


def test_the_policy_of_the_reference_without_background_recordings_is_an_error(tiny_task: Task) -> None:
    noiseless = Batches(replace(tiny_task, noises=()), Variation(policy="reference"), LogMelConfig(), 16, 0)
    with pytest.raises(UsageError, match="no background recordings"):
        noiseless.make(0)


def test_a_corpus_without_background_is_varied_without_noise(tiny_task: Task) -> None:
    """Any tree of words trains; only the noise is left out of the chain."""
    noiseless = Batches(replace(tiny_task, noises=()), Variation(), LogMelConfig(), 16, 0)
    silent = Variation(wave=WaveAugmentation(noise_probability=0.0))
    without = Batches(replace(tiny_task, noises=()), silent, LogMelConfig(), 16, 0)
    assert digest(noiseless.make(1)) == digest(without.make(1))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"lived_in_share": 1.5}, "lived_in_share is 1.5, expected a share from 0 to 1"),
        ({"lived_in_share": float("nan")}, "lived_in_share is nan"),
        ({"lived_in_max_s": -1.0}, "lived_in_max_s is -1.0, expected 0 to 60 seconds"),
        ({"lived_in_max_s": float("inf")}, "lived_in_max_s is inf"),
        ({"mask_bins": -1}, "masks of -1 bins, 25 frames: expected 0 or more"),
    ],
)
def test_a_variation_that_cannot_be_is_refused(fault: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Variation(**fault)  # type: ignore[arg-type]
