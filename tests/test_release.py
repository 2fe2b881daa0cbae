"""`hark release`: a model of the whole corpus, its operating point chosen, its card computed from judged runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from command_line import Hark
from hark.errors import ModelError, UsageError
from hark.judging.metrics import mean_interval
from hark.learning.dataset import Source, load_task
from hark.learning.devices import Machine
from hark.models.card import CREDITS, Card, card_file, read_card
from hark.network.crnn import CrnnConfig
from hark.packed import packing
from hark.recipes.recipe import parse_recipe
from hark.recipes.reproduction import Plan, run_fold
from hark.record.runs import PACKED_FILE, Run
from hark.releasing.folds import folds_of
from hark.releasing.release import Wish, release
from hark.runtime import Model

SETTING = "small, int8"
ALARMS_PER_HOUR = 2_000.0


@pytest.fixture(scope="module")
def runs(tiny_source: Source, tiny_network: CrnnConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of a training and an int8 model, on both folds and on the whole corpus."""
    training = {
        "epochs": 4,
        "batch_size": 16,
        "learning_rate": 0.02,
        "averaging": 0.9,
        "validations": 1,
        "seed": 5,
    }
    stages = {
        "small": {"kind": "train", "network": asdict(tiny_network), "training": training},
        "int8": {"kind": "quantize", "model": "small", "setting": SETTING},
    }
    out = tmp_path_factory.mktemp("releasing")
    recipe = parse_recipe({"stages": stages}, name="tiny")
    plan = Plan(recipe=recipe, source=tiny_source, out=out, machine=Machine(device="cpu"))
    for fold in (0, 1):
        run_fold(plan, fold)
    run_fold(replace(plan, source=replace(tiny_source, split="whole")), 0)
    return out / "tiny"


@pytest.fixture(scope="module")
def wish(runs: Path, tiny_source: Source) -> Wish:
    """The int8 model, at so many alarms that some threshold will do."""
    return Wish(
        run=Run.open(runs / "whole" / "int8"),
        folds=runs,
        source=tiny_source,
        alarms_per_hour=ALARMS_PER_HOUR,
        credits=(CREDITS["speech-commands"],),
        licence="Apache-2.0",
    )


@pytest.fixture(scope="module")
def card(wish: Wish) -> Card:
    """What is written of it."""
    return release(wish).card


def test_a_run_on_the_whole_corpus_is_proved_and_packed_but_not_judged(runs: Path) -> None:
    run = Run.open(runs / "whole" / "int8")
    assert {"model.hark", "verification.json", "cost.json"} <= {path.name for path in run.folder.iterdir()}
    assert not any(run.path(name).exists() for name in ("evaluation.json", "stream.json", "scores.npz"))
    task = run.read_json("task.json")
    assert (task["split"], task["clips"], task["training"], task["speakers"]) == ("whole", 100, 100, 20)
    assert Model(run.path(PACKED_FILE)).operating_point is None


def test_only_the_operating_point_is_new_in_the_file(wish: Wish) -> None:
    released = release(wish)
    before, after = packing.load(wish.run.path(PACKED_FILE)), packing.from_bytes(released.file)
    assert after.operating_point
    assert after.operating_point.refractory_s == 2 * wish.source.clip_s
    assert packing.to_bytes(replace(after, operating_point=None)) == packing.to_bytes(before)


def test_the_quality_is_that_of_the_folds(card: Card, runs: Path) -> None:
    judged = [Run.open(runs / f"fold-{fold}" / "int8").read_json("evaluation.json") for fold in (0, 1)]
    areas = [evaluation["one_minus_auc"] for evaluation in judged]
    quality = card.quality
    assert (list(quality.one_minus_auc), quality.runs, quality.split) == (areas, 2, "speakers")
    assert (quality.mean, quality.sd) == pytest.approx((np.mean(areas), np.std(areas, ddof=1)))
    assert (quality.low, quality.high) == mean_interval(areas)


def test_all_words_are_heard_once_and_speech_and_noise_by_the_model_itself(card: Card) -> None:
    assert card.alarms.words.words == 40, "each by the model of the fold that does not know it"
    assert [(kind.sound, kind.words) for kind in card.alarms.life] == [("speech", 0), ("noise", 0)]
    assert [kind.hours for kind in card.alarms.life] == pytest.approx([2 / 3600, 2 / 3600])
    alarms, hours = (sum(getattr(kind, name) for kind in card.alarms.life) for name in ("alarms", "hours"))
    assert alarms <= ALARMS_PER_HOUR * hours
    assert card.alarms.interval[0] <= alarms / hours <= card.alarms.interval[1]


