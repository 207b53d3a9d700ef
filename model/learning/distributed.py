"""Several processes learn one version: rank 0 its ranker, the others its network, at the same time.

    examples ─► rank 0, the leader ─► every call of its learner is told to the others: all of them count alike
                    rank 0       looks, steps of the ranker, tables in closed form
                    the others   steps of the network: each its windows of a step, gradients are summed
                    ◄── the network's weights, after each part of a fine-tuning

Within a part neither needs what the other learns, so two processes make what one makes that draws for both apart
(`TrainingConfig.own_draws`), bit for bit; with more of them gradients are added in another order. Where there is one
process nothing of torch.distributed is imported, and all of this costs a comparison.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch

_PATIENCE = timedelta(days=365)
"""Others wait for a leader that waits for examples; where a process ends, its connections do too."""
_rank, _size = 0, 1
_team: Any = None  # those that learn the network, where they are several


def rank() -> int:
    """The number of this process; 0 leads."""
    return _rank


def size() -> int:
    """So many processes learn one version."""
    return _size


def learns_ranker() -> bool:
    """Whether this process learns the ranker."""
    return not _rank


def learns_network() -> bool:
    """Whether this process learns the network."""
    return _size == 1 or _rank > 0


def member() -> tuple[int, int]:
    """The number of this process among those that learn the network, and how many they are."""
    return max(0, _rank - 1), max(1, _size - 1)


def wanted(environ: Mapping[str, str] = os.environ) -> int:
    """So many processes torchrun has started, 1 without it."""
    return int(environ.get("WORLD_SIZE", "1")) if "RANK" in environ else 1


def join() -> None:
    """Meet the other processes that torchrun has started: gloo between CPUs, nccl between cards."""
    global _rank, _size, _team  # noqa: PLW0603 (one group a process, as torch has it)
    import torch.distributed as dist

    several = torch.cuda.is_available() and torch.cuda.device_count() >= wanted()
    dist.init_process_group("cpu:gloo,cuda:nccl" if several else "gloo", timeout=_PATIENCE)
    _rank, _size = dist.get_rank(), dist.get_world_size()
    _team = dist.new_group(list(range(1, _size)), timeout=_PATIENCE) if _size > 2 else None


def leave() -> None:
    """Part from the other processes."""
    global _rank, _size, _team
    import torch.distributed as dist

    dist.destroy_process_group()
    _rank, _size, _team = 0, 1, None


def local(device: str) -> str:
    """The card of this process, where there are some and none is named."""
    if _size == 1 or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def part(rows: int, number: int, of: int) -> slice:
    """Which of so many rows are those of one of so many parts.

    >>> part(5, 0, 2), part(5, 1, 2)
    (slice(0, 2, None), slice(2, 5, None))
    """
    return slice(rows * number // of, rows * (number + 1) // of)


@torch.no_grad()
def sum_gradients(gradients: Sequence[torch.Tensor]) -> None:
    """Add up, in place, what every process that learns the network has of each gradient."""
    import torch.distributed as dist

    flat = torch.cat([one.flatten() for one in gradients])
    carried = flat if flat.is_cuda and torch.cuda.device_count() >= _size else flat.cpu()
    dist.all_reduce(carried, group=_team)
    for one, summed in zip(gradients, carried.split([one.numel() for one in gradients])):
        one.copy_(summed.view_as(one))


@torch.no_grad()
def take_network(weights: Sequence[torch.Tensor]) -> None:
    """The network's weights, in place, as those have them that learn it."""
    import torch.distributed as dist

    flat = torch.cat([one.flatten().cpu() for one in weights])
    dist.broadcast(flat, src=1)
    for one, learnt in zip(weights, flat.split([one.numel() for one in weights])):
        one.copy_(learnt.view_as(one))


def told(what: Any = None, by: int = 0) -> Any:
    """What one process says, to all."""
    import torch.distributed as dist

    box = [what]
    dist.broadcast_object_list(box, src=by, device=torch.device("cpu"))
    return box[0]
