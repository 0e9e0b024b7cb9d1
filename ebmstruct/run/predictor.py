"""A trained model ready to answer: one call from inputs to outputs, inside a deadline, from any thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ebmstruct.errors import DataError, PluginError
from ebmstruct.extend.task import Inference, Schema, Task
from ebmstruct.run.spec import BudgetOptions

if TYPE_CHECKING:
    from ebmstruct.energies.model import EnergyModel
    from ebmstruct.inference import Budget, Solver


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one input.

    output: what the task decodes, a JSON value.  energy: of the output; low is good.  lower_bound: no output has
    less; -inf where nothing is known.  gap: how far the energy may lie above the least.  status: name of a Status.
    draws: how many draws of the weights it is averaged over; None for a run without a posterior.
    """

    x: Any
    output: Any
    energy: float
    lower_bound: float
    gap: float
    status: str
    draws: int | None = None


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts with a trained energy model.

    It keeps no state between calls, so threads may share it. The model is switched to evaluation mode once, here.

    solver: the engine chooses where there is none.  budget: what a call may cost that names no deadline itself.
    batch_size: inputs that share a graph.
    """

    task: Task
    schema: Schema
    model: EnergyModel
    solver: Solver | None = None
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    batch_size: int = 64

    def __post_init__(self) -> None:
        self.model.eval()

    @overload
    def __call__(self, x: list[Any], *, deadline_s: float | None = ..., detail: bool = ...) -> list[Prediction]: ...

    @overload
    def __call__(self, x: Any, *, deadline_s: float | None = ..., detail: bool = ...) -> Any: ...

    def __call__(self, x: Any, *, deadline_s: float | None = None, detail: bool = True) -> Any:
        """The Prediction for one input, or a list of them for a list: a plain list always means several inputs.

        deadline_s: seconds from now until the answer must be there; building the graph counts.
        detail: let the task add what costs more, such as confidences.
        """
        budget = self._open(deadline_s)
        if isinstance(x, list):
            return list(self._predict(x, budget, detail))
        return next(self._predict([x], budget, detail))

    def predict_text(self, raw: str, *, deadline_s: float | None = None, detail: bool = True) -> list[Prediction]:
        """Predictions for every input that the task reads in a piece of raw text."""
        budget = self._open(deadline_s)
        return list(self._predict(self.task.read(raw), budget, detail))

    def warm(self, x: Any = None) -> None:
        """Predict once and throw it away, so that kernels are compiled before the first answer is due.

        x: an input, the longer the better; without it the task must find one in a short text.
        """
        inputs = [x]
        if x is None:
            try:
                inputs = self.task.read("warm")
            except (DataError, PluginError):
                inputs = []
        if not inputs:
            raise PluginError(f"task {self.task.name} reads no input in the text 'warm'; give warm() an example input")
        for detail in (False, True):
            list(self._predict(inputs[:1], self._open(None), detail))

    def infer(
        self, xs: Sequence[Any], inputs: Any, budget: Budget | None = None, detail: bool = False
    ) -> tuple[Any, Inference]:
        """The factor graph of inputs that are prepared, and the answers for it; what inputs themselves fix is kept."""
        import torch

        with torch.no_grad():
            graph, facts = self.model.conditioned(
                inputs, lambda graph: self.task.evidence(xs, graph, self.schema), budget
            )
            found = self.task.infer(graph, self.schema, solver=self.solver, budget=budget, detail=detail)
        if len(found.outputs) != len(inputs):
            raise PluginError(
                f"task {self.task.name} decoded {len(found.outputs)} outputs for {len(inputs)} inputs, not one each"
            )
        if facts:
            found = replace(found, result=replace(found.result, stats={**found.result.stats, **facts}))
        return graph, found

    def _open(self, deadline_s: float | None) -> Budget:
        """The budget of a call; opened first of all, because everything that follows counts."""
        from ebmstruct.inference import Budget

        return Budget.after(self.budget.deadline_s if deadline_s is None else deadline_s, self.budget.max_steps)

    def _predict(self, xs: list[Any], budget: Budget, detail: bool) -> Iterator[Prediction]:
        from ebmstruct.inference import Status

        for start in range(0, len(xs), self.batch_size):
            part = xs[start : start + self.batch_size]
            _, found = self.infer(part, self.model.prepare(part), budget, detail)
            result = found.result
            numbers = zip(result.energy.tolist(), result.lower_bound.tolist(), result.gap.tolist(), strict=True)
            for x, output, (energy, bound, gap), status in zip(
                part, found.outputs, numbers, result.status.tolist(), strict=True
            ):
                yield Prediction(x, output, energy, bound, gap, Status(status).name, result.stats.get("draws"))


def load(path: Path | str, *, device: str = "cpu") -> Predictor:
    """The predictor of a finished run, every file of it checked against its hash.

    RunFolderError where the folder is no finished run, or is damaged. Nothing in it is executed.
    """
    from ebmstruct.learning.precision import resolve_device
    from ebmstruct.run.config import parse_config
    from ebmstruct.run.folder import CONFIG, POSTERIOR, RunFolder
    from ebmstruct.run.models import build_model
    from ebmstruct.run.posterior import averaged, read_draws

    folder = RunFolder(path)
    manifest = folder.manifest()
    text = folder.checked(CONFIG, manifest).decode("utf-8", errors="replace")
    config = parse_config(text, CONFIG)
    resolve_device(device, "device")
    schema = folder.read_schema(config.task, manifest)
    model = build_model(config.energies, schema, seed=0)
    folder.load_weights(model, manifest)
    model = model.to(device)
    if config.posterior is not None and POSTERIOR in manifest["files"]:
        model = averaged(model, read_draws(folder, manifest), config.posterior)
    evaluation = config.evaluation
    return Predictor(config.task, schema, model, config.solver, evaluation.budget, batch_size=evaluation.batch_size)
