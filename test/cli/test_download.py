# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm download` against a hub on this machine: whole, damaged, interrupted, refused."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command import Ran
from huggingface_hub import constants
from typer.testing import CliRunner

from svd_vlm_ros.cli.main import app

MODEL = "test/tiny-llava"
WEIGHTS = "model.safetensors"
KEPT_AT_LEAST = 10 << 20  # huggingface_hub hands on what arrives in pieces of 10 MiB


@pytest.fixture
def download(hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `svd-vlm download` in this process, with the hub and a cache of its own.

    huggingface_hub reads its settings from the environment when it is imported, so they are set
    where it keeps them; test_ask.py downloads a model as a user does.
    """

    def use(url: str, offline: bool = False) -> None:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))

    def run(*arguments: str) -> Ran:
        ran = CliRunner().invoke(app, ["download", *arguments])
        return Ran(ran.exit_code, ran.stdout, ran.stderr)

    use(hub.url)
    run.use = use
    return run


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub" / "models--test--tiny-llava"


def test_it_fetches_what_is_wanted_once_and_mends_what_was_damaged(download, hub, cache) -> None:
    ran = download(MODEL, "--json")
    assert (ran.status, ran.err) == (0, "")
    record = json.loads(ran.out)
    folder = Path(record["folder"])
    assert record["verified"]
    assert {file["name"] for file in record["files"]} == {"config.json", WEIGHTS, "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == {"config.json", WEIGHTS, "tokenizer.json"}
    for name in ("config.json", WEIGHTS, "tokenizer.json"):
        assert (folder / name).read_bytes() == hub.files[name]
    assert (cache / "refs" / "main").read_text() == folder.name

    hub.asked.clear()
    again = download(MODEL)
    assert again.status == 0
    assert "is here and verified" in again.out
    assert not [path for method, path, _ in hub.asked if "/resolve/" in path and method == "GET"]

    damaged = bytearray(hub.files[WEIGHTS])
    damaged[-1] ^= 1
    (folder / WEIGHTS).resolve().write_bytes(bytes(damaged))
    mended = download(MODEL)
    assert mended.status == 0
    assert f"{WEIGHTS}: not what the hub says" in mended.err
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_file_that_came_damaged_is_fetched_again(download, hub) -> None:
    hub.spoil = {WEIGHTS: 1, "tokenizer.json": 1}
    ran = download(MODEL)
    assert ran.status == 0
    assert len(ran.lines) == 1
    assert ran.err.startswith("warning: ")
    assert WEIGHTS in ran.err
    assert "tokenizer.json" in ran.err
    assert len(hub.sent(WEIGHTS)) == 2


def test_a_damaged_config_is_fetched_again_and_given_up_after_that(download, hub) -> None:
    hub.spoil = {"config.json": 9}
    ran = download(MODEL)
    assert ran.status == 1
    assert ran.lines[0].startswith("error: config.json came damaged twice and was removed")
    hub.spoil = {"config.json": 1}
    assert download(MODEL).status == 0


def test_a_model_with_missing_weights_is_named(download, hub) -> None:
    shards = {"weight_map": {"a": WEIGHTS, "b": "model-2.safetensors"}}
    hub.files["model.safetensors.index.json"] = json.dumps(shards).encode()
    ran = download(MODEL)
    assert ran.status == 1
    assert "lacks 1 of 2 weight files (model-2.safetensors)" in ran.lines[-1]


def test_a_file_that_stays_damaged_is_removed_and_named(download, hub, cache) -> None:
    hub.spoil = {WEIGHTS: 9}
    ran = download(MODEL)
    assert ran.status == 1
    assert ran.lines[-1].startswith(f"error: {WEIGHTS} came damaged twice and was removed")
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 9999]


@pytest.fixture
def large(hub) -> bytes:
    """Weights of 24 MiB in the hub's model."""
    from safetensors.numpy import save

    data = save({"lm_head.weight": np.arange(6 << 20, dtype=np.int32)})
    hub.files[WEIGHTS] = data
    return data


def test_a_cut_line_is_taken_up_where_it_ended(download, hub, large: bytes) -> None:
    hub.cut_after = KEPT_AT_LEAST + 1000
    ran = download(MODEL)
    assert ran.status == 0, ran.err
    assert hub.sent(WEIGHTS) == ["", f"bytes={KEPT_AT_LEAST}-", f"bytes={2 * KEPT_AT_LEAST}-"]


def test_an_interrupted_download_continues(
    download, hub, large: bytes, cache: Path, tmp_path: Path
) -> None:
    hub.stall_after = KEPT_AT_LEAST + 1000
    process = subprocess.Popen(
        [sys.executable, "-m", "svd_vlm_ros.cli.main", "download", MODEL],
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
        },
        cwd="/",
        stderr=subprocess.PIPE,
        text=True,
    )

    def stalled() -> Path | None:
        with contextlib.suppress(FileNotFoundError):  # a smaller file that is whole by now
            for part in cache.glob("blobs/*.part"):
                if part.stat().st_size >= KEPT_AT_LEAST:
                    return part
        return None

    end = time.monotonic() + 180
    while (part := stalled()) is None:
        assert time.monotonic() < end, "the download did not begin in time"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "Traceback" not in errors
    assert part.stat().st_size == KEPT_AT_LEAST
    assert not list(cache.glob(f"snapshots/*/{WEIGHTS}"))

    hub.stall_after = None
    hub.asked.clear()
    assert download(MODEL).status == 0
    assert hub.sent(WEIGHTS) == [f"bytes={KEPT_AT_LEAST}-"]
    assert next(cache.glob(f"snapshots/*/{WEIGHTS}")).read_bytes() == large
    assert not list(cache.glob("blobs/*.part"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nobody/nothing"], "knows no model nobody/nothing"),
        (["not a model"], "is neither a folder nor a hub id"),
        ([MODEL, "--revision", "v9"], "has no revision 'v9'"),
        (["scout"], "needs no download"),
        (["random:tiny"], "needs no download"),
        (["/"], "is a folder on this machine"),
    ],
)
def test_what_cannot_be_fetched_gets_one_sentence(download, arguments, sentence: str) -> None:
    ran = download(*arguments)
    assert ran.status == 1
    assert len(ran.lines) == 1
    assert ran.lines[0].startswith("error: ")
    assert sentence in ran.lines[0]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ((403, "GatedRepo"), "is gated: accept its terms"),
        ((503, ""), "Could not fetch test/tiny-llava"),
    ],
)
def test_a_hub_that_refuses_gets_one_sentence(download, hub, error, sentence: str) -> None:
    hub.error = error
    ran = download(MODEL)
    assert ran.status == 1
    assert len(ran.lines) == 1
    assert sentence in ran.lines[0]


