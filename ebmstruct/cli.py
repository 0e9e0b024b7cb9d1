"""The command and its subcommands. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from ebmstruct import help_texts
from ebmstruct.errors import EbmstructError

_STARTED = time.monotonic()
"""When this module was first needed: about when the process began."""

_QUERIES = ("map", "marginals", "logz", "sample")


def command() -> NoReturn:
    """The program: run the command and leave at once, since clearing torch away takes longer than many an answer."""
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 (done), 1 (unexpected fault, interruption) or 2 (something to correct)."""
    started = _process_began() if argv is None else time.monotonic()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may not know every letter
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.started = started
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
        if damaged := _damaged_cache(error):
            return _fail(debug, damaged, 2)
        return _unexpected(debug, error)


class _Parser(argparse.ArgumentParser):
    """A parser whose faults read well; ``brief`` ones tell them in one line, without the usage."""

    brief = False

    def error(self, message: str) -> NoReturn:
        """End with code 2 and the fault."""
        message = re.sub(r"^argument (\S+): takes ", r"\1 takes ", message)
        if not self.brief:
            super().error(message)
        message = message.removeprefix("argument ")
        self.exit(2, f"ebmstruct: {message}{'' if ' takes ' in message else f'; see {self.prog} --help'}\n")


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    talk = common.add_mutually_exclusive_group()
    talk.add_argument("--quiet", "-q", action="store_true", help="say only what went wrong")
    talk.add_argument("--verbose", "-v", action="store_true", help="say more")
    common.add_argument("--debug", action="store_true", help="show the traceback of a fault")
    raw = argparse.RawDescriptionHelpFormatter
    top = _Parser(
        "ebmstruct", description=help_texts.TOP, epilog=help_texts.TOP_EXAMPLES, formatter_class=raw, parents=[common]
    )
    top.add_argument("--version", action="version", version=f"ebmstruct {_version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, what: str, command: Callable[[argparse.Namespace], None], examples: str = "") -> Any:
        parser = commands.add_parser(
            name, help=what, description=what[0].upper() + what[1:] + ".", epilog=examples, formatter_class=raw,
            parents=[common],
        )  # fmt: skip
        parser.set_defaults(command=command, parser=parser)
        parser.brief = name in ("solve", "verify", "explain", "warm")
        return parser

    _run_arguments(add("run", "train and evaluate what a task file asks for", _command("run"), help_texts.RUN_EXAMPLES))
    _evaluate_arguments(
        add("evaluate", "evaluate a run on more data", _command("evaluate"), help_texts.EVALUATE_EXAMPLES)
    )
    _predict_arguments(add("predict", "predict with a finished run", _command("predict"), help_texts.PREDICT_EXAMPLES))
    what = "draw new records like those that a run was trained on"
    _generate_arguments(add("generate", what, _command("command", "generating"), help_texts.GENERATE_EXAMPLES))
    what = "infer the latent variables behind records"
    _latents_arguments(add("latents", what, _command("command", "latents"), help_texts.LATENTS_EXAMPLES))
    _solve_arguments(
        add("solve", "ask a question about a model file", _command("solve", "solving"), help_texts.SOLVE_EXAMPLES)
    )
    _verify_arguments(
        add("verify", "re-check a result of solve -o", _command("verify", "verifying"), help_texts.VERIFY_EXAMPLES)
    )
    what = "print which solver would answer, and why the others would not"
    _explain_arguments(add("explain", what, _command("explain"), help_texts.EXPLAIN_EXAMPLES))
    what = "compile the kernels that solving uses, so that the first answer is quick"
    add("warm", what, _command("warm", "warming"), help_texts.WARM_EXAMPLES)
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


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("data", metavar="DATA", nargs="?", help="a file or folder; the run's own data by default")
    parser.add_argument("--split", default="test", help="which split of the data (default: test)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the predictions there, one JSON line each")


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("input", metavar="TEXT|FILE|-", help="raw text, a file of it, or - for standard input")
    parser.add_argument("--json", action="store_true", help="one JSON line for each input")
    parser.add_argument("--deadline", metavar="SECONDS", type=_seconds, help="take the best answer found by then")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of standard output")


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--num", "-n", metavar="N", type=_number, required=True, help="how many records")
    what = "what every record has; may be given several times, and the rest is drawn"
    parser.add_argument("--given", metavar="PART=VALUE", action="append", default=[], help=what)
    parser.add_argument("--seed", metavar="N", type=_whole, default=0, help="the same seed, the same file (default: 0)")
    what = "the file or folder to write; its ending may choose the format (default: in the run folder)"
    parser.add_argument("-o", "--output", metavar="FILE", help=what)
    parser.add_argument("--no-quality", action="store_true", help="do not hold the records against held-out ones")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print path and quality as JSON, and nothing else")


def _latents_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("data", metavar="DATA", nargs="?", help="a file or folder; the run's own data by default")
    parser.add_argument("--split", default="test", help="which split of the data (default: test)")
    parser.add_argument("--samples", metavar="N", type=_whole, default=0, help="also draw so many samples (default: 0)")
    parser.add_argument("--seed", metavar="N", type=_whole, default=0, help="for what is drawn (default: 0)")
    what = "write there, .jsonl or .npz (default: standard output, as JSON lines)"
    parser.add_argument("-o", "--output", metavar="FILE", help=what)
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="RUN|TASK.yaml|MODEL", help="a run folder, a task file or a model file")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="raw input to ask about; by default an example")
    parser.add_argument("--query", choices=_QUERIES, help="the only question to ask about (default: several)")
    parser.add_argument("--deadline", metavar="SECONDS", type=_seconds, help="the choice where this is the deadline")
    parser.add_argument("--evidence", metavar="FILE", help="evidence about a model file")
    _set_argument(parser)


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", metavar="RESULT.json", help="what solve -o wrote")
    parser.add_argument("model", metavar="MODEL", help="the model file that was solved")
    parser.add_argument("--evidence", metavar="FILE", help="the evidence that it was solved with")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


