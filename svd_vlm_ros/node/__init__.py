# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 shell around `svd_vlm_ros.engine`: the only room that imports rclpy.

`perception` is the lifecycle node. The way of a question through the other modules: `cameras` keeps
the newest picture, `service` or `action` takes the request, `handling` makes a job of it that
`requests` has judged, `inference` (one thread) owns the engine, `answering` works on that thread
with `images` for the pixels and `scenes` for what was seen, `messages` fills the reply. The node's
own looks: `descriptions` on the executor's thread, `looking` on the model's.
"""
