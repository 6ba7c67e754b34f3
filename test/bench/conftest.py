# SPDX-License-Identifier: Apache-2.0
from command import svd_vlm

__all__ = ["svd_vlm"]
