"""Lessons: what is recorded once is what would be heard, and damage to the record is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hark.errors import RunError
from hark.learning import lessons as lessons_module
from hark.learning.batching import Batch, Batches, Variation
from hark.learning.dataset import Task
from hark.learning.devices import Machine
from hark.learning.distillation import Distillation, DistillationConfig
from hark.learning.lessons import LessonBook
from hark.learning.loading import Loader
from hark.learning.training import TrainingConfig, train
from hark.network.spotter import Spotter
from hark.record.runs import Run
from hark.storage.model_files import to_bytes

NewRun = Callable[[str], Run]
NewSpotter = Callable[[], Spotter]
EPOCHS = 2


def batches(task: Task, spotter: Spotter) -> Batches:
    return Batches(task, Variation(), spotter.config.features, 16, 3)


def written(run: Run, data: Batches, student: Spotter, *teachers: Spotter) -> LessonBook:
    objective = Distillation(teachers, student, DistillationConfig()) if teachers else None
    book = LessonBook.of(data, EPOCHS, teachers=objective, shelf=run.folder.parent)
    with Loader(data, Machine(workers=0), run=run, warn=pytest.fail) as loader:
        book.write(loader, student.features, given_up=lambda: False)
    return book


def key(batch: Batch) -> tuple[int, ...]:
    return batch.past_frames, *batch.targets.tolist()


def test_each_round_has_every_batch_once_with_log_mels_and_answers_as_they_are_made(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    student, teacher = tiny_spotter(), tiny_spotter()
    data = batches(tiny_task, student)
    book = written(new_run("a"), data, student, teacher)
    steps = EPOCHS * data.per_epoch
    made = {key(batch): batch for batch in map(data.make, range(steps))}
    first, second = list(book.stream(0, steps)), list(book.stream(steps, 2 * steps))
    assert sorted(map(key, first)) == sorted(map(key, second)) == sorted(made)
    assert list(map(key, first)) != list(map(key, second))
    for batch in first:
        original = made[key(batch)]
        assert torch.allclose(batch.log_mels(student.features), original.log_mels(student.features), atol=0.01)
        original.masks = torch.zeros_like(original.masks)
        assert batch.taught is not None
        expected = Distillation([teacher], student, DistillationConfig()).teach(original)
        assert torch.equal(batch.taught.logits, expected.logits)
        assert torch.equal(batch.taught.attention[0], expected.attention[0])


def test_what_is_hidden_is_drawn_afresh_in_every_step(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    data = batches(tiny_task, tiny_spotter())
    book = written(new_run("a"), data, tiny_spotter())
    steps = EPOCHS * data.per_epoch
    masks = [batch.masks for batch in book.stream(0, 3 * steps)]
    assert all(torch.equal(mask, torch.from_numpy(data.masks(step, len(mask)))) for step, mask in enumerate(masks))
    assert len({mask.numpy().tobytes() for mask in masks}) == 3 * steps


def test_another_teacher_has_another_book_and_other_masks_the_same(
    tiny_task: Task, tiny_spotter: NewSpotter, tmp_path: Path
) -> None:
    def folder(variation: Variation, *teachers: Spotter) -> Path:
        student = tiny_spotter()
        objective = Distillation(teachers, student, DistillationConfig()) if teachers else None
        data = Batches(tiny_task, variation, student.config.features, 16, 3)
        return LessonBook.of(data, EPOCHS, teachers=objective, shelf=tmp_path).folder

    changed = tiny_spotter()
    with torch.no_grad():
        changed.network.classifier.bias.add_(1e-6)
    plain = folder(Variation(), tiny_spotter())
    assert folder(Variation(mask_bins=3), tiny_spotter()) == plain
    others = [folder(Variation(), changed), folder(Variation()), folder(Variation(lived_in_share=0.1), changed)]
    assert len({plain, *others}) == 4


def test_a_flipped_bit_is_found_and_the_way_out_named(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    data = batches(tiny_task, tiny_spotter())
    book = written(new_run("a"), data, tiny_spotter())
    for file in book.folder.glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-5] ^= 4
        file.write_bytes(content)
    with pytest.raises(RunError, match="is damaged; delete it, and the same command makes it again"):
        book.lesson(0)


def test_a_book_that_broke_off_is_written_to_its_end_by_the_next_who_needs_it(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = tiny_spotter()
    data = batches(tiny_task, student)
    whole = written(new_run("a"), data, student)
    contents = {file.name: file.read_bytes() for file in whole.folder.glob("epoch-*")}
    (whole.folder / "epoch-001.safetensors").unlink()
    made: list[int] = []
    monkeypatch.setattr(
        lessons_module.LessonBook, "_steps", lambda self, epoch: made.append(epoch) or (3 * epoch, 3 * epoch + 3)
    )
    again = written(new_run("b"), data, student)
    assert made == [1]
    assert again.folder == whole.folder
    assert {file.name: file.read_bytes() for file in whole.folder.glob("epoch-*")} == contents


def test_a_training_with_lessons_that_is_stopped_goes_on_to_the_same_model(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    def learn(run: Run, stop_at: int | None = None) -> bytes:
        student = tiny_spotter()
        calls = iter(range(1000))

        class Stopping(Distillation):
            def __call__(self, *heard: object) -> torch.Tensor:
                if next(calls) == stop_at:
                    raise KeyboardInterrupt
                return super().__call__(*heard)  # type: ignore[arg-type]

        config = TrainingConfig(epochs=5, batch_size=16, lessons=EPOCHS, save_every_s=0)
        objective = Stopping([tiny_spotter()], student, DistillationConfig(attention=0.1))
        return to_bytes(
            train(student, tiny_task, config, run=run, objective=objective, machine=Machine(device="cpu"))
        )

    expected = learn(new_run("undisturbed"))
    stopped = new_run("stopped")
    with pytest.raises(KeyboardInterrupt):
        learn(stopped, stop_at=8)
    assert learn(stopped) == expected


def test_answers_of_many_teachers_keep_their_order(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    """By number, not by name: the eleventh does not come before the third."""
    student, teachers = tiny_spotter(), [tiny_spotter() for _ in range(11)]
    with torch.no_grad():
        for number, teacher in enumerate(teachers):
            teacher.network.attention.score.weight.mul_(number)
    book = written(new_run("a"), batches(tiny_task, student), student, *teachers)
    lesson = book.lesson(0)
    assert lesson.taught is not None
    sharpness = [float(weights.max(dim=-1).values.mean()) for weights in lesson.taught.attention]
    assert sharpness == sorted(sharpness)
