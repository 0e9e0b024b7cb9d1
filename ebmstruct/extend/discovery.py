"""Finding plugins: names from package metadata, one plugin imported at a time, its faults caught."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from ebmstruct.errors import EbmstructError, PluginError
from ebmstruct.extend import hookspecs

ALLOW = "EBMSTRUCT_PLUGINS_ALLOW"
BLOCK = "EBMSTRUCT_PLUGINS_BLOCK"
KINDS = {
    "task": "ebmstruct_tasks",
    "energy": "ebmstruct_energies",
    "solver": "ebmstruct_solvers",
    "loss": "ebmstruct_losses",
}
"""Kind of component to the hook that offers it."""


@dataclass(frozen=True)
class Candidate:
    """A plugin as package metadata tells of it; nothing of it has been imported.

    fault: why its prefix cannot be used at all, or None.
    """

    prefix: str
    distribution: str
    version: str
    entry_point: metadata.EntryPoint
    fault: str | None = None


@dataclass(frozen=True)
class Plugin:
    """A plugin that has been imported.

    offers: kind (``task``, ``energy``, ``solver``, ``loss``) to name (without prefix) to a class, or to
    ``"module:Class"``.
    """

    prefix: str
    distribution: str
    version: str
    offers: Mapping[str, Mapping[str, type | str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """One line of ``ebmstruct plugins``: what a plugin offers, or the fault that keeps it from it."""

    prefix: str
    distribution: str
    version: str
    offers: Mapping[str, tuple[str, ...]]
    fault: str | None = None


def candidates(environ: Mapping[str, str] | None = None) -> dict[str, list[Candidate]]:
    """Every plugin that is installed and neither blocked nor left out of the allow-list, by prefix.

    Two distributions with one prefix stay two entries. Cost: one walk through the installed metadata.
    """
    environ = os.environ if environ is None else environ
    allow, block = _names(environ.get(ALLOW, "")), _names(environ.get(BLOCK, ""))
    found: dict[str, list[Candidate]] = {}
    for point in metadata.entry_points(group=hookspecs.GROUP):
        dist = point.dist.name if point.dist is not None else "an unknown distribution"
        version = point.dist.version if point.dist is not None else "?"
        marks = {_norm(point.name), _norm(dist)}
        if marks & block or (allow and not marks & allow):
            continue
        legal = re.fullmatch(r"[a-z][a-z0-9_]*", point.name)
        fault = None if legal else f"its prefix {point.name!r} is not a lower-case word"
        candidate = Candidate(point.name, dist, version, point, fault)
        if candidate not in found.setdefault(point.name, []):
            found[point.name].append(candidate)
    return dict(sorted(found.items()))


def load(prefix: str, found: Mapping[str, list[Candidate]]) -> Plugin:
    """Import the one plugin with this prefix and ask it what it offers.

    PluginError where there is none, where two distributions claim the prefix, or where the plugin is broken.
    """
    if prefix not in found:
        have = ", ".join(found) or "none"
        raise PluginError(
            f"no plugin with the prefix {prefix!r} is installed and allowed (there: {have}); install the package "
            f"that offers it, or look at {ALLOW} and {BLOCK}"
        )
    rivals = found[prefix]
    if len(rivals) > 1:
        names = " and ".join(sorted(f"{c.distribution} {c.version}" for c in rivals))
        raise PluginError(
            f"two distributions claim the plugin prefix {prefix!r}: {names}; uninstall one of them, or set "
            f"{BLOCK} to the name of the one that is not wanted"
        )
    candidate = rivals[0]
    if candidate.fault:
        raise PluginError(f"plugin {candidate.distribution}: {candidate.fault}")
    return Plugin(prefix, candidate.distribution, candidate.version, _offers(candidate, _import(candidate)))


def listing(found: Mapping[str, list[Candidate]]) -> list[Listing]:
    """What each plugin offers; a broken one is listed with its fault and stops no other."""
    lines = []
    for prefix, rivals in found.items():
        try:
            plugin, fault = load(prefix, found), None
        except PluginError as error:
            plugin, fault = None, str(error)
        offers = {kind: tuple(sorted(names)) for kind, names in plugin.offers.items()} if plugin else {}
        lines += [Listing(prefix, c.distribution, c.version, offers, fault) for c in rivals]
    return lines


def missing_dependency(error: ModuleNotFoundError, distribution: str = "", prefix: str = "") -> PluginError:
    """The sentence for an optional package that is not installed: it names the extra that brings it.

    distribution, prefix: the plugin that needs it; without them the extra is looked for in all that are installed.
    """
    missing = (error.name or "").partition(".")[0] or "a package"
    needs = f"plugin {prefix} of {distribution}" if prefix else "this command"
    found = [candidate for rivals in candidates().values() for candidate in rivals] if not distribution else []
    way_out = f"install {missing}"
    for owner in [distribution] if distribution else ["ebmstruct", *(c.distribution for c in found)]:
        extra = _extra_with(missing, owner, prefix)
        if extra:
            way_out = f"pip install '{owner}[{extra}]'"
            break
    return PluginError(f"{needs} needs the package {missing}, which is not installed; do: {way_out}")


def _import(candidate: Candidate) -> Any:
    what = f"plugin {candidate.prefix} of {candidate.distribution} {candidate.version}"
    try:
        return candidate.entry_point.load()
    except ModuleNotFoundError as error:
        own = candidate.entry_point.module.partition(".")[0]
        if (error.name or "").partition(".")[0] != own:
            raise missing_dependency(error, candidate.distribution, candidate.prefix) from error
        raise PluginError(
            f"{what} points at {candidate.entry_point.value}, which does not exist ({error}); reinstall it"
        ) from error
    except (Exception, SystemExit) as error:  # somebody else's code: any fault is theirs, and must not be ours
        raise PluginError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error


def _offers(candidate: Candidate, module: Any) -> dict[str, dict[str, type | str]]:
    what = f"plugin {candidate.prefix} of {candidate.distribution} {candidate.version}"
    _check_marks(what, module)
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, name=candidate.prefix)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        legal = ", ".join(KINDS.values())
        raise PluginError(f"{what} has a hook that does not exist or does not fit: {error}; hooks: {legal}") from error
    offers = {}
    for kind, hook in KINDS.items():
        try:
            answers = getattr(manager.hook, hook)()
        except EbmstructError:
            raise
        except Exception as error:
            raise PluginError(f"{what}: its hook {hook} failed: {type(error).__name__}: {error}") from error
        names = _by_name(f"{what}: its hook {hook}", candidate.prefix, answers[0]) if answers else {}
        if names:
            offers[kind] = names
    return offers


def _check_marks(what: str, module: Any) -> None:
    """A function named like a hook but without the mark would be passed over in silence."""
    for name, value in vars(module).items() if hasattr(module, "__dict__") else ():
        if name.startswith("ebmstruct_") and callable(value) and not hasattr(value, f"{hookspecs.GROUP}_impl"):
            raise PluginError(f"{what}: {name} looks like a hook but lacks @hookimpl (from ebmstruct.extend)")


def _by_name(what: str, prefix: str, answer: Any) -> dict[str, type | str]:
    if isinstance(answer, Mapping):
        pairs = list(answer.items())
    elif isinstance(answer, (list, tuple)):
        pairs = [(getattr(entry, "name", None), entry) for entry in answer]
    else:
        raise PluginError(f"{what} must return a mapping of names to classes or a list, not {type(answer).__name__}")
    names: dict[str, type | str] = {}
    for name, entry in pairs:
        if not isinstance(name, str):
            raise PluginError(f"{what} lists {entry!r} without a name; give a mapping, or a class attribute ``name``")
        head, dot, tail = name.rpartition(".")
        if (dot and head != prefix) or not re.fullmatch(r"[a-z][a-z0-9_]*", tail):
            raise PluginError(f"{what} offers {name!r}: names are lower-case words, with {prefix!r} as only prefix")
        if tail in names:
            raise PluginError(f"{what} offers the name {name!r} twice")
        if not isinstance(entry, (type, str)) or (isinstance(entry, str) and entry.count(":") != 1):
            raise PluginError(f"{what} offers {name!r} as {entry!r}; legal: a class, or text 'module:Class'")
        names[tail] = entry
    return names


def _extra_with(module: str, distribution: str, prefix: str) -> str | None:
    """The extra of a distribution that is named like the plugin, or else that requires the module."""
    try:
        found = metadata.metadata(distribution)
        requirements = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    extras = found.get_all("Provides-Extra") or []
    if prefix in extras:
        return prefix
    for line in requirements:
        match = re.match(r"\s*([A-Za-z0-9._-]+).*;.*extra\s*==\s*['\"]([^'\"]+)", line)
        if match and _norm(match[1]) == _norm(module):
            return match[2]
    return None


def _names(text: str) -> frozenset[str]:
    return frozenset(_norm(word) for word in re.split(r"[,;\s]+", text) if word)


def _norm(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
