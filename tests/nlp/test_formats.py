"""Reading and writing tagged text: every format there and back, and one sentence for every fault."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebmstruct.errors import DataError
from ebmstruct_nlp.formats import ReadOptions, TaggedSentence, read, sniff, write
from ebmstruct_nlp.tokenizing import Tokenizer

WORDS = Tokenizer("whitespace")
UNER = (
    "# sent_id = a-1\n# text = Al Zaman: it\n1\tAl\tB-ORG\t-\tx\n2\tZaman\tI-ORG\t-\tx\n3\t:\tO\n4\tit\tB-O\t-\tx\n\n"
    "# sent_id = a-2\n1\tSyrian\tB-OTH\t-\tx\n2\tman\tO\n"
)
CONLLU = (
    "# text = I don't\n1\tI\tI\tPRON\tPRP\tCase=Nom\t2\tx\t_\t_\n2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "2\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_\n3\tn't\tnot\tPART\tRB\t_\t2\tx\t_\t_\n3.1\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_\n"
    "4\t?\t?\t_\t.\t_\t2\tx\t_\t_\n"
)
CONLL2003 = (
    "-DOCSTART- -X- -X- O\n\nEU NNP B-NP I-ORG\nrejects VBZ B-VP O\n\n-DOCSTART- -X- -X- O\n\nParis NNP B-NP I-LOC\n"
)


def put(folder: Path, text: str | bytes, name: str = "data") -> Path:
    """A file of that content."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def fault(folder: Path, text: str | bytes, options: ReadOptions | None = None) -> str:
    """The one sentence that reading this content gives, with the folder cut off."""
    with pytest.raises(DataError) as caught:
        read(put(folder, text), options)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder) + "/", "")


def test_uner(tmp_path: Path) -> None:
    """Three and five columns, comments, OTH and stray B-O to O, both counted."""
    reading = read(put(tmp_path, UNER))
    first, second = reading.sentences
    assert first == TaggedSentence(
        ("Al", "Zaman", ":", "it"), ("B-ORG", "I-ORG", "O", "O"), "Al Zaman: it", None, "data:3"
    )
    assert second.tags == ("O", "O") and second.text is None and second.source == "data:9"
    assert first.placed().offsets == ((0, 2), (3, 8), (8, 9), (10, 12))
    assert reading.report.mapped == {"B-O -> O": 1, "B-OTH -> O": 1}
    assert reading.report.labels == {"ORG": 1} and reading.report.tokens == 6
    assert "UNER IOB2" in reading.report.format and "mapped (B-O -> O 1, B-OTH -> O 1)" in reading.report.describe()


def test_labels_are_mapped_as_asked(tmp_path: Path) -> None:
    """Types and whole tags map to other types, to O, and to nothing known; a mapping replaces the default one."""
    path = put(tmp_path, UNER)
    kept = read(path, ReadOptions(labels={"O": "O", "OTH": "MISC"}))
    assert kept.report.labels == {"MISC": 1, "ORG": 1} and kept.report.mapped["B-OTH -> B-MISC"] == 1
    unknown = read(path, ReadOptions(labels={"O": None, "OTH": "O"}))
    assert unknown.sentences[0].tags[3] is None and unknown.report.unannotated == 1
    assert "tag 'B-O' is outside the scheme bio" in fault(tmp_path, UNER, ReadOptions(labels={}))
    assert "outside the scheme bio" in fault(tmp_path, UNER, ReadOptions(labels={"B-O": "PER"}))
    with pytest.raises(DataError, match="labels: 'OTH': 3 is not a pair of names"):
        ReadOptions(labels={"OTH": 3})  # type: ignore[dict-item]


def test_conllu_columns(tmp_path: Path) -> None:
    """UPOS, XPOS and FEATS by name; multiword and empty nodes are skipped and counted; _ is not annotated."""
    path = put(tmp_path, CONLLU)
    reading = read(path)
    assert reading.sentences[0].tokens == ("I", "do", "n't", "?")
    assert reading.sentences[0].tags == ("PRON", "AUX", "PART", None) and reading.report.scheme == "plain"
    assert reading.report.dropped == {"multiword token lines": 1, "empty nodes": 1}
    assert read(path, ReadOptions(tag_column="xpos")).sentences[0].tags == ("PRP", "VBP", "RB", ".")
    assert read(path, ReadOptions(tag_column="FEATS")).sentences[0].tags == ("Case=Nom", "_", "_", "_")
    assert read(path, ReadOptions(token_column=3)).sentences[0].tokens[2] == "not"


