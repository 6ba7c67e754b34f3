# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share: running it as a user does, an image, and a hub of our
own.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from command import svd_vlm

__all__ = ["svd_vlm"]

MODEL = "test/tiny-llava"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 60 x 80 image with something in it."""
    import cv2

    image = np.zeros((60, 80, 3), np.uint8)
    image[:, :40] = (200, 120, 40)
    image[20:40, 50:70] = (30, 30, 220)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    cv2.imwrite(str(path), image)
    return path


@dataclass
class Hub:
    """A model hub on this machine: the endpoints that huggingface_hub uses, and the troubles it may
    have.
    """

    files: dict[str, bytes]
    error: tuple[int, str] | None = None  # HTTP status and the hub's error code for every request
    cut_after: int | None = None  # bytes of a large file after which the line is cut, each time
    stall_after: int | None = None  # bytes of a large file after which nothing more comes
    spoil: dict[str, int] = field(default_factory=dict)  # file name -> how often it is sent damaged
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    url: str = ""

    def sent(self, name: str) -> list[str]:
        """The `Range` headers ("" for none) of the requests for the content of a file."""
        return [
            part for method, path, part in self.asked if method == "GET" and path.endswith(name)
        ]


def _is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _record(name: str, data: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    record: dict[str, object] = {"size": len(data)}
    if _is_large(name):
        sha256 = hashlib.sha256(data).hexdigest()
        record["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": 134}
    return {**record, "rfilename": name, "blobId": blob, "path": name, "oid": blob, "type": "file"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if hub.error:
            self._send(hub.error[0], b"{}", {"X-Error-Code": hub.error[1]})
        elif not path.startswith((f"/api/models/{MODEL}", f"/{MODEL}/resolve/")):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith(f"/{MODEL}/resolve/"):
            self._send_file(*path.removeprefix(f"/{MODEL}/resolve/").split("/", 1))
        elif not path.endswith((MODEL, "/main", COMMIT)):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            records = [_record(name, data) for name, data in hub.files.items()]
            found: object = records
            if "/tree/" not in path:
                found = {"id": MODEL, "sha": COMMIT, "siblings": records}
            self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _send_file(self, revision: str, name: str) -> None:
        hub = self.hub
        if name not in hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data, record = hub.files[name], _record(name, hub.files[name])
        lfs = record.get("lfs")
        etag = lfs["sha256"] if isinstance(lfs, dict) else record["blobId"]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"'}
        headers["X-Linked-Size"] = str(len(data))
        status, start = 200, 0
        if self.command == "GET":
            if hub.spoil.get(name, 0) > 0:
                hub.spoil[name] -= 1
                data = data[:-1] + bytes([data[-1] ^ 0xFF])
            asked = self.headers.get("Range")
            if asked:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        data = data[start:]
        if _is_large(name) and hub.cut_after is not None:
            self._send(status, data, headers, end=hub.cut_after)
        elif _is_large(name) and hub.stall_after is not None:
            self._send(status, data, headers, end=hub.stall_after)
            self.connection.settimeout(60)
            self.rfile.read(1)  # until the other side goes away
        else:
            self._send(status, data, headers)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], end: int | None = None
    ) -> None:
        """Send an answer; with `end`, that many bytes of its body only."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:end])
        self.wfile.flush()
        if end is not None and end < len(body):
            self.close_connection = True


@pytest.fixture(scope="session")
def checkpoint() -> dict[str, bytes]:
    """A LLaVA-1.5 of a few kilobytes as a hub holds it: configuration, random weights, a pickle
    nobody wants.
    """
    from safetensors.numpy import save

    config = {
        "model_type": "llava",
        "vision_config": {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14},
        "text_config": {"model_type": "llama", "vocab_size": 320},
    }
    rng = np.random.default_rng(0)
    weights = {"lm_head.weight": rng.standard_normal((320, 64)).astype(np.float32)}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(weights),
        "tokenizer.json": b'{"version": "1.0"}',
        "README.md": b"# a model",
        "pytorch_model.bin": b"pickled",
    }


@pytest.fixture
def hub(checkpoint: dict[str, bytes]) -> Iterator[Hub]:
    """A running hub that holds the checkpoint as `test/tiny-llava`."""
    hub = Hub(dict(checkpoint))
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()
