"""Finding, fetching and splitting corpora; the counts of the real ones."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebmstruct.errors import DataError
from ebmstruct_nlp import downloads, hkcancor
from ebmstruct_nlp.corpora import (
    CORPORA,
    Corpus,
    RemoteFile,
    corpus_named,
    find_splits,
    hkcancor_ner,
    hkcancor_pos,
    read_splits,
    split_paths,
)
from ebmstruct_nlp.formats import read
from ebmstruct_nlp.schemes import BIO

DATA = os.environ.get("EBMSTRUCT_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="EBMSTRUCT_DATA is not set: the folder that holds nlp/uner_en_ewt")
needs_cantonese = pytest.mark.skipif(importlib.util.find_spec("pycantonese") is None, reason="no pycantonese")


def fill(folder: Path, *names: str) -> Path:
    """A folder of small tagged files with these names."""
    for name in names:
        (folder / name).write_text("a\tB-X\nb\tO\n")
    return folder


@pytest.mark.parametrize(
    ("train", "dev", "test"),
    [
        ("train.tsv", "devel.tsv", "test.tsv"),
        ("en_ewt-ud-train.conllu.gz", "en_ewt-ud-dev.conllu.gz", "en_ewt-ud-test.conllu.gz"),
        ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"),
        ("eng.train", "eng.testa", "eng.testb"),
        ("Training.txt", "VALIDATION.txt", "Test.txt"),
        ("train", "valid", "test"),
    ],
)
def test_splits_are_found_by_name(
    tmp_path: Path, train: str, dev: str, test: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The usual names of train, dev and test, whatever the suffix; notes, hidden files and train_dev are no
    split; the choice is said."""
    fill(tmp_path, train, dev, test, "README-train.md", ".train.swp", "train.stats", "train_dev.tsv", "constraints.txt")
    with caplog.at_level(logging.INFO):
        found = find_splits(tmp_path)
    assert {split: path.name for split, path in found.items()} == {"train": train, "dev": dev, "test": test}
    assert f"train is {train}, dev is {dev}, test is {test}" in caplog.text


def test_two_candidates_are_an_error(tmp_path: Path) -> None:
    """Two files for one split are both named, with the way to choose; a known suffix beats an unknown one."""
    fill(tmp_path, "a-train.tsv", "b-train.tsv", "dev.txt", "dev.conllu")
    with pytest.raises(DataError, match="a-train.tsv and b-train.tsv could all be the split 'train'; name the files"):
        find_splits(tmp_path)
    (tmp_path / "b-train.tsv").unlink()
    assert find_splits(tmp_path)["dev"].name == "dev.conllu"


def test_missing_splits_are_an_error(tmp_path: Path) -> None:
    """A folder without what is needed says what it holds and which words are known; so does what is no folder."""
    fill(tmp_path, "corpus.tsv")
    with pytest.raises(DataError, match="no file for train is recognised by name .* the folder holds corpus.tsv"):
        find_splits(tmp_path)
    assert find_splits(tmp_path, required=()) == {}
    with pytest.raises(DataError, match="no file for dev and test"):
        find_splits(fill(tmp_path, "train.tsv"), required=("dev", "test"))
    with pytest.raises(DataError, match="does not exist"):
        find_splits(tmp_path / "nothing")
    with pytest.raises(DataError, match="is a file"):
        find_splits(tmp_path / "train.tsv")


