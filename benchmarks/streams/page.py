"""From one run's results to docs/performance.md: every figure of the page is computed here, none is typed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine_code import FRONT_END

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "streams.jsonl"
PAGE = ROOT / "docs" / "performance.md"

RATIOS = {
    ("stage 2, int8", "pymicro-wakeword"): 40,
    ("stage 2, int8", "openWakeWord"): 500,
    ("stage 2, int8, 64 streams", "pymicro-wakeword"): 80,
    ("stage 2, int8, 64 streams", "openWakeWord"): 1000,
    ("base, float32", "pymicro-wakeword"): 20,
    ("base, float32", "openWakeWord"): 250,
    ("base, float32, 64 streams", "pymicro-wakeword"): 45,
    ("base, float32, 64 streams", "openWakeWord"): 600,
}
"""How many times as cheap as a peer each should be."""
MOST_IMPORT_MS, MOST_MODEL_MS, LIVE_STREAMS = 50, 1, 20_000

Results = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """What was to be reached, what was, and how far it spread."""

    what: str
    wanted: str
    found: str
    is_met: bool

    def __str__(self) -> str:
        return f"{self.what:<66}{self.wanted:>14}{self.found:>26}  {self.verdict}"

    @property
    def verdict(self) -> str:
        """In a word."""
        return "met" if self.is_met else "missed"


def goals(results: Results) -> list[Goal]:
    """All goals, against one run."""
    found, live = results["contenders"], results["live"]
    ratios = [
        _ratio_goal(ours, found[ours]["us_rounds"], peer, found[peer]["us_rounds"], wanted)
        for (ours, peer), wanted in RATIOS.items()
        if "us_rounds" in found[ours] and "us_rounds" in found[peer]
    ]
    begins = [
        _most(f"{name}: a model opened and a stream begun", "ms", MOST_MODEL_MS, times["model_ms"])
        for name, times in results["startup"].items()
    ]
    runtime_ms = statistics.median(times["runtime_ms"] for times in results["startup"].values())
    import_goal = _most("hark and its runtime imported, NumPy being there", "ms", MOST_IMPORT_MS, runtime_ms)
    share = _most(f"{live['streams']:,} live streams: share of real time", "", 1, live["share"])
    late = _most("live rounds that ended later than 80 ms after their sound", "", 0, live["late_rounds"])
    return [*ratios, *begins, import_goal, share, late]


def _ratio_goal(ours: str, costs: Sequence[float], peer: str, peer_costs: Sequence[float], wanted: float) -> Goal:
    """Round against round, for what slows one down then slows the other."""
    ratios = [theirs / mine for mine, theirs in zip(costs, peer_costs, strict=True)]
    middle = statistics.median(ratios)
    spread = f" ({min(ratios):,.0f} to {max(ratios):,.0f})" if len(ratios) > 1 else ""
    return Goal(f"{ours}, against {peer}", f"≥ {wanted:,}×", f"{middle:,.0f}×{spread}", middle >= wanted)


def _most(what: str, unit: str, most: float, found: float) -> Goal:
    return Goal(what, f"≤ {most:g} {unit}".strip(), f"{found:.3g} {unit}".strip(), found <= most)


def page(results: Results) -> str:
    """The page's frame, with its tables and figures."""
    where, live = results["environment"], results["live"]
    return (
        (HERE / "page.md.in")
        .read_text()
        .format(
            date=results["date"],
            commit=(where["commit"] or "unknown")[:7],
            machine=f"{where['machine']}, Python {where['python']}",
            peers=", ".join(
                f"{name} {version}" for name, version in results["peers"].items() if name in SHOWN_PEERS
            ),
            rounds=_rounds(results),
            contenders=contender_table(results["contenders"]),
            instructions=instruction_table(results["contenders"]),
            goals=_table(("goal", "wanted", "found", ""), [_goal_row(goal) for goal in goals(results)]),
            live=_table(("20,000 live streams", ""), live_rows(live)),
            bound=bound_table(results),
            profile=profile_table(results["arithmetic"]["profile"]),
            front_ends=front_end_table(results["front_ends"]),
            stage_2_front_end=_front_end_share(results, "stage 2, int8"),
            base_front_end=_front_end_share(results, "base, float32"),
            **_figures(results),
        )
    )


COUNTED_PEERS = ("pymicro-wakeword", "LiteRT, the same model", "webrtcvad")
SHOWN_PEERS = (
    "openwakeword",
    "pymicro-wakeword",
    "ai-edge-litert",
    "silero-vad",
    "webrtcvad",
    "onnxruntime",
    "numpy",
)


def contender_table(found: dict[str, dict[str, Any]]) -> str:
    """A row for each contender; failures with their reason."""
    head = ("", "CPU µs per s of sound", "streams per core", "chunk ms", "p50 / p99 µs", "RSS MB", "load ms")
    rows = [
        (name, one["failed"], *[""] * 6) if "failed" in one else (name, *_cells(one))
        for name, one in found.items()
    ]
    return _table((*head, "instructions per s"), rows)


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    counted = one.get("instructions_per_second")
    spread = f" ({one['us_low']:,.0f} to {one['us_high']:,.0f})" if len(one["us_rounds"]) > 1 else ""
    return (
        f"{one['us_per_second']:,.0f}{spread}",
        f"{1e6 / one['us_per_second']:,.0f}",
        f"{one['chunk_ms']:.0f}",
        f"{one['chunk_us_p50']:,.1f} / {one['chunk_us_p99']:,.1f}",
        f"{one['peak_rss_mb']:.0f}",
        f"{one['load_ms']:,.0f}",
        f"{counted / 1e3:,.0f} k" if counted else "–",
    )


