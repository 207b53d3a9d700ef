"""Of which parts an item's vector is made, where it holds more than its text: told by the name of its encoder version.

    >>> blocks_of("minilm-1a2b+image:lite0-9f:256x1+vector::16x0.5")
    (Block(kind='image', encoder='lite0-9f', dim=256, scale=1.0), Block(kind='vector', encoder='', dim=16, scale=0.5))
    >>> blocks_of("minilm-1a2b")
    ()

The text's part comes first and is as long as the rest leaves. It is of length 1, every other one of its scale; one that
an item does not have is zeros. Whoever has nothing but a version, as a scorer on disk, knows the parts by it.
"""

import re
from typing import NamedTuple

KINDS = ("image", "audio", "vector")
_BLOCK = re.compile(r"\+(image|audio|vector):([^+:]*):([0-9]{1,5})x([0-9.]{1,9})")
_BLOCKS = re.compile(rf"(?:{_BLOCK.pattern})+\Z")


class Block(NamedTuple):
    """A part of an item's vector: what it is of, what made it, how many numbers it has, how long it is."""

    kind: str
    encoder: str
    dim: int
    scale: float

    def __str__(self) -> str:
        return f"+{self.kind}:{self.encoder}:{self.dim}x{self.scale:.6g}"


def blocks_of(encoder_version: str) -> tuple[Block, ...]:
    """The parts after the text's; none where the version is of texts alone."""
    if "+" not in encoder_version:
        return ()
    found = _BLOCKS.search(encoder_version)
    parts = _BLOCK.findall(found[0]) if found else []
    return tuple(Block(kind, encoder, int(dim), float(scale)) for kind, encoder, dim, scale in parts)


def widths_of(encoder_version: str, dim: int) -> tuple[int, ...]:
    """How many numbers each part of vectors of this size has, the text first; () where they are of texts alone.

    >>> widths_of("minilm-1a2b+image:lite0-9f:256x1", 640), widths_of("minilm-1a2b", 384)
    ((384, 256), ())
    """
    widths = [block.dim for block in blocks_of(encoder_version)]
    text = dim - sum(widths)
    return (text, *widths) if widths and text > 0 else ()