def test_conll2003(tmp_path: Path) -> None:
    """Blanks between columns, -DOCSTART- lines, IOB1 read as such and given in BIO; columns by number and name."""
    path = put(tmp_path, CONLL2003)
    reading = read(path)
    assert [sentence.tags for sentence in reading.sentences] == [("B-ORG", "O"), ("B-LOC",)]
    assert reading.report.scheme == "iob1" and reading.report.repaired == 0
    assert reading.report.dropped == {"-DOCSTART- lines": 2}
    assert read(path, ReadOptions(tag_column="pos", scheme="plain")).sentences[0].tags == ("NNP", "VBZ")
    assert read(path, ReadOptions(tag_column=-2)).sentences[0].tags == ("B-NP", "B-VP")


def test_conllu_plus(tmp_path: Path) -> None:
    """The file's own line global.columns names the columns."""
    text = "# global.columns = ID FORM NER:TAG UPOS\n# c\n1\tRome\tB-LOC\tPROPN\n2\tis\tO\tAUX\n"
    assert read(put(tmp_path, text), ReadOptions(tag_column="ner:tag")).report.labels == {"LOC": 1}
    assert read(put(tmp_path, text)).report.labels == {"AUX": 1, "PROPN": 1}


def test_hashtags_are_tokens(tmp_path: Path) -> None:
    """A line that begins with # is a token when its columns fit, and a line of one tab ends a sentence."""
    reading = read(put(tmp_path, "# a comment\n#tag\tO\n-\tO\n\t\n@me\tB-PER\r\n"))
    assert [sentence.tokens for sentence in reading.sentences] == [("#tag", "-"), ("@me",)]
    assert reading.report.dropped == {"comment lines": 1}


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["B-A", "I-A", "O", "B-A"], "bio"),
        (["I-A", "I-A", "O", "I-A"], "iob1"),
        (["B-A", "E-A", "O", "S-A"], "bioes"),
        (["B-A", "L-A", "O", "U-A"], "bilou"),
        (["B-A", "E-A", "O", "S-A", "B-B", "M-B", "E-B"], "bmes"),
    ],
)
def test_schemes_are_recognised(tmp_path: Path, tags: list[str], scheme: str) -> None:
    """The tags show their scheme; the spans come out in BIO, and the same when the scheme is named."""
    path = put(tmp_path, "".join(f"w\t{tag}\n" for tag in tags))
    for options in (ReadOptions(), ReadOptions(scheme=scheme)):
        reading = read(path, options)
        assert reading.sentences[0].tags[:4] == ("B-A", "I-A", "O", "B-A") and reading.report.repaired == 0
        assert reading.report.scheme == scheme


def test_broken_tags_are_repaired_and_counted(tmp_path: Path) -> None:
    """A lone I-PER becomes B-PER; the report and its line say so."""
    report = read(put(tmp_path, "a\tB-LOC\nb\tO\nc\tI-PER\n\nd\tB-LOC\n")).report
    assert (
        report.repaired == 1
        and report.labels == {"LOC": 2, "PER": 1}
        and "repaired, as they broke bio, 1 tag" in report.describe()
    )


def test_jsonl_shapes(tmp_path: Path) -> None:
    """Tokens with tags, text with entities, Doccano, spaCy pairs and Prodigy give the same sentence."""
    rows = [
        {"tokens": ["in", "New", "York"], "tags": ["O", "B-LOC", "I-LOC"]},
        {"text": "in New York", "entities": [[3, 11, "LOC"]]},
        {"text": "in New York", "label": [[3, 11, "LOC"]]},
        {"data": "in New York", "labels": [{"start_offset": 3, "end_offset": 11, "label": "LOC"}]},
        ["in New York", {"entities": [[3, 11, "LOC"]]}],
        {
            "text": "in New York",
            "tokens": [{"text": t} for t in ("in", "New", "York")],
            "spans": [{"start": 3, "end": 11, "label": "LOC"}],
        },
        {"tokens": [], "tags": []},
    ]
    reading = read(put(tmp_path, "\n".join(map(json.dumps, rows))), ReadOptions(tokenizer=WORDS))
    assert {(s.tokens, s.tags) for s in reading.sentences} == {(("in", "New", "York"), ("O", "B-LOC", "I-LOC"))}
    assert reading.sentences[1].offsets == ((0, 2), (3, 6), (7, 11)) and reading.sentences[3].source == "data:4"
    assert reading.report.dropped == {"records without tokens": 1} and reading.report.labels == {"LOC": 6}


