"""Pictures and sounds made here, whose content decides; and media that are none, too large, or not ours to read."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from msgspec import Raw
from PIL import Image

from jobs.settings import Settings, SettingsError, check_media
from model.bounds import MediaConfig
from model.catalogue import Catalogue
from model.encoder import EncoderError
from model.evaluation.gallery import LOOKS, PITCHES, gallery, picture, sound
from model.finetune import Learner
from model.media import encoders, fetch, fusion
from model.media.blocks import blocks_of
from model.media.encoders import HubAudio, HubImages, LiteImages, LogMel, open_picture, open_sound
from model.media.fetch import InvalidMedia
from model.media.fusion import FusedEncoder
from model.schema import Event, Example, Item, ItemVector, decode_item, decode_item_vector
from model.score import Scorer, load, save, score
from model.scoring import media as media_signals
from model.scoring.feedback import nearest_to_queries
from model.scoring.media import MediaSignals
from model.scoring.network import GatedProjection, Network, Sizes
from model.signals import OPTIONAL
from model.statistics import ItemStatistics
from scripts import data
from scripts.evaluate import embed as embed_table
from tests.test_score import ids, request_after
from tests.test_udfs import DIM, VERSION, FakeEncoder
from udfs.embed import EmbedItems, EncoderConfig

RED, BLUE = 0, 1
MOST = 100_000


def in_a_process(program: str, timeout_s: float) -> subprocess.CompletedProcess:
    """A program run by another Python, at the root of the project."""
    root = Path(__file__).parent.parent
    return subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=timeout_s)


class Text(FakeEncoder):
    """Texts that say nothing."""

    dim = DIM

    def close(self) -> None:
        pass


class Bytes:
    """A media encoder whose vector is told by the first byte; notes what it encodes."""

    version, dim = "bytes-1", 4

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def open(self, raw: bytes) -> int:
        if raw[:1] == b"!":
            raise InvalidMedia("no media at all")
        return raw[0]

    def encode(self, opened: list[int]) -> np.ndarray:
        self.encoded += opened
        return np.eye(4, dtype=np.float32)[[first % 4 for first in opened]]


@pytest.fixture
def folder(tmp_path) -> Path:
    inside = tmp_path / "media"
    (inside / "below").mkdir(parents=True)
    (inside / "a.png").write_bytes(b"\x01picture")
    (inside / "below" / "b.png").write_bytes(b"\x02picture")
    (tmp_path / "secret.png").write_bytes(b"\x03secret")
    return inside


def fused(folder: Path, monkeypatch, keep: Path | None = None, **more) -> FusedEncoder:
    """Images and audio by `Bytes`."""
    monkeypatch.setattr(fusion, "image_encoder", lambda *_: Bytes())
    monkeypatch.setattr(fusion, "audio_encoder", lambda *_: Bytes())
    return FusedEncoder(Text(), MediaConfig(str(folder), most_bytes=MOST, **more), keep)


# What is on a picture, or in a sound


@pytest.mark.parametrize("make, encoder", [(picture, LiteImages), (sound, LogMel)], ids=["pictures", "sounds"])
def test_what_looks_or_sounds_alike_is_near(make, encoder):
    """Of three made of each look, or pitch, with noise of their own, the nearest of each is one of its kind."""
    random, encoder = np.random.default_rng(0), encoder()
    kinds = np.repeat(np.arange(0, LOOKS, 2), 3)
    vectors = encoder.encode([encoder.open(make(int(kind), random)) for kind in kinds])
    near = vectors @ vectors.T - 9 * np.eye(len(kinds))

    assert (len(kinds), encoder.dim) == vectors.shape
    assert np.allclose(1, np.linalg.norm(vectors, axis=1), atol=1e-4)
    assert 0.95 <= (kinds[near.argmax(1)] == kinds).mean()


def test_how_loud_a_sound_is_and_how_often_it_is_sampled_says_nothing():
    import soundfile

    encoder, times = LogMel(), np.arange(24_000) / 48_000
    wave = np.sin(2 * np.pi * 880 * times)

    def vector(wave: np.ndarray, rate: int) -> np.ndarray:
        out = BytesIO()
        soundfile.write(out, wave, rate, format="WAV")
        return encoder.encode([encoder.open(out.getvalue())])[0]

    assert 0.99 < vector(wave, 48_000) @ vector(0.05 * wave[::3], 16_000)
    assert not vector(0 * wave, 48_000).any(), "silence says nothing"


def test_titles_that_say_nothing_and_pictures_that_do(tmp_path):
    """Who viewed three red discs gets red discs, before anything is learnt; without pictures, by chance."""
    random, names = np.random.default_rng(0), [f"i{number}" for number in range(36)]
    looks = [(0, 9, 18)[number % 3] for number in range(36)]
    for name, look in zip(names, looks):
        (tmp_path / name).write_bytes(picture(look, random))
    items = [Item(name, title=f"title {name}", image=name) for name in names]
    hits = {}
    for prefix in ("", str(tmp_path)):
        text = Text()
        vectors = [one.vector for one in FusedEncoder(text, MediaConfig(prefix)).embed_items(items)]
        catalogue = Catalogue()
        catalogue.apply(ItemVector(name, "v", vector.astype("<f2").tobytes()) for name, vector in zip(names, vectors))
        events = [Event(f"e{at}", "u", "view", 1_000 * at, names[3 * at]) for at in range(3)]
        request = request_after(catalogue, events)
        (list_,) = score(Scorer.untrained(catalogue.vectors.shape[1]), ItemStatistics(), catalogue, [request], 6)
        hits[bool(prefix)] = sum(looks[names.index(name)] == looks[0] for name in ids(list_))

    assert 6 == hits[True] > hits[False]


def test_a_gallery_is_files_that_evaluate_reads(tmp_path):
    """The columns of files, and media that can be read."""
    for kind, opened in (("image", open_picture), ("audio", open_sound)):
        events, items = gallery(tmp_path, kind, items=24, users=4, events=30)
        for name, rows in (("events", events), ("items", items)):
            pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
        _, table = data.read(tmp_path / "events.csv", tmp_path / "items.csv", media=True)
        made = [data.as_item(row) for row in table.itertuples(index=False)]

        assert 24 == len([opened((tmp_path / getattr(item, kind)).read_bytes()) for item in made])
        assert LOOKS == len(set(PITCHES))


# Bytes that are none of it


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def bomb() -> bytes:
    out = BytesIO()
    Image.new("1", (8_000, 8_000)).save(out, "PNG")
    return out.getvalue()


BAD_PICTURES = {
    "text": (b"hello", "no picture that can be read"),
    "cut": (cut(picture(3, np.random.default_rng(0))), "truncated"),
    "bomb": (bomb(), "8000 x 8000 pixels: at most"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that can be read"),
    "sound": (sound(3, np.random.default_rng(0)), "no picture that can be read"),
}
BAD_SOUNDS = {
    "text": (b"hello", "no sound that can be read"),
    "cut": (cut(sound(3, np.random.default_rng(0))), "cut short"),
    "empty": (sound(3, np.random.default_rng(0))[:44], "cut short"),
    "picture": (picture(3, np.random.default_rng(0)), "no sound that can be read"),
}


@pytest.mark.parametrize("raw, reason", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_bytes_that_are_no_picture_have_a_reason(raw, reason):
    with pytest.raises(InvalidMedia, match=reason):
        open_picture(raw)


@pytest.mark.parametrize("raw, reason", BAD_SOUNDS.values(), ids=BAD_SOUNDS)
def test_bytes_that_are_no_sound_have_a_reason(raw, reason):
    with pytest.raises(InvalidMedia, match=reason):
        open_sound(raw)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_a_picture_of_any_mode_becomes_rgb_of_a_bounded_size(mode):
    """What cannot be seen through is white."""
    out = BytesIO()
    Image.new(mode, (1_500, 40)).save(out, "JPEG" if mode == "CMYK" else "PNG")
    opened = open_picture(out.getvalue())

    assert ("RGB", 512) == (opened.mode, opened.width)
    if mode in ("LA", "RGBA"):
        assert (255, 255, 255) == opened.getpixel((3, 3))


def greys(bits: int) -> np.ndarray:
    """A disc before a slope, of 8 bits; of 16, the same."""
    y, x = np.mgrid[:120, :120]
    eight = np.where((x - 50) ** 2 + (y - 60) ** 2 < 1_200, 10, x + 100).astype(np.uint8)
    return eight if bits == 8 else eight.astype(np.uint16) * 257


def file_of(pixels: np.ndarray, kind: str) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


EIGHT, SIXTEEN = greys(8), greys(16)
GREYS = {
    "16 bits, PNG": (SIXTEEN, "PNG"),
    "16 bits, TIFF": (SIXTEEN, "TIFF"),
    "16 bits, the other end first": (SIXTEEN.astype(">u2"), "TIFF"),
    "32 bits": (SIXTEEN.astype(np.int32), "TIFF"),
    "32 bits, few of them used": (EIGHT.astype(np.int32), "TIFF"),
    "fractions": (EIGHT / np.float32(255), "TIFF"),
    "fractions of 16 bits": (SIXTEEN.astype(np.float32), "TIFF"),
}


@pytest.mark.parametrize("pixels, kind", GREYS.values(), ids=GREYS)
def test_greys_of_any_depth_look_as_they_do_in_eight_bits(pixels, kind):
    opened, wanted = open_picture(file_of(pixels, kind)), open_picture(file_of(EIGHT, "PNG"))

    assert np.abs(np.asarray(opened, int) - np.asarray(wanted, int)).max() <= 1


def test_greys_without_a_known_white_fill_the_range():
    """Numbers below 0, or beyond 16 bits; what is no number is as 0, and of one grey alone it is black."""
    far = EIGHT * np.float32(1e4) - np.float32(1e6)
    broken = np.where(EIGHT == 10, np.float32("nan"), EIGHT / np.float32(255))
    opened = [np.asarray(open_picture(file_of(pixels, "TIFF"))) for pixels in (far, broken, 0 * far - 5)]

    assert [(0, 255), (0, 219), (0, 0)] == [(int(one.min()), int(one.max())) for one in opened]


def encoded(wave: np.ndarray, kind: str, subtype: str | None = None) -> bytes:
    import soundfile

    out = BytesIO()
    soundfile.write(out, wave.astype(np.float32), 16_000, format=kind, subtype=subtype)
    return out.getvalue()


NOISE = 0.1 * np.random.default_rng(0).standard_normal(48_000)


@pytest.mark.parametrize(
    "kind, subtype", [("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
)
def test_a_sound_that_is_cut_short_is_refused_whatever_its_format(kind, subtype):
    """The whole one is taken; no reason holds an address of memory."""
    raw = encoded(NOISE, kind, subtype)

    assert len(NOISE) == len(open_sound(raw))
    for share in (0.9, 0.5, 0.1):
        reason = "cut short|lost sync" if share > 0.1 else "cut short|lost sync|cannot|can be read"
        with pytest.raises(InvalidMedia, match=reason) as refused:
            open_sound(raw[: int(share * len(raw))])
        assert "object at" not in str(refused.value)


def test_an_mp3_that_announces_no_length_is_taken_as_it_is():
    """Its length would be a guess from its first frame."""
    raw = encoded(np.concatenate((0 * NOISE, NOISE)), "MP3").replace(b"Xing", b"....").replace(b"Info", b"....")

    assert all(0 < len(open_sound(raw[: int(share * len(raw))])) < 97_200 for share in (0.5, 0.75, 1))


def test_samples_beyond_any_loudness_are_refused_and_sixteen_bits_as_fractions_are_not():
    for wave in (NOISE * 1e20, np.append(NOISE, np.nan), np.append(NOISE, -np.inf)):
        with pytest.raises(InvalidMedia, match="no numbers, or beyond 2147483648"):
            open_sound(encoded(wave, "WAV", "FLOAT"))
    near = LogMel()
    one, other = (near.open(encoded(wave, "WAV", "FLOAT")) for wave in (NOISE, NOISE * 32_767))

    assert np.allclose(one, other, atol=1e-3)


def test_a_sound_shorter_than_a_window_is_refused():
    """32 ms; it would count as silence where the window is 0."""
    with pytest.raises(InvalidMedia, match="too short: 511 samples at 16000 Hz, 512 are wanted at least"):
        LogMel().open(encoded(NOISE[:511], "WAV"))

    assert LogMel().open(encoded(NOISE[:512], "WAV")).any()


# Where they lie


def reason_of(reference: str, prefix: str | Path, most: int = MOST) -> str:
    with pytest.raises(InvalidMedia) as refused:
        fetch.fetch(reference, str(prefix), most)
    return str(refused.value)


def test_files_below_the_prefix_are_read_by_any_name(folder):
    (folder / "link.png").symlink_to(folder / "below" / "b.png")
    names = ["below/b.png", "./below/../below/b.png", str(folder / "below/b.png"), f"file://{folder}/below/b.png"]

    assert [b"\x02picture"] * 5 == [fetch.fetch(name, str(folder), MOST) for name in [*names, "link.png"]]


def test_files_outside_the_prefix_are_not_read(folder):
    """By whatever name, and through links; of what is not there nothing is told that lies outside."""
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "out").symlink_to(folder.parent)
    (folder.parent / "media-more").mkdir()
    (folder.parent / "media-more" / "c.png").write_bytes(b"c")
    for name in (
        "../secret.png", "/etc/passwd", "link.png", "out/secret.png", "../nothing.png", "file:///etc/passwd",
        str(folder.parent / "media-more" / "c.png"), "below/../../secret.png",
    ):  # fmt: skip
        assert "is outside media_prefix" in reason_of(name, folder), name


def test_what_is_no_regular_file_of_a_bounded_size_is_not_read(folder):
    """50 MB are not read, whatever they are; a FIFO does not make anybody wait."""
    with (folder / "large.png").open("wb") as large:
        large.truncate(50_000_000)
    os.mkfifo(folder / "fifo.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "empty.png").touch()
    wanted = {
        "large.png": "50000000 bytes or more: at most 100000 are taken", "fifo.png": "is no regular file",
        "below": "is no regular file", "circle.png": "circle.png", "empty.png": "there is nothing in it",
        "nowhere.png": "No such file", "a\0.png": "null", "x" * 5_000: "too long", "https://shop/a.png": "No such file",
    }  # fmt: skip
    for name, reason in wanted.items():
        assert reason in reason_of(name, folder), name


@pytest.fixture(scope="module")
def server():
    """A shop with pictures below /media/, and what is not to be fetched."""

    class Shop(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/media/a.png": 200, "/media/a%20b.png": 200, "/media/large": 200, "/media/endless": 200}
            self.send_response(302 if self.path == "/media/moved" else known.get(self.path, 404))
            if self.path == "/media/moved":
                self.send_header("Location", "/secret")
            if self.path == "/media/large":
                self.send_header("Content-Length", "50000000")
            self.end_headers()
            self.wfile.write(b"x" * 300_000 if self.path == "/media/endless" else b"\x01picture")

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/media"
    server.shutdown()
    server.server_close()


def test_addresses_below_the_prefix_are_fetched(server):
    for name in ("a.png", "/a.png", f"{server}/a.png", "a b.png"):
        assert b"\x01picture" == fetch.fetch(name, server, MOST), name


def test_addresses_outside_the_prefix_are_not_asked(server):
    """Nor are redirects followed, nor more bytes taken than are allowed."""
    host = server.removesuffix("/media")
    for name in (
        f"{host}/secret", "../secret", "%2e%2e/secret", "%252e%252e/secret", "..%5csecret", f"{host}/media-more/a.png",
        "https://elsewhere/media/a.png", f"{host}@elsewhere/media/a.png", "file:///etc/passwd", "x::file:///etc/passwd",
    ):  # fmt: skip
        assert "is outside media_prefix" in reason_of(name, server), name
    wanted = {
        "moved": "HTTP 302: a redirect", "nowhere": "HTTP 404", "large": "50000000 bytes or more",
        "endless": "bytes or more: at most",
    }  # fmt: skip
    for name, reason in wanted.items():
        assert reason in reason_of(name, server), name


@pytest.fixture(scope="module")
def slow_server():
    """It accepts at once, then sends a byte every 50 ms: of the body, of the headers, or of a handshake's 16 KB."""
    server = socket.create_server(("127.0.0.1", 0))

    def drip(line: socket.socket) -> None:
        with line, suppress(OSError):
            asked = line.recv(1_000)
            begun = b"HTTP/1.1 200 OK\r\n\r\n" if b"/body" in asked else b"HTTP/1.1 200 OK\r\nX-Slow: "
            line.sendall(b"\x16\x03\x03\x3f\xff" if asked[:1] == b"\x16" else begun)
            while line.send(b"x"):
                time.sleep(0.05)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=[server.accept()[0]], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{server.getsockname()[1]}"
    server.close()


