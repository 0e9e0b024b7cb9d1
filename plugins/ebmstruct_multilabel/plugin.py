"""What this plugin offers, by name; nothing is imported until a task file asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from ebmstruct.extend import hookimpl


@hookimpl
def ebmstruct_tasks() -> Mapping[str, str]:
    """``multilabel.classification``."""
    return {"classification": "ebmstruct_multilabel.task:Classification"}


@hookimpl
def ebmstruct_energies() -> Mapping[str, str]:
    """``multilabel.mlp``, ``.amortised_spen``, ``.counted``, ``.mixture``, ``.pairwise``, ``.spen``, ``.value_network``."""
    return {
        "mlp": "ebmstruct_multilabel.mlp:MLP",
        "amortised_spen": "ebmstruct_multilabel.amortised:AmortisedSPEN",
        "counted": "ebmstruct_multilabel.counted:Counted",
        "mixture": "ebmstruct_multilabel.mixture:Mixture",
        "pairwise": "ebmstruct_multilabel.pairwise:Pairwise",
        "spen": "ebmstruct_multilabel.spen:SPEN",
        "value_network": "ebmstruct_multilabel.value_network:ValueNetwork",
    }
