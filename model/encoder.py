"""The language model: any Hugging Face encoder, texts in, unit vectors out.

Source: Reimers and Gurevych, Sentence-BERT, 2019, arXiv:1908.10084 (mean pooling over the tokens).
"""

from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from rocksdict import Options, Rdict
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from model import device as devices

logging.disable_progress_bar()


class Encoder:
    """Embeds texts. An embedding is computed once per (text, encoder version) and, with `keep`, kept on disk.

    `version` names the weights: two encoders with the same name and other weights have different versions.

    Args:
        name: a folder, or a name that transformers can find.
        device: auto, cpu, cuda, cuda:1.
        keep: a folder of this process alone, where embeddings outlive it.
    """

    def __init__(self, name: str | Path, device: str = "auto", keep: Path | None = None) -> None:
        self.device = devices.choose(device)
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
        self.version = f"{Path(name).name}-{_fingerprint(model)}"
        self.dim = model.config.hidden_size
        self._model = model.to(self.device, devices.dtype(self.device))
        self._max_tokens = min(self._tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512), 512)
        self._kept = Rdict(str(keep), Options(raw_mode=True)) if keep else {}

    def embed(self, texts: list[str]) -> np.ndarray:
        """Embed texts.

        Shape: (texts, dim), float32, unit length.
        """
        keys = [blake2b(f"{self.version}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts) if key not in self._kept}
        if new:
            for key, vector in zip(new, self._compute(list(new.values()))):
                self._kept[key] = vector.tobytes()
        vectors = [np.frombuffer(self._kept[key], np.float16) for key in keys]
        return _unit(np.stack(vectors).astype(np.float32)) if texts else np.zeros((0, self.dim), np.float32)

    def close(self) -> None:
        """Let go of the folder where embeddings are kept."""
        if isinstance(self._kept, Rdict):
            self._kept.close()

    def _compute(self, texts: list[str]) -> np.ndarray:
        """Forward in batches of texts of similar length, so that little is padded."""
        by_length = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        vectors = np.empty((len(texts), self.dim), np.float16)
        size = devices.batch_size(self.device)
        for start in range(0, len(texts), size):
            batch = by_length[start : start + size]
            vectors[batch] = self._forward([texts[at] for at in batch])
        return vectors

    @torch.inference_mode()
    def _forward(self, texts: list[str]) -> np.ndarray:
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt")
        tokens = tokens.to(self.device)
        hidden = self._model(**tokens).last_hidden_state.float()  # (texts, tokens, dim)
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=1).cpu().numpy()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _fingerprint(model: torch.nn.Module) -> str:
    digest = blake2b(digest_size=4)
    for name, weights in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.contiguous().numpy().tobytes())
    return digest.hexdigest()