def fetching() -> int:
    return sum(thread.name == "fetch-media" for thread in threading.enumerate())


@pytest.mark.parametrize("address", ["http://{}/body", "http://{}/headers", "https://{}/handshake"])
def test_a_slow_server_is_given_up_at_the_deadline(slow_server, address):
    """Wherever it is slow; its connection is cut, so that no thread is left."""
    began = time.monotonic()
    with pytest.raises(InvalidMedia, match=r"not here after 0\.3 s"):
        fetch.fetch("a.png", address.format(slow_server), MOST, 0.3)

    assert time.monotonic() - began < 2
    while fetching() and time.monotonic() - began < 5:
        time.sleep(0.02)
    assert 0 == fetching()


def test_a_name_server_or_a_store_that_hangs_is_given_up(monkeypatch):
    """Threads that nobody can end are bounded in number: when all hang, the next fetch says so, no later."""
    end = threading.Event()
    monkeypatch.setattr(fetch, "_FREE", threading.BoundedSemaphore(2))
    monkeypatch.setattr(fetch, "MOST_FETCHES", 2)
    monkeypatch.setattr(fetch, "_of_store", lambda *_: end.wait(30))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: end.wait(30))
    began, reasons = time.monotonic(), []
    for prefix in ("http://shop.example/media", "memory://media", "memory://media"):
        with pytest.raises(InvalidMedia) as refused:
            fetch.fetch("a.png", prefix, MOST, 0.2)
        reasons.append(str(refused.value))
    threads = [thread for thread in threading.enumerate() if thread.name == "fetch-media"]
    seconds = time.monotonic() - began
    end.set()
    for thread in threads:
        thread.join()

    assert seconds < 2 and 2 == len(threads) and all(thread.daemon for thread in threads)
    assert ["'a.png': not here after 0.2 s; send the item again"] * 2 == reasons[:2]
    assert "'a.png': not fetched: 2 others hang; send the item again" == reasons[2]


