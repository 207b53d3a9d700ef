"""A knowledge graph: what items share, in lists and reasons; a tiny world in which the right answer is known."""

import copy
import gzip
import logging

import numpy as np
import pytest
import torch

from jobs.settings import Settings, SettingsError, check_triples
from model.bounds import TriplesFamily
from model.finetune import Learner
from model.schema import Example, Reason, encode_json, item_key
from model.score import Scorer, score
from model.scoring.batch import CONTEXT
from model.scoring.related import Related
from model.signals import SIGNALS
from model.triples import Triples, TriplesError, read
from serving.words import say
from tests.test_score import DIM, ITEMS, make_catalogue, make_request

DIRECTORS = [(f"i{number}", "director", f"d{number // 3}") for number in range(ITEMS)]
"""i0, i1, i2 are by one, i3, i4, i5 by the next, ..."""


def write(file, rows, header="head,relation,tail", comma=","):
    file.write_text("\n".join([header, *(comma.join(row) for row in rows)]) + "\n")
    return str(file)


def families(file: str, texts=None):
    return [family.open(texts or {}) for family in Settings(triples=file).families()]


def best(triples: list, items: list[str], k: int = 2, weight: float = 40.0):
    """The list of a scorer in which what is related orders the candidates."""
    catalogue, scorer = make_catalogue(), Scorer.untrained(DIM, [Related(Triples(triples))])
    with torch.no_grad():
        scorer.ranker.order.mean[-1] = weight
    return score(scorer, Learner(catalogue).statistics, catalogue, [make_request(catalogue, items)], k)[0]


def test_what_shares_the_director_comes_first_and_the_reason_says_so():
    """The texts of i4 and i3, i5 say nothing of it: the even ones are alike."""
    first = best(DIRECTORS, ["i4"])

    assert {"i3", "i5"} == {item.item_id for item in first}
    assert ("related", ["i4"], "director") == (
        first[0].reasons[0].signal, first[0].reasons[0].items, first[0].reasons[0].relation,
    )  # fmt: skip
    assert "same director as i4" == say(first[0].reasons[0], str)


def test_a_rare_entity_says_more_than_a_frequent_one():
    pairs = [("i0", "actor", "rare"), ("i9", "actor", "rare")]
    crowd = [(f"i{number}", "actor", "frequent") for number in (0, 11, 13, 15, 17, 19)]

    assert "i9" == best([*crowd, *pairs], ["i0"])[0].item_id


def test_two_relations_to_one_entity_are_not_the_same():
    """Who directed i0 acts in i9: they share nothing, i0 and i11 do."""
    triples = [("i0", "director", "d"), ("i9", "actor", "d"), ("i11", "director", "d")]
    catalogue = make_catalogue()
    graph = Triples(triples).graph(catalogue)
    facts = {number: graph.facts[slice(*graph.starts[number : number + 2])].tolist() for number in (0, 9, 11)}

    assert facts[0] == facts[11] != []
    assert [] == facts[9]


def test_an_item_that_a_triple_names_beside_another_is_near_to_it():
    first = best([*DIRECTORS, ("i5", "sequel", "i20")], ["i20"], k=3)
    said = {item.item_id: say(item.reasons[0], str) for item in first}

    assert {"i18": "same director as i20", "i19": "same director as i20", "i5": "related to i20"} == said


def test_a_relation_and_its_inverse_count_once():
    inverse = [(director, "director_of", film) for film, _, director in DIRECTORS]
    graphs = [Triples(triples, {f"i{n}": f"i{n}" for n in range(ITEMS)}).graph(make_catalogue())
              for triples in (DIRECTORS, [*inverse, *DIRECTORS])]  # fmt: skip

    assert len(graphs[0].facts) == len(graphs[1].facts) > 0
    assert np.allclose(graphs[0].strength, graphs[1].strength)


