# SPDX-License-Identifier: Apache-2.0
"""A selector of one's own: the patches near the image's middle, and beside them the strongest.

Run it as it is, or install it as a package whose pyproject.toml has

    [project.entry-points."svd_vlm_ros.selectors"]
    middle = "own_selector:Middle"

and the node, the commands and the engine know it as they know `svd-cover`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.images.disk import read_image
from svd_vlm_ros.selection import Budget, Need, Selection, VisualFeatures, register_selector
from svd_vlm_ros.selection.interface import keep_highest


@dataclass(frozen=True)
class Middle:
    """Scores a patch by the length of its features and by how near to the middle it is.

    Fields are options: the node's parameter `selector_options: [pull=2]`.
    """

    name: ClassVar[str] = "middle"
    needs: ClassVar[frozenset[Need]] = frozenset()  # only the patches themselves
    pull: float = 1.0

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what scores highest; `keep_highest` knows padding, ties and energies."""
        rows, columns = features.grid or (1, len(features))
        down, across = torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns)
        near = torch.exp(-self.pull * (down[:, None] ** 2 + across[None, :] ** 2)).flatten()
        strong = features.patches.float().norm(dim=1)
        scores = (near.to(strong.device) * strong)[features.valid_indices()].double()
        return keep_highest(scores / scores.sum(), features, budget)


def main() -> None:
    """Ask scout, or another model, about an image with this selector."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("question")
    parser.add_argument("--model", default="scout")
    parser.add_argument("--visual-tokens", type=int, default=64)
    wish = parser.parse_args()
    register_selector(Middle)
    engine = SceneEngine.load(wish.model, selector="middle", visual_tokens=wish.visual_tokens)
    scene = engine.see(read_image(wish.image))
    answer = engine.ask(scene, wish.question)
    print(f"{answer.text}  ({scene.tokens_kept} of {scene.tokens_total} tokens)")


if __name__ == "__main__":
    main()
