# SPDX-License-Identifier: Apache-2.0
"""What `peers.py` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from peers_common import READ
from peers_setup import AVX2

QUANTITIES = (*(f"read {count}" for count in READ), "token", "tower")


def compare(rows: list[dict[str, Any]], outputs: list[Path]) -> None:
    """Add to each row how much its outputs agree with those of one that is not quantized."""
    loaded = [np.load(path) for path in outputs]
    for peer in ("ours", "onnxruntime"):
        for row, expected in zip(rows, loaded, strict=True):
            if (row["peer"], row["precision"]) == (peer, "fp32"):
                for other, found in zip(rows, loaded, strict=True):
                    other["agrees"] = {key: cosine(found[key], expected[key]) for key in found}
                return


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


def show(about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    restricted = f", restricted to {about['restricted to']}" if about["restricted to"] else ""
    capability = next((row["capability"] for row in rows if "capability" in row), None)
    seen = f" (torch: {capability})" if capability else ""
    print(
        f"{about['cpu']}: {about['class']}{restricted}{seen}; {about['threads']} threads; "
        f"LLaVA-1.5-7B's sizes, {about['layers']} of 32 layers; median and half of the range of "
        f"{about['rounds']} rounds; load {about['load']:.1f} before; {about['date']}"
    )
    for peer in dict.fromkeys(row["peer"] for row in rows):
        versions = {row["version"] for row in rows if row["peer"] == peer}
        built = {row["built for"] for row in rows if row["peer"] == peer and "built for" in row}
        print(f"{peer}: {', '.join(sorted(versions))}{''.join(f' ({text})' for text in built)}")
    if about["restricted to"]:
        variables = " ".join(f"{key}={value}" for key, value in AVX2.items())
        print(f"Restricted by {variables} and GGML_NATIVE=OFF.")
        for text in dict.fromkeys(row["unrestricted"] for row in rows if "unrestricted" in row):
            print(f"* {text}")
    reads = " | ".join(f"read {count}, s" for count in READ)
    print(f"\n| | {reads} | token, ms | tower, s | peak, GB | held, GB | head | agrees |")
    print("|---|" + "---:|" * (len(READ) + 4) + "---|---|")
    for row in rows:
        free = about["restricted to"] and "unrestricted" in row
        cells = [f"{row['peer']} {row['precision']}{'*' if free else ''}{notes(row)}"]
        for quantity in QUANTITIES:
            unit, digits = (1, 0) if quantity == "token" else (1e3, 2)
            found = row.get(quantity)
            cells.append(
                f"{found['median'] / unit:.{digits}f} ± {found['half_range'] / unit:.{digits}f}"
                if found
                else ""
            )
        cells += [f"{row['peak'] / 1e9:.1f}", f"{row['held'] / 1e9:.1f}", row["head"]]
        cells.append(" ".join(f"{value:.4f}" for value in row.get("agrees", {}).values()))
        print("| " + " | ".join(cells) + " |")
    for failure in about["failed"]:
        print(f"\n{failure}")


def notes(row: dict[str, Any]) -> str:
    """What a precision's name leaves out: the choice of `auto`, dtypes of tower and activations."""
    parts = [row["chosen"]] if "chosen" in row else []
    parts += [f"{key} {row[key]}" for key in ("tower in", "computes in") if key in row]
    return f" ({', '.join(parts)})" if parts else ""
