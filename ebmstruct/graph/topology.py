"""What does not change from one set of values to the next, with room for what has been derived from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ebmstruct.errors import GraphError
from ebmstruct.graph.factors import Factor
from ebmstruct.graph.variables import Variables

T = TypeVar("T")


class Topology:
    """The blocks and the structure of the factors; immutable, except that it remembers derived facts.

    Graphs made by ``FactorGraph.with_values`` share one topology, so that orders, colourings and symbolic
    factorisations are found once.
    """

    def __init__(self, variables: Sequence[Variables], factors: Sequence[Factor]) -> None:
        self.variables = {v.name: v for v in variables}
        if len(self.variables) != len(variables):
            names = [v.name for v in variables]
            raise GraphError(f"two blocks of variables share a name; found {names}")
        sizes = {v.num_instances for v in variables}
        if len(sizes) > 1:
            found = ", ".join(f"{v.name!r} {v.num_instances}" for v in variables)
            raise GraphError(f"all blocks must have the same number of instances; found {found}")
        self.num_instances = sizes.pop() if sizes else 0
        self.names = tuple(self.variables)
        self._derived: dict[Any, Any] = {}
        self._lock = threading.Lock()
        labels = [f.label for f in factors]
        if len(set(labels)) != len(labels):
            twice = sorted({x for x in labels if labels.count(x) > 1})
            raise GraphError(f"each factor needs a label of its own; used more than once: {twice}")
        for factor in factors:
            factor.check(self.scope(factor))

    def scope(self, factor: Factor) -> tuple[Variables, ...]:
        """The blocks in a factor's scope."""
        try:
            return tuple(self.variables[name] for name in factor.scope)
        except KeyError as missing:
            raise GraphError(
                f"factor {factor.label!r} has {missing} in its scope; the graph's blocks are {list(self.variables)}"
            ) from None

    def derive(self, key: Any, make: Callable[[], T]) -> T:
        """The derived fact under ``key``, made at the first call. Safe when several threads ask at once."""
        if key not in self._derived:
            made = make()
            with self._lock:
                self._derived.setdefault(key, made)
        found: T = self._derived[key]
        return found
