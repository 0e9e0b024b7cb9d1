"""Checked task files: sections resolved to components, defaults filled in, every option typed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ebmstruct.errors import EbmstructError
from ebmstruct.extend.components import Components, Option, near_miss, options_of
from ebmstruct.extend.generative import Generative
from ebmstruct.extend.task import Task
from ebmstruct.run.composition import OWN, taken_options
from ebmstruct.run.items import Faults, Item, Place, item_of, merged, walk
from ebmstruct.run.options import BAD, built, converted, read_options

if TYPE_CHECKING:
    from ebmstruct.inference import Solver
    from ebmstruct.learning import Loss, TrainingOptions
    from ebmstruct.learning.posterior import PosteriorOptions

SECTIONS = ("task", "energy", "solver", "loss", "train", "posterior", "eval", "output")


@dataclass(frozen=True)
class BudgetOptions:
    """What one prediction may cost: steps of the solver, seconds from the moment it is asked."""

    max_steps: int | None = None
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "deadline_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")


@dataclass(frozen=True)
class EvaluationOptions:
    """The section ``eval``. split: which splits are evaluated after training (dev and test, where there are any).

    batch_size: inputs a graph; with a deadline every input is asked alone.
    """

    split: str | tuple[str, ...] = ("dev", "test")
    budget: BudgetOptions = BudgetOptions()
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if not self.splits:
            raise ValueError("split must name at least one split")

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits, each once."""
        return (self.split,) if isinstance(self.split, str) else tuple(dict.fromkeys(self.split))


@dataclass(frozen=True)
class EnergyTerm:
    """One energy of a task file: its class and options; built once the schema is known.

    run: the folder of a finished run whose weights it takes over, or None.
    """

    name: str
    cls: type
    options: Mapping[str, Any]
    weight: float | None = None
    run: str | None = None

    def build(self, schema: Any) -> Any:
        """The energy model with fresh parameters."""
        return self.cls(schema, **self.options)


@dataclass(frozen=True)
class RunConfig:
    """A task file without faults.

    resolved: the plain values which, as a task file, give this config again. places: dotted key to where it stood.
    posterior: how weights are drawn once they are trained; None: they are not.
    """

    source: str
    task_name: str
    task: Task
    energies: tuple[EnergyTerm, ...]
    solver: Solver | None
    loss: Loss
    train: TrainingOptions
    evaluation: EvaluationOptions
    output: Path
    resolved: Mapping[str, Any] = field(repr=False)
    places: Mapping[str, Place] = field(repr=False)
    posterior: PosteriorOptions | None = None

    def place(self, path: str) -> str:
        """Where a key stood, for messages: ``ner.yaml:5 train.device``."""
        return f"{self.places.get(path, self.source)} {path}"

    def with_output(self, output: Path | str) -> RunConfig:
        """The same config with another run folder."""
        output = Path(output)
        return dataclasses.replace(self, output=output, resolved={**self.resolved, "output": str(output)})


def checked(top: Item, name: str, components: Components, faults: Faults) -> RunConfig | None:
    """The config in a task file's items, or None with every fault noted."""
    return _Checker(top, name, components, faults).config()