def test_a_fetch_that_hangs_does_not_keep_a_process_from_ending():
    asked = (
        "import time; from model.media import fetch; fetch._of_store = lambda *_: time.sleep(60)\n"
        "try: fetch.fetch('a.png', 'memory://media', 9, 0.1)\n"
        "except fetch.InvalidMedia as error: print(error)"
    )
    done = in_a_process(asked, 30)

    assert (0, "'a.png': not here after 0.1 s; send the item again\n") == (done.returncode, done.stdout), done.stderr


# What becomes of an item


def test_each_part_has_its_place_and_what_is_missing_is_zeros(folder, monkeypatch):
    """The text's is of length 1, the others of their scale; the version names them, and a query has it too."""
    encoder = fused(folder, monkeypatch, scale=0.5, vector_dim=3)
    items = [
        Item("a", "A", image="a.png", vector=Raw(b"[0, 3e5, 0]")), Item("b", "B", audio="below/b.png"), Item("c", "C"),
    ]  # fmt: skip
    a, b, c = (one.vector for one in encoder.embed_items(items))

    assert f"{VERSION}+image:bytes-1:4x0.5+audio:bytes-1:4x0.5+vector:given:3x0.5" == encoder.version
    assert encoder.blocks == blocks_of(encoder.version) and DIM + 11 == encoder.dim
    assert np.allclose(FakeEncoder.vector("A"), a[:DIM]) and np.allclose(1, np.linalg.norm(a[:DIM]))
    assert [0, 0.5, 0, 0, 0, 0, 0, 0, 0, 0.5, 0] == a[DIM:].tolist()
    assert [0, 0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0] == b[DIM:].tolist()
    assert not c[DIM:].any() and (encoder.embed(["C"])[0] == c).all()


