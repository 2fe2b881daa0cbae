"""Cards for people: one as a page of Markdown, many as a table. No figure is typed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hark.models.card import Card
from hark.models.shipped import Shipped

COLUMNS = ("name", "spots", "bytes", "MACs/clip", "MACs/s", "0.02587*(1-AUC), 1e-5", "licence")
_BY_FILE = "no speaker is named twice, so that files were split at random and a voice may be on both sides"


def table(models: Sequence[Shipped]) -> list[str]:
    """A line for each model below a line of names; MACs per clip by thop's convention, per second in full."""
    rows = [COLUMNS, *map(_row, models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(model: Shipped) -> tuple[str, ...]:
    return (
        model.name,
        model.card.keyword,
        f"{model.file_bytes:,}",
        f"{model.cost.per_clip('thop'):,}",
        f"{model.macs_per_second:,.0f}",
        _quality(model.card),
        model.card.licence,
    )


def _quality(card: Card) -> str:
    mean, sd, low, high = (1e5 * figure for figure in card.quality.at_reference_prior)
    return f"{mean:.2f} ± {sd:.2f} ({low:.2f}–{high:.2f})"


def page(model: Shipped) -> str:
    """The card as Markdown."""
    sections = {
        "Quality": _told_quality(model),
        "Alarms": _told_alarms(model),
        "Cost": _told_cost(model),
        "Data": _told_data(model),
        "Limits": _told_limits(model),
        "Origin": _told_origin(model),
    }
    parts = [f"# {model.name}\n\n{_first_line(model)}"]
    parts += [f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items()]
    # A card may come from anywhere, and nothing in it is to command a terminal.
    return "".join(letter for letter in "\n\n".join(parts) if letter.isprintable() or letter == "\n")


def counted(number: int, what: str) -> str:
    """So many of something, in words."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _first_line(model: Shipped) -> str:
    card = model.card
    return f"Spots “{card.keyword}” in a stream of sound. {model.file_bytes:,} bytes, under {card.licence}."


def _told_quality(model: Shipped) -> Iterator[str]:
    quality = model.card.quality
    by = _split_in_words(model.card)
    mean, sd, low, high = (1e5 * figure for figure in quality.at_reference_prior)
    yield (
        f"- 0.02587·(1 − AUC): **{mean:.2f} ± {sd:.2f}** × 10⁻⁵, mean ± standard deviation over "
        f"{len(quality.one_minus_auc)} folds; 95 % interval of the mean {low:.2f} to {high:.2f}."
    )
    yield f"- 1 − AUC of each fold: {', '.join(f'{area:.5f}' for area in quality.one_minus_auc)}."
    yield (
        f"- That is {counted(quality.runs, 'model')} of the same recipe, each judged as its packed file on a fold "
        f"that it had not heard (split by {by}). This one has trained on all, so that none is left to judge it."
    )


def _split_in_words(card: Card) -> str:
    if card.quality.split != "speakers":
        return f"the rule {card.quality.split!r}"
    return "speaker" if card.data.names_speakers else "file"


def _told_alarms(model: Shipped) -> Iterator[str]:
    alarms, point = model.card.alarms, model.point
    if point is not None:
        yield (
            f"- Operating point: threshold {point.threshold:.6g} of the posterior averaged over "
            f"{counted(point.smoothing_steps, 'step')}, {point.refractory_s:g} s refractory; chosen for at most "
            f"{alarms.wanted_per_hour:g} per hour of life, and then for the fewest mistakes among words."
        )
    for kind in alarms.life:
        yield f"- Alarms in {kind.sound} without the keyword: {kind.alarms} in {kind.hours:.2f} h."
    yield f"- In all {alarms.statement}."
    words = alarms.words
    yield (
        f"- Words one by one in a carried stream of {words.hours:.2f} h, by the models of the folds: "
        f"{words.misses:,} of {words.words:,} missed, {counted(words.alarms, 'alarm')} among the others."
    )


def _told_cost(model: Shipped) -> Iterator[str]:
    cost, memory = model.cost, model.memory
    yield f"- {cost.per_clip('thop'):,} MACs for a clip of 1 s (convention of thop 0.0.31, network alone)."
    yield (
        f"- {model.macs_per_second:,.0f} multiplications for a second of stream, "
        f"{cost.frontend_per_second:,.0f} of them in the front end."
    )
    yield (
        f"- {model.file_bytes:,} bytes of file, {memory.total:,} bytes of RAM on a device of 32 bits; "
        f"a decision every {cost.latency_ms:g} ms."
    )


def _told_data(model: Shipped) -> Iterator[str]:
    data = model.card.data
    speakers = f"{data.speakers:,} speakers" if data.names_speakers else _BY_FILE
    cut = f"; {counted(data.sentences, 'clip')} cut out of sentences" if data.sentences else ""
    yield (
        f"- {counted(data.words, 'clip')} of {data.clip_s:g} s, {data.positives:,} of them the keyword; "
        f"{speakers}{cut}."
    )
    yield from (f"- {credit.name}: {credit.licence}, {credit.holder}." for credit in data.credits)
    yield f"- Digest of the data: `{data.digest}`."


def _told_limits(model: Shipped) -> Iterator[str]:
    hours = sum(kind.hours for kind in model.card.alarms.life)
    yield (
        "- Tried on the recordings named above and on nothing else: not on other languages and accents, children, "
        "far microphones, music or television."
    )
    yield f"- {hours:.2f} h of life are little: no alarm in them would prove only < {3 / hours:.1f} per hour."
    yield "- The operating point was chosen on the very sound that the alarms above are counted on."


def _told_origin(model: Shipped) -> Iterator[str]:
    origin = model.card.origin
    yield f"- Recipe {origin.recipe}, setting “{origin.setting}”: {'; '.join(origin.stages)}."
    yield f"- hark {origin.hark}, commit {origin.commit or 'unknown'}, {origin.day}."
    yield f"- SHA-256 of the file: `{model.card.sha256}`."
