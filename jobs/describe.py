"""The describer: newest lists in, one sentence an item out. A process of its own: no list waits for it.

    recommendations ─► newest list of each user, at most `WAITING` ─► facts of its first items ─► sentences ─┐
    items ─► titles, categories ──────────────────────────────────────────┘                                  ▼
                                              a `forgotten` user's are deleted ─────────────────────► descriptions

Of a user only the newest list counts, and the user whose list came last is served first: where lists come faster than
sentences, those that waited longest are dropped and counted in the log. Descriptions of items that are not among the
first of the list any more are deleted with it, so the topic holds `describe_first` a user at most.

It starts where it ended (`describer.json` in the folder of the replicas), and at the beginning of the topic where that
is not there, so no `forgotten` is missed; lists that waited then are not described. What goes wrong in a turn is logged
with its traceback, and the process ends with code 1: whoever runs it starts it again.

    python jobs/describe.py [--SETTING VALUE ...]
"""

import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from jobs.settings import Settings, SettingsError, check_describer, help_or_go_on, load_or_exit, usage

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], f"{__doc__}\n{usage()}")

from jobs.writer import Writer
from model import device
from model.describe import Describer, Sentence, facts_of
from model.schema import (
    Description,
    Recommendation,
    decode_description_key,
    decode_recommendation,
    decoded,
    description_key,
    encode_json,
)
from udfs.reader import Place, Reader
from udfs.texts import Name, NamesFollower

WAITING = 1_000
"""Lists that wait at most."""
ITEMS = 32
"""So many items, or those of one list, are described in a turn."""
FORGOTTEN = 200_000
"""Users who were forgotten are remembered, so many: an older list that comes late is not described."""
SAY_S = 60.0
PLACE = "describer.json"

logger = logging.getLogger("headrace.describe")


class Waiting:
    """The newest list of each user that waits to be described.

    Attributes:
        dropped: lists that gave way, to a newer one of the user or to those of others.
    """

    def __init__(self, most: int = WAITING) -> None:
        self._most, self.dropped = most, 0
        self._lists: OrderedDict[str, Recommendation] = OrderedDict()
        self._forgotten: OrderedDict[str, int] = OrderedDict()

    def add(self, made: Recommendation) -> None:
        if made.event_time_ms <= self._forgotten.get(made.user_id, -1):
            return
        self.dropped += self._lists.pop(made.user_id, None) is not None
        self._lists[made.user_id] = made
        if len(self._lists) > self._most:
            self._lists.popitem(last=False)
            self.dropped += 1

    def forget(self, user_id: str, event_time_ms: int) -> None:
        self._lists.pop(user_id, None)
        self._forgotten[user_id] = max(event_time_ms, self._forgotten.pop(user_id, -1))
        if len(self._forgotten) > FORGOTTEN:
            self._forgotten.popitem(last=False)

    def may(self, made: Recommendation) -> bool:
        """Whether the user was not forgotten since."""
        return made.event_time_ms > self._forgotten.get(made.user_id, -1)

    def take(self, first: int) -> list[Recommendation]:
        """Those that came last, with `ITEMS` items among the first of them, or one more list."""
        taken: list[Recommendation] = []
        while self._lists and sum(min(first, len(made.items)) for made in taken) < ITEMS:
            taken.append(self._lists.popitem()[1])
        return taken

    def __len__(self) -> int:
        return len(self._lists)


