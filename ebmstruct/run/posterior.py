"""The posterior of the weights in a run: drawn after training, kept in the folder, averaged over, and reported."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmstruct import storage
from ebmstruct.extend.task import Chart, Example, Section, Table
from ebmstruct.run.calibration import Calibration, calibrated
from ebmstruct.run.evaluation import scored
from ebmstruct.run.folder import POSTERIOR, POSTERIOR_FACTS, RunFolder, parse_tensors
from ebmstruct.run.predictor import Predictor
from ebmstruct.run.spec import RunConfig

if TYPE_CHECKING:
    from ebmstruct.energies.model import EnergyModel
    from ebmstruct.learning.posterior import PosteriorOptions, WeightDraws

logger = logging.getLogger(__name__)

SHOWN = 40
"""Parameters told of in the report's table, those of the largest R-hat first."""


def averaged(model: EnergyModel, draws: WeightDraws, options: PosteriorOptions) -> EnergyModel:
    """The model whose answers are averaged over draws of its weights."""
    from ebmstruct.learning.posterior import AveragedModel

    return AveragedModel(model, draws, options.average)


def read_draws(folder: RunFolder, manifest: Mapping[str, Any]) -> WeightDraws:
    """The draws of a finished run, once their hashes have been found right."""
    facts = storage.parse_json(folder.checked(POSTERIOR_FACTS, manifest), folder.path / POSTERIOR_FACTS)
    return _draws(folder, folder.checked(POSTERIOR, manifest), facts)


def with_posterior(
    config: RunConfig,
    predictor: Predictor,
    train: Sequence[Example],
    folder: RunFolder,
    tell: Callable[[str, int, int], None],
) -> tuple[Predictor, WeightDraws | None]:
    """The predictor that averages over draws of the weights, which are in the folder then, and the draws.

    Draws that are there already, of a run that was stopped after they were written, are read. Without a section
    ``posterior`` the predictor is the one given.
    """
    from ebmstruct.learning.posterior import sample_posterior

    options = config.posterior
    if options is None:
        return predictor, None
    if (folder.path / POSTERIOR).is_file():
        facts = storage.read_json(folder.path / POSTERIOR_FACTS)
        draws = _draws(folder, storage.read_bytes(folder.path / POSTERIOR), facts)
    else:
        solver = None if config.solver is None else config.solver.least_energy()
        draws = sample_posterior(
            *(predictor.model, config.task, predictor.schema, train, config.loss, options),
            solver=solver,
            on_progress=tell,
        )
        folder.write_draws(draws.tensors(), draws.facts)
    return dataclasses.replace(predictor, model=averaged(predictor.model, draws, options)), draws


def _draws(folder: RunFolder, data: bytes, facts: Mapping[str, Any]) -> WeightDraws:
    from ebmstruct.learning.posterior import WeightDraws

    tensors = parse_tensors(data, folder.path / POSTERIOR)
    return WeightDraws.from_tensors(tensors, int(facts.get("chains", 1)), facts)


def trained(predictor: Predictor) -> Predictor:
    """The predictor with the trained weights alone."""
    from ebmstruct.learning.posterior import AveragedModel

    model = predictor.model
    return dataclasses.replace(predictor, model=model.model) if isinstance(model, AveragedModel) else predictor


def compared(predictor: Predictor, examples: Sequence[Example]) -> dict[str, Any]:
    """How right the averaged probabilities are, and those of the trained weights alone, as JSON values."""
    single = trained(predictor)
    found: dict[str, Any] = {}
    for name, each in (("averaged", predictor), ("trained_weights", single)):
        measured = calibrated(each, examples)
        if measured is not None:
            found[name] = measured.as_json()
    outputs = [answer.output for answer in single([example.x for example in examples])]
    metric = predictor.task.metric
    found.setdefault("trained_weights", {})[metric] = scored(single, examples, outputs)[metric]
    return found


