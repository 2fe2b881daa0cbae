"""What a stage leaves in its run: the model, the file that is shipped, and all that is known of them.

A model that packs is judged as its `.hark` file on the engine: what is told is what users will get.
"""

from __future__ import annotations

import io
from typing import Any, TypeAlias

import numpy as np

from hark.files import write_atomically
from hark.judging.detection import OperatingPoint
from hark.learning.dataset import Dataset, Task, clip_scores
from hark.network.spotter import Spotter
from hark.packed import packing
from hark.proof.cost import cost_of
from hark.proof.evaluation import check_stream, judge_clips, judge_stream, nine_clips, score_clips
from hark.proof.verification import verify_spotter
from hark.record.runs import MODEL_FILE, PACKED_FILE, Run
from hark.runtime import Model, Runner
from hark.shipping.model_packing import can_be_packed, pack
from hark.shipping.torch_runner import TorchRunner
from hark.shrinking.quantization import ClipSpotter
from hark.storage.model_files import to_bytes

DYNAMIC_FILE = "model.pt"
CHUNK_FRAMES = (1, 10, 20)
PROOF_S = 3600.0
"""What the engine hears when a file is proved: an hour, in a second or two."""

Trained: TypeAlias = Spotter | ClipSpotter


def publish(run: Run, model: Spotter, *, judged_on: Task | None) -> None:
    """Write a model, its `.hark` file where it has one, cost and proof; scores and judgements if there is a task.

    Raises:
        VerificationError: the proof fails; `verification.json` has it, and there is no `.hark` file.
    """
    trained = to_bytes(model)
    write_atomically(run.path(MODEL_FILE), trained)
    is_packed = can_be_packed(model)
    point = None
    if judged_on is not None:
        point = _judge(run, Model(packing.to_bytes(pack(model))) if is_packed else TorchRunner(model), judged_on)
    packed = packing.to_bytes(pack(model, operating_point=point)) if is_packed else None
    _prove(run, model, packed)
    if packed is None:
        _write_cost(run, model, MODEL_FILE, len(trained))
    else:
        write_atomically(run.path(PACKED_FILE), packed)
        _write_cost(run, model, PACKED_FILE, len(packed))


def publish_dynamic(run: Run, model: ClipSpotter, parent: Spotter, *, judged_on: Task | None) -> None:
    """Write a model in torch's dynamic qint8, its cost that of its float `parent`, and its judgement."""
    content = model.to_bytes()
    write_atomically(run.path(DYNAMIC_FILE), content)
    _write_cost(run, parent, DYNAMIC_FILE, len(content))
    if judged_on is not None:
        _judge_clips(run, clip_scores(model, judged_on.testing), judged_on.testing)


def _write_cost(run: Run, model: Spotter, file: str, file_bytes: int) -> None:
    run.write_json("cost.json", {**cost_of(model).as_dict(), "file": file, "file_bytes": file_bytes})


def _prove(run: Run, model: Spotter, packed: bytes | None) -> None:
    verification = verify_spotter(model, packed, packed_seconds=PROOF_S)
    run.write_json("verification.json", verification.as_dict())
    verification.require()


def _judge(run: Run, runner: Runner, task: Task) -> OperatingPoint:
    """Both protocols, and the stream of the report's figure; gives the operating point by the validation part."""
    testing, validation = score_clips(runner, task.testing), score_clips(runner, task.validation)
    _judge_clips(run, testing, task.testing)
    stream = judge_stream(runner, task, validation=validation, testing=testing)
    run.write_json("stream.json", stream)
    clips, labels = nine_clips(task.testing, sample_rate=runner.sample_rate)
    run.write_json("check_stream.json", check_stream(runner, clips, labels=labels, chunk_frames=CHUNK_FRAMES))
    return OperatingPoint(stream["threshold"])


def _judge_clips(run: Run, scores: np.ndarray[Any, np.dtype[np.float64]], data: Dataset) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        scores=scores,
        labels=data.targets,
        speakers=np.array([clip.speaker for clip in data.clips]),
        paths=np.array([f"{clip.label}/{clip.path.name}" for clip in data.clips]),
    )
    write_atomically(run.path("scores.npz"), buffer.getvalue())
    run.write_json("evaluation.json", judge_clips(scores, data))
