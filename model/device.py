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


def dtype(device: torch.device) -> torch.dtype:
    """Half precision on a GPU, single on a CPU."""
    return torch.float16 if device.type == "cuda" else torch.float32


def batch_size(device: torch.device) -> int:
    """How many texts the language model takes at once."""
    return 512 if device.type == "cuda" else 32
