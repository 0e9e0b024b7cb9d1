"""Files of rows with labels: ARFF, CSV, JSONL; splits; every fault a sentence with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from ebmstruct import DataError
from ebmstruct_multilabel.splits import read_corpus, read_file
from ebmstruct_multilabel.tables import TableOptions

DENSE = """% a comment
@relation 'birds: -C 2'
@attribute sings {0,1}
@attribute "flies far" {false,true}
@attribute size numeric
@attribute colour {red,'dark blue'}

@data
1,false,0.5,red
0,true,?,'dark blue'
0,false,0,red
"""
SPARSE = """@relation words
@attribute a {0,1}
@attribute b numeric
@attribute l1 {0,1}
@attribute l2 {0,1}
@data
{0 1,2 1}
{1 2.5, 3 1}
{}
"""
XML = """<?xml version="1.0"?>
<labels xmlns="http://mulan.sourceforge.net/labels">
<label name="l1"/><label name="l2"></label>
</labels>
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_dense_arff(tmp_path: Path) -> None:
    """MEKA's -C 2 marks the first two attributes; nominal features become columns; ? is missing; names may be quoted."""
    found, _ = read_file(write(tmp_path, "birds.arff", DENSE), TableOptions())
    assert found.labels == ("sings", "flies far")
    assert found.sets == [("sings",), ("flies far",), ()]
    assert found.rows[0].named() == {"size": 0.5, "colour=red": 1.0}
    second = found.rows[1].named()
    assert np.isnan(second.pop("size")) and second == {"colour=dark blue": 1.0}
    assert found.sources == ["birds.arff:9", "birds.arff:10", "birds.arff:11"]


@pytest.mark.parametrize("labels", [None, 2, ["l1", "l2"]])
def test_sparse_arff(tmp_path: Path, labels: object) -> None:
    """A sparse row has what it names; labels by the XML beside, by number from the end, or by name; gzip too."""
    if labels is None:
        write(tmp_path, "words.xml", XML)
    found, _ = read_file(write(tmp_path, "words.arff.gz", SPARSE), TableOptions(labels))  # type: ignore[arg-type]
    assert found.sets == [("l1",), ("l2",), ()]
    assert [row.named() for row in found.rows] == [{"a": 1.0}, {"b": 2.5}, {}]


def test_sparse_rows_leave_out_the_first_value(tmp_path: Path) -> None:
    """A value left out of a sparse row is the first declared, also where that is on: l2 of {1,0} is in, a of {2,3} is 2."""
    text = SPARSE.replace("l2 {0,1}", "l2 {1,0}").replace("a {0,1}", "a {2,3}").replace("{0 1,2 1}", "{0 3,2 1}")
    found, _ = read_file(write(tmp_path, "w.arff", text), TableOptions(2))
    assert found.sets == [("l1", "l2"), ("l2",), ("l2",)]
    assert [row.named() for row in found.rows] == [{"a": 3.0}, {"a": 2.0, "b": 2.5}, {"a": 2.0}]


def test_csv(tmp_path: Path) -> None:
    """Labels in one column, by names, by a beginning of names; a column of text becomes words."""
    listed = write(tmp_path, "a.csv", "x,y,labels\n1,0.5,red; blue\n0,,\n")
    found, _ = read_file(listed, TableOptions())
    assert found.sets == [("red", "blue"), ()] and found.labels == ("blue", "red")
    assert found.rows[0].named() == {"x": 1.0, "y": 0.5} and np.isnan(found.rows[1].named()["y"])
    columns = write(tmp_path, "b.tsv", "x\tis_red\tis_blue\n1\t1\t0\n2\tno\tyes\n")
    for labels in ("is_*", ["is_red", "is_blue"], 2):
        found, _ = read_file(columns, TableOptions(labels))
        assert found.sets == [("is_red",), ("is_blue",)] and found.rows[1].named() == {"x": 2.0}
    text = write(tmp_path, "c.csv", 'id;words;tags\n1;"A dog, a DOG";animal|noise\n')
    found, _ = read_file(text, TableOptions("tags", "|", "words"))
    assert found.rows[0].named() == {"a": 2.0, "dog": 2.0} and found.sets == [("animal", "noise")]


def test_jsonl(tmp_path: Path) -> None:
    """Numbers, names or texts, with a list of labels, or null where nobody knows them."""
    lines = [{"features": {"a": 1, "b": 0}, "labels": ["x"]}, {"features": {"b": 2.5, "c": None}, "labels": None}]
    found, _ = read_file(write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))), TableOptions())
    assert found.sets == [("x",), None]
    assert found.rows[0].named() == {"a": 1.0} and found.rows[1].named()["b"] == 2.5
    found, _ = read_file(write(tmp_path, "b.jsonl", '{"features": [0, 2], "labels": []}\n'), TableOptions())
    assert found.rows[0].named() == {"feature 2": 2.0}
    found, _ = read_file(write(tmp_path, "c.jsonl", '{"text": "Hot, hot!", "labels": ["w"]}\n'), TableOptions())
    assert found.rows[0].named() == {"hot": 2.0} and found.rows[0].text == "Hot, hot!"


