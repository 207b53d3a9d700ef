"""The bytes behind a reference of an item, from below one prefix and from nowhere else.

A folder: links are followed first, and what they lead to must lie below the prefix; only regular files are opened. An
address (http, https): the same server, below the same path, no redirect. Any other address, as s3://: by fsspec.
"""

import os
import stat
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

from model.schema import HeadraceError

WEB = ("http", "https")
WAIT_S, DEADLINE_S = 5.0, 10.0
"""How long a server may be silent, and take in all."""
_CHUNK = 2**16
_SHOWN = 100


class InvalidMedia(HeadraceError):
    """Media cannot be used; the message is the reason."""


def fetch(reference: str, prefix: str, most: int) -> bytes:
    """The bytes of a file or an address.

    Args:
        reference: below the prefix, or all of it with the prefix at its beginning.
        prefix: a folder, or an address.
        most: so many bytes are taken.

    Raises:
        InvalidMedia: with the reason.
    """
    if not scheme(prefix):
        return _of_folder(reference, prefix, most)
    return _of_address(_address(reference, prefix), most)


def scheme(prefix: str) -> str:
    """The scheme of an address; empty for a folder.

    >>> scheme("https://shop/img"), scheme("/srv/img")
    ('https', '')
    """
    return prefix.partition("://")[0].lower() if "://" in prefix else ""


def _shown(reference: str) -> str:
    text = repr(reference)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _bounded(raw: bytes, size: int, most: int) -> bytes:
    if max(size, len(raw)) > most:
        raise InvalidMedia(f"{max(size, len(raw))} bytes or more: at most {most} are taken (media_bytes)")
    if not raw:
        raise InvalidMedia("there is nothing in it")
    return raw


# A folder


def _of_folder(reference: str, prefix: str, most: int) -> bytes:
    try:
        root = Path(prefix).resolve()
        path = (root / reference.removeprefix("file://")).resolve()
        if not path.is_relative_to(root):
            raise InvalidMedia(f"{_shown(reference)} is outside media_prefix")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)  # of a FIFO: no waiting
    except (OSError, ValueError, RuntimeError) as error:  # no such file, NUL, a name too long, links in a circle
        raise InvalidMedia(f"{_shown(reference)}: {getattr(error, 'strerror', None) or error}") from None
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise InvalidMedia(f"{_shown(reference)} is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        return _bounded(b"" if about.st_size > most else file.read(most + 1), about.st_size, most)


# An address


def _address(reference: str, prefix: str) -> str:
    """The whole address, if it is below the prefix."""
    below = prefix.rstrip("/") + "/"
    address = reference if "://" in reference else below + reference.removeprefix("/")
    wanted, given = urlsplit(below), urlsplit(address)
    path = unquote(unquote(given.path)).replace("\\", "/")
    steps = {".", ".."} & set(path.split("/"))
    same = (given.scheme.lower(), given.netloc) == (wanted.scheme.lower(), wanted.netloc)
    if not same or steps or "::" in reference or not given.path.startswith(wanted.path):
        raise InvalidMedia(f"{_shown(reference)} is outside media_prefix")
    return address


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_):  # type: ignore[no-untyped-def]
        return None


def _of_address(address: str, most: int) -> bytes:
    try:
        raw, size = (_of_web if scheme(address) in WEB else _of_store)(address, most)
    except InvalidMedia:
        raise
    except HTTPError as error:
        error.close()
        redirect = ": a redirect, which is not followed" if 300 <= error.code < 400 else ""
        raise InvalidMedia(f"{_shown(address)}: HTTP {error.code}{redirect}") from None
    except Exception as error:  # every protocol has errors of its own
        raise InvalidMedia(f"{_shown(address)}: {str(error) or type(error).__name__}") from None
    return _bounded(raw, size, most)


def _of_web(address: str, most: int) -> tuple[bytes, int]:
    """The first bytes, and how many the server announces."""
    end, parts, read = time.monotonic() + DEADLINE_S, [], 0
    with build_opener(_NoRedirect).open(quote(address, safe="%/:?#[]@!$&'()*+,;=~"), timeout=WAIT_S) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        while size <= most >= read and (part := answer.read1(_CHUNK)):
            if time.monotonic() > end:
                raise InvalidMedia(f"{_shown(address)}: not here after {DEADLINE_S:g} s")
            parts.append(part)
            read += len(part)
    return b"".join(parts), size


def _of_store(address: str, most: int) -> tuple[bytes, int]:
    import fsspec

    files, path = fsspec.core.url_to_fs(address)
    size = int(files.info(path).get("size") or 0)
    if size > most:
        return b"", size
    with files.open(path, "rb") as file:
        return file.read(most + 1), size
