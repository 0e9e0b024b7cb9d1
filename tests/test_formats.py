"""Model files: what is read is what was written, real files give the energies that are known, evidence, names."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ebmstruct.errors import DataError
from ebmstruct.graph import ChainFactor, Discrete, FactorGraph, GridFactor, TableFactor, Variables, potts_table
from ebmstruct.inference import log_partition
from ebmstruct.inference.solvers import Exhaustive
from ebmstruct.run.formats import (
    Evidence,
    Model,
    is_model_file,
    read_evidence,
    read_model,
    write_evidence,
    write_model,
)
from ebmstruct.testing import oracle, random_chain, random_forest, random_graph, random_grid

DATA = Path(os.environ.get("EBMSTRUCT_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real models are in the folder that EBMSTRUCT_DATA names")

SMALL = """MARKOV
3
2 2 3
4
1 0
2 0 1
2 1 2
0

2
 0.5 1.5

4
 1.0 0.0
 0.25 1.0

6
 1 2 3
 4 5 6

1
 2.0
"""
"""f0 of x0; f1 of x0, x1 with a zero; f2 of x1, x2; and a constant 2."""

SPRINKLER = """// a garden
network "garden" { property author someone; }
variable Rain { type discrete [ 2 ] { yes, no }; }
variable Sprinkler { type discrete[2]{"on", off}; property position = (1, 2); }
variable Grass /* wet
or dry */ { type discrete [ 2 ] { wet, dry }; }
probability ( Rain ) { table 0.2, 0.8; }
probability ( Sprinkler | Rain ) { table 0.01, 0.4, 0.99, 0.6; }
probability ( Grass | Sprinkler, Rain ) {
  default 0.9, 0.1;
  ("on", yes) 0.99, 0.01;
  (off, no) 0 1;
}
"""


def written(folder: Path, name: str, text: str) -> Path:
    """A file of text."""
    path = folder / name
    path.write_text(text)
    return path


def model_of(graph: FactorGraph, kind: str = "markov") -> Model:
    """A model that was never in a file."""
    return Model(graph, kind)


def energies(graph: FactorGraph) -> list[float]:
    """The energy of every assignment of the only instance."""
    (table,) = oracle(graph)
    return table.energies


def same(found: list[float], expected: list[float]) -> None:
    """Equal to 1e-12 relative, infinities at the same places."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a == b or abs(a - b) <= 1e-12 * max(1.0, abs(b)), (a, b)


def test_uai_by_hand(tmp_path: Path) -> None:
    """The energy is the sum of -log of the entries: x = (1, 1, 2) has 1.5 * 1 * 6 * 2; (0, 1, .) is forbidden."""
    model = read_model(written(tmp_path, "a.uai", SMALL))
    assert model.kind == "markov" and model.num_variables == 3 and model.names == ()
    assert float(model.graph.energy({"x": torch.tensor([1, 1, 2])})) == pytest.approx(-math.log(18.0), abs=1e-12)
    assert float(model.graph.energy({"x": torch.tensor([0, 0, 0])})) == pytest.approx(-math.log(1.0), abs=1e-12)
    assert float(model.graph.energy({"x": torch.tensor([0, 1, 0])})) == math.inf
    assert [f.tables.dtype for f in model.graph.factors] == [torch.float64] * 2


def test_packed_files_are_the_same(tmp_path: Path) -> None:
    """A packed file has the hash of its content, is told from its content whatever its name, and so is the format."""
    plain = read_model(written(tmp_path, "a.uai", SMALL))
    assert plain.sha256 == hashlib.sha256(SMALL.encode()).hexdigest()
    for name in ("a.uai.gz", "b.uai", "model"):
        (tmp_path / name).write_bytes(gzip.compress(SMALL.encode()))
        found = read_model(tmp_path / name)
        assert found.sha256 == plain.sha256
        same(energies(found.graph), energies(plain.graph))
    (tmp_path / "marked.uai").write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    same(energies(read_model(tmp_path / "marked.uai").graph), energies(plain.graph))
    assert read_model(written(tmp_path, "network", SPRINKLER)).kind == "bif"
    assert is_model_file("x/a.UAI.gz") and is_model_file("b.bif") and not is_model_file("a.yaml")


