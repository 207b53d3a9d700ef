"""The language model: a tiny one with random weights, whose vectors mean nothing but must behave."""

import logging
import shutil

import numpy as np
import pytest
from rocksdict import Options, Rdict

from model.cache import is_held
from model.encoder import Encoder, EncoderError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    "two",
    "men",
    "meet",
    "in",
    "a",
    "city",
]
TEXTS = ["two men", "a city", "two men meet in a city", "", "b", "zzz ñ 日本"]
DIM = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two plain Hugging Face folders that differ in their weights only."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    made = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"seed-{seed}") / "tiny-bert"
        folder.mkdir()
        torch.manual_seed(seed)
        sizes = {"hidden_size": DIM, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, **sizes)).save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(WORDS)))
        BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        made.append(folder)
    return made


@pytest.fixture
def make(folders):
    """Makes an encoder on the CPU from the first folder, or another."""
    from model.encoder import Encoder

    def make(folder=folders[0], keep=None, precision="auto") -> Encoder:
        encoder = Encoder(folder, "cpu", keep, precision=precision)
        encoder.forwarded = []
        forward = encoder._forward

        def counted(texts):
            encoder.forwarded += texts
            return forward(texts)

        encoder._forward = counted
        return encoder

    return make


def test_texts_become_unit_vectors(make):
    """One row a text, float32, whatever the text: also an empty one and words that nobody taught the model."""
    vectors = make().embed(TEXTS)

    assert ((len(TEXTS), DIM), np.float32) == (vectors.shape, vectors.dtype)
    assert np.allclose(1, np.linalg.norm(vectors, axis=1), atol=1e-6)


def test_no_texts_give_no_vectors(make):
    """An empty micro-batch has a shape too."""
    assert (0, DIM) == make().embed([]).shape


def test_a_batch_gives_the_same_as_one_by_one(make):
    """Neither the order nor the company of a text changes its vector."""
    one_by_one = np.concatenate([make().embed([text]) for text in TEXTS])
    backwards = make().embed(TEXTS[::-1])[::-1]

    assert np.allclose(one_by_one, make().embed(TEXTS), atol=2e-3)
    assert np.allclose(one_by_one, backwards, atol=2e-3)


