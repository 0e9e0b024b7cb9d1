"""What each command does with its arguments; the parser is in ``ebmstruct.cli``."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ebmstruct.errors import DataError
from ebmstruct.extend.discovery import candidates, listing
from ebmstruct.run import runner
from ebmstruct.run.config import load_config
from ebmstruct.run.explaining import Question, explain_model, explain_run, explain_task
from ebmstruct.run.predictor import load
from ebmstruct.run.progress import display
from ebmstruct.storage import plain, write_text


def run(arguments: argparse.Namespace) -> None:
    """Train, evaluate and report."""
    config = load_config(arguments.task, arguments.set)
    if arguments.output is not None:
        config = config.with_output(arguments.output)
    with _stoppable(), display(quiet=getattr(arguments, "quiet", False)) as shown:
        summary = runner.run(config, resume=arguments.resume, force=arguments.force, on_progress=shown)
    if arguments.json:
        _write_json(summary.metrics)
    elif not getattr(arguments, "quiet", False):
        for split, metrics in summary.metrics["splits"].items():
            _write(scores(split, metrics))
        _write(f"report: {summary.report}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a finished run on more data."""
    with display(quiet=getattr(arguments, "quiet", False)) as shown:
        found = runner.evaluate_run(
            arguments.run,
            arguments.data,
            split=arguments.split,
            device=arguments.device,
            predictions=Path(arguments.output) if arguments.output else None,
            on_progress=shown,
        )
    _write_json(plain(found.metrics)) if arguments.json else _write(scores(found.split, found.metrics))


def predict(arguments: argparse.Namespace) -> None:
    """Predict for raw text."""
    predictor = load(arguments.run, device=arguments.device)
    text = arguments.input if predictor.task.reads_paths else _input(arguments.input)
    predictions = predictor.predict_text(text, deadline_s=arguments.deadline)
    if not predictions:
        raise DataError(
            f"{arguments.input!r} holds no input for {predictor.task.name}; give a text, a file, or - and a text"
        )
    write = _prediction_json if arguments.json else _prediction_text
    lines = [write(predictor.task, p) for p in predictions]
    stuck = [i for i, p in enumerate(predictions, 1) if p.status == "INFEASIBLE"]
    if arguments.output:
        write_text(Path(arguments.output), "".join(line + "\n" for line in lines))
    else:
        for line in lines:
            _write(line)
    if stuck:
        raise DataError(
            f"input {', '.join(map(str, stuck[:10]))}: no answer obeys both what is forced and the hard constraints"
        )


def explain(arguments: argparse.Namespace) -> None:
    """Print the choice of solver."""
    from ebmstruct.run.formats import is_model_file

    target = arguments.target
    if arguments.evidence is not None and not is_model_file(target):
        raise DataError(f"--evidence goes with a model file (.uai, .bif, .npz); {target} is none")
    question = Question(arguments.query, arguments.deadline, arguments.started)
    if is_model_file(target) and not Path(target).is_dir():
        _write(explain_model(target, arguments.evidence, question))
    elif Path(target).is_dir():
        _write(explain_run(target, arguments.text, question))
    else:
        _write(explain_task(load_config(target, arguments.set), arguments.text, question))


def plugins(arguments: argparse.Namespace) -> None:
    """List the plugins."""
    lines = listing(candidates())
    if arguments.json:
        _write_json([vars(line) for line in lines])
        return
    if not lines:
        _write("no plugin is installed, or none is allowed")
    for line in lines:
        _write(f"{line.prefix}  ({line.distribution} {line.version})")
        for kind, names in line.offers.items():
            _write(f"  {kind + ':':8} {', '.join(f'{line.prefix}.{name}' for name in names)}")
        if line.fault:
            _write(f"  fault:   {line.fault}")


def _input(given: str) -> str:
    """The raw text meant by an argument: itself, a file's, or standard input's."""
    if not given.strip():
        return given
    if given == "-":
        raw, name = sys.stdin.buffer.read(), "standard input"
    else:
        name = given
        try:
            there, folder = Path(given).is_file(), Path(given).is_dir()
        except (OSError, ValueError):  # a long text is no file name
            there = folder = False
        if not there:
            if folder:
                raise DataError(f"{given} is a folder; give a text, a file of text, or - for standard input")
            if re.fullmatch(r"\S*[/\\]\S*\.\w{1,5}|\S+\.(txt|jsonl?|conllu?|csv|tsv|iob2?|gz)", given):
                raise DataError(f"no such file: {given}; to predict these very characters, give them with - as input")
            return given
        try:
            raw = Path(given).read_bytes()
        except OSError as error:
            raise DataError(f"{given} cannot be read: {error.strerror or error}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{name}:{line}: is not UTF-8 text (byte {raw[error.start]:#04x})") from error


def _prediction_json(task: Any, prediction: Any) -> str:
    if prediction.status == "INFEASIBLE":
        return json.dumps({"status": prediction.status, "energy": None})
    names = ("energy", "lower_bound", "gap", "status")
    record = task.record(prediction.x, prediction.output) | {name: getattr(prediction, name) for name in names}
    if prediction.draws is not None:
        record["draws"] = prediction.draws
    return json.dumps(plain(record), ensure_ascii=False)


def _prediction_text(task: Any, prediction: Any) -> str:
    if prediction.status == "INFEASIBLE":
        return (
            f"{' '.join(map(str, prediction.x))}\n  no answer: what is forced breaks the hard constraints, INFEASIBLE"
        )
    proof = f"gap {prediction.gap:.3g}" if prediction.gap != float("inf") else "no bound"
    return (
        f"{task.show(prediction.x, prediction.output)}\n  energy {prediction.energy:.4f}, {proof}, {prediction.status}"
    )


def scores(split: str, metrics: Any) -> str:
    """The numbers among metrics in a line."""
    numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and k != "examples"}
    shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items())
    return f"{split} ({metrics.get('examples', '?')} examples): {shown}"


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")


def _write_json(value: Any) -> None:
    _write(json.dumps(value, ensure_ascii=False, indent=2))


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Being told to end (SIGTERM) counts as Ctrl-C: the same sentence, the same checkpoint."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
