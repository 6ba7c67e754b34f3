# SPDX-License-Identifier: Apache-2.0
"""What the node offers: service, action, topics, and the messages of each."""
