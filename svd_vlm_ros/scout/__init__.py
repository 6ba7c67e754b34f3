# SPDX-License-Identifier: Apache-2.0
"""Scout: the embedded model, the drawn world that it knows, and its training (docs/scout.md)."""
