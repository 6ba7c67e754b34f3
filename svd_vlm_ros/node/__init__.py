# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 shell around `svd_vlm_ros.engine`: the only room that imports rclpy.

`perception` is the lifecycle node. The way of a question through the other modules: `cameras` keeps
the newest picture, `service` takes the request, `requests` judges it, `inference` (one thread) owns
the engine, `answering` works on that thread with `images` for the pixels, `messages` fills the
reply.
"""
