"""The command: run, evaluate, predict, explain, plugins. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ebmstruct.errors import DataError, EbmstructError

_TOP = """\
Structured prediction by energy minimisation: train, evaluate and use models that give each possible answer an
energy and predict the one with the least.
"""

_TOP_EXAMPLES = """\
examples:
  ebmstruct run tasks/ner.yaml                      train, evaluate, write runs/ner and its report.html
  ebmstruct run tasks/ner.yaml --set train.epochs=3 --output runs/short
  ebmstruct predict runs/ner "Ada Lovelace lived in London."
  ebmstruct evaluate runs/ner my_data/test.conll
  ebmstruct explain tasks/ner.yaml                  which solver would answer, and why the others would not
  ebmstruct plugins                                 what is installed

exit codes: 0 done; 1 an unexpected fault or an interruption; 2 something to correct, told in a sentence
"""

_RUN_EXAMPLES = """\
examples:
  ebmstruct run tasks/ner.yaml
  ebmstruct run tasks/ner.yaml --set train.lr=0.05 --set task.data=my_data
  ebmstruct run tasks/ner.yaml --resume             go on with a run that was stopped
  ebmstruct run tasks/ner.yaml --force              replace a run that is there
  ebmstruct run tasks/ner.yaml --json --quiet       only the metrics, as JSON on standard output
  ebmstruct run runs/ner/config.yaml --output runs/again
"""

_EVALUATE_EXAMPLES = """\
examples:
  ebmstruct evaluate runs/ner                       the test split of the run's own data once more
  ebmstruct evaluate runs/ner my_data --split dev
  ebmstruct evaluate runs/ner test.conll --json -o predictions.jsonl
