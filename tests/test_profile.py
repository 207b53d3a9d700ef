"""Keywords and the text profile: words out of texts, small worlds in which they decide, and what they are when off."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from jobs.settings import Settings
from model.catalogue import Catalogue, Replica
from model.encoder import Encoder
from model.interest import Rules
from model.keywords import PHRASES, READ_CHARS, diverse, keywords, phrases
from model.schema import (
    ItemVector,
    Reason,
    Recommendation,
    RecommendedItem,
    decode_recommendation,
    encode_json,
    encode_recommendation,
    item_key,
)
from model.score import Scorer, index_of, score
from model.scoring import profile
from model.scoring.batch import open_requests
from model.scoring.keywords import FOUND, KeywordIndex, Keywords
from model.scoring.profile import Reader, TextProfile
from model.scoring.ranker import find
from model.scoring.table import ItemTable
from model.segmentation import words
from model.statistics import ItemStatistics
from serving.store import Store
from tests.test_score import click, make_request, request_after
from udfs.embed import EmbedItems, EncoderConfig

DIM = 16
LETTERS = [f"{hashes}{chr(code)}" for hashes in ("", "##") for code in range(ord("a"), ord("z") + 1)]
MARKS = [".", ",", ":", "-", "(", ")", *"0123456789", *[f"##{digit}" for digit in "0123456789"]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    """Random weights, a vocabulary of letters and some Chinese."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *MARKS, *LETTERS, *"智能扫地机器人家用"]
    sizes = {"hidden_size": DIM, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return Encoder(folder, "cpu")


@pytest.fixture(scope="module")
def tokenizer(encoder):
    return encoder.load().tokenizer


# Keywords of a text


def test_phrases_are_words_and_neighbours_of_one_clause(tokenizer):
    found = phrases(tokenizer, "Star Wars: A New Hope (1977). Sci-Fi")

    assert {"star", "star wars", "wars", "new hope", "sci-fi"} <= {*found}
    assert not {"wars a", "hope sci", "1977", "wars new"} & {*found}


class Units:
    """A tokenizer whose units are two letters."""

    is_fast = True

    def __call__(self, text: str, **_) -> dict:
        return {"offset_mapping": [(at, min(at + 2, len(text))) for at in range(0, len(text), 2)]}


def test_thai_words_are_the_tokenizers_units():
    """No phrase goes beyond a space, and none has more than four; without units there are none."""
    units = Units()
    found = [*phrases(units, "กขคงจฉชซฌญ ดต")]
    units.is_fast = False

    assert ["กข", "กขคง", "กขคงจฉ", "กขคงจฉชซ", "คง"] == found[:5] and "ดต" == found[-1]
    assert {} == phrases(units, "กขคงจฉชซฌญ ดต")


class Stripped:
    """A tokenizer that strips marks: each letter is a unit, and no unit holds a mark."""

    is_fast = True

    def __call__(self, text: str, **_) -> dict:
        return {"offset_mapping": [(at, at + 1) for at, sign in enumerate(text) if sign.isalpha()]}


@pytest.mark.parametrize("text", ["ไม้", "น้ำดื่ม", "စာအုပ်", "កុមារ"])
def test_no_unit_loses_its_marks(text):
    """Wherever the tokenizer leaves them out, the last one too; units do not overlap."""
    for tokenizer in (Stripped(), Units()):
        units = [text[first:last] for first, last in words(tokenizer, text)]

        assert text == "".join(units)
        assert not [unit for unit in units if not unit[0].isalpha()]


SPLIT = {
    "智能扫地机器人家用。全自动T恤": "智能 扫地 机器人 家用 全自动 T恤",
    "少年派的奇幻漂流": "少年 派 的 奇幻 漂流",
    "全自動ロボット掃除機 水拭き対応": "全自動 ロボット 掃除機 水拭き 対応",
    "子供用の絵本と積木のおもちゃ": "子供用 の 絵本 と 積木 の おもちゃ",
    "となりのトトロ": "となり の トトロ",
    "기생충은 계급을 다룬 영화": "기생충 은 계급 을 다룬 영화",
    "가을 마을의 민주주의": "가을 마을 의 민주주의",
    "हिन्दी फ़िल्म, 1984": "हिन्दी फ़िल्म",
    "Schindler's List (1993). Sci-Fi": "Schindler's List Sci-Fi",
}


@pytest.mark.parametrize("text", SPLIT)
def test_words_are_whole_in_any_script(tokenizer, text):
    """Chinese, Japanese, Korean, Hindi and English, without being told which."""
    assert SPLIT[text].split() == [text[first:last] for first, last in words(tokenizer, text)]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("智能扫地机器人。家用", ["智能", "智能扫地", "扫地", "扫地机器人", "机器人", "家用"]),
        ("肖申克的救赎", ["肖申克", "肖申克的救赎", "救赎"]),
        ("2024年春季新款T恤男", ["春季", "春季新款", "新款", "新款t恤", "t恤"]),
        ("积木特价", ["积木", "积木特价", "特价"]),
        ("拼图适合儿童", ["拼图", "拼图适合儿童", "儿童"]),
        ("小猫の本", ["小猫", "小猫の本"]),
        ("風の谷のナウシカ", ["風の谷", "谷のナウシカ", "ナウシカ"]),
        ("반지의 제왕", ["반지", "반지의 제왕", "제왕"]),
        ("The Lord of the Rings and sci-fi", ["lord", "rings", "sci-fi"]),
        ("With the robots: it's all-in-one", ["robots", "all-in-one"]),
    ],
)
def test_a_phrase_cuts_no_word_and_ends_with_no_stop_word(tokenizer, text, wanted):
    """Neither does it begin with one; between two words they stay."""
    assert wanted == [*phrases(tokenizer, text)]


