# SPDX-License-Identifier: Apache-2.0
"""Records of `run.measure` as tables: lists of texts, for a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svd_vlm_ros.bench import STOCK

Record = dict[str, Any]
COMPARED = ("first_token", "answer", "yes_no")


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: in a line.
        columns: their heads; the first is left-aligned, the rest right.
        rows: as many texts each.
        notes: sentences below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def add_speedups(records: Sequence[Record]) -> None:
    """Write `speedup` into each row: how many times as fast as the stock row of the precision that
    all is compared with (`settings.stock`), or else the first one.

    Nothing is written if no stock row was measured.
    """
    first = sorted(records, key=lambda record: not _is_compared_with(record))
    stock = next((row for record in first for row in record["answers"] if _is_stock(row)), None)
    if stock is None:
        return
    for record in records:
        for row in record["answers"]:
            row["speedup"] = {
                name: stock["seconds"][name]["median"] / row["seconds"][name]["median"]
                for name in COMPARED
            }


def _is_compared_with(record: Record) -> bool:
    return bool(record["settings"]["precision"] == record["settings"]["stock"])


def tables(records: Sequence[Record]) -> list[Table]:
    """All tables of one or more records of the same model on the same machine."""
    made = [_machine_table(records)]
    for record in records:
        if record["answers"]:
            made += [_time_table(record), _gain_table(record), _limit_table(record)]
        if record["questions"]["seconds"]:
            made.append(_question_table(record))
    if records[0]["selectors"]["seconds"]:
        made.append(_selector_table(records[0]))
    return made


def markdown(records: Sequence[Record], command: str) -> str:
    """All tables in Markdown, with the command that made them."""
    parts = [f"`{command}`, {records[0]['date']}"]
    for table in tables(records):
        lines = [f"**{table.title}**", "", _line(table.columns)]
        lines.append(_line(["---", *["---:"] * (len(table.columns) - 1)]))
        lines += [_line(row) for row in table.rows]
        parts.append("\n".join(lines))
        parts += table.notes
    return "\n\n".join(parts) + "\n"


def _machine_table(records: Sequence[Record]) -> Table:
    first = records[0]["machine"]
    rows = []
    for record in records:
        machine, memory = record["machine"], record["memory"]
        rows.append(
            (
                record["settings"]["precision"],
                f"{machine['copy_bandwidth'] / 1e9:.1f}",
                f"{machine['read_bandwidth'] / 1e9:.1f}",
                f"{machine['matrix_rate'] / 1e9:,.0f} ({machine['dtype']})",
                _gigabytes(memory["weights"]),
                _gigabytes(memory["loading_peak"]),
                _gigabytes(memory["loaded"]),
            )
        )
    kind = "resident" if records[0]["device"] == "cpu" else "device"
    notes = [f"Precision auto takes {records[0]['auto']} here."]
    if records[0]["random_weights"]:
        notes.append("Random weights: times and memory are real, answers are noise.")
    return Table(
        f"{records[0]['settings']['model']} on {first['name']} ({first['threads']} threads, torch "
        f"{first['torch']}): limits of the machine, and {kind} memory",
        (
            *("precision", "copy GB/s", "read GB/s", "matrix GFLOP/s"),
            *("weights GB", "loading peak GB", "loaded GB"),
        ),
        tuple(rows),
        tuple(notes),
    )


def _time_table(record: Record) -> Table:
    names = ("vision", "select", "project", "prefill", "first_token", "token", "answer", "yes_no")
    return Table(
        f"{_precision(record)}: one image, one question, "
        f"{record['settings']['answer_tokens']} tokens of answer",
        (
            *("tokens", "vision", "select", "project", "prefill"),
            *("first token", "each token", "answer", "yes/no"),
        ),
        tuple(
            (_name(row), *(_time(row["seconds"][name]) for name in names))
            for row in record["answers"]
        ),
        (
            f"Medians of {record['settings']['rounds']} interleaved rounds. "
            f"{STOCK}: transformers' generate on the same weights.",
        ),
    )


def _gain_table(record: Record) -> Table:
    rows = []
    for row in record["answers"]:
        gain, kernel = row.get("speedup", {}), row["kernel_seconds"]
        rows.append(
            (
                _name(row),
                *(_time(row["seconds"][name], spread=True) for name in ("first_token", "answer")),
                f"{row['frames_per_second']:.2f}",
                *(f"{gain[name]:.1f}x" if gain else "" for name in COMPARED),
                _gigabytes(row["peak_bytes"]) if row["peak_bytes"] else "",
                "" if kernel is None else _seconds(kernel),
            )
        )
    return Table(
        f"{_precision(record)}: what it is worth",
        (
            *("tokens", "first token", "answer", "FPS"),
            *("first token", "answer", "yes/no", "peak GB", "kernels"),
        ),
        tuple(rows),
        (
            f"x: times as fast as {STOCK} in "
            f"{record['settings']['stock'] or record['settings']['precision']}. "
            "+-: half the range. Kernels: CUDA only.",
        ),
    )


def _limit_table(record: Record) -> Table:
    rows = tuple(
        (
            _name(row),
            _gigabytes(row["token_bytes"]),
            f"{row['bandwidth'] / 1e9:.1f}",
            f"{row['bandwidth_share']:.0%}",
            f"{row['operations'] / 1e12:.3f}",
            f"{row['rate'] / 1e9:,.0f}",
            f"{row['rate_share']:.0%}",
            _seconds(row["roofline"]),
            f"{row['roofline_ratio']:.1f}x",
            row["limit"],
        )
        for row in record["answers"]
    )
    return Table(
        f"{_precision(record)}: what it moves and computes, and what limits it",
        (
            *("tokens", "GB a token", "GB/s", "of limit", "TFLOP", "GFLOP/s", "of limit"),
            *("roofline", "measured", "limit"),
        ),
        rows,
        (
            "GB/s while writing, GFLOP/s up to the first token. Roofline: the answer at the "
            "measured bandwidth and matrix rate; measured: times that.",
        ),
    )


def _question_table(record: Record) -> Table:
    measured = record["questions"]
    seconds = measured["seconds"]
    stock = next((row for row in record["answers"] if _is_stock(row)), None)
    rows = []
    for kind, words in (("choose", "yes/no"), ("ask", "free text")):
        first, following = seconds[f"{kind}_first"], seconds[f"{kind}_next"]
        turn, together = seconds[f"{kind}_turn"], seconds[f"{kind}_together"]
        whole = stock["seconds"]["answer"]["median"] if stock else 0.0
        rows.append(
            (
                words,
                _time(first, spread=True),
                _time(following, spread=True),
                f"{following['median'] / first['median']:.0%}",
                f"{following['median'] / whole:.1%}" if stock else "",
                _time(turn, spread=True),
                _time(together, spread=True),
                f"{together['median'] / turn['median']:.0%}",
            )
        )
    return Table(
        f"{_precision(record)}: eight questions on one image, "
        f"{measured['visual_tokens']} visual tokens",
        (
            *("question", "first", "further", "of first"),
            *("of stock", "8 in turn", "8 together", "of in turn"),
        ),
        tuple(rows),
        (
            "First: from the pixels on. Further: each of the eight that follow on the same Scene, "
            "also of a whole stock answer. Together: the same eight at once.",
        ),
    )


def _selector_table(record: Record) -> Table:
    seconds = record["selectors"]["seconds"]
    rows = tuple(
        (name, value if isinstance(value, str) else f"{value * 1e3:.2f} ms")
        for name, value in seconds.items()
    )
    return Table(
        f"Selectors' own time: {record['selectors']['visual_tokens']} of 576 tokens, 1024 wide, "
        f"{record['dtype']}",
        ("selector", "time"),
        rows,
    )


def _is_stock(row: Record) -> bool:
    return bool(row["name"] == STOCK)


def _name(row: Record) -> str:
    return f"{STOCK} {row['visual_tokens']}" if _is_stock(row) else str(row["visual_tokens"])


def _precision(record: Record) -> str:
    return str(record["settings"]["precision"])


def _time(measured: Record, *, spread: bool = False) -> str:
    text = _seconds(measured["median"])
    if spread and measured["runs"] > 1 and measured["median"]:
        text += f" +-{(measured['high'] - measured['low']) / 2 / measured['median']:.0%}"
    return text


def _seconds(value: float) -> str:
    if value == 0:
        return "-"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.0f} ms" if value >= 0.01 else f"{value * 1e3:.2f} ms"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}" if size >= 1e8 else f"{size / 1e9:.4f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
