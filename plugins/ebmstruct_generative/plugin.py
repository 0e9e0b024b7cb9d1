"""What this plugin offers, by name; nothing is imported until a task file asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from ebmstruct.extend import hookimpl


@hookimpl
def ebmstruct_tasks() -> Mapping[str, str]:
    """Tables, pictures, patches and sequences."""
    return {
        "sequences": "ebmstruct_generative.sequences.task:Sequences",
    }


@hookimpl
def ebmstruct_energies() -> Mapping[str, str]:
    """Energies of records."""
    return {
        "hidden_chain": "ebmstruct_generative.sequences.hidden_chain:HiddenChain",
        "denoiser": "ebmstruct_generative.denoiser:Denoiser",
        "mixture": "ebmstruct_generative.mixture:Mixture",
        "boltzmann": "ebmstruct_generative.boltzmann:Boltzmann",
        "gaussian_boltzmann": "ebmstruct_generative.boltzmann:GaussianBoltzmann",
        "deep_boltzmann": "ebmstruct_generative.boltzmann:DeepBoltzmann",
        "product_of_experts": "ebmstruct_generative.experts:Experts",
    }
