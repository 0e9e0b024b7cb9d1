"""Task files: every fault at once with its place, nothing executed, and the resolved file runs again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ebmstruct.errors import ConfigError, EbmstructError
from ebmstruct.run.config import MAX_BYTES, dumped, load_config, parse_config

GOOD = """\
task:
  name: toy.letters
  examples_count: 30
  noise: {rate: 0.1, kind: uniform}
  weights: {C: 1.0, V: 2}
  sizes: [3, 4]
energy: {name: toy.chain, scale: 0.2}
solver: {name: variable_elimination}
loss: {name: softmax_margin}
train: {epochs: 2, batch_size: 4, lr: 0.05, seed: 3}
eval: {split: test, budget: {max_steps: 20}}
output: runs/one
"""


def faults(text: str, *overrides: str) -> list[str]:
    """The faults of a task file named t.yaml."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "t.yaml", overrides)
    return caught.value.faults


def one(text: str, *overrides: str) -> str:
    """The single fault."""
    found = faults(text, *overrides)
    assert len(found) == 1, found
    return found[0]


TASK = "task: {name: toy.letters}\n"


def test_good_file(toy: Path) -> None:
    """Every section arrives typed: whole numbers where numbers are wanted become fractions, lists become tuples."""
    config = parse_config(GOOD, "t.yaml")
    assert config.task.noise.rate == 0.1 and config.task.sizes == (3, 4)  # type: ignore[attr-defined]
    assert config.task.weights == {"C": 1.0, "V": 2.0}  # type: ignore[attr-defined]
    assert config.energies[0].options == {"scale": 0.2}
    assert type(config.solver).__name__ == "VariableElimination" and type(config.loss).__name__ == "SoftmaxMargin"
    assert config.train.epochs == 2 and config.evaluation.budget.max_steps == 20
    assert config.evaluation.splits == ("test",) and config.output == Path("runs/one")


def test_defaults_of_the_task(toy: Path) -> None:
    """Sections that the file leaves out are the task's; one without a name changes keys of the task's."""
    config = parse_config("task: {name: toy.letters}\ntrain: {lr: 0.5}\nenergy: {scale: 3}\n", "dir/t.yaml")
    assert (config.train.epochs, config.train.lr) == (3, 0.5)
    assert (config.energies[0].name, config.energies[0].options) == ("toy.chain", {"scale": 3.0})
    assert config.solver is None and config.output == Path("runs/t")


def test_round_trip(toy: Path) -> None:
    """The resolved config, written as YAML and read again, resolves to itself."""
    for text in (GOOD, TASK, "task: {name: toy.letters, title: 'yes', data: '1e-3'}\ntrain: {lr: 1.0e-7}\n"):
        config = parse_config(text, "t.yaml")
        again = parse_config(dumped(config.resolved), "config.yaml")
        assert again.resolved == config.resolved
        assert again.task == config.task and again.train == config.train and again.evaluation == config.evaluation


def test_energies_add_up(toy: Path) -> None:
    """A list of energies keeps each one's weight, 1 by default."""
    config = parse_config(TASK + "energy: [{name: toy.chain, weight: 0.5}, {name: toy.chain}]\n", "t.yaml")
    assert [term.weight for term in config.energies] == [0.5, 1.0]
    assert one(TASK + "energy: []\n") == "t.yaml:2 energy: is an empty list; name at least one energy"


