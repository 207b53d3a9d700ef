"""Adam with decoupled weight decay, for tables that grow: the kernel of torch.optim, which itself takes 5 s to import.

Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization (AdamW), 2019, arXiv:1711.05101.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from model.learning import distributed


def clip(gradients: list[torch.Tensor], most: float) -> None:
    """Scale gradients, in place, so that their norm is `most` where it is more: as torch.nn.utils does, which looks up
    devices and walks through the module at every step.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))


class AdamW:
    """Steps down the gradient of a module's loss; a table of the module may get more rows on the way.

    Args:
        lr: may be changed between two steps.
        weight_decay: towards 0.
        shared: other processes have parts of the loss too.
    """

    def __init__(self, module: nn.Module, lr: float, weight_decay: float = 0.0, shared: bool = False) -> None:
        self.module, self.lr, self.weight_decay, self.shared = module, lr, weight_decay, shared
        self._moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._steps = torch.zeros((), device=next(module.parameters()).device)

    @torch.no_grad()
    def step(self, losses: Iterable[torch.Tensor], most: float = 1.0) -> None:
        """Take one step down the sum of the losses, its gradient clipped to norm `most`.

        Args:
            losses: this process's parts, made one after the other, so that one at a time is in memory.
        """
        named = list(self.module.named_parameters())
        for _, parameter in named:
            parameter.grad = None
        with torch.enable_grad():
            for loss in losses:
                loss.backward()
        if self.shared:
            self._sum_gradients()
        moved = [(name, parameter) for name, parameter in named if parameter.grad is not None]
        clip([parameter.grad for _, parameter in moved if parameter.grad is not None], most)
        means, squares = zip(*(self._moments_of(name, parameter) for name, parameter in moved))
        parameters, gradients = zip(*((parameter, parameter.grad) for _, parameter in moved))
        steps = [self._steps.add_(1)] * len(moved)
        torch._fused_adamw_(
            parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=self.lr,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=self.weight_decay,
            amsgrad=False,
            maximize=False,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Weights, moments and the number of steps, by name."""
        kept = {"steps": self._steps} | {f"weights.{name}": one for name, one in self.module.state_dict().items()}
        for name, (mean, square) in self._moments.items():
            kept |= {f"mean.{name}": mean, f"square.{name}": square}
        return {name: one.detach().cpu().clone() for name, one in kept.items()}

    @torch.no_grad()
    def restore(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Go on with what `state` gave of a module of this shape, which may have had other rows in its tables.

        Raises:
            KeyError, ValueError: it was of another shape.
        """
        device, now = self._steps.device, self.module.state_dict()
        kept = {name: one.to(device) for name, one in kept.items()}
        weights = {name: kept[f"weights.{name}"] for name in now}
        odd = [name for name, one in now.items() if one.shape[1:] != weights[name].shape[1:]]
        if odd:
            raise ValueError(f"{', '.join(odd)} are of another shape")
        for name, one in list(self.module.named_parameters()):
            if one.shape != weights[name].shape:  # a table
                setattr(self.module, name, nn.Parameter(weights[name].clone()))
        self.module.load_state_dict(weights)
        learnt = [name for name, _ in self.module.named_parameters() if f"mean.{name}" in kept]
        self._moments = {name: (kept[f"mean.{name}"], kept[f"square.{name}"]) for name in learnt}
        self._steps.copy_(kept["steps"])

    def _sum_gradients(self) -> None:
        """With those of the other processes; a parameter that no part of this one's loss reads has none here."""
        parameters = list(self.module.parameters())
        there = torch.tensor([float(one.grad is not None) for one in parameters], device=self._steps.device)
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        distributed.sum_gradients([*gradients, there])
        for parameter, gradient, count in zip(parameters, gradients, there.tolist()):
            parameter.grad = gradient if count else None

    def _moments_of(self, name: str, parameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, square = self._moments.get(name) or (torch.zeros_like(parameter), torch.zeros_like(parameter))
        more = len(parameter) - len(mean) if parameter.dim() else 0
        if more > 0:
            rows = parameter.new_zeros(more, *parameter.shape[1:])
            mean, square = torch.cat((mean, rows)), torch.cat((square, rows))
        self._moments[name] = mean, square
        return mean, square
