"""The values of a task file with the place each came from, and the faults found in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ebmstruct.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """Where a value stands: ``ner.yaml:3``, ``--set`` or a task's defaults. line orders the faults."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Item:
    """A value of a task file: a plain scalar, a list of items, or a dict of items.

    text: a scalar as it was written; quoted: whether it stood in quotes.
    """

    value: Any
    place: Place
    text: str = ""
    quoted: bool = False

    @property
    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: item.plain for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain for item in self.value]
        return self.value

    @property
    def kind(self) -> str:
        """What the value is, in a user's words."""
        if self.value is None:
            return "nothing"
        if isinstance(self.value, bool):
            return f"the truth value {self.text or str(self.value).lower()}"
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        shown = self.text or str(self.value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return f"the text {shown!r}" if isinstance(self.value, str) else f"the number {shown}"


@dataclass
class Faults:
    """Collects every fault of a task file, so that all are told at once."""

    found: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, place: Place, path: str, message: str) -> None:
        """Note one fault: ``place path: message``."""
        line = place.line or 1_000_000_000
        self.found.append((line, len(self.found), f"{place} {path}: {message}" if path else f"{place}: {message}"))

    def raise_if_any(self) -> None:
        """ConfigError with all faults in the order of the file, if there is one."""
        if self.found:
            raise ConfigError([message for _, _, message in sorted(self.found)])


def item_of(value: Any, place: Place) -> Item:
    """A plain Python value as an item; everything in it stands at one place."""
    if isinstance(value, Mapping):
        return Item({str(k): item_of(v, place) for k, v in value.items()}, place)
    if isinstance(value, (list, tuple)):
        return Item([item_of(v, place) for v in value], place)
    return Item(str(value) if isinstance(value, Path) else value, place)


def with_override(top: Item, path: Sequence[str], value: Item) -> Item | str:
    """The tree with one value replaced, or the reason why the path leads nowhere.

    Mappings on the way are made where there are none; a list is entered by position, counted from 0.
    """
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(top.value, list):
        if not head.isdigit() or int(head) >= len(top.value):
            return f"{head!r} is no position in a list of {len(top.value)}"
        inner = with_override(top.value[int(head)], rest, value)
        if isinstance(inner, str):
            return inner
        return replace(top, value=[inner if i == int(head) else item for i, item in enumerate(top.value)])
    if not isinstance(top.value, dict):
        if top.value is not None:
            return f"{head!r} would be a key of {top.kind}"
        top = Item({}, value.place)
    inner = with_override(top.value.get(head, Item(None, value.place)), rest, value)
    return inner if isinstance(inner, str) else replace(top, value={**top.value, head: inner})


def merged(over: Item, under: Item) -> Item:
    """Mapping ``over`` laid on mapping ``under``, key by key; anything else of ``over`` replaces it whole."""
    if not isinstance(over.value, dict) or not isinstance(under.value, dict):
        return over
    both = {key: merged(item, under.value[key]) if key in under.value else item for key, item in over.value.items()}
    return replace(over, value={**under.value, **both})


def walk(item: Item, path: str = "") -> Iterator[tuple[str, Item]]:
    """Every item below this one with its dotted path."""
    yield path, item
    pairs: Iterable[tuple[Any, Item]] = item.value.items() if isinstance(item.value, dict) else ()
    for key, child in enumerate(item.value) if isinstance(item.value, list) else pairs:
        yield from walk(child, f"{path}.{key}" if path else str(key))
