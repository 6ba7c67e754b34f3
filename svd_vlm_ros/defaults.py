# SPDX-License-Identifier: Apache-2.0
"""What engine, node and command line do when nothing else is said; docs/results.md says why."""

SELECTOR = "svd-cover"
VISUAL_TOKENS = 192  # kept of each image, and the most that are kept by energy
