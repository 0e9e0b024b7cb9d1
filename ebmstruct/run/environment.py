"""What a run stood on: versions, machine, threads."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import ebmstruct
from ebmstruct.extend import discovery
from ebmstruct.run.spec import RunConfig

_PACKAGES = ("torch", "numba", "numpy", "scipy", "safetensors", "pluggy")


def environment(config: RunConfig) -> dict[str, Any]:
    """Versions of everything that can change a result, and the machine in general terms (no names of it)."""
    import torch

    names = [config.task_name, *(term.name for term in config.energies)]
    prefixes = dict.fromkeys(name.rpartition(".")[0] for name in names if "." in name)
    found = discovery.candidates()
    plugins = {p: next(f"{c.distribution} {c.version}" for c in found[p]) for p in prefixes if p in found}
    return {
        "ebmstruct": ebmstruct.__version__,
        "plugins": plugins,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": getattr(config.train, "device", "cpu"),
        "seed": getattr(config.train, "seed", None),
    }


def version(distribution: str) -> str:
    """The installed version of a distribution, or where it is missing, a word that says so."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
