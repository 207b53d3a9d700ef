"""Where torch runs: device, dtype, batch size and threads follow what is there."""

import torch
from threadpoolctl import threadpool_limits


def choose(wanted: str = "auto") -> torch.device:
    """`auto` is the first GPU, or the CPU where there is none.

    >>> choose("cpu")
    device(type='cpu')
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def missing(wanted: str) -> str:
    """Why torch cannot run there, as `cuda:1` where there is one GPU; empty where it can.

    >>> missing("cpu"), missing("auto"), missing("cuda:999")[:11]
    ('', '', 'torch finds')
    """
    kind, _, number = wanted.partition(":")
    there = torch.cuda.device_count()
    if kind != "cuda" or int(number or 0) < there:
        return ""
    return f"torch finds {f'{there} GPUs, from cuda:0 on' if there else 'no GPU'} here; auto or cpu is wanted"


def dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """`auto` is half precision on a GPU, single on a CPU; what is run in int8 is single before.

    >>> dtype(choose("cpu"), "bfloat16"), dtype(choose("cpu"), "int8")
    (torch.bfloat16, torch.float32)
    """
    if precision == "auto":
        precision = "float16" if device.type == "cuda" else "float32"
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision, torch.float32)


def batch_size(device: torch.device) -> int:
    """How many texts the language model takes at once."""
    return 512 if device.type == "cuda" else 32


def use_threads(threads: int) -> None:
    """Let torch and faiss run in so many threads, and the BLAS of numpy and of faiss in one.

    Our products in numpy are small, and a thread of OpenBLAS that waits for the next one spins: measured in a scoring
    worker, a core and more than half of another were gone with it.
    """
    import faiss  # with its libraries, which are told here

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    threadpool_limits(1, user_api="blas")
