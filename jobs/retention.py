"""Which model versions stay in the registry: a day of learning makes hundreds, and few can be needed again."""

import logging

from jobs.versions import Versions
from model import registry
from model.schema import ModelVersion
from model.versions import is_name
from udfs.loading import limited

REMOVE_S = 60.0
"""What is not removed after this time is tried again with the next version."""

logger = logging.getLogger(__name__)


def unneeded(versions: Versions, keep: int) -> list[ModelVersion]:
    """The versions that can go, in the order of their names.

    Kept are the one that serves with those that served last before it, and the newest whatever became of them, `keep`
    of each.
    """
    removable = {name: one for name, one in versions.known.items() if is_name(name) and one.status != "removed"}
    old = sorted(removable, key=lambda name: (len(name), name))[:-keep]
    return [removable[name] for name in old if not _serves(versions, removable[name].path, keep)]


def remove_unneeded(versions: Versions, folder: str, keep: int) -> None:
    """Say what is no longer needed, and delete it from the registry; what lies elsewhere is left alone.

    It is said first, so that nobody goes back to what is being deleted. Where deleting did not come to an end, it is
    done again with the next version.
    """
    versions.refresh()
    for version in unneeded(versions, keep):
        if registry.is_same(version.path, _home(folder, version)):
            versions.say(version, status="removed")
    removed = {name: _home(folder, one) for name, one in versions.known.items() if _is_removed(one, folder)}
    left = set(_inside(folder)) if removed else set()
    for name, path in removed.items():
        if name in left and not _serves(versions, path) and not remove(path):
            return


def remove(path: str) -> bool:
    """Delete what lies at a path, and return whether that was done; if not, learning goes on without the room."""
    try:
        limited(path, "removed", lambda: registry.remove(path), REMOVE_S)
    except Exception as error:
        logger.error("%s cannot be removed, tried again after the next version: %s", path, error)
        return False
    return True


def _inside(folder: str) -> list[str]:
    try:
        return limited(folder, "listed", lambda: registry.inside(folder), REMOVE_S)
    except Exception as error:
        logger.error("%s cannot be listed, tried again after the next version: %s", folder, error)
        return []


def _is_removed(version: ModelVersion, folder: str) -> bool:
    ours = is_name(version.version) and registry.is_same(version.path, _home(folder, version))
    return ours and version.status == "removed"


def _home(folder: str, version: ModelVersion) -> str:
    """Where a learner writes a version of this name."""
    return f"{folder.rstrip('/')}/{version.version}"


def _serves(versions: Versions, path: str, first: int | None = None) -> bool:
    """Whether it is, or has in it, one of the first versions that serve or stand in."""
    return any(registry.is_within(serving, path) for serving in versions.serving.paths[:first])
