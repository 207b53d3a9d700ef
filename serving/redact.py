"""What may be shown of a text that came from elsewhere: cut short, and without the user info of addresses in it."""

import re

TEXT_SHOWN = 300
"""Characters."""
RAW_SHOWN = 200
"""Bytes of a record."""
_READ = 4_096  # of a text at most: an address that begins beyond what is shown does not matter
_ADDRESS = re.compile(r"""(?<=://)[^\s"'<>]+""", re.ASCII)


def redact(text: str) -> str:
    """Take the user info out of every address; up to the last @, for secrets hold slashes too.

    >>> redact("s3://key:sec/ret@models/v00003: there is no such version, write it again")
    's3://models/v00003: there is no such version, write it again'
    """
    return _ADDRESS.sub(lambda address: address[0].rpartition("@")[2], text)


def shown(text: str, most: int = TEXT_SHOWN) -> str:
    """The text as it is shown.

    >>> shown("too long for a page", 9)
    'too long…'
    """
    text = redact(text[:_READ])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown_raw(raw: bytes) -> str:
    """The first bytes of a record as they are shown.

    >>> shown_raw(b"s3://key:secret@models/v00003 " + bytes([255]))
    's3://models/v00003 �'
    """
    return redact(raw[:_READ].decode("latin-1")).encode("latin-1")[:RAW_SHOWN].decode(errors="replace")
