"""Stages: what each leaves in its run, that the numbers are those of the model beside them, nothing done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hark.errors import RunError, UnsavedWork
from hark.files import explained
from hark.judging.metrics import one_minus_auc
from hark.learning.dataset import Task, clip_scores
from hark.network.spotter import Spotter
from hark.proof.cost import cost_of
from hark.proof.evaluation import judging_stream, score_clips
from hark.recipes import publishing, stages
from hark.recipes.recipe import Recipe, parse_recipe
from hark.recipes.reproduction import Plan
from hark.recipes.stages import Bench, run_recipe
from hark.record.runs import Run, find_runs
from hark.runtime import Model
from hark.shrinking.pruning import PruningConfig, prune
from hark.shrinking.quantization import is_quantized
from hark.storage.model_files import load

EVERY = {"run.json", "config.json", "environment.json", "events.jsonl", "task.json", "lock"}
MODEL = EVERY | {"model.safetensors", "cost.json", "verification.json"}
PACKED = MODEL | {"model.hark"}
JUDGED = {"scores.npz", "evaluation.json"}
STREAMED = JUDGED | {"stream.json", "check_stream.json"}
FILES = {
    "teacher": PACKED | {"checkpoints"},
    "base": PACKED | STREAMED | {"checkpoints"},
    "qint8": EVERY | JUDGED | {"model.pt", "cost.json"},
    "rows": MODEL,
    "int8": PACKED | STREAMED,
    "aware": PACKED | {"checkpoints"},
    "pruned": PACKED | STREAMED | {"checkpoints"},
    "damage": EVERY | {"pruning_damage.json"},
}


@pytest.fixture
def bench(tiny_task: Task, tmp_path: Path) -> Bench:
    """Where stages can work without disturbing others."""
    return Bench(tiny_task, tmp_path / "runs")


@pytest.fixture
def short(tiny_spotter: Callable[[], Spotter]) -> Callable[..., Recipe]:
    """Gives a chain of training and quantising that nobody judges, with other training settings if told."""
    network = json.loads(json.dumps(vars(tiny_spotter().config.network)))

    def recipe(**training: float) -> Recipe:
        values = {
            "training": {"epochs": 1, "batch_size": 16, "validations": 1, **training},
            "stages": {
                "base": {"kind": "train", "network": network},
                "int8": {"kind": "quantize", "model": "base"},
            },
        }
        return parse_recipe(values, name="short")

    return recipe


CHEAP = {
    "pooling": [2, 2],
    "channels": 2,
    "kernel": [5, 6],
    "stride": [3, 4],
    "convolution": "separable",
    "rank": 4,
    "cell": "fast",
    "hidden": [4],
    "attention": "query",
    "classes": 1,
}


def test_a_network_of_cheaper_parts_goes_down_the_whole_road(bench: Bench) -> None:
    """It learns from two logits, loses units, becomes integers with a scale per matrix; each time it is proved."""
    front_end = {"hop_length": 320, "n_fft": 640}
    values = {
        "training": {"epochs": 1, "batch_size": 16, "validations": 1},
        "stages": {
            "teacher": {"kind": "train", "network": {"hidden": [4]}, "front_end": front_end},
            "student": {
                "kind": "distill",
                "network": CHEAP,
                "front_end": front_end,
                "normalization_bands": "one",
                "teachers": ["teacher"],
                "distillation": {"attention": 0.2},
            },
            "pruned": {"kind": "prune", "model": "student", "pruning": {"gru": 0.25, "attention": 0}},
            "aware": {
                "kind": "quantize-aware",
                "model": "pruned",
                "scales": "matrix",
                "teachers": ["teacher"],
                "setting": "cheap",
            },
        },
    }
    runs = run_recipe(parse_recipe(values, name="cheap"), bench)
    assert all(run.read_json("verification.json")["passed"] for run in runs)
    shipped = Model(runs[-1].path("model.hark"))
    assert shipped.labels == ("beep",)
    assert shipped.is_integer
    assert len(shipped.file) < 600
    network = load(runs[-1].path("model.safetensors")).config.network
    assert (network.frames_per_clip, network.window) == (50, 5)
    with np.load(runs[-1].path("scores.npz"), allow_pickle=False) as told:
        np.testing.assert_array_equal(told["scores"], score_clips(shipped, bench.task.testing))


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Time of change and size of every file but lock and log, which a look at a run touches."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("lock", "events.jsonl")
    }


def deeds(folder: Path) -> list[str]:
    """What was ever done in the runs of a folder; that their code has changed since is no deed."""
    events = [event for run in find_runs([folder]) for event in run.event_log.history()]
    return [event["kind"] for event in events if event["kind"] != "warning"]


def test_every_kind_of_stage_leaves_the_files_of_its_kind(mini_runs: Path) -> None:
    found = {run.name: {path.name for path in run.iterdir()} for run in mini_runs.iterdir()}
    assert found == FILES


def test_every_run_tells_what_it_is_and_what_it_was_made_from(mini_plan: Plan, mini_runs: Path) -> None:
    runs = [Run.open(mini_runs / name) for name in mini_plan.recipe.stages]
    assert all(run.is_finished for run in runs)
    assert [run.about["order"] for run in runs] == list(range(8))
    assert {run.name: run.about["parents"] for run in runs} == {
        "teacher": [],
        "base": ["teacher"],
        "qint8": ["base"],
        "rows": ["base"],
        "int8": ["base"],
        "aware": ["base", "teacher"],
        "pruned": ["base", "teacher"],
        "damage": ["base"],
    }
    assert {run.name for run in runs if run.about["group"] == "reference"} == {"qint8"}
    kinds = ["train", "distill", "quantize", "quantize", "quantize", "quantize-aware", "prune", "damage"]
    assert [run.about["kind"] for run in runs] == kinds
    assert {run.about["fold"] for run in runs} == {0}
    assert Run.open(mini_runs / "pruned").about["setting"] == "base, pruned"


def test_the_task_of_a_run_counts_its_clips(mini_runs: Path, tiny_task: Task) -> None:
    expected = {
        "keyword": "beep",
        "clips": 100,
        "positives": 40,
        "speakers": 20,
        "fold": 0,
        "folds": 2,
        "digest": tiny_task.digest,
        "quarantined": [],
        "training": 40,
        "validation": 10,
        "testing": 50,
    }
    told = Run.open(mini_runs / "base").read_json("task.json")
    assert told.items() >= expected.items()


@pytest.mark.parametrize("name", ["base", "int8", "pruned"])
def test_scores_are_those_of_the_shipped_file(mini_runs: Path, tiny_task: Task, name: str) -> None:
    run, data = Run.open(mini_runs / name), tiny_task.testing
    with np.load(run.path("scores.npz"), allow_pickle=False) as told:
        np.testing.assert_array_equal(told["scores"], score_clips(Model(run.path("model.hark")), data))
        np.testing.assert_array_equal(told["labels"], data.targets)
        assert told["speakers"].tolist() == [clip.speaker for clip in data.clips]
        assert told["paths"].tolist() == [f"{clip.label}/{clip.path.name}" for clip in data.clips]
        area = one_minus_auc(told["scores"], told["labels"])
    assert run.read_json("evaluation.json")["one_minus_auc"] == area


def test_dynamic_qint8_judges_nearly_as_its_float_parent(mini_runs: Path) -> None:
    scores = [np.load(mini_runs / name / "scores.npz")["scores"] for name in ("base", "qint8")]
    assert not np.array_equal(*scores)
    assert np.corrcoef(*scores)[0, 1] > 0.99


def test_the_proof_of_streaming_covers_single_frames(mini_runs: Path) -> None:
    for name in ("base", "int8", "pruned"):
        checked = Run.open(mini_runs / name).read_json("check_stream.json")
        assert [row["chunk_frames"] for row in checked["chunks"]] == [1, 10, 20]
        assert all(row["largest_difference"] <= 1e-5 for row in checked["chunks"])
        assert checked["labels"][4] == "beep"


def test_costs_are_those_of_the_saved_model_and_its_file(mini_runs: Path) -> None:
    for name in ("teacher", "base", "int8", "pruned"):
        run = Run.open(mini_runs / name)
        path = run.path("model.hark")
        counted = cost_of(load(run.path("model.safetensors"))).as_dict()
        expected = {**counted, "file": path.name, "file_bytes": path.stat().st_size}
        assert run.read_json("cost.json") == json.loads(json.dumps(expected))


def test_quantising_saves_bytes_and_no_operation_and_pruning_saves_both(mini_runs: Path) -> None:
    base, int8, qint8, pruned = (
        Run.open(mini_runs / name).read_json("cost.json") for name in ("base", "int8", "qint8", "pruned")
    )
    for operations in ("macs_per_clip_thop", "macs_per_clip", "macs_per_second", "parameters"):
        assert int8[operations] == qint8[operations] == base[operations] > pruned[operations]
    assert int8["weight_bytes"] < base["weight_bytes"]
    assert int8["file_bytes"] < base["file_bytes"] > pruned["file_bytes"]
    assert qint8["file"] == "model.pt"
    assert qint8["file_bytes"] == (mini_runs / "qint8" / "model.pt").stat().st_size


def test_models_are_what_their_stage_says(mini_runs: Path) -> None:
    models = {name: load(mini_runs / name / "model.safetensors") for name in ("base", "int8", "pruned")}
    assert {name: is_quantized(model) for name, model in models.items()} == {
        "base": False,
        "int8": True,
        "pruned": False,
    }
    pruned = models["pruned"].config.network
    # 34 % of 6 units are 2 of each layer, half of 2 channels one; attention loses 30 % of its 6 units: one.
    assert (pruned.hidden, pruned.channels, pruned.attention_units) == ((4, 4), 1, 5)
    assert {model.config.keyword for model in models.values()} == {"beep"}


def test_the_damage_of_pruning_begins_at_the_whole_model(mini_runs: Path, tiny_task: Task) -> None:
    told = Run.open(mini_runs / "damage").read_json("pruning_damage.json")
    base = load(mini_runs / "base" / "model.safetensors")
    data = tiny_task.testing
    whole = one_minus_auc(clip_scores(base, data), data.targets)
    half = prune(base, PruningConfig(gru=0.5, attention=0.0))
    assert told["shares"] == [0.0, 0.5]
    assert told["unit_wise"] == [whole, one_minus_auc(clip_scores(half, data), data.targets)]
    assert told["row_wise"][0] == pytest.approx(whole, abs=1e-3)


def test_a_model_ships_with_the_front_end_it_was_trained_through(
    bench: Bench, tiny_spotter: Callable[[], Spotter]
) -> None:
    network = {**vars(tiny_spotter().config.network), "kernel": (5, 10), "stride": (4, 8), "attention_window": 6}
    training = {"epochs": 1, "batch_size": 16, "validations": 1}
    stage = {"kind": "train", "network": network, "training": training, "front_end": {"hop_length": 320}}
    (run,) = run_recipe(parse_recipe(json.loads(json.dumps({"stages": {"coarse": stage}})), name="mine"), bench)
    model = Model(run.path("model.hark"))
    assert (model.first_step_samples, model.step_samples) == (10 * 320, 8 * 320)
    assert cost_of(load(run.path("model.safetensors"))).steps_per_clip == (50 - 10) // 8 + 1


def test_a_second_call_does_nothing(mini_plan: Plan, mini_runs: Path, tiny_task: Task) -> None:
    before, done = snapshot(mini_runs), deeds(mini_runs)
    again = run_recipe(mini_plan.recipe, Bench(tiny_task, mini_runs))
    assert snapshot(mini_runs) == before
    assert deeds(mini_runs) == done
    assert [run.name for run in again] == list(FILES)


def test_a_chain_that_died_goes_on_where_it_stopped(
    bench: Bench, short: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Died while the second model was written: the first is not touched, and no step is made again."""
    publish = stages.publish
    monkeypatch.setattr(stages, "publish", _dying_at("int8", publish))
    with pytest.raises(KeyboardInterrupt):
        run_recipe(short(), bench)
    first = snapshot(bench.folder / "base")
    assert Run.open(bench.folder / "base").is_finished
    assert not Run.open(bench.folder / "int8").is_finished
    monkeypatch.setattr(stages, "publish", publish)
    assert all(run.is_finished for run in run_recipe(short(), bench))
    assert snapshot(bench.folder / "base") == first


