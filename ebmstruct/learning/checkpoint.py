"""Checkpoints: any tree of tensors, numbers and texts in one safetensors file, written atomically. No pickle."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ebmstruct.errors import RunFolderError
from ebmstruct.storage import atomic

_KINDS = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
}
_TENSOR, _PAIRS, _DEVICE = "__tensor__", "__pairs__", "__device__"


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree of dicts, lists, tensors, numbers, texts, booleans and None; all of it, or nothing.

    Tensors go straight to the file: the memory in use is that of the tree, and of copies of tensors that share theirs.
    """
    found = _Tensors()
    text = json.dumps(_flatten(tree, found))
    with atomic(path) as file:
        _write(file, found.by_name, text)


def _write(file: IO[bytes], tensors: dict[str, Tensor], text: str) -> None:
    """Write safetensors to an open file: the library's own writer makes a second file, which a kill would leave."""
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())  # so that each begins at a multiple of it
    header: dict[str, Any] = {"__metadata__": {"tree": text}}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        kind, shape = _kind(tensors[name]), list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    file.write(struct.pack("<Q", len(head)) + head)
    for name in order:
        file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


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


def settled(tree: Any) -> Any:
    """The tree as it will be after a checkpoint: detached, every tensor in memory of its own order, tuples as lists.

    What a loss keeps goes through this at each step, so that a training that is resumed and one that is not compute with
    the same. A tensor that is settled already stays itself, so that a buffer may be changed in place.
    TypeError for what no checkpoint holds.
    """
    if isinstance(tree, Tensor):
        _kind(tree)
        plain = tree.is_contiguous() and tree.storage_offset() == 0
        if plain:
            return tree.detach() if tree.requires_grad else tree
        return tree.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(tree, dict):
        return {settled(k): settled(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [settled(v) for v in tree]
    return _scalar(tree)


class _Tensors:
    """The tensors of a tree by name, each on the CPU and in memory of its own: the format holds no shared memory."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._memory: set[int] = set()

    def name(self, tensor: Tensor) -> str:
        """The tensor's name; one that is there twice is written once, and comes back as one."""
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in self._names:
            own = tensor.detach().cpu().contiguous()
            storage = own.untyped_storage()
            if storage.nbytes() != own.nbytes or storage.data_ptr() in self._memory:
                own = own.clone()
            self._memory.add(own.untyped_storage().data_ptr())
            self._names[key] = name = str(len(self.by_name))
            self.by_name[name] = own
        return self._names[key]


def _flatten(tree: Any, found: _Tensors) -> Any:
    if isinstance(tree, Tensor):
        place = {} if tree.device.type == "cpu" else {_DEVICE: str(tree.device)}
        return {_TENSOR: found.name(tree), **place}
    if isinstance(tree, dict):
        return {_PAIRS: [[_flatten(k, found), _flatten(v, found)] for k, v in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return [_flatten(v, found) for v in tree]
    return _scalar(tree)


def _kind(tensor: Tensor) -> str:
    """The format's word for the type of a tensor."""
    if tensor.dtype not in _KINDS or tensor.layout != torch.strided:
        raise TypeError(f"a checkpoint holds dense tensors of real numbers; found {tensor.dtype}, {tensor.layout}")
    return _KINDS[tensor.dtype]


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint holds tensors, numbers and texts; found {type(value).__name__}")


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]].to(value.get(_DEVICE, "cpu"))
        return {_restore(k, tensors): _restore(v, tensors) for k, v in value[_PAIRS]}
    if isinstance(value, list):
        return [_restore(v, tensors) for v in value]
    return value