def test_misaligned_entities_are_never_lost_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An entity that ends inside a token: its tokens unannotated, or grown, or an error; always counted."""
    text = json.dumps({"text": "in NewYork now", "entities": [[3, 6, "LOC"], [0, 2, "X"], [0, 6, "Y"]]})
    path = put(tmp_path, text)
    left = read(path, ReadOptions(tokenizer=WORDS))
    assert left.sentences[0].tags == (None, None, "O")
    assert left.report.misaligned == {"ends inside a token: left unannotated": 1, "overlaps another: left out": 2}
    assert "data:1: entity [0, 6, 'Y'] ends inside a token; left unannotated" in caplog.text
    text = json.dumps({"text": "in NewYork now", "entities": [[3, 6, "LOC"]]})
    grown = read(put(tmp_path, text), ReadOptions(tokenizer=WORDS, misaligned="expand"))
    assert grown.sentences[0].tags == ("O", "B-LOC", "O")
    assert grown.report.misaligned == {"ends inside a token: expanded to whole tokens": 1}
    message = fault(tmp_path, text, ReadOptions(tokenizer=WORDS, misaligned="error"))
    assert message.startswith("data:1: entity [3, 6, 'LOC'] ends inside a token; correct it")
    with pytest.raises(DataError, match="misaligned: 'drop' is unknown; legal are unannotated, expand, error"):
        ReadOptions(misaligned="drop")


def test_entity_overhanging_another_leaves_its_rest_unknown(tmp_path: Path) -> None:
    """Of two overlapping entities the first stands; the sites that only the second covers count as unknown."""
    text = json.dumps({"text": "a b c d", "entities": [[0, 3, "A"], [2, 5, "B"]]})
    assert read(put(tmp_path, text), ReadOptions(tokenizer=WORDS)).sentences[0].tags == ("B-A", "I-A", None, "O")


FAULTS = {
    "empty": ("", "data: the file is empty"),
    "blank": ("\n \n\t\n", "data: the file is empty"),
    "comments only": ("# a\n# b\n", "data: there are only comments and empty lines"),
    "columns": ("a\tO\nb\tO\nc O\n", "data:3: 1 column separated by tabs in 'c O'; 2 are needed"),
    "columns of the first line": ("a\tO\tx\nb\tO\nc\tO\n", "data:1: 3 columns separated by tabs"),
    "columns of UNER": (UNER.replace("3\t:\tO", "3\t:\tO\t-"), "data:5: 4 columns separated by tabs"),
    "columns of CoNLL-U": (CONLLU + "5\tx\n", "data:8: 2 columns separated by tabs in '5\\tx'; 10 are needed"),
    "no number": (CONLLU + "x" + "\tx" * 9, "data:8: 'x' is no token number"),
    "one column": ("a\nb\n", "data: most lines have one column, e.g. 'a'"),
    "plain text": ("It is.\nWe go home now.\nNo one there.\nA b c d e f.\n", "no common number of columns"),
    "empty token": ("a\tO\n\tO\n", "data:2: the token in column 1 is empty"),
    "empty tag": ("a\tO\nb\t\n", "data:2: the tag in column 2 is empty"),
    "tag": (
        "a\tO\n\nb\tB-PER\nc\tX-PER\n",
        "data:4: tag 'X-PER' is outside the scheme bio: legal are O, B-LABEL, I-LABEL",
    ),
    "tag alone": ("a\tO\nb\tX-PER\n", "data:2: tag 'X-PER' is outside the scheme bio"),
    "tag without prefix": ("a\tO\nb\tB-PER\nb\tPER\n", "data:3: tag 'PER' is outside the scheme bio"),
    "UTF-8": (b"a\tO\nb\xe9\tO\n", "data:2: byte 0xe9 at offset 5 is not valid UTF-8"),
    "UTF-8 behind a mark": (b"\xef\xbb\xbfa\tO\nb\xe9\tO\n", "data:2: byte 0xe9 at offset 8 is not valid UTF-8"),
    "UTF-16": (
        "a\tO\n".encode("utf-16"),
        "data:1: byte 0xff at offset 0 is not valid UTF-8 (invalid start byte); it looks",
    ),
    "gzip": (gzip.compress(CONLLU.encode() * 50)[:-20], "ends in the middle; fetch or copy it again"),
    "gzip body": (gzip.compress(CONLLU.encode())[:10] + b"\xff" * 50, "data: the gzip file is damaged"),
    "JSON": ('{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a"', "data:2: not a JSON record"),
    "JSON array": ('[\n{"tokens": ["a"], "tags": ["O"]}\n]', "write each record of the array on a line of its own"),
    "JSON text": ('{"text": 3, "tags": []}', "data:1: 'text' must be a string, found int"),
    "JSON keys": ('{"words": ["a"], "x": 1}', "data:1: no tags and no entities; its keys are words, x; legal are"),
    "JSON no tokens": ('{"x": 1}', "data:1: no tokens and no text; its keys are x; legal are"),
    "JSON lengths": ('{"tokens": ["a", "b"], "tags": ["O"]}', "data:1: 2 tokens but 1 in 'tags'"),
    "JSON numbers": ('{"tokens": ["a"], "tags": [0]}', "found numbers; write the names of the tags instead"),
    "JSON tag": ('{"tokens": ["a", "b"], "tags": ["O", "X-PER"]}', "data:1: tag 'X-PER' is outside the scheme bio"),
    "JSON token": ('{"tokens": ["a", ""], "tags": ["O", "O"]}', "must be a list of strings that are not empty"),
    "entity": (
        '{"text": "a b", "entities": [[0, 9, "X"]]}',
        "data:1: entity [0, 9, 'X'] leaves its text of 3 characters",
    ),
    "entity parts": ('{"text": "a b", "entities": [["0", 1, "X"]]}', 'is not [start, end, "LABEL"]'),
    "entity list": ('{"text": "a b", "entities": {"a": 1}}', "'entities' must be a list of entities, found dict"),
    "entity no text": ('{"tokens": ["a"], "entities": []}', "counts characters of a text, but there is no key 'text'"),
    "entity label O": ('{"text": "a b", "entities": [[0, 1, ""]]}', 'is not [start, end, "LABEL"]'),
    "offsets": (
        '{"text": "a", "tokens": ["a"], "tags": ["O"], "offsets": [[0, 2]]}',
        "'offsets' must give [start, end]",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_one_sentence(tmp_path: Path, name: str) -> None:
    """Each broken file gives one sentence that names the file, the place, what was found and what is legal."""
    text, expected = FAULTS[name]
    if name == "offsets":
        assert expected in fault(tmp_path, '{"text": "ab", "tokens": ["a"], "tags": ["O"], "offsets": [[0, 2]]}')
    else:
        assert expected in fault(tmp_path, text, ReadOptions(tokenizer=WORDS))


def test_missing_columns_and_keys(tmp_path: Path) -> None:
    """A column or key that is not there is named with those that are."""
    message = fault(tmp_path, CONLLU, ReadOptions(tag_column="NER"))
    assert "there is no column 'NER' (tag_column); legal are ID, FORM, LEMMA" in message
    assert "the file has 2 columns, counted from 1" in fault(tmp_path, "a\tO\n", ReadOptions(tag_column=3))
    assert "there is no column 0 (token_column)" in fault(tmp_path, "a\tO\n", ReadOptions(token_column=0))
    assert "its columns have no names; give a number from 1 to 2" in fault(
        tmp_path, "a\tO\n", ReadOptions(tag_column="x")
    )
    record = '{"tokens": ["a"], "tags": ["O"]}'
    message = fault(tmp_path, record, ReadOptions(tag_column="ner"))
    assert message == "data:1: there is no key 'ner' (tag_column); the record has tokens, tags"


def test_places_that_are_no_files(tmp_path: Path) -> None:
    """A folder, nothing at all, and a file that may not be read."""
    with pytest.raises(DataError, match="is a folder, and a file is needed here"):
        read(tmp_path)
    with pytest.raises(DataError, match="there is no such file"):
        sniff(tmp_path / "nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read("bad\0name")


def test_unwritable_place_leaves_nothing(tmp_path: Path) -> None:
    """Where a file is in the way of the folder, one sentence, and nothing half-written stays."""
    put(tmp_path, "x", "file")
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "file" / "out", [TaggedSentence(("a",), ("O",))])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for kind, name in (("conll", "a\tb"), ("iob2", "a\nb"), ("conllu", "")):
        with pytest.raises(DataError, match="cannot be written to columns"):
            write(tmp_path / "out", [TaggedSentence((name,), ("O",))], kind=kind)
    with pytest.raises(DataError, match="format 'xml' is unknown; legal are conll, conllu, iob2, jsonl"):
        write(tmp_path / "out", [], kind="xml")
    with pytest.raises(DataError, match="half a character"):
        write(tmp_path / "out", [TaggedSentence(("\ud800",), ("O",))], kind="conll")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


TOKEN = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=5)


@st.composite
def tagged(draw: st.DrawFn) -> list[TaggedSentence]:
    """Sentences with valid BIO tags, some of them not annotated."""
    out = []
    for _ in range(draw(st.integers(1, 4))):
        tags: list[str | None] = []
        for _ in range(draw(st.integers(1, 6))):
            before = tags[-1] if tags else "O"
            legal: list[str | None] = ["O", "B-PER", "B-LOC-x", None]
            if before is not None and before != "O":
                legal.append("I" + before[1:])
            tags.append(draw(st.sampled_from(legal)))
        tokens = tuple(draw(st.lists(TOKEN, min_size=len(tags), max_size=len(tags))))
        out.append(TaggedSentence(tokens, tuple(tags), " ".join(tokens) if draw(st.booleans()) else None))
    return out


@pytest.mark.parametrize(
    ("kind", "scheme", "separator"),
    [
        ("conll", "bio", "\t"),
        ("conll", "bioes", " "),
        ("iob2", "bio", "\t"),
        ("iob2", "bilou", "\t"),
        ("jsonl", "bio", "\t"),
    ],
)
@pytest.mark.parametrize("name", ["out.txt", "out.gz"])
@given(sentences=tagged())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_written_files_read_back(
    tmp_path: Path, kind: str, scheme: str, separator: str, name: str, sentences: list[TaggedSentence]
) -> None:
    """What is written is recognised and read back the same, token by token and span by span, plain or gzip."""
    path = write(tmp_path / name, sentences, kind=kind, scheme=scheme, separator=separator)
    if any(sentence.tokens[0].startswith("#") for sentence in sentences) and separator == " ":
        return  # columns by blanks cannot tell "# x" from a comment
    back = read(path, ReadOptions(scheme=scheme, labels={}))
    assert back.report.format.endswith("gzip") == (name == "out.gz")
    assert [s.tokens for s in back.sentences] == [s.tokens for s in sentences]
    closed = scheme != "bio"  # a span that runs into an unannotated site is closed when it is spelt with its ends
    for old, new in zip(sentences, back.sentences, strict=True):
        assert new.tags == old.tags or (closed and None in old.tags)
        assert kind == "conll" or new.text == old.text


@pytest.mark.parametrize("column", ["UPOS", "XPOS", "FEATS"])
def test_conllu_reads_back(tmp_path: Path, column: str) -> None:
    """Parts of speech in each of CoNLL-U's columns, text and all."""
    sentences = [TaggedSentence(("a", "b c"), ("X=1|Y=2", "_" if column == "FEATS" else None), "a b c")]
    write(tmp_path / "out", sentences, kind="conllu", scheme="plain", tag_column=column)
    (back,) = read(tmp_path / "out", ReadOptions(tag_column=column)).sentences
    assert (back.tokens, back.tags, back.text) == (sentences[0].tokens, sentences[0].tags, "a b c")
    with pytest.raises(DataError, match="legal are UPOS, XPOS, FEATS"):
        write(tmp_path / "out", sentences, kind="conllu", tag_column="NER")