def test_a_training_that_died_before_its_model_was_written_is_not_trained_again(
    bench: Bench, short: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = stages.publish
    monkeypatch.setattr(stages, "publish", _dying_at("base", publish))
    with pytest.raises(KeyboardInterrupt):
        run_recipe(short(), bench)
    monkeypatch.setattr(stages, "publish", publish)
    run_recipe(short(), bench)
    events = Run.open(bench.folder / "base").event_log.history()
    assert [event["step"] for event in events if event["kind"] == "resumed"][-1] == 3
    assert [event["step"] for event in events if event["kind"] == "saved"] == [3]
    assert [event["step"] for event in events if event["kind"] == "train"] == [3]


def _dying_at(stage: str, publish: Callable[..., None]) -> Callable[..., None]:
    def dying(run: Run, *rest: object, **options: object) -> None:
        if run.name == stage:
            raise KeyboardInterrupt
        publish(run, *rest, **options)

    return dying


def test_another_configuration_is_refused_with_the_fields_that_differ(
    bench: Bench, short: Callable[..., Recipe]
) -> None:
    run_recipe(short(), bench)
    before = snapshot(bench.folder)
    with pytest.raises(RunError, match=r"base: made with another .*training\.epochs: 1 there, 2 here"):
        run_recipe(short(epochs=2), bench)
    with pytest.raises(RunError, match=r"data: \w{64} there, other here"):
        run_recipe(short(), replace(bench, task=replace(bench.task, digest="other")))
    assert snapshot(bench.folder) == before


def test_a_stage_may_build_on_a_run_from_outside(
    bench: Bench, mini_runs: Path, tiny_spotter: Callable[[], Spotter]
) -> None:
    values = {"stages": {"half": {"kind": "quantize", "model": str(mini_runs / "base"), "bits": 4}}}
    (run,) = run_recipe(parse_recipe(values, name="outside"), bench)
    assert run.about["parents"] == ["base"]
    assert is_quantized(load(run.path("model.safetensors")))


def test_a_dynamically_quantised_run_from_outside_is_no_start(bench: Bench, mini_runs: Path) -> None:
    values = {"stages": {"late": {"kind": "quantize", "model": str(mini_runs / "qint8")}}}
    with pytest.raises(RunError, match=r"qint8: holds no model.safetensors; .* is an end, not a start"):
        run_recipe(parse_recipe(values, name="outside"), bench)


def test_a_missing_run_from_outside_is_told_before_anything_is_made(bench: Bench, tmp_path: Path) -> None:
    values = {"stages": {"late": {"kind": "quantize", "model": str(tmp_path / "none")}}}
    with pytest.raises(RunError, match=r"none: has no run\.json"):
        run_recipe(parse_recipe(values, name="outside"), bench)
    assert not bench.folder.exists()


@pytest.mark.fault("F8")
@pytest.mark.parametrize("change", [{"keyword": "hum"}, {"folds": 3}, {"split": "random"}])
def test_a_run_for_another_keyword_or_another_split_is_refused(
    bench: Bench, short: Callable[..., Recipe], change: dict[str, Any]
) -> None:
    run_recipe(short(), bench)
    ((field, here),) = change.items()
    there = getattr(bench.task, field)
    with pytest.raises(RunError, match=f"made with another configuration: {field}: {there} there, {here} here"):
        run_recipe(short(), replace(bench, task=replace(bench.task, **change)))


@pytest.mark.fault("F4")
def test_a_result_that_cannot_be_written_is_unsaved_work_and_is_written_when_there_is_space(
    bench: Bench, short: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is not repeated for it."""

    def full(path: Path, content: bytes) -> None:
        with explained(path):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "write_atomically", full)
        with pytest.raises(UnsavedWork, match=r"base/model.safetensors: No space left on device; free") as unsaved:
            run_recipe(short(), bench)
    assert unsaved.value.exit_code == 5
    trained = Run.open(bench.folder / "base").checkpoints.steps()
    run_recipe(short(), bench)
    assert all(run.is_finished for run in find_runs([bench.folder]))
    assert Run.open(bench.folder / "base").checkpoints.steps() == trained


def test_a_student_hears_at_half_the_rate_of_its_teacher_from_training_to_the_proof(bench: Bench) -> None:
    """Floats with attention and lessons, then integers; judged and proved at 8 kHz as a file of its own."""
    small = {"n_mels": 16, "channels": 2, "kernel": [16, 8], "stride": [1, 8], "hidden": [6]}
    at_8_khz = {"sample_rate": 8_000, "hop_length": 160, "n_fft": 256, "n_mels": 16}
    distilled = {"teachers": ["teacher"], "distillation": {"attention": 0.1}}
    recipe = parse_recipe(
        {
            "training": {"epochs": 3, "batch_size": 16, "learning_rate": 0.02, "averaging": 0.9, "validations": 1},
            "stages": {
                "teacher": {"kind": "train", "network": small | {"kernel": [16, 16]}, "front_end": {"n_mels": 16}},
                "student": {
                    "kind": "distill",
                    "network": small,
                    "front_end": at_8_khz,
                    "training": {"lessons": 2},
                    **distilled,
                },
                "integers": {"kind": "quantize-aware", "model": "student", "setting": "8 kHz", **distilled},
            },
        },
        name="half",
    )
    *_, integers = run_recipe(recipe, bench)
    model = Model(integers.path("model.hark"))
    assert (model.sample_rate, model.step_samples) == (8_000, 8 * 160)
    assert integers.read_json("stream.json")["hours"] == pytest.approx(_hours(bench.task))
    assert integers.read_json("check_stream.json")["word"] == [4.0, 5.0]
    assert integers.read_json("cost.json")["latency_ms"] == 160
    told = integers.read_json("evaluation.json")
    assert told["one_minus_auc"] < 0.2


def _hours(task: Task) -> float:
    return sum(len(piece.waveform) for piece in judging_stream(task)) / 16_000 / 3600
