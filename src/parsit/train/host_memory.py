"""The CPU's memory between steps.

glibc hands a large block back to the system as soon as it is freed, and every step of a training on a CPU frees
gigabytes and asks for them again: the kernel fills each page with zeros first. Told to keep what is freed, it does not.
"""

from __future__ import annotations

import ctypes

# Parameters of mallopt (malloc.h): no block comes from mmap, the heap is never trimmed, and it grows by 64 MB.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEPT = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what this process frees; whether it does (False with another C library)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in _KEPT.items())
