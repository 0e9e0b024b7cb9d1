"""Reusable torch modules that make factor graphs."""

from ebmstruct.energies.amortised import Amortised
from ebmstruct.energies.attention import AttentionEnergy
from ebmstruct.energies.chain import ChainEnergy, Transitions
from ebmstruct.energies.components import IndependentComponents
from ebmstruct.energies.convolutional import ConvolutionalEnergy
from ebmstruct.energies.deep_boltzmann import DeepBoltzmannMachine
from ebmstruct.energies.denoising import DenoisingEnergy
from ebmstruct.energies.encoders import ContextEncoder, EncoderStack, RecurrentEncoder, WindowEncoder
from ebmstruct.energies.experts import ProductOfExperts, UniGaussExpert
from ebmstruct.energies.filters import FilterExpert, LogCoshExpert, StudentTExpert
from ebmstruct.energies.graph_network import GraphNetworkEnergy, graph_network
from ebmstruct.energies.grid import GridEnergy
from ebmstruct.energies.inputs import LinkedSites, NodeGraph, Rows, Sites
from ebmstruct.energies.joint_classifier import JointClassifier
from ebmstruct.energies.label_set import LabelSetEnergy
from ebmstruct.energies.mixture import MixtureEnergy
from ebmstruct.energies.model import Additions, EnergyModel, InputList, Inputs, SumOfEnergies
from ebmstruct.energies.pairs import PairTables
from ebmstruct.energies.rbm import BoltzmannMachine, GaussianBoltzmannMachine
from ebmstruct.energies.rules import Rules
from ebmstruct.energies.second_order import SecondOrderChainEnergy
from ebmstruct.energies.segments import SegmentEnergy
from ebmstruct.energies.skip_chain import SkipChainEnergy
from ebmstruct.energies.tree import TreeEnergy

__all__ = [
    "Additions",
    "Amortised",
    "AttentionEnergy",
    "BoltzmannMachine",
    "ChainEnergy",
    "ContextEncoder",
    "ConvolutionalEnergy",
    "DeepBoltzmannMachine",
    "DenoisingEnergy",
    "EncoderStack",
    "EnergyModel",
    "FilterExpert",
    "GaussianBoltzmannMachine",
    "GraphNetworkEnergy",
    "GridEnergy",
    "IndependentComponents",
    "InputList",
    "Inputs",
    "JointClassifier",
    "LabelSetEnergy",
    "LinkedSites",
    "LogCoshExpert",
    "MixtureEnergy",
    "NodeGraph",
    "PairTables",
    "ProductOfExperts",
    "RecurrentEncoder",
    "Rows",
    "Rules",
    "SecondOrderChainEnergy",
    "SegmentEnergy",
    "Sites",
    "SkipChainEnergy",
    "StudentTExpert",
    "SumOfEnergies",
    "Transitions",
    "TreeEnergy",
    "UniGaussExpert",
    "WindowEncoder",
    "graph_network",
]
