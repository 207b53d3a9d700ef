"""From a language model's tokens to one vector a text."""

from collections.abc import Mapping

import torch
from torch import nn


class MeanPooling(nn.Module):
    """The mean over a text's tokens, with unit length.

    Source: Reimers and Gurevych, Sentence-BERT, 2019, arXiv:1908.10084.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Shape: each of (texts, tokens) -> (texts, dim), float32."""
        hidden = self.model(**tokens).last_hidden_state.float()  # (texts, tokens, dim)
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return nn.functional.normalize(mean, dim=1)
