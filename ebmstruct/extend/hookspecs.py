"""The hooks of a plugin. All are optional; each offers components of one kind.

A plugin is a distribution with an entry point in the group ``ebmstruct``. The entry point's name is the
prefix under which task files find what the plugin offers, and its value is the module that implements hooks:

    [project.entry-points.ebmstruct]
    weather = "my_weather.plugin"

    # my_weather/plugin.py
    from ebmstruct.extend import hookimpl

    @hookimpl
    def ebmstruct_tasks():
        return {"forecast": "my_weather.forecast:Forecast"}        # task: {name: weather.forecast}

Every hook returns either a mapping of names (without the prefix) to classes, or a list of classes which
carry their name in a class attribute ``name``. In place of a class it may give the text
``"module:Class"``: that module is then imported only when a task file asks for the name. Each parameter of a
class that is offered (for a frozen dataclass, each field) is a key of the YAML section that names it, and
its annotation (int, float, bool, str, Path, None, Literal, a tuple, list or mapping of those, or a nested
frozen dataclass) says which values are legal. A name that a saved run has used keeps its meaning for ever.

Hooks gain arguments in later versions and never lose them: an implementation names only those it wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from ebmstruct.energies.model import EnergyModel
    from ebmstruct.extend.task import Task
    from ebmstruct.inference import Solver
    from ebmstruct.learning import Loss

GROUP = "ebmstruct"
"""The entry-point group, and pluggy's project name."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def ebmstruct_tasks() -> Mapping[str, type[Task] | str] | Sequence[type[Task]]:  # type: ignore[empty-body]
    """Tasks: final frozen dataclasses that subclass ``ebmstruct.extend.Task``; YAML section ``task``."""


@hookspec
def ebmstruct_energies() -> Mapping[str, type[EnergyModel] | str] | Sequence[type[EnergyModel]]:  # type: ignore[empty-body]
    """Energy models: torch modules that take the schema, then options by keyword only; YAML section ``energy``."""


@hookspec
def ebmstruct_solvers() -> Mapping[str, type[Solver] | str] | Sequence[type[Solver]]:  # type: ignore[empty-body]
    """Solvers: frozen dataclasses that subclass ``ebmstruct.inference.Solver``; YAML section ``solver``."""


@hookspec
def ebmstruct_losses() -> Mapping[str, type[Loss] | str] | Sequence[type[Loss]]:  # type: ignore[empty-body]
    """Losses: frozen dataclasses that subclass ``ebmstruct.learning.Loss``; YAML section ``loss``."""