def test_paths_by_split(tmp_path: Path) -> None:
    """A mapping names the files itself; unknown splits are refused; only what is asked for is read."""
    fill(tmp_path, "one", "two")
    paths = split_paths({"train": tmp_path / "one", "dev": str(tmp_path / "two")})
    assert list(paths) == ["train", "dev"]
    corpus = read_splits(paths, splits=["dev"])
    assert corpus["dev"][0].tokens == ("a", "b") and corpus.reports["dev"].labels == {"X": 1}
    with pytest.raises(DataError, match="there is no split 'test'; this corpus has dev"):
        corpus["test"]
    with pytest.raises(DataError, match="data: trian is no split; legal are train, dev, test"):
        split_paths({"trian": "x"})
    with pytest.raises(DataError, match="no file is given"):
        split_paths({})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of one folder on this machine."""
    (tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **named: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "served"), **named)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def small(address: str, content: bytes) -> Corpus:
    """A corpus of one file whose checksum is that of the content."""
    remote = RemoteFile(f"{address}/x-train.tsv", len(content), hashlib.sha256(content).hexdigest())
    return Corpus("small", "a small corpus", "here", "CC0", {"train": remote})


def test_fetch_checks_and_caches(tmp_path: Path, server: str, caplog: pytest.LogCaptureFixture) -> None:
    """Fetched once, then taken from the cache; a damaged copy is fetched again."""
    content = b"a\tB-X\n" * 50_000
    served = tmp_path / "served" / "x-train.tsv"
    served.write_bytes(content)
    corpus = small(server, content)
    paths = corpus.fetch(tmp_path / "cache")
    assert read(paths["train"]).report.labels == {"X": 50_000}
    served.unlink()
    with caplog.at_level(logging.INFO):
        assert corpus.fetch(tmp_path / "cache") == paths
    assert "from the cache" in caplog.text
    paths["train"].write_bytes(b"damaged")
    served.write_bytes(content)
    assert corpus.fetch(tmp_path / "cache")["train"].read_bytes() == content


@pytest.mark.parametrize("served", [b"a\tB-Y\n", b"a\tB-X\n" * 100_000, b""])
def test_wrong_content_is_not_kept(tmp_path: Path, server: str, served: bytes) -> None:
    """Other bytes than the pinned ones, more or fewer, are refused and leave nothing behind."""
    (tmp_path / "served" / "x-train.tsv").write_bytes(served)
    with pytest.raises(DataError, match="are pinned; nothing was kept; .* --set task.data=PATH"):
        small(server, b"a\tB-X\n").fetch(tmp_path / "cache")
    assert not list(tmp_path.glob("cache/**/*.tsv*"))


def test_no_network_is_one_sentence(tmp_path: Path, server: str) -> None:
    """No such file, no such server, no such name: what failed, why, and what to pass instead."""
    for address in (server, "http://127.0.0.1:9", "http://nowhere.invalid"):
        with pytest.raises(DataError) as caught:
            small(address, b"x").fetch(tmp_path / "cache")
        message = str(caught.value)
        assert message.startswith(f"small: {address}/x-train.tsv could not be fetched (") and "\n" not in message
        assert message.endswith("pass a folder that holds train, dev and test files: --set task.data=PATH")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME when it is an absolute path, else .cache at home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert downloads.cache_folder() == tmp_path / "ebmstruct"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert downloads.cache_folder() == tmp_path / ".cache" / "ebmstruct"


def test_known_corpora_are_pinned() -> None:
    """Every file is pinned to a commit and a checksum; unknown names are refused."""
    for corpus in CORPORA.values():
        assert set(corpus.files) == {"train", "dev", "test"} and corpus.licence
        for remote in corpus.files.values():
            commit = remote.url.removeprefix("https://raw.githubusercontent.com/").split("/")[2]
            assert len(commit) == 40 and len(remote.sha256) == 64 and remote.size > 0
    with pytest.raises(DataError, match="corpus 'conll' is unknown; legal are uner_en_ewt, ud_en_ewt"):
        corpus_named("conll")


COUNTS = {
    ("uner_en_ewt", "train"): (12543, 204579, {"PER": 2873, "LOC": 2698, "ORG": 1434}),
    ("uner_en_ewt", "dev"): (2001, 25149, {"PER": 343, "LOC": 399, "ORG": 224}),
    ("uner_en_ewt", "test"): (2077, 25097, {"PER": 449, "LOC": 317, "ORG": 322}),
    ("uner_da_ddt", "train"): (4383, 80378, {"PER": 1237, "ORG": 909, "LOC": 882}),
    ("ncbi_disease", "train"): (5424, 135701, {"Disease": 5134}),
    ("ncbi_disease", "dev"): (923, 23969, {"Disease": 787}),
    ("wnut17", "train"): (
        3394,
        62730,
        {"person": 660, "location": 548, "group": 264, "creative-work": 140, "product": 142, "corporation": 221},
    ),
    ("wnut17", "test"): (
        1287,
        23394,
        {"person": 429, "location": 150, "group": 165, "creative-work": 142, "product": 127, "corporation": 66},
    ),
}


@needs_data
@pytest.mark.parametrize(("corpus", "split"), COUNTS)
def test_counts_of_real_entities(corpus: str, split: str) -> None:
    """Sentences, tokens and entities per type are those that the corpora's notes state."""
    report = read(find_splits(Path(str(DATA)) / "nlp" / corpus)[split]).report
    assert (report.sentences, report.tokens, report.labels) == COUNTS[corpus, split]
    if (corpus, split) == ("uner_en_ewt", "train"):
        assert report.mapped == {"B-OTH -> O": 888, "B-O -> O": 540, "I-OTH -> O": 227}


