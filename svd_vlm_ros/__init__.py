# SPDX-License-Identifier: Apache-2.0
"""Ask a robot's cameras questions: LLaVA with SVD-Prune and quantized weights, as a ROS 2 package.

Importing this package is cheap: it imports neither torch nor rclpy. Take what you need from the
rooms: `svd_vlm_ros.engine` (no ROS), `svd_vlm_ros.node` (ROS 2), `svd_vlm_ros.selection`,
`svd_vlm_ros.cli`.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
