# SPDX-License-Identifier: Apache-2.0
"""Model families, and what they share.

`interface` has the protocols that make a family, `registry` finds the family of a model; a folder
a family (`llava`). What families share stands beside them: `language` (KV cache, the loop over the
layers, decoding, pruning), `weights` (precisions, layouts for the CPU, kernels), `images`,
`prompt`, `files`, `loading`.

    models.register(family)         # a family of yours, found by the model_type of a config.json
    models.load("scout").images.grid

Importing this package imports no torch; a model does.
"""

from svd_vlm_ros.models.registry import (
    family_of,
    family_of_config,
    find_sizes,
    load,
    model_types,
    register,
)

__all__ = [
    "family_of",
    "family_of_config",
    "find_sizes",
    "load",
    "model_types",
    "register",
]
