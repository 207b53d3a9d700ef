"""Model versions on disk: safetensors beside JSON, checksummed, put in place by one rename.

A version is a folder `<registry>/<version>/` with `model.safetensors` and `model.json`; the JSON is written last and
names the checksum of the tensors, so a version that is half there cannot be read.
"""

from hashlib import sha256
from typing import Any

import fsspec
import msgspec
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from safetensors.torch import load, save

from model.schema import VersionError


def write(registry: str, version: str, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> str:
    """Write a version and return its path.

    Args:
        about: JSON values that describe the version: configuration, encoder version, parent, metrics.
    """
    path = f"{registry.rstrip('/')}/{version}"
    files, root = fsspec.core.url_to_fs(path)
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    files.makedirs(root, exist_ok=True)
    about = about | {"version": version, "sha256": sha256(data).hexdigest()}
    for name, content in (("model.safetensors", data), ("model.json", msgspec.json.format(msgspec.json.encode(about)))):
        files.pipe_file(f"{root}/{name}.part", content)
        files.mv(f"{root}/{name}.part", f"{root}/{name}")
    return path


def check_inside(path: str, registry: str) -> None:
    """See that a version lies in the registry, not below a folder of it: a path comes from a topic, and may name any
    file or address, or a version of another `topic_prefix`.

    >>> check_inside("/models/v1", "file:///models/")
    >>> check_inside("zip://m::/etc/passwd", "/models")
    Traceback (most recent call last):
    ...
    model.schema.VersionError: zip://m::/etc/passwd: lies outside the registry /models; only versions in it are loaded

    Raises:
        VersionError: it lies elsewhere.
    """
    root = _plain(registry) + "/"
    below = _plain(path).removeprefix(root) if _plain(path).startswith(root) else ""
    if "::" in below or "/" in below or below in ("", ".", ".."):
        raise VersionError(f"{path}: lies outside the registry {registry}; only versions in it are loaded")


def is_same(path: str, other: str) -> bool:
    """Whether both are one version.

    >>> is_same("/models/v1/", "file:///models/v1"), is_same("/models/v1", "/models/v10")
    (True, False)
    """
    return _plain(path) == _plain(other)


def is_within(path: str, folder: str) -> bool:
    """Whether a path is that of the folder's version, or of something in it.

    >>> is_within("/models/v1/more", "/models/v1"), is_within("/models/v10", "/models/v1")
    (True, False)
    """
    return f"{_plain(path)}/".startswith(f"{_plain(folder)}/")


def _plain(path: str) -> str:
    """An address in the form in which two of them can be compared: a local one as an absolute path."""
    local = "::" not in path and fsspec.core.split_protocol(path)[0] in (None, "file", "local")
    return (LocalFileSystem._strip_protocol(path) if local else path).rstrip("/")


def remove(path: str) -> None:
    """Delete a version; one that is gone already is no error."""
    files, root = fsspec.core.url_to_fs(path)
    if files.exists(root):
        files.rm(root, recursive=True)


def inside(path: str) -> list[str]:
    """The names of what lies below a version, in their order; nothing where there is none."""
    files, root = fsspec.core.url_to_fs(path)
    return (
        sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in files.ls(root, detail=False))
        if files.exists(root)
        else []
    )


def read(path: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a version: its tensors and what describes them.

    Raises:
        VersionError: it is missing, cut short or changed since it was written.
    """
    try:
        files, root = fsspec.core.url_to_fs(path)
        about = msgspec.json.decode(files.cat_file(f"{root}/model.json"))
        data = files.cat_file(f"{root}/model.safetensors")
    except FileNotFoundError as error:
        raise VersionError(f"{path}: there is no such version ({error}); promote one that is there") from None
    except Exception as error:  # there are many file systems, and a path from a topic may name any of them
        raise VersionError(f"{path}: cannot be read: {error}") from None
    if not isinstance(about, dict) or sha256(data).hexdigest() != about.get("sha256"):
        raise VersionError(f"{path}: model.safetensors is not the file that model.json was written for; write it again")
    try:
        return load(data), about
    except SafetensorError as error:
        raise VersionError(f"{path}: model.safetensors cannot be read: {error}") from None
