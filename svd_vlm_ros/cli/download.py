# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm download`: the only part of this package that touches a network."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from svd_vlm_ros.cli import hub, options
from svd_vlm_ros.cli.console import gigabytes, print_json, print_warning, stderr, stdout
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import find_folder


def download(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A hub id.")
    ] = options.DEFAULT_HUB_MODEL,
    revision: Annotated[
        str, typer.Option("--revision", help="A branch, tag or commit of the model.")
    ] = "main",
    as_json: options.AsJson = False,
) -> None:
    """Fetch a model of a known family (or a CLIP) from the hub, and verify every file.

    Only safetensors, JSON and tokenizer files are fetched. An interrupted download continues.

    Example:  svd-vlm download llava-hf/llava-1.5-7b-hf
    """
    refuse_local(model)
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()  # one bar of ours for all files
    logging.set_verbosity_error()

    found = hub.list_files(model, revision)
    hub.fetch_config(found)
    hub.check_space(found)
    folder = fetch_verified(found)
    if as_json:
        print_json(
            {
                "model": found.name,
                "revision": found.revision,
                "commit": found.commit,
                "folder": str(folder),
                "files": [{"name": file.name, "bytes": file.size} for file in found.files],
                "bytes": found.size,
                "verified": True,
            }
        )
        return
    console = stdout()
    console.print(
        Text(
            f"{found.name} is here and verified: {len(found.files)} files, "
            f"{gigabytes(found.size)}, commit {found.commit[:12]}."
        ),
        soft_wrap=True,
    )
    console.print(Text(f"folder: {folder}"), soft_wrap=True)
    name = found.name if revision == "main" else str(folder)
    console.print(
        Text(f"try:    svd-vlm ask photo.jpg 'what is this?' --model {name}"), soft_wrap=True
    )


def refuse_local(model: str) -> None:
    """Raise `UserError` for models that no hub is needed for."""
    if model == "scout" or model.startswith("random:"):
        raise UserError(f"{model} comes with this package and needs no download.")
    if Path(model).is_dir():
        raise UserError(
            f"{model} is a folder on this machine: use it as it is with --model {model}."
        )


def fetch_verified(model: hub.HubModel) -> Path:
    """Fetch all files and check them, a damaged one once more. Returns the model's folder.

    A file that is damaged twice is removed from the cache, so that nothing loads it, and named in a
    `UserError`.
    """
    for attempt in (1, 2):
        with _bar(f"Fetching {model.name}", sum(f.size for f in model.files if f.large)) as count:
            hub.fetch_weights(model, count)
            folder = hub.fetch_rest(model)
        with _bar("Verifying", model.size) as count:
            bad = hub.damaged(model, folder, count)
        if not bad:
            return find_folder(str(folder))  # checks that no part of the weights is missing
        for file in bad:
            hub.remove(folder, file)
        names = ", ".join(file.name for file in bad)
        if attempt == 1:
            print_warning(f"{names}: not what the hub says; fetching again.")
    raise UserError(hub.damaged_twice(names))


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr, on a terminal only. Yields the function that counts bytes."""
    console = stderr()
    if not console.is_terminal:
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)
