"""From rows to one table and one JSON document."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from contenders import OURS, Contender
from measure import Cell, Row, Series
from workloads import Goal

SHORT = {"multiprocessing": "mp", "schwimmbad": "SW", "best": "best", "limit": "<="}


def environment() -> dict[str, Any]:
    """What a reader needs to judge the numbers."""
    model = "unknown"
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
    }


def ratio(other: Series, ours: Series) -> tuple[float, float] | None:
    """Median over the rounds of other / ours within a round, and the ratio of the 10th percentiles."""
    common = [r for r in other.samples if ours.samples.get(r, 0) > 0]
    if not common or ours.p10 <= 0:
        return None
    return statistics.median(other.samples[r] / ours.samples[r] for r in common), other.p10 / ours.p10


def judge(row: Row, goal: Goal, base: str) -> tuple[str, str]:
    """(what was measured, "aim", "must", "below" or "?")."""
    ours = row.cells.get(base, Cell()).default
    if goal.against == "limit":
        if not ours.samples:
            return "?", "?"
        value = ours.median
        verdict = "aim" if goal.aim is None or value <= goal.aim else "must"
        if goal.must is not None and value > goal.must:
            verdict = "below"
        return amount(value, row.quantity), verdict
    if goal.against == "best":
        found = [
            (measured, key)
            for key, cell in row.cells.items()
            if key not in (base, "serial") and not key.startswith(OURS)
            for series in (cell.default, cell.tuned)
            if (measured := ratio(series, ours)) is not None
        ]
        if not found:
            return "?", "?"
        measured, who = min(found)
        label = f"best ({who})"
    else:
        one = ratio(row.cells.get(goal.against, Cell()).default, ours)
        if one is None:
            return f"{SHORT[goal.against]} ?", "?"
        measured, label = one, SHORT[goal.against]
    verdict = "below"
    if goal.must is None or measured[0] >= goal.must:
        verdict = "must"
        if goal.aim is None or measured[0] >= goal.aim:
            verdict = "aim"
    return f"{label} {factor(measured[0])} (p10 {factor(measured[1])})", verdict


def cell_text(row: Row, cell: Cell | None, base: str) -> str:
    """Default and tuned ratio, as "17 / 10"; one number where they are the same."""
    if cell is None:
        return "-"
    if cell.error is not None:
        return "failed"
    if row.absolute:
        return amount(cell.default.median, row.quantity) if cell.default.samples else "-"
    ours = row.cells.get(base, Cell()).default
    default, tuned = ratio(cell.default, ours), ratio(cell.tuned, ours)
    if default is None:
        return "-"
    text = ("~" if cell.extrapolated else "") + factor(default[0])
    if tuned is not None and cell.chunk is not None:
        text += " / " + factor(tuned[0])
    return text


def table(rows: Sequence[Row], contenders: Sequence[Contender], base: str) -> list[list[str]]:
    """Head and lines. Ratios are "their value / ours": above 1, ours is the better one."""
    peers = [c for c in contenders if c.key != base and c.only is None]
    mine = next(c for c in contenders if c.key == base)
    head = ["work", mine.label, "p10", *(c.label for c in peers)]
    judged = base == OURS  # the goals are ours alone
    head += ["must", "aim", "measured", "reached"] if judged else []
    lines = [head]
    for row in rows:
        of = row.base or base
        own = row.cells.get(of, Cell())
        value = own.default if own.default.samples else None
        title = row.title + (f" (ideal {amount(row.ideal, 'time')})" if row.ideal else "")
        line = [title]
        line.append(amount(value.median, row.quantity) if value else "failed" if own.error else "-")
        line.append(amount(value.p10, row.quantity) if value else "-")
        line += [cell_text(row, row.cells.get(c.key), of) for c in peers]
        if judged:
            results = [judge(row, goal, of) for goal in row.goals]
            line.append(", ".join(_demand(row, g, g.must) for g in row.goals if g.must is not None))
            line.append(", ".join(_demand(row, g, g.aim) for g in row.goals if g.aim is not None))
            line.append(", ".join(text for text, _ in results))
            line.append(_worst([verdict for _, verdict in results]))
        lines.append(line)
    return lines


def _demand(row: Row, goal: Goal, value: float | None) -> str:
    assert value is not None
    text = amount(value, row.quantity) if goal.against == "limit" else f"{value:.3g}"
    return f"{SHORT[goal.against]} {text}"


def _worst(verdicts: list[str]) -> str:
    for verdict in ("below", "?", "must", "aim"):
        if verdict in verdicts:
            return verdict
    return ""


def text_table(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    out = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    out.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(out)


def markdown_table(lines: list[list[str]]) -> str:
    out = ["| " + " | ".join(line) + " |" for line in lines]
    out.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join(out)


def summary(about: dict[str, Any], rows: Sequence[Row], contenders: Sequence[Contender]) -> str:
    """The lines below the table: how to read it, and where it was made."""
    env = about["environment"]
    lines = [
        "Ratios are their time / ours, medians of alternated rounds: default chunk size / best-tuned one "
        "where that is better. ~: extrapolated from 2,000 tasks, since the default sends them one by one. "
        "p10: 10th percentile.",
        f"{env['cpu']}, {env['cpus']} CPUs, Linux {env['kernel']}, Python {env['python']}, "
        f"numpy {env['numpy']}.",
        ", ".join(f"{c.key} {c.version}" for c in contenders if c.parallel) + ".",
        f"Load average before: {about['load_before']}; after: {about['load_after']} (1, 5, 15 minutes).",
        f"{about['command']} ({about['seconds']:.0f} s).",
    ]
    lines += [f"Missing: {key}: {reason}." for key, reason in about["missing"].items()]
    lines += [f"{row.title}: {row.note}." for row in rows if row.note]
    for row in rows:
        lines += [f"{row.title}: {key} failed: {cell.error}" for key, cell in row.cells.items() if cell.error]
    return "\n\n".join(lines)


def document(
    rows: Sequence[Row], contenders: Sequence[Contender], base: str, about: dict[str, Any]
) -> dict[str, Any]:
    """Everything that was measured, samples included, so that other statistics can be taken later."""
    return {
        **about,
        "baseline": base,
        "versions": {c.key: c.version for c in contenders},
        "rows": [
            {
                "name": row.name,
                "title": row.title,
                "quantity": row.quantity,
                "ideal": row.ideal,
                "note": row.note,
                "goals": [
                    {"against": g.against, "must": g.must, "aim": g.aim, "measured": m, "reached": v}
                    for g in row.goals
                    for m, v in [judge(row, g, row.base or base)]
                ],
                "contenders": {key: _cell(row, cell, row.base or base) for key, cell in row.cells.items()},
            }
            for row in rows
        ],
    }


def _cell(row: Row, cell: Cell, base: str) -> dict[str, Any]:
    ours = row.cells.get(base, Cell()).default
    return {
        "error": cell.error,
        "extrapolated": cell.extrapolated,
        "default": _series(cell.default, ours),
        "tuned": _series(cell.tuned, ours),
        "tuned_chunksize": cell.chunk,
    }


def _series(series: Series, ours: Series) -> dict[str, Any] | None:
    if not series.samples:
        return None
    measured = ratio(series, ours)
    return {
        "median": series.median,
        "p10": series.p10,
        "ratio": measured and measured[0],
        "ratio_p10": measured and measured[1],
        "samples": list(series.samples.values()),
    }


def factor(value: float) -> str:
    """A ratio to two or three digits."""
    if abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.{0 if abs(value) >= 20 else 1 if abs(value) >= 2 else 2}f}"


def amount(value: float, quantity: str) -> str:
    if quantity == "bytes":
        return f"{value / 1e6:.1f} MB"
    if quantity == "share":
        return f"{value * 100:.2f} %"
    size, unit = next(((s, u) for s, u in ((1.0, "s"), (1e-3, "ms")) if abs(value) >= s), (1e-6, "us"))
    scaled = value / size
    return f"{scaled:.3g} {unit}" if abs(scaled) < 999.5 else f"{scaled:.0f} {unit}"
