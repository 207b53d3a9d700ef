"""A made-up shop in which titles say nothing: what decides is on an item's picture, or in its sound.

A picture is of one colour with a figure on it, a sound is of one pitch; each item has noise of its own. A user likes
one look (a colour and a figure) or one pitch and takes such items, now and then any other.
"""

from io import BytesIO
from pathlib import Path

import numpy as np

COLOURS = {
    "red": (215, 35, 35), "blue": (35, 50, 215), "green": (30, 160, 50), "yellow": (225, 205, 40),
    "purple": (140, 40, 170), "grey": (128, 128, 128), "white": (240, 240, 240), "orange": (240, 130, 20),
}  # fmt: skip
FIGURES = ("disc", "square", "stripes")
LOOKS = len(COLOURS) * len(FIGURES)
PITCHES = [round(150 * 1.18**step) for step in range(LOOKS)]
"""Hertz: from 150 to 6,700."""
RATE = 16_000
_SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu", "va", "ze")
_SIDE, _SECONDS, _NOISE = 160, 0.6, 0.15
_BEGIN_MS, _APART_MS = 1_700_000_000_000, 60_000


def picture(look: int, random: np.random.Generator) -> bytes:
    """A PNG of a colour and a figure: its place, size and shade are drawn."""
    from PIL import Image, ImageDraw

    colour = np.array([*COLOURS.values()][look % len(COLOURS)])
    pixels = colour + random.normal(0, 14, (_SIDE, _SIDE, 3)) + random.normal(0, 12, 3)
    made = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw, figure = ImageDraw.Draw(made), FIGURES[look // len(COLOURS)]
    size, ink = int(random.integers(50, 80)), (15, 15, 15)
    x, y = (int(at) for at in random.integers(5, _SIDE - size - 5, 2))
    if figure == "disc":
        draw.ellipse((x, y, x + size, y + size), fill=ink)
    elif figure == "square":
        draw.rectangle((x, y, x + size, y + size), outline=ink, width=9)
    else:
        for at in range(int(random.integers(16)), _SIDE, 24):
            draw.line((at, 0, at, _SIDE), fill=ink, width=4)
    out = BytesIO()
    made.save(out, "PNG")
    return out.getvalue()


def sound(pitch: int, random: np.random.Generator) -> bytes:
    """A WAV of a tone with overtones: its loudness, beginning and noise are drawn."""
    import soundfile

    times = np.arange(int(_SECONDS * RATE)) / RATE
    hertz = PITCHES[pitch] * random.uniform(0.98, 1.02)
    tones = [np.sin(2 * np.pi * hertz * over * times) / over**2 for over in (1, 2, 3) if hertz * over < RATE / 2]
    wave = np.sum(tones, 0) * (times > random.uniform(0, 0.2)) + random.normal(0, 0.02, len(times))
    out = BytesIO()
    soundfile.write(out, 0.5 * random.uniform(0.1, 1) * wave / np.abs(wave).max(), RATE, format="WAV")
    return out.getvalue()


def gallery(
    folder: Path, kind: str, items: int = 480, users: int = 200, events: int = 4_000, seed: int = 0, other: bool = False
) -> tuple[list[dict], list[dict]]:
    """Write the media of a shop into a folder; its events and items, as rows of files.

    Args:
        kind: image or audio, which decides.
        other: each item has media of the other kind too, drawn at random.
    """
    random = np.random.default_rng(seed)
    looks, favourites = np.arange(items) % LOOKS, random.integers(LOOKS, size=users)
    media = {kind: _written(folder, kind, looks, random)}
    if other:
        more = "audio" if kind == "image" else "image"
        media[more] = _written(folder, more, random.permutation(looks), random)
    titles = [" ".join("".join(random.choice(_SYLLABLES, 3)) for _ in range(2)) for _ in range(items)]
    names = [dict(zip(media, row)) for row in zip(*media.values())]
    catalogue = [{"item_id": f"i{at}", "title": title} | name for at, (title, name) in enumerate(zip(titles, names))]
    had = np.zeros((users, items), bool)
    rows = []
    for number in range(events):
        who = int(random.integers(users))
        liked = looks == favourites[who] if random.random() > _NOISE else np.ones(items, bool)
        left = np.flatnonzero(liked & ~had[who])
        item = int(random.choice(left if len(left) else np.flatnonzero(~had[who])))
        had[who, item] = True
        at_ms = _BEGIN_MS + number * _APART_MS
        rows.append({"user_id": f"u{who}", "item_id": f"i{item}", "action": "purchase", "event_time_ms": at_ms})
    return rows, catalogue


def _written(folder: Path, kind: str, looks: np.ndarray, random: np.random.Generator) -> list[str]:
    """The names of the files of these looks, or pitches."""
    make, ending = (picture, "png") if kind == "image" else (sound, "wav")
    names = [f"{kind}-{number}.{ending}" for number in range(len(looks))]
    for name, look in zip(names, looks.tolist()):
        (folder / name).write_bytes(make(look, random))
    return names
