"""What pictures and sounds of items are worth where titles say nothing: the same made-up shop with and without them.

    python scripts/media.py              measures them; a few minutes
    python scripts/media.py FOLDER       only writes the shops into a folder: events, items, media

Each shop (model/evaluation/gallery.py) is evaluated twice by scripts/evaluate.py, without media and with
`--media_prefix`. The last line of stdout is one line of JSON. Needs the extra `media`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs.settings import Settings, SettingsError, check_media, help_or_go_on

if __name__ == "__main__":
    help_or_go_on(sys.argv[1:], __doc__)

import pandas as pd
from rich.console import Console
from rich.table import Table

SHOPS = {"image": ("image", False), "audio": ("audio", False), "image-among-sounds": ("image", True)}
"""What decides, and whether items have media of the other kind too, drawn at random."""
SEED = 0


def write(folder: Path) -> None:
    """Write the shops: `image/events.csv`, `image/items.csv`, its pictures; `audio/...`."""
    from model.evaluation.gallery import gallery

    for name, (kind, other) in SHOPS.items():
        shop = folder / name
        shop.mkdir(parents=True, exist_ok=True)
        events, items = gallery(shop, kind, seed=SEED, other=other)
        pd.DataFrame(events).to_csv(shop / "events.csv", index=False)
        pd.DataFrame(items).to_csv(shop / "items.csv", index=False)


def measure(folder: Path, with_media: bool) -> dict:
    """The figures of Headrace on one shop."""
    result = folder / "result.json"
    files = ["--events", str(folder / "events.csv"), "--items", str(folder / "items.csv"), "--json", str(result)]
    words = [*files, "--baselines", "none", "--no-behaviour", "--replica_dir", str(folder / "replica")]
    words += ["--media_prefix", str(folder)] if with_media else []
    evaluate = str(Path(__file__).with_name("evaluate.py"))
    done = subprocess.run([sys.executable, evaluate, *words], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(result.read_text())["methods"]["headrace"]


def main(argv: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(argv[0] if argv else temporary)
        try:
            check_media(Settings(media_prefix=temporary))
        except SettingsError as error:
            print(f"headrace: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        write(folder)
        if argv:
            print(f"{folder}: {', '.join(SHOPS)}, each with events.csv, items.csv and media", file=sys.stderr)
            return
        found = {kind: {name: measure(folder / kind, name == "with") for name in ("without", "with")} for kind in SHOPS}
    table = Table("what decides", "media", "HR@10", "NDCG@10", "HR@10 of new items", "of new users")
    for kind, rows in found.items():
        for name, row in rows.items():
            groups = [f"{row.get(group, {}).get('hr_at_10', 0):.4f}" for group in ("new_items", "new_users")]
            table.add_row(kind, name, f"{row['hr_at_10']:.4f}", f"{row['ndcg_at_10']:.4f}", *groups)
    Console().print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
