"""What every worker process of a vectorised UDF sets first."""

import sys

from threadpoolctl import threadpool_limits

SWITCH_S = 0.0005
"""How long one thread of a worker may hold the interpreter while others wait: a tenth of Python's default. A call
passes through several threads, so with the default a list waits long while another thread is at work, as when the
language model loads.
"""


def prepare(threads: int | None = None) -> None:
    """Let threads take turns quickly, and calls end when their work does.

    Args:
        threads: of torch, on the CPU; None where it loads later, or not at all.
    """
    sys.setswitchinterval(SWITCH_S)
    do_not_sample()
    threadpool_limits(1, user_api="blas")  # another thread of it would spin between two calls
    if threads is not None:
        from model import device

        device.use_threads(threads)


def do_not_sample() -> None:
    """Take away the thread that Beam starts for every micro-batch to sample what the worker is doing.

    Nobody reads what it finds, and the micro-batch does not end before it wakes up: a tenth of the time that it took,
    on average.
    """
    from apache_beam.runners.worker.statesampler import StateSampler, set_current_tracker

    if hasattr(StateSampler, "sampled_stop"):
        return

    def start(self) -> None:
        set_current_tracker(self)
        self.started = self.unsampled = True

    def stop(self) -> None:
        if not getattr(self, "unsampled", False):  # the first one, which had begun before
            self.sampled_stop()
            return
        set_current_tracker(None)
        self.finished = True

    StateSampler.sampled_stop, StateSampler.start, StateSampler.stop = StateSampler.stop, start, stop
