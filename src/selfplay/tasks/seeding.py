"""Code of others that draws from the global generators, made a function of a key."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import numpy as np


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """While the block lasts, Python's and NumPy's global luck is a function of the key; then it is as it was before."""
    before, numpys = random.getstate(), np.random.get_state()
    random.seed(key)
    np.random.seed(Random(key).randrange(2**32))
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpys)
