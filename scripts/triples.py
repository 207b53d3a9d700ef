"""Write a made-up world in which a knowledge graph decides: events.csv, items.csv and triples.csv.

    python scripts/triples.py FOLDER
    python scripts/evaluate.py --events FOLDER/events.csv --items FOLDER/items.csv [--triples FOLDER/triples.csv]

Titles mean nothing. Each of 600 films is by one of 120 directors and of one of 5 countries; they come out one after the
other; a user loves three directors and takes their films that are out, the newest first, and for 20 % any other.
"""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

FILMS, DIRECTORS, COUNTRIES, USERS, EVENTS, LOVED = 600, 120, 5, 300, 6_000, 3
ANY = 0.2
_START_MS, _STEP_MS = 1_700_000_000_000, 60_000
_SYLLABLES = ["ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "xu", "za"]


def make(folder: Path, seed: int = 0) -> None:
    """Write the three files."""
    random = np.random.default_rng(seed)
    director, country = random.permutation(FILMS) % DIRECTORS, random.integers(COUNTRIES, size=FILMS)
    titles = ["".join(random.choice(_SYLLABLES, 5)).capitalize() for _ in range(FILMS)]
    loved = np.array([random.choice(DIRECTORS, LOVED, replace=False) for _ in range(USERS)])
    had: list[set[int]] = [set() for _ in range(USERS)]
    events = []
    for number in range(EVENTS):
        user = int(random.integers(USERS))
        out = np.arange(FILMS // 3 + (FILMS - FILMS // 3) * number // EVENTS)
        new = [film for film in out.tolist() if film not in had[user]]
        mine = [film for film in new if director[film] in loved[user]]
        film = int(random.choice(new)) if not mine or random.random() < ANY else mine[-1]
        had[user].add(film)
        events.append((f"u{user}", f"f{film}", "purchase", _START_MS + _STEP_MS * number))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "events.csv", "user_id,item_id,action,event_time_ms", events)
    _write(folder / "items.csv", "item_id,title", [(f"f{film}", title) for film, title in enumerate(titles)])
    facts = [(f"f{film}", "director", f"d{director[film]}") for film in range(FILMS)]
    facts += [(f"f{film}", "country", f"c{country[film]}") for film in range(FILMS)]
    _write(folder / "triples.csv", "head,relation,tail", facts)


def _write(file: Path, header: str, rows: Iterable[tuple]) -> None:
    with file.open("w", encoding="utf-8", newline="") as text:
        csv.writer(text).writerows([header.split(","), *rows])


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print((__doc__ or "").strip())
        raise SystemExit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    make(Path(sys.argv[1]))