def test_the_card_tells_data_and_origin(card: Card, runs: Path) -> None:
    assert (card.keyword, card.data.credits) == ("beep", (CREDITS["speech-commands"],))
    assert (card.data.words, card.data.positives, card.data.sentences) == (100, 40, 0)
    assert (card.data.speakers, card.data.names_speakers, card.data.clip_s) == (20, True, 1.0)
    assert card.data.digest == Run.open(runs / "fold-0" / "int8").about["data"]
    assert card.origin.recipe == "tiny"
    assert card.origin.stages == ("small: train, seed 5", "int8: quantize")
    assert card.origin.setting == SETTING


def test_other_seeds_count_and_other_recipes_do_not(wish: Wish, tmp_path: Path) -> None:
    """A setting of two seeds has the mean of both on each fold; another bit width is another setting."""
    folder = Path(shutil.copytree(wish.folds, tmp_path / "runs"))
    again = Path(shutil.copytree(folder / "fold-1" / "int8", folder / "fold-1" / "int8-again"))
    evaluation = json.loads((again / "evaluation.json").read_text())
    evaluation["one_minus_auc"] += 0.25
    (again / "evaluation.json").write_text(json.dumps(evaluation))
    quality = folds_of(wish.run, folder).quality
    assert quality.runs == 3
    assert quality.one_minus_auc[1] == pytest.approx(evaluation["one_minus_auc"] - 0.125)
    config = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps(config | {"bits": 4}))
    with pytest.raises(UsageError, match=r"int8-again: made otherwise than .*: bits: 4 there, 8 here"):
        folds_of(wish.run, folder)


def test_what_cannot_be_released_is_refused_before_anything_is_heard(
    wish: Wish, tmp_path: Path, tiny_source: Source
) -> None:
    one = Path(shutil.copytree(wish.folds / "fold-0", tmp_path / "one"))
    for changed, said in (
        ({"run": Run.open(wish.folds / "fold-0" / "int8")}, "made with --split whole"),
        ({"folds": one}, "no run of 'small, int8' on fold 1 of 2, expected all"),
        ({"folds": wish.folds / "whole"}, "no judged run of 'small, int8'"),
        ({"source": replace(tiny_source, speech=None)}, "made from other data"),
    ):
        with pytest.raises(UsageError, match=said):
            release(replace(wish, **changed))


def test_without_speech_and_noise_there_is_nothing_to_count_alarms_in(
    wish: Wish, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(wish.source, fold=0)
    monkeypatch.setattr(
        "hark.releasing.release.load_task", lambda *_, **__: replace(task, judging_speech=(), judging_noises=())
    )
    with pytest.raises(UsageError, match="expected --speech, --noise or both"):
        release(wish)


def test_a_model_with_too_many_alarms_is_not_released(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hark.releasing.operating_point.THRESHOLDS", (0.0,))
    monkeypatch.setattr("hark.releasing.release.hear", _always)
    with pytest.raises(ModelError, match="allow more alarms"):
        release(replace(wish, alarms_per_hour=1e-3))


def _always(runner: Model, sound: str, *_: object) -> object:
    from hark.releasing.operating_point import Heard

    return Heard(sound, runner, np.ones(100), 0.01)


def test_one_command_writes_the_file_and_its_card(hark_: Hark, wish: Wish, card: Card) -> None:
    source = wish.source
    corpus = ["--data", source.root, "--keyword", "beep", "--folds", 2, "--speech", source.speech]
    given = ["--quality-from", wish.folds, "--credit", "speech-commands", "--alarms-per-hour", ALARMS_PER_HOUR]
    outcome = hark_("release", wish.run.folder, *corpus, *given, "--out", "beep.hark")
    assert outcome.code == 0, outcome.err
    written = read_card(Path("beep.hark"))
    assert replace(written, origin=card.origin) == card
    assert hark_("models", "./beep.hark").out == outcome.out
    told = hark_("evaluate", "beep.hark", *corpus)
    assert told.err.splitlines()[-1].startswith("beep has trained on these very clips")
    card_file(Path("beep.hark")).unlink()
    assert "these very clips" not in hark_("evaluate", "beep.hark", *corpus).err


def test_what_nothing_is_left_to_judge_is_not_judged(hark_: Hark, tiny_source: Source, mini_runs: Path) -> None:
    corpus = ["--data", tiny_source.root, "--keyword", "beep", "--split", "whole"]
    refused = hark_("evaluate", mini_runs / "base", *corpus)
    assert refused.code == 2
    assert "--split whole leaves nothing to judge on" in refused.err
    short = ["--set", "training.epochs=1", "--device", "cpu"]
    trained = hark_("train", "--network", "stage-2", *corpus, "--out", "all", *short)
    assert trained.out == "all: trained on all clips, so that none is left to judge it on\n"
    damage = '[stages.harm]\nkind = "damage"\nmodel = "' + str(mini_runs / "base") + '"\n'
    Path("harm.toml").write_text(damage)
    assert "leave the stage out" in hark_("train", "harm.toml", *corpus).err
