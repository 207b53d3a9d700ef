"""Send a stream of past events through the whole system, and measure what comes back.

    python scripts/replay.py --data ml-100k
    python scripts/replay.py --events FILE --items FILE [--speed 200] [--json FILE] [--SETTING VALUE ...]

The first events go in as fast as they can (the backlog: users get their interests, the learner its examples); the last
ones follow at a steady rate, and their lists are timed and scored. A few broken records are among them. The stack that
`make up` started is used where it runs; else one is started for the replay and stopped after it.
"""

import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable

from scripts import options

if __name__ == "__main__":
    options.replay(sys.argv[1:], __doc__)  # ends here for --help and for a wrong option

import msgspec
import pandas as pd
from kafka import KafkaProducer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jobs.settings import CHECKS, Settings, check_describer, load_or_exit
from model.evaluation.order import drawn_order
from model.schema import Event, HeadraceError, User, encode_json
from scripts import data, stack
from scripts.watch import Quality, Watch

SHARE = 0.2  # of the events that follow at a steady rate, at most ...
STEADY_S = 30.0  # ... as many as fit into this time and LEAD_S
LEAD_S = 10.0  # their first lists, while the learner still takes in the backlog, are scored and not timed
PATIENCE_S = 45.0
MODEL_WAIT_S = 60.0
BROKEN = [
    b"no JSON",
    b'{"event_id": "b2", "user_id": "u"}',
    b'{"event_id": "b3", "user_id": "u", "item_id": "i", "action": "teleport", "event_time_ms": 1}',
    b'{"event_id": "b4", "user_id": 7, "item_id": "i", "action": "view", "event_time_ms": 1}',
    b'{"event_id": "b5", "user_id": "u", "item_id": "i", "action": "view", "event_time_ms": 99999999999999}',
    b'{"event_id": "b6", "user_id": "\xff", "item_id": "i", "action": "view", "event_time_ms": 1}',
]
"""Records that are refused; they are part of every replay."""

console = Console(stderr=True, markup=False, emoji=False)


