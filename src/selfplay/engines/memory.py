"""Configure malloc to keep freed memory instead of returning it to the system.

A training step repeatedly frees and allocates the same hundreds of megabytes. glibc returns large blocks to the system
at once, so each step pays for page faults again; keeping them reduced the forward pass of the embedded model with
gradient from 0.9 s to 0.2 s on two cores (`experiments/tiny_model`, batch 256 x 23 tokens).
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory; call it before the first large allocation. Returns False without glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
