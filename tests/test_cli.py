"""The command: quick help, exit codes, one sentence for each fault, clean standard output."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ebmstruct.run.commands
from ebmstruct.cli import main
from ebmstruct.run.progress import Quiet
from ebmstruct.run.runner import Progress

TASK = "task: {name: toy.letters, examples_count: 12}\ntrain: {epochs: 2}\noutput: run\n"


@pytest.fixture
def task(toy: Path) -> Path:
    """A task file in the current folder."""
    (toy / "t.yaml").write_text(TASK)
    return toy


@pytest.fixture
def finished(task: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A finished run, made by the command."""
    assert main(["run", "t.yaml", "--quiet"]) == 0
    capsys.readouterr()
    return task / "run"


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "ebmstruct", *arguments], capture_output=True, text=True, env=environment, **options
    )  # type: ignore[call-overload,no-any-return]


def test_help_is_quick() -> None:
    """Help takes under 0.3 CPU seconds and imports neither torch nor yaml."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = command("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert found.returncode == 0 and "examples:" in found.stdout and "exit codes:" in found.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    code = "import sys; from ebmstruct.cli import main\ntry: main(['run', '--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'yaml', 'numba', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.endswith("[]\n")


def test_version_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints it; a call that makes no sense ends with code 2 and the usage."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out.startswith("ebmstruct 0.")
    for wrong in ([], ["fly"], ["run"], ["run", "a", "--resume", "--force"], ["predict", "r", "x", "--deadline", "-1"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2 and "usage: ebmstruct" in capsys.readouterr().err


def test_run_prints_metrics(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output has the metrics and where the report is; standard error one line an epoch."""
    assert main(["run", "t.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "report: run/report.html" and "test (12 examples): accuracy 0." in out
    assert sum(line.startswith("epoch ") for line in err.splitlines()) == 2
    assert main(["run", "t.yaml", "--json", "--quiet", "--output", "two", "--set", "train.epochs=1"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((task / "two" / "metrics.json").read_text()) and err == ""
    assert main(["run", "two/config.yaml", "--output", "three", "-q"]) == 0
    assert (task / "two" / "model.safetensors").read_bytes() == (task / "three" / "model.safetensors").read_bytes()


def test_predict(finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, a file, or standard input; for people or as JSON lines; to standard output or a file."""
    assert main(["predict", "run", "ab c"]) == 0
    assert "energy" in capsys.readouterr().out
    assert main(["predict", "run", "ab c", "--json", "--deadline", "5"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 and set(lines[0]) == {"output", "energy", "lower_bound", "gap", "status"}
    Path("in.txt").write_text("ab c\n")
    assert main(["predict", "run", "in.txt", "--json", "-o", "out.jsonl"]) == 0
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == lines
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab c")))
    assert main(["predict", "run", "-", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines


def test_evaluate_and_explain(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluating again gives the run's own numbers; explain names the solver for a run and for a task file."""
    assert main(["evaluate", "run", "--json", "-o", "p.jsonl"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == json.loads((finished / "metrics.json").read_text())["splits"]["test"]["accuracy"]
    assert Path("p.jsonl").read_text() == (finished / "predictions" / "test.jsonl").read_text()
    for target in ("run", "t.yaml"):
        assert main(["explain", target]) == 0
        assert "chosen: variable_elimination" in capsys.readouterr().out
    assert main(["explain", "t.yaml", "--set", "solver.name=exhaustive"]) == 0
    assert "chosen: exhaustive" in capsys.readouterr().out


def test_plugins(toy: Path, install, capsys: pytest.CaptureFixture[str]) -> None:
    """The listing tells name, version, what is offered, and faults; as JSON too."""
    install("bad", "plug_bad", "raise RuntimeError('boom')")
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "toy  (ebmstruct-toy 1.2)" in out and "toy.letters" in out and "RuntimeError: boom" in out
    assert main(["plugins", "--json"]) == 0
    lines = {line["prefix"]: line for line in json.loads(capsys.readouterr().out)}
    offers = {"task": ["letters"], "energy": ["chain"], "loss": ["replay"]}
    assert lines["toy"]["offers"] == offers and lines["toy"]["fault"] is None
    assert "boom" in lines["bad"]["fault"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "none.yaml"], "none.yaml: no such file"),
        (["run", "t.yaml"], "there is a finished run in run"),
        (["run", "t.yaml", "--set", "train.lr=1e-3"], "--set train.lr: must be a number"),
        (["run", "t.yaml", "--set", "train.device=cuda", "--force"], "'cuda' was asked for; this machine has cpu"),
        (["run", "t.yaml", "--output", "t.yaml"], "cannot write t.yaml: "),
        (["predict", "nothing", "a"], "there is no run folder nothing"),
        (["predict", "run", "missing.txt"], "no such file: missing.txt"),
        (["predict", "run", "latin.txt"], "latin.txt:2: is not UTF-8 text (byte 0xe9)"),
        (["predict", "run", "xyz"], "holds letters other than"),
        (["predict", "run", "a", "--device", "cuda"], "'cuda' was asked for; this machine has cpu"),
        (["predict", "run", "a", "-o", "t.yaml/x"], "cannot write t.yaml/x: "),
        (["evaluate", "run", "gone.jsonl"], "gone.jsonl cannot be read"),
        (["explain", "none.yaml"], "none.yaml: no such file"),
    ],
)
def test_faults(finished: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    """What the user can correct is one line on standard error, code 2, nothing on standard output, no traceback."""
    Path("latin.txt").write_bytes(b"ab\ncaf\xe9")
    assert main([*arguments, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err and err.count("\n") == 1
    assert main([*arguments, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_unexpected_fault(finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that nobody foresaw is one sentence with the way to its traceback, and code 1."""

    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(ebmstruct.run.commands, "load", broken)
    assert main(["predict", "run", "a"]) == 1
    err = capsys.readouterr().err
    assert err == "ebmstruct: unexpected fault: ZeroDivisionError: division by zero; add --debug for the traceback\n"
    assert main(["--debug", "predict", "run", "a"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped(
    task: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    number: int,
) -> None:
    """Ctrl-C and SIGTERM end with code 1 and the sentence that tells how to go on; going on works."""

    class Stopping(Quiet):
        def __call__(self, progress: Progress) -> None:
            if progress.event is not None and progress.event.epoch == 2:
                signal.raise_signal(number)

    # a shell that started the tests in the background has them ignore SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with monkeypatch.context() as patch:
        patch.setattr(ebmstruct.run.commands, "display", lambda quiet: Stopping())
        assert main(["run", "t.yaml", "-q"]) == 1
    said = "ebmstruct: stopped; run is unfinished: run again and add --resume to go on from the last checkpoint\n"
    assert capsys.readouterr().err == said
    assert main(["run", "t.yaml", "-q"]) == 2
    assert "unfinished run in run; --resume continues it" in capsys.readouterr().err


def test_broken_pipe(toy: Path) -> None:
    """A reader that goes away is no reason to complain."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ebmstruct", "plugins"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) in (0, 1) and err == b""


def test_terminal_without_letters(toy: Path) -> None:
    """A terminal that knows ASCII only gets question marks, not a fault."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}
    found = subprocess.run(
        [sys.executable, "-m", "ebmstruct", "run", "ñ.yaml"], capture_output=True, env=environment, check=False
    )
    assert found.returncode == 2 and found.stderr == b"ebmstruct: ?.yaml: no such file\n"