def test_more_texts_than_a_batch_holds_keep_their_order(make):
    """They are forwarded by length and given back as they came."""
    encoder = make()
    texts = ["a" + " b" * (number % 7) + " c" * (number // 7) for number in range(70)]
    vectors = encoder.embed(texts)

    assert 70 == len(encoder.forwarded)
    assert np.allclose(vectors[[3, 40, 69]], make().embed([texts[3], texts[40], texts[69]]), atol=2e-3)


def test_a_text_is_embedded_once(make):
    """However often it comes, in one call or in several."""
    encoder = make()
    first = encoder.embed(["two men", "a city", "two men"])
    again = encoder.embed(["a city", "b"])

    assert ["a city", "b", "two men"] == sorted(encoder.forwarded)
    assert first[0].tolist() == first[2].tolist()
    assert first[1].tolist() == again[0].tolist()


def test_kept_embeddings_outlive_the_process(make, tmp_path):
    """With `keep`, what was embedded before a restart is read from disk."""
    first = make(keep=tmp_path)
    vectors = first.embed(TEXTS)
    first._kept.close()
    again = make(keep=tmp_path)

    assert vectors.tolist() == again.embed(TEXTS).tolist()
    assert [] == again.forwarded
    again._kept.close()


def test_kept_embeddings_of_other_weights_are_not_mistaken_for_ones_own(make, folders, tmp_path):
    """A text is kept together with the encoder's version."""
    first = make(keep=tmp_path)
    first.embed(["a city"])
    first._kept.close()
    other = make(folders[1], keep=tmp_path)
    other.embed(["a city"])

    assert ["a city"] == other.forwarded
    other._kept.close()


def garbage(folder):
    for file in folder.glob("*.sst"):
        file.write_bytes(b"garbage" * 50)


def no_manifest(folder):
    for file in folder.glob("MANIFEST*"):
        file.unlink()


def entries(value):
    """Other bytes in the place of every embedding."""

    def harm(folder):
        disk = Rdict(str(folder), Options(raw_mode=True))
        for key in list(disk.keys()):
            disk[key] = value
        disk.close()

    return harm


HARMS = [garbage, no_manifest, entries(b""), entries(b"x"), entries(bytes(2 * 2 * DIM)), entries(b"\xff" * 2 * DIM)]


@pytest.mark.parametrize("harm", HARMS)
def test_kept_embeddings_that_cannot_be_read_are_computed_again(make, tmp_path, harm):
    """They are only kept: files that are broken, and entries that are no vectors of this encoder."""
    first = make(keep=tmp_path)
    vectors = first.embed(TEXTS)
    first.close()
    harm(tmp_path)
    again = make(keep=tmp_path)
    computed = again.embed(TEXTS).tolist(), len(again.forwarded)
    again.close()
    third = make(keep=tmp_path)

    assert (vectors.tolist(), len(TEXTS)) == computed
    assert (vectors.tolist(), []) == (third.embed(TEXTS).tolist(), third.forwarded)
    third.close()


def test_embeddings_that_break_while_they_are_used_are_made_anew(make, tmp_path, caplog):
    """What was asked is computed, nothing more is kept, and the next start begins with an empty folder."""
    first = make(keep=tmp_path)
    vectors = first.embed(TEXTS)
    first.close()
    again = make(keep=tmp_path)
    for file in tmp_path.glob("*.sst"):
        with file.open("r+b") as table:
            table.write(bytes(200))

    assert vectors.tolist() == again.embed(TEXTS).tolist()

    broken = "nothing more is kept" in caplog.text
    again.close()
    third = make(keep=tmp_path)

    assert broken and "cannot be used and is made anew" in caplog.text
    assert vectors.tolist() == third.embed(TEXTS).tolist()
    third.close()


def test_embeddings_that_another_holds_are_left_to_it(make, tmp_path):
    """The error is the one that leads `first_free` to the next folder."""
    first = make(keep=tmp_path)

    with pytest.raises(Exception, match="lock hold by current process") as raised:
        make(keep=tmp_path)

    assert is_held(raised.value)
    first.close()


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
def test_a_model_that_cannot_be_read_is_told_by_its_setting(folders, tmp_path, file):
    broken = tmp_path / "broken"
    shutil.copytree(folders[0], broken)
    (broken / file).write_text("{")
    with pytest.raises(EncoderError) as refused:
        Encoder(broken).embed(["two men"])

    assert str(refused.value).startswith(f"encoder={broken}: cannot be read: ") and "\n" not in str(refused.value)
    assert str(refused.value).endswith(
        "; a model with its tokenizer is wanted, a folder or a name of Hugging Face's hub"
    )


def test_the_version_names_the_weights(make, folders):
    """The same folder gives the same version; other weights under the same name give another."""
    versions = [make(folder).version for folder in (folders[0], folders[0], folders[1])]

    assert versions[0] == versions[1] != versions[2]
    assert all(version.startswith("tiny-bert-") for version in versions)


def test_a_very_long_text_is_cut_to_what_the_model_reads(make):
    """The rest of it is left out."""
    encoder = make()
    long, longer = encoder.embed(["two men " * 50, "two men " * 5_000])

    assert np.allclose(long, longer, atol=2e-3)


def test_any_text_can_be_embedded(make):
    """Control characters, blanks and letters that the vocabulary does not know."""
    vectors = make().embed(["\0", "\n\t ", "\u200b", "😀"])

    assert np.allclose(1, np.linalg.norm(vectors, axis=1), atol=1e-6)


def test_device_dtype_and_batch_size_follow_what_is_there(monkeypatch):
    """Where there is a GPU, `auto` takes it, in half precision and larger batches."""
    import torch

    from model import device

    chosen = []
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        where = device.choose("auto")
        chosen.append((where.type, device.dtype(where), device.batch_size(where)))

    assert [("cpu", torch.float32, 32), ("cuda", torch.float16, 512)] == chosen


def test_a_device_that_is_named_is_taken(monkeypatch):
    """Whatever is there."""
    import torch

    from model import device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert ["cpu", "cuda:1"] == [str(device.choose(name)) for name in ("cpu", "cuda:1")]


def test_who_only_reads_kept_embeddings_never_loads_the_model(make, tmp_path):
    """The version, the dimensions and what was kept are there at once; the model is loaded by the first new text."""
    first = make(keep=tmp_path)
    first.embed(["a city"])
    first.close()
    again = make(keep=tmp_path)
    again.embed(["a city"])
    before = again._loaded
    again.embed(["two men"])

    assert (None, first.version, DIM) == (before, again.version, again.dim)
    assert again._loaded is again.load()
    again.close()


@pytest.fixture
def told(monkeypatch, caplog):
    """What a process that has told nothing yet logs of unknown tokens."""
    from model import encoder

    monkeypatch.setattr(encoder, "_told", set())
    monkeypatch.setattr(encoder, "LEAST_TOKENS", 20)
    return lambda: [record.getMessage() for record in caplog.records if "does not know" in record.getMessage()]


def test_that_most_tokens_are_unknown_is_told_once(make, told):
    """It says which encoder, how much, and what to do."""
    encoder = make()
    encoder.embed(["two men 日本語"])
    few = told()
    for text in ("两个人在城市", "男人相遇在城里的一天", "又一次"):
        encoder.embed([text])
    [message] = told()

    assert [] == few
    assert message.startswith(f"{encoder.version}: its tokenizer does not know 90 % of the tokens")
    assert "--encoder" in message and "docs/operations.md" in message


def test_of_texts_that_it_knows_nothing_is_told(make, told):
    make().embed(["two men meet in a city", "a city in a city in a city", "in two", "a man 日本", "b c d e f"])

    assert [] == told()


def test_kept_texts_are_counted_too(make, told, tmp_path, monkeypatch):
    """All of this process, and none that it was not asked for: another catalogue may be kept in the folder."""
    from model import encoder

    first = make(keep=tmp_path)
    first.embed(["two men meet in a city"] * 2 + [f"{letter} city" for letter in "abcdefghijklmnopqrstuvwxyz"])
    first.embed(["两个人在城市男人相遇在城里的一天又一次相遇"])
    first.close()
    before = told()
    monkeypatch.setattr(encoder, "_told", set())
    again = make(keep=tmp_path)
    again.embed(["两个人在城市男人相遇在城里的一天又一次相遇"])

    assert ([], [], 1) == (before, again.forwarded, len(told()))
    again.close()


def test_kept_embeddings_without_counts_are_read(make, told, tmp_path):
    """Of an older release: nothing is computed again, and nothing is known of their tokens."""
    first = make(keep=tmp_path)
    vectors = first.embed(["两个人在城市男人相遇在城里的一天又一次相遇"]).tolist()
    first._kept.write({key: raw[: 2 * DIM] for key, raw in [*first._kept.items()]})
    before = told()
    again = first.embed(["两个人在城市男人相遇在城里的一天又一次相遇"]).tolist()

    assert (vectors, 1, before) == (again, len(first.forwarded), told())
    first.close()


def test_a_name_is_looked_up_on_the_hub_a_folder_is_not(folders, monkeypatch):
    """Weights for other libraries are not fetched."""
    import huggingface_hub

    from model.encoder import folder_of

    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, ignore_patterns: asked.append((name, ignore_patterns)) or folders[0],
    )

    assert [folders[0], folders[1]] == [folder_of("somebody/tiny-bert"), folder_of(folders[1])]
    assert [("somebody/tiny-bert", True)] == [(name, "*.onnx" in left_out) for name, left_out in asked]


@pytest.fixture(scope="module")
def int8(folders):
    """An encoder in int8, loaded: that takes seconds. And whether it left the root logger as it was."""
    from model.encoder import Encoder

    root = logging.getLogger()
    before = root.level, list(root.handlers)
    encoder = Encoder(folders[0], "cpu", precision="int8")
    encoder.load()
    return encoder, before == (root.level, root.handlers)


def test_in_int8_vectors_are_near_and_of_a_version_of_their_own(make, int8):
    """So the catalogue never compares them with those of float32."""
    single, (encoder, _) = make(), int8
    vectors = encoder.embed(TEXTS)

    assert f"{single.version}-int8" == encoder.version
    assert ((len(TEXTS), DIM), np.float32) == (vectors.shape, vectors.dtype)
    assert ((vectors * single.embed(TEXTS)).sum(1) > 0.98).all()


def test_in_int8_too_company_does_not_change_a_vector(int8):
    """Nor does the length of what is beside it; a very long text is cut."""
    encoder, _ = int8
    texts = [*TEXTS, "two men " * 5_000]
    one_by_one = np.concatenate([encoder.load().forward([text]) for text in texts])

    assert np.allclose(one_by_one, encoder.load().forward(texts), atol=2e-3)
    assert np.allclose(1, np.linalg.norm(one_by_one, axis=1), atol=1e-6)


def test_int8_leaves_the_root_logger_as_it_is(int8):
    """A module of ONNX Runtime sets it up as it is imported."""
    assert int8[1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_other_precisions_differ_by_a_rounding_and_share_a_version(make, precision):
    """What `auto` takes on a GPU has always been of the same version as what it takes on a CPU."""
    single, other = make(), make(precision=precision)

    assert single.version == other.version
    assert ((single.embed(TEXTS) * other.embed(TEXTS)).sum(1) > 0.999).all()
