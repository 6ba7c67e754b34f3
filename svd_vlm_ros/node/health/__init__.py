# SPDX-License-Identifier: Apache-2.0
"""What the node knows of itself: figures, memory, silent cameras, diagnostics."""
