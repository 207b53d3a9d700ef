"""Places: in which order items come where several come within seconds, learnt from pairs of which one came before the other.

An item's place is what its text and the time of its first choice tell of it, and what only its own pairs tell: an item with
few pairs stands where others like it do.

Source: Bradley and Terry, Rank analysis of incomplete block designs, 1952: the log odds that one of two comes second are the
difference of their places.
"""

import torch
import torch.nn.functional as F

_ROUNDS = 20  # from the places of the last call on
_RIDGE = 0.01  # pairs with an item where the hints say: few pairs prove little
_HINT_RIDGE = 0.03


class Places:
    """Fits the places of items, and goes on from them with the next call."""

    def __init__(self) -> None:
        self._own = self._told = torch.zeros(0)

    @torch.enable_grad()
    def fit(self, before: torch.Tensor, after: torch.Tensor, amounts: torch.Tensor, hints: torch.Tensor) -> torch.Tensor:
        """The places that explain best what came before what.

        Shape: before, after, amounts (p,): so often did one item come before the other; hints (m, h) what is known of each
        item -> (m,).
        """
        (items, known), told = hints.shape, self._told
        own = F.pad(self._own, (0, items - len(self._own))).requires_grad_()
        told = F.pad(told, (0, known - len(told))).requires_grad_()
        optimizer = torch.optim.LBFGS([own, told], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            places = own + hints @ told
            ridges = _RIDGE * own.square().sum() + _HINT_RIDGE * told.square().sum()
            loss = (amounts * F.softplus(places[before] - places[after])).sum() + ridges / 2
            loss.backward()
            return loss

        optimizer.step(loss)
        self._own, self._told = own.detach(), told.detach()
        return self._own + hints @ self._told


def hints(vectors: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """What may tell of an item's place: its text, and when it was chosen first, beside the other items.

    Shape: vectors (m, dim); first (m,), -1 for never -> (m, dim + 3).
    """
    chosen = first >= 0
    rank = torch.zeros(len(first))
    rank[chosen] = first[chosen].argsort().argsort() / max(1, int(chosen.sum()))
    numbers = torch.stack((rank, rank.square()), 1)
    numbers[chosen] -= numbers[chosen].mean(0)
    return torch.cat((vectors - vectors.mean(0), numbers, (~chosen)[:, None].float()), 1)
