"""The card of a model that ships: what it was made of, how well it hears, what that proves, all of it data.

A card is a JSON file beside the `.hark` file and not its metadata: the file's whole length is the size that is
told, and a card is longer than the smallest models. A digest ties the two together.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from hark.configuration import build
from hark.errors import ConfigError, ModelFileError, UsageError
from hark.files import from_json, read_small, to_json
from hark.judging.metrics import at_reference_prior


@dataclass(frozen=True, kw_only=True)
class Credit:
    """Recordings that a model was made of, and whom they are owed to."""

    name: str
    licence: str
    holder: str


CREDITS = {
    "speech-commands": Credit(name="Google Speech Commands", licence="CC BY 4.0", holder="Pete Warden, Google"),
    "picovoice-speech": Credit(
        name="speech of the speech-to-intent-benchmark", licence="Apache-2.0", holder="Picovoice"
    ),
    "picovoice-wake-words": Credit(
        name="recordings of the wake-word-benchmark", licence="Apache-2.0", holder="Picovoice"
    ),
    "arabic-words": Credit(
        name="Arabic Speech Commands", licence="CC BY 4.0", holder="Abdulkader Ghandoura and others, 2021"
    ),
}
"""What can be credited by a word."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the model was trained on: all of it, the judging half of the speech excepted."""

    credits: tuple[Credit, ...]
    digest: str
    words: int
    """Clips of words, the keyword among them."""
    positives: int
    sentences: int
    """Clips cut out of sentences."""
    speakers: int
    """Of the words."""
    names_speakers: bool
    """Whether files tell who speaks."""
    clip_s: float


@dataclass(frozen=True, kw_only=True)
class Quality:
    """1 − AUC of the same recipe over folds, each judged on clips that its model has never heard."""

    split: str
    one_minus_auc: tuple[float, ...]
    """Of each fold, seeds averaged."""
    runs: int
    """Over which the figures are taken: folds times seeds."""
    mean: float
    sd: float
    low: float
    high: float
    """The 95 % interval of the mean over folds (Student's t)."""

    @property
    def at_reference_prior(self) -> tuple[float, float, float, float]:
        """Mean, deviation and interval of 0.02587·(1 − AUC)."""
        mean, sd, low, high = map(at_reference_prior, (self.mean, self.sd, max(self.low, 0.0), self.high))
        return mean, sd, low, high


@dataclass(frozen=True, kw_only=True)
class Listened:
    """What became of one kind of sound at the operating point."""

    sound: str
    hours: float
    alarms: int
    words: int = 0
    misses: int = 0


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """How the operating point was chosen, and what it proves."""

    wanted_per_hour: float
    """At most so many in life."""
    words: Listened
    """Words one by one, the keyword among them, by the models of the folds that do not know them."""
    life: tuple[Listened, ...]
    """Speech and noise without the keyword, by the model itself."""
    interval: tuple[float, float]
    """Alarms per hour of life, 95 %."""
    statement: str
    """What the count of alarms in life proves."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How the model was made."""

    recipe: str
    stages: tuple[str, ...]
    """`name: kind, seed`, in their order, the last of which is the model."""
    setting: str
    commit: str | None
    """Of hark's code when it was trained."""
    hark: str
    day: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that is said of a model."""

    keyword: str
    licence: str
    sha256: str
    """Of the `.hark` file, which has the operating point."""
    data: Data
    quality: Quality
    alarms: Alarms
    origin: Origin

    def to_bytes(self) -> bytes:
        """The card as JSON."""
        return (to_json(asdict(self), indent=2) + "\n").encode()


def card_file(model: Path) -> Path:
    """Where the card of a `.hark` file lies: beside it."""
    return model.with_suffix(".json")


def read_card(model: Path) -> Card:
    """The card of a `.hark` file.

    Raises:
        ModelFileError: there is none, it is damaged, or it is of another file.
    """
    path = card_file(model)
    try:
        card = build(Card, from_json(read_small(path)), where="card")
        digest = sha256(model.read_bytes())
    except (OSError, ValueError, UsageError) as error:
        raise ModelFileError(f"{path}: cannot be read as a card ({error}); hark release writes them") from error
    if card.sha256 != digest:
        raise ModelFileError(f"{path}: the card of another file than {model.name}; release the model again")
    return card


def sha256(file: bytes) -> str:
    """The digest by which a card knows its file."""
    return hashlib.sha256(file).hexdigest()


def as_credit(text: str) -> Credit:
    """A credit by its word, or as `NAME; LICENCE; HOLDER`.

    Raises:
        ConfigError: it is neither.
    """
    if text in CREDITS:
        return CREDITS[text]
    parts = [part.strip() for part in text.split(";")]
    if len(parts) != 3 or not all(parts):
        raise ConfigError(f"{text!r}: expected 'NAME; LICENCE; HOLDER', or one of {', '.join(CREDITS)}")
    return Credit(name=parts[0], licence=parts[1], holder=parts[2])
