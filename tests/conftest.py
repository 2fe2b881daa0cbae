"""What all tests share: where the real recordings are, and a task so small that an epoch takes an instant."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from command_line import hark_ as hark_
from contract import seeded
from data_workers import fair_watchdog as fair_watchdog
from hark import notices
from hark.learning.dataset import Source, Task, load_task
from hark.learning.devices import Machine
from hark.network.crnn import CrnnConfig
from hark.network.spotter import Spotter, SpotterConfig
from hark.recipes import publishing
from hark.recipes.recipe import Recipe, parse_recipe
from hark.recipes.reproduction import Plan, run_fold
from hark.record.runs import Run
from hark.sound import audio
from hark.sound.augmentation import generator
from hark.sound.corpus import BACKGROUND_FOLDER, Clip
from hark.sound.splits import fold_of, fold_parts, speech_part

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FOLDS = 2

# Other tests run beside these; and bits are promised at equal thread counts only.
torch.set_num_threads(1)
# What a shell starts in the background ignores SIGINT, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Neither a deadline nor the health check asks who else keeps the machine busy.
settings.register_profile("hark", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hark")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings beside the project; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real recordings at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def _every_line_is_shown() -> Iterator[None]:
    """However long the thread that shows it is kept waiting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notices, "PATIENCE_S", 60.0)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Whatever a test sets, the next one computes on one thread again."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """100 clips by 20 speakers in two folds: the keyword `beep` is a tone that rises, the others are not."""
    top = tmp_path_factory.mktemp("tiny")
    rng = generator(0, 0, 0)
    takes = {"beep": 2, "hiss": 2, "hum": 1}
    for speaker in _speakers():
        for word, number in takes.items():
            for take in range(number):
                _write(top / "corpus" / word / f"{speaker}_nohash_{take}.wav", _sound(word, rng))
    for name in ("fan", "street"):
        _write(top / "corpus" / BACKGROUND_FOLDER / f"{name}.wav", _hiss(rng, seconds=5.0))
    for name in _sentences():
        _write(top / "speech" / f"{name}.wav", _sound("hum", rng))
    return Source(root=top / "corpus", keyword="beep", cache=top / "cache", folds=FOLDS, speech=top / "speech")


@pytest.fixture(scope="session")
def tiny_task(tiny_source: Source) -> Task:
    """The first fold of the tiny corpus."""
    return load_task(tiny_source, fold=0)


@pytest.fixture(scope="session")
def tiny_network() -> CrnnConfig:
    """Two narrow GRU layers with dropout between them, six steps a clip."""
    return CrnnConfig(channels=2, kernel=(5, 20), stride=(4, 16), hidden=(6, 6), dropout=0.2)


@pytest.fixture(scope="session")
def tiny_spotter(tiny_network: CrnnConfig) -> Callable[[], Spotter]:
    """Gives a spotter that has learned nothing, with the same weights each time."""
    return lambda: seeded(lambda: Spotter(SpotterConfig(keyword="beep", network=tiny_network)))


@pytest.fixture(scope="session", autouse=True)
def _a_minute_proves_what_tests_ship() -> Iterator[None]:
    """An hour for each of hundreds of models would be minutes; `test_verification.py` has the hour."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "PROOF_S", 60.0)
        yield


@pytest.fixture
def terminals_that_hang_up() -> None:
    """Skips where whoever started the tests wants no hang-up to reach them."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        pytest.skip("SIGHUP is ignored here, as nohup does it: nothing can die with its terminal")


@pytest.fixture(scope="session")
def mini_recipe(tiny_network: CrnnConfig) -> Recipe:
    """A stage of every kind, two epochs of training each."""
    network = asdict(tiny_network)
    return parse_recipe(
        {
            "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.02, "averaging": 0.9, "validations": 1},
            "stages": {
                "teacher": {"kind": "train", "network": network},
                "base": {"kind": "distill", "network": network, "teachers": ["teacher"], "setting": "base"},
                "qint8": {"kind": "quantize", "model": "base", "method": "dynamic", "setting": "base, qint8"}
                | {"group": "reference"},
                "rows": {"kind": "quantize", "model": "base", "method": "rows"},
                "int8": {"kind": "quantize", "model": "base", "setting": "base, int8"},
                "aware": {"kind": "quantize-aware", "model": "base", "teachers": ["teacher"], "bits": 4},
                "pruned": {"kind": "prune", "model": "base", "teachers": ["teacher"], "setting": "base, pruned"}
                | {"pruning": {"gru": 0.34, "conv": 0.5, "importance": "loss"}},
                "damage": {"kind": "damage", "model": "base", "shares": [0.0, 0.5]},
            },
        },
        name="mini",
    )


@pytest.fixture(scope="session")
def mini_plan(mini_recipe: Recipe, tiny_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The mini recipe, done on the first fold. Tests only read its runs."""
    out = tmp_path_factory.mktemp("plan")
    plan = Plan(recipe=mini_recipe, source=tiny_source, out=out, machine=Machine(device="cpu"))
    run_fold(plan, 0)
    return plan


@pytest.fixture(scope="session")
def mini_runs(mini_plan: Plan) -> Path:
    """The runs of the mini recipe on the first fold, a folder for each stage."""
    return mini_plan.fold_folder(0)


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[str], Run]:
    """Gives the run of a name, a new one or the one that an earlier call has made."""
    about = {"kind": "train", "group": "ours", "fold": 0, "seed": 0, "parents": []}
    return lambda name: Run.open_or_create(tmp_path / name, about=about)


def _speakers() -> list[str]:
    """Names whose hashes put ten into each fold, of which two validate where the other fold tests."""
    groups: defaultdict[tuple[int, bool], list[str]] = defaultdict(list)
    for speaker in (f"{number:08x}" for number in range(200)):
        fold = fold_of(speaker, FOLDS)
        clip = Clip(Path(speaker), "beep", speaker)
        validates = bool(fold_parts([clip], fold=1 - fold, folds=FOLDS).validation)
        groups[fold, validates].append(speaker)
    return [name for (_, validates), names in groups.items() for name in names[: 2 if validates else 8]]


def _sentences() -> list[str]:
    """Names of two recordings for each half of the speech."""
    names = [f"sentence-{number}" for number in range(30)]
    halves = ("training", "judging")
    return [name for half in halves for name in [n for n in names if speech_part(n) == half][:2]]


def _sound(word: str, rng: np.random.Generator) -> audio.Waveform:
    """One second of a word in a little noise, at a place and a pitch of its own."""
    t = np.arange(audio.SAMPLE_RATE, dtype=np.float32) / audio.SAMPLE_RATE
    envelope = np.exp(-(((t - rng.uniform(0.4, 0.6)) / 0.15) ** 2))
    pitch = rng.uniform(0.9, 1.1)
    tone = {
        "beep": np.sin(2 * np.pi * pitch * (600 * t + 700 * t**2)),
        "hiss": rng.standard_normal(len(t)),
        "hum": np.sin(2 * np.pi * pitch * 200 * t),
    }[word]
    return np.asarray(0.3 * envelope * tone, np.float32) + _hiss(rng, seconds=1.0)


def _hiss(rng: np.random.Generator, *, seconds: float) -> audio.Waveform:
    samples = round(seconds * audio.SAMPLE_RATE)
    return np.float32(0.003) * rng.standard_normal(samples, dtype=np.float32)


def _write(path: Path, waveform: audio.Waveform) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, waveform)
