"""The records on the topics, and the ones between two steps of the job.

What a topic carries is JSON, one object a record. Unknown fields are ignored, so producers may add their own. What
passes between two steps is msgpack in one bytes value: packing a request into a single column is what makes the step
from the keyed operator to the scoring UDF cheap.

Errors:

    HeadraceError
    ├── InvalidRecord    a record is refused: one for the job goes to `rejected-events` with the reason
    ├── StateError       a user's bytes in Flink state cannot be read: the event goes to `rejected-events`
    ├── VersionError     a model version is missing, broken or of another encoder: the one before serves on
    ├── DataError        a file given to `replay` or `evaluate` cannot be used      (scripts/data.py)
    ├── SettingsError    a setting is wrong or unknown: nothing has been started    (jobs/settings.py)
    └── StackError       the local stack cannot start                               (scripts/processes.py)
"""

import re
from collections.abc import Callable
from hashlib import blake2b, sha256
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

T = TypeVar("T")

REASON_CHARS, RAW_BYTES = 300, 65_536
"""So much of the reason, and of the bytes, is kept of a refused record."""
_WHY_CHARS = 200
RECORD_BYTES = 1_000_000
"""No record that the job writes is larger, nor one that it can be set to read: Kafka's brokers and producers take 1 MiB
by default, key and frame included."""
LEAST_TIME_MS = 100_000_000_000
"""March 1973. As seconds, what is below it reaches to the year 5138: an earlier time is taken for a wrong unit."""


class HeadraceError(Exception):
    """What, which value, what was wanted, what to do."""


def brief(error: Exception) -> str:
    """What an error of another library says, in one short line for a message; its kind where it says nothing.

    >>> brief(ValueError("no\\n such file")), brief(KeyError())
    ('no such file', 'KeyError')
    """
    return " ".join(str(error).split())[:_WHY_CHARS] or type(error).__name__


class InvalidRecord(HeadraceError):
    """A record is refused; the message is the reason."""


class StateError(HeadraceError):
    """A user's bytes cannot be read."""


class VersionError(HeadraceError):
    """A model version cannot be used."""


Action = Literal[
    "view", "click", "cart", "purchase", "rating", "like", "dislike", "skip", "search", "impression", "forget"
]
POSITIVE = frozenset({"view", "click", "cart", "purchase", "rating", "like"})
"""Actions that say what a user wants: what a model learns to predict."""
NEGATIVE = frozenset({"dislike", "skip"})
CONSUMING = POSITIVE | NEGATIVE
"""Actions after which an item counts as consumed."""

ID_CHARS, MOST_ITEMS = 256, 1_000
"""Characters of an identifier, and items of a list, at most."""
MOST_KEYWORDS = 16
"""Of an item, and of a reason."""
Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS, pattern=r"\A[^\0]*\Z")]
"""Text without NUL: stores and libraries that end a text there would take two ids for one."""
Name = Annotated[str, Meta(max_length=ID_CHARS)]
Count = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TimeMs = Annotated[int, Meta(ge=0, le=2**48 - 1)]


class Event(Struct, frozen=True, omit_defaults=True):
    """One thing a user did."""

    event_id: Id
    user_id: Id
    action: Action
    event_time_ms: TimeMs
    item_id: Id | None = None
    value: float | None = None
    query: Annotated[str, Meta(min_length=1, max_length=4_096)] | None = None
    rec_id: str | None = None
    context: Any = None


class Item(Struct, frozen=True, omit_defaults=True):
    """One entry of the catalogue; what is in `vector` is looked at by whoever reads it."""

    item_id: Id
    title: str = ""
    text: str = ""
    categories: list[str] = []
    attributes: dict[str, Any] = {}
    image: str | None = None
    audio: str | None = None
    vector: Raw = Raw()
    deleted: bool = False

    def as_text(self) -> str:
        """What the language model reads."""
        return ". ".join(part for part in (self.title, ", ".join(self.categories), self.text) if part)


class MediaItem(Item, frozen=True, omit_defaults=True):
    """An item whose media are wanted: what is no text there costs the item that part, and not its place."""

    image: Any = None
    audio: Any = None