def test_the_phrases_of_a_long_text_are_from_all_of_it(tokenizer):
    """As many as are looked at, and as many from each quarter."""
    text = " ".join(f"{first}{second}word" for first in "abcdefghij" for second in "klmnopqrst")[:READ_CHARS]
    found = [text.index(phrase) for phrase in phrases(tokenizer, text)]
    quarters = np.histogram(found, 4, (0, len(text)))[0]

    assert PHRASES - 2 <= len(found) <= PHRASES
    assert quarters.min() >= PHRASES // 4 - 2


@pytest.mark.parametrize("text", ["", "   ", "1984", "...", "\0", "a" * 100_000, "🎬🎬", "x\n" * 5_000])
def test_a_text_without_words_has_no_keywords_that_are_none(encoder, text):
    [found] = keywords(encoder, [text], encoder.embed(["something"]), 5)

    assert all(any(character.isalpha() for character in word) and len(word) <= 40 for word in found)


def test_keywords_are_near_the_text_and_unlike_each_other(encoder):
    """The one nearest to all of it comes first; of two that are one vector, one is chosen."""
    text = "robots in deep space. comedy, robots"
    [found] = keywords(encoder, [text], encoder.embed([text]), 3)
    near = {phrase: float(encoder.embed([phrase])[0] @ encoder.embed([text])[0]) for phrase in found}
    east, north = [1.0, 0.0], [0.0, 1.0]

    assert found[0] == max(near, key=near.get)
    assert len(found) == len({*found}) == 3
    assert [0, 2] == diverse(np.array([east, east, north]), np.array([0.8, 0.6]), 2, [("a",), ("b",), ("c",)])


def test_no_keyword_has_all_words_of_another(encoder):
    """The one chosen first stays."""
    text = "Toy story. Toy story. Story of a toy, toy robot"
    [found] = keywords(encoder, [text], encoder.embed([text]), 5)
    of_each = [phrase.split() for phrase in found]

    assert found and not [(one, other) for one in of_each for other in of_each if one != other and {*one} < {*other}]


