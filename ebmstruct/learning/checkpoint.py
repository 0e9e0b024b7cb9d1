"""Checkpoints: any tree of tensors, numbers and texts in one safetensors file, written atomically. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ebmstruct.errors import RunFolderError
from ebmstruct.storage import write_bytes

_TENSOR, _PAIRS = "__tensor__", "__pairs__"


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree of dicts, lists, tensors, numbers, texts, booleans and None; all of it, or nothing."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    text = json.dumps(_flatten(tree, tensors))
    write_bytes(path, save(tensors, metadata={"tree": text}))


def load_tree(path: Path) -> Any:
    """Read what ``save_tree`` wrote; RunFolderError where the file is not such a tree."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})["tree"]
            # clones: what the file gives lies at odd addresses, and sums of vectors round by where they lie
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
        return _restore(json.loads(text), tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as fault:
        raise RunFolderError(
            f"{path}: not a checkpoint that this version can read ({type(fault).__name__}: {fault}); delete it to start "
            "the training anew"
        ) from None


def _flatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name}
    if isinstance(tree, dict):
        return {_PAIRS: [[_flatten(k, tensors), _flatten(v, tensors)] for k, v in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return [_flatten(v, tensors) for v in tree]
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(f"a checkpoint holds tensors, numbers and texts; found {type(tree).__name__}")


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {_restore(k, tensors): _restore(v, tensors) for k, v in value[_PAIRS]}
    if isinstance(value, list):
        return [_restore(v, tensors) for v in value]
    return value
