# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 in the stages of its papers: picture, vision tower, projector, language model.

`loading` brings the weights into memory, `precision` says what is quantized. `preprocess`,
`vision`, `projector`, `prompt` and `language` are the stages; `svd_vlm_ros.engine` puts them
together. Below `language` lie `decoder` (the loop over the layers), `cache` (keys and values),
`writer` (answers, token by token), `pruning` (tokens dropped between layers) and `compiled` (CUDA
graphs). Importing this package imports no torch; its modules do.
"""
