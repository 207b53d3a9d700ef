"""Products of candidates with a vector of their user, compiled: the candidates' vectors are read where they lie."""

import numpy as np

from model.jit import njit

VECTORISED = {"reassoc", "contract"}
"""A sum may be added up in any order, as vector instructions do."""


@njit(cache=True, nogil=True, fastmath=VECTORISED)
def products(first, last, rows, vectors, wanted, into):
    """Shape: rows (B, c) of the vectors (n, d), -1 for none; wanted (B, d) -> into (B, c), 0 for none."""
    for b in range(first, last):
        for c in range(rows.shape[1]):
            total = np.float32(0)
            if rows[b, c] >= 0:
                for d in range(vectors.shape[1]):
                    total += vectors[rows[b, c], d] * wanted[b, d]
            into[b, c] = total
