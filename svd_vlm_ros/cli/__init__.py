# SPDX-License-Identifier: Apache-2.0
"""The command line `svd-vlm`: one file a command, put together in `main.py`.

What is heavy (torch, transformers, rclpy) is imported inside the commands, so `svd-vlm --help`
answers at once.
"""
