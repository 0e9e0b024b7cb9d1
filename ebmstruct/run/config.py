"""Task files: YAML text (only here) to values with line numbers, and resolved values back to YAML text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ebmstruct.errors import ConfigError
from ebmstruct.extend.components import Components
from ebmstruct.run.items import Faults, Item, Place, with_override
from ebmstruct.run.spec import RunConfig, checked

MAX_BYTES = 256 * 1024
MAX_VALUES = 10_000
MAX_DEPTH = 20

_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]{0,30}|0x[0-9a-fA-F_]{1,24})")


def load_config(path: Path | str, overrides: Sequence[str] = (), *, components: Components | None = None) -> RunConfig:
    """Read and check a task file; ConfigError holds all its faults, each with file and line.

    overrides: ``section.key=value`` texts, laid over the file; their faults say ``--set``.
    """
    path = Path(path)
    text = _text_of(path)
    return parse_config(text, path.name, overrides, components=components)


def parse_config(
    text: str, name: str, overrides: Sequence[str] = (), *, components: Components | None = None
) -> RunConfig:
    """Check the text of a task file. name: what messages call the file; its stem names the default output."""
    faults = Faults()
    top = _parsed(text, Place(name, 1), faults)
    if top is not None and not isinstance(top.value, dict):
        legal = "task, energy, solver, loss, train, eval, output"
        faults.add(top.place, "", f"a task file is a mapping of sections ({legal}), not {top.kind}")
        top = None
    faults.raise_if_any()
    if top is None:
        raise ConfigError([f"{name}: is empty; a task file needs at least a section task with a name"])
    for override in overrides:
        top = _overridden(top, override, faults)
    config = checked(top, name, components or Components(), faults)
    faults.raise_if_any()
    assert config is not None, "a config without faults exists"
    return config


def dumped(values: Mapping[str, Any]) -> str:
    """Plain values as YAML text that ``parse_config`` reads back to the same values."""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, default_flow_style=False, width=100)
    return text


def _text_of(path: Path) -> str:
    if path.is_dir():
        hint = f"; to run what it holds, name {path / 'config.yaml'}" if (path / "config.yaml").is_file() else ""
        raise ConfigError([f"{path}: is a folder, not a task file{hint}"])
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError([f"{path}: is larger than {MAX_BYTES // 1024} KiB, so it is not a task file"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path.name}:{line}: is not UTF-8 text (byte {raw[error.start]:#04x})"]) from None


def _parsed(text: str, place: Place, faults: Faults) -> Item | None:
    """The items of YAML text, or None where it is empty or cannot be read at all (then a fault is noted)."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else _Reader(place, faults).item(node, "", 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Place(place.source, mark.line + 1) if mark and place.line else place
        said = " ".join(part for part in (error.context, error.problem) if part)
        faults.add(where, "", f"is not valid YAML: {said}{_hint(text, mark)}")
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if isinstance(error.position, int) else 1
        where = Place(place.source, line) if place.line else place
        code = error.character if isinstance(error.character, int) else ord(error.character[0])
        faults.add(where, "", f"holds the character U+{code:04X}, which YAML does not allow")
    except RecursionError:
        faults.add(place, "", f"is nested more than {MAX_DEPTH} deep")
    except (ValueError, yaml.YAMLError) as error:
        faults.add(place, "", f"is not valid YAML: {' '.join(str(error).split())}")
    return None


def _hint(text: str, mark: Any) -> str:
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return ""
    line = lines[mark.line]
    if "\t" in line[: mark.column + 1]:
        return "; there is a tab here: indent with spaces"
    return "; text with a colon or a brace needs quotes" if re.search(r":.*:|[{}@`%]", line) else ""


def _overridden(top: Item, override: str, faults: Faults) -> Item:
    path, equals, text = override.partition("=")
    place = Place("--set")
    if not equals or not re.fullmatch(r"[^.\s]+(\.[^.\s]+)*", path.strip()):
        faults.add(place, "", f"{override!r} is not of the form section.key=value")
        return top
    before = len(faults.found)
    value = _parsed(text, place, faults) if text.strip() else Item(None, place)
    if len(faults.found) > before or value is None:
        return top
    changed = with_override(top, path.strip().split("."), value)
    if isinstance(changed, str):
        faults.add(place, path, changed)
        return top
    return changed


class _Reader:
    """Turns YAML nodes into items: plain values only, a bounded number of them, no tag and no merge key."""

    def __init__(self, place: Place, faults: Faults) -> None:
        self._source, self._lined, self._faults = place.source, bool(place.line), faults
        self._count = 0
        self._numbers = yaml.constructor.SafeConstructor()

    def item(self, node: yaml.Node, path: str, depth: int) -> Item:
        place = Place(self._source, node.start_mark.line + 1 if self._lined else 0)
        self._count += 1
        if self._count > MAX_VALUES:
            # Aliases let a few lines stand for billions of values.
            raise ValueError(f"it holds more than {MAX_VALUES} values; write out what its aliases stand for")
        if depth > MAX_DEPTH:
            raise RecursionError
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return Item(self._mapping(node, path, depth), place)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return Item([self.item(n, f"{path}.{i}", depth + 1) for i, n in enumerate(node.value)], place)
        if isinstance(node, yaml.ScalarNode) and node.tag.startswith(_TAG):
            return self._scalar(node, kind, place, path)
        return self._refused(node, place, path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Item]:
        values: dict[str, Item] = {}
        for key, value in node.value:
            place = Place(self._source, key.start_mark.line + 1 if self._lined else 0)
            if not isinstance(key, yaml.ScalarNode) or not key.tag.startswith(_TAG):
                self._faults.add(place, path, "a key must be plain text")
                continue
            inner = f"{path}.{key.value}" if path else key.value
            if key.tag == _TAG + "merge":
                self._faults.add(place, inner, "merge keys are not taken; write the keys out")
            elif key.value in values:
                self._faults.add(place, inner, f"given twice; the first is at {values[key.value].place}")
            else:
                values[key.value] = self.item(value, inner, depth + 1)
        return values

    def _scalar(self, node: yaml.ScalarNode, kind: str, place: Place, path: str) -> Item:
        quoted = node.style is not None
        value: Any = node.value
        try:
            if kind == "null":
                value = None
            elif kind == "bool":
                value = self._numbers.construct_yaml_bool(node)
            elif kind == "int" and _WHOLE.fullmatch(node.value):
                value = self._numbers.construct_yaml_int(node)
            elif kind == "float" and ":" not in node.value:
                value = self._numbers.construct_yaml_float(node)
            elif kind not in ("str", "int", "float", "timestamp", "value", "merge"):
                return self._refused(node, place, path)
        except (ValueError, KeyError):
            self._faults.add(place, path, f"{node.value!r} is not what its tag !!{kind} says")
        return Item(value, place, node.value, quoted)

    def _refused(self, node: yaml.Node, place: Place, path: str) -> Item:
        tag = node.tag.replace(_TAG, "!!")
        self._faults.add(place, path, f"has the tag {tag}; a task file holds plain values only, nothing is executed")
        return Item(None, place)
