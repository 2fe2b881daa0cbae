"""Bad recordings: each is named with its reason and left out, and the work goes on as if they were not there."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hark.cli import main
from hark.confinement import Helper
from hark.learning.dataset import Source, Task, load_task
from hark.record.runs import find_runs
from hark.sound import corpus, decoding
from hark.sound.corpus import Clip
from hark.sound.inspection import examine
from hark.sound.preparation import Form, prepare
from test_inspection import NOISE, VERDICTS, wav_bytes

Record = Callable[[str, object], None]
Hark = Callable[..., int]

SICK_DECODER = Path(__file__).parent / "sick_decoder"
HARM = {
    "segfault": "the decoder crashed (SIGSEGV)",
    "sleeping": "the decoder gave no answer within ",
    "memories": "takes more than 1024 MiB of memory",
}
RECIPE = """
[training]
epochs = 1
batch_size = 16
validations = 1

[stages.small]
kind = "train"
setting = "small"
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [4], dropout = 0.0}
"""


@pytest.fixture
def hark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hark:
    """Gives the command line as the shell calls it, in an empty folder; what it returns is the exit code."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["hark", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    return call


@pytest.fixture
def copied(tiny_source: Source, tmp_path: Path) -> Source:
    """The tiny corpus, to be spoilt."""
    shutil.copytree(tiny_source.root, tmp_path / "corpus")
    return replace(tiny_source, root=tmp_path / "corpus", cache=tmp_path / "cache")


@pytest.fixture
def sick_decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Helpers that start now have a decoder that some files hurt."""
    monkeypatch.setenv("PYTHONPATH", str(SICK_DECODER), prepend=os.pathsep)
    monkeypatch.setattr(decoding, "_own", type(decoding._own)())
    yield
    decoding._helper().close()


def hurt(source: Source, harms: list[str]) -> list[Path]:
    """Add recordings that harm their decoder."""
    paths = [source.root / "beep" / f"hurt{number:03}_nohash_0.flac" for number in range(len(harms))]
    for path, harm in zip(paths, harms, strict=True):
        path.write_bytes(harm.encode() + bytes(1_000))
    return paths


def impatient_with_sleepers(monkeypatch: pytest.MonkeyPatch, limit_s: float) -> None:
    """Wait only so long for files that never come; on a busy machine, healthy ones may well take longer."""
    ask = Helper.ask

    def asked(self: Helper, question: dict[str, object], *, within_s: float) -> object:
        sleeps = Path(str(question["path"])).read_bytes().startswith(b"sleeping")
        return ask(self, question, within_s=min(within_s, limit_s) if sleeps else within_s)

    monkeypatch.setattr(Helper, "ask", asked)


@pytest.mark.fault("F9")
def test_every_bad_file_is_named_and_the_others_are_used(
    hark: Hark, tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Record
) -> None:
    """A whole corpus of them, through the command line."""
    word = tmp_path / "corpus" / "word"
    word.mkdir(parents=True)
    rows = [row for name, row in VERDICTS.items() if name != "nothing"]  # which a folder can't hold
    for number, (make, _, _) in enumerate(rows):
        make(word / f"{number:02}.wav")
    code = hark("data", "check", tmp_path / "corpus", "--json")
    found = json.loads(capsys.readouterr().out)
    reasons = {int(Path(clip["path"]).stem): clip["reason"] for clip in found["bad"]}
    for number, (_, kind, reason) in enumerate(rows):
        assert (number in reasons) == (kind == "quarantine")
        assert reasons.get(number, reason).startswith(reason)
    assert found["good"] == len(rows) - len(reasons)
    assert code == 4
    record_property(
        "outcome",
        f"{len(rows)} of {len(rows)} kinds of odd and damaged files get their documented verdict: "
        f"{found['good']} used as they are or converted, {len(reasons)} quarantined with the reason, exit {code}",
    )


@pytest.mark.fault("F9")
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_file_that_may_not_be_read_is_quarantined(suffix: str) -> None:
    """As nobody, since a root user may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / f"a{suffix}"
        soundfile.write(path, NOISE, 16_000)
        path.chmod(0)
        near, far = os.pipe()
        if (child := os.fork()) == 0:
            if os.getuid() == 0:
                os.setuid(65_534)
            verdict, _ = examine(Clip(path, "w", "s"))
            os.write(far, f"{verdict.kind}: {verdict.reason}".encode())
            os._exit(0)
        os.close(far)
        with os.fdopen(near) as pipe:
            told = pipe.read()
        os.waitpid(child, 0)
    assert told == "quarantine: cannot be read (Permission denied)"


