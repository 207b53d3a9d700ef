"""What every worker process of a vectorised UDF sets first."""

import sys

SWITCH_S = 0.0005
"""How long one thread of a worker may hold the interpreter while others wait: a tenth of Python's default. A call passes through
several threads, so with the default a list waits long while another thread is at work, as when the language model loads."""


def prepare(threads: int | None = None) -> None:
    """Let threads take turns quickly.

    Args:
        threads: of torch, on the CPU; None where torch is not needed yet.
    """
    sys.setswitchinterval(SWITCH_S)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
