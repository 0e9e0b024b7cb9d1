"""Every exception that ebmstruct raises on purpose.

    EbmstructError
    ├── GraphError          a factor graph, factor or assignment that does not fit together
    ├── SolverRefusal       no solver takes this graph and query; holds each refusal
    ├── LossRefusal         a loss that is not defined for this graph and target
    ├── InferenceFailed     raised only on request (``throw=True``); carries the result
    ├── DataError           a file, row or value that the user gave and that cannot be used
    ├── ConfigError         a task file with faults; holds all of them
    ├── PluginError         a plugin that is missing, broken, clashing or out of date
    ├── RunFolderError      a run folder that is missing, incomplete or cannot be written
    └── TrainingDiverged    a loss or a gradient that stopped being finite

A message says what was asked, what was found, what is legal, and what to do. The command prints the
message alone, without a traceback, and ends with exit code 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class EbmstructError(Exception):
    """The root: catching it catches every fault that ebmstruct reports on purpose."""


class GraphError(EbmstructError, ValueError):
    """A factor graph, factor or assignment whose parts do not fit together."""


class SolverRefusal(EbmstructError):
    """No solver takes this graph and query.

    refusals: solver name to the one sentence that says why it refused.
    """

    def __init__(self, message: str, refusals: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.refusals = dict(refusals or {})


class LossRefusal(EbmstructError):
    """A loss that is not defined for this graph and target; the message says why, and often what is."""


class InferenceFailed(EbmstructError):
    """Inference ended without a usable answer, and the caller asked for an exception.

    result: the Result as it would have been returned.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class DataError(EbmstructError, ValueError):
    """A file, row or value that the user gave and that cannot be used."""


class ConfigError(EbmstructError, ValueError):
    """A task file with faults.

    faults: one sentence each, all of them, in the order of the file.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class PluginError(EbmstructError):
    """A plugin that is missing, broken, clashing with another, or written for another version."""


class RunFolderError(EbmstructError):
    """A run folder that is missing, incomplete, tampered with, or cannot be written."""


class TrainingDiverged(EbmstructError):
    """A loss or gradient stopped being finite; the last good checkpoint is on disk."""
