"""What training asks of its examples and of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ebmstruct.graph import Assignment, Factor, FactorGraph


class Pair(Protocol):
    """An input with its correct output, known at least in part."""

    @property
    def x(self) -> Any: ...

    @property
    def y(self) -> Any: ...


class Teacher(Protocol):
    """What training asks of a task: targets, and what wrong outputs cost."""

    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment: ...

    def cost(self, graph: FactorGraph, target: Assignment, schema: Any) -> Sequence[Factor]: ...
