"""The sampled softmax that the network learns by, held against the exact one over all items: value and gradient."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.learning.config import TrainingConfig
from model.learning.train_network import NetworkTrainer, TrainingItems, Windows, _worn_out, sampled_softmax_loss
from model.score import Scorer
from model.scoring.network import EVENT, NOTHING, START, UNKNOWN, Sizes
from tests.test_score import DIM, make_catalogue

ITEMS, USERS, T = 12, 24, 6
DRAWS = 80
"""Of negatives, with one seed each; losses and gradients are means over them."""
SKEWED = torch.tensor([0.5, 0.2, 0.1] + [0.2 / 9] * 9)
"""How often each item is chosen."""
THE_SAME = {
    "value": pytest.approx(0, abs=0.01),
    "cosine": pytest.approx(1, abs=0.0005),
    "length": pytest.approx(1, abs=0.01),
}
"""As `compare` gives them: the correction left out or changed, or a target among its own negatives, and they differ."""


def compare(sampled: list[torch.Tensor], exact: torch.Tensor, parameters: list[torch.Tensor]) -> dict[str, float]:
    """How far the mean loss is from the exact one, the cosine of the two gradients, and the ratio of their lengths."""
    mean = torch.stack(sampled).mean()
    ours, theirs = (
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]) for loss in (mean, exact)
    )
    cosine = F.cosine_similarity(ours, theirs, dim=0).item()
    return {"value": (mean - exact).item(), "cosine": cosine, "length": (ours.norm() / theirs.norm()).item()}


def test_from_a_few_negatives_comes_the_loss_over_all_items():
    """Negatives drawn with any probabilities, here as skewed as the targets, whose own rows are among them."""
    draw = torch.Generator().manual_seed(0)
    hidden, items, bias = (
        torch.randn(*shape, generator=draw).requires_grad_() for shape in ((USERS, 8), (ITEMS, 8), (ITEMS,))
    )
    target = torch.multinomial(SKEWED, USERS, replacement=True, generator=draw)
    S = 1_024
    sampled = []
    for _ in range(DRAWS):
        negatives = torch.multinomial(SKEWED, S, replacement=True, generator=draw)
        sampled.append(sampled_softmax_loss(hidden, items, bias, target, negatives, (S * SKEWED[negatives]).log()))
    exact = F.cross_entropy(hidden @ items.T + bias, target)

    assert THE_SAME == compare(sampled, exact, [hidden, items, bias])


def test_a_target_is_not_held_against_itself():
    """Where all negatives are the target there is nothing to choose from, and nothing to learn."""
    hidden, items, bias = torch.ones(1, 2), torch.ones(3, 2), torch.zeros(3)
    loss = sampled_softmax_loss(hidden, items, bias, torch.tensor([1]), torch.tensor([1, 1]), torch.zeros(2))

    assert 0 == loss.item()


def test_a_negative_stands_for_the_items_that_were_not_drawn():
    """By hand, scores 0: an item expected four times that came twice counts half, one expected half a time two."""
    hidden, items, bias = torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(3)
    log_q = torch.tensor([4.0, 4.0, 0.5]).log()
    loss = sampled_softmax_loss(hidden, items, bias, torch.tensor([0]), torch.tensor([1, 1, 2]), log_q)

    assert loss.item() == pytest.approx(np.log(1 + 1 / 4 + 1 / 4 + 2))


@pytest.fixture(scope="module")
def world() -> tuple[NetworkTrainer, TrainingItems]:
    """A trainer with a network of random weights, and the items as it sees them; every fifth has no ids of its own."""
    trained = torch.arange(ITEMS)
    trained[::5] = -1
    scorer, config = Scorer(Sizes(DIM), ITEMS), TrainingConfig()
    torch.manual_seed(0)
    for parameter in scorer.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    trainer = NetworkTrainer(scorer, config, np.random.default_rng(0))
    trainer._network.eval()  # nothing is dropped: the losses differ by their negatives alone
    chosen = 1_000 * SKEWED
    return trainer, TrainingItems(make_catalogue(ITEMS).vectors, trained, chosen, chosen.log())


def windows() -> Windows:
    """Histories of users who choose as all do; a user has no event before the start, and some events are no targets."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.multinomial(SKEWED, USERS * (T + 1), replacement=True, generator=draw).view(USERS, T + 1)
    kind = torch.full((USERS, T), EVENT)
    kind[::3, 0] = START
    targets = rows[:, 1:].masked_fill(torch.rand(USERS, T, generator=draw) < 0.2, -1)
    gaps, actions = torch.full((USERS, T), UNKNOWN), torch.zeros(USERS, T, dtype=torch.int64)
    return Windows(rows[:, :-1], gaps, actions, kind, targets)


def exact_loss(trainer: NetworkTrainer, items: TrainingItems) -> torch.Tensor:
    """The cross-entropy of the softmax over all items, written down as it is."""
    rows, gaps, actions, kind, targets, _ = windows()
    network, has = trainer._network, (items.trained_row >= 0)[:, None]
    ids = torch.where(has, network.ids[items.trained_row.clamp(min=0)], 0.0)
    bias = torch.where(has[:, 0], network.bias[items.trained_row.clamp(min=0)], 0.0)
    vectors = network.items(network.project(torch.from_numpy(items.vectors)), ids, items.chosen)
    hidden = network(vectors[rows], gaps, actions, kind)
    scores = hidden @ vectors.T + bias + network.popularity * items.log_popularity
    return F.cross_entropy(scores[targets >= 0], targets[targets >= 0])


def test_the_networks_loss_is_that_of_the_exact_softmax(world):
    """On average over the negatives that it draws, half of them as skewed as the targets: in value and in gradient."""
    trainer, items = world
    sampled = []
    for seed in range(DRAWS):
        trainer._random = np.random.default_rng(seed)
        sampled.append(next(trainer._losses(items, windows())))

    assert THE_SAME == compare(sampled, exact_loss(trainer, items), list(trainer._network.parameters()))


def test_a_single_draw_is_near_the_exact_softmax(world):
    """What one step learns from: no draw is far off."""
    trainer, items = world
    exact = exact_loss(trainer, items).item()
    for seed in range(20):
        trainer._random = np.random.default_rng(seed)
        assert next(trainer._losses(items, windows())).item() == pytest.approx(exact, rel=0.1)


def test_an_item_taken_again_and_again_is_no_target():
    """The first three times teach, whatever stands between them; empty places and the start count as nothing."""
    rows = np.array([[0, 0, 5, 5, 7, 5, 5, 7, 5]])
    kind = np.array([[NOTHING, START, *[EVENT] * 7]])

    assert [[False] * 6 + [True, False, True]] == _worn_out(rows, kind).tolist()
