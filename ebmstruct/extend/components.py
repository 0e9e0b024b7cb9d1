"""From a name in a task file to a class: core names, plugin names, near misses, options and their types."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ebmstruct.errors import PluginError
from ebmstruct.extend import discovery

CORE: dict[str, dict[str, str]] = {
    "task": {},
    "energy": {"rules": "ebmstruct.energies.rules:Rules"},
    "solver": {
        "variable_elimination": "ebmstruct.inference.solvers:VariableElimination",
        "junction_tree": "ebmstruct.inference.solvers:JunctionTree",
        "graph_cut": "ebmstruct.inference.solvers:GraphCut",
        "roof_duality": "ebmstruct.inference.solvers:RoofDuality",
        "dual_ascent": "ebmstruct.inference.solvers:DualAscent",
        "subgraph_search": "ebmstruct.inference.solvers:SubgraphSearch",
        "amortised": "ebmstruct.inference.solvers:AmortisedInference",
        "alpha_expansion": "ebmstruct.inference.solvers:AlphaExpansion",
        "icm": "ebmstruct.inference.solvers:ICM",
        "annealing": "ebmstruct.inference.solvers:Annealing",
        "parallel_tempering": "ebmstruct.inference.solvers:ParallelTempering",
        "gibbs": "ebmstruct.inference.solvers:BlockGibbs",
        "gibbs_with_gradients": "ebmstruct.inference.solvers:GibbsWithGradients",
        "belief_propagation": "ebmstruct.inference.solvers:BeliefPropagation",
        "mean_field": "ebmstruct.inference.solvers:MeanField",
        "mini_bucket": "ebmstruct.inference.solvers:MiniBucket",
        "linear_program": "ebmstruct.inference.solvers:LinearProgram",
        "integer_program": "ebmstruct.inference.solvers:IntegerProgram",
        "toulbar2": "ebmstruct.inference.solvers:Toulbar2",
        "cp_sat": "ebmstruct.inference.solvers:CPSAT",
        "exhaustive": "ebmstruct.inference.solvers:Exhaustive",
        "expected_f1": "ebmstruct.inference.solvers:ExpectedF1",
        "relaxed_mean_field": "ebmstruct.inference.solvers:RelaxedMeanField",
        "cardinality": "ebmstruct.inference.solvers:Cardinality",
        "threshold": "ebmstruct.inference.solvers:Threshold",
        "semi_markov": "ebmstruct.inference.solvers:SemiMarkovElimination",
        "replica_exchange": "ebmstruct.inference.solvers:ReplicaExchange",
        "annealed_importance_sampling": "ebmstruct.inference.solvers:AnnealedImportanceSampling",
        "langevin": "ebmstruct.inference.solvers:Langevin",
        "annealed_langevin": "ebmstruct.inference.solvers:AnnealedLangevin",
        "mala": "ebmstruct.inference.solvers:MALA",
        "hmc": "ebmstruct.inference.solvers:HMC",
        "nuts": "ebmstruct.inference.solvers:NUTS",
        "gaussian": "ebmstruct.inference.solvers:Gaussian",
        "gaussian_mixture": "ebmstruct.inference.solvers:GaussianMixture",
        "levenberg_marquardt": "ebmstruct.inference.solvers:LevenbergMarquardt",
        "gauss_newton": "ebmstruct.inference.solvers:GaussNewton",
        "lbfgs": "ebmstruct.inference.solvers:LBFGS",
        "adam": "ebmstruct.inference.solvers:Adam",
        "mirror_descent": "ebmstruct.inference.solvers:MirrorDescent",
        "augmented_lagrangian": "ebmstruct.inference.solvers:AugmentedLagrangian",
        "conditional_gaussian": "ebmstruct.inference.solvers:ConditionalGaussian",
        "marginal_elimination": "ebmstruct.inference.solvers:MarginalElimination",
        "free_energy_descent": "ebmstruct.inference.solvers:FreeEnergyDescent",
        "marginal_search": "ebmstruct.inference.solvers:MarginalSearch",
        "sgld": "ebmstruct.inference.solvers:SGLD",
        "underdamped_langevin": "ebmstruct.inference.solvers:UnderdampedLangevin",
        "alternating": "ebmstruct.inference.solvers:Alternating",
        "mixed_enumeration": "ebmstruct.inference.solvers:MixedEnumeration",
        "mixed_gibbs": "ebmstruct.inference.solvers:MixedGibbs",
        "branch_and_bound": "ebmstruct.inference.solvers:BranchAndBound",
    },
    "loss": {
        "negative_log_likelihood": "ebmstruct.learning.losses:NegativeLogLikelihood",
        "softmax_margin": "ebmstruct.learning.losses:SoftmaxMargin",
        "perceptron": "ebmstruct.learning.losses:Perceptron",
        "structured_hinge": "ebmstruct.learning.losses:StructuredHinge",
        "pseudo_likelihood": "ebmstruct.learning.losses:PseudoLikelihood",
        "energy": "ebmstruct.learning.losses:EnergyLoss",
        "generalized_hinge": "ebmstruct.learning.losses:GeneralizedHinge",
        "log_loss": "ebmstruct.learning.losses:LogLoss",
        "square_square": "ebmstruct.learning.losses:SquareSquare",
        "square_exponential": "ebmstruct.learning.losses:SquareExponential",
        "minimum_classification_error": "ebmstruct.learning.losses:MinimumClassificationError",
        "lvq2": "ebmstruct.learning.losses:LVQ2",
        "concave_convex": "ebmstruct.learning.losses:ConcaveConvex",
        "value_matching": "ebmstruct.learning.losses:ValueMatching",
        "score_matching": "ebmstruct.learning.losses:ScoreMatching",
        "hybrid_likelihood": "ebmstruct.learning.losses:HybridLikelihood",
        "denoising": "ebmstruct.learning.losses:DenoisingScoreMatching",
        "ratio_matching": "ebmstruct.learning.losses:RatioMatching",
        "noise_contrastive_estimation": "ebmstruct.learning.losses:NoiseContrastiveEstimation",
        "fenchel_young": "ebmstruct.learning.losses:FenchelYoung",
        "perturb_and_map": "ebmstruct.learning.losses:PerturbAndMap",
        "unrolled": "ebmstruct.learning.losses:Unrolled",
        "implicit": "ebmstruct.learning.losses:Implicit",
        "inference_network": "ebmstruct.learning.losses:InferenceNetwork",
        "seal": "ebmstruct.learning.losses:Seal",
        "amortisation": "ebmstruct.learning.losses:Amortisation",
        "contrastive_divergence": "ebmstruct.learning.losses:ContrastiveDivergence",
        "persistent_contrastive_divergence": "ebmstruct.learning.losses:PersistentContrastiveDivergence",
        "sampled_likelihood": "ebmstruct.learning.losses:SampledLikelihood",
        "expectation_maximisation": "ebmstruct.learning.losses:ExpectationMaximisation",
        "bounded_likelihood": "ebmstruct.learning.losses:BoundedLikelihood",
    },
}
"""Kind to unprefixed name to where its class is; imported when asked for."""


class UnknownName(PluginError):
    """A component name that nobody offers; the message lists the legal names and the nearest."""


@dataclass(frozen=True)
class Option:
    """One YAML key of a component: a parameter of its class.

    annotation: a type, or text where it cannot be resolved. default: ``inspect.Parameter.empty`` if required.
    """

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        """Whether a task file must give it."""
        return self.default is inspect.Parameter.empty


class Components:
    """Everything a task file may name. Plugins are read from metadata once and imported one by one when asked.

    environ: where the allow-list and the block-list are looked up; the process' own by default.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = environ

    @cached_property
    def candidates(self) -> dict[str, list[discovery.Candidate]]:
        """The installed plugins by prefix, from metadata alone."""
        return discovery.candidates(self._environ)

    def plugin(self, prefix: str) -> discovery.Plugin:
        """The plugin with this prefix, imported; PluginError where it is missing, broken or not alone."""
        return discovery.load(prefix, self.candidates)

    def resolve(self, kind: str, name: str) -> type:
        """The class behind a component name; UnknownName or PluginError where there is none to use."""
        prefix, dot, tail = name.rpartition(".")
        if not dot:
            if name not in CORE[kind]:
                raise UnknownName(self._unknown(kind, name))
            return _class_at(CORE[kind][name], f"{kind} {name}", None)
        if prefix not in self.candidates:
            raise UnknownName(self._unknown(kind, name))
        plugin = self.plugin(prefix)
        entry = plugin.offers.get(kind, {}).get(tail)
        if entry is None:
            raise UnknownName(self._unknown(kind, name, plugin))
        return _class_at(entry, f"{kind} {name}", plugin) if isinstance(entry, str) else entry

    def names(self, kind: str, prefix: str = "") -> list[str]:
        """Legal names of a kind: the core's, and those of the one plugin with this prefix."""
        names = sorted(CORE[kind])
        if prefix in self.candidates:
            names += sorted(f"{prefix}.{tail}" for tail in self.plugin(prefix).offers.get(kind, {}))
        return names

    def _unknown(self, kind: str, name: str, plugin: discovery.Plugin | None = None) -> str:
        offered = [f"{plugin.prefix}.{tail}" for tail in sorted(plugin.offers.get(kind, {}))] if plugin else []
        legal = [*sorted(CORE[kind]), *offered]
        message = f"no {kind} is named {name!r}"
        if plugin is None and "." in name:
            prefix = name.rpartition(".")[0]
            here = ", ".join(self.candidates) or "none"
            message += f"; no plugin with the prefix {prefix!r} is installed and allowed (there: {here})"
            legal = [f"{p}.{name.rpartition('.')[2]}" for p in self.candidates]
        elif legal:
            message += f"; there: {', '.join(legal)}"
        else:
            plugins = ", ".join(self.candidates) or "none is installed"
            message += f"; the name of a {kind} starts with its plugin: {plugins}"
        return message + near_miss(name, legal)


