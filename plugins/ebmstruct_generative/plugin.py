"""What this plugin offers, by name; nothing is imported until a task file asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from ebmstruct.extend import hookimpl


@hookimpl
def ebmstruct_tasks() -> Mapping[str, str]:
    """Tables, pictures, patches and sequences."""
    return {
        "table": "ebmstruct_generative.tables.task:TableTask",
        "patches": "ebmstruct_generative.patches.task:PatchTask",
        "images": "ebmstruct_generative.images.task:Images",
        "sequences": "ebmstruct_generative.sequences.task:Sequences",
    }


@hookimpl
def ebmstruct_energies() -> Mapping[str, str]:
    """Energies of records."""
    return {
        "convolutional": "ebmstruct_generative.convolutional:Convolutional",
        "joint_classifier": "ebmstruct_generative.joint_classifier:JointClassifier",
        "hidden_chain": "ebmstruct_generative.sequences.hidden_chain:HiddenChain",
        "components": "ebmstruct_generative.components:Components",
        "denoiser": "ebmstruct_generative.denoiser:Denoiser",
        "mixture": "ebmstruct_generative.mixture:Mixture",
        "boltzmann": "ebmstruct_generative.boltzmann:Boltzmann",
        "gaussian_boltzmann": "ebmstruct_generative.boltzmann:GaussianBoltzmann",
        "deep_boltzmann": "ebmstruct_generative.boltzmann:DeepBoltzmann",
        "product_of_experts": "ebmstruct_generative.experts:Experts",
        "network": "ebmstruct_generative.network:Network",
        "table_mixture": "ebmstruct_generative.tables.mixture:TableMixture",
    }


@hookimpl
def ebmstruct_solvers() -> Mapping[str, str]:
    """Solvers of those energies."""
    return {"clusters": "ebmstruct_generative.tables.clusters:Clusters"}
