# SPDX-License-Identifier: Apache-2.0
"""The page to look at: one HTML file that needs nothing else, no network, no script."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.cells import CLEAN, KEEP_ALL
from svd_vlm_ros.evaluation.gallery import gallery_html
from svd_vlm_ros.evaluation.plots import (
    Chart,
    Line,
    chart_svg,
    round_ticks,
    swatch,
    ticks_of,
)
from svd_vlm_ros.evaluation.records import Folder
from svd_vlm_ros.evaluation.results import Results, collect
from svd_vlm_ros.evaluation.tables import kinds_markdown, markdown

WIDE, NARROW = (920, 460), (352, 400)  # pixels of a chart on a desktop and on a phone

CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1c1e;--soft:#5c5c66;--rule:#d4d4da;
--tint:#f4f4f7;--right:#00703c;--wrong:#b3261e}
@media(prefers-color-scheme:dark){:root{--paper:#15161a;--ink:#ececf0;--soft:#a6a6b2;--rule:#3a3b42;
--tint:#1f2026;--right:#5fd38d;--wrong:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1000px;padding:16px 20px 60px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6em;line-height:1.2;margin:.6em 0 .3em}h2{font-size:1.25em;margin:1.8em 0 .4em}
h3{font-size:1.05em;margin:1.4em 0 .4em}h4{margin:1em 0 .4em}
p,li{max-width:75ch}.soft{color:var(--soft)}
.scroll{overflow-x:auto;border:1px solid var(--rule);border-radius:6px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92em;width:100%}
th,td{padding:5px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
thead th{background:var(--tint)!important}tbody tr:last-child td{border-bottom:0}
svg text{font:13px system-ui,sans-serif;fill:var(--ink)}
svg .grid{stroke:var(--rule);stroke-width:1}svg .axis,svg .tick{stroke:var(--soft);fill:none}
svg .error{stroke-width:1;opacity:.45}
.chart{display:block;max-width:100%;height:auto}.narrow{display:none}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;margin:.4em 0;font-size:.92em}
.legend label{display:inline-flex;align-items:center;gap:5px;cursor:pointer;padding:2px 0}
.swatch{flex:none}
details{border:1px solid var(--rule);border-radius:6px;margin:8px 0;padding:0 12px}
summary{cursor:pointer;padding:8px 0;font-weight:600}
.image>summary{display:flex;align-items:center;gap:12px;list-style:none}
.image>summary::before{content:"▸"}.image[open]>summary::before{content:"▾"}
.thumb{width:84px;height:auto;flex:none}
.looks{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:14px}
figure{margin:0}figure svg{width:100%;height:auto;display:block;border-radius:4px}
figcaption{font-size:.88em;margin-top:4px}
.image p{margin:.4em 0 0}.image ol{margin:.2em 0;padding-left:1.5em}
.right{color:var(--right);font-weight:700}.wrong{color:var(--wrong);font-weight:700}
.out{fill:#0b0b10;fill-opacity:.72}.joined{fill:#0b0b10;fill-opacity:.36}
.kept{fill:none;stroke:#ffbe3c;stroke-width:1.2}
.merged{fill:none;stroke:#4cc9f0;stroke-width:1.6;stroke-dasharray:3 2}.dot{fill:#4cc9f0}
@media(max-width:640px){body{padding:10px 12px 40px;font-size:15px}.wide{display:none}
.narrow{display:block}.looks{grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px}}
"""