class User(Struct, frozen=True, omit_defaults=True):
    """What is known of a user: text, numbers, truths, lists of texts by name; see model/facts.py."""

    user_id: Id
    attributes: dict[str, Any] = {}
    deleted: bool = False


class ItemVector(Struct, frozen=True, omit_defaults=True):
    """An item as the language model sees it; `vector` is base64 of little-endian float16 (empty when deleted).

    Without an item id, `pinned` says that the vectors of an encoder version serve, or that none is pinned any more.
    `keywords` are the item's, the strongest first, where they are on.
    """

    item_id: str
    encoder_version: str = ""
    vector: bytes = b""
    content_hash: str = ""
    deleted: bool = False
    pinned: bool | None = None
    keywords: Annotated[list[Name], Meta(max_length=MOST_KEYWORDS)] = []


def _empty() -> list:
    """The default of a list that is written when it is empty too: `omit_defaults` leaves out `[]` as a default."""
    return []


class Reason(Struct, frozen=True, omit_defaults=True, gc=False):
    """Why an item is on a list: the signal, its share of the score, and what the user did that carried it.

    `interest` is the number of one of the user's interests, where the signal is one of interests. `items` are items of
    the user's past events; empty where no single event carried the signal. `keywords` are those that they share with
    the item, where the signal is `keywords`. `relation` is what a knowledge graph says that they share.
    """

    signal: Name
    share: float
    interest: Count | None = None
    items: Annotated[list[Name], Meta(max_length=MOST_ITEMS)] = field(default_factory=_empty)
    keywords: Annotated[list[Name], Meta(max_length=MOST_KEYWORDS)] = []
    relation: Name = ""


class RecommendedItem(Struct, frozen=True, omit_defaults=True, gc=False):
    """An item, P(i | u, t), and why; where lists explore, how likely it was to stand at its place; its keywords, where
    they are on.
    """

    item_id: Name
    probability: float
    reasons: Annotated[list[Reason], Meta(max_length=MOST_ITEMS)] = field(default_factory=_empty)
    propensity: float | UnsetType = UNSET
    keywords: Annotated[list[Name], Meta(max_length=MOST_KEYWORDS)] = []


class Recommendation(Struct, frozen=True, omit_defaults=True):
    """A top-k list, best first. `rec_id` follows from the event alone, so a list that comes twice can be told.

    With `forgotten` set it answers a `forget`: no version made it, it has no items, and whoever keeps lists deletes the
    user's. `model_version` names what was trained of what made it; `examples_seen` says how many examples its item
    statistics had counted.
    """

    rec_id: Name
    user_id: Name
    event_id: Name
    event_time_ms: Count
    emitted_at_ms: Count
    model_version: Name
    variant: Name
    items: Annotated[list[RecommendedItem], Meta(max_length=MOST_ITEMS)]
    forgotten: bool = False
    examples_seen: Count = 0


class Description(Struct, frozen=True):
    """One sentence on why an item is on a list of a user, under the key of both (`description_key`).

    `why` says whether the language model `model` has written it, or it is the plain reason, made by rule.
    """

    user_id: Name
    item_id: Name
    rec_id: Name
    model: Name
    text: Annotated[str, Meta(max_length=4_096)]
    why: Literal["plain", "written"]
    emitted_at_ms: Count


class Example(Struct, frozen=True, omit_defaults=True):
    """What the user had done (`interests`, the bytes of model.interest), what was shown, and what came next.

    `shown` is the `rec_id` of the list that the user had before the event. With `forget` set, nothing came next: the
    learner deletes what it holds of the user. `facts` are those of the event's context (model/facts.py).
    """

    user_id: Id
    event_id: Id
    event_time_ms: TimeMs
    item_id: Annotated[str, Meta(max_length=256)] = ""
    action: str = ""
    interests: bytes = b""
    shown: str = ""
    forget: bool = False
    facts: bytes = b""


class FineTuneRequest(Struct, frozen=True):
    """Why the model should learn now, and from which span of event times."""

    why: Literal["count", "age", "drift"]
    examples: Count
    from_event_time_ms: Count
    to_event_time_ms: Count


