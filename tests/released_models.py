"""A model as it ships, for tests: a file of tests/golden with a card whose every figure is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hark.models.card import Alarms, Card, Credit, Data, Listened, Origin, Quality, card_file, sha256

GOLDEN = Path(__file__).parent / "golden" / "v1-integer.hark"

CARD = Card(
    keyword="hé",
    licence="Apache-2.0",
    sha256=sha256(GOLDEN.read_bytes()),
    data=Data(
        credits=(Credit(name="Some Words", licence="CC BY 4.0", holder="Somebody"),),
        digest="0123abcd",
        words=7_000,
        positives=1_500,
        sentences=800,
        speakers=1_600,
        names_speakers=True,
        clip_s=1.0,
    ),
    quality=Quality(
        split="speakers",
        one_minus_auc=(0.001, 0.002, 0.003),
        runs=6,
        mean=0.002,
        sd=0.001,
        low=-0.00048,
        high=0.00448,
    ),
    alarms=Alarms(
        wanted_per_hour=1.0,
        words=Listened(sound="words", hours=2.5, alarms=1, words=1_500, misses=75),
        life=(Listened(sound="speech", hours=0.25, alarms=0), Listened(sound="noise", hours=0.05, alarms=0)),
        interval=(0.0, 12.3),
        statement="no alarm in 0.3 h proves only < 10.0 per hour",
    ),
    origin=Origin(
        recipe="tiny",
        stages=("base: train, seed 0", "student: distill, seed 3"),
        setting="student",
        commit="abc123",
        hark="0.1.0",
        day="2026-01-31",
    ),
)


def put(folder: Path, name: str, **changed: object) -> Path:
    """The model under a name in a folder, its card changed."""
    path = folder / f"{name}.hark"
    path.write_bytes(GOLDEN.read_bytes())
    card_file(path).write_bytes(replace(CARD, **changed).to_bytes())  # type: ignore[arg-type]
    return path
