"""`hark data`: fetch a corpus, look at it, find what is wrong with it, cut it into parts."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import click

from hark.errors import AudioError, CorpusError, UsageError
from hark.sound import audio, corpus, download, inspection, splits
from hark.sound.corpus import Clip

T = TypeVar("T")

SOURCE = click.argument("source", metavar="DIR", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")


@click.group()
def data() -> None:
    """Fetch, check, list, split and convert recordings.

    DIR is a folder with a folder per word, or a JSON-lines manifest.
    """


@data.command()
@SOURCE
@click.option("--max-bad-share", type=click.FloatRange(0, 1), default=inspection.MAX_BAD_SHARE, show_default=True)
@click.option("--speech", type=click.Path(path_type=Path), help="Sentences without the keyword.")
@AS_JSON
def check(source: Path, max_bad_share: float, speech: Path | None, as_json: bool) -> None:
    """List every clip that cannot be used, and why; change nothing.

    The corpus's background noises are looked at as well, and the sentences if they are named. Exits with 4 if
    more than the allowed share is bad.

    \b
    Example:
      $ hark data check speech_commands
      speech_commands/bed/0a.wav: truncated, the header promises 32000 bytes of sound, the file holds 20000
      1 × truncated
      64720 clips and 6 longer recordings are good, 1 bad (0.0%)
    """
    clips = corpus.load(source)
    files = [*corpus.background_files(source), *(corpus.speech_files(speech) if speech else [])]
    surroundings = [Clip(path, label="", speaker="") for path in files]
    with _progress([*clips, *surroundings], "checking") as shown:
        rest = iter(shown)
        words = inspection.inspect_clips(islice(rest, len(clips)))
        others = inspection.inspect_clips(rest, longest_s=audio.LONGEST_READ_S)
    found = inspection.Inspection.of_all([words, others])
    faults = _counted(verdict.fault for _, verdict in found.bad)
    if as_json:
        bad = [{"path": str(clip.path), "reason": verdict.reason} for clip, verdict in found.bad]
        _print_json(good=len(found.good), bad=bad, faults=faults, notes=found.notes)
    else:
        for clip, verdict in found.bad:
            click.echo(f"{clip.path}: {verdict.reason}")
        for line in (*(f"{count} × {fault}" for fault, count in faults.items()), *found.notes):
            click.echo(line)
        beside = f" and {len(others.good)} longer recordings" if others.good else ""
        click.echo(f"{len(words.good)} clips{beside} are good, {len(found.bad)} bad ({found.bad_share:.1%})")
    found.require(max_bad_share)


@data.command("download")
@click.option("--version", type=click.Choice(list(download.SPEECH_COMMANDS)), default="0.01", show_default=True)
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), required=True, help="Where the corpus's folder goes."
)
def download_(version: str, folder: Path) -> None:
    """Fetch Google Speech Commands (CC BY 4.0); a broken download goes on where it stopped.

    \b
    Example:
      $ hark data download --version 0.01 --to corpora
      corpora/speech_commands_v0.01
    """
    size_bytes = download.SPEECH_COMMANDS[version].size_bytes
    label = f"downloading {size_bytes / 1e9:.1f} GB"
    with click.progressbar(length=size_bytes, label=label, file=sys.stderr) as bar:
        target = download.download_speech_commands(
            folder, version=version, progress=lambda done, _: bar.update(done - bar.pos)
        )
    click.echo(target)


@data.command()
@SOURCE
@click.option("--manifest", type=click.Path(path_type=Path), help="Also write the clips as JSON lines.")
@AS_JSON
def index(source: Path, manifest: Path | None, as_json: bool) -> None:
    """Count clips, speakers and hours, word by word.

    \b
    Example:
      $ hark data index speech_commands --manifest speech_commands/clips.jsonl
      word   clips  speakers  hours
      bed     1534      1055   0.42
      ...
      all     7024      1683   1.93
    """
    clips = corpus.load(source)
    if manifest:
        corpus.write_manifest(manifest, clips)
    with _progress(clips, "reading headers") as shown:
        seconds = {clip: _length_s(clip) for clip in shown}
    words: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        words[clip.label].append(clip)
    rows = [
        {
            "word": word,
            "clips": len(of_word),
            "speakers": len({clip.speaker for clip in of_word}),
            "hours": round(sum(seconds[clip] for clip in of_word) / 3600, 2),
        }
        for word, of_word in [*sorted(words.items()), ("all", clips)]
    ]
    _print_json(words=rows) if as_json else _print_table(rows)


@data.command()
@SOURCE
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True)
@click.option("--fold", type=click.IntRange(0), help="Only this fold, its three parts compared.")
@AS_JSON
def split(source: Path, folds: int, fold: int | None, as_json: bool) -> None:
    """Show the sizes of a split by speaker, and whatever its parts share and must not.

    Without --fold the folds' test parts are compared with each other, sound by sound; with it, the training,
    validation and test part of that fold. Exits with 1 if anything is shared.

    \b
    Example:
      $ hark data split speech_commands --folds 5 --fold 0
      fold  training  validation  testing
         0      4965         541     1518
      no speaker and no sound is in two parts
    """
    clips = corpus.load(source)
    cut = {
        k: splits.fold_parts(clips, fold=k, folds=folds) for k in ([fold] if fold is not None else range(folds))
    }
    rows = [{"fold": k, **{name: len(part) for name, part in parts._asdict().items()}} for k, parts in cut.items()]
    compared = {f"fold {k}": parts.testing for k, parts in cut.items()} if fold is None else cut[fold]._asdict()
    leaks = splits.find_leaks(compared)
    if as_json:
        _print_json(folds=rows, leaks=leaks)
    else:
        _print_table(rows)
        click.echo("\n".join(leaks) or "no speaker and no sound is in two parts")
        if not splits.names_speakers(clips):
            click.echo("no speaker is named twice: each file counts as one of its own")
    if leaks:
        raise CorpusError(
            f"{source}: {len(leaks)} leaks between the parts, expected none; remove one clip of each"
        )


@data.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
def convert(source: Path, target: Path) -> None:
    """Copy a tree of recordings as 16 kHz mono WAV of 16 bits; SRC is only read.

    What cannot be read is named and left out, and the exit status is 1.

    \b
    Example:
      $ hark data convert recordings recordings_16k
      7030 recordings in recordings_16k
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{target}: inside {source}, expected a folder elsewhere")
    recordings = sorted(path for path in source.rglob("*") if path.suffix.lower() in corpus.AUDIO_SUFFIXES)
    faults = []
    with _progress(recordings, "converting") as shown:
        for recording in shown:
            converted = target / recording.relative_to(source).with_suffix(".wav")
            try:
                _convert_one(recording, converted)
            except AudioError as error:
                faults.append(str(error))
    click.echo(f"{len(recordings) - len(faults)} recordings in {target}")
    if faults:
        click.echo("\n".join(faults), err=True)
        raise AudioError(f"{source}: {len(faults)} recordings left out, named above; mend or remove them")


