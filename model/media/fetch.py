"""The bytes behind a reference of an item, from below one prefix and from nowhere else.

A folder: links are followed first, and what they lead to must lie below the prefix; only regular files are opened. An
address (http, https): the same server, below the same path, no redirect. Any other address, as s3://: by fsspec.

Name servers, TLS, headers and stores know no common limit of time. So each fetch is in a daemon thread of its own, and
nobody waits for it longer than `DEADLINE_S`; then its connection is cut.
"""

import os
import socket
import stat
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from threading import BoundedSemaphore, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from model.schema import HeadraceError, brief

WEB = ("http", "https")
WAIT_S, DEADLINE_S = 5.0, 10.0
"""How long a server may be silent, and take in all."""
MOST_FETCHES = 64
"""Of this process at once, those included that hang and that nobody waits for any more."""
_CHUNK = 2**16
_SHOWN = 100
_FREE = BoundedSemaphore(MOST_FETCHES)


class InvalidMedia(HeadraceError):
    """Media cannot be used; the message is the reason."""


class _Lines:
    """The connections of a fetch: who cuts them ends what waits at them, in whatever thread."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._cut = False

    def add(self, line: socket.socket) -> None:
        self._sockets.append(line.dup())
        if self._cut:
            self.cut()

    def cut(self) -> None:
        self._cut = True
        for line in self._sockets:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for line in self._sockets:
            line.close()


def fetch(reference: str, prefix: str, most: int, wait_s: float = DEADLINE_S) -> bytes:
    """The bytes of a file or an address.

    Args:
        reference: below the prefix, or all of it with the prefix at its beginning.
        prefix: a folder, or an address.
        most: so many bytes are taken.
        wait_s: what takes longer, from the first question to a name server to the last byte, is given up.

    Raises:
        InvalidMedia: with the reason.
    """
    if scheme(prefix):
        read = partial(_of_address, _address(reference, prefix), most)
    else:
        read = partial(_of_folder, reference, prefix, most)
    return _waited_for(read, shown(reference), wait_s)


def _waited_for(read: Callable[[_Lines], bytes], name: str, wait_s: float) -> bytes:
    end = time.monotonic() + wait_s
    if not _FREE.acquire(timeout=max(0.0, wait_s)):
        raise InvalidMedia(f"{name}: not fetched: {MOST_FETCHES} others hang; send the item again")
    answer, lines = Future[bytes](), _Lines()

    def run() -> None:
        try:
            answer.set_result(read(lines))
        except BaseException as error:
            answer.set_exception(error)
        finally:
            lines.close()
            _FREE.release()

    try:
        Thread(target=run, name="fetch-media", daemon=True).start()
    except RuntimeError as error:  # no more threads
        _FREE.release()
        raise InvalidMedia(f"{name}: not fetched: {error}; send the item again") from None
    try:
        return answer.result(max(0.0, end - time.monotonic()))
    except TimeoutError:
        lines.cut()
        raise InvalidMedia(f"{name}: not here after {wait_s:.3g} s; send the item again") from None


def scheme(prefix: str) -> str:
    """The scheme of an address; empty for a folder.

    >>> scheme("https://shop/img"), scheme("/srv/img")
    ('https', '')
    """
    return prefix.partition("://")[0].lower() if "://" in prefix else ""


def shown(reference: str) -> str:
    """The beginning of a reference, for a reason."""
    text = repr(reference)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _bounded(raw: bytes, size: int, most: int) -> bytes:
    if max(size, len(raw)) > most:
        raise InvalidMedia(f"{max(size, len(raw))} bytes or more: at most {most} are taken (media_bytes)")
    if not raw:
        raise InvalidMedia("there is nothing in it")
    return raw


# A folder


def _of_folder(reference: str, prefix: str, most: int, _: _Lines) -> bytes:
    try:
        root = Path(prefix).resolve()
        path = (root / reference.removeprefix("file://")).resolve()
        if not path.is_relative_to(root):
            raise InvalidMedia(f"{shown(reference)} is outside media_prefix")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)  # of a FIFO: no waiting
    except (OSError, ValueError, RuntimeError) as error:  # no such file, NUL, a name too long, links in a circle
        raise InvalidMedia(f"{shown(reference)}: {getattr(error, 'strerror', None) or error}") from None
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise InvalidMedia(f"{shown(reference)} is no regular file")
    try:
        with os.fdopen(descriptor, "rb") as file:
            raw = b"" if about.st_size > most else file.read(most + 1)
    except OSError as error:  # of the disk
        raise InvalidMedia(f"{shown(reference)}: {error.strerror}") from None
    return _bounded(raw, about.st_size, most)


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
        raise InvalidMedia(f"{shown(reference)} is outside media_prefix")
    return address


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_):  # type: ignore[no-untyped-def]
        return None


class _Line(HTTPConnection):
    """A connection that can be cut."""

    lines: _Lines

    def connect(self) -> None:
        super().connect()
        self.lines.add(self.sock)


class _SecureLine(HTTPSConnection, _Line):
    """One with TLS: cut before the handshake too, for `HTTPSConnection` connects as a `_Line` first."""


class _Open(HTTPHandler, HTTPSHandler):
    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._line, _Line), request)

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._line, _SecureLine), request)

    def _line(self, kind: type[_Line], *given: Any, **more: Any) -> _Line:
        line = kind(*given, **more)
        line.lines = self._lines
        return line


def _of_address(address: str, most: int, lines: _Lines) -> bytes:
    try:
        raw, size = _of_web(address, most, lines) if scheme(address) in WEB else _of_store(address, most)
    except InvalidMedia:
        raise
    except HTTPError as error:
        error.close()
        redirect = ": a redirect, which is not followed" if 300 <= error.code < 400 else ""
        raise InvalidMedia(f"{shown(address)}: HTTP {error.code}{redirect}") from None
    except Exception as error:  # every protocol has errors of its own
        raise InvalidMedia(f"{shown(address)}: {brief(error)}") from None
    return _bounded(raw, size, most)


def _of_web(address: str, most: int, lines: _Lines) -> tuple[bytes, int]:
    """The first bytes, and how many the server announces."""
    parts, read, whole = [], 0, quote(address, safe="%/:?#[]@!$&'()*+,;=~")
    with build_opener(_NoRedirect, _Open(lines)).open(whole, timeout=WAIT_S) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        while size <= most >= read and (part := answer.read1(_CHUNK)):
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