class _Checker:
    def __init__(self, top: Item, name: str, components: Components, faults: Faults) -> None:
        self._top, self._name, self._components, self._faults = top, name, components, faults
        self._resolved: dict[str, Any] = {}

    def config(self) -> RunConfig | None:
        from ebmstruct.learning import TrainingOptions

        for key, item in self._top.value.items():
            if key not in SECTIONS:
                message = f"unknown section; a task file takes {', '.join(SECTIONS)}{near_miss(key, SECTIONS)}"
                self._faults.add(item.place, key, message)
        task_item = self._section("task", self._top, {})
        task_name, task = self._component("task", task_item) if task_item else ("", BAD)
        if task_item is None:
            self._faults.add(self._top.place, "task", "missing; a task file needs a section task with a name")
        defaults = getattr(task, "defaults", {}) if task is not BAD else {}
        laid = {key: item for key in SECTIONS[1:] if (item := self._section(key, self._top, defaults)) is not None}
        energies = self._energies(laid.get("energy"), task_name if task is not BAD else "")
        solver = self._component("solver", laid["solver"])[1] if "solver" in laid else None
        self._resolved.setdefault("solver", None)
        loss_item = laid.get("loss") or item_of({"name": "negative_log_likelihood"}, Place("default"))
        loss = self._component("loss", loss_item)[1]
        empty = Item({}, self._top.place)
        train = self._plain_section("train", TrainingOptions, laid.get("train", empty))
        posterior = self._posterior(laid.get("posterior"), task, loss)
        evaluation = self._plain_section("eval", EvaluationOptions, laid.get("eval", empty))
        output = self._output(laid.get("output"))
        if self._faults.found:
            return None
        places = {path: item.place for key in laid for path, item in walk(laid[key], key)}
        places.update({path: item.place for path, item in walk(task_item, "task")} if task_item else {})
        order = {key: self._resolved[key] for key in SECTIONS if key in self._resolved}
        return RunConfig(
            self._name, task_name, task, energies, solver, loss, train, evaluation, output, order, places, posterior
        )

    def _section(self, key: str, top: Item, defaults: Mapping[str, Any]) -> Item | None:
        """A section of the file laid over the task's own: without a name it changes keys, with one it replaces."""
        item = top.value.get(key)
        if item is not None and item.value is None:
            # "solver:" with nothing behind it asks the engine to choose, whatever the task prefers
            item = None
            if key == "solver":
                return None
        if key not in defaults:
            return item
        under = item_of(defaults[key], Place("the task's defaults"))
        if item is None:
            return under
        return item if isinstance(item.value, dict) and "name" in item.value else merged(item, under)

    def _named(self, kind: str, item: Item, path: str) -> tuple[str, type | None]:
        """The name and class of a component section; None where a fault was noted."""
        if not isinstance(item.value, dict):
            hint = f"; write {{name: {item.text}}}" if isinstance(item.value, str) and item.text else ""
            self._faults.add(item.place, path, f"must be a mapping with a name, not {item.kind}{hint}")
            return "", None
        named = item.value.get("name")
        if named is None:
            self._faults.add(item.place, f"{path}.name", f"missing; the section needs the name of a {kind}")
            return "", None
        name = converted(named, str, f"{path}.name", self._faults)
        if name is BAD:
            return "", None
        try:
            return name, self._components.resolve(kind, name)
        except EbmstructError as error:
            self._faults.add(named.place, f"{path}.name", str(error))
            return name, None

    def _options(self, cls: type, item: Item, path: str, *, skip: int = 0) -> tuple[dict[str, Option], dict[str, Any]]:
        try:
            options = options_of(cls, skip)
        except EbmstructError as error:
            self._faults.add(item.place, path, str(error))
            return {}, {}
        what = item.value["name"].value
        own = OWN if path.startswith("energy") else ("name",)
        return options, read_options(item, options, path=path, what=what, faults=self._faults, own=own)

    def _component(self, kind: str, item: Item) -> tuple[str, Any]:
        name, cls = self._named(kind, item, kind)
        if cls is None:
            return name, BAD
        before = len(self._faults.found)
        options, given = self._options(cls, item, kind)
        if len(self._faults.found) > before:
            return name, cls if kind == "task" else BAD
        self._resolved[kind] = {"name": name, **_filled(options, given)}
        made = built(cls, given, item, kind, self._faults)
        # a task whose options are at fault still knows its defaults, so that the other sections can be checked
        return name, cls if made is BAD and kind == "task" else made

    def _energies(self, item: Item | None, task_name: str) -> tuple[EnergyTerm, ...]:
        if item is None:
            if task_name:
                message = f"missing; {task_name} has no energy of its own, so the file must name one"
                self._faults.add(self._top.place, "energy", message)
            return ()
        many = isinstance(item.value, list)
        if many and not item.value:
            self._faults.add(item.place, "energy", "is an empty list; name at least one energy")
        pairs = [(f"energy.{i}", child) for i, child in enumerate(item.value)] if many else [("energy", item)]
        terms, resolved = [], []
        for path, child in pairs:
            name, cls = self._named("energy", child, path)
            if cls is None:
                continue
            run, child = self._taken(name, child, path)
            options, given = self._options(cls, child, path, skip=1)
            weight = self._weight(child, path) if many else None
            terms.append(EnergyTerm(name, cls, given, weight, run))
            own = {**({"weight": weight} if many else {}), **({"run": run} if run is not None else {})}
            resolved.append({"name": name, **own, **_filled(options, given)})
        if resolved:
            self._resolved["energy"] = resolved if many else resolved[0]
        return tuple(terms)

    def _taken(self, name: str, item: Item, path: str) -> tuple[str | None, Item]:
        """The run whose weights an energy takes over, and the section with the options that it had there."""
        if "run" not in item.value:
            return None, item
        run = converted(item.value["run"], str, f"{path}.run", self._faults)
        if run is BAD:
            return None, item
        place = item.value["run"].place
        try:
            options = taken_options(run, name)
        except EbmstructError as error:
            self._faults.add(place, f"{path}.run", str(error))
            return run, item
        if options is None:
            return run, item
        under = item_of(options, place)
        for key, child in item.value.items():
            if key in options and child.plain != under.value[key].plain:
                message = f"is {child.plain!r}, and {run} was trained with {options[key]!r}; leave it out"
                self._faults.add(child.place, f"{path}.{key}", message)
        return run, merged(item, under)

    def _weight(self, item: Item, path: str) -> float:
        if "weight" not in item.value:
            return 1.0
        weight = converted(item.value["weight"], float, f"{path}.weight", self._faults)
        if weight is not BAD and not math.isfinite(weight):
            self._faults.add(item.value["weight"].place, f"{path}.weight", f"must be finite, not {weight}")
        return 1.0 if weight is BAD else float(weight)

    def _plain_section(self, key: str, cls: type, item: Item) -> Any:
        if not isinstance(item.value, dict):
            self._faults.add(item.place, key, f"must be a mapping, not {item.kind}")
            return BAD
        before = len(self._faults.found)
        options = options_of(cls)
        given = read_options(item, options, path=key, what=key, faults=self._faults)
        if len(self._faults.found) > before:
            return BAD
        self._resolved[key] = _filled(options, given)
        return built(cls, given, item, key, self._faults)

    def _posterior(self, item: Item | None, task: Any, loss: Any) -> Any:
        """How weights are drawn, where the file asks for it; a loss that is no likelihood is a fault of the section."""
        from ebmstruct.learning.posterior import PosteriorOptions, likelihood_refusal

        if item is None:
            return None
        if not isinstance(item.value, dict):
            hint = f"; write {{name: {item.text}}}" if isinstance(item.value, str) and item.text else ""
            self._faults.add(item.place, "posterior", f"must be a mapping with a name, not {item.kind}{hint}")
            return None
        if isinstance(task, Generative):
            message = f"averages predictions, and {task.name} draws records; leave the section out"
            self._faults.add(item.place, "posterior", message)
        made = self._plain_section("posterior", PosteriorOptions, item)
        if made is not BAD and loss is not BAD:
            reason = likelihood_refusal(loss, any_loss=made.any_loss)
            if reason is not None:
                self._faults.add(item.place, "posterior", reason)
        return made

    def _output(self, item: Item | None) -> Path:
        if item is None:
            path = Path("runs") / (PurePath(self._name).stem or "run")
        else:
            value = converted(item, str, "output", self._faults)
            if value is not BAD and (not value.strip() or "\0" in value):
                self._faults.add(item.place, "output", "must be the path of a folder")
            path = Path("." if value is BAD else value.replace("\0", ""))
        self._resolved["output"] = str(path)
        return path


def _filled(options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given and the defaults of the others, as plain values."""
    filled = {}
    for name, option in options.items():
        value = given.get(name, option.default)
        plain = BAD if name not in given and option.required else _plain(value)
        if plain is not BAD:
            filled[name] = plain
    return filled


def _plain(value: Any) -> Any:
    """A value as YAML can hold it, or BAD."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init})
    if isinstance(value, Mapping):
        inner = {str(key): _plain(child) for key, child in value.items()}
        return BAD if any(child is BAD for child in inner.values()) else inner
    if isinstance(value, (list, tuple)):
        items = [_plain(child) for child in value]
        return BAD if any(child is BAD for child in items) else items
    return BAD