def test_all_faults_at_once(toy: Path) -> None:
    """Faults of all sections come together, in the order of the file, each with line, key and the legal keys."""
    text = """\
task: {name: toy.letters, lenght: 3}
solver: {name: variable_eliminatoin}
loss: {name: softmax_margin, temprature: 2}
train: {epochs: many, lr: 1e-3}
evla: {}
"""
    found = faults(text)
    starts = [fault.split(": ")[0] for fault in found]
    assert starts == [
        "t.yaml:1 task.lenght", "t.yaml:2 solver.name", "t.yaml:3 loss.temprature", "t.yaml:4 train.epochs",
        "t.yaml:4 train.lr", "t.yaml:5 evla",
    ]  # fmt: skip
    assert "toy.letters takes examples_count, length" in found[0] and "(did you mean length?)" in found[0]
    assert "(did you mean variable_elimination?)" in found[1]
    assert "(did you mean temperature?)" in found[2]
    assert "must be a whole number, not the text 'many'" in found[3]
    assert found[4].endswith("must be a number, not the text '1e-3', as which YAML reads it; write 1.0e-3")
    assert "(did you mean eval?)" in found[5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "t.yaml: is empty"),
        ("# nothing\n", "t.yaml: is empty"),
        ("- a\n- b\n", "t.yaml:1: a task file is a mapping of sections"),
        ("hello", "not the text 'hello'"),
        ("task: toy.letters", "t.yaml:1 task: must be a mapping with a name, not the text 'toy.letters'; write {name:"),
        ("train: {epochs: 1}", "t.yaml:1 task: missing"),
        ("task: {data: x}", "t.yaml:1 task.name: missing"),
        ("task: {name: 3}", "t.yaml:1 task.name: must be text, not the number 3; for text write '3' in quotes"),
        ("task: {name: letters}", "t.yaml:1 task.name: no task is named 'letters'; the name of a task starts with"),
        ("task: {name: tyo.letters}", "no plugin with the prefix 'tyo' is installed"),
        ("task: {name: toy.lettres}", "(did you mean toy.letters?)"),
        (TASK + "train: [1]", "t.yaml:2 train: must be a mapping, not a list"),
        (TASK + "train:\n\tepochs: 3", "there is a tab here: indent with spaces"),
        (TASK + "train: {epochs: 3", "is not valid YAML"),
        (TASK + "train: {epochs: 3}\ntrain: {epochs: 4}", "t.yaml:3 train: given twice; the first is at t.yaml:2"),
        (TASK + "train: {epochs: 3, epochs: 4}", "t.yaml:2 train.epochs: given twice"),
        (TASK + "train: {epochs: 3.0}", "must be a whole number, not the number 3.0; write 3"),
        (TASK + "train: {epochs: '3'}", "must be a whole number, not the text '3'; take the quotes away"),
        (TASK + "train: {epochs: true}", "must be a whole number, not the truth value true"),
        (TASK + "train: {epochs: 0}", "t.yaml:2 train: epochs must be at least 1"),
        (TASK + "train: {lr: .nan}", "must be a number, not the number .nan"),
        (TASK + "train: {lr: 1:30}", "must be a number, not the text '1:30'"),
        (TASK + "train: {epochs: 010}", "must be a whole number, not the text '010'"),
        (TASK + "train: {optimizer: adamW}", "must be one of adamw, adam"),
        (TASK + "train: {keep_best: 'true'}", "must be true or false, not the text 'true'; write true without quotes"),
        (TASK + "train: {device: no}", "must be text, not the truth value no; for text write 'no' in quotes"),
        (TASK + "energy: {name: toy.chain, transitions: maybe}", "must be true or false, not the text 'maybe'"),
        (TASK + "eval: {budget: {deadline_s: -1}}", "t.yaml:2 eval.budget: deadline_s must be above 0"),
        (TASK + "eval: {budget: {deadline: 1}}", "budget takes max_steps, deadline_s (did you mean deadline_s?)"),
        (TASK + "output: [a]", "t.yaml:2 output: must be text, not a list"),
        (TASK + "output: ''", "t.yaml:2 output: must be the path of a folder"),
        ("task: {name: toy.letters, noise: {rate: 3}}", "t.yaml:1 task.noise: rate must be between 0 and 1, not 3"),
        ("task: {name: toy.letters, noise: {kind: Uniform}}", "(did you mean uniform?)"),
        ("task: {name: toy.letters, sizes: 3}", "task.sizes: must be a list of: a whole number, not the number 3"),
        ("task: {name: toy.letters, sizes: [3, x]}", "task.sizes.1: must be a whole number, not the text 'x'"),
        ("task: {name: toy.letters, weights: {C: x}}", "task.weights.C: must be a number"),
        (TASK + "<<: {a: 1}", "merge keys are not taken"),
        (TASK + "? [a, b]\n: 3", "a key must be plain text"),
        (TASK + "--- \ntask: {}", "is not valid YAML: expected a single document"),
        (TASK + "train: *nothing", "is not valid YAML: found undefined alias"),
        (TASK + "title: \x07", "holds the character U+0007"),
    ],
)
def test_sentences(toy: Path, text: str, said: str) -> None:
    """Each way to go wrong has its sentence."""
    assert said in "\n".join(faults(text))


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system ''", "!!python/object:os.path {}",
        "!!python/module:os ''", "!include other.yaml", "!!binary aGk=", "!!set {a, b}", "!<tag:x.org,2020:y> 3",
    ],
)  # fmt: skip
def test_nothing_is_executed(toy: Path, tag: str) -> None:
    """Tags of any kind are refused in a sentence, wherever they stand."""
    for text in (f"task: {tag}\n", TASK + f"train: {{lr: {tag}}}\n", tag + "\n"):
        assert "holds plain values only, nothing is executed" in "\n".join(faults(text))
    assert not (toy / "pwned").exists()


