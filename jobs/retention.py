"""Which model versions stay in the registry: a day of learning makes hundreds, and few can be needed again."""

import logging

from jobs.versions import Versions
from model import registry
from model.schema import ModelVersion
from model.versions import is_name, trained_path

logger = logging.getLogger(__name__)


def unneeded(versions: Versions, keep: int) -> list[ModelVersion]:
    """The versions that can go, in the order of their names.

    Kept are the one that serves with those that served last before it, and the newest whatever became of them, `keep`
    of each.
    """
    removable = {name: one for name, one in versions.known.items() if is_name(name) and one.status != "removed"}
    served = {trained_path(path) for path in versions.serving.paths[:keep]}
    old = sorted(removable, key=lambda name: (len(name), name))[:-keep]
    return [removable[name] for name in old if trained_path(removable[name].path) not in served]


def remove_unneeded(versions: Versions, folder: str, keep: int) -> None:
    """Delete what can go from the registry, and say so; what lies elsewhere is left alone.

    A version is said to be removed after it is: a learner that ends in between does it again.
    """
    for version in unneeded(versions, keep):
        path = f"{folder.rstrip('/')}/{version.version}"
        if trained_path(version.path) != path:
            continue
        try:
            registry.remove(path)
        except Exception as error:  # learning goes on without room as long as it can
            logger.error("%s cannot be removed, tried again after the next version: %s", path, error)
            continue
        versions.say(version, status="removed")