def instruction_table(found: dict[str, dict[str, Any]]) -> str:
    """How many times as many instructions the peers take."""
    counts = {
        name: one["instructions_per_second"] for name, one in found.items() if "instructions_per_second" in one
    }
    peers = [name for name in COUNTED_PEERS if name in counts]
    rows = [
        (name, *(f"{counts[peer] / count:.1f}×" for peer in peers))
        for name, count in counts.items()
        if name not in COUNTED_PEERS
    ]
    return _table(("instructions that a second of sound takes", *peers), rows)


def live_rows(live: dict[str, Any]) -> list[tuple[str, str]]:
    """What there is to say of many live streams."""
    return [
        ("sound for each", f"{live['sound_s']:.0f} s, in batches of {live['batch']}"),
        ("CPU time, as a share of real time", f"{100 * live['share']:.0f} %"),
        (
            "a round of 80 ms for all: p50, p99, longest",
            _three(live, "round_ms_p50", "round_ms_p99", "round_ms_max"),
        ),
        ("rounds that ended more than 80 ms after their sound", f"{live['late_rounds']}"),
        ("a stream's state", f"{live['state_bytes']:,} bytes"),
        ("memory of the process that a stream adds", f"{live['stream_bytes']:,.0f} bytes"),
        ("peak RSS of the process", f"{live['peak_rss_mb']:.0f} MB"),
    ]


def _three(live: dict[str, Any], *keys: str) -> str:
    return ", ".join(f"{live[key]:.1f}" for key in keys) + " ms"


def bound_table(results: Results) -> str:
    """Operations, the time that the peak would take for them, and the time that the engine takes."""
    all_of = results["arithmetic"]
    rows = []
    for name, network in (("stage 2, int8", "stage 2"), ("base, float32", "base")):
        flops = all_of["front_end_flops"] + all_of["network_flops"][network]
        least_us = flops / all_of["peak_gflops"] / 1e3
        for how, us in (
            ("one stream, C loop", all_of["loop_us"][name]),
            ("one stream, Python", results["contenders"][name]["us_per_second"]),
            ("64 streams, C loop", all_of["loop_64_us"][name]),
            ("64 streams, Python", results["contenders"][f"{name}, 64 streams"]["us_per_second"]),
        ):
            rows.append(
                (f"{name}: {how}", f"{flops / 1e6:.2f}", f"{least_us:.1f}", f"{us:.1f}", f"{us / least_us:.1f}×")
            )
    return _table(("", "MFLOP per s of sound", "µs at the peak", "µs measured", "distance"), rows)


def profile_table(profiles: dict[str, dict[str, float]]) -> str:
    """Instructions of each part, and their share."""
    parts = list(next(iter(profiles.values())))
    rows = [
        (part, *(f"{one[part] / 1e3:,.1f} k ({_percent(one[part], one)})" for one in profiles.values()))
        for part in parts
    ]
    whole = ("**all**", *(f"{sum(one.values()) / 1e3:,.1f} k" for one in profiles.values()))
    return _table(("instructions per s of sound", *profiles), [*rows, whole])


def front_end_table(front_ends: dict[str, dict[str, float]]) -> str:
    """Each front end's cost, and what it saves of the reference's."""
    keys = ("alone_instructions", "whole_instructions", "whole_64_us", "single_instructions")
    reference = next(iter(front_ends.values()))
    rows = [
        (name, f"{one['flops'] / 1e6:.2f}", *(_against(one[key], reference[key], key) for key in keys))
        for name, one in front_ends.items()
    ]
    head = ("front end", "MFLOP", "alone", "with stage 2", "with stage 2, µs", "with stage 2, a single stream")
    return _table(head, rows)


def _against(value: float, reference: float, key: str) -> str:
    shown = f"{value / 1e3:,.0f} k" if key.endswith("instructions") else f"{value:.1f}"
    return shown if value == reference else f"{shown} ({100 * (value / reference - 1):+.0f} %)"


def _figures(results: Results) -> dict[str, str]:
    """Single figures that the page's sentences name."""
    arithmetic, begin = results["arithmetic"], results["startup"]["stage 2, int8"]
    return {
        "peak": f"{arithmetic['peak_gflops']:.0f}",
        "front_end_mflop": f"{arithmetic['front_end_flops'] / 1e6:.2f}",
        "stage_2_mflop": f"{arithmetic['network_flops']['stage 2'] / 1e6:.2f}",
        "base_mflop": f"{arithmetic['network_flops']['base'] / 1e6:.2f}",
        "import_ms": f"{begin['import_ms']:.1f}",
        "first_model_ms": f"{begin['first_model_ms']:.1f}",
    }


def _front_end_share(results: Results, name: str) -> str:
    profile = results["arithmetic"]["profile"][name]
    return _percent(sum(profile[part] for part in FRONT_END), profile)


def _percent(part: float, whole: dict[str, float]) -> str:
    return f"{100 * part / sum(whole.values()):.0f} %"


def _rounds(results: Results) -> str:
    count = max(len(one.get("us_rounds", ())) for one in results["contenders"].values())
    return f"{count} rounds" if count > 1 else "one short round, for trying: these figures wobble"


def _goal_row(goal: Goal) -> tuple[str, ...]:
    return goal.what, goal.wanted, goal.found, goal.verdict if goal.is_met else f"**{goal.verdict}**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