def test_broken_media_leave_an_item_without_that_part(folder, monkeypatch):
    """Each with its reason; the others of the item stand."""
    (folder / "broken.png").write_bytes(b"!")
    encoder = fused(folder, monkeypatch, vector_dim=2)
    bad = {
        b"[1]": "1 numbers: 2 are wanted", b'"x"': "an array of 2 numbers is wanted", b'[1, "x"]': "is wanted",
        b"[0, 0]": "nothing but zeros", b"{}": "is wanted", b"[1, null]": "is wanted",
    }  # fmt: skip
    broken = [Item("i", "T", image="broken.png", audio="a.png", vector=Raw(raw)) for raw in bad]
    made = encoder.embed_items([*broken, Item("n", vector=Raw(b"null"))])

    for one, reason in zip(made, bad.values()):
        assert ["image: 'broken.png': no media at all"] == one.reasons[:1] and one.reasons[1].startswith("vector: ")
        assert reason in one.reasons[1]
        assert not one.vector[DIM : DIM + 4].any() and [0, 1, 0, 0, 0, 0] == one.vector[DIM + 4 :].tolist()
    assert [] == made[-1].reasons


def test_the_first_that_is_named_is_the_first_of_the_file(folder, monkeypatch, capsys):
    """Though items are embedded in an order that is drawn; of an item all reasons count."""
    items = [
        {"item_id": f"i{number}", "title": "T", "text": "", "categories": [], "image": f"none{number}.png"}
        for number in range(40)
    ]
    table = pd.DataFrame([{**items[0], "image": "a.png"}, *items[1:]])
    embed_table(
        table.assign(audio=["none.wav" if at == 3 else "" for at in range(40)]), fused(folder, monkeypatch), seed=0
    )

    assert "items go on without 40 media; the first: item 'i1': image: 'none1.png'" in capsys.readouterr().err


