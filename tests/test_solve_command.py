"""The commands solve and verify: fields, exit codes, what is written, and that no tampered result is verified."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import logging
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ebmstruct.run.elapsed
import ebmstruct.run.warming
from ebmstruct.cli import main
from ebmstruct.errors import DataError
from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Claim, EliminationOrder, Reparametrization, Several
from ebmstruct.inference.solvers import SOLVERS
from ebmstruct.inference.views.table_view import table_view
from ebmstruct.run.elapsed import Elapsed
from ebmstruct.run.formats import Evidence, Model, read_model, write_evidence, write_model
from ebmstruct.run.result_file import checksum, pack_tensor, pack_witness, unpack_tensor, unpack_witness
from ebmstruct.run.solving import budget_of
from ebmstruct.testing import oracle, random_forest, random_graph, random_grid

Capture = pytest.CaptureFixture[str]
Record = dict[str, Any]

NETWORK = """network n { }
variable Rain { type discrete [ 2 ] { yes, no }; }
variable Grass { type discrete [ 2 ] { wet, dry }; }
probability ( Rain ) { table 0.2, 0.8; }
probability ( Grass | Rain ) { (yes) 0.9, 0.1; (no) 0.3, 0.7; }
"""


@pytest.fixture(autouse=True)
def no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error without lines of progress, however slow the machine is."""
    monkeypatch.setattr(ebmstruct.run.elapsed, "_LINES_S", (3600.0,))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a forest ``m.uai.gz``, whose answers carry a witness, and a graph with cycles."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(3)
    write_model(tmp_path / "m.uai.gz", Model(random_forest([7], 3, generator), "markov"))
    write_model(tmp_path / "c.uai", Model(random_graph([5], 3, generator), "markov"))
    (tmp_path / "n.bif").write_text(NETWORK)
    return tmp_path


def answer(capsys: Capture, *arguments: str, code: int = 0) -> Record:
    """What ``--json`` prints: one object on one line, nothing else."""
    assert main([*arguments, "--json"]) == code
    out = capsys.readouterr().out
    assert out.count("\n") == 1

    def never(name: str) -> None:
        raise AssertionError(f"{name} in the output")

    record: Record = json.loads(out, parse_constant=never)
    return record


