"""The energy ``generative.denoiser``: which network it takes, and what it is given of a record."""

from __future__ import annotations

import pytest
import torch

import ebmstruct as es
from ebmstruct.energies.denoising_pictures import PictureNetwork
from ebmstruct.errors import GraphError
from ebmstruct_generative.denoiser import Denoiser
from ebmstruct_generative.records import RECORD, RecordSchema

PICTURES = RecordSchema((1, 8, 8), ("cat", "dog"), "animal")
VECTORS = RecordSchema((3,), ("cat", "dog"), "animal")


def test_the_network_follows_the_records() -> None:
    """Pictures get convolutions, vectors dense layers, unless the user says otherwise."""
    assert isinstance(Denoiser(PICTURES).denoiser.network, PictureNetwork)
    assert not isinstance(Denoiser(PICTURES, network="dense").denoiser.network, PictureNetwork)
    assert not isinstance(Denoiser(VECTORS).denoiser.network, PictureNetwork)
    with pytest.raises(GraphError, match="network convolutional is for pictures"):
        Denoiser(VECTORS, network="convolutional")


@pytest.mark.parametrize("schema", [PICTURES, VECTORS])
def test_classes_are_given_where_there_are_classes(schema: RecordSchema) -> None:
    """The class of a record changes its energy, unless the energy is not conditional; it may be left out."""
    rows = torch.randn(3, schema.dim, generator=torch.Generator().manual_seed(0))
    inputs = [{"animal": "cat"}, {"animal": "dog"}, {}]
    for conditional in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Denoiser(schema, conditional=conditional).eval()
        graph = model.graph(inputs)
        energy = graph.energy(schema.values(graph, rows[:1].expand(3, -1))).detach()
        assert (len({round(float(e), 5) for e in energy}) == 3) is conditional


def test_records_are_drawn() -> None:
    """A draw is a finite record for each input, of a model that is not trained."""
    graph = Denoiser(PICTURES, filters=4).eval().graph([{"animal": "dog"}, {}])
    solver = es.AnnealedLangevin(levels=4)
    drawn = es.sample(graph, solver, num_samples=1, generator=torch.Generator().manual_seed(0))
    rows = PICTURES.vectors(graph, es.Assignment({RECORD: drawn.values[RECORD][0]}))
    assert rows.shape == (2, 64)
    assert bool(torch.isfinite(rows).all())