def _solve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .uai, .bif or .npz file; .uai and .bif may be .gz")
    parser.add_argument("--evidence", metavar="FILE", help="observed states")
    what = "map: least energy; marginals; logz: log of the sum of exp(-energy); sample (default: map)"
    parser.add_argument("--query", choices=_QUERIES, default="map", help=what)
    parser.add_argument("--solver", metavar="NAME", help="the solver to use; by default the model decides")
    parser.add_argument("--deadline", metavar="SECONDS", type=_seconds, help="for everything, from start to end")
    parser.add_argument("--seed", metavar="N", type=_whole, default=0, help="for what is drawn (default: 0)")
    parser.add_argument("--num-samples", metavar="N", type=_whole, default=1, help="how many samples (default: 1)")
    parser.add_argument("--temperature", metavar="T", type=_positive, default=1.0, help="of exp(-energy / T), for sums")
    parser.add_argument("-k", metavar="N", type=_whole, default=1, help="how many best assignments (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the result with its witness (.json, .json.gz)")


def _set_argument(parser: argparse.ArgumentParser) -> None:
    help = "override a value of the task file; may be given many times"
    parser.add_argument("--set", metavar="SECTION.KEY=VALUE", action="append", default=[], help=help)


def _command(name: str, module: str = "commands") -> Callable[[argparse.Namespace], None]:
    """A command by name; what it stands on is imported when it runs, so that help does not wait for it."""

    def call(arguments: argparse.Namespace) -> None:
        getattr(importlib.import_module(f"ebmstruct.run.{module}"), name)(arguments)

    return call


def _positive(text: str, what: str = "a number above 0") -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"takes {what}; found {text!r}")
    return value


def _seconds(text: str) -> float:
    return _positive(text, "a number of seconds above 0")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"takes a whole number, 0 or more; found {text!r}")
    return int(text)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text)):
        raise argparse.ArgumentTypeError(f"takes a whole number, 1 or more; found {text!r}")
    return int(text)


def _process_began() -> float:
    """The instant, by the monotonic clock, from which deadlines count: the system's word on it, else ``_STARTED``."""
    with contextlib.suppress(OSError, ValueError, AttributeError, IndexError):
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        began = time.monotonic() - age
        if 0 <= _STARTED - began < 10:  # else a clock of another kind, or a long life before this import
            return began
    return _STARTED


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


def _damaged_cache(error: Exception) -> str | None:
    """The sentence for a fault in reading compiled kernels back from disk; None where the fault is another."""
    folder, trace = "", error.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if (
            frame.f_code.co_name in ("_load_overload", "_load_index", "_load_data")
            and "numba" in frame.f_globals["__name__"]
        ):
            index = getattr(frame.f_locals.get("self"), "_index_path", None)
            folder = os.path.dirname(index) if index else folder or "NUMBA_CACHE_DIR"
    said = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    what = f"ebmstruct: compiled kernels in {folder} cannot be read back ({said})"
    return f"{what}; delete that folder's files *.nbi and *.nbc, they are made again" if folder else None
