"""Functions of tensors compiled whole: traced, compiled by torch's inductor ahead of time, and kept on disk.

A program is traced to a graph of tensor operations in which every tensor that it reads beside its arguments (weights,
tables) becomes an argument as well. The text of that graph, with the shapes, names the compiled library on disk, so
that another process which traces the same program loads it in milliseconds instead of compiling for many seconds.
Tensors that change in place are seen; whatever else an energy reads (numbers, branches) is as it was when traced.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("ebmstruct")

Program = Callable[..., Sequence[Tensor]]
"""A function of tensors that returns tensors, without branches that depend on their numbers."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """A compiled program. library: what runs it.  constants: the tensors it reads beside its arguments.

    seconds: what tracing, and compiling or loading, took.  cold: whether it was compiled anew.
    """

    library: Any
    constants: tuple[Tensor, ...]
    seconds: float
    cold: bool

    def __call__(self, *arguments: Tensor) -> list[Tensor]:
        """What the program returns."""
        out: list[Tensor] = self.library([*arguments, *self.constants])
        return out


def compiled(program: Program, arguments: Sequence[Tensor]) -> Compiled | None:
    """The program for arguments of these shapes; None, and a word in the log, where it cannot be compiled.

    Cost: tracing, about a second; compiling where no process has before, ten seconds and more.
    """
    begun = time.perf_counter()
    try:
        graph, constants = _traced(program, arguments)
        place = cache_folder() / f"{_name(graph, [*arguments, *constants])}.pt2"
        cold = not place.is_file()
        if cold:
            _build(graph, [*arguments, *constants], place)
        library = _load(place)
        library([*arguments, *constants])
    except Exception as fault:  # whatever a compiler, or an energy that cannot be traced, may raise
        first = (str(fault).strip().splitlines() or [""])[0]
        logger.warning("not compiled, and run as it is: %s: %s", type(fault).__name__, first[:200])
        return None
    return Compiled(library, constants, time.perf_counter() - begun, cold)


def cache_folder() -> Path:
    """Where compiled programs are kept: EBMSTRUCT_CACHE, else the user's cache folder."""
    named = os.environ.get("EBMSTRUCT_CACHE")
    home = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebmstruct"
    return home / "compiled"


def _traced(program: Program, arguments: Sequence[Tensor]) -> tuple[torch.fx.GraphModule, tuple[Tensor, ...]]:
    """The operations of a program, and the tensors that it reads beside its arguments, which become arguments too."""
    from torch.fx.experimental.proxy_tensor import make_fx

    module = make_fx(program)(*arguments)
    graph, lifted = module.graph, {}
    constants: list[Tensor] = []
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        if node.target not in lifted:
            with graph.inserting_after(last):
                last = lifted[node.target] = graph.placeholder(f"constant_{len(constants)}")
            constants.append(getattr(module, node.target))
        node.replace_all_uses_with(lifted[node.target])
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
    return module, tuple(constants)


def _name(module: torch.fx.GraphModule, arguments: Sequence[Tensor]) -> str:
    shapes = [(tuple(x.shape), tuple(x.stride()), str(x.dtype), str(x.device)) for x in arguments]
    machine = (torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability())
    return hashlib.sha256(repr((module.code, shapes, machine)).encode()).hexdigest()[:32]


def _build(module: torch.fx.GraphModule, arguments: Sequence[Tensor], place: Path) -> None:
    import torch._inductor

    logger.info("compiling a step, once for this energy and these shapes")
    place.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=place.parent) as folder:
        warnings.simplefilter("ignore")  # torch's own, about its own parts
        exported = torch.export.export(module, tuple(arguments))
        made = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "step.pt2"))
        os.replace(made, place)


def _load(place: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """What runs a library; without torch's Python part of the compiler, whose import takes longer than all the rest."""
    try:
        from torch._C._aoti import AOTIModelPackageLoader

        run: Callable[[list[Tensor]], list[Tensor]] = AOTIModelPackageLoader(str(place), "model", True, 1, -1).run
    except (ImportError, TypeError):  # another release of torch
        import torch._inductor

        whole = torch._inductor.aoti_load_package(str(place))
        return lambda arguments: list(whole(*arguments))
    return run