def write_report(out: Path, folder: Folder, path: Path) -> None:
    """Write the page.

    Args:
        out: the folder of answers, which holds the images that are shown.
        folder: what is in it.
        path: of the page.

    Raises:
        UserError: the page can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report_html(out, folder), "utf-8")
    except OSError as error:
        raise UserError(f"Can't write {path}: {error.strerror or error}.") from error


def report_html(out: Path, folder: Folder) -> str:
    """The page as text."""
    results = collect(folder)
    names = _names(results)
    settings = results.settings
    title = f"Visual-token selectors: task {settings.get('task')}, model {settings.get('model')}"
    toggles = "".join(
        f"body:has(#s{at}:not(:checked)) .l{at}{{display:none}}" for at in range(len(names))
    )
    protocol, *tables = markdown(folder).strip().split("\n\n")
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{_inline(protocol)}</p>',
        *_charts(results, names),
        "<h2>Tables</h2>",
        *(_block(block) for block in tables),
    ]
    kinds = kinds_markdown(folder)
    if kinds:
        blocks = "".join(_block(block) for block in kinds.strip().split("\n\n"))
        body.append(f"<details><summary>A kind of question</summary>{blocks}</details>")
    gallery = gallery_html(out, folder, [n for n in names if n != KEEP_ALL])
    if gallery:
        body.append(
            "<h2>What was kept</h2><p>Bright with an amber outline: kept as it is. Dashed blue "
            "with a dot: stands for a token that was merged from several patches, which are dimmed "
            "less than what was left out. Of selectors that look at the question: what was kept "
            "for the image's first one. Of those that act inside the language model: what its "
            f"last layers read.</p>{gallery}"
        )
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Without this a browser would ask the server for an icon.
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{CSS}{toggles}</style></head><body>"
    )
    return head + "\n".join(body) + "</body></html>\n"


def _names(results: Results) -> list[str]:
    """The selectors in the order of their lines, best first at the smallest budget."""
    best: dict[str, tuple[int, float]] = {}
    for cell, found in results.cells.items():
        if cell.condition == CLEAN and found.accuracy and cell.selector != KEEP_ALL:
            rank = (cell.tokens, -found.accuracy.mean)
            best[cell.selector] = min(best.get(cell.selector, rank), rank)
    return sorted(best, key=lambda name: best[name])


def _charts(results: Results, names: list[str]) -> list[str]:
    parts = []
    precisions = list(dict.fromkeys(cell.precision for cell in results.cells))
    for precision in precisions:
        behind = f", {precision}" if len(precisions) > 1 else ""
        by_tokens = _lines(results, precision, names, timed=False)
        parts.append(f"<h2>Accuracy against tokens{behind}</h2>")
        if precision == precisions[0]:
            parts.append(_legend(names))
        parts.append(
            _both(
                Chart(
                    "Accuracy against visual tokens, one line a selector",
                    "visual tokens (mean over layers)",
                    "accuracy, %",
                    by_tokens,
                    ticks_of(by_tokens),
                )
            )
        )
        by_time = _lines(results, precision, names, timed=True)
        if any(line.points for line in by_time):
            parts.append(f"<h2>Accuracy against time to first answer{behind}</h2>")
            chart = Chart(
                "Accuracy against seconds to the first token, one line a selector",
                "seconds from a new image to the first token",
                "accuracy, %",
                by_time,
                round_ticks(by_time),
            )
            parts.append(_both(chart))
    return parts


def _both(chart: Chart) -> str:
    wide, narrow = chart_svg(chart, *WIDE), chart_svg(chart, *NARROW)
    return f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'


def _legend(names: list[str]) -> str:
    labels = "".join(
        f'<label><input type="checkbox" id="s{at}" checked>{swatch(at)}{escape(name)}</label>'
        for at, name in enumerate(names)
    )
    return f'<div class="legend">{labels}</div>'


def _lines(results: Results, precision: str, names: list[str], timed: bool) -> tuple[Line, ...]:
    """One line a selector; each ends at the point with all tokens, if there is one."""
    lines = []
    for name in names:
        points = []
        for cell, found in results.cells.items():  # by falling budget
            ours = cell.selector in (name, KEEP_ALL) and cell.condition == CLEAN
            if not ours or cell.precision != precision or not found.accuracy:
                continue
            x = found.first_token if timed else round(found.tokens)
            if x:
                # The point that all lines share has its interval in the table.
                interval = 0.0 if cell.selector == KEEP_ALL else found.accuracy.interval
                points.append((float(x), found.accuracy.mean, interval))
        lines.append(Line(name, tuple(points)))
    return tuple(lines)


def _block(block: str) -> str:
    """One piece of our own Markdown, a heading, a table, a list or a paragraph, as HTML."""
    lines = block.strip().splitlines()
    if lines[0].startswith("### "):
        return f"<h3>{_inline(lines[0][4:])}</h3>"
    if lines[0].startswith("|"):
        head, _, *rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
        heads = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
        cells = "".join(
            "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        return (
            f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
            f"<tbody>{cells}</tbody></table></div>"
        )
    if re.match(r"\d+\. ", lines[0]):
        items = "".join(f"<li>{_inline(line.split('. ', 1)[1])}</li>" for line in lines)
        return f'<ol class="soft">{items}</ol>'
    return f"<p>{_inline(' '.join(lines))}</p>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
