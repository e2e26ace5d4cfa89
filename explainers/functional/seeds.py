"""Seeds that name what they are for."""

import numpy as np


def combine(*numbers: int) -> int:
    """One seed in [0, 2^63) from several integers, the same on every platform and Python.

    Example:
        >>> combine(0, 1) == combine(0, 1) != combine(1, 0)
        True
    """
    entropy = [number % 2**64 for number in numbers]  # numpy takes no negative numbers
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