def test_media_are_encoded_once_whatever_their_names(folder, tmp_path, monkeypatch):
    """Also by the next process; other bytes under the same name are encoded, and told by the content's hash."""
    (folder / "same.png").write_bytes(b"\x01picture")
    items = [Item("a", "A", image="a.png"), Item("b", "A", image="same.png"), Item("c", "A")]
    first = fused(folder, monkeypatch, tmp_path / "kept")
    before = first.embed_items(items[:1])[0]
    hashes = [one.content_hash for one in first.embed_items(items)]
    first.close()
    second = fused(folder, monkeypatch, tmp_path / "kept")
    again = second.embed_items(items)[0]
    (folder / "a.png").write_bytes(b"\x02changed")
    changed = second.embed_items(items)[0]
    second.close()

    assert [1] == first._encoders["image"].encoded and [2] == second._encoders["image"].encoded
    assert (before.vector == again.vector).all() and not (before.vector == changed.vector).all()
    assert hashes[0] == hashes[1] == before.content_hash == again.content_hash
    assert 3 == len({hashes[0], hashes[2], changed.content_hash})


def test_a_micro_batch_ends_whatever_a_server_does(folder, monkeypatch):
    """What could not be fetched in time has a reason."""
    monkeypatch.setattr(fusion, "PATIENCE_S", -1.0)
    (made,) = fused(folder, monkeypatch).embed_items([Item("a", image="a.png")])

    assert ["image: 'a.png': not fetched: others took -1 s; send the item again"] == made.reasons


def test_pictures_and_sounds_share_the_time_of_a_micro_batch(slow_server, monkeypatch):
    """20 items with both, of a server that never ends: each has its reasons, and all together take no longer."""
    monkeypatch.setattr(fusion, "PATIENCE_S", 0.6)
    encoder = fused(f"http://{slow_server}/body", monkeypatch)
    began = time.monotonic()
    made = encoder.embed_items([Item(f"i{at}", image=f"{at}.png", audio=f"{at}.wav") for at in range(20)])

    assert time.monotonic() - began < 2
    assert [2] * 20 == [len(one.reasons) for one in made]
    assert made[0].reasons[0].startswith("image: '0.png': not here after 0.")
    assert "audio: '19.wav': not fetched: others took 0.6 s; send the item again" == made[19].reasons[1]


def test_media_that_a_model_cannot_take_spoil_no_other(folder, monkeypatch):
    """They have a reason each."""
    (folder / "odd.png").write_bytes(b"\x07")

    class Picky(Bytes):
        def encode(self, opened):
            if 7 in opened:
                raise RuntimeError("kernel size can't be\ngreater than the input")
            return super().encode(opened)

    encoder = fused(folder, monkeypatch)
    encoder._encoders["image"] = Picky()
    good, odd = encoder.embed_items([Item("a", image="a.png"), Item("o", image="odd.png")])

    assert [] == good.reasons and good.vector[DIM : DIM + 4].any()
    assert ["image: 'odd.png': bytes-1 cannot encode it: kernel size can't be greater than the input"] == odd.reasons


def rows_of(encoder, media: MediaConfig | None, *values: bytes | None) -> list[tuple]:
    embed = EmbedItems(EncoderConfig("tiny", "cpu", 1, media=media), "/nowhere", max_bytes=10_000)
    embed._encoder = encoder
    rows = [(b"k", value, "items", 1, 40 + at) for at, value in enumerate(values)]
    rows.append((None, None, None, None, None))
    answer = embed.eval(pd.DataFrame(rows, columns=["item_id", "value", "topic", "partition", "offset"]))
    answer = answer.astype(object).where(answer.notna(), None)
    return [*answer.itertuples(index=False, name=None)]


def test_an_item_with_broken_media_goes_on_and_is_told(folder, monkeypatch):
    """Both leave the step: the vector for the catalogue, the reason for `rejected-events`, with the record's place."""
    encoder = fused(folder, monkeypatch)
    good, bad, none, gone, tick = rows_of(
        encoder, MediaConfig(str(folder)),
        b'{"item_id":"a","title":"A","image":"a.png"}', b'{"item_id":"b","title":"B","image":"../secret.png"}',
        b"{", None,
    )  # fmt: skip
    told = json.loads(bad[2])

    assert ("a", None) == (good[0], good[2]) and (None, None) == none[:2] and (None, None, None) == tick
    assert ("items", 1, 41) == (told["source"], told["partition"], told["offset"])
    assert "image: '../secret.png' is outside media_prefix" == told["reason"]
    [(_, _, odd), _] = rows_of(encoder, MediaConfig(str(folder)), b'{"item_id":"a","image":{"url":1},"audio":[3]}')
    wanted = "a file or an address is wanted, as text"
    assert f"image: {wanted}; audio: {wanted}" == json.loads(odd)["reason"]
    assert encoder.version == decode_item_vector(bad[1]).encoder_version == decode_item_vector(good[1]).encoder_version
    assert decode_item_vector(gone[1]).deleted


