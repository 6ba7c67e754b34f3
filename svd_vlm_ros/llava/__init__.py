# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 in the stages of its papers: picture, vision tower, projector, language model.

`loading` brings the weights into memory, `precision` says what is quantized. `preprocess`,
`vision`, `projector`, `prompt` and `language` are the stages; `svd_vlm_ros.engine` puts them
together. Importing this package imports no torch; its modules do.
"""