def test_bombs(toy: Path) -> None:
    """Aliases that multiply, contain themselves or nest without end are refused at once."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    assert "more than 10000 values" in one(TASK + bomb)
    assert "nested more than 20 deep" in one(TASK + "train: &a {epochs: *a}\n")
    assert "nested more than 20 deep" in one(TASK + "train: " + "[" * 5000 + "]" * 5000)


def test_huge_numbers(toy: Path) -> None:
    """A number of thousands of digits is text, and a number field says so."""
    assert "must be a whole number, not the text" in one(TASK + "train: {epochs: " + "9" * 6000 + "}")


def test_overrides(toy: Path) -> None:
    """--set lays values over the file, makes sections that are not there, and names itself in faults."""
    config = parse_config(
        GOOD, "t.yaml", ["train.lr=0.5", "task.data=a b", "eval.split=[dev, test]", "loss.name=perceptron"]
    )
    assert config.train.lr == 0.5 and config.task.data == "a b"  # type: ignore[attr-defined]
    assert config.evaluation.splits == ("dev", "test")
    config = parse_config(TASK, "t.yaml", ["train.seed=7", "energy.scale=2.5", "output=x/y"])
    assert config.train.seed == 7 and config.energies[0].options["scale"] == 2.5 and config.output == Path("x/y")
    many = TASK + "energy: [{name: toy.chain}, {name: toy.chain}]\n"
    assert [t.weight for t in parse_config(many, "t.yaml", ["energy.1.weight=3"]).energies] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.lr", "--set: 'train.lr' is not of the form section.key=value"),
        ("=3", "--set: '=3' is not of the form"),
        ("train.lr=1e-3", "--set train.lr: must be a number, not the text '1e-3'"),
        ("train.lrr=1", "--set train.lrr: unknown; train takes epochs"),
        ("task.name.x=1", "--set task.name.x: 'x' would be a key of the text 'toy.letters'"),
        ("energy.9.weight=1", "--set energy.9: unknown; toy.chain takes"),
        ("task.data=a: b: c", "--set: is not valid YAML"),
        ("train.lr=!!python/name:os.system ''", "holds plain values only"),
    ],
)
def test_override_faults(toy: Path, override: str, said: str) -> None:
    """Faults in overrides say --set and the key."""
    assert said in "\n".join(faults(TASK + "energy: {name: toy.chain}\n", override))


def test_files(toy: Path) -> None:
    """What is no readable text file has its sentence: missing, a folder, binary, too large."""
    assert "no.yaml: no such file" in str(_raised(toy / "no.yaml"))
    assert "is a folder, not a task file" in str(_raised(toy))
    (toy / "config.yaml").write_text("x: 1")
    assert "to run what it holds" in str(_raised(toy))
    (toy / "b.yaml").write_bytes(b"task: \xff\xfe\x00")
    assert "b.yaml:1: is not UTF-8 text (byte 0xff)" in str(_raised(toy / "b.yaml"))
    (toy / "big.yaml").write_bytes(b"# x\n" * MAX_BYTES)
    assert "is larger than 256 KiB" in str(_raised(toy / "big.yaml"))
    (toy / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + TASK.encode())
    assert load_config(toy / "bom.yaml").task_name == "toy.letters"


def _raised(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return caught.value


PIECES = [
    *("{", "}", "[", "]", ":", ": ", "-", "\n", "\t", "  ", "&a ", "*a", "!!python/none ''", "!x", "%", "@", "'", '"'),
    *(
        "|",
        ">",
        "?",
        "#",
        "---",
        "...",
        "1e-3",
        ".nan",
        "-.inf",
        "yes",
        "~",
        "null",
        "0x1g",
        "<<",
        "2001-01-01",
        "\x00",
    ),
    *("\x85", "\u2028", "\ud800", "é", "9" * 400, "12:30:45", "=", "!!float x", "!!int ''"),
]


def test_fuzzed_files(toy: Path) -> None:
    """200 mutated task files give either a config or sentences with a place, never another exception."""
    rng = random.Random(7)
    good = bad = 0
    for _ in range(200):
        text = GOOD
        for _ in range(rng.randint(1, 4)):
            text = _mutated(text, rng, PIECES)
        try:
            parse_config(text, "f.yaml")
            good += 1
        except EbmstructError as error:
            bad += 1
            assert isinstance(error, ConfigError) and error.faults
            for fault in error.faults:
                assert fault.startswith(("f.yaml", "the task's defaults", "default")), fault
                assert "Traceback" not in fault and "object at 0x" not in fault and len(fault) < 2_000
    assert bad > 100 and good > 5


def _mutated(text: str, rng: random.Random, pieces: list[str]) -> str:
    at = rng.randrange(len(text) + 1)
    kind = rng.randrange(6)
    if kind == 0:
        return text[:at] + rng.choice(pieces) + text[at:]
    if kind == 1:
        return text[:at] + text[at + rng.randint(1, 8) :]
    if kind == 2:
        return text[:at] + text[at : at + 30] + text[at:]
    if kind == 3:
        return text[:at] + "".join(chr(rng.randrange(1, 0x250)) for _ in range(3)) + text[at:]
    lines = text.split("\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == 4:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines[i] = lines[i].replace(rng.choice(["name", ":", " ", "e", "1", "{"]), rng.choice(pieces))
    return "\n".join(lines)