@pytest.mark.parametrize("everywhere", [ITEMS, ITEMS // 2])
def test_an_entity_that_is_everywhere_says_nothing(everywhere):
    triples = [(f"i{number}", "country", "here") for number in range(everywhere)]

    assert 0 == len(Triples(triples).graph(make_catalogue()).facts)


def test_items_that_come_go_and_move_keep_their_facts():
    catalogue, triples = make_catalogue(5), Triples(DIRECTORS)
    assert [3, 2] == [len(triples.graph(catalogue).facts[:3]), len(triples.graph(catalogue).facts[3:])]
    more = make_catalogue(6)
    from model.schema import ItemVector

    five = ItemVector("i5", "enc-1", more.vectors[5].astype("<f2").tobytes())
    catalogue.apply([five, ItemVector("i0", "enc-1", b"", deleted=True)])

    graph = triples.graph(catalogue)
    by_name = {
        name: graph.facts[slice(*graph.starts[row : row + 2])].tolist() for row, name in enumerate(catalogue.item_ids)
    }
    assert "i5" == catalogue.item_ids[0]  # the last one moved to the place of i0
    assert by_name["i3"] == by_name["i4"] == by_name["i5"] != by_name["i1"] == by_name["i2"]


def test_what_has_never_been_chosen_is_found(tmp_path):
    """What is related is among the candidates of a catalogue of which most is not, and is nothing that was had."""
    items = 2_000
    catalogue, far = make_catalogue(items), [("i1", "director", "d"), ("i1777", "director", "d")]
    (related, _) = families(write(tmp_path / "far.csv", far))
    scorer = Scorer.untrained(DIM, [related])
    table = scorer.table(Learner(catalogue).statistics, catalogue)
    from model.interest import Rules
    from model.scoring.batch import open_requests

    batch = open_requests(catalogue, [make_request(catalogue, ["i1"])], Rules(), 20)
    assert {-1, 1777} == set(related.candidates(table, batch).ravel().tolist())


def test_a_new_item_inherits_what_its_like_is_led_to(tmp_path):
    """After i0 users take i3; i4 is by the director of i3 and nobody took it: it comes before what is by nobody's."""
    catalogue = make_catalogue()
    both = families(write(tmp_path / "t.csv", DIRECTORS))
    learner = Learner(catalogue)
    learner.use_optional(both)
    for user in range(30):
        for at, came in enumerate(("i0", "i3")):
            asked = make_request(catalogue, ["i0", "i3"][:at])
            learner.add([Example(f"u{user}", f"u{user}-{at}", 60_000 * at, came, "click", asked.interests)])
    learner.count()
    scorer = Scorer.untrained(DIM, both)
    with torch.no_grad():
        scorer.ranker.order.mean[-1] = 4.0
    (list_,) = score(scorer, learner.statistics, catalogue, [make_request(catalogue, ["i0"])], 10)

    others = [item for item in list_ if item.item_id != "i0"]

    assert {"i4", "i5"} == {item.item_id for item in others[:2]}
    assert "related to what comes next" == say(others[0].reasons[0], str)


def test_it_is_learnt_where_it_tells_what_comes(tmp_path):
    """A user stays with a director; there are so many items that no table of partners tells that."""
    items, random = 600, np.random.default_rng(0)
    catalogue = make_catalogue(items)
    learner = Learner(catalogue)
    triples = [(f"i{number}", "director", f"d{number % 200}") for number in range(items)]
    learner.use_optional(families(write(tmp_path / "t.csv", triples)))
    for user in range(240):
        first = int(random.integers(items))
        asked, came = make_request(catalogue, [f"i{first}"]), f"i{(first + 200) % items}"
        learner.add([Example(f"u{user}", f"u{user}-1", 60_000, came, "click", asked.interests)])
        if user % 60 == 59:
            scorer = learner.fine_tune()

    def hits(scorer: Scorer) -> int:
        """Of the first 40 items, how often what comes is among the first 10."""
        requests = [make_request(catalogue, [f"i{number}"]) for number in range(40)]
        lists = score(scorer, learner.statistics, catalogue, requests, 10)
        return sum(f"i{number + 200}" in {item.item_id for item in one} for number, one in enumerate(lists))

    assert [*SIGNALS, "related", "related-spread"] == scorer.ranker.names
    plain = copy.deepcopy(scorer)
    with torch.no_grad():
        for part in (plain.ranker.order.mean, plain.ranker.order.shift):
            part[..., -2:] = 0.0
        plain.ranker.mlp[0].weight[:, -2 - CONTEXT : -CONTEXT] = 0.0
    assert hits(scorer) >= 3 * hits(plain)


def test_triples_of_unknown_items_are_counted_and_passed_over(tmp_path, caplog):
    rows = [("i0", "director", "d"), ("nobody", "director", "d"), ("none", "director", "e")]
    with caplog.at_level(logging.WARNING):
        families(write(tmp_path / "t.csv", rows), {item_key(f"i{number}"): "" for number in range(ITEMS)})

    (record,) = caplog.records
    assert "t.csv: 2 of 3 triples name no item so far" in record.getMessage()
    assert record.getMessage().endswith("the first: row 2")


def test_triples_that_name_no_item_at_all_are_told_once(tmp_path, caplog):
    """And lists go on."""
    file = write(tmp_path / "t.csv", [("film 1", "director", "d"), ("film 2", "director", "d")])
    with caplog.at_level(logging.WARNING):
        families(file, {item_key("i1"): "", item_key("i2"): ""})

    (record,) = caplog.records
    assert (
        f"{file}: none of 2 triples names one of 2 items, so triples= changes nothing: `head` or `tail` has to be the "
        "item_id of an item"
    ) == record.getMessage()
    assert 2 == len(best([("film 1", "director", "d")], ["i4"]))


def test_every_form_says_the_same(tmp_path):
    import pandas as pd

    table = pd.DataFrame(DIRECTORS, columns=["head", "relation", "tail"])
    table.to_parquet(tmp_path / "t.parquet")
    files = [
        write(tmp_path / "t.csv", DIRECTORS), write(tmp_path / "t.tsv", DIRECTORS, "head\trelation\ttail", "\t"),
        str(tmp_path / "t.parquet"),
    ]  # fmt: skip
    names = [(f"m{number}", relation, tail) for number, (_, relation, tail) in enumerate(DIRECTORS)]
    files.append(write(tmp_path / "t.kg", names, "head_id:token\trelation_id:token\ttail_id:token", "\t"))
    links = [(f"i{number}", f"m{number}") for number in range(ITEMS)]
    write(tmp_path / "t.link", links, "item_id:token\tentity_id:token", "\t")
    catalogue = make_catalogue()
    first, *others = (read(file).graph(catalogue) for file in files)

    assert len(first.facts) == ITEMS
    for other in others:
        assert np.array_equal(first.starts, other.starts) and np.array_equal(first.items, other.items)


@pytest.mark.parametrize(
    "name, text, why",
    [
        ("no.csv", None, "No such file"),
        ("empty.csv", "", "no column head, relation, tail"),
        ("rows.csv", "head,relation,tail\n", "no rows"),
        ("header.csv", "a,b,c\n1,2,3\n", "no column head, relation, tail"),
        ("short.csv", "head,relation,tail\na,b,c\na,b\n", "row 2 has 2 cells, the header 3"),
        ("cell.csv", "head,relation,tail\na,b,c\na,,c\n", "row 2: relation is empty"),
        ("quote.csv", 'head,relation,tail\na,b,"c\n', "cannot be read as CSV after row 1"),
        ("bytes.csv", b"head,relation,tail\n\xff\xfe,b,c\n", "cannot be read as CSV"),
        ("utf16.csv", "head,relation,tail\na,b,c\n".encode("utf-16"), "cannot be read as CSV"),
        ("no.csv.gz", b"head,relation,tail\na,b,c\n", "cannot be read as CSV after row 0"),
        ("cut.csv.gz", gzip.compress(b"head,relation,tail\n" + b"a,b,c\n" * 9, mtime=0)[:-12], "cannot be read as CSV"),
        ("no.zip", b"PK\x03\x04 and no more", "cannot be read as CSV"),
        ("no.csv.bz2", b"BZh9 and no more", "cannot be read as CSV"),
        ("no.csv.xz", b"\xfd7zXZ\0 and no more", "cannot be read as CSV"),
        ("noise.csv", bytes(range(256)) * 40, "cannot be read as CSV"),
        ("zeros.csv", bytes(10_000), "no column head, relation, tail|cannot be read as CSV"),
        ("folder.csv", "folder", "cannot be read as CSV"),
        ("folder.tsv", "folder", "cannot be read as TSV"),
        ("folder.parquet", "folder", "cannot be read as Parquet|no column head, relation, tail"),
        ("folder.kg", "folder", "cannot be read as TSV"),
        ("no.parquet", b"head", "cannot be read as Parquet"),
        ("cut.parquet", b"PAR1" + bytes(40) + b"\x10\0\0\0PAR1", "cannot be read as Parquet"),
        ("alone.kg", "head_id:token\trelation_id:token\ttail_id:token\na\tb\tc\n", "alone.link"),
    ],
)
def test_a_file_that_is_none_is_refused_before_the_start(tmp_path, name, text, why):
    file = tmp_path / name
    if text == "folder":
        file.mkdir()
    elif text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(SettingsError, match=why) as refused:
        check_triples(Settings(triples=str(file)))
    said = str(refused.value)
    assert name.partition(".")[0] in said
    assert len(said) < 600 + 2 * len(str(file)) and "\n" not in said


def test_it_is_off_where_no_file_is_named():
    check_triples(Settings())

    assert () == Settings().families()
    assert (TriplesFamily("/t.csv"), TriplesFamily("/t.csv", spread=True)) == Settings(triples="/t.csv").families()


def test_a_reason_without_a_relation_is_written_as_before():
    assert b'{"signal":"related","share":0.5,"items":[]}' == encode_json(Reason("related", 0.5))


def test_the_page_and_rest_say_the_relation():
    """Where the event's item is gone, nothing is said of what both share."""
    from model import schema
    from serving.store import Store

    store = Store(clock=lambda: 1_795_677_000_000)
    reasons = [Reason("related", 0.5, items=["i4"], relation="director"), Reason("popularity", 0.4)]
    item = schema.RecommendedItem("i5", 0.5, reasons)
    made = schema.Recommendation("r", "ann", "e", 1, 2, "v00001", "serving", [item])
    store.apply("recommendations", b"ann", encode_json(made), 1_795_677_000_001)
    first, second = store.list_of("ann")["items"][0]["reasons"]

    assert ("director", "same director as i4") == (first["relation"], first["words"])
    assert "relation" not in second


def test_the_made_up_world_is_three_files_that_can_be_read(tmp_path):
    """Users stay with few directors."""
    from scripts import data
    from scripts.triples import make

    make(tmp_path)
    events, items = data.read(tmp_path / "events.csv", tmp_path / "items.csv")
    director = {int(head[1:]): tail for head, name, tail in _triples(tmp_path / "triples.csv") if name == "director"}
    by = [director[int(item_id[1:])] for item_id in events["item_id"]]
    users = events.assign(by=by).groupby("user_id")["by"]

    assert 600 == len(items) == len(director)
    assert users.nunique().sum() < 0.6 * len(events)
    assert 1_200 == len(read(str(tmp_path / "triples.csv")))


def _triples(file):
    return [line.split(",") for line in file.read_text().splitlines()[1:]]


def test_more_than_can_be_held_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("model.triples.MOST_TRIPLES", 2)

    with pytest.raises(TriplesError, match="more than 2 rows"):
        read(write(tmp_path / "t.csv", DIRECTORS))
