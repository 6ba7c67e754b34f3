# SPDX-License-Identifier: Apache-2.0
"""Model families, and what they share: a folder a family, `language` and `weights` for all.

Importing this package imports no torch; its modules do.
"""