@pytest.mark.parametrize("seed", range(8))
def test_uai_round_trip(tmp_path: Path, seed: int) -> None:
    """Any graph of tables, chains and grids, written and read, has its energies to 1e-12, infinite ones included."""
    generator = torch.Generator().manual_seed(seed)
    graphs = [
        random_graph([5], 3, generator, forbid=0.2, blocks=2, scale=10.0),
        random_forest([5], 3, generator, forbid=0.2),
        random_chain([4], 3, generator, forbid=0.2),
        random_grid([(2, 3)], 3, generator),
    ]
    for graph in graphs:
        write_model(tmp_path / "a.uai.gz", model_of(graph))
        again = read_model(tmp_path / "a.uai.gz").graph
        same(energies(again), energies(graph))


def test_uai_large_energies(tmp_path: Path) -> None:
    """Energies whose exp overflows are shifted, table by table, into tables without variables; the sum stays."""
    block = Variables.of_lengths("x", Discrete(2), [2])
    pairs = torch.tensor([[0.0, 1200.0], [math.inf, -150.0]], dtype=torch.float64)
    unary = torch.tensor([[5000.0, 5001.0], [-3000.0, -3000.5]], dtype=torch.float64)
    factors = [TableFactor(("x",), "unary", unary), TableFactor(("x", "x"), "pair", pairs, torch.tensor([[0], [1]]))]
    graph = FactorGraph([block], factors, constant=torch.tensor([-12345.678], dtype=torch.float64))
    write_model(tmp_path / "a.uai", model_of(graph))
    same(energies(read_model(tmp_path / "a.uai").graph), energies(graph))
    wide = FactorGraph([block], [TableFactor(("x",), "unary", torch.tensor([[0.0, 2000.0], [0.0, 0.0]]))])
    with pytest.raises(DataError, match=r"b\.uai: table 0 over \(0,\) has energies from 0 to 2000"):
        write_model(tmp_path / "b.uai", model_of(wide))
    impossible = FactorGraph([block], [], constant=torch.tensor([math.inf], dtype=torch.float64))
    write_model(tmp_path / "c.uai", model_of(impossible))
    assert energies(read_model(tmp_path / "c.uai").graph) == [math.inf] * 4