def test_of_overlapping_phrases_the_one_chosen_first_stays():
    """Word by word: `toy` is no part of `toys`; in Chinese by characters."""
    some = [("toy", "story"), ("story",), ("toys",), ("科幻小说",), ("小说",), ("toy",)]
    vectors = np.eye(len(some), dtype=np.float32)
    like = np.linspace(1.0, 0.5, len(some), dtype=np.float32)

    assert [0, 2, 3] == diverse(vectors, like, 5, some)


# Signals


def world(words: dict[str, list[str]]) -> Catalogue:
    """Items with these keywords; their vectors say nothing."""
    catalogue, random = Catalogue(), np.random.default_rng(3)
    for item_id, some in words.items():
        vector = random.standard_normal(DIM)
        packed = (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
        catalogue.apply([ItemVector(item_id, "enc", packed, keywords=some)])
    return catalogue


MANY = {f"i{number}": ["comedy", f"word{number % 40}"] for number in range(400)}
WORDS = MANY | {"a": ["space", "robots"], "b": ["robots", "comedy"], "c": ["comedy"], "none": []}


def weighed(family, weight: float) -> Scorer:
    scorer = Scorer.untrained(DIM, [family])
    with torch.no_grad():
        scorer.ranker.order.mean[-1] = weight
    return scorer


def listed(scorer: Scorer, catalogue: Catalogue, items: list[str], k: int = 3) -> list[RecommendedItem]:
    return score(scorer, ItemStatistics(), catalogue, [make_request(catalogue, items)], k)[0]


def opened(family, catalogue: Catalogue, *histories: list[str]):
    table = ItemTable(weighed(family, 1.0), ItemStatistics(), index_of(catalogue))
    return table, open_requests(catalogue, [make_request(catalogue, items) for items in histories], Rules(), 20)


def test_an_item_that_nobody_chose_is_found_by_a_rare_word_and_says_so():
    """One event is enough; a word that every item has says nothing."""
    catalogue = world(WORDS)
    itself, first = listed(weighed(Keywords(), 20.0), catalogue, ["a"])[:2]

    assert "a" == itself.item_id
    assert "b" == first.item_id
    assert Reason("keywords", first.reasons[0].share, items=["a"], keywords=["robots"]) == first.reasons[0]
    assert ["robots", "comedy"] == first.keywords


def test_who_did_nothing_and_items_without_keywords_have_none_of_it():
    catalogue, family = world(WORDS), Keywords()
    table, batch = opened(family, catalogue, [], ["none"], ["a"])
    found = find(table.scorer.ranker, table, batch).candidates
    into = np.zeros((*found.host_rows.shape, 1), np.float32)
    family.signals(table, batch, found, into)

    assert not into[:2].any()
    assert (family.candidates(table, batch)[:2] < 0).all()
    assert {catalogue.row(item_key("b"))} == {*family.candidates(table, batch)[2].tolist()} - {
        -1,
        catalogue.row(item_key("a")),
    }


def test_candidates_of_a_family_are_candidates_whatever_the_linear_score_says_of_them():
    catalogue, family = world(WORDS), Keywords()
    with_it, batch = opened(family, catalogue, ["i7", "a"])
    wanted = {*family.candidates(with_it, batch)[0].tolist()} - {-1}
    found = find(with_it.scorer.ranker, with_it, batch)
    rows = found.candidates.some(found.best).host_rows[0]

    assert 2 < len(wanted) <= FOUND
    assert wanted <= {*rows.tolist()}


def test_the_newer_of_two_events_says_more():
    catalogue = world({"x": ["red"], "y": ["blue"], "red": ["red"], "blue": ["blue"]} | MANY)
    family = Keywords()
    scorer = weighed(family, 20.0)

    def first(*items: str) -> str:
        return next(item.item_id for item in listed(scorer, catalogue, [*items]) if item.item_id not in items)

    assert "blue" == first("x", "y")
    assert "red" == first("y", "x")


def test_the_index_follows_what_is_put_changed_and_deleted():
    """As one that is made anew; words that are gone have no items."""
    catalogue, index, random = Catalogue(), KeywordIndex(), np.random.default_rng(0)
    for _ in range(60):
        item, some = f"i{random.integers(30)}", [f"w{word}" for word in random.integers(12, size=3)]
        vector = np.ones(DIM, "<f2").tobytes()
        gone = random.random() < 0.3
        catalogue.apply([ItemVector(item, deleted=True) if gone else ItemVector(item, "enc", vector, keywords=some)])
        index.sync(catalogue)
        anew = KeywordIndex()
        anew.sync(catalogue)
        for row in range(len(catalogue)):
            names = [one.names[word] for one in (index, anew) for word in one.words[row] if word >= 0]
            assert names[: len(names) // 2] == names[len(names) // 2 :]
        counts = [{name: int(count) for name, count in zip(one.names, one.count) if count} for one in (index, anew)]
        assert counts[0] == counts[1]
        for name, posted in zip(index.names, index.posted):
            holders = {row for row in range(len(catalogue)) if name in catalogue.keywords[int(catalogue.keys[row])]}
            assert holders <= {*posted.tolist()}


def test_the_profile_is_the_fading_mean_of_what_was_done_and_lifts_what_is_near(encoder):
    catalogue = world({f"i{number}": [] for number in range(60)})
    family = TextProfile()
    table, batch = opened(family, catalogue, ["i1", "i2"], [])
    one, nothing = family.profiles(table, batch)
    vectors = catalogue.vectors
    expected = (vectors[2] + 0.85 * vectors[1]) / 1.85 - vectors.mean(0)

    assert np.allclose(expected / np.linalg.norm(expected), one, atol=1e-4)
    assert not nothing.any()
    cosines = (vectors - vectors.mean(0)) / np.linalg.norm(vectors - vectors.mean(0), axis=1)[:, None] @ one
    expected = [catalogue.item_ids[row] for row in np.argsort(-cosines) if row not in (1, 2)][:3]
    near = listed(weighed(family, 50.0), catalogue, ["i1", "i2"], 60)
    assert expected == [item.item_id for item in near if item.item_id not in ("i1", "i2")][:3]
    assert "profile" == near[0].reasons[0].signal
    assert {*near[0].reasons[0].items} <= {"i1", "i2"}


class Counting:
    """Notes what the language model reads."""

    def __init__(self, encoder: Encoder, catalogue: Catalogue) -> None:
        self.read, self.version, self._encoder = [], catalogue.encoder_version, encoder

    def load(self):
        return self

    def forward(self, texts: list[str]) -> np.ndarray:
        self.read += texts
        return self._encoder.embed(texts)


def test_what_was_done_is_read_once_as_one_text_the_newest_last(encoder, monkeypatch):
    """A user of whom no text is known has no profile, and neither has anybody where items are of another encoder."""
    monkeypatch.setattr(profile, "KEPT", 1)
    catalogue = world({f"i{number}": [] for number in range(60)})
    reading = Counting(encoder, catalogue)
    reader = Reader(reading, {item_key("i1"): "Heat. crime", item_key("i2"): "Toy Story"})
    _, batch = opened(TextProfile(reader), catalogue, ["i1", "i2"], ["i3"], ["i1", "i2"])
    first, second = reader.vectors(batch, catalogue), reader.vectors(batch, catalogue)

    assert ["click: Heat. crime; click: Toy Story"] == reading.read
    assert np.array_equal(first, second) and np.array_equal(first[0], first[2])
    assert first[0].any() and not first[1].any()
    reading.version = "other"
    assert not reader.vectors(batch, catalogue).any()


# On the topics


def test_off_nothing_is_written_of_it():
    """And a list is written as before, with its empty lists."""
    item = RecommendedItem("a", 0.5)
    made = Recommendation("r", "u", "e", 1, 2, "v", "serving", [item])

    assert "keywords" not in encode_json(ItemVector("a", "enc", b"12")).decode()
    assert {"item_id": "a", "probability": 0.5, "reasons": []} == json.loads(encode_recommendation(made))["items"][0]
    assert {"signal": "text", "share": 0.5, "items": []} == json.loads(encode_json(Reason("text", 0.5)))


def test_a_replica_keeps_the_keywords_and_loses_those_that_are_taken_back(tmp_path):
    vector = np.ones(DIM, "<f2").tobytes()
    replica = Replica(tmp_path / "replica")
    records = [ItemVector("a", "enc", vector, keywords=["space"]), ItemVector("b", "enc", vector, keywords=["robots"])]
    records.append(ItemVector("b", "enc", vector))
    replica.apply([(0, at, encode_json(record)) for at, record in enumerate(records)])
    replica.apply([(0, 3, encode_json(records[0]).replace(b'"space"', b"7"))])
    replica.close()
    again = Replica(tmp_path / "replica")

    assert {item_key("a"): ["space"]} == again.catalogue.keywords
    assert 1 == len(replica.rejected)
    again.close()


@pytest.mark.parametrize("most", [0, 2])
def test_embed_items_writes_keywords_where_they_are_on(encoder, most):
    embed_items = EmbedItems(EncoderConfig("tiny", "cpu", 1), "/nowhere", 10_000, most)
    embed_items._encoder = encoder
    rows = [(b"a", b'{"item_id":"a","title":"robots in space"}', "items", 0, 1), (b"b", b"{", "items", 0, 2)]
    answer = embed_items.eval(pd.DataFrame(rows, columns=["item_id", "value", "topic", "partition", "offset"]))

    assert most == len(json.loads(answer["item_vector"][0]).get("keywords", []))
    assert answer["rejected"][1]


def test_the_page_shows_keywords_and_says_them():
    store = Store()
    reason = Reason("keywords", 0.7, items=["a"], keywords=["space", "robots"])
    for item_id in ("a", "b"):
        store.apply("items", item_id.encode(), encode_json({"item_id": item_id, "title": f"Title {item_id}"}), 1)
    made = Recommendation(
        "r", "u", "e", 1, 2, "v", "serving", [RecommendedItem("b", 0.5, [reason], keywords=["robots"])]
    )
    store.apply("recommendations", b"u", encode_recommendation(made), 3)
    [item] = store.list_of("u")["items"]

    assert made == decode_recommendation(encode_recommendation(made))
    assert ["robots"] == item["keywords"]
    assert "about space, robots, like Title a" == item["reasons"][0]["words"]


# The switches


def test_families_are_those_that_are_on():
    assert () == Settings().families()
    assert [Keywords, TextProfile] == sorted(
        (type(family.open({})) for family in Settings(keywords=5, text_profile="mean").families()),
        key=lambda kind: kind.__name__,
    )


def test_off_nothing_of_it_is_imported():
    code = (
        "import sys; from jobs.settings import Settings; Settings().families(); import model.score, udfs.embed\n"
        "on = {'model.keywords', 'model.segmentation', 'rjieba', 'model.scoring.keywords', 'model.scoring.profile'}\n"
        "assert not on & {*sys.modules}"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_user_who_views_gets_the_words_of_what_is_viewed():
    """The newest event speaks loudest in the words too."""
    catalogue, family = world(WORDS), Keywords()
    events = [click("b", 0, "view"), click("a", 1, "view")]
    batch = open_requests(catalogue, [request_after(catalogue, events)], Rules(), 20)
    table = ItemTable(weighed(family, 1.0), ItemStatistics(), index_of(catalogue))

    assert ["robots", "space"] == family.words(table, batch, 0, catalogue.row(item_key("a")))
