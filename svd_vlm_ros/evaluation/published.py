# SPDX-License-Identifier: Apache-2.0
"""What the papers report for LLaVA-1.5-7B, to stand beside what was measured here.

From the tables of the methods' own papers and of those that compare them; if others ran a method
again with another result, both are given, the method's own paper first. The TextVQA figures are
with OCR tokens in the prompt.
"""

from __future__ import annotations

BUDGETS = (192, 128, 64, 32, 16)
FULL = {"gqa": 61.9, "textvqa": 58.2}
NO_IMAGE = {"gqa": 37.65, "textvqa": 41.66}

# GQA/TextVQA at 192, 128, 64, 32 and 16 tokens; a dash: not reported.
_TABLE = """
    svd          59.88/57.24  58.70/56.14  53.77/55.14  53.52/54.81  53.04/54.03
    tome         54.3/52.1    52.4/49.1    48.6/45.3    43.6/38.3    -
    tome         59.5/55.8    58.7/54.8    56.0/52.6    -            -
    fastv        52.7/52.5    49.6/50.6    46.1/47.8    41.5/42.5    -
    fastv        57.1/57.8    54.1/56.3    46.4/51.6    -            -
    pyramiddrop  57.3/56.5    57.1/56.6    47.5/50.6    -            -
    sparsevlm    57.6/56.1    56.0/54.9    52.7/51.8    48.3/46.1    -
    visionzip    59.3/57.3    57.6/56.8    55.1/55.5    51.8/53.2    46.7/49.7
    hired        58.7/47.4    57.2/46.1    54.6/44.2    -            -
    trim         -            58.4/52.2    56.6/49.7    54.5/47.6    -
    divprune     60.0/57.0    59.3/56.1    57.8/54.7    55.1/53.2    51.1/50.0
    vispruner    59.4/57.7    58.1/56.9    55.8/55.6    52.2/53.9    -
    cdpruner     -            59.6/56.1    58.6/55.1    56.9/53.2    -
    scope        60.1/57.7    59.4/57.1    58.3/56.5    56.2/54.8    -
    mmtok        60.1/57.7    59.3/57.0    58.3/56.0    56.0/53.7    53.3/50.0
"""


def published(task: str, selector: str, tokens: int) -> tuple[float, ...]:
    """Published accuracies in percent, the method's own paper first; () if there is none.

    Args:
        task: "gqa" or "textvqa"; other tasks have none.
        selector: its name; "none": the model with all its tokens.
        tokens: how many are kept.
    """
    if task not in FULL:
        return ()
    if selector == "none":
        return (FULL[task],)
    return _parsed().get((task, selector, tokens), ())


def _parsed() -> dict[tuple[str, str, int], tuple[float, ...]]:
    found: dict[tuple[str, str, int], tuple[float, ...]] = {}
    for line in _TABLE.strip().splitlines():
        selector, *cells = line.split()
        if len(cells) != len(BUDGETS):
            raise ValueError(f"the table of published figures is broken at {selector}")
        for tokens, cell in zip(BUDGETS, cells, strict=True):
            if cell == "-":
                continue
            for task, value in zip(FULL, cell.split("/"), strict=True):
                key = (task, selector, tokens)
                found[key] = (*found.get(key, ()), float(value))
    return found