def test_what_cannot_be_written(tmp_path: Path) -> None:
    """Several instances, evidence, a name without a format, a BIF of no network, an .npz of no grid: one line each."""
    generator = torch.Generator().manual_seed(0)
    two = model_of(random_chain([2, 2], 2, generator))
    one = read_model(written(tmp_path, "a.uai", SMALL))
    observed = model_of(Evidence({0: 1}).condition(one))
    for name, model, said in (
        ("b.uai", two, "holds one instance; the graph has 2"),
        ("b.uai", observed, "carries evidence"),
        ("b.txt", one, "a model is written as .uai"),
        ("b.bif", one, "constant energy"),
        ("b.bif", model_of(random_chain([3], 2, generator)), "not a Bayesian network"),
        ("b.npz", one, "holds one grid"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            write_model(tmp_path / name, model)
        assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)
        assert not (tmp_path / name).exists()


def test_empty_models(tmp_path: Path) -> None:
    """No variables, no tables, variables of one state: all are models."""
    assert energies(read_model(written(tmp_path, "a.uai", "MARKOV 0 0")).graph) == [0.0]
    assert energies(read_model(written(tmp_path, "b.uai", "BAYES\n2\n1 2\n0")).graph) == [0.0, 0.0]
    assert energies(read_model(written(tmp_path, "c.uai", "markov 1 1 1 1 0 1 1")).graph) == [0.0]
    for name in ("a.uai", "b.uai", "c.uai"):
        model = read_model(tmp_path / name)
        write_model(tmp_path / "again.uai", model)
        same(energies(read_model(tmp_path / "again.uai").graph), energies(model.graph))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 1 0 2 2", {1: 0, 2: 2}),
        ("2\n1 0\n2 2\n", {1: 0, 2: 2}),
        ("1 2 1 0 2 2", {1: 0, 2: 2}),
        ("0", {}),
        ("1 0", {}),
        ("2 1 0 1 0", {1: 0}),
    ],
)
def test_evidence(tmp_path: Path, text: str, expected: dict[int, int]) -> None:
    """Both conventions give the same pairs, and so does a packed file; what is written is read again."""
    model = read_model(written(tmp_path, "a.uai", SMALL))
    found = read_evidence(written(tmp_path, "a.evid", text), model)
    assert found.states == expected and found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "a.evid.gz").write_bytes(gzip.compress(text.encode()))
    assert read_evidence(tmp_path / "a.evid.gz", model).states == expected
    write_evidence(tmp_path / "b.evid", found)
    assert read_evidence(tmp_path / "b.evid", model).states == expected
    graph = found.condition(model)
    full = [1, 1, 1]
    for variable, state in expected.items():
        full[variable] = state
    assert float(graph.energy({"x": torch.tensor([1, 1, 1])})) == float(model.graph.energy({"x": torch.tensor(full)}))


def test_bif_by_hand(tmp_path: Path) -> None:
    """Comments, quotes, properties, ``default``, and a ``table`` whose own states come first: P(on | yes) is 0.01."""
    model = read_model(written(tmp_path, "garden.bif", SPRINKLER))
    assert model.names == ("Rain", "Sprinkler", "Grass") and model.states[1] == ("on", "off")

    def probability(*states: int) -> float:
        return math.exp(-float(model.graph.energy({"x": torch.tensor(states)})))

    assert probability(0, 0, 0) == pytest.approx(0.2 * 0.01 * 0.99)
    assert probability(1, 0, 1) == pytest.approx(0.8 * 0.4 * 0.1)
    assert probability(0, 1, 0) == pytest.approx(0.2 * 0.99 * 0.9)
    assert probability(1, 1, 0) == 0.0
    assert float(log_partition(model.graph, Exhaustive())) == pytest.approx(0.0, abs=1e-12)


def test_bif_round_trip(tmp_path: Path) -> None:
    """Names with blanks, states and energies come back; without names there are x0, s0 and so on."""
    text = SPRINKLER.replace("Rain", '"Rain of today"')
    model = read_model(written(tmp_path, "a.bif", text))
    write_model(tmp_path / "b.bif.gz", model)
    again = read_model(tmp_path / "b.bif.gz")
    assert again.names == model.names and again.states == model.states and again.names[0] == "Rain of today"
    same(energies(again.graph), energies(model.graph))
    write_model(tmp_path / "c.bif", model_of(model.graph))
    bare = read_model(tmp_path / "c.bif")
    assert bare.names == ("x0", "x1", "x2") and bare.states[0] == ("s0", "s1")
    same(energies(bare.graph), energies(model.graph))


def test_named_evidence(tmp_path: Path) -> None:
    """A network takes evidence by names as well as by numbers."""
    model = read_model(written(tmp_path, "a.bif", SPRINKLER))
    named = read_evidence(written(tmp_path, "a.evid", "Rain = no\n\nSprinkler=on\n"), model)
    assert named.states == {0: 1, 1: 0} == read_evidence(written(tmp_path, "b.evid", "2 0 1 1 0"), model).states
    for text, said in (("Snow = no", "is no variable"), ("Rain = maybe", "has no state 'maybe'; there: yes, no")):
        with pytest.raises(DataError, match=said):
            read_evidence(written(tmp_path, "c.evid", text), model)


