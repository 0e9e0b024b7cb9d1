"""A run from beginning to end: read, train, evaluate, write down, report."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmstruct import storage
from ebmstruct.errors import DataError, RunFolderError
from ebmstruct.extend.generative import Generative
from ebmstruct.extend.task import Evaluation, Example, Schema, Section, Table
from ebmstruct.run import folder as files
from ebmstruct.run import posterior, report
from ebmstruct.run.composition import take_weights, taken_schema
from ebmstruct.run.config import dumped, parse_config
from ebmstruct.run.drawing import Strip
from ebmstruct.run.environment import environment
from ebmstruct.run.evaluation import dev_scorer, evaluate, prediction_lines, tuned
from ebmstruct.run.folder import RunFolder
from ebmstruct.run.logs import RunLog
from ebmstruct.run.models import build_model
from ebmstruct.run.posterior import with_posterior
from ebmstruct.run.predictor import Predictor
from ebmstruct.run.preflight import check_loss, check_sampler
from ebmstruct.run.spec import RunConfig

if TYPE_CHECKING:
    from ebmstruct.energies.model import EnergyModel
    from ebmstruct.learning.posterior import WeightDraws
    from ebmstruct.learning.training import TrainingEvent, TrainingTrace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands. stage: in words.  done, total: of that stage.  event: of the training loop, while it runs."""

    stage: str
    done: int = 0
    total: int = 0
    event: TrainingEvent | None = None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class RunSummary:
    """What a finished run left: its folder, the metrics as in metrics.json, and the report."""

    folder: Path
    metrics: Mapping[str, Any]
    epochs: int
    seconds: float
    report: Path


@dataclass(frozen=True)
class _Data:
    """The examples of every split that the run touches."""

    splits: Mapping[str, Sequence[Example]]
    provenance: Mapping[str, Any] = field(default_factory=dict)


class RunInterrupted(KeyboardInterrupt):
    """The user stopped a run; the message says how to go on."""


def run(
    config: RunConfig, *, resume: bool = False, force: bool = False, on_progress: OnProgress | None = None
) -> RunSummary:
    """Train and evaluate what a task file asks for, and write the run folder.

    resume: go on after the last checkpoint of an unfinished run. force: replace the run that is there.
    Errors: any EbmstructError; until the data have been read and the model has been built nothing is written.
    """
    from ebmstruct.learning.precision import resolve_device
    from ebmstruct.learning.tensorboard import require_tensorboard

    started = time.perf_counter()
    tell = on_progress or (lambda progress: None)
    folder = RunFolder(config.output)
    resolve_device(getattr(config.train, "device", "cpu"), config.place("train.device"))
    if getattr(config.train, "tensorboard", False):
        require_tensorboard()
    folder.claim(resume=resume, force=force)
    with RunLog() as log:
        tell(Progress("reading data"))
        data = _read(config)
        schema = _resumed_schema(folder, config, data) if resume else _fitted_schema(config, data.splits["train"])
        model = build_model(config.energies, schema, seed=getattr(config.train, "seed", 0))
        take_weights(model, config.energies)
        evaluation = config.evaluation
        predictor = Predictor(
            config.task, schema, model, config.solver, evaluation.budget, batch_size=evaluation.batch_size
        )
        check_loss(config, predictor, data.splits["train"][0])
        check_sampler(config, predictor)
        with folder.locked():
            if not resume:
                folder.begin(dumped(config.resolved), schema, _data_facts(data))
            folder.sweep()
            log.to(folder.path / files.LOG)
            folder.write_json(files.ENVIRONMENT, environment(config))
            with _told(folder, log):
                trace = _train(config, predictor, data, folder, resume, tell)
                predictor, draws = with_posterior(
                    config, predictor, data.splits["train"], folder, lambda *told: tell(Progress(*told))
                )
                predictor = _tuned(predictor, data, folder)
                return _finish(config, predictor, data, folder, trace, started, tell, draws)