"""

_PREDICT_EXAMPLES = """\
examples:
  ebmstruct predict runs/ner "Ada Lovelace lived in London."
  ebmstruct predict runs/ner article.txt --json -o entities.jsonl
  cat article.txt | ebmstruct predict runs/ner -
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 (done), 1 (unexpected fault, interruption) or 2 (something to correct)."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may not know every letter
    arguments = _parser().parse_args(argv)
    debug = getattr(arguments, "debug", False)
    try:
        with _logging(getattr(arguments, "verbose", False), getattr(arguments, "quiet", False)):
            arguments.command(arguments)
            sys.stdout.flush()
        return 0
    except EbmstructError as error:
        return _fail(debug, f"ebmstruct: {error}" if "\n" not in str(error) else str(error), 2)
    except KeyboardInterrupt as error:
        return _fail(debug, f"ebmstruct: {str(error) or 'stopped'}", 1)
    except BrokenPipeError:
        # whoever read our output has enough; the interpreter must not complain when it closes the stream
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        from ebmstruct.extend.discovery import missing_dependency

        if (error.name or "ebmstruct").partition(".")[0] == "ebmstruct":
            return _unexpected(debug, error)
        return _fail(debug, f"ebmstruct: {missing_dependency(error, 'ebmstruct')}", 2)
    except Exception as error:
        return _unexpected(debug, error)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    talk = common.add_mutually_exclusive_group()
    talk.add_argument("--quiet", "-q", action="store_true", help="say only what went wrong")
    talk.add_argument("--verbose", "-v", action="store_true", help="say more")
    common.add_argument("--debug", action="store_true", help="show the traceback of a fault")
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        "ebmstruct", description=_TOP, epilog=_TOP_EXAMPLES, formatter_class=raw, parents=[common]
    )
    top.add_argument("--version", action="version", version=f"ebmstruct {_version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, what: str, command: Callable[[argparse.Namespace], None], examples: str = "") -> Any:
        parser = commands.add_parser(
            name, help=what, description=what[0].upper() + what[1:] + ".", epilog=examples, formatter_class=raw,
            parents=[common],
        )  # fmt: skip
        parser.set_defaults(command=command)
        return parser

    _run_arguments(add("run", "train and evaluate what a task file asks for", _run, _RUN_EXAMPLES))
    evaluate = add("evaluate", "evaluate a finished run on more data", _evaluate, _EVALUATE_EXAMPLES)
    evaluate.add_argument("run", metavar="RUN", help="a run folder")
    evaluate.add_argument("data", metavar="DATA", nargs="?", help="a file or folder; the run's own data by default")
    evaluate.add_argument("--split", default="test", help="which split of the data (default: test)")
    evaluate.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    evaluate.add_argument("--json", action="store_true", help="print the metrics as JSON")
    evaluate.add_argument("-o", "--output", metavar="FILE", help="write the predictions there, one JSON line each")
    predict = add("predict", "predict with a finished run", _predict, _PREDICT_EXAMPLES)
    predict.add_argument("run", metavar="RUN", help="a run folder")
    predict.add_argument("input", metavar="TEXT|FILE|-", help="raw text, a file of it, or - for standard input")
    predict.add_argument("--json", action="store_true", help="one JSON line for each input")
    predict.add_argument("--deadline", metavar="SECONDS", type=_seconds, help="take the best answer found by then")
    predict.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    predict.add_argument("-o", "--output", metavar="FILE", help="write there instead of standard output")
    explain = add("explain", "print which solver would answer, and why the others would not", _explain)
    explain.add_argument("target", metavar="RUN|TASK.yaml", help="a run folder or a task file")
    explain.add_argument("text", metavar="TEXT", nargs="?", help="raw input to ask about; by default an example")
    _set_argument(explain)
    plugins = add("plugins", "list the installed plugins, what they offer, and their faults", _plugins)
    plugins.add_argument("--json", action="store_true", help="as JSON")
    return top


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK.yaml", help="the task file")
    _set_argument(parser)
    parser.add_argument("--output", "-o", metavar="DIR", help="the run folder, in place of the file's")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an unfinished run after its last checkpoint")
    again.add_argument("--force", action="store_true", help="replace the run that is in the folder")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON, and nothing else")


def _set_argument(parser: argparse.ArgumentParser) -> None:
    help = "override a value of the task file; may be given many times"
    parser.add_argument("--set", metavar="SECTION.KEY=VALUE", action="append", default=[], help=help)


def _run(arguments: argparse.Namespace) -> None:
    from ebmstruct.run.config import load_config
    from ebmstruct.run.progress import display
    from ebmstruct.run.runner import run

    config = load_config(arguments.task, arguments.set)
    if arguments.output is not None:
        config = config.with_output(arguments.output)
    with _stoppable(), display(quiet=getattr(arguments, "quiet", False)) as shown:
        summary = run(config, resume=arguments.resume, force=arguments.force, on_progress=shown)
    if arguments.json:
        _write_json(summary.metrics)
    elif not getattr(arguments, "quiet", False):
        for split, metrics in summary.metrics["splits"].items():
            _write(_scores(split, metrics))
        _write(f"report: {summary.report}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from ebmstruct.run.progress import display
    from ebmstruct.run.runner import evaluate_run, write_predictions
    from ebmstruct.storage import plain

    with display(quiet=getattr(arguments, "quiet", False)) as shown:
        found = evaluate_run(
            arguments.run, arguments.data, split=arguments.split, device=arguments.device, on_progress=shown
        )
    if arguments.output:
        write_predictions(Path(arguments.output), found)
    _write_json(plain(found.metrics)) if arguments.json else _write(_scores(found.split, found.metrics))


def _predict(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from ebmstruct.run.predictor import load
    from ebmstruct.storage import write_text

    text = _input(arguments.input)
    predictor = load(arguments.run, device=arguments.device)
    predictions = predictor.predict_text(text, deadline_s=arguments.deadline)
    lines = [_prediction_json(p) if arguments.json else _prediction_text(predictor.task, p) for p in predictions]
    if arguments.output:
        write_text(Path(arguments.output), "".join(line + "\n" for line in lines))
    else:
        for line in lines:
            _write(line)


def _explain(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from ebmstruct.run.config import load_config
    from ebmstruct.run.explaining import explain_run, explain_task

    if Path(arguments.target).is_dir():
        _write(explain_run(arguments.target, arguments.text))
    else:
        _write(explain_task(load_config(arguments.target, arguments.set), arguments.text))


def _plugins(arguments: argparse.Namespace) -> None:
    from ebmstruct.extend.discovery import candidates, listing

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
    import re
    from pathlib import Path

    if given == "-":
        raw, name = sys.stdin.buffer.read(), "standard input"
    else:
        name = given
        try:
            there = Path(given).is_file()
        except (OSError, ValueError):  # a long text is no file name
            there = False
        if not there:
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


def _prediction_json(prediction: Any) -> str:
    import json

    from ebmstruct.storage import plain

    names = ("output", "energy", "lower_bound", "gap", "status")
    return json.dumps(plain({name: getattr(prediction, name) for name in names}), ensure_ascii=False)


def _prediction_text(task: Any, prediction: Any) -> str:
    proof = f"gap {prediction.gap:.3g}" if prediction.gap != float("inf") else "no bound"
    return (
        f"{task.show(prediction.x, prediction.output)}\n  energy {prediction.energy:.4f}, {proof}, {prediction.status}"
    )


def _scores(split: str, metrics: Any) -> str:
    numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and k != "examples"}
    shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items())
    return f"{split} ({metrics.get('examples', '?')} examples): {shown}"


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")


def _write_json(value: Any) -> None:
    import json

    _write(json.dumps(value, ensure_ascii=False, indent=2))


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _version() -> str:
    import ebmstruct

    return ebmstruct.__version__


@contextlib.contextmanager
def _logging(verbose: bool, quiet: bool) -> Any:
    """Log lines of ebmstruct on standard error while the command runs."""
    logger = logging.getLogger("ebmstruct")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    before = logger.level
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextlib.contextmanager
def _stoppable() -> Any:
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


def _fail(debug: bool, message: str, code: int) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(message.rstrip() + "\n")
    return code


def _unexpected(debug: bool, error: Exception) -> int:
    said = " ".join(str(error).split())
    message = f"ebmstruct: unexpected fault: {type(error).__name__}: {said}"
    return _fail(debug, message if debug else message + "; add --debug for the traceback", 1)
