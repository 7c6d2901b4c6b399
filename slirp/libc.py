"""The C library, for system calls that Python does not have."""

from __future__ import annotations

import ctypes
import functools
import os


@functools.cache
def library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def check(result: int) -> int:
    """The result of a call. Raises OSError where it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
