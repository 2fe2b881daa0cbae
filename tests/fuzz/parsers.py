"""Every parser of hark as a function of bytes that may come from anywhere, with examples of what it takes.

The law that all of them keep: any bytes give the documented result or a `HarkError` of one line, nothing else;
nothing hangs, and no length that a file claims is believed before it is checked. A checksum would hide the
parser behind it, so where there is one, a second entry gives whatever comes the checksum that fits.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import soundfile
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from contract import small_spotter
from hark.errors import HarkError, UsageError
from hark.files import digest, to_json
from hark.packed import packing
from hark.recipes.recipe import COOKBOOK, load_recipe, override, parse_recipe
from hark.record import locking
from hark.record.command import COMMAND, Command
from hark.record.events import EventLog
from hark.record.portrait import portrait
from hark.record.runs import ABOUT, CONFIG, LOCK, Run
from hark.record.status import status_of
from hark.record.store import CheckpointStore
from hark.record.watching import line, summary
from hark.showing.study import collect
from hark.shrinking.quantization import quantize
from hark.sound import audio, corpus
from hark.sound.unpacking import Limits, unpack
from hark.storage.model_files import digest_of, load, to_bytes
from packed_models import ARITHMETICS, INNER, random_model

Feed = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Parser:
    """A parser, fed with bytes in an empty folder, and examples of what it takes."""

    feed: Feed
    seeds: Callable[[], Iterable[bytes]]

    def takes(self, data: bytes, folder: Path) -> bool:
        """Whether `data` is taken; False where it is refused in one line. All else is raised."""
        try:
            self.feed(data, folder)
        except HarkError as error:
            if len(str(error).splitlines()) != 1:
                raise AssertionError(f"expected one line, found {error}") from error
            return False
        return True


PARSERS: dict[str, Parser] = {}


def parser(seeds: Callable[[], Iterable[bytes]]) -> Callable[[Feed], Feed]:
    """Enter a function into `PARSERS` under its name."""

    def enter(feed: Feed) -> Feed:
        PARSERS[feed.__name__] = Parser(feed, seeds)
        return feed

    return enter


def _recipes() -> list[bytes]:
    network = b'[stages.a]\nkind = "train"\nnetwork = {channels = 2, kernel = [5, 20], hidden = [6]}\n'
    return [network, *(path.read_bytes() for path in sorted(COOKBOOK.glob("*.toml")))]


@parser(_recipes)
def recipe(data: bytes, folder: Path) -> object:
    """A recipe's TOML."""
    path = folder / "mine.toml"
    path.write_bytes(data)
    return load_recipe(path)


@parser(lambda: [b"training.epochs=3\nstages.a.network={channels = 2}\nstages.a.setting=a word"])
def overrides(data: bytes, folder: Path) -> object:
    """What `--set` is given, one a line."""
    values: dict[str, object] = {"about": "x", "stages": {"a": {"kind": "train", "network": "base"}}}
    for change in data.decode(errors="surrogateescape").splitlines():
        override(values, change)
    return parse_recipe(values, name="mine")


@cache
def _models() -> tuple[bytes, ...]:
    return to_bytes(small_spotter()), to_bytes(quantize(small_spotter()))


def _header(file: bytes) -> tuple[bytes, bytes]:
    """A safetensors file's header, and its tensors."""
    end = 8 + int.from_bytes(file[:8], "little")
    return file[8:end], file[end:]


@parser(_models)
def model(data: bytes, folder: Path) -> object:
    """A model's file."""
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return load(path)


@parser(lambda: [_header(_models()[0])[0]])
def model_header(data: bytes, folder: Path) -> object:
    """The header of a model's file, its tensors unharmed, its length right."""
    return model(len(data).to_bytes(8, "little") + data + _header(_models()[0])[1], folder)


@parser(lambda: [json.dumps(asdict(small_spotter().config)).encode()])
def model_config(data: bytes, folder: Path) -> object:
    """The configuration in a model's header, under a digest that fits."""
    file = _models()[0]
    known = json.loads(_header(file)[0])["__metadata__"]
    told = {"format": known["format"], "config": data.decode(errors="replace")}
    tensors = from_safetensors(file)
    return model(to_safetensors(tensors, told | {"digest": digest_of(told, tensors)}), folder)


@cache
def _packed_models() -> tuple[bytes, ...]:
    models = (random_model(kind, INNER, seed=5) for kind in ARITHMETICS)
    return tuple(packing.to_bytes(replace(model, metadata={})) for model in models)


@parser(_packed_models)
def packed(data: bytes, folder: Path) -> object:
    """A .hark file."""
    path = folder / "model.hark"
    path.write_bytes(data)
    return packing.load(path)


@parser(lambda: [file[12:] for file in _packed_models()])
def packed_body(data: bytes, folder: Path) -> object:
    """What follows the length in a .hark file, under a length and a checksum that fit."""
    checked = struct.pack("<I", len(data) + 12) + data
    return packed(packing.MAGIC + struct.pack("<I", zlib.crc32(checked)) + checked, folder)