class ModelVersion(Struct, frozen=True, omit_defaults=True):
    """A version's life, told on `model-versions`: see model/versions.py.

    `epoch` is how many decisions by hand there had been; one that is `pinned` serves until the next of them. `counted`
    is what release 0.1.0 said of new counts of a version: it means nothing.
    """

    version: Annotated[str, Meta(max_length=256)]
    path: Annotated[str, Meta(max_length=4_096)]
    parent: str = ""
    metrics: dict[str, float] = {}
    status: Literal["candidate", "serving", "counted", "retired", "rejected", "removed"] = "candidate"
    reason: str = ""
    epoch: Annotated[int, Meta(ge=0, le=2**53)] = 0
    pinned: bool = False


class Rejected(Struct, frozen=True, array_like=True, tag="rejected"):
    """A record that was refused: where it came from, why, its first bytes; the length and the SHA-256 of all of them.

    `raw` is base64 in JSON. Whatever was refused, `Rejected.of` makes a record that any broker takes.
    """

    source: str
    partition: int
    offset: int
    reason: str
    raw: bytes
    raw_bytes: int
    sha256: str

    @classmethod
    def of(
        cls, source: str, partition: int, offset: int, reason: str, raw: bytes | None, whole: str | None = None
    ) -> "Rejected":
        """What is kept of a record.

        >>> Rejected.of("events", 0, 7, "no UTF-8", bytes([255])).raw_bytes
        1

        Args:
            raw: all of its bytes; None where it has no value.
            whole: length and SHA-256 of all of it, where `raw` is its beginning: `jobs.topics.bounded`.
        """
        raw = raw or b""
        length, digest = whole.split() if whole else (len(raw), sha256(raw).hexdigest())
        return cls(source, partition, offset, reason[:REASON_CHARS], raw[:RAW_BYTES], int(length), digest)

    def as_json(self) -> bytes:
        return msgspec.json.encode(msgspec.structs.asdict(self))


class Embedded(Struct, frozen=True, array_like=True, tag="embedded"):
    """embed -> update-interest: an event with the vector of its item or query (empty: not known yet).

    `vector` lies in the interest space, `query` is the encoder's own vector of a search; both are float16. The position
    is that of the event's record, -1 where it has none. `facts` stand for the event's context.
    """

    event: Event
    item_key: int
    encoder: int
    vector: bytes
    query: bytes = b""
    partition: int = 0
    offset: int = -1
    facts: bytes = b""


class UserState(Struct, frozen=True, array_like=True):
    """What Flink's state holds of a user, in one value: the bytes of model.interest and of model.consumed."""

    interests: bytes = b""
    consumed: bytes = b""


class Request(Struct, frozen=True, array_like=True):
    """update-interest -> score: all that a list depends on, besides the catalogue.

    `versions` are the model versions to serve with, best first: the next one stands in where one cannot be loaded. A
    `live` list is made as soon as an event has come: nobody knows yet how long the user's next one will take. With
    `forget` set there is nothing to score: the answer says that the user was forgotten. `facts` are of the context.
    """

    user_id: str
    event_id: str
    event_time_ms: int
    versions: list[str]
    variant: str
    interests: bytes
    consumed: bytes
    live: bool = True
    forget: bool = False
    facts: bytes = b""


encode_json = msgspec.json.encode
encode_packed = msgspec.msgpack.encode
decode_packed_request = msgspec.msgpack.Decoder(Request).decode
decode_embedded = msgspec.msgpack.Decoder(Embedded | Rejected).decode
decode_item_vector = msgspec.json.Decoder(ItemVector).decode
decode_fine_tune_request = msgspec.json.Decoder(FineTuneRequest).decode
decode_recommendation = msgspec.json.Decoder(Recommendation).decode
decode_description = msgspec.json.Decoder(Description).decode
decode_description_key = msgspec.json.Decoder(tuple[Name, Name]).decode

