"""The joint scorer: an encoder with random weights that must behave, and a world that only pairs of texts decide."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from msgspec import structs

import model.scoring.joint
import udfs.replica
import udfs.statistics
import udfs.texts
import udfs.worker
from jobs.finetune import switch_on
from jobs.settings import Settings, SettingsError, check_joint, check_joint_opens
from model import registry
from model.bounds import JointConfig
from model.finetune import Learner
from model.interest import Rules
from model.learning import train_joint
from model.learning.train_joint import JointTrainer, Looked
from model.schema import decode_packed_request, decode_recommendation, encode_packed, item_key
from model.score import JOINT, Scorer, load, save, score
from model.scoring.joint import HISTORY_TOKENS, ITEM_TOKENS, CrossEncoder, Joint, history, open_encoder
from model.statistics import ItemStatistics
from scripts.benchmarks import joint as benchmark
from tests.test_score import ITEMS, make_catalogue, make_request
from tests.test_udfs import DIM as UDF_DIM
from tests.test_udfs import FOLLOWS, FakeFollower, FakeMetrics, FakeStatistics
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
    return CrossEncoder(JointConfig(10, str(folder), device="cpu", precision="float32"))


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
def test_where_only_the_pair_of_texts_decides_it_is_learnt(folder, loss, monkeypatch):
    """What comes has the colour of what was had; the ranker puts all items level. The rates are those of a network that
    knows nothing yet.
    """
    monkeypatch.setattr(train_joint, "RATE", 5e-3)
    monkeypatch.setattr(train_joint, "HEAD_RATE", 2e-2)
    encoder = CrossEncoder(JointConfig(10, str(folder), device="cpu", precision="float32", loss=loss))
    trainer = JointTrainer(encoder, TEXTS, np.random.default_rng(0))
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


def test_history_is_newest_first_with_actions_and_ages_where_they_change():
    catalogue = make_catalogue()
    request = make_request(catalogue, ["i0", "i1"], at_ms=121_000)

    assert "click, 2 minutes ago: blue; red" == history(request, TEXTS)
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


def test_a_model_that_reads_no_pairs_is_told_by_its_setting_before_the_work(folder, tmp_path):
    """Weights that are none; a whole one is opened once."""
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    on = {"joint_first": 10, "device": "cpu"}
    with pytest.raises(SettingsError) as refused:
        check_joint_opens(Settings(**on, joint_encoder=str(broken)))
    said = str(refused.value)

    assert said.startswith(f"joint_encoder={broken}: cannot be read: ") and "\n" not in said
    assert said.endswith("; an encoder with its tokenizer is wanted, a folder or a name of Hugging Face's hub")
    check_joint_opens(Settings(joint_encoder=str(broken)))  # off
    check_joint_opens(Settings(**on, joint_encoder=str(folder)))
    config = Settings(**on, joint_encoder=str(folder)).joint()
    assert open_encoder(config) is open_encoder(config)


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


@pytest.fixture
def served(monkeypatch):
    """What a scoring worker follows: a catalogue, the texts of its items, and nothing counted."""
    catalogue = make_catalogue(dim=UDF_DIM)
    monkeypatch.setattr(udfs.texts, "TextsFollower", lambda *_: SimpleNamespace(texts=TEXTS, close=lambda: None))
    monkeypatch.setattr(udfs.worker, "prepare", lambda threads: None)
    follower = FakeFollower()
    follower.catalogue, follower.rejected, follower.close = catalogue, [], lambda: None
    monkeypatch.setattr(udfs.replica, "CatalogueFollower", lambda *_: follower)
    statistics = FakeStatistics()
    statistics.statistics = ItemStatistics()
    monkeypatch.setattr(statistics, "popular", list)
    monkeypatch.setattr(udfs.statistics, "StatisticsFollower", lambda *_: statistics)
    return catalogue


def test_the_score_function_makes_lists_with_it(encoder, folder, tmp_path, served):
    """A version is loaded with it, and without it where it is off."""
    scorer = Scorer.untrained(UDF_DIM, encoder_version="enc-1")
    scorer.joint = speaking(encoder)
    path = save(scorer, str(tmp_path), "v1", {})
    packed = encode_packed(structs.replace(make_request(served, ["i0", "i2"]), versions=[path]))
    made = {}
    for joint in (JointConfig(10, str(folder), device="cpu", precision="float32"), None):
        worker = Score(Rules(), ListConfig(20, joint=joint), "cpu", FOLLOWS, str(tmp_path / "r"), 1, str(tmp_path))
        worker.open(SimpleNamespace(get_metric_group=FakeMetrics))
        answer = worker.eval(pd.DataFrame({"request": [packed]}))
        one = decode_recommendation(answer["recommendation"][0])
        assert ("v1", None) == (one.model_version, answer["rejected"][0])
        made[joint is not None] = [item.item_id for item in one.items]
        worker.close()

    assert made[True] != made[False]
    for with_it, ids in made.items():
        scorer.joint = speaking(encoder) if with_it else None
        [wanted] = score(scorer, ItemStatistics(), served, [decode_packed_request(packed)], 20)
        assert [item.item_id for item in wanted] == ids


def test_the_learner_job_learns_it_where_it_is_on(folder, monkeypatch):
    monkeypatch.setattr(udfs.texts, "TextsFollower", lambda *_: SimpleNamespace(texts=TEXTS))
    off, on = Learner(make_catalogue()), Learner(make_catalogue())
    switch_on(Settings(), off)
    switch_on(Settings(joint_first=10, joint_encoder=str(folder), joint_loss="listwise", learner_device="cpu"), on)

    assert off.joint is None
    assert on.joint is not None and on.joint.texts is TEXTS
    assert (10, 0.01, "listwise", "cpu") == (
        on.joint.encoder.config.first,
        on.joint.encoder.config.share,
        on.joint.encoder.config.loss,
        on.joint.encoder.config.device,
    )


CHINESE = ["红楼梦", "西游记", "水浒传", "三国演义"]


@pytest.fixture(scope="module")
def chinese(tmp_path_factory) -> CrossEncoder:
    """An encoder of the kind of bert-base-chinese, whose tokenizer makes a token of every character."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("joint") / "chinese"
    folder.mkdir()
    torch.manual_seed(0)
    words = list(dict.fromkeys([*WORDS, *"".join(CHINESE)]))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return CrossEncoder(JointConfig(4, str(folder), device="cpu", precision="float32"))