@pytest.mark.parametrize(
    ("name", "text", "labels", "said"),
    [
        ("a.arff", DENSE.replace("0,true,?", "0,true"), None, "a.arff:10: the row has 3 values, and 4 attributes"),
        ("a.arff", DENSE.replace("0.5", "big"), None, "a.arff:9: 'size' is 'big'; a number is needed"),
        ("a.arff", DENSE.replace("1,false", "7,false"), None, "a.arff:9: the label 'sings' is '7'; legal are 0 and 1"),
        ("a.arff", DENSE.replace(",red", ",green", 1), None, "a.arff:9: 'colour' is 'green'; its values"),
        ("a.arff", DENSE.replace("numeric", "date"), None, "a.arff:5: the attribute 'size' is of type 'date'"),
        ("a.arff", DENSE.replace(" -C 2", ""), None, "which attributes are labels is not said"),
        ("a.arff", DENSE, ["sing"], "no attribute 'sing'.*did you mean sings"),
        ("a.arff", DENSE, 9, "task.labels is 9; legal are 1 to 3"),
        ("a.arff", SPARSE.replace("{0 1,", "{9 1,"), 2, "a.arff:7: attribute 9 does not exist"),
        ("a.arff", SPARSE.replace("2 1}", "2 1"), 2, "a.arff:7: a sparse row begins with { and must end"),
        ("a.arff", "@relation x\nrows\n", 2, "a.arff:2: found 'rows'; legal before @data"),
        ("a.arff", "@relation x\n", 2, "there is no @data"),
        ("a.csv", "x,labels\n1\n", None, "a.csv:2: the row has 1 cells, and the header 2"),
        ("a.csv", "x,labels\nbig,a\n", None, "a.csv:2: 'x' is 'big'; a finite number"),
        ("a.csv", "x,y\n1,2\n", None, "which columns are labels is not said"),
        ("a.csv", "x,y\n1,2\n", ["y"], "a.csv:2: the label 'y' is '2'; legal are 0 and 1"),
        ("a.csv", "x,x\n1,2\n", 1, "the column 'x' is there twice"),
        ("a.jsonl", '{"labels": []}\n', None, "a.jsonl:1: a record needs features or a text; its keys are 'labels'"),
        ("a.jsonl", '{"text": "a", "labels": "b"}\n', None, "a.jsonl:1: labels are 'b'; a list of texts"),
        ("a.jsonl", '{"features": [1]}\n{"features": [1, 2]}\n', None, "a.jsonl:2: 2 features, and 1 in the rows"),
        ("a.jsonl", "[1]\n", None, "a.jsonl:1: a record is a JSON object, found list"),
        ("a.jsonl", "{\n", None, "a.jsonl:1: not a JSON record"),
        ("a.txt", "x", None, "legal endings are .arff"),
        ("a.csv", " ", None, "the file is empty"),
        ("a.csv.gz", "x,labels\n", None, "holds no row"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, name: str, text: str, labels: object, said: str) -> None:
    """What is wrong is told with where it stands, what was found and what is legal."""
    path = write(tmp_path, name, text)
    with pytest.raises(DataError, match=said):
        read_file(path, TableOptions(labels))  # type: ignore[arg-type]


def test_splits_by_name_and_dev_by_seed(tmp_path: Path) -> None:
    """Files are found by words in their names; dev is drawn from train by seed, and train loses those rows."""
    rows = "x,labels\n" + "".join(f"{i + 1},a\n" for i in range(20))
    write(tmp_path, "bib-train.csv", rows)
    write(tmp_path, "bib-test.csv.gz", "x,labels\n7,a\n")
    write(tmp_path, "README.md", "train and test")
    corpus = read_corpus(str(tmp_path), TableOptions(), dev_fraction=0.25, seed=1)
    values = {s: [row.named()["x"] for row in corpus[s].rows] for s in corpus.splits}
    assert list(corpus.splits) == ["train", "dev", "test"] and corpus.carved == 5 and values["test"] == [7.0]
    assert sorted(values["train"] + values["dev"]) == [float(i + 1) for i in range(20)]
    again = read_corpus(str(tmp_path), TableOptions(), dev_fraction=0.25, seed=2)
    assert again["dev"].sources != corpus["dev"].sources
    assert read_corpus(str(tmp_path), TableOptions(), dev_fraction=0)["train"].sources[0] == "bib-train.csv:2"
    write(tmp_path, "second-train.csv", rows)
    with pytest.raises(DataError, match="could both be train"):
        read_corpus(str(tmp_path), TableOptions())
    with pytest.raises(DataError, match="no file for train is recognised"):
        (tmp_path / "empty").mkdir()
        read_corpus(str(tmp_path / "empty"), TableOptions())
    with pytest.raises(DataError, match="neither a folder nor a file"):
        read_corpus(str(tmp_path / "nowhere"), TableOptions())
