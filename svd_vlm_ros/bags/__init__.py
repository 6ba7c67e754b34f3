# SPDX-License-Identifier: Apache-2.0
"""Recorded bags (rosbag2: MCAP or SQLite): descriptions of their images, without ROS.

`annotate` looks at the images and keeps what it found in a journal; when all are done, `writing`
copies the bag with the descriptions beside their images. `recording` reads, `definitions` makes
messages from this package's .msg files.
"""
