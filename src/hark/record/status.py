"""How a run stands, read from its events: finished, live, stopped, interrupted or failed, and how far it came."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from hark.errors import HarkError, Interrupted
from hark.record.events import Event

State = Literal["finished", "live", "stopped", "interrupted", "failed"]

# What is said about a run while it works, or before it begins again, is no work.
REMARKS = ("warning", "fallback", "damaged", "note")
LONGEST_REASON = 500


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a run stands.

    Attributes:
        state: `stopped` is what a run is that has neither finished nor could say why it ended.
        why: the signal that interrupted it, or the error it failed of; else empty.
        step: training steps done.
        total: training steps to do; None where it has not said so.
        left_s: seconds that the rest of the training takes at the rate of late, checks and judging excepted.
        device: what it trains on; empty where it has not said so.
        latest: the newest figure of each name, such as `train/loss` and `validation/one_minus_auc`.
        warnings: their number, damaged lines of the log among them.
        fallbacks: how often a damaged checkpoint made it go on from an older one.
        seen: when its last event happened, by the clock of its machine.
    """

    state: State
    why: str = ""
    step: int = 0
    total: int | None = None
    left_s: float | None = None
    device: str = ""
    latest: dict[str, float] = field(default_factory=dict)
    warnings: int = 0
    fallbacks: int = 0
    seen: datetime | None = None

    def __str__(self) -> str:
        cause = {"interrupted": f" by {self.why}", "failed": f": {self.why}"}.get(self.state, "")
        far = self.state != "finished" and (self.step > 0 or self.state == "stopped")
        place = f" at step {self.step}" + (f" of {self.total}" if self.total else "") if far else ""
        return f"{self.state}{place}{cause}" if self.state == "failed" else f"{self.state}{cause}{place}"

    @property
    def pace(self) -> list[str]:
        """How fast a live one goes, and how long it will, in words; empty where it has not said so."""
        rate = self.latest.get("train/rate")
        if self.state != "live" or rate is None:
            return []
        return [f"{rate:,.0f} clips/s", *([f"{duration(self.left_s)} left"] if self.left_s is not None else [])]

    @property
    def remarks(self) -> str:
        """Warnings and fallbacks in words; empty where there are none."""
        counts = {"fallback": self.fallbacks, "warning": self.warnings}
        return ", ".join(f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count)

    def age_s(self, now: datetime) -> float | None:
        """Seconds since the last event; 0 where the clock has gone back, None where there is no event."""
        return None if self.seen is None else max(0.0, (now - self.seen).total_seconds())


def status_of(events: Sequence[Event], *, is_live: bool) -> Status:
    """How a run with these events stands; any event may be damaged, or of a kind that is not known here."""
    state, why = _state(events, is_live=is_live)
    work: dict[str, Any] = next(
        (event["work"] for event in reversed(events) if isinstance(event.get("work"), dict)), {}
    )
    total, clips_per_step = number(work.get("steps")), number(work.get("clips_per_step"))
    step = max((event["step"] or 0 for event in events), default=0)
    latest = _latest(events)
    rate = latest.get("train/rate")
    left = None if total is None else number(max(0, int(total) - step))
    return Status(
        state=state,
        why=why,
        step=step,
        total=None if total is None else int(total),
        left_s=left * clips_per_step / rate if left is not None and clips_per_step and rate else None,
        device=printable(work.get("device", "")),
        latest=latest,
        warnings=sum(event["kind"] in ("warning", "damaged") for event in events),
        fallbacks=sum(event["kind"] == "fallback" for event in events),
        seen=max((seen for event in events[-20:] if (seen := _seen(event))), default=None),
    )


def ending(error: BaseException) -> dict[str, str]:
    """What an `ended` event tells of the error that ended the work: `how`, a `State`, and `why`, one line."""
    if isinstance(error, KeyboardInterrupt):
        return {"how": "interrupted", "why": "SIGINT"}
    code = error.exit_code if isinstance(error, Interrupted) else getattr(error, "code", None)
    if isinstance(error, Interrupted | SystemExit) and code in (130, 143):
        return {"how": "interrupted", "why": signal.Signals(code - 128).name}
    name = type(error).__name__
    reason = str(error) if isinstance(error, HarkError) else f"{name}: {error}"
    return {"how": "failed", "why": printable(reason).removesuffix(":")}


def printable(text: object) -> str:
    """One line that does nothing to a terminal, from text that anybody may have written."""
    line = " ".join(str(text).split())
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def duration(seconds: float) -> str:
    """A length of time in words, to two digits or so: `40 s`, `21 min`, `3 h`, `12 d`."""
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _state(events: Sequence[Event], *, is_live: bool) -> tuple[State, str]:
    """The state and its reason: the last thing done decides, unless someone is at work or all is done."""
    if is_live:
        return "live", ""
    if any(event["kind"] == "finished" for event in events):
        return "finished", ""
    last = next((event for event in reversed(events) if event["kind"] not in REMARKS), None)
    if last is not None and last["kind"] == "ended":
        why = printable(last.get("why", ""))
        return ("interrupted", why) if last.get("how") == "interrupted" else ("failed", why)
    return "stopped", ""


def _latest(events: Sequence[Event]) -> dict[str, float]:
    return {
        f"{event['kind']}/{name}": figure
        for event in events
        if event["kind"] in ("train", "validation")
        for name, value in event.items()
        if name not in ("step", "time_s") and (figure := number(value)) is not None
    }


def _seen(event: Event) -> datetime | None:
    try:
        seen = datetime.fromisoformat(event["wall"])
        return seen if seen.tzinfo else seen.replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError):
        return None
