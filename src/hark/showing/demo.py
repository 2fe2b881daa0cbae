"""The whole road in a few minutes, on speech that is synthesised on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hark.judging.detection import Word, match
from hark.judging.listening import detections_in
from hark.learning.dataset import Source
from hark.recipes.recipe import load_recipe
from hark.recipes.reproduction import Plan, run_fold
from hark.record.command import Command
from hark.record.runs import PACKED_FILE, Run
from hark.runtime import Model
from hark.showing.report import headline, write_report
from hark.sound import audio
from hark.sound.synthesis import Stream, cast, synthesize_corpus, synthesize_stream

KEYWORD = "marvin"
OTHERS = ("house", "seven", "left", "garden", "martin", "yellow", "morning", "forward", "window")
CLIPS_PER_WORD = 100
SEED = 0
CHOSEN = "student-int8"
SENTENCE = ("garden", KEYWORD, "seven", "window", KEYWORD, "martin", "yellow", "house", KEYWORD, "left")


def run_demo(out: Path, *, say: Callable[[str], None], command: Command | None = None) -> None:
    """Make a corpus, train, shrink, prove, detect and report below `out`, telling of each step by `say`.

    Args:
        out: the folder.
        say: takes a line.
        command: what `hark resume` is to give again.
    """
    corpus, page = out / "corpus", out / "report.html"
    say(f"1. {len(OTHERS) + 1} words, each {CLIPS_PER_WORD} times, by synthetic voices: {corpus}")
    if not corpus.exists():
        synthesize_corpus((KEYWORD, *OTHERS), corpus, clips_per_word=CLIPS_PER_WORD, seed=SEED)
    say(f"2. Train a base network to spot {KEYWORD!r}, a student that learns from it; prune and quantise;")
    say("   judge each on voices that none of them has heard")
    source = Source(root=corpus, keyword=KEYWORD, cache=out / "cache")
    plan = Plan(recipe=load_recipe("demo"), source=source, out=out / "runs", command=command)
    run_fold(plan, 0)
    chosen = plan.fold_folder(0) / CHOSEN
    say(f"3. {_proof(chosen)}")
    say(f"4. Listen to a recording of {len(SENTENCE)} words by yet other voices")
    _detect(chosen, out / "recording.wav", say)
    say(f"5. All figures are on one page: open {page}")
    for sentence in headline(write_report([plan.fold_folder(0)], page)):
        say(f"   {sentence}")


def _proof(run: Path) -> str:
    rows = Run.open(run).read_json("check_stream.json")["chunks"]
    chunks = ", ".join(str(row["chunk_frames"]) for row in rows)
    worst = max(row["largest_difference"] for row in rows)
    apart = f"differ from offline by at most {worst:.0e}" if worst else "are those of offline to the last bit"
    return f"Streamed in chunks of {chunks} frames, its posteriors {apart}"


def _detect(run: Path, recording: Path, say: Callable[[str], None]) -> None:
    stream = _unheard_stream()
    audio.write(recording, stream.waveform)
    model = Model(run / PACKED_FILE)
    assert model.operating_point is not None  # every stage that is judged ships one
    found = list(detections_in(model, recording, model.operating_point))
    words = [Word(word.start_s, word.end_s) for word in stream.words if word.text == KEYWORD]
    outcome = match(found, words)
    for detection in found:
        say(f"   {recording}: {KEYWORD!r} at {detection.time_s:.2f} s, posterior {detection.score:.2f}")
    say(f"   {outcome.hits} of {len(words)} found, {outcome.alarms} false alarms")


def _unheard_stream() -> Stream:
    """A recording by voices that the corpus does not have: those beyond its own in the same cast."""
    heard = CLIPS_PER_WORD // 2
    return synthesize_stream(SENTENCE, cast(heard + 5, seed=SEED)[heard:], seed=SEED)
