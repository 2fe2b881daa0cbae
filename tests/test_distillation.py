"""Distillation: the losses by hand and by law, attention aligned by time, teachers left as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from hark.errors import ConfigError
from hark.learning.batching import Batch, Batches, Variation
from hark.learning.dataset import Task
from hark.learning.devices import Machine
from hark.learning.distillation import (
    Distillation,
    DistillationConfig,
    alignment,
    kl_loss,
    last_cells,
    reference_loss,
)
from hark.learning.training import TrainingConfig, cross_entropy, listen, train
from hark.network.crnn import PUBLISHED, Crnn, CrnnConfig
from hark.network.features import LogMelConfig
from hark.network.spotter import Spotter, SpotterConfig
from hark.record.runs import Run
from hark.sound.resampling import resample
from hark.storage.model_files import to_bytes

NewSpotter = Callable[[], Spotter]

LOGITS = arrays.arrays(np.float64, (4, 2), elements=st.floats(-20, 20)).map(torch.from_numpy)
TEMPERATURES = st.floats(0.5, 10)


def batch_of(task: Task, *, lived_in_share: float = 0.0, number: int = 0) -> Batch:
    """Eight clips without masks."""
    variation = Variation(policy="none", mask_bins=0, mask_frames=0, lived_in_share=lived_in_share)
    return Batches(task, variation, LogMelConfig(), 8, 0).make(number)


def spotter(network: CrnnConfig, *, seed: int = 0) -> Spotter:
    """A spotter of the tiny keyword with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Spotter(SpotterConfig(keyword="beep", network=network))


@given(student=LOGITS, teacher=LOGITS, temperature=TEMPERATURES)
def test_the_soft_loss_is_torchs_divergence_times_the_squared_temperature(
    student: Tensor, teacher: Tensor, temperature: float
) -> None:
    ours = torch.distributions.Categorical(logits=student / temperature)
    theirs = torch.distributions.Categorical(logits=teacher / temperature)
    expected = temperature**2 * torch.distributions.kl_divergence(theirs, ours).mean()
    torch.testing.assert_close(kl_loss(student, teacher[None], temperature), expected, atol=1e-8, rtol=1e-6)


@given(student=LOGITS, teacher=LOGITS, temperature=TEMPERATURES)
def test_the_soft_loss_is_never_negative_and_zero_for_an_equal_student(
    student: Tensor, teacher: Tensor, temperature: float
) -> None:
    assert float(kl_loss(student, teacher[None], temperature)) >= -1e-9
    # What softmax cannot see, the same constant on all logits, is no difference either.
    assert float(kl_loss(teacher + 3, teacher[None], temperature)) == pytest.approx(0, abs=1e-9)


def test_the_soft_loss_by_hand() -> None:
    """At T = 2 logits (ln 9, ln 1) soften to (3/4, 1/4); the student's (0, 0) stay (1/2, 1/2)."""
    teacher, student = torch.tensor([[9.0, 1.0]]).log(), torch.zeros(1, 2)
    expected = 4 * (0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5))
    assert float(kl_loss(student, teacher[None], 2.0)) == pytest.approx(expected)


def test_the_gradient_keeps_its_size_at_any_high_temperature() -> None:
    """T² makes up for the softening: as T grows, the gradient nears (student − teacher) / classes / batch."""
    teacher = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    for temperature in (50.0, 100.0, 1000.0):
        student = torch.tensor([[0.5, -0.5]], dtype=torch.float64, requires_grad=True)
        kl_loss(student, teacher[None], temperature).backward()
        torch.testing.assert_close(student.grad, (student - teacher).detach() / 2, atol=1e-3, rtol=0)


@given(first=LOGITS, second=LOGITS, student=LOGITS, temperature=TEMPERATURES)
def test_an_ensemble_averages_probabilities(
    first: Tensor, second: Tensor, student: Tensor, temperature: float
) -> None:
    """Two teachers say what one would that believes the mean of their softened probabilities."""
    mean = (torch.softmax(first / temperature, -1) + torch.softmax(second / temperature, -1)) / 2
    one = temperature * mean.clamp(min=1e-300).log()
    both = torch.stack((first, second))
    torch.testing.assert_close(
        kl_loss(student, both, temperature), kl_loss(student, one[None], temperature), atol=1e-8, rtol=1e-6
    )
    torch.testing.assert_close(kl_loss(student, both.flip(0), temperature), kl_loss(student, both, temperature))


def test_the_reference_loss_by_hand() -> None:
    """Minus the dot product of probabilities, of which only the teacher's are softened."""
    teacher, student = torch.tensor([[9.0, 1.0]]).log(), torch.tensor([[1.0, 4.0]]).log()
    assert float(reference_loss(student, teacher[None], 2.0)) == pytest.approx(-(0.75 * 0.2 + 0.25 * 0.8))


