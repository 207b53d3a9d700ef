"""What the network may see, and that the short way gives what the long way gives."""

import copy

import pytest
import torch

from model.learning.adamw import AdamW
from model.scoring.network import EVENT, GAPS, NOTHING, START, Dropout, Network, Sizes, quantise

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


def test_three_tenths_are_dropped_and_the_rest_makes_up_for_it():
    """While it learns, any number of values is dropped one by one; else none is."""
    drop, x = Dropout(), torch.ones(1_001, 101)

    dropped = drop.train()(x)

    assert 0.29 < (dropped == 0).float().mean() < 0.31
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert 0.2 < (dropped == 0).float().mean(0).min() and (dropped == 0).float().mean(0).max() < 0.4
    assert torch.equal(x, drop.eval()(x))


def test_the_steps_are_those_of_adamw():
    """Two steps, worked out by hand from the paper; a row that comes later begins with moments of 0."""
    module, rate, decay = torch.nn.Module(), 0.1, 0.01
    module.table = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = AdamW(module, rate, decay)
    value, mean, square = 2.0, 0.0, 0.0

    for step, slope in enumerate((0.5, -0.25), 1):
        optimizer.step([(module.table * slope).sum()])
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        value -= rate * decay * value + rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)) ** 0.5 + 1e-8)
        assert module.table.item() == pytest.approx(value, abs=1e-6)

    module.table = torch.nn.Parameter(torch.cat((module.table.detach(), torch.tensor([7.0]))))
    optimizer.step([(module.table * torch.tensor([0.0, 1.0])).sum()])
    moved = rate * 0.1 / (1 - 0.9**3) / (0.001 / (1 - 0.999**3)) ** 0.5
    assert module.table[1].item() == pytest.approx(7.0 - rate * decay * 7.0 - moved, abs=1e-5)


@torch.no_grad()
def test_items_in_int8_are_near_to_what_they_were(network):
    """Within half a step of each dimension, of which the largest has 127; again changes nothing more."""
    held = copy.deepcopy(network)
    text, counts = torch.zeros(4, SIZES.width), torch.full((4,), 1e6)
    quantise(held)
    quantise(held)
    was, now = (one.items(text, one.ids, counts) for one in (network, held))
    half_a_step = network.ids.abs().amax(0) / 254

    assert torch.int8 == held.ids.dtype
    assert ((was - now).abs() <= half_a_step * 1.001).all()
    assert not torch.equal(was, now)


@torch.no_grad()
@pytest.mark.parametrize("items", [0, 3])
def test_items_that_nothing_was_learnt_of_stay_zeros_in_int8(items):
    """As before there is a version, and in a catalogue without items."""
    network = Network(SIZES, items)
    quantise(network)

    assert torch.equal(torch.zeros(items, 16), network.items(torch.zeros(items, 16), network.ids, torch.ones(items)))
