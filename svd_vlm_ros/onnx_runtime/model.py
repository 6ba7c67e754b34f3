# SPDX-License-Identifier: Apache-2.0
"""An exported model ready to run, behind the protocols of `models.interface`, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.options import ModelOptions, refuse_pixels
from svd_vlm_ros.models.prompt import Prompt, Template
from svd_vlm_ros.onnx_runtime.images import ExportImages
from svd_vlm_ros.onnx_runtime.language import ExportLanguageModel
from svd_vlm_ros.onnx_runtime.manifest import DECODER, PROJECTOR, TOKENIZER, VISION, Manifest
from svd_vlm_ros.onnx_runtime.sessions import Device, Graph, resolve_device
from svd_vlm_ros.onnx_runtime.tokenizer import ExportTokenizer
from svd_vlm_ros.onnx_runtime.vision import ExportConnector, ExportEncoder

AUTO = "auto"
KIND = "llava"  # of prompt and images
_WEIGHTS = (".onnx", ".data", ".npy")


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """An export in memory; of `models.interface.LoadedModel` it has what the engine uses.

    Attributes:
        manifest: of the export.
        graphs: by their files' names.
        tokenizer: of the export.
        images: how images become pixel values.
        end_token_ids: the ids that end an answer.
        dtype: of activations.
        device: where the decoder runs.
        original_positions: whether the kept tokens keep their position ids.
    """

    manifest: Manifest
    graphs: Mapping[str, Graph]
    tokenizer: ExportTokenizer
    images: ExportImages
    end_token_ids: frozenset[int]
    dtype: str
    device: Device
    original_positions: bool

    prunes = False

    @property
    def precision(self) -> str:
        """Of the export."""
        return self.manifest.precision

    @property
    def context(self) -> int:
        """The most tokens, visual ones included, that the language model was made for."""
        return int(self.manifest.sizes["context"])

    @property
    def random_weights(self) -> bool:
        """The answers mean nothing."""
        return self.manifest.random_weights

    @property
    def weight_bytes(self) -> int:
        """Of the files, those of the graphs and of the embeddings."""
        sizes = {name: int(each["bytes"]) for name, each in self.manifest.files.items()}
        return sum(
            size for name, size in sizes.items() if name.endswith((".onnx", ".data", ".npy"))
        )

    def prompt(self, system_prompt: str | None) -> Prompt:
        """The prompt of the family, over the export's own tokenizer."""
        found = self.manifest.prompt
        template = Template(found["image_token"], **found["template"])
        return Prompt(self.tokenizer, template, system_prompt)

    def encoder(self) -> ExportEncoder:
        """The vision encoder."""
        return ExportEncoder(self.graphs[VISION], self.connector())

    def connector(self) -> ExportConnector:
        """The connector."""
        return ExportConnector(self.graphs[PROJECTOR], self.original_positions)

    def language_model(self) -> ExportLanguageModel:
        """A language model; what it reads is its own."""
        layers = int(self.manifest.sizes["layers"])
        return ExportLanguageModel(self.graphs[DECODER], self.manifest.embeddings(), layers)

    def compare(self, selector: Any) -> Any:
        """No selector that runs here compares a question with patches."""
        raise UserError(f"The selector '{selector.name}' does not run in the runtime onnx.")


def load_export(
    folder: Path, *, precision: str, device: str, cpu_threads: int, options: ModelOptions
) -> ExportedModel:
    """Load an exported folder; every file's checksum is compared.

    Args:
        folder: that `svd-vlm export onnx` has written.
        precision: auto, or that of the export.
        device: see `sessions.resolve_device`.
        cpu_threads: of each graph; 0: as many as onnxruntime likes.
        options: `position_policy` "auto" means the export's own; pixels are refused.

    Raises:
        UserError: a file is missing, damaged or of another version; the precision or the device
            is not to be had.
    """
    refuse_pixels(str(folder), options)
    manifest = Manifest.read(folder)
    if precision not in (AUTO, manifest.precision):
        raise UserError(
            f"{folder} was exported in {manifest.precision}, but {precision} was asked for: take "
            f"precision auto, or export the model anew in {precision}."
        )
    kind = manifest.prompt["kind"]
    if kind != KIND:
        raise UserError(f"{folder} has a prompt of the kind '{kind}', this version knows '{KIND}'.")
    resolve_device(device, folder)
    policy = options.position_policy
    if policy == AUTO:
        policy = manifest.defaults["position_policy"]
    tokenizer = ExportTokenizer(manifest.path(TOKENIZER), manifest.prompt)
    graphs = {
        name: Graph(manifest, name, device, cpu_threads) for name in (VISION, PROJECTOR, DECODER)
    }
    decoder = graphs[DECODER]
    return ExportedModel(
        manifest=manifest,
        graphs=graphs,
        tokenizer=tokenizer,
        images=ExportImages(manifest),
        end_token_ids=frozenset(int(each) for each in manifest.prompt["end_token_ids"]),
        dtype=str(decoder.dtype("past_key.0")),
        device=decoder.device,
        original_positions=policy == "original",
    )
