"""The documentation is true: its code runs and prints what it says, its task files parse, its links lead somewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ebmstruct.cli import main
from ebmstruct.extend import discovery
from ebmstruct.extend.components import Components, options_of
from ebmstruct.inference.solvers import SOLVERS
from ebmstruct.learning import TrainingOptions
from ebmstruct.run.config import parse_config
from ebmstruct.run.spec import BudgetOptions, EvaluationOptions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
"""Every page whose blocks are run."""
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLUGIN_LINES = 60
"""The most lines that a whole task plugin may take."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of its first row, and the output shown right under it."""

    language: str
    text: str
    line: int
    shown: str | None = None


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page in their order."""
    page = path.read_text(encoding="utf-8")
    matches = list(FENCE.finditer(page))
    out = []
    for i, match in enumerate(matches):
        after = matches[i + 1] if i + 1 < len(matches) else None
        under = after is not None and after[1] == "text" and not page[match.end() : after.start()].strip()
        shown = after[2] if after is not None and under else None
        out.append(Block(match[1], match[2], page.count("\n", 0, match.start()) + 2, shown))
    return out


def name_of(path: Path) -> str:
    """A page's name in test reports."""
    return path.name


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds runs/ner: a tagger of characters, trained for one epoch on a few dozen made-up sentences."""
    folder = tmp_path_factory.mktemp("documented")
    people, places = ("阿明", "小玲", "陳先生", "偉仔"), ("中環", "尖沙咀", "旺角", "沙田", "元朗")
    rows = []
    for who in people:
        for where in places:
            text = f"{who}去{where}食飯"
            middle = len(who) + 1
            entities = [[0, len(who), "PER"], [middle, middle + len(where), "LOC"]]
            rows.append(json.dumps({"text": text, "entities": entities}, ensure_ascii=False))
    for split in ("train", "dev", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    task = {"name": "nlp.ner", "data": str(folder), "tokenizer": "characters"}
    energy = {"name": "nlp.sparse_chain", "template": "characters", "buckets_log2": 12}
    config = {"task": task, "energy": energy, "train": {"epochs": 1, "batch_size": 2}}
    (folder / "small.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    assert main(["run", str(folder / "small.yaml"), "--output", str(folder / "runs" / "ner"), "--quiet"]) == 0
    return folder


@pytest.fixture
def workplace(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder while a page is run: a clone's tasks, and a finished run in runs/ner."""
    place = tmp_path / "workplace"
    shutil.copytree(small_run / "runs", place / "runs")
    shutil.copytree(ROOT / "tasks", place / "tasks")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def namespace() -> Iterator[types.ModuleType]:
    """A module in which a page's blocks run one after another; dataclasses look their module up by name."""
    module = types.ModuleType("documented_page")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.fixture
def weather(install: Callable[..., Path]) -> str:
    """The plugin of docs/plugins.md, installed as a distribution of its own; gives its source."""
    source = next(b.text for b in blocks(ROOT / "docs/plugins.md") if "@es.hookimpl" in b.text)
    install("weather", "my_weather", source)
    return source


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_blocks_run(path: Path, workplace: Path, namespace: types.ModuleType, weather: str) -> None:
    """Every Python block of a page runs, in order and in one namespace, and prints the output that is shown under it."""
    code = [block for block in blocks(path) if block.language == "python"]
    if any('"hkcancor"' in block.text for block in code):
        pytest.importorskip("pycantonese", reason="the page reads HKCanCor, which the package pycantonese brings")
    if any("es.graph_network(" in block.text for block in code):
        pytest.importorskip("torch_geometric", reason="the page takes a network of torch_geometric, an extra")
    if any("ebmstruct_generative" in block.text for block in code):
        pytest.importorskip("sklearn", reason="the page is of generated records, whose measures need an extra")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in code:
            printed = io.StringIO()
            source = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the page
            with contextlib.redirect_stdout(printed):
                exec(compile(source, str(path), "exec", dont_inherit=True), vars(namespace))
            if block.shown is not None:
                assert printed.getvalue() == block.shown, f"{path.name}:{block.line} prints\n{printed.getvalue()}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_task_files_parse(path: Path, weather: str) -> None:
    """Every YAML block is a task file without fault, or sections of one, which then are laid beside a named task."""
    for block in blocks(path):
        if block.language == "yaml":
            whole = re.search(r"^task:", block.text, re.MULTILINE)
            text = block.text if whole else f"task: {{name: nlp.ner}}\n{block.text}"
            parse_config(text, f"{path.name} (block at line {block.line})")