def test_off_an_item_is_its_text_whatever_else_it_has():
    """Not a byte is another, and of a `vector` that is none nobody knows."""
    plain, more = b'{"item_id":"a","title":"A"}', b'{"item_id":"a","title":"A","image":"x","vector":{"no":[1]}}'
    rows = rows_of(Text(), None, plain, more)

    assert rows[0] == rows[1] and rows[0][2] is None
    assert decode_item(plain) == Item("a", "A")


# What is made of the vectors


def test_gates_begin_open_and_learn_what_counts():
    """Where only the second part decides, and the first is noise, the first one's gate closes."""
    torch.manual_seed(0)
    project = GatedProjection((4, 4), 2)
    optimizer = torch.optim.Adam(project.parameters(), 0.02)
    x = torch.randn(2_000, 8)
    wanted = x[:, 4:6] * 2

    assert torch.allclose(project(x), torch.nn.functional.linear(x, project.weight), atol=1e-6)
    for _ in range(300):
        optimizer.zero_grad()
        (project(x) - wanted).square().mean().backward()
        optimizer.step()
    gates = project.opened(x).mean(0)

    assert gates[0] < 0.6 < gates[1]


def test_a_gate_knows_what_is_there():
    """An item without a picture may lean on its text more than the same text beside one."""
    project = GatedProjection((2, 2), 2)
    torch.nn.init.constant_(project.gates.weight[:1, -1:], -9.0)
    with_picture, without = torch.tensor([[1.0, 0, 1, 0]]), torch.tensor([[1.0, 0, 0, 0]])

    assert project.opened(with_picture)[0, 0] < 0.01
    assert project.opened(without)[0, 0] > 0.99


def test_without_media_a_network_has_no_gates():
    names = dict(Network(Sizes(8), 3).named_parameters())

    assert "project.weight" in names and not any("gates" in name for name in names)


def media_world(version: str = "text-1+image:bytes-1:8x1") -> Catalogue:
    """Texts of 8 numbers, each alike, and pictures of 8; every other item has one."""
    random, catalogue = np.random.default_rng(0), Catalogue()
    for number in range(20):
        vector = np.zeros(16)
        vector[number % 8] = 1
        vector[8:] = random.standard_normal(8) * (number % 2)
        catalogue.apply([ItemVector(f"i{number}", version, vector.astype("<f2").tobytes())])
    return catalogue


def test_versions_keep_their_gates(tmp_path):
    """A learner makes them for such a catalogue, learns them, and they are read again."""
    catalogue = media_world()
    learner = Learner(catalogue)
    examples = []
    for user in range(40):
        events = [Event(f"e{at}", "u", "click", 1_000 * at, f"i{(user + 3 * at) % 20}") for at in range(6)]
        for at in range(1, 6):
            interests = request_after(catalogue, events[:at]).interests
            item = events[at].item_id
            examples.append(Example(f"u{user}", f"u{user}-{at}", 1_000 * at, item, "click", interests))
    learner.add(examples)
    learner.fine_tune()
    learner.add([Example("v", "v-1", 9_000, "i1", "click", examples[0].interests)])
    made = learner.fine_tune()
    again = load(save(made, str(tmp_path), "v1", {}))

    assert (8, 8) == again.network.project.widths
    assert made.network.project.gates.weight.abs().max() > 0, "they have learnt"
    assert all(torch.equal(one, other) for one, other in zip(made.parameters(), again.parameters()))


def test_a_search_finds_a_text_whatever_pictures_an_item_has():
    """A picture makes a vector longer, and its text no less near."""
    catalogue = media_world()
    query = np.zeros(16, np.float32)
    query[3] = 1
    table = Scorer.untrained(16).table(ItemStatistics(), catalogue)
    batch = SimpleNamespace(queries=torch.from_numpy(query[None]))

    assert {"i3", "i11", "i19"} == {catalogue.item_ids[row] for row in nearest_to_queries(table, batch, 3)[0]}


@pytest.mark.parametrize("exact", [16_384, 19], ids=["all compared", "too many to compare"])
def test_each_kind_of_media_is_a_signal(exact, monkeypatch):
    """How near an item's picture is to those of the last items; 0 of an item, or a user, without one."""
    monkeypatch.setattr(media_signals, "EXACT", exact)
    catalogue = media_world()
    scorer = Scorer.untrained(16, [MediaSignals(("image",))], catalogue.encoder_version)
    table = scorer.table(ItemStatistics(), catalogue)
    rows = [catalogue.item_ids.index(name) for name in ("i1", "i3", "i2")]
    history = np.array([[-1, rows[2], rows[0]], [-1, -1, rows[2]]], np.int32)
    batch = SimpleNamespace(host=SimpleNamespace(history=history))
    into = np.zeros((2, 4, 1), np.float32)
    (family,) = scorer.optional
    wanted = np.array([[*rows, -1]] * 2)
    family.signals(table, batch, SimpleNamespace(host_rows=wanted), into)
    carried = family.carried(table, batch, wanted)
    candidates = family.candidates(table, batch)

    assert into[0, 0, 0] > 5 and into[0, 0, 0] > into[0, 1, 0] + 1
    assert not into[0, 2:].any() and np.abs(into[1]).max() < 1e-6
    assert 2 == carried[0, 0].argmax() and not carried[0, 2].any()
    if exact > 20:
        assert rows[0] in candidates[0] and (candidates[1] == -1).all()
        assert all(catalogue.vectors[row, 8:].any() for row in candidates[0] if row >= 0)
    else:
        assert (2, 0) == candidates.shape


