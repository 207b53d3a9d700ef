"""What the network may see, and that the short way gives what the long way gives."""

import pytest
import torch

from model.network import EVENT, GAPS, NOTHING, START, Network, Sizes

SIZES = Sizes(dim=8, width=16, last_n=6)
B, T = 3, 6


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    network = Network(SIZES, 4).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def inputs() -> tuple[torch.Tensor, ...]:
    """Random histories: nothing, the start, then events."""
    draw = torch.Generator().manual_seed(1)
    kind = torch.tensor([[EVENT] * T, [NOTHING] * 3 + [START] + [EVENT] * 2, [NOTHING] * 5 + [START]])
    gaps = torch.randint(GAPS, (B, T), generator=draw)
    return torch.randn(B, T, SIZES.width, generator=draw), gaps, torch.zeros(B, T, dtype=torch.int64), kind


@torch.no_grad()
def test_the_newest_position_alone_is_what_it_is_among_all(network):
    """Scoring needs one vector a user; the blocks compute no other for it."""
    every, newest = network(*inputs()), network(*inputs(), newest=True)

    assert (B, 1, SIZES.width) == newest.shape
    assert torch.allclose(every[:, -1:], newest, atol=1e-5)


@torch.no_grad()
def test_a_position_sees_no_later_one_and_nothing_where_there_is_nothing(network):
    """A change of the last event, or of what stands in an empty place, changes nothing before or after it."""
    tokens, *rest = inputs()
    later, empty = tokens.clone(), tokens.clone()
    later[:, -1], empty[1, :3] = 9.0, 9.0

    assert torch.allclose(network(tokens, *rest)[:, :-1], network(later, *rest)[:, :-1], atol=1e-5)
    assert torch.allclose(network(tokens, *rest)[1, 3:], network(empty, *rest)[1, 3:], atol=1e-5)
