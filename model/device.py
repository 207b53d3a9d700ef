"""Where torch runs: device, dtype and batch size follow what is there."""

import torch


def choose(wanted: str = "auto") -> torch.device:
    """`auto` is the first GPU, or the CPU where there is none.

    >>> choose("cpu")
    device(type='cpu')
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


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