def _convert_one(recording: Path, converted: Path) -> None:
    twin = recording.with_suffix(".wav")
    if twin != recording and twin.exists():
        raise AudioError(f"{recording}: {twin.name} beside it would get the same name; rename one")
    waveform = audio.read(recording)
    converted.parent.mkdir(parents=True, exist_ok=True)
    audio.write(converted, waveform)


def _length_s(clip: Clip) -> float:
    """Seconds of a clip; 0 for a damaged one, which `check` names."""
    try:
        return clip.duration_s or audio.info(clip.path).duration_s - clip.start_s
    except AudioError:
        return 0.0


def _counted(names: Iterable[str]) -> dict[str, int]:
    """How often each name comes, the most frequent first."""
    return dict(Counter(names).most_common())


def _progress(items: Sequence[T], label: str) -> AbstractContextManager[Iterable[T]]:
    """The items, with a bar on stderr as they are taken."""
    return click.progressbar(items, label=label, file=sys.stderr)


def _print_json(**values: object) -> None:
    click.echo(json.dumps(values, indent=2, ensure_ascii=False))


def _print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Columns as wide as their widest cell; text to the left, numbers to the right."""
    lines = [dict(zip(rows[0], rows[0], strict=True)), *rows]
    widths = {column: max(len(str(line[column])) for line in lines) for column in rows[0]}
    for line in lines:
        cells = (
            f"{line[column]:<{width}}" if isinstance(rows[0][column], str) else f"{line[column]:>{width}}"
            for column, width in widths.items()
        )
        click.echo("  ".join(cells).rstrip())
