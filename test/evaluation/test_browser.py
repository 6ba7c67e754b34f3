# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, if there is one: nothing on the console, nothing fetched."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from svd_vlm_ros.evaluation.records import Folder, Scored
from svd_vlm_ros.evaluation.report import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def opened(page: Path) -> tuple[list[str], set[str]]:
    """What a page writes on the console, and the addresses that it asks for."""
    log, shot = page.with_suffix(".net.json"), page.with_suffix(".png")
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}"),
        *("--enable-logging=stderr", f"--log-net-log={log}", f"--screenshot={shot}"),
        "--window-size=400,900",
    )
    done = subprocess.run(
        [str(CHROMIUM), *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert shot.stat().st_size > 1000
    asked = set(re.findall(r'"url":"(https?://[^"]+)', log.read_text()))
    # The browser's own: updates, the clock, accounts.
    asked = {url for url in asked if not re.match(r"https?://[\w.]*google(apis)?\.com/", url)}
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


def test_the_page_is_quiet_and_fetches_nothing(tmp_path: Path) -> None:
    answers = {str(n): Scored(str(n), "all", "a", float(n % 3 > 0), 16.0) for n in range(9)}
    folder = Folder(
        {"task": "gqa", "model": "m", "protocol": "P."},
        {"bf16/none/576/clean": answers, "bf16/svd/16/clean": answers},
    )
    page = tmp_path / "report.html"
    write_report(tmp_path, folder, page)

    assert opened(page) == ([], set())


def test_a_page_that_is_not_would_be_found_out(tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    address = "http://example.invalid/x.png"
    page.write_text(f"<script>console.error({json.dumps('no')})</script><img src='{address}'>")

    console, asked = opened(page)

    assert console
    assert asked == {address}
