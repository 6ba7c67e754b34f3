# SPDX-License-Identifier: Apache-2.0
from checkpoint_fixtures import checkpoint, small_checkpoint

__all__ = ["checkpoint", "small_checkpoint"]
