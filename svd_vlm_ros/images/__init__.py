# SPDX-License-Identifier: Apache-2.0
"""Images as bytes: what JPEG and PNG files are made of, files and ROS messages to RGB arrays.

Free of ROS: messages are read by their fields, so those of rclpy and those of a bag serve alike.
Node, bags and command line share this room.
"""
