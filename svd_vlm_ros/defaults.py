# SPDX-License-Identifier: Apache-2.0
"""What engine, node and command line do unless set otherwise; docs/results.md has why."""

SELECTOR = "svd-cover"
VISUAL_TOKENS = 192  # kept of each image, and the most that are kept by energy
