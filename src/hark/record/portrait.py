"""A run at a glance, as a notebook shows it: its state, two curves and the last remarks, as HTML of its own.

Letters take the colour of their surroundings and lines a middle grey, so that it reads on light and dark alike.
Everything that a run says of itself is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from hark.record.events import Event
from hark.record.status import Status, number, printable

COLOURS = {
    "finished": "#2f9e6e",
    "live": "#3b82d6",
    "stopped": "#c98a1b",
    "interrupted": "#c98a1b",
    "failed": "#d9534f",
}
LAST_REMARKS = 3
MOST_POINTS = 160
LOGARITHMIC_FROM = 4.0  # times the smallest value: below that, equal steps show more

_GREY = "rgba(128,128,128,.35)"
_FONT = "font:13px/1.5 system-ui,sans-serif;overflow-wrap:anywhere"
_BOX = f"max-width:46rem;border:1px solid {_GREY};border-radius:8px;padding:12px 16px;{_FONT}"
_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH, _HEIGHT = 54, 8, 24, 20, 350, 140

Series = list[tuple[int, float]]


def portrait(name: str, status: Status, events: Sequence[Event]) -> str:
    """A run as one block of HTML."""
    curves = (
        _curve("training loss", series(events, "train", "loss"), status.total, "#3b82d6"),
        _curve("validation 1 − AUC", series(events, "validation", "one_minus_auc"), status.total, "#d9822b"),
    )
    parts = (
        _head(name, status),
        _bar(status),
        f'<div style="display:flex;flex-wrap:wrap;gap:0 12px">{"".join(curves)}</div>',
    )
    return f'<div style="{_BOX}">{"".join(parts)}{_remarks(events)}</div>'


def series(events: Sequence[Event], kind: str, figure: str) -> Series:
    """The (step, value) of a figure in events of a kind, where both are numbers."""
    return [
        (event["step"], value)
        for event in events
        if event["kind"] == kind and event["step"] is not None and (value := number(event.get(figure))) is not None
    ]


def _head(name: str, status: Status) -> str:
    dot = f'<span style="color:{COLOURS[status.state]}">●</span>'
    told = "".join(f" · {escape(fact)}" for fact in (status.device, *status.pace))
    return (
        f"<div><b>{escape(printable(name))}</b>&ensp;{dot} {escape(str(status))}"
        f'<span style="opacity:.7">{told}</span></div>'
    )


def _bar(status: Status) -> str:
    if not status.total:
        return ""
    done = min(1.0, status.step / status.total)
    inner = f"width:{done:.1%};height:100%;border-radius:2px;background:{COLOURS[status.state]}"
    outer = f"height:4px;margin:6px 0 10px;border-radius:2px;background:{_GREY}"
    return f'<div style="{outer}"><div style="{inner}"></div></div>'


def _curve(title: str, points: Series, total: int | None, colour: str) -> str:
    """One small figure, or nothing before there is anything to see."""
    if not points:
        return ""
    shown = points[:: math.ceil(len(points) / MOST_POINTS)]
    shown += points[-1:] if shown[-1] != points[-1] else []
    last_step, value = points[-1]
    end = max(total or 0, last_step, 1)
    low, high = min(v for _, v in points), max(v for _, v in points)
    places = [(_x(step, end), _y(v, low, high)) for step, v in shown]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    lines = "".join(_level(v, low, high) for v in dict.fromkeys((low, high)))
    label = f"{title}: {value:.3g} at step {last_step}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" style="flex:1 1 280px;max-width:360px" role="img" '
        f'aria-label="{label}" font-size="11" fill="currentColor"><text x="{_LEFT}" y="12">{title}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="12" text-anchor="end" font-weight="600">{value:.3g}</text>{lines}'
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>{_steps(end)}</svg>'
    )


def _level(value: float, low: float, high: float) -> str:
    y = _y(value, low, high)
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GREY}" stroke-width=".8"/>'
        f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end" opacity=".7">{value:.2g}</text>'
    )


def _steps(end: int) -> str:
    y = _HEIGHT - 5
    return (
        f'<text x="{_LEFT}" y="{y}" opacity=".7">0</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{y}" text-anchor="end" opacity=".7">{end} steps</text>'
    )


def _x(step: int, end: int) -> float:
    return _LEFT + max(0, step) / end * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, low: float, high: float) -> float:
    """The place of a value, from the top; logarithmic where values differ by factors."""
    if low > 0 and high / low >= LOGARITHMIC_FROM:
        value, low, high = math.log(value), math.log(low), math.log(high)
    share = (value - low) / (high - low) if high > low else 0.5
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _remarks(events: Sequence[Event]) -> str:
    remarks = [event for event in events if event["kind"] in ("warning", "fallback", "damaged")]
    shown = remarks[-LAST_REMARKS:]
    earlier = f'<div style="opacity:.7">{len(remarks) - len(shown)} earlier remarks, then:</div>'
    items = "".join(f"<li>{escape(_remark(event))}</li>" for event in shown)
    listed = f'<ul style="margin:4px 0 0;padding-left:1.2em">{items}</ul>' if items else ""
    return (earlier if len(remarks) > len(shown) else "") + listed


def _remark(event: Event) -> str:
    said = next((event[name] for name in ("message", "reason", "text") if name in event), "")
    return f"{event['kind']}: {printable(said)}"