def test_a_chinese_catalogue_is_learnt_and_reranked(chinese, monkeypatch):
    """No title has a space. Whoever had a title takes the same; the item that was had comes first in the list."""
    monkeypatch.setattr(train_joint, "RATE", 5e-3)
    monkeypatch.setattr(train_joint, "HEAD_RATE", 2e-2)
    texts = {item_key(f"i{number}"): CHINESE[number] for number in range(4)}
    catalogue = make_catalogue(items=4)
    asked = [make_request(catalogue, [f"i{number}"]) for number in range(4)]
    assert ["红", "楼", "梦"] == chinese.tokenizer.convert_ids_to_tokens(chinese.encoded([("", CHINESE[0])])[0][1])

    trainer, random = JointTrainer(chinese, texts, np.random.default_rng(0)), np.random.default_rng(1)
    level = np.full(4, np.log(0.25), np.float32)
    for _ in range(40):
        for target in random.integers(4, size=16).tolist():
            did = history(asked[target], texts)
            trainer._waiting.append(Looked("u", did, CHINESE, level, CHINESE[target], target))
        trainer.learn()

    scored = SimpleNamespace(rows=torch.arange(4).repeat(4, 1), scores=torch.zeros(4, 4))
    after = trainer.version().reranked(scored, torch.zeros(4), asked, catalogue)
    assert [0, 1, 2, 3] == after.argmax(1).tolist()


@pytest.mark.parametrize("end", ["", " " + "red " * 500])
def test_a_pair_is_framed_as_the_tokenizer_frames_it(encoder, end):
    """What is longer than its part of the tokens is cut."""
    pairs = [(f"click now red{end}", f"blue gold{end}"), ("click", "green")]
    found, parts = encoder.batch(encoder.encoded(pairs))
    short = encoder.tokenizer([one for one, _ in pairs[1:]], [other for _, other in pairs[1:]])

    for name, (ids,) in short.items():
        assert ids == found[name][1, : len(ids)].tolist()
    assert [1, 1] == parts[1].sum(1).tolist()
    assert [min(3 + 500 * bool(end), HISTORY_TOKENS), min(2 + 500 * bool(end), ITEM_TOKENS)] == parts[0].sum(1).tolist()


def test_tokens_of_items_are_forgotten_when_there_are_too_many(encoder, monkeypatch):
    monkeypatch.setattr(model.scoring.joint, "_KEPT_TEXTS", 3)
    first = encoder.encoded([("now", colour) for colour in COLOURS[:3]])
    encoder.encoded([("now", "gold"), ("now", "red")])

    assert {"gold", "red"} == set(encoder._of_item)
    assert first == encoder.encoded([("now", colour) for colour in COLOURS[:3]])


def test_the_benchmark_measures_lists_and_learning(folder):
    found = benchmark.measure("cpu", str(folder), requests=2, first=4)

    assert {"int8_lists_per_s", "float32_lists_per_s", "learning_ms_a_step"} == found.keys()
    assert all(value > 0 for value in found.values())
