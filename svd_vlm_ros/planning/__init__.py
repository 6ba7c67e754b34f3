# SPDX-License-Identifier: Apache-2.0
"""What a model costs, by arithmetic alone: operations, memory, time on a Jetson.

`shapes` has the sizes of a model's parts and `views` what becomes of an image, `configurations`
reads both from a config.json of any family, and `known` finds them by a model's name. `flops`
counts operations (as in the paper's Table 2, and as computed), `memory` counts bytes, `devices` has
the Jetson modules, `published` what others have measured on them, `roofline` turns both into
seconds, and `plan` answers: does it fit, how fast, what helps.

Nothing here imports torch, and nothing of this package but `errors`.
"""
