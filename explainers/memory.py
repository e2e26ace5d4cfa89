"""Memory that a process keeps, in which a CPU computes faster."""

import ctypes
import os
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # numbers of glibc's malloc.h
MOST = 2**31 - 1  # bytes


def keep_freed() -> bool:
    """Has the C library keep freed memory for the next tensors, for the rest of the process.

    By default glibc returns the memory of a large tensor to the system at once, and the system
    clears every page that it hands out anew. Passes of large batches then spend more time on that
    than on computing (benchmarks/results/costs.md). The peak of the memory stays about the same.

    Returns:
        Whether it does so: not with another C library, nor where an environment variable chooses
        (`MALLOC_...` or `GLIBC_TUNABLES`).
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(name, MOST) == 1 for name in (MMAP_THRESHOLD, TRIM_THRESHOLD))