def near_miss(name: str, legal: Iterable[str]) -> str:
    """`` (did you mean X?)`` where a legal name is close to the one given, else nothing."""
    close = difflib.get_close_matches(name, list(legal), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def options_of(cls: type, skip: int = 0) -> dict[str, Option]:
    """The YAML keys of a class: its parameters with their resolved annotations and defaults.

    skip: how many leading parameters are filled by the run itself (1 for an energy model: its schema).
    """
    try:
        parameters = list(inspect.signature(cls).parameters.values())[skip:]
    except (TypeError, ValueError) as error:
        raise PluginError(f"the parameters of {cls.__qualname__} cannot be read: {error}") from error
    hints = _annotations(cls)
    named = (p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
    return {p.name: Option(p.name, hints.get(p.name, Any), p.default) for p in named}


def _annotations(cls: type) -> dict[str, Any]:
    """Annotations of a class' parameters, one by one: one that cannot be resolved must not hide the others."""
    if dataclasses.is_dataclass(cls):
        sources = [(base, vars(base).get("__annotations__", {})) for base in reversed(cls.__mro__)]
    else:
        init = inspect.unwrap(cls.__init__)  # type: ignore[misc]
        sources = [(init, getattr(init, "__annotations__", {}))]
    hints: dict[str, Any] = {}
    for owner, texts in sources:
        names = dict(vars(sys.modules[owner.__module__])) if owner.__module__ in sys.modules else {}
        for name, annotation in texts.items():
            try:
                holder = type("Holder", (), {"__annotations__": {name: annotation}})
                hints[name] = typing.get_type_hints(holder, globalns=names)[name]
            except Exception:  # a name that exists for type checkers only: the text is kept
                hints[name] = annotation
    return hints


def _class_at(where: str, what: str, plugin: discovery.Plugin | None) -> type:
    module, _, attribute = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == module.partition(".")[0]:
            raise PluginError(f"{what} should be at {where}, which does not exist ({error})") from error
        owner = (plugin.distribution, plugin.prefix) if plugin else ("ebmstruct", "")
        raise discovery.missing_dependency(error, *owner) from error
    except AttributeError as error:
        raise PluginError(f"{what} should be at {where}, which has no such class") from error
    except Exception as error:
        if plugin is None:
            raise
        raise PluginError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise PluginError(f"{what} at {where} is not a class")
    return found
