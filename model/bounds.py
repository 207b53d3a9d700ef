"""What settings say to model/, as records that load neither compiler nor torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from model.scoring.signals import Optional


@dataclass(frozen=True)
class StatisticsConfig:
    """Bounds of memory, in entries."""

    most_events: int = 1_000_000  # 32 bytes each; how far back a user is known, and can be forgotten exactly
    most_partners: int = 512  # of an item in a table, 8 bytes each
    most_pairs: int = 100_000_000  # of all tables, 8 bytes each


@dataclass(frozen=True)
class JointConfig:
    """The joint scorer: it reads the `first` items of a list, for this `share` of the requests."""

    first: int
    encoder: str
    share: float = 1.0
    device: str = "auto"
    precision: str = "auto"
    loss: str = "bce"


@dataclass(frozen=True)
class MediaConfig:
    """Media of items: where they lie, what encodes them, how much each part of a vector counts beside the text's 1."""

    prefix: str = ""
    image_encoder: str = "efficientnet-lite0"
    audio_encoder: str = "log-mel"
    vector_dim: int = 0
    scale: float = 1.0
    most_bytes: int = 10_000_000
    device: str = "auto"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which parts a vector has after its text."""
        wanted = {
            "image": self.prefix and self.image_encoder != "none",
            "audio": self.prefix and self.audio_encoder != "none",
            "vector": self.vector_dim,
        }
        return tuple(kind for kind, is_wanted in wanted.items() if is_wanted)


@dataclass(frozen=True)
class MediaFamily:
    """The signals of these kinds of media."""

    kinds: tuple[str, ...]
    reads_texts: ClassVar[bool] = False

    def open(self, texts: Mapping[int, str]) -> "Optional":
        from model.scoring.media import MediaSignals

        return MediaSignals(self.kinds)


@dataclass(frozen=True)
class SlateConfig:
    """How a list is made of scored candidates: see model/scoring/slate.py."""

    diversity: float = 0.0
    quota_category: float = 1.0
    quota_new: int = 0
    quota_new_below: int = 20
    explore: str = "off"
    explore_share: float = 0.1


@dataclass(frozen=True)
class TriplesFamily:
    """The signals of a file of triples: `related`, or `related-spread`."""

    file: str
    spread: bool = False

    @property
    def reads_texts(self) -> bool:
        """To tell which triples are of no item: once, whatever is computed of them."""
        return not self.spread

    def open(self, texts: Mapping[int, str]) -> "Optional":
        from model.scoring.related import Related, RelatedSpread
        from model.triples import read, tell_unknown

        triples = read(self.file)
        if self.spread:
            return RelatedSpread(triples)
        tell_unknown(self.file, triples, texts)
        return Related(triples)


class FamilyConfig(Protocol):
    """A family of signals that a setting switches on; a frozen record, which the workers unpickle."""

    @property
    def reads_texts(self) -> bool:
        """Whether it reads the texts that it is opened with: they are followed for it."""

    def open(self, texts: Mapping[int, str]) -> "Optional":
        """What computes it; `texts` are those of the items by their keys, and go on changing."""


@dataclass(frozen=True)
class Switches:
    """What a learner learns beside what it always does: see `Learner.switch_on`."""

    joint: JointConfig | None = None
    families: tuple[FamilyConfig, ...] = ()
    facts: bool = False
    uncertainty: bool = False


@dataclass(frozen=True)
class ProfileConfig:
    """The text profile (model/scoring/profile.py): by the `mean` of the items' vectors, or `read` by this encoder."""

    how: str
    encoder: str
    device: str = "auto"
    precision: str = "auto"

    @property
    def reads_texts(self) -> bool:
        return self.how == "read"

    def open(self, texts: Mapping[int, str]) -> "Optional":
        from model.encoder import Encoder
        from model.scoring.profile import Reader, TextProfile

        if self.how == "mean":
            return TextProfile()
        encoder = Encoder(self.encoder, self.device, precision=self.precision)
        encoder.load()  # seconds, for which no list should wait
        return TextProfile(Reader(encoder, texts))


@dataclass(frozen=True)
class KeywordsConfig:
    """Keywords as a signal, candidates and reasons (model/scoring/keywords.py)."""

    reads_texts: ClassVar[bool] = False

    def open(self, texts: Mapping[int, str]) -> "Optional":
        from model.scoring.keywords import Keywords

        return Keywords()