@contextlib.contextmanager
def _told(folder: RunFolder, log: RunLog) -> Iterator[None]:
    """Faults and interruptions go to the log; an interruption says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        way_out = "add --resume to go on from the last checkpoint" if folder.checkpoint.exists() else "add --force"
        message = f"stopped; {folder.path} is unfinished: run again and {way_out}"
        log.note(message)
        raise RunInterrupted(message) from None
    except Exception as error:
        log.note(f"the run ended: {type(error).__name__}: {error}", error)
        raise


def _read(config: RunConfig) -> _Data:
    """Read train, dev and every split to be evaluated; a split that the user named must exist."""
    have = tuple(config.task.splits())
    named = "eval.split" in config.places
    wanted = config.evaluation.splits
    unknown = [split for split in wanted if split not in have]
    if unknown and named:
        raise DataError(
            f"{config.place('eval.split')}: there is no split {unknown[0]!r}; {config.task_name} has {', '.join(have)}"
        )
    splits: dict[str, Sequence[Example]] = {}
    for split in dict.fromkeys(("train", "dev", *wanted)):
        if split in have:
            found = config.task.examples(split)
            splits[split] = found if isinstance(found, Sequence) else list(found)  # a long table stays as it is
            logger.info("%s: %d examples", split, len(splits[split]))
            if not splits[split]:
                raise DataError(f"{config.place('task')}: the split {split!r} holds no example")
    if "train" not in splits:
        raise DataError(f"{config.place('task')}: {config.task_name} has no split 'train'; it has {', '.join(have)}")
    return _Data(splits, config.task.provenance())


def _fitted_schema(config: RunConfig, train: Sequence[Example]) -> Schema:
    files.schema_type(config.task)  # a schema that could not be loaded again is found out before training
    taken = taken_schema(config.energies, config.task)
    if taken is not None:
        return taken
    schema: Schema = config.task.fit(train)
    return schema


def _resumed_schema(folder: RunFolder, config: RunConfig, data: _Data) -> Schema:
    """The schema of the unfinished run, once config and data have been found to be the same as then."""
    text = storage.read_bytes(folder.path / files.CONFIG, 2**20).decode("utf-8", errors="replace")
    before = parse_config(text, files.CONFIG).resolved
    changed = [key for key in config.resolved if key != "output" and _same(config.resolved, key) != _same(before, key)]
    if changed:
        raise RunFolderError(
            f"{folder.path} was begun with another {' and '.join(changed)}; resume it with the same task file, "
            f"or start it again with --force"
        )
    if storage.read_json(folder.path / files.DATA) != storage.plain(_data_facts(data)):
        raise RunFolderError(f"the data are not those with which {folder.path} was begun; start again with --force")
    return folder.read_schema(config.task)


def _same(resolved: Mapping[str, Any], key: str) -> Any:
    """What must be the same in a section when a run is resumed: all but how often its training is written down."""
    from ebmstruct.learning.options import WRITING

    section = resolved.get(key)
    return {k: v for k, v in section.items() if k not in WRITING} if key == "train" and section else section


def _data_facts(data: _Data) -> dict[str, Any]:
    return {"examples": {split: len(rows) for split, rows in data.splits.items()}, **data.provenance}


def _train(
    config: RunConfig, predictor: Predictor, data: _Data, folder: RunFolder, resume: bool, tell: OnProgress
) -> TrainingTrace:
    from ebmstruct.learning.training import TrainingTrace, fit

    if not any(p.requires_grad for p in predictor.model.parameters()):
        logger.info("every weight is taken over from a finished run: there is nothing to train")
        return _written(predictor.model, TrainingTrace(), folder)
    dev = data.splits.get("dev")
    if dev is None:
        logger.warning("there is no dev split: the weights of the last epoch are kept")
    model = predictor.model.to(getattr(config.train, "device", "cpu"))
    strip = Strip(folder.path)
    solver = None if config.solver is None else config.solver.least_energy()
    if isinstance(config.task, Generative):  # the solver of a task that draws is its sampler
        solver = config.task.answering(config.solver)

    def on_event(event: TrainingEvent) -> None:
        strip.epoch = event.epoch
        tell(Progress("training", event.epoch, event.epochs, event))

    trace = fit(
        model,
        config.task,
        predictor.schema,
        data.splits["train"],
        config.loss,
        config.train,
        solver=solver,
        evaluate=None if dev is None else dev_scorer(predictor, dev, strip.keep),
        metric=config.task.metric,
        checkpoint=folder.checkpoint,
        resume=resume,
        traces=folder.path,
        on_event=on_event,
    )
    return _written(model, trace, folder)


def _written(model: EnergyModel, trace: TrainingTrace, folder: RunFolder) -> TrainingTrace:
    """The same trace, once the model and it are in the run folder."""
    model.eval()
    folder.write_model(model)
    folder.write_text(files.TRACE_CSV, _csv(trace.epochs))
    storage.write_json_lines(folder.path / files.TRACE_LINES, trace.epochs)
    return trace


def _tuned(predictor: Predictor, data: _Data, folder: RunFolder) -> Predictor:
    """The predictor with what the task chooses on dev for the trained model, which is kept in the folder's schema."""
    dev = data.splits.get("dev")
    answering = predictor if dev is None else tuned(predictor, dev)
    if answering is not predictor:
        folder.write_schema(answering.schema)
    return answering


