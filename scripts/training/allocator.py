"""Memory that is freed in one training step is there for the next.

The C library asks the kernel for every large block anew and gives it back when it is freed. The
kernel hands it out as pages of zeros, one fault for each that is touched first, so that of an
activation of 60 MB the clearing may take longer than the convolution that fills it. On CUDA,
PyTorch keeps what it has freed; on processors this module has the C library do so.
"""

import ctypes

M_TRIM_THRESHOLD = -1  # <malloc.h> of the GNU C library
M_MMAP_THRESHOLD = -3
LARGEST = 2**30  # bytes; blocks above it are asked for anew, as few steps have any


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees.

    It holds on to the most that it ever needed at once. Does nothing where the C library is not
    GNU's.

    Returns:
        Whether it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # each 0 if refused; a trim threshold of -1 is one that nothing exceeds
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
