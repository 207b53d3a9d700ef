"""RecBole's models on a split that is given: runs in an environment of its own, made by scripts/offline.py.

    recbole_run.py FOLDER MODEL EPOCHS SEED

FOLDER/events/events.inter holds what every user did, in order; the last event of a user is never trained on, the one
before it decides when to stop. Each line on stdout is JSON: {"epoch", "valid"} after an epoch, at last {"lists",
"learning_s", "lists_s"}: the first ten items for every user, without those that the user had.
"""

import copy
import json
import logging
import sys
import time
import warnings

warnings.simplefilter("ignore")

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

K = 10
LENGTH = 20  # events that a model looks back, as many as Headrace's network
SETTINGS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": None},
    "train_neg_sample_args": None,  # softmax over all items
    "metrics": ["NDCG"],
    "valid_metric": "NDCG@10",
    "train_batch_size": 512,  # a quarter of RecBole's: few epochs have to do on a CPU
    "stopping_step": 3,
    "MAX_ITEM_LIST_LENGTH": LENGTH,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}


def main(folder: str, model: str, epochs: str, seed: str) -> None:
    given = {"data_path": folder, "checkpoint_dir": f"{folder}/saved", "epochs": int(epochs), "seed": int(seed)}
    config = Config(model=model, dataset="events", config_dict=SETTINGS | given)
    init_seed(config["seed"], True)
    logging.disable(logging.CRITICAL)
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    network = get_model(config["model"])(config, train.dataset)
    began = time.perf_counter()
    fit(config, network, train, valid)
    trained = time.perf_counter()
    found = lists(network, dataset, folder)
    print(
        json.dumps({"lists": found, "learning_s": trained - began, "lists_s": time.perf_counter() - trained}),
        flush=True,
    )


def fit(config, network, train, valid) -> None:
    """Train, and keep the weights of the best epoch."""
    best = {"valid": -1.0, "weights": None}

    def keep(epoch: int, score: float) -> None:
        print(json.dumps({"epoch": epoch + 1, "valid": round(float(score), 4)}), flush=True)
        if score > best["valid"]:
            best.update(valid=score, weights=copy.deepcopy(network.state_dict()))

    get_trainer(config["MODEL_TYPE"], config["model"])(config, network).fit(
        train, valid, False, saved=False, callback_fn=keep
    )
    network.load_state_dict(best["weights"])


@torch.no_grad()
def lists(network, dataset, folder: str) -> dict[str, list[str]]:
    """The first K items for each user, given all events but the last."""
    events = pd.read_csv(f"{folder}/events/events.inter", sep="\t", dtype=str)
    items, names = dataset.field2token_id["item_id"], dataset.field2id_token["item_id"]
    found = {}
    for user, rows in events.groupby("user_id:token", sort=False)["item_id:token"]:
        history = np.array([items[item] for item in rows.iloc[:-1]], np.int64)
        if len(history):
            best = rank(network, history, dataset.field2token_id["user_id"][user])
            found[user] = [str(names[row]) for row in best]
    return found


def rank(network, history: np.ndarray, user: int) -> list[int]:
    """Shape: history (t,) -> at most K item numbers, best first."""
    last = torch.zeros(1, LENGTH, dtype=torch.int64)
    recent = torch.from_numpy(history[-LENGTH:])
    last[0, : len(recent)] = recent
    network.eval()
    asked = {"user_id": torch.tensor([user]), "item_id_list": last, "item_length": torch.tensor([len(recent)])}
    scores = network.full_sort_predict(Interaction(asked)).flatten()
    scores[0] = -torch.inf  # the padding
    scores[torch.from_numpy(history)] = -torch.inf
    best = scores.topk(min(K, len(scores)))
    return best.indices[best.values > -torch.inf].tolist()


if __name__ == "__main__":
    main(*sys.argv[1:])
