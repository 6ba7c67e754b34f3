# SPDX-License-Identifier: Apache-2.0
"""Adds up runs of the soak: a long run in pieces, as machines are free.

    python benchmark/soak_report.py soak-1.json soak-2.json

Prints a row for each piece and one for all. Each piece is a process of its own, so that memory has
a slope in each; that of all is their mean, weighted by the inverse squares of the standard errors.
Exit status 1 if anything was lost, wrong or late in any of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from soak import HARMS, LEAST, WORDS, slope_and_error

SERIES = {"in_use": "memory in use", "own": "own memory"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pieces", nargs="+", type=Path, help="<out>.json of each run")
    pieces = [json.loads(path.read_text()) for path in parser.parse_args().pieces]
    print(report(pieces))
    sys.exit(any(piece["totals"][harm] for piece in pieces for harm in HARMS))


def report(pieces: list[dict[str, Any]]) -> str:
    """The table, in Markdown."""
    harms = " | ".join(WORDS.get(harm, harm.replace("_", " ")) for harm in HARMS)
    slopes = " | ".join(f"{words}, MiB/h" for words in SERIES.values())
    lines = [
        f"| run | hours | requests | {harms} | {slopes} |",
        f"|---|---:|---:|{'---:|' * (len(HARMS) + len(SERIES))}",
    ]
    for piece in pieces:
        name = f"{piece['date']}, {piece['model']}"
        lines.append(_row(name, piece["minutes"], piece["totals"], [_slopes(piece)]))
    totals = {key: sum(p["totals"][key] for p in pieces) for key in ("sent", *HARMS)}
    minutes = sum(piece["minutes"] for piece in pieces)
    lines.append(_row("**all**", minutes, totals, [_slopes(piece) for piece in pieces]))
    faults: dict[str, int] = {}
    for piece in pieces:
        for role in ("node", "cameras", "clients"):
            for fault, count in piece[role].get("faults", {}).items():
                faults[fault] = faults.get(fault, 0) + count
    lines += ["", "| fault | times |", "|---|---:|"]
    lines += [
        f"| {WORDS.get(fault, fault)} | {count:,} |" for fault, count in sorted(faults.items())
    ]
    return "\n".join(lines)


def _slopes(piece: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Slope and standard error of each series that is long enough, in MiB an hour."""
    memory = piece["node"].get("memory", {})
    found = {}
    for name in SERIES:
        values = memory.get(name, [])
        if len(values) >= LEAST:
            found[name] = slope_and_error([minute / 60 for minute in range(len(values))], values)
    return found


def _row(
    name: str, minutes: float, totals: dict[str, int], slopes: list[dict[str, tuple[float, float]]]
) -> str:
    cells = [name, f"{minutes / 60:.2f}", f"{totals['sent']:,}"]
    cells += [str(totals[harm]) for harm in HARMS]
    for series in SERIES:
        known = [piece[series] for piece in slopes if series in piece]
        weights = [error**-2 for _, error in known]
        if not known:
            cells.append("-")
            continue
        mean = sum(w * slope for w, (slope, _) in zip(weights, known, strict=True)) / sum(weights)
        cells.append(f"{mean:.1f} ± {sum(weights) ** -0.5:.1f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