class Describe:
    """One describer; `turn` reads what has come, and describes some of what waits."""

    def __init__(self, settings: Settings, describer: Describer, names: Mapping[str, Name]) -> None:
        self._first, self._describer, self._names = settings.describe_first, describer, names
        self._lists, self._file = settings.topic("recommendations"), Path(settings.replica_path) / PLACE
        self._written = written_before(settings)
        self._reader = Reader(settings.bootstrap_servers, {self._lists: place(self._file)})
        self._writer = Writer(settings.bootstrap_servers, settings.topic("descriptions"))
        self._said, self._unreadable = time.monotonic(), 0
        self.waiting = Waiting()

    def turn(self, timeout_ms: int = 500) -> None:
        """Describe the lists that came last; who was forgotten meanwhile is not written of."""
        self.read(timeout_ms if not self.waiting else 0)
        lists = self.waiting.take(self._first)
        if lists:
            sentences = self._sentences(lists)
            self.read(0)
            for made, said in zip(lists, sentences):
                if self.waiting.may(made):
                    self._write(made, said)
        keep_place(self._file, self._reader.source(self._lists), self._reader.offsets(self._lists))
        self._say()

    def read(self, timeout_ms: int) -> None:
        """Take in what has come within this time, or all that is there; delete what is written of who was forgotten."""
        for record in self._reader.read(timeout_ms) if timeout_ms else self._reader.drain():
            made = decoded(record.value, decode_recommendation)
            if isinstance(made, str):
                self._unreadable += record.value is not None
            elif made.forgotten:
                self.waiting.forget(made.user_id, made.event_time_ms)
                self._delete(made.user_id, self._written.pop(made.user_id, ()))
            else:
                self.waiting.add(made)

    def _sentences(self, lists: Sequence[Recommendation]) -> list[list[Sentence]]:
        """For the first items of each list."""
        facts = [
            [facts_of(item.item_id, item.reasons, self._names) for item in made.items[: self._first]] for made in lists
        ]
        told = iter(self._describer.describe([one for some in facts for one in some]))
        return [[next(told) for _ in some] for some in facts]

    def _write(self, made: Recommendation, sentences: Sequence[Sentence]) -> None:
        """Write the descriptions of a list, and delete those of the one before."""
        version, now_ms = self._describer.version, time.time_ns() // 1_000_000
        said = {item.item_id: sentence for item, sentence in zip(made.items, sentences)}
        before = self._written.get(made.user_id, set())
        self._written[made.user_id] = before | set(said)
        for item_id, sentence in said.items():
            about = Description(made.user_id, item_id, made.rec_id, version, sentence.text, sentence.why, now_ms)
            self._writer.write(description_key(made.user_id, item_id), encode_json(about))
        self._delete(made.user_id, before - set(said))
        self._written[made.user_id] = set(said)

    def _delete(self, user_id: str, items: Iterable[str]) -> None:
        for item_id in items:
            self._writer.write(description_key(user_id, item_id), None)

    def _say(self) -> None:
        if time.monotonic() - self._said > SAY_S:
            self._said = time.monotonic()
            logger.info(
                "sentences written %d, plain reasons %d; lists waiting %d, dropped %d, unreadable %d",
                self._describer.counts["written"], self._describer.counts["plain"], len(self.waiting),
                self.waiting.dropped, self._unreadable,
            )  # fmt: skip


def written_before(settings: Settings) -> dict[str, set[str]]:
    """Of which items of which users there are descriptions on the topic."""
    reader = Reader(settings.bootstrap_servers, {settings.topic("descriptions"): None})
    written: dict[str, set[str]] = {}
    for record in reader.drain():
        key = decoded(record.key, decode_description_key)
        if isinstance(key, str):
            continue
        if record.value is None:
            written.get(key[0], set()).discard(key[1])
        else:
            written.setdefault(key[0], set()).add(key[1])
    reader.close()
    return written


def place(file: Path) -> Place | None:
    """Where reading ended; None, the beginning, where nobody knows."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Place)
    except (OSError, msgspec.DecodeError):
        return None


def keep_place(file: Path, source: str, offsets: Mapping[int, int]) -> None:
    """Write it whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_suffix(".new")
    whole.write_bytes(encode_json(Place(source, dict(offsets))))
    whole.rename(file)


def describe(settings: Settings) -> None:
    """Take turns for as long as the process lives."""
    from model.causal import CausalModel

    describer = Describer(CausalModel(settings.describer, settings.device))
    names = NamesFollower(settings.bootstrap_servers, settings.topic("items"), settings.max_event_bytes)
    step = Describe(settings, describer, names.names)
    logger.info("describer ready: %s, the first %d of a list", describer.version, settings.describe_first)
    while True:
        step.turn()


def check_on(settings: Settings) -> None:
    """Raise a SettingsError where there is nothing to do."""
    if not settings.describe_first:
        raise SettingsError("describe_first=0: nothing is described: how many of a list's first items is wanted, as 3")


def main(argv: list[str]) -> None:
    """Describe until something goes wrong, and say what: the process ends with code 1, so that it is started again."""
    settings = load_or_exit(argv, os.environ, __doc__, check_on, check_describer)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    device.use_threads(settings.describer_threads)
    try:
        describe(settings)
    except Exception as error:
        logger.exception("the describer ends: %s: %s", type(error).__name__, error)
        logging.shutdown()
        os._exit(1)  # at once, whatever threads there are


if __name__ == "__main__":
    main(sys.argv[1:])
