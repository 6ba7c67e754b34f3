# SPDX-License-Identifier: Apache-2.0
"""How scout is trained: `python -m svd_vlm_ros.scout.train`. Needs none of this to run scout."""
