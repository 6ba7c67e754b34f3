# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: what there is, what is possible, and the values."""
