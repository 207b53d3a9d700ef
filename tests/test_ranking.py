"""How the ranker learns from a sample of the items."""

import numpy as np
import torch

from model.learning.train_ranker import offsets

ITEMS, CANDIDATES, DRAWN, EXAMPLES = 50, 12, 8, 20_000


def test_what_is_drawn_stands_for_all_that_could_be_on_a_list():
    """Of 50 items 12 are candidates, one of which came and two are excluded; 4 others too: 44 could be listed."""
    random = np.random.default_rng(0)
    excluded = torch.tensor([3, 4, 20, 21, 22, 23])
    places = torch.arange(CANDIDATES).expand(EXAMPLES, -1)
    candidates = places.masked_fill(torch.isin(places, excluded), -1)
    target = torch.full((EXAMPLES, 1), 7)
    drawn, uniform = (torch.from_numpy(random.integers(0, among, (EXAMPLES, DRAWN))) for among in (CANDIDATES, ITEMS))
    rows = torch.cat((target, drawn, uniform), 1)
    weights = offsets(target, candidates, rows, ~torch.isin(rows, excluded), ITEMS).exp()

    assert (1.0 == weights[:, 0]).all()
    of_candidates, of_all = (part.sum(1).mean().item() for part in weights[:, 1:].split(DRAWN, 1))
    assert abs(of_candidates - 9) < 0.1 and abs(of_all - 34) < 0.3
    assert 0.0 == weights[:, 1 : 1 + DRAWN][(drawn == 7) | (drawn == 3) | (drawn == 4)].max()
    assert 0.0 == weights[:, 1 + DRAWN :][(uniform < CANDIDATES) | (uniform == 20)].max()


def test_what_came_counts_once_though_it_is_no_candidate():
    target, candidates, rows = (torch.tensor([rows]) for rows in ([9], [0, 1], [9, 0, 0, 9, 5]))

    assert [[1.0, 1.0, 1.0, 0.0, 5.0]] == offsets(
        target, candidates, rows, torch.ones(1, 5, dtype=torch.bool), 10
    ).exp().round(decimals=3).tolist()
