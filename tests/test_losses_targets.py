"""What every loss does with targets, graphs and options that do not fit: one sentence, or 0, never a number by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import ebmstruct as es
from ebmstruct.errors import GraphError, RunFolderError
from ebmstruct.extend.components import CORE, Components
from ebmstruct.learning import LossValue
from ebmstruct.testing import random_chain
from ebmstruct.testing.planted import PlantedNetwork, plant

NETWORKS = ("inference_network", "seal", "amortisation")
NAMES = [name for name in CORE["loss"] if name not in (*NETWORKS, "score_matching", "denoising")]
"""The losses that take chains of states as they are."""


def loss_named(name: str, **options: Any) -> es.Loss:
    """A loss of the core."""
    found: es.Loss = Components({}).resolve("loss", name)(**options)
    return found


def chain() -> es.FactorGraph:
    """Two chains, of three sites and of two."""
    return random_chain([3, 2], 3, torch.Generator().manual_seed(0))


BAD = {
    "state 3; legal are 0 to 2": {"y": torch.tensor([0, 3, 1, 0, 1])},
    "state -1; legal are 0 to 2": {"y": torch.tensor([0, -1, 1, 0, 1])},
    r"shape \(4,\); \(5,\) is needed": {"y": torch.tensor([0, 1, 1, 0])},
    "type torch.float32": {"y": torch.zeros(5)},
    "values for block 'z'": {"y": torch.zeros(5, dtype=torch.long), "z": torch.zeros(5)},
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_targets_that_do_not_fit(name: str, message: str) -> None:
    """A state that does not exist, a wrong length or type, an unknown block: the same sentence whatever the loss."""
    with pytest.raises(GraphError, match=message):
        loss_named(name)(chain(), es.Assignment(BAD[message]), examples=[0, 1])


def test_states_of_unknown_sites_mean_nothing() -> None:
    """-1 at a site that the target does not know is no fault."""
    values, known = torch.tensor([0, -1, 1, 0, 1]), torch.tensor([True, False, True, True, True])
    partly = es.Assignment({"y": values}, known={"y": known})
    plain = es.Assignment({"y": values.clamp(min=0)}, known={"y": known})
    for loss in (es.NegativeLogLikelihood(), es.StructuredHinge()):
        assert torch.equal(loss(chain(), partly).value, loss(chain(), plain).value)
    with pytest.raises(GraphError, match="mask of known sites"):
        es.NegativeLogLikelihood()(chain(), es.Assignment({"y": values}, known={"y": torch.tensor([True])}))


@pytest.mark.parametrize("name", NAMES)
def test_evidence_against_the_target(name: str) -> None:
    """A target that contradicts what the graph is conditioned on is told, not overwritten."""
    target = es.Assignment({"y": torch.tensor([0, 1, 1, 0, 1])})
    mask = torch.tensor([False, True, False, False, False])
    graph = chain().condition(es.Assignment({"y": torch.tensor([0, 2, 0, 0, 0])}, known={"y": mask}))
    with pytest.raises(GraphError, match="site 1 of block 'y' state 1, and the graph's evidence has 2"):
        loss_named(name)(graph, target, examples=[0, 1])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_open_is_nothing_to_lose(name: str) -> None:
    """Graphs without instances, without sites, or with every site clamped have loss 0; only energy is the energy."""
    target = es.Assignment({"y": torch.tensor([0, 1, 1, 0, 1])})
    clamped = chain().condition(target)
    wanted = chain().energy(target) if name == "energy" else torch.zeros(2, dtype=torch.float64)
    assert torch.allclose(loss_named(name)(clamped, target, examples=[0, 1]).value, wanted)
    for lengths in ([], [0], [0, 0]):
        block = es.Variables.of_lengths("y", es.Discrete(3), lengths)
        empty = es.FactorGraph([block], [es.TableFactor(("y",), "u", torch.zeros(0, 3, dtype=torch.float64))])
        nothing = es.Assignment({"y": torch.zeros(0, dtype=torch.long)})
        assert loss_named(name)(empty, nothing, examples=range(len(lengths))).value.tolist() == [0.0] * len(lengths)


@pytest.mark.parametrize("loss", [es.StructuredHinge(rescaling="slack"), loss_named("lvq2"), loss_named("log_loss")])
def test_energies_that_are_not_numbers(loss: es.Loss) -> None:
    """NaN in a table that the target does not touch makes the loss of that instance NaN, and of no other."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [2, 2])
    table = torch.zeros(4, 2, dtype=torch.float64)
    table[1, 1] = torch.nan
    target = es.Assignment({"y": torch.zeros(4, dtype=torch.long)})
    value = loss(es.FactorGraph([block], [es.TableFactor(("y",), "u", table)]), target).value
    assert value.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("negative_log_likelihood", {"temperature": 0.0}),
        ("pseudo_likelihood", {"temperature": -1.0}),
        ("softmax_margin", {"weight": -1.0}),
        ("structured_hinge", {"weight": float("inf")}),
        ("concave_convex", {"weight": -1.0}),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, float]) -> None:
    """Weights and temperatures that make no sense are refused when the loss is made."""
    with pytest.raises(ValueError, match=f"{name}: {next(iter(options))} must be"):
        loss_named(name, **options)


class Scalar(es.Loss):
    """A loss that breaks the contract."""

    name: ClassVar[str] = "scalar"
    margin: ClassVar[Any] = "none"

    def evaluate(self, graph: es.FactorGraph, target: es.Assignment, setting: Any) -> LossValue:
        """One number for the whole batch."""
        return LossValue(graph.energy(target).sum())


def test_a_loss_that_breaks_the_contract() -> None:
    """What must come back is said by name."""
    with pytest.raises(
        GraphError, match="scalar returned \\(\\); a LossValue with one value for each of the 2 instances"
    ):
        Scalar()(chain(), es.Assignment({"y": torch.zeros(5, dtype=torch.long)}))


def test_mixed_precision_keeps_the_guess() -> None:
    """A model joined to an inference network trains in bfloat16."""
    planted = plant("label_set", train=20, held_out=4)
    model = es.Amortised(planted.fresh(), PlantedNetwork(planted.truth, 8)).float()
    examples = [type(e)(e.x.float(), e.y, e.answer) for e in planted.train]
    options = es.TrainingOptions(epochs=1, precision="bfloat16")
    assert es.fit(model, planted, None, examples, es.InferenceNetwork(), options).epochs


def test_resuming_with_another_loss(tmp_path: Path) -> None:
    """A checkpoint goes on with the loss that it was begun with, options included."""
    planted, file = plant("chain", train=20, held_out=4), tmp_path / "checkpoint.safetensors"

    def train(loss: es.Loss, epochs: int, *, resume: bool) -> None:
        options = es.TrainingOptions(epochs=epochs, checkpoint_steps=1)
        es.fit(planted.fresh(), planted, None, planted.train, loss, options, checkpoint=file, resume=resume)

    train(es.StructuredHinge(), 2, resume=False)
    train(es.StructuredHinge(), 3, resume=True)
    with pytest.raises(RunFolderError, match="cannot resume, since loss"):
        train(es.StructuredHinge(weight=50.0), 4, resume=True)


@pytest.mark.parametrize(
    ("option", "value"), [("optimizer", "rmsprop"), ("schedule", "exp"), ("precision", "fp16"), ("epochs", 1.5)]
)
def test_training_options_in_python(option: str, value: Any) -> None:
    """Names that a task file would refuse are refused in Python too."""
    with pytest.raises(ValueError, match=f"{option} must be"):
        es.TrainingOptions(**{option: value})