def grid_file(folder: Path, integers: bool = True, seed: int = 0, table: bool = False) -> Path:
    """A small grid in a file, as other programs write it."""
    rng = np.random.default_rng(seed)
    draw = (lambda *s: rng.integers(0, 90, s)) if integers else (lambda *s: rng.normal(size=s))
    arrays = {"unary": draw(3, 4, 2)}
    if table:
        arrays |= {"w_right": draw(3, 4), "w_down": draw(3, 4), "V": draw(2, 2), "kind": np.array("made up")}
    else:
        arrays |= {"wh": draw(3, 3), "wv": draw(2, 4), "note": np.array("of no meaning")}
    np.savez_compressed(folder / "g.npz", **arrays)
    return folder / "g.npz"


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("integers", [False, True])
def test_grids(tmp_path: Path, integers: bool, table: bool) -> None:
    """A grid's energy is the sum over pixels and neighbours, whole numbers exact; what is written is read again."""
    path = grid_file(tmp_path, integers, table=table)
    model = read_model(path)
    arrays = np.load(path)
    y = torch.randint(0, 2, (12,), generator=torch.Generator().manual_seed(1))
    pixels = y.reshape(3, 4).tolist()
    pair = arrays["V"] if table else 1 - np.eye(2)
    right, down = arrays["w_right" if table else "wh"], arrays["w_down" if table else "wv"]
    expected = sum(float(arrays["unary"][r, c, pixels[r][c]]) for r in range(3) for c in range(4))
    expected += sum(float(right[r, c] * pair[pixels[r][c], pixels[r][c + 1]]) for r in range(3) for c in range(3))
    expected += sum(float(down[r, c] * pair[pixels[r][c], pixels[r + 1][c]]) for r in range(2) for c in range(4))
    assert float(model.graph.energy({"y": y})) == pytest.approx(expected, abs=0.0 if integers else 1e-12)
    assert {v.dtype for f in model.graph.factors for v in f.values() if v is not None} == {
        torch.float32 if integers else torch.float64
    }
    write_model(tmp_path / "again.npz", model)
    again = read_model(tmp_path / "again.npz")
    for one, other in zip(model.graph.factors, again.graph.factors, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def test_grids_keep_large_whole_numbers(tmp_path: Path) -> None:
    """Whole numbers that float32 would round, or whose product with the table it would, are read as float64."""
    for unary, weight, entry, expected in (
        (1 << 24, 1, 1, torch.float32),
        ((1 << 24) + 1, 1, 1, torch.float64),
        (1, 5000, 5001, torch.float64),
        (1, -4096, -4096, torch.float32),
    ):
        arrays = {"unary": np.full((1, 2, 2), unary), "w_right": np.full((1, 1), weight), "w_down": np.zeros((0, 2))}
        np.savez(tmp_path / "g.npz", V=np.array([[0, entry], [entry, 0]]), **arrays)
        graph = read_model(tmp_path / "g.npz").graph
        assert graph.factors[0].tables.dtype == expected  # type: ignore[attr-defined]
        assert float(graph.energy({"y": torch.tensor([0, 1])})) == 2 * unary + weight * entry


def test_forbidden_pixels(tmp_path: Path) -> None:
    """An infinite unary energy forbids a state."""
    unary = np.array([[[0.0, np.inf], [2.0, 1.0]]])
    np.savez(tmp_path / "g.npz", unary=unary, wh=np.array([[3.0]]), wv=np.zeros((0, 2)))
    assert energies(read_model(tmp_path / "g.npz").graph) == [2.0, 4.0, math.inf, math.inf]


def test_grids_as_uai(tmp_path: Path) -> None:
    """A chain and a grid, implicit in the graph, become plain tables in a UAI file."""
    block = Variables.of_lengths("y", Discrete(2), [4])
    ones = torch.ones(4, dtype=torch.float64)
    grid = GridFactor(("y",), "grid", potts_table(2, torch.float64), 2 * ones, 3 * ones, torch.tensor([2]))
    chain = ChainFactor(("y",), "chain", torch.tensor([[0.0, 1.0], [4.0, 0.0]]), torch.tensor([0.5, 0.0]), None)
    graph = FactorGraph([block], [grid, chain])
    write_model(tmp_path / "a.uai", model_of(graph))
    same(energies(read_model(tmp_path / "a.uai").graph), energies(graph))


def instances() -> list[tuple[str, dict[str, object]]]:
    """The real instances with a known assignment."""
    if not DATA.is_dir():
        return [("none", {})]
    listed = json.loads((DATA / "mrf/index.json").read_text())["instances"]
    return [(name, entry) for name, entry in listed.items() if entry.get("map_assignment") and ".uai" in name]


@needs_data
@pytest.mark.parametrize(("name", "entry"), instances(), ids=lambda v: v if isinstance(v, str) else "")
def test_real_models(name: str, entry: dict[str, object]) -> None:
    """The known best assignment of each real model, evidence applied, has the energy that is written beside it."""
    model = read_model(DATA / "mrf" / name)
    beside = DATA / "mrf" / (name.removesuffix(".gz") + ".evid")
    evidence = read_evidence(beside, model) if beside.exists() else Evidence()
    states = [int(s) for s in entry["map_assignment"]]  # type: ignore[attr-defined]
    assert model.num_variables == entry["variables"]
    assert all(states[v] == s for v, s in evidence.states.items())
    found = float(evidence.condition(model).energy({"x": torch.tensor(states)}))
    assert found == pytest.approx(entry["map_energy"], rel=1e-9)


@needs_data
def test_real_networks() -> None:
    """Every table of every real network has rows that add up to 1, to the digits in the file."""
    for path in sorted((DATA / "mrf/bn").glob("*.bif.gz")):
        model = read_model(path)
        assert len(model.names) == len(set(model.names)) == model.num_variables
        counts = model.block.state_counts
        for factor in model.graph.factors:
            assert isinstance(factor, TableFactor) and factor.index is not None and factor.starts is not None
            sizes = counts[factor.index].prod(0)
            for start, size, child in zip(factor.starts, sizes, factor.index[-1], strict=True):
                table = (-factor.tables[start : start + size]).exp().reshape(-1, int(counts[child]))
                assert float((table.sum(1) - 1).abs().max()) < 2e-7, path.name


@needs_data
@pytest.mark.parametrize("name", ["asia", "alarm", "child", "insurance", "hailfinder", "win95pts"])
def test_networks_sum_to_one(name: str) -> None:
    """log Z of a Bayesian network without evidence is 0, to the digits of its tables."""
    graph = read_model(DATA / f"mrf/bn/{name}.bif.gz").graph
    assert float(log_partition(graph)) == pytest.approx(0.0, abs=1e-7)


@needs_data
@pytest.mark.parametrize("name", ["bin_chelsea_128", "col8_coffee_128", "stereo16_motorcycle_125"])
def test_real_grids(name: str) -> None:
    """The stored labels of real grids have the stored energy, to the last unit."""
    model = read_model(DATA / f"vision/mrf/{name}.npz")
    arrays = np.load(DATA / f"vision/mrf/{name}.npz")
    labels = torch.from_numpy(arrays["labels"].astype(np.int64)).reshape(-1)
    assert float(model.graph.energy({"y": labels})) == int(arrays["energy"])
    assert model.graph.factors[0].tables.dtype == torch.float32  # type: ignore[attr-defined]


@needs_data
def test_stereo() -> None:
    """The stereo pair is a grid with one truncated table."""
    model = read_model(DATA / "mrf/stereo/cones_half_30.npz")
    assert model.num_variables == 187 * 225 and model.block.discrete.largest == 30