@needs_data
def test_counts_of_real_parts_of_speech() -> None:
    """UD English-EWT: 12,544, 2,001 and 2,077 sentences; 34,751 nouns and 400 X in train."""
    corpus = read_splits(Path(str(DATA)) / "nlp" / "ud_en_ewt")
    found = {split: (report.sentences, report.tokens) for split, report in corpus.reports.items()}
    assert found == {"train": (12544, 204577), "dev": (2001, 25147), "test": (2077, 25094)}
    assert corpus.reports["train"].labels["NOUN"] == 34751 and corpus.reports["train"].labels["X"] == 400


@needs_data
def test_pinned_files_are_the_real_ones() -> None:
    """The checksum of each fetched file is that of the corpus at hand."""
    import gzip

    for name, corpus in CORPORA.items():
        for split, path in find_splits(Path(str(DATA)) / "nlp" / name).items():
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            remote = corpus.files[split]
            assert (len(raw), hashlib.sha256(raw).hexdigest()) == (remote.size, remote.sha256)


@needs_cantonese
def test_hkcancor_entities() -> None:
    """16,162 utterances, of which 1,429 hold an entity (1,766 with the kin tags); text and places agree."""
    corpus = hkcancor_ner()
    said = [sentence for split in corpus.sentences.values() for sentence in split]
    assert len(said) == 16_162 and sum(any(tag != "O" for tag in sentence.tags) for sentence in said) == 1_429
    assert all(
        sentence.text[a:b] == token
        for sentence in said[::50]
        for (a, b), token in zip(sentence.offsets or (), sentence.tokens, strict=True)
        if sentence.text
    )
    assert all(len(token) == 1 for sentence in said for token in sentence.tokens)
    assert not any(BIO.violations(sentence.tags) for sentence in said)
    kin = hkcancor_ner(kin=True)
    assert sum(any(t != "O" for t in sentence.tags) for split in kin.sentences.values() for sentence in split) == 1_766
    assert {split: report.sentences for split, report in corpus.reports.items()} == {
        "train": 11_280,
        "dev": 1_653,
        "test": 3_229,
    }
    assert corpus.reports["test"].labels == {"LOC": 138, "PER": 94, "ORG": 36, "MISC": 29}


@needs_cantonese
def test_hkcancor_tag_table() -> None:
    """The counts of tagged words in the table at the top of the module."""
    words = Counter(tag for _, said in hkcancor._utterances()[0] for utterance in said for _, tag in utterance)
    assert words["nr"] == 813 and words["ns"] == 699 and words["nt"] == 127 and words["nz"] == 296
    for tag in hkcancor.KIN_TAGS:
        assert f"{tag} {words[tag]}" in str(hkcancor.__doc__)
    assert words.total() == 153_656


@needs_cantonese
def test_hkcancor_folds_cover_all() -> None:
    """Every utterance is tested in exactly one of five folds; no recording lies in two splits of a fold."""
    tested: Counter[str] = Counter()
    for fold in range(1, 6):
        corpus = hkcancor_pos(fold=fold)
        where = {split: {hkcancor._recording(s.source[9:]) for s in said} for split, said in corpus.sentences.items()}
        assert "005" in set.union(*where.values()) and sum(map(len, where.values())) == 49
        assert not (where["train"] & where["dev"] or where["train"] & where["test"] or where["dev"] & where["test"])
        assert sum(map(len, corpus.sentences.values())) == 16_162
        assert 0.18 < len(corpus["test"]) / 16_162 < 0.24 and 0.08 < len(corpus["dev"]) / 16_162 < 0.16
        tested.update(sentence.source for sentence in corpus["test"])
    assert len(tested) == 16_162 and set(tested.values()) == {1}
    for fold in (0, 6, True, "1"):
        with pytest.raises(DataError, match="does not exist; legal are 1 to 5"):
            hkcancor_pos(fold=fold)  # type: ignore[arg-type]


def test_missing_pycantonese_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the sentence names what to install."""
    hkcancor._utterances.cache_clear()
    monkeypatch.setitem(sys.modules, "pycantonese", None)
    with pytest.raises(DataError, match="pip install 'ebmstruct\\[nlp\\]'"):
        hkcancor_ner()