def test_a_picture_is_the_reason_of_an_item():
    """Where it weighs more than all else; named with the item that it looks like."""
    catalogue = media_world()
    picture_of = np.frombuffer(catalogue.vectors[catalogue.item_ids.index("i5")].astype("<f2").tobytes(), "<f2").copy()
    picture_of[:8] = [0] * 7 + [1]
    catalogue.apply([ItemVector("twin", catalogue.encoder_version, picture_of.tobytes())])
    scorer = Scorer.untrained(16, [MediaSignals(("image",))], catalogue.encoder_version)
    with torch.no_grad():
        scorer.ranker.order.mean[-1] = 9.0
    request = request_after(catalogue, [Event(f"e{at}", "u", "view", 1_000 * at, f"i{at}") for at in (2, 5, 8)])
    (list_,) = score(scorer, ItemStatistics(), catalogue, [request], 2)

    (twin,) = [one for one in list_ if one.item_id == "twin"]
    assert ("image", ["i5"]) == (twin.reasons[0].signal, twin.reasons[0].items)


def test_the_signals_are_those_of_the_media_that_are_on(tmp_path):
    assert () == Settings().families()
    for given, names in (
        ({"media_prefix": "/srv"}, ("image", "audio")),
        ({"vector_dim": 8}, ("vector",)),
        ({"media_prefix": "/srv", "image_encoder": "none", "vector_dim": 8}, ("audio", "vector")),
    ):
        (family,) = Settings(**given).families()
        assert names == family.open({}).names
        assert set(names) <= OPTIONAL.keys()


def test_evaluate_makes_the_vectors_that_the_job_makes(folder, monkeypatch, capsys):
    """By the same code; what cannot be used is counted and the first is named."""
    encoder = fused(folder, monkeypatch)
    items = pd.DataFrame({"item_id": ["a", "b"], "title": "T", "text": "", "image": ["a.png", "../secret.png"]})
    items["categories"] = [[], []]
    catalogue = embed_table(items, encoder, seed=0)
    (row, *_) = rows_of(encoder, MediaConfig(str(folder)), b'{"item_id":"a","title":"T","image":"a.png"}')

    assert encoder.version == catalogue.encoder_version
    at = catalogue.item_ids.index("a")
    assert (np.frombuffer(decode_item_vector(row[1]).vector, "<f2") == catalogue.vectors[at].astype("<f2")).all()
    assert "without 1 media; the first: item 'b': image: '../secret.png' is outside" in capsys.readouterr().err


def test_columns_of_media_are_read_where_they_are_wanted(tmp_path, capsys):
    """A vector that is none stays as it is: the item will say why it goes on without."""
    (tmp_path / "e.csv").write_text("user_id,item_id,event_time_ms\nu,a,1700000000000\n")
    (tmp_path / "i.csv").write_text('item_id,title,image,vector\na,A,a.png,"[1, 2]"\nb,B,,oops\n')
    _, items = data.read(tmp_path / "e.csv", tmp_path / "i.csv", media=True)
    a, b = (data.as_item(row) for row in items.itertuples(index=False))
    _, off = data.read(tmp_path / "e.csv", tmp_path / "i.csv")

    assert ("a.png", b"[1,2]", None, b'"oops"') == (a.image, bytes(a.vector), b.image, bytes(b.vector))
    assert {"image": "a.png", "vector": [1, 2]} == data.media_of(next(items.itertuples()))
    assert [*data.ITEM_COLUMNS] == [*off.columns] and "passed over: image, vector" in capsys.readouterr().err


def test_a_vector_that_is_nested_too_deeply_stays_as_it_is(tmp_path):
    (tmp_path / "e.csv").write_text("user_id,item_id,event_time_ms\nu,a,1700000000000\n")
    (tmp_path / "i.csv").write_text(f"item_id,title,vector\na,A,{'[' * 5_000}\n")
    _, items = data.read(tmp_path / "e.csv", tmp_path / "i.csv", media=True)

    assert "[" * 5_000 == items["vector"][0]


