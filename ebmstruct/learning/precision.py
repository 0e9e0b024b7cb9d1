"""Devices by name, and the precision in which a model computes its energies while it is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ebmstruct.energies import EnergyModel
from ebmstruct.errors import ConfigError
from ebmstruct.graph import Factor, FactorGraph
from ebmstruct.learning.options import PrecisionName

log = logging.getLogger(__name__)


def resolve_device(name: str, place: str = "train.device") -> torch.device:
    """The device of that name; ConfigError, naming those there are, where this machine has none such.

    place: what the message calls the setting.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # what torch raises differs from device to device
        there = ["cpu"]
        there += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise ConfigError([f"{place}: {name!r} was asked for; this machine has {', '.join(there)}"]) from None
    return device


@dataclass(frozen=True)
class Weights:
    """The types that a model's weights had, to go back to."""

    types: Mapping[str, torch.dtype]

    @classmethod
    def doubled(cls, model: nn.Module) -> Weights:
        """Put a model's weights in float64 and remember what they were."""
        types = {name: tensor.dtype for name, tensor in _floating(model)}
        model.double()
        return cls(types)

    def put_back(self, model: nn.Module) -> None:
        """Round the weights to the types they had."""
        for name, tensor in _floating(model):
            tensor.data = tensor.data.to(self.types[name])


def _floating(model: nn.Module) -> list[tuple[str, Tensor]]:
    both = [*model.named_parameters(), *model.named_buffers()]
    return [(name, tensor) for name, tensor in both if tensor.is_floating_point()]


class Forward:
    """A model's forward pass in the precision asked for: ``float32`` and ``float64`` as the model's weights are.

    ``bfloat16``: under torch.autocast, so that products of matrices and convolutions are computed in it; weights,
    their sums of gradients, and every energy that a factor holds stay in float32, and solvers sum in float64 as ever. It
    halves the memory of activations, and it is faster where the processor has instructions for it (GPUs, AMX). The first
    batch shows whether any operation takes it; if none does, the log says so.
    Errors: ConfigError where the model mixes types that torch does not.
    """

    def __init__(self, model: EnergyModel, precision: PrecisionName, device: torch.device) -> None:
        self.model, self.precision, self.device = model, precision, device
        self._looked = False

    def __call__(self, inputs: Any) -> FactorGraph:
        """The factor graph of a batch of prepared inputs."""
        if self.precision == "float32":
            graph: FactorGraph = self.model(inputs)
            return graph
        try:
            return self.model(inputs) if self.precision == "float64" else self._mixed(inputs)
        except RuntimeError as fault:
            if "dtype" not in str(fault) and "type" not in str(fault):
                raise
            said = " ".join(str(fault).split())
            raise ConfigError(
                [f"train.precision: this energy does not compute in {self.precision} ({said}); use float32"]
            ) from fault

    def _mixed(self, inputs: Any) -> FactorGraph:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            if self._looked:
                graph = self.model(inputs)
            else:
                with _Watch() as watch:
                    graph = self.model(inputs)
                self._looked = True
                if not watch.found:
                    log.warning(
                        "train.precision: bfloat16 changes nothing here: no operation of the energy's forward pass takes it"
                    )
        factors = [_widened(factor) for factor in graph.factors]
        return FactorGraph(
            (), factors, constant=graph.constant, evidence=graph.evidence, topology=graph.topology, guess=graph.guess
        )


class _Watch(TorchDispatchMode):
    """Sees whether any operation gives bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.found = self.found or (isinstance(out, Tensor) and out.dtype == torch.bfloat16)
        return out


def _widened(factor: Factor) -> Factor:
    """The factor with values of bfloat16 in float32."""
    changed = {name: _wide(getattr(factor, name)) for name in factor.value_fields}
    same = all(changed[name] is getattr(factor, name) for name in changed)
    return factor if same else replace(factor, **changed)  # type: ignore[type-var]


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, tuple):
        wide = tuple(_wide(v) for v in value)
        return value if all(a is b for a, b in zip(wide, value, strict=True)) else wide
    return value