SPANS = st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(1, 20), st.integers(-50, 50)).map(
    lambda t: [(t[3] + i * min(t[0], t[1]), t[3] + i * min(t[0], t[1]) + t[0]) for i in range(t[2])]
)


@given(theirs=SPANS, ours=SPANS)
def test_rows_of_an_alignment_share_out_all_of_a_weight(
    theirs: list[tuple[int, int]], ours: list[tuple[int, int]]
) -> None:
    shares = alignment(theirs, ours)
    assert shares.shape == (len(theirs), len(ours))
    assert float(shares.min()) >= 0
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(theirs)))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(-50, 50))
def test_steps_that_do_not_overlap_align_with_themselves(steps: int, size: int, start: int) -> None:
    spans = [(start + index * size, start + (index + 1) * size) for index in range(steps)]
    torch.testing.assert_close(alignment(spans, spans), torch.eye(steps))


def test_an_alignment_goes_by_the_time_that_cells_share() -> None:
    """A cell over frames 0 to 20 shares 20, 12 and 4 frames with those that begin at 0, 8 and 16."""
    ours = [(0, 20), (8, 28), (16, 36)]
    torch.testing.assert_close(alignment([(0, 20)], ours), torch.tensor([[20.0, 12.0, 4.0]]) / 36)


@pytest.mark.parametrize(("ours", "nearest"), [([(100, 120), (200, 220)], 0), ([(-90, -70), (-40, -20)], 1)])
def test_a_step_that_none_of_ours_overlaps_gives_its_weight_to_the_nearest(
    ours: list[tuple[int, int]], nearest: int
) -> None:
    assert alignment([(0, 20)], ours).tolist() == [[float(index == nearest) for index in range(2)]]


STRIDES = {11: 8, 14: 6, 7: 12}


@pytest.mark.parametrize(("steps", "stride"), STRIDES.items())
def test_the_cells_of_a_clip_tile_it_around_the_middles_of_its_steps(steps: int, stride: int) -> None:
    network = Crnn(CrnnConfig(channels=1, stride=(8, stride), hidden=(2,)))
    cells = last_cells(network, 100)
    assert [(first + last) / 2 for first, last in cells] == [index * stride + 10 for index in range(steps)]
    # 64 more frames before: the same steps of the clip where the stride divides them, others before its start.
    shifted = last_cells(network, 100 + 64, offset=64)
    assert len(shifted) == steps
    assert shifted[-1][1] + (20 - stride) / 2 in range(100 - stride + 1, 101)
    assert all(earlier[1] == later[0] for earlier, later in pairwise(shifted))
    if 64 % stride == 0:
        assert shifted == cells


@pytest.mark.parametrize("stride", STRIDES.values())
def test_a_teacher_of_the_same_steps_is_followed_step_by_step(stride: int) -> None:
    """However much the fields of the steps overlap, nothing of the attention is blurred."""
    cells = last_cells(Crnn(CrnnConfig(channels=1, stride=(8, stride), hidden=(2,))), 100)
    torch.testing.assert_close(alignment(cells, cells), torch.eye(len(cells)))


