"""Denoising energies of pictures: shapes, slopes, and two pictures learned by heart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.energies.denoising_pictures import PictureNetwork
from ebmstruct.errors import GraphError


def model(shape: tuple[int, int, int], *, dropout: float = 0.0, classes: int = 0) -> es.DenoisingEnergy:
    """A small energy, the same each time, whose last layers are not 0."""
    dim = shape[0] * shape[1] * shape[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return es.DenoisingEnergy(
            dim, shape=shape, filters=4, depth=2, lowest=0.05, highest=3.0, dropout=dropout, classes=classes
        )


def clean(graph: es.FactorGraph, rows: Tensor) -> es.Assignment:
    """Pictures as values."""
    assert graph.evidence is not None
    return es.Assignment({"x": rows.reshape(-1, 1), "noise": graph.evidence.values["noise"]})


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 13), (1, 2, 3), (2, 17, 5), (1, 1, 1)])
def test_pictures_of_every_size_go_through(shape: tuple[int, int, int]) -> None:
    """The network's answer has the shape of its input, also where halves are no whole numbers."""
    dim = shape[0] * shape[1] * shape[2]
    answer = PictureNetwork(shape, told=6, filters=3)(torch.randn(2, dim), torch.randn(2, 6))
    assert answer.shape == (2, dim)
    assert bool(torch.isfinite(answer).all())


def test_slopes_against_finite_differences() -> None:
    """The slope of the energy of pictures, in double precision, is that of its values."""
    graph = model((1, 5, 5)).double().graph([None])
    x = torch.randn(25, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda v: graph.energy({"x": v}), (x.requires_grad_(),), eps=1e-6, atol=1e-6)


def test_instances_do_not_see_each_other() -> None:
    """The energies of a batch are those of its pictures alone."""
    own = model((1, 8, 8), classes=3).eval()
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    inputs = [0, None, 2, 1]
    together = own.graph(inputs).energy({"x": x.reshape(-1, 1)})
    alone = torch.cat([own.graph([c]).energy({"x": row[:, None]}) for c, row in zip(inputs, x, strict=True)])
    assert torch.allclose(together, alone, rtol=1e-5)


def test_two_pictures_learned_by_heart() -> None:
    """Of two pictures in black and white, draws have the signs of one of them, of their class where it is given."""
    both = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)).sign()
    own = model((1, 4, 4), classes=2)
    optimizer = torch.optim.Adam(own.parameters(), lr=1e-2)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 200)
    noise = torch.Generator().manual_seed(2)
    classes = [0, 1] * 24
    rows = both[torch.tensor(classes)]
    loss = es.DenoisingScoreMatching()
    for step in range(200):
        optimizer.zero_grad()
        graph = own.graph([c if (i // 2 + step) % 2 else None for i, c in enumerate(classes)])
        loss(graph, clean(graph, rows), generator=noise).value.mean().backward()
        optimizer.step()
        slower.step()
    own.eval()
    told = es.sample(own.graph(classes), es.AnnealedLangevin(levels=20), num_samples=1, generator=noise)
    drawn = told.values["x"][0].reshape(-1, 16)
    assert float((drawn.sign() == rows).all(1).float().mean()) > 0.9
    free = es.sample(own.graph([None] * 100), es.AnnealedLangevin(levels=20), num_samples=1, generator=noise)
    same = (free.values["x"][0].reshape(-1, 1, 16).sign() == both).all(2)
    assert float(same.any(1).float().mean()) > 0.9
    assert 0.2 < float(same[:, 0].float().mean()) < 0.8


def test_what_is_no_picture_is_refused() -> None:
    """Shapes that do not fit the vector, and shapes that are no pictures."""
    with pytest.raises(GraphError, match=r"a picture of shape \(1, 8, 8\) has 64 numbers; found dim 63"):
        es.DenoisingEnergy(63, shape=(1, 8, 8))
    with pytest.raises(GraphError, match=r"pictures have a shape \(channels, height, width\)"):
        es.DenoisingEnergy(64, shape=(64,))
