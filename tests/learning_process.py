"""One of the processes that torchrun starts in test_scale.py: learns a small world, and writes what was learnt."""

import sys
from collections.abc import Iterator

import torch

from model.catalogue import Catalogue
from model.finetune import Learner
from model.learning import distributed, leader
from model.learning.config import TrainingConfig
from model.schema import Example, ItemVector
from model.score import Scorer
from model.statistics import ItemStatistics
from tests.test_finetune import make_examples
from tests.test_score import make_catalogue

CONFIG = TrainingConfig(own_draws=True, chunk=20, warm_up_epochs=4.0)


def world() -> tuple[Catalogue, list[Example]]:
    catalogue = make_catalogue()
    return catalogue, sorted(make_examples(catalogue, range(80)), key=lambda one: one.event_time_ms)


def learn(learner: Learner, catalogue: Catalogue, examples: list[Example]) -> Scorer:
    """All that a learner is told in its life: counting, another version to go on from, a user who is forgotten, items
    that come and go.
    """
    learner.add(examples[:200])
    learner.fine_tune()
    learner.add(examples[200:260])
    learner.count()
    catalogue.apply(changes())
    learner.add([Example("u3", "f", 9_000, forget=True), *examples[260:500]])
    scorer = learner.fine_tune()
    learner.resume(scorer)
    learner.add(examples[500:])
    return learner.fine_tune()


def changes() -> Iterator[ItemVector]:
    """An item that is new, and one that has another text."""
    vectors = make_catalogue(30).vectors.astype("<f2")
    yield ItemVector("new", "enc-1", vectors[3].tobytes())
    yield ItemVector("i4", "enc-1", vectors[6].tobytes())


def main(out: str) -> None:
    torch.set_num_threads(1)
    distributed.join()
    if distributed.learns_ranker():
        catalogue, examples = world()
        learner = leader.begin(catalogue, ItemStatistics(), config=CONFIG)
        scorer = learn(learner, catalogue, examples)
        tensors, about = learner.training()
        catalogue.apply([ItemVector("i1", "enc-1", deleted=True)])
        learner.count()  # the catalogue is told anew
        learner.leave()
        torch.save({"scorer": scorer.state_dict(), "training": tensors, "random": about["random"]}, out)
    else:
        leader.follow()
    distributed.leave()


if __name__ == "__main__":
    main(sys.argv[1])
