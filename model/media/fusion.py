"""An item's vector of all that it is: its text beside its image, its audio and the vector that its producer gave.

    title, text ─► language model ───────┐
    image ─► bytes ─► image encoder ─────┤─► [text | image | audio | vector] ─► item-vectors
    audio ─► bytes ─► audio encoder ─────┤     length 1, the others `media_scale` each; zeros where there is none
    vector ──────────────────────────────┘

A query is a text: zeros stand in the other places, so that queries and items share one space, of one encoder version,
which names every part of it (model/media/blocks.py). What media were encoded to is kept by the hash of their bytes.
Media that cannot be used give a reason, and the item goes on without them.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from model.bounds import MediaConfig
from model.cache import Cache, first_free
from model.encoder import Encoder, EncoderError, LanguageModel
from model.media.blocks import Block
from model.media.encoders import MediaEncoder, audio_encoder, image_encoder, unit
from model.media.fetch import DEADLINE_S, InvalidMedia, fetch, shown
from model.schema import Item, brief

AT_ONCE = 16
"""So many pictures or sounds are in memory at once, and are encoded together."""
PATIENCE_S = 60.0
"""So long the fetching of a call may take, all in all: a micro-batch must end, whatever a server does."""
_FETCHERS = 8

logger = logging.getLogger(__name__)


class FusedItem(NamedTuple):
    """An item's vector, a hash of what it was made of, and what could not be used, each with its reason."""

    vector: np.ndarray
    content_hash: str
    reasons: list[str]


class Encoded(NamedTuple):
    """What became of one reference: the vector, (dim,), and a hash of its bytes; or the reason why there is none."""

    vector: np.ndarray | None
    digest: bytes = b""
    reason: str = ""


class Patience:
    """How long may still be fetched, in seconds; encoding is not counted."""

    def __init__(self, left_s: float) -> None:
        self._left_s, self._end = left_s, 0.0

    def __enter__(self) -> None:
        self._end = time.monotonic() + self._left_s

    def __exit__(self, *_: object) -> None:
        self._left_s = self.left_s()

    def left_s(self) -> float:
        return self._end - time.monotonic()


class FusedEncoder:
    """An `Encoder` of items with media. Of texts it makes what that makes, with zeros in the place of media.

    Args:
        text: the language model's.
        keep: a folder below which what media were encoded to outlives this process; None: in memory.
    """

    def __init__(self, text: Encoder, config: MediaConfig, keep: Path | None = None) -> None:
        self._text, self._config, self._folder = text, config, keep
        self._encoders = _encoders(config)
        self.blocks = _blocks(self._encoders, config)
        self.version = text.version + "".join(map(str, self.blocks))
        self.dim = text.dim + sum(block.dim for block in self.blocks)
        self._kept: Cache | None = None
        self._memory: dict[bytes, bytes] = {}

    def embed(self, texts: list[str]) -> np.ndarray:
        """Shape: (texts, dim), float32, unit length, zeros after the text's part."""
        vectors = self._text.embed(texts)
        return np.pad(vectors, ((0, 0), (0, self.dim - vectors.shape[1])))

    def load(self) -> LanguageModel:
        """Load the language model, if it is not loaded yet."""
        return self._text.load()

    def close(self) -> None:
        """Let go of the folders where vectors are kept."""
        self._text.close()
        if self._kept is not None:
            self._kept.close()

    def embed_items(self, items: Sequence[Item]) -> list[FusedItem]:
        """What is made of each item, in their order."""
        texts = [item.as_text() for item in items]
        vectors, at = self.embed(texts), self.dim - sum(block.dim for block in self.blocks)
        hashes = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8) for text in texts]
        reasons: list[list[str]] = [[] for _ in items]
        patience = Patience(PATIENCE_S)
        for block in self.blocks:
            for row, made in enumerate(self._encode(block, items, patience)):
                if made is None:
                    continue
                if made.vector is None:
                    reasons[row].append(f"{block.kind}: {made.reason}")
                    continue
                vectors[row, at : at + block.dim] = block.scale * made.vector
                hashes[row].update(block.kind.encode() + made.digest)
            at += block.dim
        return [FusedItem(vector, one.hexdigest(), why) for vector, one, why in zip(vectors, hashes, reasons)]

    def _encode(self, block: Block, items: Sequence[Item], patience: Patience) -> list[Encoded | None]:
        """What became of the block of each item; None of one that has none."""
        if block.kind == "vector":
            return [_given(item, block.dim) for item in items]
        references = [item.image if block.kind == "image" else item.audio for item in items]
        wanted = list(dict.fromkeys(one for one in references if one and isinstance(one, str)))
        encoder = self._encoders[block.kind]
        made: dict[str, Encoded] = {}
        for start in range(0, len(wanted), AT_ONCE):
            group = wanted[start : start + AT_ONCE]
            made |= zip(group, self._encode_group(encoder, group, self._fetched(group, patience)))
        none = Encoded(None, reason="a file or an address is wanted, as text")
        return [(made[one] if isinstance(one, str) else none) if one else None for one in references]

    def _encode_group(
        self, encoder: MediaEncoder, references: list[str], raws: list[bytes | InvalidMedia]
    ) -> list[Encoded]:
        made: dict[int, Encoded] = {}
        opened, digests = {}, {}
        for at, raw in enumerate(raws):
            digest = b"" if isinstance(raw, InvalidMedia) else blake2b(raw, digest_size=16).digest()
            vector = self._find(encoder, digest) if digest else None
            try:
                if isinstance(raw, InvalidMedia):
                    raise raw
                if vector is None:
                    opened[at], digests[at] = encoder.open(raw), digest
                else:
                    made[at] = Encoded(vector, digest)
            except InvalidMedia as error:
                made[at] = Encoded(None, reason=_named(references[at], str(error)))
        for at, found in zip(opened, _encoded(encoder, [*opened.values()])):
            if isinstance(found, InvalidMedia):
                made[at] = Encoded(None, reason=_named(references[at], str(found)))
                continue
            made[at] = Encoded(found, digests[at])
            self._keep(encoder, digests[at], found)
        return [made[at] for at in range(len(references))]

    def _fetched(self, references: list[str], patience: Patience) -> list[bytes | InvalidMedia]:
        with patience, ThreadPoolExecutor(_FETCHERS) as pool:
            return list(pool.map(partial(self._fetch, patience=patience), references))

    def _fetch(self, reference: str, patience: Patience) -> bytes | InvalidMedia:
        try:
            if (left_s := patience.left_s()) <= 0:
                raise InvalidMedia(f"not fetched: others took {PATIENCE_S:g} s; send the item again")
            return fetch(reference, self._config.prefix, self._config.most_bytes, min(DEADLINE_S, left_s))
        except InvalidMedia as error:
            return error

    def _find(self, encoder: MediaEncoder, digest: bytes) -> np.ndarray | None:
        """A vector that was made before; one that cannot be read is made again."""
        key = encoder.version.encode() + b"\0" + digest
        raw = self._cache().get(key) if self._folder else self._memory.get(key)
        if raw is None or len(raw) != 2 * encoder.dim:
            return None
        vector = np.frombuffer(raw, np.float16).astype(np.float32)
        return vector if np.isfinite(vector).all() else None

    def _keep(self, encoder: MediaEncoder, digest: bytes, vector: np.ndarray) -> None:
        entry = {encoder.version.encode() + b"\0" + digest: vector.astype(np.float16).tobytes()}
        if self._folder:
            self._cache().write({**entry})
        else:
            self._memory |= entry

    def _cache(self) -> Cache:
        """Opened when there is media: who embeds queries alone takes no folder."""
        if self._kept is None:
            assert self._folder is not None
            self._kept = first_free(self._folder, Cache)
        return self._kept