# Any model of transformers


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    from transformers import (
        ViTConfig,
        ViTImageProcessorPil,
        ViTModel,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Model,
    )

    root, sizes = tmp_path_factory.mktemp("hub"), {"num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    ViTModel(ViTConfig(hidden_size=16, intermediate_size=16, image_size=32, patch_size=16, **sizes)).save_pretrained(
        root / "vit"
    )
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / "vit")
    small = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 4), "num_feat_extract_layers": 2}
    wav = Wav2Vec2Config(hidden_size=16, intermediate_size=16, num_conv_pos_embeddings=4, **small, **sizes)
    wav.num_conv_pos_embedding_groups = 2
    Wav2Vec2Model(wav).save_pretrained(root / "wav2vec")
    Wav2Vec2FeatureExtractor().save_pretrained(root / "wav2vec")
    return root


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name, made, media", [("vit", HubImages, picture), ("wav2vec", HubAudio, sound)], ids=["vision", "audio"]
)
def test_any_model_of_transformers_by_folder(models, name, made, media):
    """The same vectors for the same bytes in every process, of unit length; the version follows the weights."""
    random, one, other = np.random.default_rng(0), *(made(str(models / name), "cpu") for _ in range(2))
    raws = [media(kind, random) for kind in (0, 5)]
    vectors = one.encode([one.open(raw) for raw in raws])

    assert (2, encoders.MEDIA_DIM) == vectors.shape and np.allclose(1, np.linalg.norm(vectors, axis=1), atol=1e-4)
    assert np.allclose(vectors[1], other.encode([other.open(raws[1])])[0], atol=1e-5)
    assert one.version == other.version and one.version.startswith(f"{name}-")
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting, name", [("image_encoder", "vit"), ("audio_encoder", "wav2vec")])
def test_a_model_that_cannot_be_read_is_no_fault_of_a_file(models, tmp_path, setting, name):
    """It is told by its setting, once, and ends the work."""
    random = np.random.default_rng(0)
    (tmp_path / "a.png").write_bytes(picture(3, random))
    (tmp_path / "a.wav").write_bytes(sound(3, random))
    broken = tmp_path / "broken"
    shutil.copytree(models / name, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    encoder = FusedEncoder(Text(), MediaConfig(str(tmp_path), **{setting: str(broken)}))

    with pytest.raises(
        EncoderError, match=f"^{setting}={broken}: cannot be read: .*; an? (vision|audio) model is wanted"
    ):
        encoder.embed_items([Item("a", image="a.png", audio="a.wav")])


@pytest.mark.filterwarnings("ignore")
def test_odd_pictures_and_sounds_stop_no_model(models, tmp_path):
    """One pixel, one line of pixels, one sample: a vector or a reason each, and the others have theirs."""
    import soundfile

    random = np.random.default_rng(0)
    for name, size in (("dot", (1, 1)), ("line", (1, 90)), ("row", (90, 1)), ("three", (3, 3))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    (tmp_path / "good.png").write_bytes(picture(3, random))
    (tmp_path / "good.wav").write_bytes(sound(3, random))
    soundfile.write(tmp_path / "short.wav", np.ones(1) * 0.1, 16_000)
    soundfile.write(tmp_path / "nine.wav", np.ones(9) * 0.1, 16_000)
    pictures = [Item(name, image=f"{name}.png") for name in ("dot", "line", "good", "row", "three")]
    sounds = [Item(name, audio=f"{name}.wav") for name in ("short", "good", "nine")]
    for encoders_ in ({}, {"image_encoder": str(models / "vit"), "audio_encoder": str(models / "wav2vec")}):
        made = FusedEncoder(Text(), MediaConfig(str(tmp_path), **encoders_)).embed_items([*pictures, *sounds])
        for item, one in zip([*pictures, *sounds], made):
            assert one.vector[DIM:].any() or one.reasons or item.item_id in ("short", "nine")
            assert all(reason.startswith((f"image: '{item.image}", f"audio: '{item.audio}")) for reason in one.reasons)
        assert made[2].vector[DIM:].any() and made[6].vector[DIM:].any()


# Settings


def test_what_is_missing_is_told_before_the_start(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    wanted = {
        "no such folder": {"media_prefix": str(tmp_path / "nowhere")},
        "fsspec knows no foo": {"media_prefix": "foo://x"},
        "no address": {"media_prefix": "https://"},
        "there is no config.json": {"image_encoder": str(tmp_path / "model")},
        "no such folder here": {"audio_encoder": "/nowhere/model"},
        "no encoder of this kind": {"image_encoder": "log-mel"},
    }
    for reason, given in wanted.items():
        with pytest.raises(SettingsError, match=reason):
            check_media(Settings(**{"media_prefix": str(tmp_path)} | given))
    check_media(Settings(media_prefix=str(tmp_path)))
    monkeypatch.setattr("jobs.settings.find_spec", lambda name: None)
    check_media(Settings(vector_dim=8))
    check_media(Settings(media_prefix=str(tmp_path), image_encoder="none", audio_encoder="none"))
    with pytest.raises(SettingsError, match=r"soundfile cannot be imported here: pip install '.\[media\]'"):
        check_media(Settings(media_prefix=str(tmp_path), image_encoder="none"))


def test_off_is_none_and_a_folder_is_given_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert Settings().media() is None
    assert str(tmp_path / "m") == Settings(media_prefix="m").media().prefix
    assert "/srv/m" == Settings(media_prefix="file:///srv/m").media().prefix
    assert "s3://bucket/m" == Settings(media_prefix="s3://bucket/m").media().prefix
    assert ("", 8) == (Settings(vector_dim=8).media().prefix, Settings(vector_dim=8).media().vector_dim)


def test_off_imports_nothing_of_it():
    asked = (
        "import sys, model.finetune, model.score, jobs.settings, model.encoder;"
        "ours = ('model.media.', 'model.scoring.media', 'PIL', 'soundfile');"
        "print([name for name in sys.modules if name.startswith(ours)])"
    )
    done = in_a_process(asked, 120)

    assert "['model.media.blocks']\n" == done.stdout, done.stderr


def test_who_embeds_queries_alone_loads_no_torch(tmp_path):
    """The version is known without: `embed` starts no slower."""
    asked = (
        "import sys; from types import SimpleNamespace; from model.bounds import MediaConfig;"
        "from model.media.fusion import FusedEncoder;"
        f"made = FusedEncoder(SimpleNamespace(version='text-1', dim=8), MediaConfig({str(tmp_path)!r}));"
        "print(made.version, 'torch' in sys.modules)"
    )
    done = in_a_process(asked, 120)

    wanted = "text-1+image:efficientnet-lite0-colours-57934424:256x1+audio:log-mel-1:128x1 False\n"
    assert wanted == done.stdout, done.stderr