def _manifest_body() -> dict[str, object]:
    stamp = {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    return {"step": 12, "score": 0.25, "info": {"config": "x"}, "files": {"model.safetensors": stamp}}


def _sealed(body: object) -> bytes:
    return (to_json({"manifest": body, "sha256": digest(body)}, indent=1) + "\n").encode()


@parser(lambda: [_sealed(_manifest_body())])
def checkpoint(data: bytes, folder: Path) -> object:
    """A checkpoint's manifest, its one file there."""
    home = folder / "step-00000012"
    home.mkdir()
    (home / "MANIFEST.json").write_bytes(data)
    (home / "model.safetensors").write_bytes(b"abc")
    store = CheckpointStore(folder)
    return store.best(), store.latest()


@parser(lambda: [json.dumps(_manifest_body()).encode()])
def checkpoint_body(data: bytes, folder: Path) -> object:
    """What a manifest says, under a digest that fits."""
    try:
        sealed = _sealed(json.loads(data))
    except (ValueError, RecursionError):
        raise UsageError("no JSON, which is the parser `checkpoint`'s concern") from None
    return checkpoint(sealed, folder)


EVENTS = b"""{"kind": "train", "step": 3, "time_s": 1.5, "wall": "2026-01-01T00:00:00+00:00", "loss": 0.5}
{"kind": "validation", "step": 3, "time_s": 1.6, "one_minus_auc": 0.1}
{"kind": "work", "step": null, "work": {"steps": 10, "clips_per_step": 4, "device": "cpu"}}
{"kind": "resumed", "step": 2, "time_s": 1.7}
{"kind": "warning", "step": null, "message": "x"}
{"kind": "ended", "step": null, "how": "failed", "why": "RunError: x"}
"""


@parser(lambda: [EVENTS])
def events(data: bytes, folder: Path) -> object:
    """An event log, and all that is made of one."""
    path = folder / "events.jsonl"
    path.write_bytes(data)
    log = EventLog(path)
    counting = log.counting()
    for is_live in (False, True):
        status = status_of(counting, is_live=is_live)
        portrait("mine", status, counting), summary(status), str(status)
    log.append("note", step=None, message="\n".join(line(event) for event in log.history()))
    log.mend()
    return log.history()


RUN = {
    "setting": "base",
    "kind": "train",
    "group": "ours",
    "fold": 0,
    "seed": 0,
    "parents": ["teacher"],
    "order": 1,
    "name": "mine",
    "created": "2026-01-01T00:00:00+00:00",
}


@parser(lambda: [json.dumps(RUN).encode()])
def run(data: bytes, folder: Path) -> object:
    """A run's run.json, met by the command that is given again."""
    (folder / ABOUT).write_bytes(data)
    (folder / CONFIG).write_text("{}")
    found = Run.open(folder)
    repr(found), found._repr_html_(), found.about, found.name
    return Run.open_or_create(folder, about=RUN)


@parser(lambda: [json.dumps(RUN).encode()])
def reported_run(data: bytes, folder: Path) -> object:
    """A run's run.json, met by a report."""
    (folder / ABOUT).write_bytes(data)
    return to_json(collect([Run.open(folder)]).summary())


SETTINGS = {"kind": "train", "training": {"epochs": 3, "variation": {"mask_bins": 1}}}


@parser(lambda: [json.dumps(SETTINGS).encode()])
def config(data: bytes, folder: Path) -> object:
    """A run's config.json, met by the command that is given again."""
    (folder / ABOUT).write_text(json.dumps(RUN))
    (folder / CONFIG).write_bytes(data)
    return Run.open_or_create(folder, about=RUN, config=SETTINGS)


COSTS = {
    "macs_per_clip_thop": 9,
    "macs_per_second": 9.0,
    "frontend_macs_per_second": 9.0,
    "parameters": 9,
    "file_bytes": 9,
    "latency_ms": 80.0,
    "layers": [
        {"name": "conv", "rhythm": "step", "thop": 9, "macs": 9, "parameters": 9, "bytes": 9},
        {"name": "features", "rhythm": "frame", "thop": 0, "macs": 9, "parameters": 0, "bytes": 0},
    ],
}
LEFT_BEHIND = {
    "task.json": {"keyword": "happy", "clips": 9, "positives": 3, "speakers": 3},
    "environment.json": {"commit": "abc", "packages": {"torch": "2.13.0"}, "python": "3.11.7"},
    "cost.json": COSTS,
    "evaluation.json": {"one_minus_auc": 0.1, "at_reference_prior": 0.002},
    "stream.json": {"hours": 0.5, "words": 9, "misses_reset": 1, "misses_carried": 2, "alarms": 3},
    "check_stream.json": {
        "chunks": [{"chunk_frames": 1, "largest_difference": 1e-7}],
        "times_s": [0.2, 0.28],
        "posteriors": [0.1, 0.9],
        "borders_s": [0.0, 0.2, 0.4],
        "labels": ["hum", "happy"],
        "word": [0.2, 0.4],
    },
    "pruning_damage.json": {"shares": [0.0, 0.5], "row_wise": [0.1, 0.2], "unit_wise": [0.1, 0.1]},
}


@parser(lambda: [json.dumps(LEFT_BEHIND).encode(), json.dumps(LEFT_BEHIND, indent=1).encode()])
def results(data: bytes, folder: Path) -> object:
    """What a run has left behind: one object with the content of each of its JSON files."""
    (folder / ABOUT).write_text(json.dumps(RUN))
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError("no JSON, which is the parser `run`'s concern") from None
    for name in LEFT_BEHIND:
        if isinstance(content, dict) and name in content:
            (folder / name).write_text(json.dumps(content[name]), errors="surrogatepass")
    study = collect([Run.open(folder)])
    return to_json(study.summary()), study.damage, study.chunk_differences


def _scores() -> list[bytes]:
    buffers = io.BytesIO(), io.BytesIO()
    content = {"scores": np.linspace(0, 1, 4), "labels": np.array([False, True, False, True])}
    np.savez(buffers[0], **content)
    np.savez_compressed(buffers[1], **content)
    return [buffer.getvalue() for buffer in buffers]


@parser(_scores)
def scores(data: bytes, folder: Path) -> object:
    """A run's scores.npz."""
    (folder / ABOUT).write_text(json.dumps(RUN))
    (folder / "scores.npz").write_bytes(data)
    return collect([Run.open(folder)]).summary()


@parser(lambda: [json.dumps({"arguments": ["train", "--keyword", "x"], "folder": "/", "stages": ["a"]}).encode()])
def command(data: bytes, folder: Path) -> object:
    """The command that is kept with a run."""
    (folder / ABOUT).write_text(json.dumps(RUN))
    (folder / COMMAND).write_bytes(data)
    return str(Command.kept_in(Run.open(folder)))


@parser(lambda: [b'{"pid": 12, "host": "here"}'])
def lock(data: bytes, folder: Path) -> object:
    """What the holder of a lock says of itself."""
    path = folder / LOCK
    path.write_bytes(data)
    with path.open("rb") as file, patch.object(locking, "_PAUSE_S", 0.0):
        fcntl.flock(file, fcntl.LOCK_EX)
        return str(locking.holder_of(path))


@parser(
    lambda: [
        b'{"path": "happy/a.wav", "label": "happy", "speaker": "anna", "start_s": 0.5, "duration_s": 1}\n'
        b'{"path": "hum/b.flac", "label": "hum", "split": "training", "duration_s": null}\n'
    ]
)
def manifest(data: bytes, folder: Path) -> object:
    """A manifest of clips."""
    path = folder / "manifest.jsonl"
    path.write_bytes(data)
    return corpus.read_manifest(path)


def _sounds(suffix: str, *subtypes: str) -> list[bytes]:
    sound = 0.3 * np.sin(np.linspace(0, 60, 400))
    files = []
    for subtype in subtypes:
        buffer = io.BytesIO()
        soundfile.write(buffer, np.stack([sound, sound], 1), 16_000, format=suffix, subtype=subtype)
        files.append(buffer.getvalue())
    return files


@parser(lambda: _sounds("WAV", "PCM_16", "PCM_U8", "PCM_24", "FLOAT", "DOUBLE") + _sounds("WAVEX", "PCM_16"))
def wav(data: bytes, folder: Path) -> object:
    """A recording; what is no plain WAV goes to the decoder in its helper process."""
    path = folder / "a.wav"
    path.write_bytes(data)
    return audio.info(path), audio.read(path)


@parser(lambda: _sounds("FLAC", "PCM_16") + _sounds("OGG", "VORBIS") + _sounds("MP3", "MPEG_LAYER_III"))
def decoder(data: bytes, folder: Path) -> object:
    """A recording that libsndfile decodes, in its helper process."""
    return wav(data, folder)


def _tars() -> list[bytes]:
    archives = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name in ("happy/a_nohash_0.wav", "ünder/" + "long" * 20 + ".wav"):
                member = tarfile.TarInfo(name)
                member.size = 3
                archive.addfile(member, io.BytesIO(b"abc"))
        archives.append(buffer.getvalue())
    return archives


@parser(lambda: [gzip.compress(archive, mtime=0) for archive in _tars()])
def archive(data: bytes, folder: Path) -> object:
    """A corpus's archive."""
    path = folder / "corpus.tar.gz"
    path.write_bytes(data)
    return unpack(path, folder / "corpus", limits=Limits(entries=1000, total_bytes=1 << 22))


@parser(_tars)
def tar(data: bytes, folder: Path) -> object:
    """What an archive unpacks to."""
    return archive(gzip.compress(data, compresslevel=1, mtime=0), folder)
