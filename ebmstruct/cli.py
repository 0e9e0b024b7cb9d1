"""The command: run, evaluate, predict, explain, plugins. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ebmstruct.errors import EbmstructError

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
        return _fail(debug, f"ebmstruct: {missing_dependency(error)}", 2)
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

    _run_arguments(add("run", "train and evaluate what a task file asks for", _command("run"), _RUN_EXAMPLES))
    evaluate = add("evaluate", "evaluate a finished run on more data", _command("evaluate"), _EVALUATE_EXAMPLES)
    evaluate.add_argument("run", metavar="RUN", help="a run folder")
    evaluate.add_argument("data", metavar="DATA", nargs="?", help="a file or folder; the run's own data by default")
    evaluate.add_argument("--split", default="test", help="which split of the data (default: test)")
    evaluate.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    evaluate.add_argument("--json", action="store_true", help="print the metrics as JSON")
    evaluate.add_argument("-o", "--output", metavar="FILE", help="write the predictions there, one JSON line each")
    predict = add("predict", "predict with a finished run", _command("predict"), _PREDICT_EXAMPLES)
    predict.add_argument("run", metavar="RUN", help="a run folder")
    predict.add_argument("input", metavar="TEXT|FILE|-", help="raw text, a file of it, or - for standard input")
    predict.add_argument("--json", action="store_true", help="one JSON line for each input")
    predict.add_argument("--deadline", metavar="SECONDS", type=_seconds, help="take the best answer found by then")
    predict.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    predict.add_argument("-o", "--output", metavar="FILE", help="write there instead of standard output")
    explain = add("explain", "print which solver would answer, and why the others would not", _command("explain"))
    explain.add_argument("target", metavar="RUN|TASK.yaml", help="a run folder or a task file")
    explain.add_argument("text", metavar="TEXT", nargs="?", help="raw input to ask about; by default an example")
    _set_argument(explain)
    plugins = add("plugins", "list the installed plugins, what they offer, and their faults", _command("plugins"))
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


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    """A command by name; what it stands on is imported when it runs, so that help does not wait for it."""

    def call(arguments: argparse.Namespace) -> None:
        from ebmstruct.run import commands

        getattr(commands, name)(arguments)

    return call


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _version() -> str:
    import ebmstruct

    return ebmstruct.__version__


@contextlib.contextmanager
def _logging(verbose: bool, quiet: bool) -> Iterator[None]:
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
