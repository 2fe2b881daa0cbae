"""`hark synthesize`: a corpus of any words, spoken by synthetic voices."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="WORD...")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), required=True, help="The corpus's folder, a new one."
)
@click.option("--clips", type=click.IntRange(1, 100_000), default=100, show_default=True, help="For each word.")
@click.option(
    "--clip-s",
    type=click.FloatRange(0.2, 30),
    default=1.0,
    show_default=True,
    help="Length of a clip in seconds.",
)
@click.option("--language", default="en", show_default=True, help="Whose voices speak: en, en-US, de, fr, ...")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides every choice.")
def synthesize(words: tuple[str, ...], folder: Path, clips: int, clip_s: float, language: str, seed: int) -> None:
    """Speak each WORD (or "phrase in quotes") by many voices into a folder per word.

    Every speaker says every word, about twice, at different speeds and pitches. The same command gives the
    same samples. Needs the extra: pip install "hark-kws[synthesis]".

    \b
    Example:
      $ hark synthesize "hey hark" house tree --to made --clips 200 --seed 0
      made: 600 clips of 3 words by 100 speakers, manifest.jsonl beside them
    """
    from hark.sound.synthesis import MANIFEST, corpus_takes

    takes = corpus_takes(words, folder, clips_per_word=clips, seed=seed, clip_s=clip_s, language=language)
    total = clips * len(words)
    # Where there is no terminal, click shows the label alone.
    with click.progressbar(takes, length=total, label="speaking", file=sys.stderr) as shown:
        speakers = {clip.speaker for clip in shown}
    found = f"{total} clips of {len(words)} words by {len(speakers)} speakers"
    click.echo(f"{folder}: {found}, {MANIFEST} beside them")
