"""The one door to scikit-learn of the measures: forests, folds and nearest neighbours."""

from __future__ import annotations

import importlib
from typing import Any

from ebmstruct.errors import PluginError


def learner(module: str, name: str) -> Any:
    """A class or function of scikit-learn. Errors: PluginError, with the way out, where it is not installed."""
    try:
        return getattr(importlib.import_module(f"sklearn.{module}"), name)
    except ModuleNotFoundError as fault:
        if (fault.name or "").partition(".")[0] != "sklearn":
            raise
        raise PluginError(
            "measuring how good generated records are needs scikit-learn, which is not installed; it comes with the "
            "extra `generative`: pip install 'ebmstruct[generative]'"
        ) from None
