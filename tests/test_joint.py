"""The joint scorer: an encoder with random weights that must behave, and a world that only pairs of texts decide."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import udfs.replica
import udfs.statistics
import udfs.texts
import udfs.worker
from jobs.settings import Settings, SettingsError, check_joint
from model import registry
from model.bounds import JointConfig
from model.finetune import Learner
from model.interest import Rules
from model.learning import train_joint
from model.learning.train_joint import JointTrainer, Looked
from model.schema import item_key
from model.score import JOINT, Scorer, load, save, score
from model.scoring.joint import CrossEncoder, Joint, history
from model.scoring.network import Sizes
from model.statistics import ItemStatistics
from tests.test_score import ITEMS, make_catalogue, make_request
from tests.test_udfs import DIM as UDF_DIM
from tests.test_udfs import FOLLOWS, VERSION, FakeFollower, FakeMetrics, FakeStatistics
from udfs.score import ListConfig, Score

COLOURS = ["red", "blue", "green", "gold"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "click", "now", "minute", "minutes", "ago", ":", ",", ";"]
TEXTS = {item_key(f"i{number}"): COLOURS[number % 4] for number in range(ITEMS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("joint") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(WORDS) + 104, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    letters = [f"{hashes}{chr(code)}" for hashes in ("", "##") for code in range(ord("a"), ord("z") + 1)]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys([*WORDS, *COLOURS, *letters])))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder) -> CrossEncoder:
    return CrossEncoder(JointConfig(10, str(folder), device="cpu"))


def speaking(encoder: CrossEncoder) -> Joint:
    """A version that says something, at random."""
    torch.manual_seed(1)
    weights = encoder.begin() | {"head.weight": torch.randn(32), "mix": torch.tensor(1.0)}
    return Joint(encoder, weights, TEXTS)


def lists(scorer: Scorer, k: int = 20) -> list[list[tuple[str, float]]]:
    catalogue = make_catalogue()
    requests = [make_request(catalogue, items) for items in (["i0", "i2"], ["i1"], [])]
    made = score(scorer, ItemStatistics(), catalogue, requests, k)
    return [[(item.item_id, item.probability) for item in one] for one in made]


def test_a_version_that_has_learnt_nothing_changes_no_list(encoder):
    scorer = Scorer.untrained(16)
    before = lists(scorer)
    scorer.joint = Joint(encoder, encoder.begin(), TEXTS)

    assert before == lists(scorer)


def test_the_first_share_their_mass_anew_and_the_rest_stays(encoder):
    """Of a user of whom no text is known the list stays as it is."""
    scorer = Scorer.untrained(16)
    before = lists(scorer)
    scorer.joint = speaking(encoder)
    after = lists(scorer)

    assert before[2] == after[2]
    for was, now in zip(before[:2], after[:2]):
        assert [item for item, _ in was[:10]] != [item for item, _ in now[:10]]
        assert dict(was[:10]).keys() == {item for item, _ in now if item in dict(was[:10])}
        assert sum(dict(was[:10]).values()) == pytest.approx(sum(dict(now)[item] for item, _ in was[:10]), rel=1e-4)
        assert [dict(now)[item] for item, _ in was[10:]] == pytest.approx([chance for _, chance in was[10:]], rel=1e-4)


def test_batches_of_like_length_give_what_single_pairs_give(encoder):
    joint = speaking(encoder)
    pairs = [(f"click now {'red ' * (at % 7)}", " ".join(COLOURS[: 1 + at % 4])) for at in range(70)]

    together, single = joint.logits(pairs), [float(joint.logits([pair])[0]) for pair in pairs]

    assert single == pytest.approx(together.tolist(), abs=1e-3)
    assert np.ptp(together) > 0.1


@pytest.mark.parametrize("loss", ["bce", "listwise"])
def test_where_only_the_pair_of_texts_decides_it_is_learnt(encoder, loss, monkeypatch):
    """What comes has the colour of what was had; the ranker puts all items level. The rates are those of a network that
    knows nothing yet.
    """
    monkeypatch.setattr(train_joint, "RATE", 5e-3)
    monkeypatch.setattr(train_joint, "HEAD_RATE", 2e-2)
    trainer = JointTrainer(encoder, TEXTS, np.random.default_rng(0), loss=loss)
    random = np.random.default_rng(1)
    for _ in range(40):
        for target in random.integers(4, size=16).tolist():
            colour = COLOURS[target]
            level = np.full(4, np.log(0.25), np.float32)
            trainer._waiting.append(Looked("u", f"click, now: {colour}", COLOURS, level, colour, target))
        trainer.learn()
    joint = trainer.version()

    asked = [[(f"click, now: {had}", item) for item in COLOURS] for had in COLOURS]
    assert [0, 1, 2, 3] == [int(joint.logits(pairs).argmax()) for pairs in asked]
    assert float(joint.weights["mix"]) > 0


def test_a_version_keeps_what_was_trained_and_who_has_it_off_reads_none_of_it(encoder, tmp_path):
    scorer = Scorer.untrained(16)
    scorer.joint = speaking(encoder)
    path = save(scorer, str(tmp_path), "v1", {})
    again, off = load(path, joint=(encoder, TEXTS)), load(path)

    assert off.joint is None and lists(off) == lists(Scorer.untrained(16))
    assert lists(scorer) == lists(again)
    assert any(name.startswith(JOINT) for name in registry.read(path)[0])


def test_a_version_of_another_encoder_serves_without_it(encoder, tmp_path, caplog):
    scorer = Scorer.untrained(16)
    scorer.joint = speaking(encoder)
    path = save(scorer, str(tmp_path), "v1", {})
    other = CrossEncoder(encoder.config)
    other.version = "another"

    assert load(path, joint=(other, TEXTS)).joint is None
    assert "not used" in caplog.text


def test_int8_orders_nearly_as_float(folder, encoder):
    """On the CPU; a rounding of a random network is not nothing."""
    small = CrossEncoder(JointConfig(10, str(folder), precision="int8"))
    pairs = [(f"click now {one}", other) for one in COLOURS for other in COLOURS]
    exact = speaking(encoder).logits(pairs)

    rounded = Joint(small, speaking(encoder).weights, TEXTS).logits(pairs)

    assert np.corrcoef(exact, rounded)[0, 1] > 0.95


def test_history_is_newest_first_with_actions_and_ages():
    catalogue = make_catalogue()
    request = make_request(catalogue, ["i0", "i1"], at_ms=121_000)

    assert "click, 2 minutes ago: blue; click, 2 minutes ago: red" == history(request, TEXTS)
    assert "" == history(request, {})


def test_a_learner_makes_versions_with_it(encoder):
    learner = Learner(make_catalogue())
    learner.use_joint(encoder, TEXTS)

    assert learner.fine_tune().joint is not None


def test_a_folder_that_cannot_be_read_is_refused_before_the_start(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 16}))
    for path, reason in (
        (tmp_path, "no tokenizer"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path.parent, "config.json"),
    ):
        with pytest.raises(SettingsError, match=reason):
            check_joint(Settings(joint_first=10, joint_encoder=str(path)))
        check_joint(Settings(joint_encoder=str(path)))  # off

    check_joint(Settings(joint_first=10, joint_encoder=str(folder)))


def test_off_imports_nothing_of_it():
    asked = "import sys, model.finetune, model.score, jobs.settings; print([m for m in sys.modules if 'joint' in m])"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", asked], cwd=root, capture_output=True, text=True, timeout=120)

    assert "[]\n" == done.stdout, done.stderr


def test_texts_follow_the_items(monkeypatch):
    """What cannot be read changes nothing; a deletion takes the text away."""
    follower = SimpleNamespace(reached_end=SimpleNamespace(wait=lambda: True))
    monkeypatch.setattr(udfs.texts, "TopicFollower", lambda *_, **__: follower)
    followed = udfs.texts.TextsFollower("nowhere:9092", "items")
    items = [b'{"item_id": "a", "title": "Heat", "categories": ["Crime"]}', b'{"item_id": "b", "title": "Up"}']
    followed.take([SimpleNamespace(key=b"k", value=value) for value in (*items, b"{", b"x" * 2_000_000)])

    assert {item_key("a"): "Heat. Crime", item_key("b"): "Up"} == followed.texts
    followed.take([SimpleNamespace(key=b"a", value=None)])
    assert {item_key("b"): "Up"} == followed.texts


def test_a_scoring_worker_that_has_it_on_loads_it_with_a_version(encoder, folder, tmp_path, monkeypatch):
    follower = SimpleNamespace(texts=TEXTS, close=lambda: None)
    monkeypatch.setattr(udfs.texts, "TextsFollower", lambda *_: follower)
    monkeypatch.setattr(udfs.worker, "prepare", lambda threads: None)
    monkeypatch.setattr(udfs.replica, "CatalogueFollower", lambda *_: FakeFollower("a", "b", "c"))
    monkeypatch.setattr(udfs.statistics, "StatisticsFollower", lambda *_: FakeStatistics())
    scorer = Scorer(Sizes(UDF_DIM), 0, VERSION)
    scorer.joint = speaking(encoder)
    path = save(scorer, str(tmp_path), "v1", {})
    for config, there in ((JointConfig(10, str(folder), device="cpu"), True), (None, False)):
        worker = Score(Rules(), ListConfig(2, joint=config), "cpu", FOLLOWS, str(tmp_path / "r"), 1, str(tmp_path))
        worker.open(SimpleNamespace(get_metric_group=FakeMetrics))
        assert there == (worker._scorers._load(path, FakeFollower("a").catalogue).joint is not None)
        worker._follower.close = lambda: None
        worker.close()
