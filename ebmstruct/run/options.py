"""Values of a task file against the type annotations of the class that takes them."""

from __future__ import annotations

import collections.abc
import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union

from ebmstruct.errors import EbmstructError
from ebmstruct.extend.components import Option, near_miss, options_of
from ebmstruct.run.items import Faults, Item

BAD: Any = object()
"""What ``converted`` gives for a value that does not fit; the fault has been noted."""

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping)


def read_options(
    item: Item, options: Mapping[str, Option], *, path: str, what: str, faults: Faults, own: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The keyword arguments in a mapping; unknown, missing and ill-typed keys are noted as faults.

    what: the component's name, for messages. own: keys of the mapping that are not the component's.
    """
    takes = ", ".join(options) or "no options"
    given: dict[str, Any] = {}
    for key, child in item.value.items():
        if key in own:
            continue
        if key not in options:
            faults.add(child.place, f"{path}.{key}", f"unknown; {what} takes {takes}{near_miss(key, options)}")
            continue
        value = converted(child, options[key].annotation, f"{path}.{key}", faults)
        given[key] = value
    for option in options.values():
        if option.required and option.name not in given:
            wants = describe(option.annotation)
            faults.add(item.place, f"{path}.{option.name}", f"missing; {what} needs it ({wants}) and takes {takes}")
    return {key: value for key, value in given.items() if value is not BAD}


def converted(item: Item, annotation: Any, path: str, faults: Faults) -> Any:
    """The value as the annotation wants it, or BAD with a fault noted."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or annotation is object or isinstance(annotation, (str, typing.ForwardRef, typing.TypeVar)):
        return item.plain
    if origin is typing.Annotated:
        return converted(item, arguments[0], path, faults)
    if origin in (Union, types.UnionType):
        return _union(item, annotation, arguments, path, faults)
    if origin is Literal:
        return _literal(item, arguments, path, faults)
    if annotation in _SEQUENCES or origin in _SEQUENCES:
        return _sequence(item, annotation, path, faults)
    if annotation in _MAPPINGS or origin in _MAPPINGS:
        return _mapping(item, annotation, path, faults)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _nested(item, annotation, path, faults)
    return _scalar(item, annotation, path, faults)


def describe(annotation: Any) -> str:
    """A type in a user's words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    if annotation in names:
        return names[annotation]
    if annotation is None or annotation is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if annotation in _SEQUENCES or origin in _SEQUENCES:
        parts = [part for part in arguments if part is not Ellipsis]
        return "a list" + (f" of: {', '.join(describe(part) for part in parts)}" if parts else "")
    if annotation in _MAPPINGS or origin in _MAPPINGS or dataclasses.is_dataclass(annotation):
        return "a mapping"
    return getattr(annotation, "__name__", str(annotation))


def _wrong(item: Item, wanted: str, path: str, faults: Faults, hint: str = "") -> Any:
    faults.add(item.place, path, f"must be {wanted}, not {item.kind}{hint}")
    return BAD


def _scalar(item: Item, annotation: Any, path: str, faults: Faults) -> Any:
    value = item.value
    if annotation is None or annotation is type(None):
        return None if value is None else _wrong(item, "null", path, faults)
    if annotation is bool:
        hint = f"; write {item.text.lower()} without quotes" if item.text.lower() in ("true", "false") else ""
        return value if isinstance(value, bool) else _wrong(item, describe(bool), path, faults, hint)
    if annotation in (int, float):
        return _number(item, annotation, path, faults)
    if annotation in (str, Path):
        if isinstance(value, str):
            return annotation(value)
        hint = f"; for text write '{item.text}' in quotes" if item.text and value is not None else ""
        return _wrong(item, describe(annotation), path, faults, hint)
    faults.add(item.place, path, f"cannot be set in a task file: it is {describe(annotation)}")
    return BAD


def _number(item: Item, annotation: type, path: str, faults: Faults) -> Any:
    value = item.value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and (annotation is int or abs(value) < 2**1000):
        return annotation(value)
    if isinstance(value, float) and annotation is float:
        return value if not math.isnan(value) else _wrong(item, "a number", path, faults)
    hint = ""
    if isinstance(value, str) and not item.quoted and _EXPONENT.fullmatch(value):
        # YAML 1.1 takes a number with an exponent only with a dot and a sign.
        mantissa, _, exponent = value.lower().partition("e")
        mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
        exponent = exponent if exponent[0] in "+-" else f"+{exponent}"
        better = f"{mantissa}e{exponent}" if annotation is float else f"{float(value):.0f}"
        hint = f", as which YAML reads it; write {better}"
    elif isinstance(value, str) and item.quoted:
        hint = "; take the quotes away"
    elif isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        hint = f"; write {value:.0f}"
    return _wrong(item, describe(annotation), path, faults, hint)


def _union(item: Item, annotation: Any, parts: tuple[Any, ...], path: str, faults: Faults) -> Any:
    if item.value is None and type(None) in parts:
        return None
    real = [part for part in parts if part is not type(None)]
    # an exact match first, so that 3 stays a whole number under ``float | int``
    real.sort(key=lambda part: part is not type(item.value))
    for part in real:
        trial = Faults()
        value = converted(item, part, path, trial)
        if value is not BAD and not trial.found:
            return value
    if len(real) == 1:
        return converted(item, real[0], path, faults)
    holds = [part for part in real if _holds(part, item.value)]
    if len(holds) == 1:
        return converted(item, holds[0], path, faults)
    return _wrong(item, describe(annotation), path, faults)


def _holds(part: Any, value: Any) -> bool:
    """Whether the outermost shape fits: a list for a sequence, a mapping for a mapping."""
    origin = typing.get_origin(part) or part
    if isinstance(value, list):
        return origin in _SEQUENCES
    if isinstance(value, dict):
        return origin in _MAPPINGS or dataclasses.is_dataclass(origin)
    return isinstance(value, str) and origin is Literal


def _literal(item: Item, choices: tuple[Any, ...], path: str, faults: Faults) -> Any:
    for choice in choices:
        if type(choice) is type(item.value) and choice == item.value:
            return choice
    texts = [str(choice) for choice in choices]
    hint = near_miss(item.value, texts) if isinstance(item.value, str) else ""
    if item.text in texts and not isinstance(item.value, str):
        hint = f"; write '{item.text}' in quotes"
    return _wrong(item, "one of " + ", ".join(texts), path, faults, hint)


def _sequence(item: Item, annotation: Any, path: str, faults: Faults) -> Any:
    origin = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    if not isinstance(item.value, list):
        return _wrong(item, describe(annotation), path, faults)
    fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
    if fixed and len(arguments) != len(item.value):
        faults.add(item.place, path, f"must be a list of {len(arguments)}, not of {len(item.value)}")
        return BAD
    kinds = arguments if fixed else (arguments[:1] or (Any,)) * len(item.value)
    pairs = enumerate(zip(item.value, kinds, strict=True))
    values = [converted(child, kind, f"{path}.{i}", faults) for i, (child, kind) in pairs]
    if any(value is BAD for value in values):
        return BAD
    return values if origin is list else tuple(values)


def _mapping(item: Item, annotation: Any, path: str, faults: Faults) -> Any:
    if not isinstance(item.value, dict):
        return _wrong(item, "a mapping", path, faults)
    kind = (typing.get_args(annotation) or (str, Any))[1]
    values = {key: converted(child, kind, f"{path}.{key}", faults) for key, child in item.value.items()}
    return BAD if any(value is BAD for value in values.values()) else values


def _nested(item: Item, cls: type, path: str, faults: Faults) -> Any:
    if not isinstance(item.value, dict):
        return _wrong(item, "a mapping", path, faults)
    before = len(faults.found)
    given = read_options(item, options_of(cls), path=path, what=path.rpartition(".")[2], faults=faults)
    return BAD if len(faults.found) > before else built(cls, given, item, path, faults)


def built(cls: type, given: Mapping[str, Any], item: Item, path: str, faults: Faults) -> Any:
    """An instance of a component, or BAD where its own checks refuse; what they say becomes the fault."""
    try:
        return cls(**given)
    except Exception as error:  # a plugin's own check may raise anything; the user gets its words and the place
        said = " ".join(str(error).split()) or type(error).__name__
        known = isinstance(error, (ValueError, TypeError, EbmstructError))
        faults.add(item.place, path, said if known else f"{type(error).__name__}: {said}")
        return BAD
