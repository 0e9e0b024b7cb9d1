"""The task ``generative.patches``: small pieces of photographs, whitened, and the filters that describe them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ebmstruct import Assignment, FactorGraph, ScoreMatching
from ebmstruct.energies import EnergyModel
from ebmstruct.errors import DataError, LossRefusal
from ebmstruct.extend import Evaluation, Example, Generative, Section
from ebmstruct_generative.patches.cutting import Patches, cut
from ebmstruct_generative.patches.schema import PatchSchema, principal_components
from ebmstruct_generative.patches.sources import PHOTOGRAPHS, Photograph, photographs
from ebmstruct_generative.patches.writing import written
from ebmstruct_generative.quality import sliced_wasserstein
from ebmstruct_generative.records import RECORD


@dataclass(frozen=True)
class PatchTask(Generative):
    """Patches of photographs by an energy: filters like those of the visual cortex, and new patches (Bell and Sejnowski
    1997; Teh, Welling, Osindero and Hinton 2003).

    data: ``photographs``, ten that come inside scikit-image and scikit-learn, or the path of a picture or of a folder of
    pictures.  size: s, pixels a side.  count, held_out: patches cut for training, and for each of dev and test, from
    bands of the photographs that training does not see.  components: principal components that are kept, of s^2; they
    are whitened.  seed: of the places.

    A record is an (s, s) patch of log intensities less their mean. The metric ``held_out`` is minus the objective of score
    matching on held-out patches, a component: comparable among models of the same components, higher is better.
    """

    name: ClassVar[str] = "generative.patches"
    metric: ClassVar[str] = "held_out"
    suffix: ClassVar[str] = ".npz"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "energy": {"name": "generative.components"},
        "loss": {"name": "score_matching", "form": "exact"},
        "solver": {"name": "hmc", "chains": 1},
    }

    data: str = PHOTOGRAPHS
    size: int = 12
    count: int = 40000
    held_out: int = 5000
    components: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for key, least in (("size", 2), ("count", 2), ("held_out", 2), ("components", 1), ("seed", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} must be at least {least}; found {getattr(self, key)}")

    @cached_property
    def _photographs(self) -> list[Photograph]:
        return photographs(self.data)

    def examples(self, split: str) -> Patches:
        if split not in self.splits():
            raise DataError(f"patches have the splits {', '.join(self.splits())}; found {split!r}")
        count = self.count if split == "train" else self.held_out
        return cut(self._photographs, self.size, count, split, self.seed)

    def fit(self, train: Sequence[Example]) -> PatchSchema:
        values = train.values if isinstance(train, Patches) else np.stack([np.asarray(e.y) for e in train])
        return principal_components(values, self.components)

    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: PatchSchema) -> Assignment:
        """The whitened components of patches; of None, nothing is known."""
        unknown = torch.tensor([y is None for y in ys])
        nothing = np.zeros((schema.size, schema.size), dtype=np.float32)
        value = schema.encoded([nothing if y is None else y for y in ys])
        return Assignment({RECORD: value}, {RECORD: ~unknown} if bool(unknown.any()) else {})

    def decode(self, y: Assignment, graph: FactorGraph, schema: PatchSchema) -> list[Any]:
        found: list[Any] = np.round(schema.decoded(y[RECORD]).astype(np.float64), 4).tolist()
        return found

    def given(self, texts: Sequence[str], schema: PatchSchema) -> Mapping[str, Any]:
        """Nothing: DataError where something is given, since pixels are mixed with each other by the whitening."""
        if texts:
            raise DataError(
                f"{texts[0]!r} cannot be given of a patch: patches are modelled by components that mix all pixels; "
                "leave --given out"
            )
        return {}

    def partial(self, x: Any, schema: PatchSchema) -> None:
        """A patch of which nothing is known."""
        return None

    def score(self, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
        """Patches drawn beside real ones: distance, contrast, and how heavy the tails of differences of neighbours are.

        The distance is sliced Wasserstein in units of the standard deviation of real pixels.
        """
        real = np.stack([np.asarray(e.y, dtype=np.float64) for e in examples])
        drawn = np.asarray(outputs, dtype=np.float64).reshape(-1, *real.shape[1:])
        unit = max(float(real.std()), 1e-12)
        pair = (real.reshape(len(real), -1) / unit, drawn.reshape(len(drawn), -1) / unit)
        distance = sliced_wasserstein(*pair)
        return {
            "held_out": -distance,  # where the model has no objective of its own
            "sliced_wasserstein": distance,
            "contrast_ratio": float(drawn.std()) / unit,
            "kurtosis_real": _tails(real),
            "kurtosis_drawn": _tails(drawn),
        }

    def measure(self, examples: Sequence[Example], model: EnergyModel, schema: PatchSchema) -> dict[str, Any]:
        """``held_out``, of the exact objective where it is in closed form, else of the sliced one."""
        with torch.no_grad():
            graph = model.graph([{}] * len(examples))
            target = self.encode([e.y for e in examples], graph, schema)
            closed = all(f.slope_and_laplacian([target[RECORD][:1]], [v]) for f, v in _looking(graph))
            try:
                value = ScoreMatching(form="exact" if closed else "sliced")(graph, target).value
            except LossRefusal:
                return {}
        return {"held_out": -float(value.mean()) / schema.dim}

    def write(self, records: Iterable[Any], path: Path, schema: PatchSchema) -> None:
        """``.npz``: an array ``patches`` (n, s, s); any other name: a folder of PNG files of mean brightness."""
        written(records, path, schema.size)

    def render(self, evaluation: Evaluation, model: EnergyModel, schema: PatchSchema) -> list[Section]:
        from ebmstruct_generative.patches.rendering import sections

        return sections(evaluation, model, schema)

    def record(self, x: Any, output: Any) -> dict[str, Any]:
        return {"patch": output}

    def show(self, x: Any, output: Any) -> str:
        from ebmstruct_generative.patches.writing import drawn_in_text

        return drawn_in_text(output)

    def provenance(self) -> dict[str, Any]:
        """The user's files with their hashes; of photographs inside packages, the packages' versions."""
        from importlib.metadata import version

        from ebmstruct.storage import file_sha256

        files = {str(p.path): file_sha256(p.path) for p in self._photographs if p.path is not None}
        if files:
            return {"files": files}
        named = {p.name for p in self._photographs}
        return {"files": {}, "photographs": sorted(named), **{n: version(n) for n in ("scikit-image", "scikit-learn")}}


def _looking(graph: FactorGraph) -> list[tuple[Any, Any]]:
    """The factors that look at records, with the block."""
    return [(f, graph.variables[RECORD]) for f in graph.factors if RECORD in f.scope]


def _tails(patches: np.ndarray) -> float:
    """The excess kurtosis of the differences of horizontal neighbours."""
    apart = np.diff(patches, axis=2).ravel()
    return float((apart**4).mean() / max(float((apart**2).mean()) ** 2, 1e-30) - 3)
