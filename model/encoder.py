"""The language model: any Hugging Face encoder, texts in, unit vectors out.

Importing transformers and reading the weights takes seconds. So they wait for the first text that has to be embedded,
and who only needs the version, or vectors that were kept, never loads torch.

Source: Reimers and Gurevych, Sentence-BERT, 2019, arXiv:1908.10084 (mean pooling over the tokens).
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from model.cache import Cache
from model.schema import HeadraceError, brief

if TYPE_CHECKING:
    import torch

    from model.pooling import MeanPooling

WEIGHTS = (".safetensors", ".bin")
_READ_BY_OTHERS = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "onnx/*", "openvino/*"]
"""Weights for other libraries: not fetched from a hub."""
_CHUNK = 2**20
MOST_UNKNOWN, LEAST_TOKENS = 0.3, 200
"""Where a larger share of so many tokens is unknown to the tokenizer, the log says that vectors say little."""
_told: set[str] = set()  # encoder versions of which this process has said so

logger = logging.getLogger(__name__)


class EncoderError(HeadraceError):
    """A model cannot be read: by which setting it was named, which it is, and why."""


def unreadable(setting: str, name: str | Path, wanted: str, error: Exception) -> EncoderError:
    """What to raise where a model cannot be read.

    >>> unreadable("encoder", "/m", "a model", KeyError("size"))
    EncoderError("encoder=/m: cannot be read: 'size'; a model is wanted, a folder or a name of Hugging Face's hub")
    """
    return EncoderError(
        f"{setting}={name}: cannot be read: {brief(error)}; "
        f"{wanted} is wanted, a folder or a name of Hugging Face's hub"
    )


class Encoder:
    """Embeds texts. An embedding is computed once per (text, encoder version) and, with `keep`, kept on disk.

    `version` names the weights: two encoders with the same name and other weights have different versions.

    Args:
        name: a folder, or a name that Hugging Face's hub knows.
        device: auto, cpu, cuda, cuda:1.
        keep: a folder of this process alone, where embeddings outlive it.
        threads: of torch in this process, on the CPU; None leaves them as they are.
        precision: auto, float32, bfloat16, float16 or int8. The vectors of int8 are of another version: their cosine
            with those of the others is .999, where the others differ by a rounding (.9999).
    """

    def __init__(
        self,
        name: str | Path,
        device: str = "auto",
        keep: Path | None = None,
        threads: int | None = None,
        precision: str = "auto",
    ) -> None:
        self._folder, self._device, self._threads, self._precision = folder_of(name), device, threads, precision
        self.version = f"{Path(name).name}-{fingerprint(self._folder)}" + ("-int8" if precision == "int8" else "")
        self.dim = int(json.loads((self._folder / "config.json").read_text())["hidden_size"])
        self._loading = Lock()
        self._loaded: LanguageModel | None = None
        self._memory: dict[bytes, bytes] = {}  # where nothing is kept on disk
        self._kept = Cache(keep) if keep else None
        self._counted = np.zeros(2, np.int64)  # tokens of the texts so far that are unknown, and all

    @property
    def folder(self) -> Path:
        """Where its weights are."""
        return self._folder

    def embed(self, texts: list[str]) -> np.ndarray:
        """Embed texts.

        Shape: (texts, dim), float32, unit length.
        """
        keys = [
            blake2b(f"{self.version}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
            for text in texts
        ]
        known = {key: raw for key in keys if (raw := self._find(key)) is not None}
        new = {key: text for key, text in zip(keys, texts) if key not in known}
        if new:
            computed = dict(zip(new, self._compute(list(new.values()))))
            self._keep(computed)
            known |= computed
        self._count(known.values())
        found = [np.frombuffer(known[key], np.float16, self.dim) for key in keys]
        return _unit(np.stack(found).astype(np.float32)) if texts else np.zeros((0, self.dim), np.float32)

    def _count(self, embedded: Iterable[bytes]) -> None:
        """Say once in a process that most texts are not in the encoder's languages."""
        if self.version in _told:
            return
        for raw in embedded:
            if len(raw) > 2 * self.dim:
                self._counted += np.frombuffer(raw, "<u2", 2, 2 * self.dim)
        unknown, tokens = self._counted.tolist()
        if tokens >= LEAST_TOKENS and unknown > MOST_UNKNOWN * tokens:
            _told.add(self.version)
            logger.warning(
                "%s: its tokenizer does not know %.0f %% of the tokens of the texts so far, whose vectors say little; "
                "give an encoder of their language, or a multilingual one, with --encoder (docs/operations.md, "
                "Languages)",
                self.version,
                100 * unknown / tokens,
            )

    def _find(self, key: bytes) -> bytes | None:
        """What was computed before, by an older release without the counts; what cannot be read is computed again."""
        raw = self._kept.get(key) if self._kept else self._memory.get(key)
        if raw is None or len(raw) not in (2 * self.dim, 2 * self.dim + 4):
            return None
        return raw if np.isfinite(np.frombuffer(raw, np.float16, self.dim)).all() else None

    def _keep(self, computed: dict[bytes, bytes]) -> None:
        if self._kept:
            self._kept.write({**computed})
        else:
            self._memory |= computed

    def load(self) -> "LanguageModel":
        """Load the model, if it is not loaded yet; any thread may ask for it.

        Raises:
            EncoderError: its tokenizer or its weights cannot be read.
        """
        with self._loading:
            self._loaded = self._loaded or self._load()
        return self._loaded

    def _load(self) -> "LanguageModel":
        try:
            return LanguageModel(self._folder, self._device, self._threads, self._precision)
        except Exception as error:  # of transformers, of the tokenizer, of torch
            raise unreadable("encoder", self._folder, "a model with its tokenizer", error) from error

    def close(self) -> None:
        """Let go of the folder where embeddings are kept."""
        if self._kept:
            self._kept.close()

    def _compute(self, texts: list[str]) -> list[bytes]:
        """Forward in batches of texts of similar length, so that little is padded. Of each its vector, float16, and how
        many of its tokens are unknown and how many there are, uint16.
        """
        by_length = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        vectors, counts = np.empty((len(texts), self.dim), np.float16), np.empty((len(texts), 2), "<u2")
        size = self.load().batch_size
        for start in range(0, len(texts), size):
            batch = by_length[start : start + size]
            vectors[batch], counts[batch] = self._forward([texts[at] for at in batch])
        return [vector.tobytes() + count.tobytes() for vector, count in zip(vectors, counts)]

    def _forward(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return self.load().forward_counted(texts)


class LanguageModel:
    """A tokenizer and a network, on their device."""

    def __init__(self, folder: Path, device: str, threads: int | None, precision: str = "auto") -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        from model import device as devices
        from model.pooling import MeanPooling

        logging.disable_progress_bar()
        if threads:
            torch.set_num_threads(threads)
        self._torch, self.device = torch, devices.choose("cpu" if precision == "int8" else device)
        self.dtype, self.batch_size = devices.dtype(self.device, precision), devices.batch_size(self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        longest = getattr(model.config, "max_position_embeddings", 512)
        self._max_tokens = min(self.tokenizer.model_max_length, longest, 512)
        pooled = MeanPooling(model).eval().to(self.device, self.dtype)
        self._run: Callable[[Mapping[str, torch.Tensor]], np.ndarray] = partial(self._in_torch, pooled)
        self.size_bytes = sum(weight.nbytes for weight in pooled.parameters())
        if precision == "int8":
            from model import int8

            compiled = int8.compiled(pooled, self._tokens(["one text", "and another one"]), threads)
            self._run, self.size_bytes = compiled, compiled.size_bytes

    def _in_torch(self, model: "MeanPooling", tokens: "Mapping[str, torch.Tensor]") -> np.ndarray:
        with self._torch.inference_mode():
            return model({name: tensor.to(self.device) for name, tensor in tokens.items()}).cpu().numpy()

    def _tokens(self, texts: list[str]) -> "dict[str, torch.Tensor]":
        return dict(
            self.tokenizer(texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt")
        )

    def forward(self, texts: list[str]) -> np.ndarray:
        """Shape: (texts, dim), float32, unit length."""
        return self._run(self._tokens(texts))

    def forward_counted(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """And of each text how many tokens are unknown to the tokenizer, and how many there are.

        Shape: (texts, dim), float32, unit length; (texts, 2).
        """
        tokens, unknown = self._tokens(texts), self.tokenizer.unk_token_id
        there = tokens["attention_mask"].bool()
        found = ((tokens["input_ids"] == (-1 if unknown is None else unknown)) & there).sum(1).cpu().numpy()
        counts = there.sum(1).cpu().numpy() - self.tokenizer.num_special_tokens_to_add()
        return self._run(tokens), np.stack([found, counts.clip(0)], 1)


def folder_of(name: str | Path) -> Path:
    """The folder itself, or the local copy of what the hub has under this name (fetched if it is not there yet)."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(name), ignore_patterns=_READ_BY_OTHERS))


def fingerprint(folder: Path) -> str:
    """Eight hexadecimal digits that follow from the weights' files."""
    digest = blake2b(digest_size=4)
    for file in sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS):
        digest.update(file.name.encode())
        with file.open("rb") as weights:
            while chunk := weights.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
