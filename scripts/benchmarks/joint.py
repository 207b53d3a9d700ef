"""How many lists a second the joint scorer reranks, by precision, and what a step of its learning takes.

    python -m scripts.benchmarks.joint [--device cpu|cuda] [--encoder FOLDER] [--threads N] [--requests N] [--first N]

Texts are made up. Speed does not depend on the weights: without --encoder they are drawn, in the sizes of MiniLM-L6 (6
layers, 384 wide), so that nothing is fetched. Texts become tokens within the time. The last line is JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from model import device as devices
from model.bounds import JointConfig
from model.learning.train_joint import BATCH, JointTrainer, Looked
from model.scoring.joint import EVENTS, CrossEncoder, Joint

WORDS, ITEMS = 20_000, 2_000
ROUNDS, LEAST_S = 3, 2.0
PRECISIONS = {"cpu": ("int8", "float32"), "cuda": ("float16", "bfloat16", "float32")}


def mini(folder: Path) -> Path:
    """An encoder in the sizes of MiniLM-L6 with drawn weights, and a tokenizer that knows made-up words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "intermediate_size": 1_536, "num_hidden_layers": 6, "num_attention_heads": 12}
    BertModel(BertConfig(vocab_size=30_522, **sizes)).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *",:;", *(f"w{at}" for at in range(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def lists(requests: int, first: int) -> list[list[tuple[str, str]]]:
    """The pairs of so many requests: titles have 4 to 16 words, a history has `EVENTS` of them."""
    random = np.random.default_rng(0)

    def title() -> str:
        return " ".join(f"w{at}" for at in random.integers(WORDS, size=random.integers(4, 17)))

    titles = [title() for _ in range(ITEMS)]
    made = []
    for _ in range(requests):
        did = "; ".join(title() for _ in range(EVENTS))
        made.append([(did, titles[at]) for at in random.choice(ITEMS, first, replace=False)])
    return made


def seconds(act: Callable[[], object]) -> float:
    """Median of a few rounds, after a first one."""
    act()
    times, began = [], time.perf_counter()
    while len(times) < ROUNDS or time.perf_counter() - began < LEAST_S:
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return median(times)


def measure(device: str, folder: str | None, requests: int, first: int) -> dict[str, float]:
    """Lists a second by precision, and milliseconds of a step of learning."""
    asked, found = lists(requests, first), {}
    pairs = [pair for one in asked for pair in one]
    with tempfile.TemporaryDirectory() as made:
        encoder_folder = folder or str(mini(Path(made)))
        for precision in PRECISIONS[device.partition(":")[0]]:
            encoder = CrossEncoder(JointConfig(first, encoder_folder, device=device, precision=precision))
            joint = Joint(encoder, encoder.begin(), {})
            took = seconds(lambda: joint.logits(pairs))  # noqa: B023  # called within the round
            found[f"{precision}_lists_per_s"] = requests / took
        trainer = JointTrainer(encoder, {}, np.random.default_rng(0))
        scores = np.zeros(first, np.float32)
        step = [Looked("u", one[0][0], [item for _, item in one], scores, one[0][1], 0) for one in asked[:BATCH]]

        def learn() -> None:
            trainer._step(step)
            trainer.weights["head.bias"].item()  # waits for a card

        found["learning_ms_a_step"] = 1_000 * seconds(learn)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", metavar="FOLDER", help="a Hugging Face folder; without it weights are drawn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=64, help="that come together (default 64)")
    parser.add_argument("--first", type=int, default=20, help="items of each (default 20)")
    given = parser.parse_args()
    if reason := devices.missing(given.device):
        parser.error(f"--device {given.device}: {reason}")
    devices.use_threads(given.threads)
    found = measure(given.device, given.encoder, given.requests, given.first)
    print(json.dumps({name: round(value, 1) for name, value in found.items()}))


if __name__ == "__main__":
    main()