@pytest.mark.parametrize(("theirs", "ours"), [(11, 14), (11, 7), (14, 11), (14, 7), (7, 14), (11, 11)])
def test_steps_of_other_strides_align_by_their_time(theirs: int, ours: int) -> None:
    """By hand, frame by frame: each teacher step weighs ours by the frames in both cells."""
    cells = {n: [(10 + i * s - s // 2, 10 + i * s + s // 2) for i in range(n)] for n, s in STRIDES.items()}
    shared = np.array([[len({*range(*t)} & {*range(*o)}) for o in cells[ours]] for t in cells[theirs]])
    expected = shared / shared.sum(axis=1, keepdims=True)
    shares = alignment(cells[theirs], cells[ours])
    np.testing.assert_allclose(shares.numpy(), expected, atol=1e-6)
    # Later attention of theirs is never earlier attention of ours.
    assert (np.diff(shares.numpy() @ np.arange(ours)) >= 0).all()


def test_a_past_moves_the_steps_of_the_student_and_not_those_of_the_teacher(
    tiny_task: Task, tiny_network: CrnnConfig
) -> None:
    """With a past of whole strides the student's window is the clip's, as without one."""
    network = Crnn(tiny_network)
    stride = network.conv.window.hop
    for frames in (stride, 3 * stride):
        assert last_cells(network, 100 + frames, offset=frames) == last_cells(network, 100)
    uneven = last_cells(network, 100 + stride // 2, offset=stride // 2)
    assert [first - other for (first, _), (other, _) in zip(last_cells(network, 100), uneven, strict=True)] == [
        stride // 2 - (4 + stride // 2) // stride * stride
    ] * len(uneven)


def test_the_loss_is_the_mix_that_the_configuration_names(tiny_task: Task, tiny_spotter: NewSpotter) -> None:
    student, teacher = tiny_spotter().eval(), spotter(PUBLISHED["stage-2"])
    batch = batch_of(tiny_task)
    trace = listen(student, batch)
    soft = kl_loss(trace.logits[..., -1], teacher(batch.waveforms)[None, ..., -1], 3.0)
    config = DistillationConfig(alpha=0.25, temperature=3.0)
    loss = Distillation([teacher], student, config)(trace, batch)
    torch.testing.assert_close(loss, 0.25 * soft + 0.75 * cross_entropy(trace, batch))


def test_a_teacher_hears_the_clip_alone_whatever_came_before(tiny_task: Task, tiny_spotter: NewSpotter) -> None:
    student, teacher = tiny_spotter().eval(), spotter(PUBLISHED["stage-2"])
    batch = batch_of(tiny_task, lived_in_share=1.0)
    assert batch.past_frames
    clips = batch.waveforms[:, batch.past_frames * 160 :]
    heard = Distillation([teacher], student, DistillationConfig())._hear(teacher, batch)
    # The front end's first windows reach 240 samples back: into the past here, into silence there.
    torch.testing.assert_close(heard.logits[..., -1], teacher(clips)[..., -1], atol=0.02, rtol=0)


def test_a_student_like_its_teacher_has_nothing_to_learn_of_attention(
    tiny_task: Task, tiny_network: CrnnConfig
) -> None:
    """Where windows don't overlap, its own attention is the target, and the divergence is zero."""
    network = replace(tiny_network, kernel=(5, 20), stride=(4, 20))
    student, teacher = spotter(network).eval(), spotter(network)
    batch = batch_of(tiny_task)
    trace = listen(student, batch)
    losses = [
        Distillation([teacher], student, DistillationConfig(alpha=1, attention=weight))(trace, batch).item()
        for weight in (0.0, 1.0)
    ]
    assert losses == pytest.approx([0, 0], abs=1e-6)


def test_attention_of_the_student_comes_nearer_to_its_teachers_with_training(
    tiny_task: Task, tiny_network: CrnnConfig
) -> None:
    """Alone in the loss, with a teacher of another stride and sharp attention, and with a past."""
    student, teacher = spotter(tiny_network), spotter(replace(tiny_network, stride=(4, 8)), seed=1)
    with torch.no_grad():
        teacher.network.attention.score.weight.mul_(20)
    objective = Distillation([teacher], student, DistillationConfig(alpha=1, attention=1.0))
    optimizer = torch.optim.Adam(student.parameters(), 0.02)
    losses = []
    for number in range(25):
        batch = batch_of(tiny_task, lived_in_share=0.5, number=number)
        trace = listen(student, batch)
        loss = objective._attention_loss(trace, objective.teach(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) >= -1e-6
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize("config", [DistillationConfig(attention=0.5), DistillationConfig(loss="reference")])
def test_teachers_stay_what_they_were(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: Callable[[str], Run], config: DistillationConfig
) -> None:
    teachers = [spotter(PUBLISHED["stage-2"]), tiny_spotter()]
    before, student = [to_bytes(teacher) for teacher in teachers], tiny_spotter()
    untrained = to_bytes(student)
    training = TrainingConfig(epochs=2, batch_size=16)
    objective = Distillation(teachers, student, config)
    trained = train(
        student, tiny_task, training, run=new_run("a"), objective=objective, machine=Machine(device="cpu")
    )
    assert to_bytes(trained) != untrained
    assert [to_bytes(teacher) for teacher in teachers] == before
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())
    assert not any(teacher.training for teacher in teachers)


def test_a_teacher_may_hear_through_another_front_end_and_says_of_a_clip_what_it_says_alone(
    tiny_task: Task, tiny_spotter: NewSpotter
) -> None:
    """The clip without its past, from a fresh state, and nothing of it hidden."""
    other = Spotter(
        SpotterConfig(
            keyword="beep",
            features=LogMelConfig(n_mels=32, hop_length=200),
            network=replace(PUBLISHED["stage-2"], n_mels=32),
        )
    )
    batch = batch_of(tiny_task, lived_in_share=1.0)
    assert batch.past_frames > 0
    samples = tiny_task.training.pcm.shape[1]
    (heard,) = Distillation([other], tiny_spotter(), DistillationConfig()).teach(batch).logits.unbind(1)
    with torch.no_grad():
        assert torch.equal(heard, other(batch.waveforms[:, -samples:])[..., -1])


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_either_may_hear_at_half_the_rate_and_the_teacher_says_what_it_says_alone(
    tiny_task: Task, tiny_network: CrnnConfig, who: str
) -> None:
    slow = LogMelConfig(sample_rate=8_000, hop_length=80, n_fft=200)
    at_8_khz = Spotter(SpotterConfig(keyword="beep", features=slow, network=tiny_network))
    at_16_khz = spotter(tiny_network, seed=1)
    student, teacher = (at_8_khz, at_16_khz) if who == "student" else (at_16_khz, at_8_khz)
    everywhere = Variation(policy="none", lived_in_share=1.0)
    batch = Batches(tiny_task, everywhere, student.config.features, 8, 0).make(0)
    objective = Distillation([teacher], student, DistillationConfig(attention=0.5))
    (taught,) = objective.teach(batch).logits.unbind(1)
    clips = torch.from_numpy(resample(batch.waveforms[:, -16_000:].numpy(), 16_000, teacher.sample_rate))
    with torch.no_grad():
        assert torch.equal(taught, teacher(clips)[..., -1])
    assert torch.isfinite(objective(listen(student, batch), batch))


@pytest.mark.parametrize(
    "front_end",
    [
        LogMelConfig(hop_length=320),
        LogMelConfig(sample_rate=8_000, hop_length=160),
        LogMelConfig(sample_rate=8_000, hop_length=240),
    ],
)
def test_steps_are_aligned_by_their_time_whatever_the_front_ends(front_end: LogMelConfig) -> None:
    """Of a clip that is not a whole number of the student's frames, a teacher has steps to its very end."""
    hop_s = 1 / front_end.frame_rate
    network = CrnnConfig(channels=1, kernel=(5, 6), stride=(8, 4), hidden=(2,), frames_per_clip=round(1 / hop_s))
    student = Spotter(SpotterConfig(keyword="beep", features=front_end, network=network))
    teacher = spotter(CrnnConfig(channels=1, hidden=(2,)))
    objective = Distillation([teacher], student, DistillationConfig())
    theirs, ours = np.array(objective._cells(teacher)) / 16_000, np.array(objective._places(0, round(1 / hop_s)))
    np.testing.assert_allclose(theirs.mean(axis=1), (10 + 8 * np.arange(11)) * 0.01)
    np.testing.assert_allclose(ours.mean(axis=1) / 16_000, (3 + 4 * np.arange(len(ours))) * hop_s)


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("kind", ["mean", "last"])
def test_attention_that_weighs_nothing_is_not_compared(kind: str, who: str) -> None:
    plain, other = spotter(CrnnConfig()), spotter(CrnnConfig(attention=kind))
    teacher, student = (other, plain) if who == "teacher" else (plain, other)
    Distillation([teacher], student, DistillationConfig())
    with pytest.raises(ConfigError, match=f"the {who}'s attention is '{kind}', which weighs no steps"):
        Distillation([teacher], student, DistillationConfig(attention=0.1))


@pytest.mark.parametrize("loss", ["kl", "reference"])
def test_a_student_of_one_logit_learns_as_if_the_other_were_zero(tiny_task: Task, loss: str) -> None:
    teacher = spotter(CrnnConfig(), seed=1)
    batch = batch_of(tiny_task)
    single = spotter(CrnnConfig(classes=1))
    double = spotter(CrnnConfig(classes=2))
    weights = dict(single.state_dict())
    for name in ("network.classifier.weight", "network.classifier.bias"):
        weights[name] = torch.cat((torch.zeros_like(weights[name]), weights[name]))
    double.load_state_dict(weights)
    config = DistillationConfig(loss=loss, attention=0.5)
    losses = [
        Distillation([teacher], model, config)(listen(model.eval(), batch), batch) for model in (single, double)
    ]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(
        cross_entropy(listen(single, batch), batch), cross_entropy(listen(double, batch), batch)
    )


def test_a_student_without_teachers_is_refused(tiny_spotter: NewSpotter) -> None:
    with pytest.raises(ConfigError, match="without a teacher: name at least one"):
        Distillation([], tiny_spotter(), DistillationConfig())


def test_a_configuration_names_all_its_faults_at_once() -> None:
    nan = float("nan")
    with pytest.raises(ConfigError) as caught:
        DistillationConfig(alpha=1.1, temperature=nan, attention=nan)
    assert str(caught.value) == (
        "distillation: alpha is 1.1, expected 0 to 1; temperature is nan, expected a number above 0; "
        "attention is nan, expected 0 or more"
    )