_decode_event = msgspec.json.Decoder(Event).decode
_decode_example = msgspec.json.Decoder(Example).decode
_COUNTS = re.compile("(?<=.)/counts-[0-9]{1,18}$")
_decode_model_version = msgspec.json.Decoder(ModelVersion).decode
_decode_user_state = msgspec.msgpack.Decoder(UserState).decode
_decode_item = msgspec.json.Decoder(Item).decode
_decode_media_item = msgspec.json.Decoder(MediaItem).decode
_decode_user = msgspec.json.Decoder(User).decode


def encode_recommendation(made: Recommendation) -> bytes:
    """JSON that fits into a record: a list that is too long for one gives up its reasons, then its last items.

    A thousand items with ids of 256 characters and reasons can take 8 MB.
    """
    encoded = encode_json(made)
    if len(encoded) <= RECORD_BYTES:
        return encoded
    bare = [msgspec.structs.replace(item, reasons=[]) for item in made.items]
    room = RECORD_BYTES - len(encode_json(msgspec.structs.replace(made, items=[])))
    fitting = 0
    for item in bare:
        room -= len(encode_json(item)) + 1
        fitting += room >= 0
    return encode_json(msgspec.structs.replace(made, items=bare[:fitting]))


def description_key(user_id: str, item_id: str) -> bytes:
    """The key of a description.

    >>> decode_description_key(description_key("ann", "lamp-7"))
    ('ann', 'lamp-7')
    """
    return encode_json([user_id, item_id])


def decode_example(raw: bytes) -> Example:
    """Decode and check one record of `training-examples`; what its interests hold is not looked at.

    >>> decode_example(b'{"user_id":"u1","event_id":"e1","event_time_ms":1}')
    Traceback (most recent call last):
    ...
    model.schema.InvalidRecord: an example needs an item_id and a positive action: '' on ''

    Raises:
        InvalidRecord: nothing can be learnt from it.
    """
    example = _decode_example(raw)
    if not example.forget and not (example.item_id and example.action in POSITIVE):
        raise InvalidRecord(
            f"an example needs an item_id and a positive action: {example.action!r} on {example.item_id!r}"
        )
    return example


def trained_path(path: str) -> str:
    """The path of a version, without the folder of counts that release 0.1.0 put behind it.

    >>> trained_path("r/v00003/counts-000017"), trained_path("r/v00003")
    ('r/v00003', 'r/v00003')
    """
    return _COUNTS.sub("", path)


def decode_model_version(raw: bytes) -> ModelVersion:
    """Decode one record of `model-versions`.

    >>> decode_model_version(b'{"version":"v00003","path":"r/v00003/counts-000017","status":"retired"}').path
    'r/v00003'
    """
    version = _decode_model_version(raw)
    return msgspec.structs.replace(version, path=trained_path(version.path))


def decoded(raw: bytes | None, decode: Callable[[bytes], T]) -> T | str:
    """Decode a record of a topic that the job writes itself, whoever wrote this one.

    >>> decoded(b'{"version":"v1","path":"r/v1"}', decode_model_version).path
    'r/v1'
    >>> decoded(None, decode_model_version), decoded(b"\\xff", decode_model_version)
    ('the record has no value', 'no UTF-8: invalid start byte at byte 0')

    Returns:
        The record, or the reason why it cannot be read.
    """
    try:
        return _decode(raw, decode)
    except InvalidRecord as error:
        return str(error)[:REASON_CHARS]


def _decode(raw: bytes | None, decode: Callable[[bytes], T], max_bytes: int | None = None) -> T:
    if raw is None:
        raise InvalidRecord("the record has no value")
    if max_bytes is not None and len(raw) > max_bytes:
        raise InvalidRecord(too_large(len(raw), max_bytes))
    try:
        raw.decode()  # the JSON decoder skips text that it does not keep
        return decode(raw)
    except UnicodeDecodeError as error:
        raise InvalidRecord(f"no UTF-8: {error.reason} at byte {error.start}") from None
    except (msgspec.DecodeError, RecursionError, StateError) as error:
        raise InvalidRecord(str(error)) from None


