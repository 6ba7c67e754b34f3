# SPDX-License-Identifier: Apache-2.0
"""Give memory back to the system that the C library keeps for later."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def give_back() -> None:
    """Let the C library return what is free.

    Quantizing leaves holes between the weights that stay. Without this a LLaVA-1.5-7B in int4 keeps
    1.6 GB more than its weights take. Does nothing where the library has no such function.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
