# SPDX-License-Identifier: Apache-2.0
"""Language models over a KV cache of our own: prefill, decode, score, prune between layers."""