class Feed:
    """Sends records, and knows what it has sent: {event_id: produce time, s}."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        servers = settings.bootstrap_servers.split(",")
        self._producer = KafkaProducer(bootstrap_servers=servers, linger_ms=10)
        self.sent: dict[str, float] = {}
        self.read = self._without_list = 0
        self._newest_only = settings.answers == "newest"
        self._user_of: dict[str, str] = {}
        self._waiting: defaultdict[str, deque[str]] = defaultdict(deque)  # events of a user, as they were sent
        self._passed_over: set[str] = set()

    @property
    def unanswered(self) -> int:
        """Records that call for no list, and with `answers=newest` those whose user got one for a later event."""
        return self._without_list + len(self._passed_over)

    def items(self, items: pd.DataFrame) -> None:
        topic = self._settings.topic("items")
        for item in items.itertuples():
            record = {"item_id": item.item_id, "title": item.title, "text": item.text, "categories": item.categories}
            record |= data.media_of(item)
            self._producer.send(topic, key=item.item_id.encode(), value=msgspec.json.encode(record))
        self._producer.flush()

    def users(self, users: Iterable[User]) -> None:
        """Send what is known of users; it is no event, and calls for no list."""
        for user in users:
            self._producer.send(self._settings.topic("users"), key=user.user_id.encode(), value=encode_json(user))
        self._producer.flush()

    def event(self, event: Event) -> None:
        """Send an event. One whose id was sent before, in the file or by us, calls for no second list."""
        if event.action == "impression" or event.event_id in self.sent:
            self._without_list += 1
        elif self._newest_only:
            self._user_of[event.event_id] = event.user_id
            self._waiting[event.user_id].append(event.event_id)
        self.sent.setdefault(event.event_id, time.time())
        self._send(event.user_id.encode(), encode_json(event))

    def answered(self, event_ids: Iterable[str]) -> None:
        """Lists came, in this order: with `answers=newest` events of the same users before these will get none."""
        for event_id in event_ids if self._newest_only else ():
            self._passed_over.discard(event_id)  # after a failure its list may come all the same
            waiting = self._waiting[self._user_of[event_id]]
            while event_id in waiting:
                self._passed_over.add(waiting.popleft())
            self._passed_over.discard(event_id)

    def broken(self) -> None:
        """Send the records that are to be refused."""
        for raw in BROKEN:
            self._send(None, raw)

    def flush(self) -> None:
        self._producer.flush()

    def _send(self, key: bytes | None, value: bytes) -> None:
        self._producer.send(self._settings.topic("events"), key=key, value=value)
        self.read += 1


class Replay:
    """One replay: its phases are the methods, in order."""

    def __init__(self, settings: Settings, events: list[Event], items: pd.DataFrame, speed: float) -> None:
        self._events, self._items, self._speed = events, items, speed
        self.feed = Feed(settings)
        self.watch = Watch(settings, self.feed.sent)
        self.quality = Quality(items.item_id, settings.rules().exclude_s)
        self.steady = max(1, min(int(len(events) * SHARE), int(speed * (LEAD_S + STEADY_S))))
        self.backlog_per_s = 0.0
        self._answered = 0
        self._titles = dict(zip(items.item_id, items.title))

    def run(self) -> None:
        events, first = self._events, len(self._events) - self.steady
        early = self.catalogue(events[:first])
        self.backlog(events[early:first])
        self.learn(first)
        self.at_speed(events[first:])

    def catalogue(self, events: list[Event]) -> int:
        """Send the items, and wait until each has its vector; an event a second goes in meanwhile: users do not wait.

        Returns:
            How many events were sent.
        """
        sent, began, wanted = 0, time.monotonic(), set(self._items.item_id)

        def embedded() -> int:
            nonlocal sent
            if sent < min(len(events), 1 + time.monotonic() - began):
                self.send(events[sent : sent + 1])
                sent += 1
            return len(wanted & self.watch.embedded)

        with bar("items embedded", len(self._items)) as show:
            self.feed.items(self._items)
            wait(embedded, len(wanted), show)
        return sent

    def send(self, events: list[Event], show=lambda done: None) -> None:
        """Send events as fast as they can be sent."""
        for number, event in enumerate(events):
            self.feed.event(event)
            self.quality.add(event)
            if number % 1_000 == 0:
                show(len(self.watch.lists))
        self.feed.flush()

    def backlog(self, events: list[Event]) -> None:
        """Send events, and records that are refused or repeated, and wait until it is known what became of each."""
        with bar("backlog", len(events)) as show:
            began = time.monotonic()
            self.send(events, show)
            self.feed.broken()
            if events:
                self.feed.event(events[-1])
            self.feed.flush()
            wait(self.accounted, self.feed.read, show)
            self.backlog_per_s = len(events) / max(1e-9, self.watch.busy_s(began))

    def accounted(self) -> int:
        """Records of which it is known what became of them."""
        answered = list(self.watch.lists)
        self.feed.answered(answered[self._answered :])
        self._answered = len(answered)
        return len(answered) + self.watch.rejected + self.feed.unanswered

    def learn(self, examples: int) -> None:
        """Wait until a version that has learnt most of the backlog serves, or the learner has nothing more to learn."""
        with bar("examples learnt", examples) as show:
            deadline = time.monotonic() + MODEL_WAIT_S
            while self.watch.learnt < 0.5 * examples and time.monotonic() < deadline:
                show(self.watch.learnt)
                time.sleep(0.2)
            show(self.watch.learnt)

    def at_speed(self, events: list[Event]) -> None:
        """Send events at a steady rate, time their lists after the lead, and print one list a second."""
        lead = min(int(self._speed * LEAD_S), len(events) // 4)
        with bar(f"{self._speed:g} events/s", len(events)) as show:
            began = shown = time.monotonic()
            for at, event in enumerate(events):
                time.sleep(max(0.0, began + at / self._speed - time.monotonic()))
                self.quality.ask(event)
                self.feed.event(event)
                self.quality.add(event, timed=at >= lead)
                if time.monotonic() - shown > 1:
                    shown = time.monotonic()
                    show(at)
                    self.print_newest()
            self.feed.flush()
            wait(lambda: self.accounted() - self.feed.read + len(events), len(events), show)

    def print_newest(self) -> None:
        """Print the list that came last, on one line."""
        newest = self.watch.newest
        if newest is not None and newest.items:
            best = " · ".join(
                f"{self._titles.get(item.item_id, item.item_id)} {item.probability:.1%}" for item in newest.items[:3]
            )
            line = Text.assemble((f"  {newest.model_version}", "dim"), f"  user {newest.user_id:>6}  {best}")
            console.print(line, highlight=False, no_wrap=True)

    def figures(self, seconds: float) -> dict:
        """The replay in numbers."""
        times = [self.watch.lists[one] - self.feed.sent[one] for one in self.quality.timed if one in self.watch.lists]
        fresh = pd.Series(times, dtype=float).mul(1_000).quantile([0.5, 0.99]).round(1).fillna(0.0).tolist()
        return {
            "read": self.feed.read,
            "emitted": len(self.watch.lists),
            "rejected": self.watch.rejected,
            "unanswered": self.feed.unanswered,
            **self.quality.metrics(self.watch.tops),
            "freshness_ms_p50": fresh[0],
            "freshness_ms_p99": fresh[1],
            "model_versions_live": len(self.watch.versions),
            "seconds": round(seconds, 1),
        }


def bar(what: str, total: int):
    """A progress bar as a context: what it gives is called with how much is done."""

    class LastList(Progress):
        def __enter__(self):
            super().__enter__()
            task = self.add_task(what, total=total)
            return lambda done: self.update(task, completed=done)

    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return LastList(*columns, console=console)


def wait(count, wanted: int, show) -> None:
    """Wait until `count()` has reached `wanted`, or has stood still for too long."""
    seen, since = -1, time.monotonic()
    while seen < wanted and time.monotonic() - since < PATIENCE_S:
        now = count()
        seen, since = (now, time.monotonic()) if now > seen else (seen, since)
        show(min(seen, wanted))
        time.sleep(0.05)


def report(figures: dict, replay: Replay, first_list_s: float | None, memory_mb: int, speed: float) -> None:
    """Print what came of it as a table, and last the figures as one line of JSON."""
    table = Table(title="What the replay did", show_header=False)
    why = "repeated events, impressions; with --answers newest: older ones of a micro-batch"
    live = ", ".join(sorted(replay.watch.versions)) or "none"
    p50, p99 = figures["freshness_ms_p50"], figures["freshness_ms_p99"]
    rows = {
        "read": f"{figures['read']:,} records from `events`",
        "emitted": f"{figures['emitted']:,} lists",
        "rejected": f"{figures['rejected']:,} records to `rejected-events`, with the reason",
        "unanswered": f"{figures['unanswered']:,} ({why})",
        "backlog": f"{replay.backlog_per_s:,.0f} events/s while it drained",
        "HR@10": f"{figures['hr_at_10']:.4f}; of the most popular items {figures['hr_at_10_popularity']:.4f}",
        "": f"over {figures['judged']:,} events of the steady part; `make evaluate`: over all; "
        "the page: over those a version was judged on",
        "freshness": f"p50 {p50:.0f} ms, p99 {p99:.0f} ms from produce to arrival at {speed:g} events/s",
        "model versions": f"{figures['model_versions_live']} went live: {live}",
    }
    if first_list_s is not None:
        rows["first list"] = f"{first_list_s:.0f} s after `flink run`"
    if memory_mb:
        rows["memory"] = f"{memory_mb / 1024:.1f} GiB resident in the whole stack"
    for name, value in rows.items():
        table.add_row(name, value)
    Console(width=110, markup=False, emoji=False).print(table)
    print(msgspec.json.encode(figures).decode(), flush=True)


def main(argv: list[str]) -> int:
    began = time.monotonic()
    arguments, given = options.replay(argv, __doc__)
    settings = load_or_exit(given, os.environ, __doc__, *CHECKS, check_describer)
    try:
        data.check_users(arguments.users, settings.user_facts == "on")
        events, items = _read(arguments, settings)
        data.tell_unused(settings, items)
        users = data.users(arguments.data, arguments.users) if settings.user_facts == "on" else []
        with running(stack.Stack(arguments=given)) as (place, submitted):
            settings = load_or_exit([*given, "--bootstrap_servers", place.bootstrap_servers], os.environ)
            console.print(f"page: {place.page}   Flink: {place.rest}   logs: {place.logs}")
            replay = Replay(settings, events, items, arguments.speed)
            replay.feed.users(users)
            replay.run()
            first_list_s = replay.watch.first_s - submitted if submitted and replay.watch.first_s else None
            memory_mb = place.resident_mb()
            replay.watch.close()
    except HeadraceError as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    figures = replay.figures(time.monotonic() - began)
    if arguments.behaviour:
        figures["behaviour"] = measure_behaviour(settings, given)
    report(figures, replay, first_list_s, memory_mb, arguments.speed)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.encode(figures))
    lost = figures["read"] - figures["emitted"] - figures["rejected"] - figures["unanswered"]
    if lost:
        print(f"replay: {lost} records are not accounted for; see the logs", file=sys.stderr)
    return 1 if lost else 0


def measure_behaviour(settings: Settings, given: list[str]) -> str:
    """What users do to their lists in a made-up shop, as a table; and how many rows of the contract hold."""
    from model.evaluate import Protocol
    from scripts.evaluate import behaviour_of, encoder_of
    from scripts.report import contract, show_behaviour

    found = behaviour_of(encoder_of(settings, given), Protocol(seed=settings.seed, rules=settings.rules()))
    show_behaviour(found, "What users do to their lists, in a made-up shop (docs/behaviour.md)")
    return contract(found)


def _files(arguments, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    return data.read(arguments.events, arguments.items, media=settings.media() is not None)


def _read(arguments, settings: Settings) -> tuple[list[Event], pd.DataFrame]:
    """The events, in time order, those of one time in an order that is drawn, and the items; an event without an id
    gets one that no other replay has given.
    """
    name = arguments.data or arguments.events
    events, items = data.public(arguments.data) if arguments.data else _files(arguments, settings)
    valid, refused = data.check_events(events, f"{time.time_ns() // 1_000_000:x}-", settings.max_future_s)
    data.tell_refused(name, valid, refused)
    return drawn_order(valid, arguments.order_seed), items


class running:
    """The stack that runs, or one started for this replay and stopped after it; and when its job was submitted."""

    def __init__(self, place: stack.Stack) -> None:
        self._place, self._ours = place, not place.running()

    def __enter__(self) -> tuple[stack.Stack, float | None]:
        if not self._ours:
            console.print(f"the stack that runs in {self._place.run_dir} is used")
            return self._place, None
        self._place.up(parts=[part for part in stack.PARTS if part != "job"], supervised=True)
        submitted = time.monotonic()
        try:
            self._place.submit()
        except BaseException:
            self._place.down()
            raise
        return self._place, submitted

    def __exit__(self, *_) -> None:
        if self._ours:
            console.print("stopping the stack")
            self._place.down()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