def sections(draws: WeightDraws, splits: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """What the report says: calibration of every split, whether the chains agree, and how wide the posterior is."""
    out: list[Section] = []
    for split, metrics in splits.items():
        out += _calibration(split, metrics["posterior"])
    return [*out, _facts(draws), _parameters(draws), _spreads(draws)]


def _calibration(split: str, found: Mapping[str, Any]) -> list[Section]:
    names = {"averaged": "averaged over the posterior", "trained_weights": "trained weights alone"}
    known = {k: Calibration(**{f.name: found[k][f.name] for f in dataclasses.fields(Calibration)})
             for k in names if "log_loss" in found.get(k, {})}  # fmt: skip
    if not known:
        return []
    rows = [
        [names[k], *(f"{v:.4f}" for v in (c.log_loss, c.brier, c.error, c.accuracy, c.confidence)), c.sites]
        for k, c in known.items()
    ]
    note = (
        "Over all sites whose correct state is known. Less is better for the first three; they are reported as they are, "
        "whichever is better."
    )
    columns = ["probabilities", "log loss", "Brier score", "calibration error", "accuracy", "confidence", "sites"]
    table = Table(f"Calibration on {split}", columns, rows, note)
    if not any(c.bins for c in known.values()):
        return [table]
    return [table, _reliability(split, {names[k]: c for k, c in known.items()})]


def _reliability(split: str, known: Mapping[str, Calibration]) -> Chart:
    """How often the likeliest state is right, by how sure it is."""
    lows = sorted({b["low"] for c in known.values() for b in c.bins})
    series = {}
    for name, c in known.items():
        by = {b["low"]: b["accuracy"] for b in c.bins}
        series[name] = [by.get(low, float("nan")) for low in lows]
    series["right in the mean"] = [low + 0.05 for low in lows]
    return Chart(
        f"Reliability on {split}",
        series,
        x=[f"{low:.1f}-{low + 0.1:.1f}" for low in lows],
        x_label="probability of the likeliest state",
        y_label="share that is right",
        kind="bar",
        note="Probabilities are right where a bar is as high as the last of its group; below, they are too sure.",
    )


def _facts(draws: WeightDraws) -> Table:
    names = {
        "sampler": "sampler",
        "draws": "draws",
        "chains": "chains",
        "weights": "weights sampled",
        "step_size": "step size",
        "burn_in": "burn-in, steps",
        "thinning": "steps a draw",
        "acceptance": "acceptance",
        "divergences": "divergences",
        "largest_r_hat": "largest R-hat",
        "least_effective_draws": "least effective draws",
        "passes": "gradients, in passes over the training data",
        "cpu_seconds": "CPU seconds",
    }
    rows = [[said, _told(draws.facts[key])] for key, said in names.items() if draws.facts.get(key) is not None]
    warnings = draws.facts.get("warnings", ())
    note = (
        " ".join(f"Warning: {sentence}." for sentence in warnings) or "The chains agree as far as the draws can tell."
    )
    return Table("How the weights were drawn", ["", ""], rows, note)


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parameters(draws: WeightDraws) -> Table:
    """A row a parameter: what its numbers are, and whether the chains agree about them."""
    found = draws.diagnose()
    columns = [draws.layout.parts(v) for v in (draws.mean, draws.spread, found.r_hat, found.ess_bulk)]
    rows = []
    for name, shape in zip(draws.layout.names, draws.layout.shapes, strict=True):
        mean, spread, r_hat, ess = (column[name] for column in columns)
        worst = r_hat.nan_to_num(nan=0.0).max()
        rows.append(
            (float(worst), [name, "x".join(map(str, shape)) or "1", f"{float(mean.square().mean().sqrt()):.4g}",
             f"{float(spread.median()):.4g}", f"{float(worst):.4g}", f"{float(ess.nan_to_num(nan=0.0).min()):.0f}"])
        )  # fmt: skip
    rows.sort(key=lambda row: -row[0])
    note = "Rows of the largest R-hat first. 1 is agreement of the chains; what chance gives grows where draws are few."
    heads = ["parameter", "shape", "size of the means", "median spread", "largest R-hat", "least effective draws"]
    return Table("Parameters", heads, [row for _, row in rows[:SHOWN]], note)


def _spreads(draws: WeightDraws) -> Chart:
    spread = draws.spread
    step = max(1, len(spread) // 10_000)
    return Chart(
        "How wide the posterior is",
        {"weights": spread[::step].tolist()},
        x_label="standard deviation of a weight over the draws",
        y_label="weights",
        kind="histogram",
        note="A weight as wide as its prior is one of which the data say nothing.",
    )
