"""A model that ships, and its card: nothing on it is typed, all follows from runs and from listening.

The model has trained on all clips, so that none is left to judge it. Its quality is that of the same recipe over
folds; and where words are heard, it is by the models of the folds, each of which hears the fold it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hark import __version__
from hark.errors import UsageError
from hark.judging.listening import heard_by, told_alarms
from hark.learning.dataset import SENTENCES, Source, Task, load_task
from hark.models.card import Alarms, Card, Credit, Data, Listened, Origin, sha256
from hark.notices import say
from hark.packed import packing
from hark.proof.evaluation import judging_stream, words_in
from hark.record.runs import ENVIRONMENT, PACKED_FILE, Run
from hark.releasing.folds import Folds, folds_of
from hark.releasing.operating_point import Heard, choose_point, hear, summed
from hark.runtime import Model
from hark.sound import audio

REFRACTORY_CLIPS = 2
"""The keyword can be as long as a clip, and the network looks back over another: so long it hears the same one."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a release is asked to be."""

    run: Run
    """On the whole corpus."""
    folds: Path
    """Runs of the same stage on all folds are in it or below."""
    source: Source
    """What the runs on the folds were made from."""
    alarms_per_hour: float
    credits: tuple[Credit, ...]
    licence: str


@dataclass(frozen=True, eq=False)
class Released:
    """A `.hark` file and its card."""

    file: bytes
    card: Card


def release(wish: Wish) -> Released:
    """Choose the operating point of a run's model, and write down all that is known of it.

    Raises:
        UsageError: the run is not on the whole corpus, or the folds are of another recipe or other data.
        ModelError: it gives more alarms than wished at any threshold.
    """
    run = wish.run
    if run.about.get("split") != "whole" or not run.path(PACKED_FILE).exists():
        raise UsageError(f"{run.folder}: expected a finished run of a model that packs, made with --split whole")
    folds = folds_of(run, wish.folds)
    packed = packing.load(run.path(PACKED_FILE))
    words, life = _listen(wish, folds)
    point = choose_point(
        words, life, alarms_per_hour=wish.alarms_per_hour, refractory_s=REFRACTORY_CLIPS * wish.source.clip_s
    )
    among_words, in_life = (summed(each.at(point) for each in heard) for heard in (words, life))
    file = packing.to_bytes(replace(packed, operating_point=point))
    card = Card(
        keyword=packed.labels[-1],
        licence=wish.licence,
        sha256=sha256(file),
        data=_data(run, wish.credits),
        quality=folds.quality,
        alarms=_alarms(wish.alarms_per_hour, among_words[0], in_life),
        origin=_origin(run),
    )
    return Released(file, card)


def _listen(wish: Wish, folds: Folds) -> tuple[list[Heard], list[Heard]]:
    """The words of each fold by the model that does not know them; speech and noise by the model that ships."""
    words = []
    for fold, path in folds.models.items():
        say(f"{path}: hears the words of fold {fold}, which it does not know")
        task, model = load_task(wish.source, fold=fold), Model(path)
        _require_same_data(wish.run, task)
        pieces = judging_stream(_words_alone(task))
        sound = heard_by(model, (piece.waveform for piece in pieces))
        words.append(hear(model, "words", sound, words_in(pieces)[0]))
    model = Model(wish.run.path(PACKED_FILE))
    life = {
        "speech": [audio.read(path) for path in task.judging_speech],
        "noise": [audio.from_pcm16(noise) for noise in task.judging_noises],
    }
    if not any(life.values()):
        raise UsageError("no sound without the keyword to count alarms in, expected --speech, --noise or both")
    return words, [hear(model, kind, heard_by(model, chunks)) for kind, chunks in life.items() if chunks]


def _require_same_data(run: Run, task: Task) -> None:
    if (digest := run.read_json("task.json").get("digest")) != task.digest:
        found = f"made from other data ({digest}) than is given here ({task.digest})"
        raise UsageError(f"{run.folder}: {found}; give the same folders and options")


def _words_alone(task: Task) -> Task:
    """The task without its speech, which the model that ships hears itself: none is to count several times."""
    data = task.testing
    rows = np.flatnonzero([clip.label != SENTENCES for clip in data.clips]).tolist()
    return replace(task, testing=data.part(rows), judging_speech=())


def _data(run: Run, credits: tuple[Credit, ...]) -> Data:
    task = run.read_json("task.json")
    words = task["clips"] - task["sentences"]
    names = ("digest", "positives", "speakers", "names_speakers", "clip_s")
    sentences = task["training"] - words  # those that judge are counted, too, where both halves are cut
    return Data(credits=credits, words=words, sentences=sentences, **{name: task[name] for name in names})


def _alarms(wanted_per_hour: float, words: Listened, life: tuple[Listened, ...]) -> Alarms:
    """What is told of alarms; their rate and its interval go by life alone."""
    told = told_alarms(sum(kind.alarms for kind in life), sum(kind.hours for kind in life))
    low, high = told["interval"]
    return Alarms(
        wanted_per_hour=wanted_per_hour,
        words=words,
        life=life,
        interval=(low, high),
        statement=told["statement"],
    )


def _origin(run: Run) -> Origin:
    """The recipe by its name, which is a folder's, and the stages that lead to the run."""
    home = run.folder.resolve().parent
    return Origin(
        recipe=home.parent.name if home.name == "whole" else run.name,
        stages=tuple(_chain(run)),
        setting=run.about["setting"],
        commit=run.read_json(ENVIRONMENT).get("commit"),
        hark=__version__,
        day=datetime.now(UTC).date().isoformat(),
    )


def _chain(run: Run) -> list[str]:
    """The stages before a run and itself, each once, in their order."""
    about, lines = run.about, list[str]()
    for parent in about.get("parents") or ():
        folder = run.folder.parent / parent
        lines += _chain(Run.open(folder)) if folder.is_dir() else [f"{parent}: from elsewhere"]
    seed = "" if about.get("seed") is None else f", seed {about['seed']}"
    return list(dict.fromkeys([*lines, f"{run.name}: {about['kind']}{seed}"]))
