"""Cards: data and no prose, of one file and no other, refused where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hark.errors import ConfigError, ModelFileError
from hark.models.card import CREDITS, Credit, as_credit, card_file, read_card
from released_models import CARD, put


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_card(put(tmp_path, "he")) == CARD


def test_a_card_is_of_one_file_alone(tmp_path: Path) -> None:
    path = put(tmp_path, "he")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelFileError, match=r"he\.json: the card of another file than he\.hark"):
        read_card(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda values: values.pop("licence"), "card: no licence, expected text"),
        (lambda values: values["quality"].update(mean="good"), "card.quality.mean is 'good', expected a number"),
        (lambda values: values.update(price=3), "unknown key card.price"),
    ],
    ids=["a key is missing", "text for a number", "a key too many"],
)
def test_a_damaged_card_is_refused_in_one_line(tmp_path: Path, damage: object, said: str) -> None:
    path = card_file(put(tmp_path, "he"))
    values = json.loads(path.read_text())
    damage(values)  # type: ignore[operator]
    path.write_text(json.dumps(values))
    with pytest.raises(ModelFileError, match=said):
        read_card(path.with_suffix(".hark"))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}'])
def test_what_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, "he")
    card_file(path).write_text(text)
    with pytest.raises(ModelFileError, match=r"he\.json: cannot be read as a card"):
        read_card(path)


def test_a_file_without_a_card_is_told(tmp_path: Path) -> None:
    path = put(tmp_path, "he")
    card_file(path).unlink()
    with pytest.raises(ModelFileError, match="hark release writes them"):
        read_card(path)


def test_the_metric_of_the_reference_is_the_area_times_its_prior() -> None:
    """An interval by Student's t may begin below nothing; an area may not."""
    assert CARD.quality.at_reference_prior == pytest.approx((5.174e-5, 2.587e-5, 0.0, 0.00448 * 0.02587))


def test_a_credit_is_a_word_or_three_parts() -> None:
    assert as_credit("speech-commands") is CREDITS["speech-commands"]
    assert as_credit("My words; CC0-1.0; Anna") == Credit(name="My words", licence="CC0-1.0", holder="Anna")


@pytest.mark.parametrize("text", ["speech", "a; b", "a; b; c; d", "a; ; c", ""])
def test_another_credit_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected 'NAME; LICENCE; HOLDER', or one of speech-commands, "):
        as_credit(text)