@given(
    base=st.sampled_from([UNER, CONLLU, CONLL2003, '{"text": "a b", "entities": [[0, 1, "X"]]}\n' * 3]), data=st.data()
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_read_or_say_why(tmp_path: Path, base: str, data: st.DataObject) -> None:
    """Bytes cut, doubled or changed at random: sentences come out, or one sentence of fault, never a traceback."""
    raw = bytearray(base.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        new = data.draw(
            st.sampled_from([b"", b"\t", b"\n", b"-", b"\x00", b"\xff", b'"', b"9", b" ", b"[", b"\xc3\xa9"])
        )
        raw[place : place + data.draw(st.integers(0, 3))] = new
        if not raw:
            return
    try:
        reading = read(put(tmp_path, bytes(raw)), ReadOptions(tokenizer=WORDS))
    except DataError as caught:
        assert "\n" not in str(caught)
    else:
        assert all(len(sentence.tokens) == len(sentence.tags) for sentence in reading.sentences)


@pytest.mark.parametrize("kind", ["conll", "jsonl", "entities"])
def test_a_sentence_of_100000_tokens(tmp_path: Path, kind: str) -> None:
    """One sentence of 100,000 tokens is read in time that grows with its length: well under two CPU seconds."""
    n = 100_000
    if kind == "entities":
        record = {"text": "word " * n, "entities": [[i * 10, i * 10 + 4, "X"] for i in range(n // 2)]}
        path = put(tmp_path, json.dumps(record))
    else:
        path = write(tmp_path / "out", [TaggedSentence(("word",) * n, ("B-X", "O") * (n // 2))], kind=kind)
    start = time.process_time()
    (sentence,) = read(path, ReadOptions(tokenizer=WORDS)).sentences
    assert time.process_time() - start < 2.0
    assert sentence.tags == ("B-X", "O") * (n // 2)