def _finish(
    config: RunConfig,
    predictor: Predictor,
    data: _Data,
    folder: RunFolder,
    trace: TrainingTrace,
    started: float,
    tell: OnProgress,
    draws: WeightDraws | None = None,
) -> RunSummary:
    evaluations = []
    splits = [split for split in config.evaluation.splits if split in data.splits] or ["train"]
    for split in splits:
        evaluations.append(_evaluated(predictor, data.splits[split], split, tell))
        storage.write_json_lines(
            folder.path / files.PREDICTIONS / f"{split}.jsonl", prediction_lines(config.task, evaluations[-1])
        )
    metrics = {
        "task": config.task_name,
        "metric": config.task.metric,
        "splits": {evaluation.split: evaluation.metrics for evaluation in evaluations},
        **({} if draws is None else {"posterior": draws.facts}),
    }
    folder.write_json(files.METRICS, metrics)
    tell(Progress("writing the report"))
    sections = {e.split: _rendered(config, e, predictor) for e in evaluations}
    if isinstance(config.task, Generative):
        first = splits[-1]
        sections[first] = [*sections[first], *_strip(config.task, folder, predictor.schema)]
    page = report.Report(
        config=config,
        config_text=dumped(config.resolved),
        trace=trace.epochs,
        evaluations=evaluations,
        sections=sections,
        data=storage.plain(_data_facts(data)),
        environment=storage.read_json(folder.path / files.ENVIRONMENT),
        parameters=sum(p.numel() for p in predictor.model.parameters()),
        seconds=time.perf_counter() - started,
        posterior=() if draws is None else posterior.sections(draws, {e.split: e.metrics for e in evaluations}),
    )
    folder.write_text(files.REPORT, report.html(page))
    seconds = time.perf_counter() - started
    logger.info("finished in %.1f s; the report is %s", seconds, folder.path / files.REPORT)
    folder.finish(task=config.task_name, seed=getattr(config.train, "seed", None), seconds=round(seconds, 3))
    return RunSummary(folder.path, storage.plain(metrics), len(trace.epochs), seconds, folder.path / files.REPORT)


def _rendered(config: RunConfig, evaluation: Evaluation, predictor: Predictor) -> Sequence[Section]:
    """The task's own sections; a fault in drawing them must not cost the run that has been trained."""
    try:
        return config.task.render(evaluation, posterior.trained(predictor).model, predictor.schema)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
        logger.warning("%s could not draw its sections for %s: %s", config.task_name, evaluation.split, fault)
        logger.debug("the fault in full", exc_info=True)
        return [Table("Sections that could not be drawn", ["fault"], [[fault]])]


def _strip(task: Generative, folder: RunFolder, schema: Schema) -> Sequence[Section]:
    """The task's sections of what was drawn while it was trained; a fault in them costs no run."""
    try:
        return task.strip(Strip(folder.path).read(), schema)
    except Exception as error:
        logger.warning("%s could not draw its strip of records: %s: %s", task.name, type(error).__name__, error)
        return []


def _evaluated(predictor: Predictor, examples: Sequence[Example], split: str, tell: OnProgress) -> Evaluation:
    stage = f"evaluating {split}"
    evaluation = evaluate(
        predictor, examples, split, on_progress=lambda done, total: tell(Progress(stage, done, total))
    )
    if posterior.trained(predictor).model is not predictor.model:
        tell(Progress(f"calibration on {split}"))
        evaluation.metrics["posterior"] = posterior.compared(predictor, examples)  # type: ignore[index]
    metric = predictor.task.metric
    logger.info("%s: %s %.4f on %d examples", split, metric, evaluation.metrics[metric], len(examples))
    return evaluation


def evaluate_run(
    path: Path | str,
    data: Path | str | None = None,
    *,
    split: str = "test",
    device: str = "cpu",
    predictions: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Evaluate a finished run on a file or folder, or, without one, on a split of its own data.

    predictions: a file for them, one JSON line an example.
    """
    from ebmstruct.run.predictor import load

    predictor = load(path, device=device)
    task = predictor.task
    examples = list(task.examples(split) if data is None else task.examples_from(Path(data), split))
    if not examples:
        raise DataError(f"{data or split}: holds no example")
    found = _evaluated(predictor, examples, split, on_progress or (lambda progress: None))
    if predictions is not None:
        storage.write_json_lines(predictions, prediction_lines(task, found))
    return found


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; the columns are the union of their keys, in the order of first sight."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