def fused(text: Encoder, config: MediaConfig | None, keep: Path | None = None) -> "Encoder | FusedEncoder":
    """The encoder of texts itself where no media are wanted."""
    return text if config is None else FusedEncoder(text, config, keep)


def _encoded(encoder: MediaEncoder, opened: list) -> list[np.ndarray | InvalidMedia]:
    """The vector of each. One that a model cannot take, as a sound shorter than its first window, spoils no other."""
    if not opened:
        return []
    try:
        return [*encoder.encode(opened)]
    except EncoderError:  # no picture's fault
        raise
    except Exception as error:  # every model has errors of its own
        if len(opened) > 1:
            return [made for one in opened for made in _encoded(encoder, [one])]
        why = brief(error)
        logger.warning("%s cannot encode: %s", encoder.version, why)
        return [InvalidMedia(f"{encoder.version} cannot encode it: {why}")]


def _named(reference: str, why: str) -> str:
    """A reason that names the file.

    >>> _named("a.png", "cut short"), _named("a.png", "'a.png' is no regular file")
    ("'a.png': cut short", "'a.png' is no regular file")
    """
    name = shown(reference)
    return why if name in why else f"{name}: {why}"


def _encoders(config: MediaConfig) -> dict[str, MediaEncoder]:
    encoders = {}
    if "image" in config.kinds:
        encoders["image"] = image_encoder(config.image_encoder, config.device)
    if "audio" in config.kinds:
        encoders["audio"] = audio_encoder(config.audio_encoder, config.device)
    return encoders


def _blocks(encoders: dict[str, MediaEncoder], config: MediaConfig) -> tuple[Block, ...]:
    made = [Block(kind, encoder.version, encoder.dim, config.scale) for kind, encoder in encoders.items()]
    given = [Block("vector", "given", config.vector_dim, config.scale)] if config.vector_dim else []
    return (*made, *given)


def _given(item: Item, dim: int) -> Encoded | None:
    """The vector that came with an item, of unit length; None where none came."""
    raw = bytes(item.vector)
    if raw in (b"", b"null"):
        return None
    try:
        vector = np.array(msgspec.json.decode(raw, type=list[float]))
    except (msgspec.DecodeError, RecursionError) as error:
        return Encoded(None, reason=f"an array of {dim} numbers is wanted: {error}")
    if len(vector) != dim:
        return Encoded(None, reason=f"{len(vector)} numbers: {dim} are wanted (vector_dim)")
    largest = np.abs(vector).max()
    if not 0 < largest < np.inf:
        return Encoded(None, reason="nothing but zeros")
    return Encoded(unit((vector / largest)[None])[0], blake2b(vector.tobytes(), digest_size=16).digest())
