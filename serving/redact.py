"""What may be shown of a text that came from elsewhere: cut short, and without the user info of addresses in it."""

import re

TEXT_SHOWN = 300
"""Characters."""
RAW_SHOWN = 200
"""Bytes of a record."""
_READ = 4_096  # of a text at most: an address that begins beyond what is shown does not matter
_ADDRESS = re.compile(r"""(?<=//)[^\s"'<>]+""", re.ASCII)
_USER_INFO = re.compile(r"""(?<![^\s"'<>/,;:@])[^\s"'<>/,;:@]{1,256}:[^\s"'<>/@]{1,512}@(?=[\w\[])""", re.ASCII)
"""Bounded, and at the beginning of a word only: a long text has to be searched in no time."""
_SECRET = re.compile(
    r"""((?:passw(?:or)?d|secret|token|signature|credential|(?:account|access|api)[_-]?key|\bsig)["']?\s*[=:]\s*"""
    r"""|\bbearer\s+)("[^"]*"?|'[^']*'?|[^\s&;,"']+)""",
    re.ASCII | re.IGNORECASE,
)
"""A name that tells what follows it: in the query of an address, in a setting of a client."""
HIDDEN = "***"


def redact(text: str) -> str:
    """Take the user info out of every address, up to the last @, for secrets hold slashes too; and what is named a
    secret.

    >>> redact("s3://key:sec/ret@models/v00003: there is no such version, write it again")
    's3://models/v00003: there is no such version, write it again'
    >>> redact("https://models/v00003?token=sec/ret&part=2"), redact("user:secret@kafka:9092")
    ('https://models/v00003?token=***&part=2', 'kafka:9092')
    """
    text = _ADDRESS.sub(lambda address: address[0].rpartition("@")[2], text)
    return _SECRET.sub(rf"\1{HIDDEN}", _USER_INFO.sub("", text))


def shown(text: str, most: int = TEXT_SHOWN) -> str:
    """The text as it is shown.

    >>> shown("too long for a page", 9)
    'too long…'
    """
    return cut(redact(text[:_READ]), most)


def cut(text: str, most: int = TEXT_SHOWN) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown_raw(raw: bytes) -> str:
    """The first bytes of a record as they are shown.

    >>> shown_raw(b"s3://key:secret@models/v00003 " + bytes([255]))
    's3://models/v00003 �'
    """
    return redact(raw[:_READ].decode("latin-1")).encode("latin-1")[:RAW_SHOWN].decode(errors="replace")
