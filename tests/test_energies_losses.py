"""Every loss on every reusable energy: a finite value with finite gradients, or a refusal in a sentence."""

from __future__ import annotations

import importlib
import logging

import pytest
import torch
from test_energies import KINDS, model_of, values_of

import ebmstruct as es
from ebmstruct.errors import LossRefusal, SolverRefusal
from ebmstruct.extend.components import CORE

LATENT = ("h", "z")
"""Blocks that no target knows."""
SURE = {
    "chain": ("negative_log_likelihood", "perceptron", "pseudo_likelihood"),
    "tree": ("negative_log_likelihood", "structured_hinge"),
    "labels": ("perceptron", "contrastive_divergence"),
    "boltzmann": ("negative_log_likelihood", "persistent_contrastive_divergence"),
    "gaussian boltzmann": ("negative_log_likelihood", "contrastive_divergence"),
    "convolution": ("score_matching", "contrastive_divergence"),
    "mixture": ("negative_log_likelihood",),
    "graph network": ("negative_log_likelihood", "pseudo_likelihood"),
}
"""What must not be refused."""


@pytest.mark.slow
@pytest.mark.parametrize("loss", CORE["loss"])
@pytest.mark.parametrize("name", KINDS)
def test_loss_on_energy(name: str, loss: str, caplog: pytest.LogCaptureFixture) -> None:
    """The value is finite and some parameter has a gradient, all of it finite; or the refusal says why."""
    caplog.set_level(logging.ERROR)
    home, _, cls = CORE["loss"][loss].partition(":")
    objective = getattr(importlib.import_module(home), cls)()
    model, xs = model_of(KINDS[name]).train(), KINDS[name].xs()
    graph = model.graph(xs)
    target = es.Assignment({k: v for k, v in values_of(graph).items() if k not in LATENT})
    try:
        found = objective(graph, target, generator=torch.Generator().manual_seed(0), examples=range(len(xs)))
        found.value.sum().backward()
    except (LossRefusal, SolverRefusal) as refusal:
        assert len(str(refusal)) > 30 and loss not in SURE.get(name, ())
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert bool(found.value.isfinite().all()) and all(bool(g.isfinite().all()) for g in gradients)
    assert gradients