@pytest.mark.parametrize("path", LINKED, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file that exists, and where it names a heading, the page has it."""
    page = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", page):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        there = path.parent / name if name else path
        assert there.exists(), f"{path.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, f"{path.name} links to {target}; there: {sorted(slugs)}"


PAGE_OF = {"integer_program": "linear_program"}
"""Solvers told on another's page."""


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_has_a_row_and_a_page(name: str) -> None:
    """The table of docs/solvers.md has a row for each name that --solver takes, and it leads to a page of that title."""
    page = PAGE_OF.get(name, name)
    assert f"\n| [{name}](solvers/{page}.md) |" in (ROOT / "docs/solvers.md").read_text(encoding="utf-8")
    text = (ROOT / "docs/solvers" / f"{page}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {page}\n") and f"`{SOLVERS[name].__name__}" in text


def test_every_page_is_of_a_solver() -> None:
    """No page in docs/solvers is called differently from what --solver takes."""
    assert {path.stem for path in (ROOT / "docs/solvers").glob("*.md")} == {PAGE_OF.get(n, n) for n in SOLVERS}


def test_the_plugin_of_the_page(weather: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plugin on the page is whole in 60 lines: installed, it trains, evaluates, reports and predicts."""
    assert len(weather.splitlines()) <= PLUGIN_LINES
    task = next(b.text for b in blocks(ROOT / "docs/plugins.md") if b.language == "yaml" and "weather.rain" in b.text)
    (workplace / "rain.yaml").write_text(task)
    assert main(["plugins", "--json"]) == 0
    listed = {line["prefix"]: line for line in json.loads(capsys.readouterr().out)}
    assert listed["weather"]["offers"] == {"task": ["rain"], "energy": ["drift"]} and not listed["weather"]["fault"]
    assert main(["run", "rain.yaml", "--quiet", "--json"]) == 0
    test = json.loads(capsys.readouterr().out)["splits"]["test"]
    assert test["accuracy"] > 0.9 and test["inference"]["largest_gap"] <= 1e-6
    assert (workplace / "runs/rain/report.html").is_file()
    assert main(["predict", "runs/rain", "55 58 83 90 88 61", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == ["dry", "dry", "rain", "rain", "rain", "dry"]


def test_every_key_is_documented() -> None:
    """docs/task-files.md has a row for every key of train, eval and budget; plugins.md names the lists' variables."""
    page = (ROOT / "docs/task-files.md").read_text(encoding="utf-8")
    for cls in (TrainingOptions, EvaluationOptions, BudgetOptions):
        for field in dataclasses.fields(cls):
            assert f"`{field.name}`" in page or f".{field.name}`" in page, f"{cls.__name__}.{field.name}"
    for variable in (discovery.ALLOW, discovery.BLOCK):
        assert variable in (ROOT / "docs/plugins.md").read_text(encoding="utf-8")


def test_every_option_of_tagging_is_documented() -> None:
    """docs/tagging.md names every key of the tagging tasks and energies."""
    page = (ROOT / "docs/tagging.md").read_text(encoding="utf-8")
    components = Components()
    for kind, name in (
        ("task", "nlp.ner"),
        ("task", "nlp.pos"),
        ("energy", "nlp.sparse_chain"),
        ("energy", "nlp.second_order_chain"),
        ("energy", "nlp.semi_markov"),
        ("energy", "nlp.neural_chain"),
    ):
        for key in options_of(components.resolve(kind, name), skip=int(kind == "energy")):
            assert f"`{key}`" in page, f"{name}: {key}"
