"""Seed third-party code that uses global random number generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import numpy as np


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Within the block, seed Python's and NumPy's global RNGs with the key; afterwards restore their states."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(key)
    np.random.seed(Random(key).randrange(2**32))
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
