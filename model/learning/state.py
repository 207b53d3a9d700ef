"""What a learner needs to go on as if it had not been killed: optimisers, examples kept, random numbers.

<folder>/training-000017/   one version of the registry, put in place by one rename; the newest whole one is read

A scorer holds what lists need. Beside it, training has weights before they were averaged, the moments of Adam, the
ranker's examples and the states of the generators. Whoever wants to go on alone, without a log of what was counted,
writes scorer and statistics with it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from model import registry, snapshot
from model.bounds import StatisticsConfig
from model.finetune import Learner
from model.schema import HeadraceError, StateError
from model.score import Scorer
from model.scoring.network import Sizes
from model.statistics import ItemStatistics

LAYOUT = 1
KEPT = 2
"""So many are kept: one may be half there."""
_NAME = re.compile("training-([0-9]{6,18})")
_SCORER, _STATISTICS = "scorer.", "statistics."


class Training(NamedTuple):
    """What was read: `about` as it was given to `write`."""

    tensors: dict[str, torch.Tensor]
    about: dict[str, Any]


def write(folder: str, learner: Learner, about: Mapping[str, Any], whole: bool = False) -> str:
    """Write the state of a learner that has just fine-tuned, delete all but the newest ones, and return its path.

    Args:
        about: what else has to be known of it, JSON values.
        whole: with its scorer and its statistics.
    """
    tensors, numbers = learner.training()
    if whole:
        scorer = learner.scorer
        tensors |= {f"{_SCORER}{name}": tensor for name, tensor in scorer.state_dict().items()}
        counted = learner.statistics.snapshot().items()
        tensors |= {f"{_STATISTICS}{name}": torch.from_numpy(snapshot.plain(column)) for name, column in counted}
    known = _numbers(folder)
    said = {"layout": LAYOUT, "encoder_version": learner.catalogue.encoder_version, "learner": json.dumps(numbers)}
    path = registry.write(folder, _name(max(known, default=0) + 1), tensors, {**about, **said})
    for number in known[: max(0, len(known) + 1 - KEPT)]:
        registry.remove(f"{folder.rstrip('/')}/{_name(number)}")
    return path


def newest(folder: str) -> tuple[Training | None, list[str]]:
    """The newest state that can be read, and why newer ones cannot be."""
    refused: list[str] = []
    for number in reversed(_numbers(folder)):
        try:
            tensors, about = registry.read(f"{folder.rstrip('/')}/{_name(number)}")
            if about.get("layout") != LAYOUT:
                raise StateError(f"layout {about.get('layout')}, {LAYOUT} is wanted")
            return Training(tensors, about), refused
        except HeadraceError as error:
            refused.append(f"{_name(number)}: {error}")
    return None, refused


def check(training: Training, about: Mapping[str, Any], folder: str) -> None:
    """See that a state was written with the same words.

    Raises:
        StateError: it was not.
    """
    for name, wanted in about.items():
        if (have := training.about.get(name)) != wanted:
            raise StateError(f"{folder}: the state has {name} {have}, {wanted} is wanted: give another folder")


def restore(learner: Learner, training: Training) -> None:
    """Let a learner go on with a state, after it took the scorer that belongs to it.

    Raises:
        StateError: it is of another encoder, or does not fit the scorer; the learner goes on from the scorer alone.
    """
    encoder = training.about.get("encoder_version")
    if encoder != learner.catalogue.encoder_version:
        raise StateError(f"it was learnt with encoder {encoder}, items have {learner.catalogue.encoder_version}")
    try:
        learner.restore(training.tensors, json.loads(training.about["learner"]))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise StateError(f"it does not fit: {type(error).__name__}: {error}") from None


def remove(folder: str) -> None:
    """Delete every state: whoever is forgotten is in none of them."""
    for number in _numbers(folder):
        registry.remove(f"{folder.rstrip('/')}/{_name(number)}")


def scorer_of(training: Training) -> Scorer:
    """The scorer of a whole state."""
    tensors = _below(training.tensors, _SCORER)
    encoder, dim = str(training.about["encoder_version"]), tensors["network.project.weight"].shape[1]
    scorer = Scorer(Sizes(dim), len(tensors["keys"]), encoder)
    for name in tensors.keys() & dict(scorer.named_buffers(recurse=False)).keys():
        scorer.register_buffer(name, tensors[name])
    scorer.load_state_dict(tensors)
    return scorer


def statistics_of(training: Training, config: StatisticsConfig = StatisticsConfig()) -> ItemStatistics:
    """The statistics of a whole state."""
    columns = _below(training.tensors, _STATISTICS)
    return ItemStatistics.restore(
        {name: snapshot.opened(name, column.numpy()) for name, column in columns.items()}, config
    )


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _numbers(folder: str) -> list[int]:
    found = (_NAME.fullmatch(name) for name in registry.inside(folder))
    return sorted(int(match[1]) for match in found if match)


def _name(number: int) -> str:
    return f"training-{number:06d}"