@pytest.mark.fault("F9")
@pytest.mark.parametrize("clips", [700, pytest.param(7_024, marks=pytest.mark.chaos)])
def test_a_start_with_a_warm_cache_looks_up_2000_clips_a_second(
    clips: int, shared_data: Path, tmp_path: Path, record_property: Record
) -> None:
    """Processor time, which says the same on a busy machine; it takes a tenth of what is allowed."""
    found = corpus.scan(shared_data / "speech_commands")[:: 7_024 // clips]
    began_s = time.monotonic()
    cold = prepare(found, tmp_path / "cache" / "words.clips", Form(samples=16_000))
    cold_s, began_s = time.monotonic() - began_s, time.process_time()
    warm = prepare(found, tmp_path / "cache" / "words.clips", Form(samples=16_000))
    warm_s = time.process_time() - began_s
    assert warm.inspection == cold.inspection and warm.inspection.bad == []
    assert all(map(np.array_equal, warm.sounds, cold.sounds))
    assert len(found) / warm_s > 2_000
    record_property(
        "outcome",
        f"{len(found)} FLAC clips are judged and decoded at {len(found) / cold_s:,.0f} a second of wall time, "
        f"looked up and verified at {len(found) / warm_s:,.0f} a second of one core",
    )


@pytest.mark.fault("F10")
@pytest.mark.parametrize("limit_s", [2.0, pytest.param(10.0, marks=pytest.mark.chaos)])
def test_files_that_hurt_their_decoder_are_quarantined_and_touch_nothing_else(
    limit_s: float,
    copied: Source,
    tiny_task: Task,
    sick_decoder: None,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    for path in sorted(copied.root.glob("*/*.wav"))[::2]:  # so that half of the others are decoded by helpers too
        soundfile.write(path.with_suffix(".flac"), soundfile.read(path, dtype="int16")[0], 16_000)
        path.unlink()
    impatient_with_sleepers(monkeypatch, limit_s)
    harms = [*HARM, "segfault", "memories"]
    paths = hurt(copied, harms)
    task = load_task(replace(copied, max_bad_share=0.05), fold=0)
    said = dict(line.split(": ", 1) for line in task.quarantined)
    for path, harm in zip(paths, harms, strict=True):
        assert said.pop(str(path)).startswith(HARM[harm])
    assert said == {}
    for part in ("training", "validation", "testing"):
        mine, undisturbed = getattr(task, part), getattr(tiny_task, part)
        assert [clip.path.stem for clip in mine.clips] == [clip.path.stem for clip in undisturbed.clips]
        np.testing.assert_array_equal(mine.pcm, undisturbed.pcm)
    total = sum(len(getattr(task, part)) for part in ("training", "validation", "testing"))
    record_property(
        "outcome",
        f"{len(harms)} of {len(harms)} files that crash, hang or exhaust their decoder are quarantined with the "
        f"reason, at {decoding.LIMITS.memory_bytes >> 20:,} MiB or after {limit_s:g} s at the latest; the other "
        f"{total} clips decode to the same samples as without them",
    )


@pytest.mark.fault("F9")
@pytest.mark.fault("F10")
def test_a_training_goes_on_without_bad_data_and_its_report_names_it(
    hark: Hark, copied: Source, sick_decoder: None, tmp_path: Path, record_property: Record
) -> None:
    """From the command line to the page: quarantined in `task.json`, told in the report, and without effect."""
    (tmp_path / "small.toml").write_text(RECIPE)
    command = ["train", tmp_path / "small.toml", "--data", copied.root, "--keyword", "beep", "--folds", 2]
    assert hark(*command, "--device", "cpu", "--out", "undisturbed") == 0
    (path,) = hurt(copied, ["segfault"])
    assert hark(*command, "--device", "cpu", "--out", "runs") == 0
    (undisturbed,), (run,) = find_runs([Path("undisturbed")]), find_runs([Path("runs")])
    assert run.path("model.safetensors").read_bytes() == undisturbed.path("model.safetensors").read_bytes()
    task = run.read_json("task.json")
    (told,) = task["quarantined"]
    assert told == f"{path}: {HARM['segfault']}, expected WAV, FLAC, OGG or MP3"
    assert hark("report", "runs", "--out", "report.html") == 0
    assert told in Path("report.html").read_text()
    record_property(
        "outcome",
        f"with {len(task['quarantined'])} bad recording beside {task['clips']} clips a training gives the same "
        "model, byte for byte, as without; its run and its report name the recording and the reason",
    )


@pytest.mark.fault("F9")
@pytest.mark.fault("F10")
def test_too_much_bad_data_stops_before_anything_is_trained(
    hark: Hark,
    copied: Source,
    sick_decoder: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    hurt(copied, ["segfault"])
    (copied.root / "hum" / "empty_nohash_0.wav").write_bytes(wav_bytes(riff_bytes=36, data_bytes=0, sound=b""))
    (tmp_path / "small.toml").write_text(RECIPE)
    command = ["train", tmp_path / "small.toml", "--data", copied.root, "--keyword", "beep", "--folds", 2]
    code = hark(*command, "--device", "cpu", "--out", "runs")
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 4
    assert said.startswith("hark: 2 of 104 clips are unusable, at most 1.0% allowed, the first: ")
    assert said.endswith("; `hark data check` lists them all")
    assert [path.name for path in Path("runs").iterdir()] == ["cache"]
    assert hark(*command, "--device", "cpu", "--out", "runs", "--max-bad-share", "0.02") == 0
    share = said.removeprefix("hark: ").split(" clips")[0]
    record_property(
        "outcome", f"{share} recordings bad: exit {code} before there is a run; with 2 % allowed it goes on"
    )