def refused(capsys: Capture, *arguments: str) -> str:
    """The one line that the command says when it ends with code 2."""
    assert main([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("ebmstruct: "), (out, err)
    return err


def graph_of(path: str) -> FactorGraph:
    """The graph in a model file."""
    return read_model(path).graph


def test_map(place: Path, capsys: Capture) -> None:
    """The least energy, by enumeration; the fields; the same answer on paper, packed, and verified."""
    (truth,) = oracle(graph_of("m.uai.gz"))
    record = answer(capsys, "solve", "m.uai.gz", "-o", "r.json")
    names = {"query", "energy", "lower_bound", "gap", "status", "solver", "assignment", "seconds"}
    assert set(record) == names and record["query"] == "map"
    assert record["energy"] == pytest.approx(truth.minimum, abs=1e-9) and record["status"] == "OPTIMAL"
    assert record["gap"] <= 1e-6 and record["lower_bound"] <= record["energy"] and 0 < record["seconds"] < 60
    assert truth.energies[truth.states.index(tuple(record["assignment"]))] == pytest.approx(truth.minimum)
    stored = json.loads(Path("r.json").read_text())
    assert {k: stored[k] for k in names} == record
    assert stored["witness"]["messages"]["dtype"] == "float64" and stored["evidence"] is None
    assert stored["model"]["sha256"] == read_model("m.uai.gz").sha256
    assert main(["solve", "m.uai.gz", "-o", "r.json.gz", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    packed = json.loads(gzip.decompress(Path("r.json.gz").read_bytes()))
    assert packed["assignment"] == record["assignment"] and packed["format"] == stored["format"]
    for name in ("r.json", "r.json.gz"):
        assert main(["verify", name, "m.uai.gz"]) == 0
        assert "verified: the energy is proven least" in capsys.readouterr().out
    said = answer(capsys, "verify", "r.json", "m.uai.gz")
    assert said["verified"] is True and said["proven"] is True and len(said["checked"]) == 5


def test_map_in_words(place: Path, capsys: Capture) -> None:
    """Without --json: the status in a sentence, the numbers, the assignment by names where there are some."""
    assert main(["solve", "m.uai.gz"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("OPTIMAL: The energy is proven least") and "lower bound  " in out and "solver       " in out
    assert main(["solve", "n.bif"]) == 0
    assert "assignment   Rain=no Grass=dry" in capsys.readouterr().out
    Path("e").write_text("Grass = wet")
    record = answer(capsys, "solve", "n.bif", "--evidence", "e")
    assert record["names"] == {"Rain": "no", "Grass": "wet"} and record["assignment"] == [1, 0]
    assert record["energy"] == pytest.approx(-math.log(0.8 * 0.3))
    write_model(Path("long.uai"), Model(random_forest([40], 2, torch.Generator().manual_seed(0)), "markov"))
    assert main(["solve", "long.uai"]) == 0
    assert "... (40 variables; --json prints all)" in capsys.readouterr().out


def test_evidence(place: Path, capsys: Capture) -> None:
    """Observed variables are in the assignment with their states; a file beside the model is told but not used."""
    model = read_model("m.uai.gz")
    free = answer(capsys, "solve", "m.uai.gz")
    count = int(model.block.state_counts[2])
    other = (free["assignment"][2] + 1) % count if count > 1 else 0
    write_evidence("m.uai.evid", Evidence({2: other, 0: free["assignment"][0]}))
    (truth,) = oracle(Evidence({2: other, 0: free["assignment"][0]}).condition(model))
    assert main(["solve", "m.uai.gz", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["assignment"] == free["assignment"]
    assert err == "note: m.uai.evid is beside the model and was not used; add --evidence to use it\n"
    assert main(["solve", "m.uai.gz", "--json", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    record = answer(capsys, "solve", "m.uai.gz", "--evidence", "m.uai.evid", "-o", "r.json")
    assert record["energy"] == pytest.approx(truth.minimum) and record["assignment"][2] == other
    assert main(["verify", "r.json", "m.uai.gz", "--evidence", "m.uai.evid"]) == 0
    capsys.readouterr()
    assert "found with evidence; name the file" in refused(capsys, "verify", "r.json", "m.uai.gz")
    write_evidence("other.evid", Evidence({0: free["assignment"][0]}))
    assert "another evidence" in refused(capsys, "verify", "r.json", "m.uai.gz", "--evidence", "other.evid")


@pytest.mark.parametrize("name", ["m.uai.gz", "c.uai"])
def test_sums(place: Path, capsys: Capture, name: str) -> None:
    """log Z and marginals are those of enumeration, at any temperature; rows have one number for each state."""
    model = read_model(name)
    (truth,) = oracle(model.graph)
    for temperature in ("1", "2.5"):
        record = answer(capsys, "solve", name, "--query", "logz", "--temperature", temperature, "-o", "r.json")
        assert set(record) == {"query", "logz", "exact", "status", "solver", "seconds"}
        assert record["exact"] is True and record["logz"] == pytest.approx(
            truth.log_partition(float(temperature)), abs=1e-9
        )
        assert answer(capsys, "verify", "r.json", name)["proven"] is False
    record = answer(capsys, "solve", name, "--query", "marginals", "-o", "r.json")
    assert [len(row) for row in record["marginals"]] == model.block.state_counts.tolist()
    for variable, row in enumerate(record["marginals"]):
        assert row == pytest.approx([truth.marginal(variable, k) for k in range(len(row))], abs=1e-9)
    assert main(["verify", "r.json", name]) == 0
    assert "not re-checked" in capsys.readouterr().out
    assert main(["solve", name, "--query", "marginals"]) == 0
    assert "  0: 0 " in capsys.readouterr().out


def test_network_sums_in_names(place: Path, capsys: Capture) -> None:
    """A network's log Z is 0, and its marginals are told with names: P(wet) = 0.2 * 0.9 + 0.8 * 0.3."""
    record = answer(capsys, "solve", "n.bif", "--query", "marginals")
    assert record["logz"] == pytest.approx(0.0, abs=1e-12)
    assert record["variables"] == ["Rain", "Grass"] and record["states"][1] == ["wet", "dry"]
    assert record["marginals"][1] == pytest.approx([0.42, 0.58])
    assert main(["solve", "n.bif", "--query", "marginals"]) == 0
    assert "  Grass: wet 0.4200, dry 0.5800" in capsys.readouterr().out


def test_samples(place: Path, capsys: Capture) -> None:
    """The seed decides the samples; their energies are right and re-checked."""
    ask = ("solve", "m.uai.gz", "--query", "sample", "--num-samples", "200")
    one = answer(capsys, *ask, "--seed", "1", "-o", "s.json")
    assert answer(capsys, *ask, "--seed", "1")["samples"] == one["samples"]
    assert answer(capsys, *ask, "--seed", "2")["samples"] != one["samples"]
    (truth,) = oracle(graph_of("m.uai.gz"))
    known = dict(zip(truth.states, truth.energies, strict=True))
    assert one["exact"] is True and len(one["samples"]) == len(one["energies"]) == 200
    for states, energy in zip(one["samples"], one["energies"], strict=True):
        assert energy == pytest.approx(known[tuple(states)], abs=1e-9)
    assert main(["verify", "s.json", "m.uai.gz"]) == 0
    assert "200, energies recomputed" in capsys.readouterr().out
    assert main(["solve", "m.uai.gz", "--query", "sample"]) == 0
    assert "samples      1, exact" in capsys.readouterr().out
    tampered(Path("s.json"), lambda r: r["energies"].__setitem__(7, r["energies"][7] + 0.1))
    assert "energy of sample 7" in refused(capsys, "verify", "s.json", "m.uai.gz")


def test_k_best(place: Path, capsys: Capture) -> None:
    """-k gives the best assignments in order, all different, and verify recomputes each."""
    (truth,) = oracle(graph_of("m.uai.gz"))
    record = answer(capsys, "solve", "m.uai.gz", "-k", "4", "-o", "r.json")
    found = [one["energy"] for one in record["alternatives"]]
    assert found == pytest.approx(sorted(truth.energies)[:4], abs=1e-9)
    assert record["alternatives"][0]["energy"] == pytest.approx(record["energy"])
    assert any("alternatives 4" in line for line in answer(capsys, "verify", "r.json", "m.uai.gz")["checked"])
    assert main(["solve", "m.uai.gz", "-k", "2"]) == 0
    assert "  2. energy " in capsys.readouterr().out
    tampered(Path("r.json"), lambda r: r["alternatives"].__setitem__(2, r["alternatives"][1]))
    assert "repeat an assignment" in refused(capsys, "verify", "r.json", "m.uai.gz")
    assert "goes with --query map" in refused(capsys, "solve", "m.uai.gz", "-k", "2", "--query", "logz")


def impossible(name: str) -> None:
    """A model of two variables: x0 = 0, x1 = 0, and they must differ."""
    Path(name).write_text("MARKOV 2 2 2 3 1 0 1 1 2 0 1 2 1 0 2 1 0 4 0 1 1 0")


@pytest.mark.parametrize("query", ["map", "logz", "marginals", "sample"])
def test_infeasible(place: Path, capsys: Capture, query: str) -> None:
    """A contradiction is an answer: INFEASIBLE, null energy, code 0, no NaN; the result is verified as far as it goes."""
    impossible("i.uai")
    record = answer(capsys, "solve", "i.uai", "--query", query, "-o", "r.json")
    assert record["status"] == "INFEASIBLE"
    for field in ("energy", "lower_bound", "gap", "logz"):
        assert record.get(field) is None
    if query == "map":
        assert record["assignment"] is None and {"energy", "lower_bound", "gap"} < set(record)
    assert main(["solve", "i.uai", "--query", query]) == 0
    assert capsys.readouterr().out.startswith("INFEASIBLE: No assignment of finite energy was found")
    assert main(["verify", "r.json", "i.uai"]) == 0
    capsys.readouterr()


def test_grids(place: Path, capsys: Capture) -> None:
    """A grid in .npz is solved and verified like any model; its block has another name, which nobody sees."""
    rng = np.random.default_rng(0)
    arrays = {
        "unary": rng.integers(0, 9, (2, 3, 2)),
        "wh": rng.integers(0, 9, (2, 2)),
        "wv": rng.integers(0, 9, (1, 3)),
    }
    np.savez("g.npz", **arrays)
    (truth,) = oracle(graph_of("g.npz"))
    record = answer(capsys, "solve", "g.npz", "-o", "r.json")
    assert record["energy"] == truth.minimum and len(record["assignment"]) == 6
    assert main(["verify", "r.json", "g.npz"]) == 0


def test_named_solvers(place: Path, capsys: Capture) -> None:
    """Each solver by its name answers or refuses in a sentence; an unknown name is told with the legal ones."""
    said = refused(capsys, "solve", "c.uai", "--solver", "exhastive")
    assert "no solver is named 'exhastive'; there: " in said and "(did you mean exhaustive?)" in said
    (truth,) = oracle(graph_of("c.uai"))
    for name in SOLVERS:
        code = main(["solve", "c.uai", "--solver", name, "--json", "--quiet", "--deadline", "5"])
        out, err = capsys.readouterr()
        if code:
            assert code == 2 and err.startswith(f"ebmstruct: {name} cannot minimize here: ") and out == ""
        else:
            record = json.loads(out)
            assert record["solver"] == name and (record["energy"] is None or record["energy"] >= truth.minimum - 1e-9)
    assert "variable_elimination cannot minimize here" in refused(
        capsys, "solve", "c.uai", "--solver", "variable_elimination"
    )


def test_explain(place: Path, capsys: Capture) -> None:
    """explain tells the choice for each kind of question about a model file."""
    assert main(["explain", "m.uai.gz"]) == 0
    out = capsys.readouterr().out
    assert out.count("chosen: variable_elimination") == 3 and "7 sites" in out
    Path("e").write_text("1 0 0")
    assert main(["explain", "c.uai", "--evidence", "e"]) == 0
    assert "query:  marginals" in capsys.readouterr().out
    assert "goes with a model file" in refused(capsys, "explain", "runs", "--evidence", "e")
    assert "no such file" in refused(capsys, "explain", "none.uai")


def test_explain_one_question(place: Path, capsys: Capture) -> None:
    """--query tells the choice for one question, and --deadline the choice that solve would make by then."""
    said = {}
    for query in ("map", "marginals", "logz", "sample"):
        assert main(["explain", "m.uai.gz", "--query", query]) == 0
        said[query] = capsys.readouterr().out
        assert said[query].count("chosen: variable_elimination") == 1
    assert len(set(said.values())) == 4
    write_model(place / "w.uai", Model(random_grid([(40, 40)], 4, torch.Generator().manual_seed(0)), "markov"))
    assert main(["explain", "w.uai", "--query", "map"]) == 0
    assert "refused by toulbar2" in capsys.readouterr().out
    assert main(["explain", "w.uai", "--query", "map", "--deadline", "30"]) == 0
    assert "for ever" not in capsys.readouterr().out
    assert main(["explain", "w.uai", "--query", "logz"]) == 0
    assert "chosen: mini_bucket" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["solve", "m", "--deadline", "abc"], "--deadline takes a number of seconds above 0; found 'abc'"),
        (["solve", "m", "--deadline", "inf"], "--deadline takes a number of seconds above 0; found 'inf'"),
        (["explain", "m", "--deadline=-1"], "--deadline takes a number of seconds above 0; found '-1'"),
        (["solve", "m", "--temperature", "0"], "--temperature takes a number above 0; found '0'"),
        (["solve", "m", "-k", "x"], "-k takes a whole number, 0 or more; found 'x'"),
        (["solve"], "the following arguments are required: MODEL; see ebmstruct solve --help"),
        (["verify", "r", "m", "--fast"], "unrecognized arguments: --fast; see ebmstruct verify --help"),
    ],
)
def test_usage_in_one_line(capsys: Capture, arguments: list[str], said: str) -> None:
    """A call of solve, verify or explain that makes no sense ends with code 2 and one line."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and capsys.readouterr().err == f"ebmstruct: {said}\n"


def test_damaged_cache(place: Path, tmp_path: Path) -> None:
    """A damaged cache of compiled kernels is told with its folder and what to delete, code 2."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    code = "from ebmstruct.inference.kernels.compiler import kernel\n@kernel\ndef f(x): return x\n"
    code += "from ebmstruct.run import commands\n"
    code += (
        "commands.plugins = lambda arguments: f(1)\nfrom ebmstruct.cli import main\nraise SystemExit(main(['plugins']))"
    )
    (place / "damaged.py").write_text(code)

    def run() -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(place / "damaged.py")]
        return subprocess.run(line, capture_output=True, text=True, check=False, env=environment)

    assert run().returncode == 0
    (index,) = (tmp_path / "cache").rglob("*.nbi")
    index.write_bytes(b"no pickle")
    found = run()
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert f"compiled kernels in {index.parent} cannot be read back (" in found.stderr and "*.nbc" in found.stderr


def test_warm(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """warm tells one line a solver on standard error, nothing with --quiet, and leaves nothing to compile."""
    monkeypatch.setattr(ebmstruct.run.warming, "ON_GRIDS", ())
    monkeypatch.setattr(ebmstruct.run.warming, "_grid_problems", lambda folder: [])
    assert main(["warm", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["warm"]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == len(SOLVERS) - 1 and all("nothing to compile" in line for line in lines)


def test_what_can_be_corrected(place: Path, capsys: Capture) -> None:
    """No model, no evidence, nowhere to write, no result: one line and code 2; usage faults too."""
    assert "none.uai: no such file" in refused(capsys, "solve", "none.uai")
    assert "none.evid: no such file" in refused(capsys, "solve", "m.uai.gz", "--evidence", "none.evid")
    assert "cannot write no/r.json: there is no folder no" in refused(capsys, "solve", "m.uai.gz", "-o", "no/r.json")
    assert "cannot write .: it is a folder; choose another file with --output" in refused(
        capsys, "solve", "m.uai.gz", "-o", "."
    )
    assert "with k 0; legal is at least 1" in refused(capsys, "solve", "m.uai.gz", "-k", "0")
    assert "with num_samples 0" in refused(capsys, "solve", "m.uai.gz", "--query", "sample", "--num-samples", "0")
    assert "r.json: no such file" in refused(capsys, "verify", "r.json", "m.uai.gz")
    for wrong in (
        "--deadline=0",
        "--deadline=nan",
        "--seed=-1",
        "--seed=x",
        "--num-samples=-1",
        "-kx",
        "--temperature=-1",
    ):
        with pytest.raises(SystemExit) as caught:
            main(["solve", "m.uai.gz", wrong])
        assert caught.value.code == 2
    with pytest.raises(SystemExit):
        main(["solve", "m.uai.gz", "--query", "mpa"])
    capsys.readouterr()


def test_options_that_a_query_would_not_look_at(place: Path, capsys: Capture) -> None:
    """-k, --temperature and --num-samples are refused where they would change nothing."""
    for said, *options in (
        ("--temperature changes sums", "--temperature", "2"),
        ("--num-samples says", "--num-samples", "3"),
        ("--num-samples says", "--num-samples", "3", "--query", "marginals"),
        ("-k asks", "-k", "2", "--query", "sample"),
    ):
        assert said in refused(capsys, "solve", "m.uai.gz", *options)


def test_nothing_allowed_was_found(place: Path, capsys: Capture) -> None:
    """Without an allowed assignment and without a proof the text says just that, and no assignment is given."""
    rows = [(i, j) for i in range(4) for j in range(i)]  # four variables of three states, all different: impossible
    table = " ".join("0" if a == b else "1" for a in range(3) for b in range(3))
    scopes = " ".join(f"2 {j} {i}" for i, j in rows)
    Path("k4.uai").write_text(f"MARKOV 4 3 3 3 3 {len(rows)} {scopes} " + f"9 {table} " * len(rows))
    record = answer(capsys, "solve", "k4.uai", "--solver", "icm")
    assert record["status"] != "INFEASIBLE" and record["energy"] is None and record["assignment"] is None
    assert main(["solve", "k4.uai", "--solver", "icm"]) == 0
    assert "no allowed assignment was found, which does not prove that there is none" in capsys.readouterr().out
    assert main(["solve", "k4.uai", "--solver", "gibbs", "--query", "marginals", "--deadline", "1"]) == 0
    out = capsys.readouterr().out
    assert "between" not in out and "nan" not in out and "CONVERGED" not in out


def test_what_chains_say(place: Path, capsys: Capture) -> None:
    """Chains tell R-hat and what they are worth; their log Z is a lower bound; chains that disagree are warned of."""
    (truth,) = oracle(graph_of("c.uai"))
    record = answer(capsys, "solve", "c.uai", "--solver", "gibbs", "--query", "marginals", "-o", "r.json")
    assert record["logz"] is None and record["lower"] <= truth.log_partition() and record["r_hat"] < 1.05
    assert record["effective_samples"] > 1 and main(["verify", "r.json", "c.uai"]) == 0
    capsys.readouterr()
    scopes = " ".join(f"2 {i} {i + 1}" for i in range(0, 12, 2))  # pairs of sites that can only change together
    Path("two.uai").write_text(f"MARKOV 12 {'2 ' * 12} 6 {scopes} {'4 1 0 0 1 ' * 6}")
    ask = ("solve", "two.uai", "--solver", "gibbs", "--query")
    stuck = answer(capsys, *ask, "marginals", "--seed", "3")
    assert stuck["status"] == "MAX_STEPS" and stuck["r_hat"] is None
    assert main([*ask, "sample", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "do not trust these samples" in out
    assert main([*ask, "marginals", "--seed", "3"]) == 0
    assert "log Z        at least" in capsys.readouterr().out


def test_deadline_counts_from_the_start(place: Path, capsys: Capture) -> None:
    """The budget ends a little before the deadline, so that the answer is out in time; --seconds counts everything."""
    assert budget_of(100.0, 10.0).deadline == pytest.approx(109.8)
    assert budget_of(100.0, 1.0).deadline == pytest.approx(100.9)
    assert budget_of(100.0, None).deadline is None
    assert budget_of(100.0, 10.0, writing=1.5).deadline == pytest.approx(108.3)
    assert budget_of(100.0, 10.0, writing=60.0).deadline == pytest.approx(104.8)
    record = answer(capsys, "solve", "m.uai.gz", "--deadline", "0.000001")
    assert record["status"] in ("DEADLINE", "OPTIMAL") and record["energy"] is not None


def test_the_program_leaves_at_once(place: Path) -> None:
    """The program's own entry ends with the code of the command, its output whole, through a pipe too."""
    code = "import sys\nfrom ebmstruct.cli import command\ncommand()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for arguments, expected in ((["solve", "m.uai.gz", "--json"], 0), (["solve", "none.uai"], 2)):
        found = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--quiet"],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert found.returncode == expected
        assert expected or json.loads(found.stdout)["status"] == "OPTIMAL"
        assert found.stderr == ("ebmstruct: none.uai: no such file\n" if expected else "")


def test_progress(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that takes long is told on standard error, now and then; short work and --quiet are not."""
    monkeypatch.setattr(ebmstruct.run.elapsed, "_LINES_S", (0.05, 0.1))
    started = time.monotonic()
    with Elapsed("solving", started, 10.0):
        time.sleep(0.4)
    assert capsys.readouterr().err == "solving: 0 s of 10 s\nsolving: 0 s of 10 s\n"
    with Elapsed("solving", started, quiet=True):
        time.sleep(0.1)
    monkeypatch.setattr(ebmstruct.run.elapsed, "_LINES_S", (1, 5))
    with Elapsed("solving", time.monotonic()):
        pass
    assert capsys.readouterr().err == ""


def test_progress_tells_of_compiling(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """While kernels are being compiled the line says so."""
    from ebmstruct.inference.kernels.compiler import compilations

    monkeypatch.setattr(ebmstruct.run.elapsed, "_LINES_S", (0.05,))
    monkeypatch.setattr(compilations, "under_way", 1)
    with Elapsed("solving", time.monotonic()):
        time.sleep(0.3)
    assert capsys.readouterr().err.startswith("solving: 0 s, compiling, first use only")
    monkeypatch.setattr(compilations, "under_way", 0)
    monkeypatch.setattr(compilations, "last", -math.inf)
    assert not compilations.busy()


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal has one line that renews itself, makes room for log lines, and is gone in the end."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(ebmstruct.run.elapsed, "_LIVE_S", (0.01, 0.01))
    logger, handler = logging.getLogger("ebmstruct"), logging.StreamHandler(screen)
    logger.addHandler(handler)
    with Elapsed("solving", time.monotonic(), 10.0):
        time.sleep(0.1)
        logger.warning("a better answer")
    logger.removeHandler(handler)
    shown = screen.getvalue()
    assert shown.startswith("\r\x1b[Ksolving: 0 s of 10 s\r\x1b[K") and shown.endswith("\r\x1b[K")
    assert "\r\x1b[Ka better answer\n" in shown and not handler.filters


def test_help_is_light() -> None:
    """The help of solve, verify and explain comes with examples and without torch."""
    for command in ("solve", "verify", "explain"):
        code = (
            f"import sys\nfrom ebmstruct.cli import main\ntry: main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
        )
        code += "print([m for m in ('torch', 'yaml', 'numba', 'numpy') if m in sys.modules])"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        )
        assert "examples:" in found.stdout and found.stdout.endswith("[]\n")


def tampered(path: Path, change: Callable[[Record], object], sign: bool = True) -> None:
    """Change a result file; ``sign`` brings the checksum of the whole up to date, as a cunning hand would."""
    record = json.loads(path.read_text())
    change(record)
    if sign:
        record["checksum"] = checksum(record)
    path.write_text(json.dumps(record))


def set_messages(record: Record, values: np.ndarray, shape: list[int] | None = None) -> None:
    """Replace the witness's messages, their checksum included."""
    data = values.astype("<f8").tobytes()
    tensor = record["witness"]["messages"]
    tensor |= {"data": base64.b64encode(data).decode(), "sha256": hashlib.sha256(data).hexdigest()}
    tensor["shape"] = shape if shape is not None else list(values.shape)


def messages(record: Record) -> np.ndarray:
    """The witness's messages."""
    return np.frombuffer(base64.b64decode(record["witness"]["messages"]["data"]), "<f8")


def tamperings(record: Record, graph: FactorGraph, rng: random.Random) -> list[Callable[[Record], object]]:
    """Ways to change a proven result; none may be verified, even with its checksum brought up to date."""
    (truth,) = oracle(graph)
    known = dict(zip(truth.states, truth.energies, strict=True))
    counts = next(iter(graph.variables.values())).state_counts.tolist()
    site = rng.choice([i for i, c in enumerate(counts) if c > 1])
    worse = list(record["assignment"])
    worse[site] = (worse[site] + rng.randrange(1, counts[site])) % counts[site]
    true_energy = known[tuple(worse)]
    some = rng.uniform(0.01, 5.0)
    noise = np.array([rng.uniform(10.0, 300.0) for _ in messages(record)])
    middle = record["energy"] + rng.uniform(0.2, 1.0) * (true_energy - record["energy"])
    field = rng.choice(
        ["energy", "lower_bound", "gap", "status", "assignment", "witness", "query", "model", "evidence"]
    )

    def converged(r: Record, bound: float) -> None:
        r.update(assignment=worse, energy=true_energy, status="CONVERGED", lower_bound=bound, gap=true_energy - bound)

    def claimed_infeasible(r: Record) -> None:
        r.update(assignment=None, energy=None, status="INFEASIBLE", lower_bound=None, gap=None)

    def bits(r: Record) -> None:
        data = bytearray(base64.b64decode(r["witness"]["messages"]["data"]))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        r["witness"]["messages"]["data"] = base64.b64encode(bytes(data)).decode()

    return [
        lambda r: r.update(assignment=worse),
        lambda r: r.update(energy=r["energy"] - some),
        lambda r: r.update(energy=r["energy"] + some, gap=r["gap"] + some),
        lambda r: r.update(energy=r["energy"] - some, lower_bound=r["lower_bound"] - some),
        lambda r: r.update(lower_bound=r["lower_bound"] + some),
        lambda r: converged(r, middle),
        lambda r: r.update(assignment=worse, energy=true_energy, lower_bound=true_energy, gap=0.0),
        lambda r: r.update(
            status=rng.choice(["CONVERGED", "DEADLINE", "MAX_STEPS", "NONFINITE", "INFEASIBLE", "FINE"])
        ),
        claimed_infeasible,
        lambda r: r.update(gap=some),
        lambda r: r.update(lower_bound=r["lower_bound"] - some),
        lambda r: r.update(lower_bound=None),
        bits,
        lambda r: set_messages(r, messages(r) + noise * np.sign(np.sin(np.arange(noise.size) + some))),
        lambda r: set_messages(r, messages(r) * math.nan),
        lambda r: set_messages(r, messages(r)[: rng.randrange(noise.size)]),
        lambda r: set_messages(r, messages(r), [noise.size, 2]),
        lambda r: set_messages(r, messages(r), [-1]),
        lambda r: r["witness"].update(kind=rng.choice(["chain", "tables", "magic", 7])),
        lambda r: r.update(witness=None),
        lambda r: r.update(witness={"type": rng.choice(["trust", "several", "elimination_order", "claim"])}),
        lambda r: r.update(witness={"type": "elimination_order", "sites": pack_tensor(torch.tensor([0, 1, 1, 2]))}),
        lambda r: r.pop(field),
        lambda r: r.update(assignment=r["assignment"][:-1]),
        lambda r: r.update(assignment=[*r["assignment"], 0]),
        lambda r: r["assignment"].__setitem__(site, rng.choice([-1, counts[site], 1.0, "0", None, True, 1 << 70])),
        lambda r: r.update(assignment={str(i): s for i, s in enumerate(r["assignment"])}),
        lambda r: r["model"].update(sha256="0" * 64),
        lambda r: r.update(model=None),
        lambda r: r.update(evidence={"file": "e", "sha256": "0" * 64}),
        lambda r: r.update(energy=rng.choice(["low", True, 10**400, [1.0]])),
        lambda r: r.update(query=rng.choice(["mpa", None, 3])),
        lambda r: r.update(format="ebmstruct.result/2"),
    ]


def test_tampered_results(place: Path, capsys: Capture) -> None:
    """Over 200 tampered results, signed anew, end with code 2 and one line; so does any change without signing."""
    rng = random.Random(0)
    checked = 0
    for seed in range(7):
        graph = random_forest([6], 3, torch.Generator().manual_seed(100 + seed), shared=True)
        write_model(Path("t.uai"), Model(graph, "markov"))
        assert main(["solve", "t.uai", "-o", "good.json", "--quiet"]) == 0
        assert main(["verify", "good.json", "t.uai", "--quiet"]) == 0
        capsys.readouterr()
        good = Path("good.json").read_text()
        for number, change in enumerate(tamperings(json.loads(good), graph_of("t.uai"), rng)):
            Path("bad.json").write_text(good)
            tampered(Path("bad.json"), change)
            assert main(["verify", "bad.json", "t.uai"]) == 2, (seed, number)
            out, said = capsys.readouterr()
            assert out == "" and said.count("\n") == 1, (seed, number, said)
            assert "bad.json" in said and len(said) < 400, said
            checked += 1
        Path("bad.json").write_text(good)
        tampered(Path("bad.json"), lambda r: r.update(seconds=0.0), sign=False)
        assert "its checksum does not fit" in refused(capsys, "verify", "bad.json", "t.uai")
        assert "another model" in refused(capsys, "verify", "good.json", "m.uai.gz")
    assert checked >= 200


def test_tampered_orders(place: Path, capsys: Capture) -> None:
    """An order of elimination proves the least energy of a graph with cycles; one that is none proves nothing."""
    assert main(["solve", "c.uai", "--solver", "exhaustive", "-o", "good.json", "--quiet"]) == 0
    sites = table_view(graph_of("c.uai")).num_sites
    order = list(reversed(range(sites)))
    assert sites > 2

    def witness(*sites: float) -> Callable[[Record], object]:
        return lambda r: r.update(witness={"type": "elimination_order", "sites": pack_tensor(torch.tensor(sites))})

    tampered(Path("good.json"), witness(*order))
    assert main(["verify", "good.json", "c.uai"]) == 0
    assert "the energy is proven least" in capsys.readouterr().out
    good = Path("good.json").read_text()
    wrong = [order[:-1], [*order, sites], [order[0], *order[:-1]], [*order[:-1], -1], [*order[:-1], 1 << 40], []]
    wrong += [[float(site) for site in order]]
    changes = [witness(*sites) for sites in wrong]
    changes.append(lambda r: r["witness"]["sites"].update(shape=[1, sites]))
    changes.append(lambda r: r.update(energy=r["energy"] - 1, lower_bound=r["lower_bound"] - 1))
    for number, change in enumerate(changes):
        Path("bad.json").write_text(good)
        tampered(Path("bad.json"), change)
        assert main(["verify", "bad.json", "c.uai"]) == 2, number
        out, said = capsys.readouterr()
        assert out == "" and said.count("\n") == 1, said


def test_suboptimal_results_are_verified(place: Path, capsys: Capture) -> None:
    """A result that is not optimal, and says so, is verified: its energy, its bound and its gap are true."""
    assert main(["solve", "m.uai.gz", "-o", "r.json", "--quiet"]) == 0
    record = json.loads(Path("r.json").read_text())
    (truth,) = oracle(graph_of("m.uai.gz"))
    energy, states = sorted(zip(truth.energies, truth.states, strict=True))[3]
    gap = energy - record["lower_bound"]
    tampered(Path("r.json"), lambda r: r.update(assignment=list(states), energy=energy, gap=gap, status="DEADLINE"))
    assert main(["verify", "r.json", "m.uai.gz"]) == 0
    assert "is proven" in capsys.readouterr().out
    tampered(Path("r.json"), lambda r: r.update(lower_bound=None, gap=None, witness=None))
    assert main(["verify", "r.json", "m.uai.gz"]) == 0
    assert "nothing is claimed about how good it is" in capsys.readouterr().out


def test_claims_are_told(place: Path, capsys: Capture) -> None:
    """A bound for which only a solver vouches is told as claimed; its energy is verified all the same."""
    assert main(["solve", "c.uai", "--solver", "exhaustive", "-o", "r.json", "--quiet"]) == 0
    assert main(["verify", "r.json", "c.uai"]) == 0
    assert "claimed by enumeration and was not re-checked" in capsys.readouterr().out
    assert answer(capsys, "verify", "r.json", "c.uai")["proven"] is False


def test_verdict_as_json(place: Path, capsys: Capture) -> None:
    """A verdict that is no is an object too, beside the line and code 2."""
    assert main(["solve", "m.uai.gz", "-o", "r.json", "--quiet"]) == 0
    tampered(Path("r.json"), lambda r: r.update(energy=r["energy"] - 1))
    assert main(["verify", "r.json", "m.uai.gz", "--json"]) == 2
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["verified"] is False and said["fault"].startswith("its energy is ") and "NOT VERIFIED" in err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{}", "is no result of 'ebmstruct solve -o'"),
        (b"[1]", "is no result of 'ebmstruct solve -o'"),
        (b"{", "is not JSON"),
        (b'{"energy": NaN}', "is not JSON (NaN is no JSON number)"),
        (b"[" * 100_000, "is not JSON (nested too deeply)"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"", "is empty"),
    ],
)
def test_files_that_are_no_results(place: Path, capsys: Capture, data: bytes, said: str) -> None:
    """What is no result at all is told as that."""
    Path("r.json").write_bytes(data)
    assert said in refused(capsys, "verify", "r.json", "m.uai.gz")


def test_witnesses_round_trip() -> None:
    """Every kind of witness comes back from JSON with its bits."""
    values = torch.tensor([[0.1, -math.inf], [math.inf, 1e-300]], dtype=torch.float64)
    tables = Reparametrization("tables", values)
    order = EliminationOrder(torch.tensor([2, 0, 1]))
    for witness in (tables, order, Claim("nobody"), None):
        again = unpack_witness(json.loads(json.dumps(pack_witness(witness))))
        assert type(again) is type(witness)
    several = unpack_witness(json.loads(json.dumps(pack_witness(Several((tables, order, Claim("x")))))))
    assert isinstance(several, Several) and len(several.parts) == 3
    first, second, third = several.parts
    assert isinstance(first, Reparametrization) and torch.equal(first.messages, values) and first.kind == "tables"
    assert isinstance(second, EliminationOrder) and second.sites.tolist() == [2, 0, 1] and third == Claim("x")
    empty = unpack_tensor(pack_tensor(torch.zeros(0, 3)), "it")
    assert tuple(empty.shape) == (0, 3) and empty.dtype == torch.float64
    with pytest.raises(DataError, match="no known type"):
        unpack_witness({"type": "several", "parts": [{"type": "several", "parts": []}]})
