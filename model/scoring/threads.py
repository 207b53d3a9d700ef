"""Compiled loops over the users of a micro-batch, in as many threads as torch has: they hold no lock of Python's."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch

_LEAST = 8  # users for which it is worth waking up a thread


def over_users(loop: Callable[..., None], users: int, *columns: object) -> None:
    """Call `loop(first, last, *columns)` so that every user is done once."""
    threads = min(torch.get_num_threads(), users // _LEAST)
    if threads <= 1:
        loop(0, users, *columns)
        return
    bounds = np.linspace(0, users, threads + 1).astype(int).tolist()
    others = [_pool(threads).submit(loop, first, last, *columns) for first, last in pairwise(bounds[1:])]
    loop(0, bounds[1], *columns)
    for part in others:
        part.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="score")
