"""LoRA on a tiny language model: what users take together comes nearer, and the folder is an encoder like any other."""

import json

import numpy as np
import pytest

from jobs.settings import Settings, SettingsError
from model.encoder import Encoder
from model.learning.adapt import AdaptConfig, adapt, pairs_of
from model.schema import Event, StateError
from scripts import adapt as command
from tests.test_joint import folder  # noqa: F401 (a fixture: a tiny encoder with random weights)

pytest.importorskip("peft", reason="the extra `lora` is not installed")

TEXTS = {f"{word}-{number}": f"{word} {letter}" for word in ("red", "blue") for number, letter in enumerate("abcd")}
CONFIG = AdaptConfig(rank=4, rate=1e-2, steps=40, batch=8)
pytestmark = pytest.mark.filterwarnings("ignore")  # peft and transformers warn each other


def events() -> list[Event]:
    """Twenty users; each stays with one word, whose items have nothing else in common."""
    random, made = np.random.default_rng(0), []
    for user in range(20):
        word = ("red", "blue")[user % 2]
        for at, number in enumerate(random.permutation(4).tolist()):
            made.append(Event(f"{user}-{at}", f"u{user}", "view", 1_000 * at, f"{word}-{number}"))
    return sorted(made, key=lambda one: one.event_time_ms)


@pytest.fixture(scope="module")
def adapted(folder, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("lora") / "adapted"
    return out, adapt(folder, pairs_of(events(), TEXTS, CONFIG.history), TEXTS, out, CONFIG)


def apart(folder) -> float:  # noqa: F811
    """How much nearer items of a word are to each other than to those of the other one, by the cosine."""
    vectors = Encoder(folder, "cpu").embed(list(TEXTS.values()))
    near = vectors @ vectors.T
    return float(near[:4, :4].mean() + near[4:, 4:].mean() - 2 * near[:4, 4:].mean())


def test_what_users_take_together_comes_nearer(folder, adapted):  # noqa: F811
    """The loss falls, and the words part."""
    out, losses = adapted

    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert apart(out) > apart(folder) + 0.1


def test_the_folder_is_an_encoder_of_another_version(folder, adapted):  # noqa: F811
    """Of the same size, without adapters left in it; so the catalogue is embedded anew."""
    before, after = Encoder(folder, "cpu"), Encoder(adapted[0], "cpu")

    assert before.version != after.version
    assert before.dim == after.dim
    assert not np.allclose(before.embed(["red a"]), after.embed(["red a"]), atol=1e-2)
    assert [] == list(adapted[0].glob("adapter*"))


def test_only_what_was_chosen_and_has_a_text_teaches():
    """Dislikes, searches and items without a text are no pairs; an item that came again is none."""
    given = [
        Event("1", "u", "view", 1, "red-0"),
        Event("2", "u", "dislike", 2, "red-1"),
        Event("3", "u", "search", 3, query="red"),
        Event("4", "u", "view", 4, "nowhere"),
        Event("5", "u", "view", 5, "red-0"),
        Event("6", "u", "view", 6, "red-2"),
    ]

    assert [(("red-0",), "red-2")] == [tuple(one) for one in pairs_of(given, TEXTS, 3)]


def test_nothing_to_learn_from_is_said(folder, tmp_path):  # noqa: F811
    """No folder is written."""
    with pytest.raises(StateError, match="0 pairs to adapt to: users with two items that have texts are wanted"):
        adapt(folder, [], TEXTS, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_the_command_reads_files(folder, tmp_path, capsys):  # noqa: F811
    """Events and items as evaluate takes them; the answer is one line of JSON."""
    rows = [f"{one.event_id},{one.user_id},{one.item_id},{1_700_000_000_000 + one.event_time_ms}" for one in events()]
    (tmp_path / "events.csv").write_text("\n".join(["event_id,user_id,item_id,event_time_ms", *rows]))
    items = "\n".join(["item_id,title", *(f"{item},{text}" for item, text in TEXTS.items())])
    (tmp_path / "items.csv").write_text(items)
    files = ["--events", str(tmp_path / "events.csv"), "--items", str(tmp_path / "items.csv")]
    given = ["--encoder", str(folder), "--replica_dir", str(tmp_path / "kept"), "--device", "cpu"]
    command.main([*files, *given, "--out", str(tmp_path / "out"), "--steps", "2", "--batch", "4"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert Encoder(tmp_path / "out").version == said["version"] != said["from"]
    assert 60 == said["pairs"]


def test_it_wants_its_package(monkeypatch):
    """The message says which extra."""
    monkeypatch.setattr("scripts.adapt.find_spec", lambda name: None)

    with pytest.raises(SettingsError, match=r"peft cannot be imported here: pip install '\.\[lora\]'"):
        command.check_peft(None)


def test_adapters_are_of_texts_alone():
    """Media that are on are refused before anything is read."""
    command.check_texts_alone(Settings())
    for given in ({"vector_dim": 3}, {"media_prefix": "/srv"}):
        with pytest.raises(SettingsError, match="adapters are learnt of texts alone: leave them out"):
            command.check_texts_alone(Settings(**given))
