"""numba's compiler for all compiled loops, importable inside Flink's workers too.

A worker of Flink replaces the built-in `print` by a function of its own, which is not where its module says that it is.
numba looks it up there, and fails.
"""

import sys

_where = sys.modules.get(print.__module__)
if _where is not None and not hasattr(_where, print.__name__):
    setattr(_where, print.__name__, print)

from numba import njit  # noqa: E402, for what is above

__all__ = ["njit"]