def test_without_a_network_it_says_so(download) -> None:
    download.use("http://127.0.0.1:9")
    ran = download(MODEL)
    assert ran.status == 1
    assert len(ran.lines) == 1
    assert "check the network" in ran.lines[0]


def test_a_disk_that_is_too_small_is_named(download, hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    ran = download(MODEL)
    assert ran.status == 1
    assert re.search(r"needs 82\.\d kB more, but the disk of", ran.lines[0])
    assert "has 1.0 kB left" in ran.lines[0]
    assert not hub.sent(WEIGHTS)


def test_two_downloads_of_one_file_keep_apart(download, hub, cache: Path) -> None:
    sha256 = hashlib.sha256(hub.files[WEIGHTS]).hexdigest()
    (cache / "blobs").mkdir(parents=True)
    with (cache / "blobs" / f"{sha256}.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        ran = download(MODEL)
    assert ran.status == 1
    assert ran.lines == [f"error: Another download of {WEIGHTS} is running: wait for it to end."]
    assert download(MODEL).status == 0


def test_other_models_are_refused_before_their_weights_come(download, hub) -> None:
    hub.files["config.json"] = b'{"model_type": "kosmos-2"}'
    ran = download(MODEL)
    assert ran.status == 1
    assert len(ran.lines) == 1
    assert "the family 'kosmos-2', which this package does not run" in ran.lines[0]
    assert not hub.sent(WEIGHTS)


def test_pickled_weights_are_refused(download, hub) -> None:
    del hub.files[WEIGHTS]
    ran = download(MODEL)
    assert ran.status == 1
    assert "has no safetensors weights" in ran.lines[0]
    assert not hub.sent("pytorch_model.bin")