def decode_event(raw: bytes | None, now_ms: int, max_future_s: float = 300.0, max_bytes: int = RECORD_BYTES) -> Event:
    """Decode and check one record of `events`.

    >>> event = b'{"event_id":"e1","user_id":"u1","item_id":"m1","action":"click","event_time_ms":1700000000000}'
    >>> decode_event(event, now_ms=1_700_000_000_000).action
    'click'
    >>> decode_event(event.replace(b"click", b"jump"), now_ms=1_700_000_000_000)
    Traceback (most recent call last):
    ...
    model.schema.InvalidRecord: Invalid enum value 'jump' - at `$.action`

    Raises:
        InvalidRecord: with the reason.
    """
    event = _decode(raw, _decode_event, max_bytes)
    if event.context is not None:
        event = msgspec.structs.replace(event, context=_packable(event.context))
    if event.event_time_ms < LEAST_TIME_MS:
        raise InvalidRecord(
            f"event_time_ms {event.event_time_ms} looks like seconds: milliseconds since 1970 are wanted, "
            f"at least {LEAST_TIME_MS} (March 1973)"
        )
    if event.event_time_ms > now_ms + max_future_s * 1_000:
        ahead = (event.event_time_ms - now_ms) / 1_000
        raise InvalidRecord(f"event_time_ms is {ahead:.0f} s in the future: at most {max_future_s:g} s are taken")
    if event.action == "search":
        if event.query is None:
            raise InvalidRecord("a search needs a query")
    elif event.item_id is None and event.action not in ("forget", "impression"):
        raise InvalidRecord(f"a {event.action} needs an item_id")
    return event


def _packable(context: Any) -> Any:
    """A context as it is, or, where it cannot travel between two steps, a word that is none: it is passed over."""
    try:
        encode_packed(context)
    except (OverflowError, RecursionError):
        return "holds an integer of more than 64 bits, or is nested too deeply"
    return context


def decode_item(raw: bytes | None, max_bytes: int = RECORD_BYTES, media: bool = False) -> Item:
    """Decode and check one record of `items`; with `media` a `MediaItem`.

    Raises:
        InvalidRecord: with the reason.
    """
    return _decode(raw, _decode_media_item if media else _decode_item, max_bytes)


def deleted_item(key: bytes) -> Item:
    """What a record of `items` without a value says: the item of its key is deleted.

    Raises:
        InvalidRecord: the key is no id.
    """
    try:
        return msgspec.convert({"item_id": key.decode(), "deleted": True}, Item)
    except UnicodeDecodeError as error:
        raise InvalidRecord(f"the key is no UTF-8: {error.reason} at byte {error.start}") from None
    except msgspec.ValidationError as error:
        raise InvalidRecord(f"the key is no item_id: {error}") from None


def decode_user(raw: bytes | None, key: bytes | None = None, max_bytes: int = RECORD_BYTES) -> User:
    """Decode and check one record of `users`; without a value, the user of its key is deleted.

    Raises:
        InvalidRecord: with the reason.
    """
    if raw is not None:
        return _decode(raw, _decode_user, max_bytes)
    deleted = deleted_item(key or b"")
    return User(deleted.item_id, deleted=True)


def too_large(length: int, max_bytes: int) -> str:
    """The reason why a record is not even opened."""
    return f"{length} bytes: at most {max_bytes} are taken"


def decode_user_state(packed: bytes | None) -> UserState:
    """Open a user's state; none is that of a new user.

    Raises:
        StateError: the bytes cannot be read.
    """
    try:
        return _decode_user_state(packed) if packed else UserState()
    except (msgspec.DecodeError, RecursionError) as error:
        raise StateError(
            f"{len(packed or b'')} bytes of a user's state cannot be read: {error}; use the release that wrote them"
        ) from None


def item_key(item_id: str) -> int:
    """The 64-bit number that stands for an item in state and in models; never 0."""
    return _number(item_id, 8) or 1


def event_key(event_id: str) -> int:
    """The 32-bit number that stands for an event among the last ones of its user."""
    return _number(event_id, 4)


def rec_id(user_id: str, key: int, event_time_ms: int) -> str:
    """The name of the list that answers an event: the same whenever the event is processed.

    Args:
        key: `event_key` of the event.
    """
    return f"{_number(f'{user_id} {key} {event_time_ms}', 12):024x}"


def _number(text: str, octets: int) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=octets).digest(), "little")
