# SPDX-License-Identifier: Apache-2.0
"""Recorded bags (rosbag2: MCAP or SQLite): descriptions of their pictures, without ROS.

`annotate` looks at the pictures and keeps what it found in a `journal`; when all are done,
`writing` copies the bag with the descriptions beside their pictures. `recording` reads,
`definitions` makes messages from this package's .msg files.
"""
