"""Distributions by energy: learn them from rows, pictures or sequences, find what is latent in them, draw new ones."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "Boltzmann": "ebmstruct_generative.boltzmann",
    "Clusters": "ebmstruct_generative.tables.clusters",
    "Columns": "ebmstruct_generative.quality",
    "Components": "ebmstruct_generative.components",
    "Convolutional": "ebmstruct_generative.convolutional",
    "DeepBoltzmann": "ebmstruct_generative.boltzmann",
    "Denoiser": "ebmstruct_generative.denoiser",
    "Experts": "ebmstruct_generative.experts",
    "GaussianBoltzmann": "ebmstruct_generative.boltzmann",
    "HiddenChain": "ebmstruct_generative.sequences.hidden_chain",
    "ImageSchema": "ebmstruct_generative.images.schema",
    "Images": "ebmstruct_generative.images.task",
    "JointClassifier": "ebmstruct_generative.joint_classifier",
    "Mixture": "ebmstruct_generative.mixture",
    "Network": "ebmstruct_generative.network",
    "PatchSchema": "ebmstruct_generative.patches.schema",
    "PatchTask": "ebmstruct_generative.patches.task",
    "RecordSchema": "ebmstruct_generative.records",
    "SequenceSchema": "ebmstruct_generative.sequences.schema",
    "Sequences": "ebmstruct_generative.sequences.task",
    "Table": "ebmstruct_generative.tables.table",
    "TableMixture": "ebmstruct_generative.tables.mixture",
    "TableSchema": "ebmstruct_generative.tables.schema",
    "TableTask": "ebmstruct_generative.tables.task",
    "quality_report": "ebmstruct_generative.quality",
    "quality_sections": "ebmstruct_generative.quality",
}

__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from ebmstruct_generative.boltzmann import Boltzmann as Boltzmann
    from ebmstruct_generative.boltzmann import DeepBoltzmann as DeepBoltzmann
    from ebmstruct_generative.boltzmann import GaussianBoltzmann as GaussianBoltzmann
    from ebmstruct_generative.components import Components as Components
    from ebmstruct_generative.convolutional import Convolutional as Convolutional
    from ebmstruct_generative.denoiser import Denoiser as Denoiser
    from ebmstruct_generative.experts import Experts as Experts
    from ebmstruct_generative.images.schema import ImageSchema as ImageSchema
    from ebmstruct_generative.images.task import Images as Images
    from ebmstruct_generative.joint_classifier import JointClassifier as JointClassifier
    from ebmstruct_generative.mixture import Mixture as Mixture
    from ebmstruct_generative.network import Network as Network
    from ebmstruct_generative.patches.schema import PatchSchema as PatchSchema
    from ebmstruct_generative.patches.task import PatchTask as PatchTask
    from ebmstruct_generative.quality import Columns as Columns
    from ebmstruct_generative.quality import quality_report as quality_report
    from ebmstruct_generative.quality import quality_sections as quality_sections
    from ebmstruct_generative.records import RecordSchema as RecordSchema
    from ebmstruct_generative.sequences.hidden_chain import HiddenChain as HiddenChain
    from ebmstruct_generative.sequences.schema import SequenceSchema as SequenceSchema
    from ebmstruct_generative.sequences.task import Sequences as Sequences
    from ebmstruct_generative.tables.clusters import Clusters as Clusters
    from ebmstruct_generative.tables.mixture import TableMixture as TableMixture
    from ebmstruct_generative.tables.schema import TableSchema as TableSchema
    from ebmstruct_generative.tables.table import Table as Table
    from ebmstruct_generative.tables.task import TableTask as TableTask


def __getattr__(name: str) -> Any:
    """Names are resolved when they are first used: who only reads data does not wait for torch."""
    if name in _HOME_OF:
        value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
        return value
    raise AttributeError(f"module 'ebmstruct_generative' has no attribute {name!r}")
