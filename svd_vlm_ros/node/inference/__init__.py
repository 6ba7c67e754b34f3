# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the model: its queue, requests, answers and scenes."""
