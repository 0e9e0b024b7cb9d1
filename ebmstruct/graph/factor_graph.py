"""A factor graph: an energy over the assignments of a batch of instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.assignment import Assignment, Values
from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.factors import Factor
from ebmstruct.graph.guess import Guess, check_guess, guess_under, joined_guess
from ebmstruct.graph.topology import Topology
from ebmstruct.graph.variables import Variables


class FactorGraph:
    """The sum of factors over blocks of variables: a disjoint union of B instances, flat and ragged.

    Immutable: ``condition``, ``add``, ``with_values``, ``repeat`` and ``select`` return new graphs, which share what they
    can.

    evidence: what ``condition`` has clamped; sites keep their numbers, and energies count clamped values.
    constant: (B,) energies that depend on nothing, or None.
    guess: what the energy model's own network proposes, or None: block name to weights (n, K) over the states of a
    discrete block, rows of sum 1, or to values (n, d). Differentiable, no part of the energy; graphs made from this one
    keep it, and evidence wins over it.
    """

    def __init__(
        self,
        variables: Sequence[Variables],
        factors: Sequence[Factor],
        *,
        constant: Tensor | None = None,
        evidence: Assignment | None = None,
        topology: Topology | None = None,
        guess: Guess | None = None,
    ) -> None:
        self.topology = Topology(variables, factors) if topology is None else topology
        self.factors = tuple(factors)
        self.constant = constant
        self.evidence = evidence
        self.guess = None if guess is None else dict(guess)
        if self.guess is not None:
            check_guess(self.guess, self.topology.variables)
        if constant is not None and constant.shape != (self.num_instances,):
            raise GraphError(f"constant has shape {tuple(constant.shape)}; ({self.num_instances},) is needed")

    @property
    def variables(self) -> Mapping[str, Variables]:
        """The blocks, by name."""
        return self.topology.variables

    @property
    def num_instances(self) -> int:
        """B."""
        return self.topology.num_instances

    def scope(self, factor: Factor) -> tuple[Variables, ...]:
        """The blocks in a factor's scope."""
        return self.topology.scope(factor)

    def energy(self, y: Values) -> Tensor:
        """(B,) float64: the energy of each instance under ``y``, differentiable in the factors' values.

        Every block needs values, except those that the evidence clamps whole. Clamped sites count with their
        clamped value whatever ``y`` says there; a state outside an allowed set has infinite energy.
        """
        values = self.complete(y)
        out = self._forbidden(values)
        for factor in self.factors:
            part = factor.instance_energies([values[n] for n in factor.scope], self.scope(factor))
            out = part if out is None else out + part
        if self.constant is not None:
            out = self.constant if out is None else out + self.constant
        if out is None:
            return torch.zeros(self.num_instances, dtype=torch.float64)
        return out.double()

    def relaxed_energy(self, weights: Values) -> Tensor:
        """(B,) float64: the energy where discrete blocks have weights (n, K) over states; other blocks have values.

        For tables it is the mean energy under independent draws by the weights: linear in the weights of each site,
        equal to ``energy`` where they are 0 or 1, so that its least value is the least energy. A BlockFactor needs
        ``relaxed=True``. Differentiable in the weights and in the factors' values. Errors: GraphError.
        """
        from ebmstruct.graph.relaxation import relaxed_energy

        return relaxed_energy(self, weights)

    def factor_energies(self, y: Values) -> dict[str, Tensor]:
        """Label to the energies of each factor's rows under ``y``: (m,), or (B,) for factors without rows."""
        values = self.complete(y)
        return {f.label: f.energies([values[n] for n in f.scope], self.scope(f)) for f in self.factors}

    def conditionals(self, block: str, y: Values) -> Tensor:
        """(n, K): the energy of each state of each site of a discrete block, all other sites as in ``y``.

        Each row is right up to a constant; states that a site does not have, or that the evidence excludes, are
        infinite. Cost: one look-up a state for tables and chains, K evaluations a position for other factors.
        """
        owner = self.variables[block]
        values = self.complete(y)
        device = owner.offsets.device
        out = torch.zeros(owner.num_sites, owner.discrete.largest, dtype=torch.float64, device=device)
        for factor in self.factors:
            if block in factor.scope:
                out = out + factor.conditionals(block, [values[n] for n in factor.scope], self.scope(factor))
        allowed = self.allowed(block)
        if allowed is not None:
            out = out.masked_fill(~allowed, torch.inf)
        if not owner.discrete.uniform:
            out = out.masked_fill(torch.arange(out.shape[1], device=device) >= owner.state_counts[:, None], torch.inf)
        return out

    def complete(self, y: Values) -> dict[str, Tensor]:
        """The values of every block: ``y``, with clamped sites at their clamped values."""
        out: dict[str, Tensor] = {}
        fixed = self.evidence
        for name, block in self.variables.items():
            given = y.get(name)
            if fixed is not None and name in fixed.values:
                mask = fixed.known.get(name)
                if mask is None:
                    given = fixed.values[name]
                elif given is not None:
                    shape = (-1,) + (1,) * (given.dim() - 1)
                    given = torch.where(mask.reshape(shape), fixed.values[name].to(given.dtype), given)
            if given is None:
                raise GraphError(f"no values for block {name!r}; the assignment has {list(y)}")
            if given.shape[0] != block.num_sites:
                raise GraphError(f"block {name!r} has {block.num_sites} sites; found {given.shape[0]} values")
            out[name] = given
        return out

    def allowed(self, block: str) -> Tensor | None:
        """(n, K) bool: the states that the evidence leaves to each site of a discrete block; None for all."""
        if self.evidence is None:
            return None
        out = self.evidence.allowed.get(block)
        if block in self.evidence.values:
            owner = self.variables[block]
            states = torch.arange(owner.discrete.largest, device=owner.offsets.device)
            only = self.evidence.values[block][:, None] == states
            known = self.evidence.known.get(block)
            if known is not None:
                only = only | ~known[:, None]
            out = only if out is None else out & only
        return out

    def condition(self, fixed: Assignment) -> FactorGraph:
        """Clamp the sites that ``fixed`` knows, and restrict those for which it allows some states only.

        Sites keep their numbers, so values found for the new graph are values for this one. Evidence adds up: a
        site clamped before must not be clamped to another value.
        """
        self._check_evidence(fixed)
        if self.evidence is not None:
            fixed = self._merge(self.evidence, fixed)
        guess = None if self.guess is None else guess_under(self.guess, fixed, self.variables)
        return FactorGraph(
            (), self.factors, constant=self.constant, evidence=fixed, topology=self.topology, guess=guess
        )

    def with_guess(self, guess: Guess | None) -> FactorGraph:
        """The graph with another first guess, as the evidence leaves it, or with none."""
        if guess is not None and self.evidence is not None:
            check_guess(guess, self.variables)
            guess = guess_under(guess, self.evidence, self.variables)
        return FactorGraph(
            (), self.factors, constant=self.constant, evidence=self.evidence, topology=self.topology, guess=guess
        )

    def add(self, *factors: Factor) -> FactorGraph:
        """The graph with more factors over the same blocks; energies add up."""
        blocks = tuple(self.variables.values())
        return FactorGraph(
            blocks, (*self.factors, *factors), constant=self.constant, evidence=self.evidence, guess=self.guess
        )

    def with_values(self, values: Mapping[str, Tensor | Sequence[Tensor | None]]) -> FactorGraph:
        """The same topology with other values for the factors named: label to one tensor or to all value tensors."""
        unknown = set(values) - {f.label for f in self.factors}
        if unknown:
            raise GraphError(
                f"no factor is labelled {sorted(unknown)}; the labels are {[f.label for f in self.factors]}"
            )
        replaced = []
        for factor in self.factors:
            if factor.label in values:
                given = values[factor.label]
                factor = factor.with_values(*((given,) if isinstance(given, Tensor) else given))
                factor.check_values(self.scope(factor))
            replaced.append(factor)
        return FactorGraph(
            (), replaced, constant=self.constant, evidence=self.evidence, topology=self.topology, guess=self.guess
        )

    def repeat(self, times: int) -> FactorGraph:
        """``times`` copies of every instance, copy after copy (B * times instances); tables are not copied.

        The copies' topology is made once, with whatever is derived from it.
        """
        if self.evidence is not None:
            evidence = Assignment(
                *({k: v.repeat(times, *[1] * (v.dim() - 1)) for k, v in part.items()} for part in _parts(self.evidence))
            )
        else:
            evidence = None
        factors = [f.repeat(times, self.scope(f)) for f in self.factors]
        constant = None if self.constant is None else self.constant.repeat(times)
        topology = self.topology.derive(
            ("repeat", times), lambda: Topology([v.repeat(times) for v in self.variables.values()], factors)
        )
        guess = None if self.guess is None else {n: g.repeat(times, 1) for n, g in self.guess.items()}
        return FactorGraph((), factors, constant=constant, evidence=evidence, topology=topology, guess=guess)

    def select(self, instances: Tensor) -> FactorGraph:
        """The graph of some instances only, in the order given.

        instances: (b,) long, each at most once. Values for its blocks are those at ``Variables.sites_of(instances)``.
        Errors: GraphError where a factor cannot be taken apart.
        """
        blocks = {n: v.select(instances) for n, v in self.variables.items()}
        factors = [f.select(instances, self.scope(f)) for f in self.factors]

        def mine(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
            found = {n: v[self.variables[n].sites_of(instances)] for n, v in part.items()}
            # what has a column for each state has fewer where no instance chosen has the last states
            return {
                n: v[:, : blocks[n].discrete.largest] if v.dim() == 2 and isinstance(blocks[n].domain, Discrete) else v
                for n, v in found.items()
            }

        evidence = None if self.evidence is None else Assignment(*(mine(part) for part in _parts(self.evidence)))
        constant = None if self.constant is None else self.constant[instances]
        guess = None if self.guess is None else mine(self.guess)
        return FactorGraph(tuple(blocks.values()), factors, constant=constant, evidence=evidence, guess=guess)

    def to(self, device: torch.device | str) -> FactorGraph:
        """The graph with every tensor on ``device``."""
        from ebmstruct.graph.moving import move

        return move(self, torch.device(device))

    def _forbidden(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """(B,) zero, or infinite where a value lies outside the states that the evidence allows."""
        out = None
        for name in self.evidence.allowed if self.evidence is not None else ():
            block = self.variables[name]
            assert self.evidence is not None
            bad = ~self.evidence.allowed[name].gather(1, values[name][:, None])[:, 0]
            part = torch.zeros(self.num_instances, dtype=torch.float64, device=bad.device)
            part = part.index_add(0, block.instance, torch.where(bad, torch.inf, 0.0).double())
            out = part if out is None else out + part
        return out

    def _check_evidence(self, fixed: Assignment) -> None:
        for part in _parts(fixed):
            for name, tensor in part.items():
                if name not in self.variables:
                    raise GraphError(f"evidence for block {name!r}; the graph's blocks are {list(self.variables)}")
                if tensor.shape[0] != self.variables[name].num_sites:
                    raise GraphError(
                        f"evidence for block {name!r} covers {tensor.shape[0]} sites; it has "
                        f"{self.variables[name].num_sites}"
                    )
        for name, value in fixed.values.items():
            block = self.variables[name]
            if isinstance(block.domain, Discrete) and value.numel():
                outside = (value < 0) | (value >= block.state_counts)
                if name in fixed.known:
                    outside &= fixed.known[name]
                if bool(outside.any()):
                    site = int(outside.nonzero()[0])
                    raise GraphError(
                        f"evidence clamps site {site} of {name!r} to state {int(value[site])}; it has states 0 to "
                        f"{int(block.state_counts[site]) - 1}"
                    )

    def _merge(self, old: Assignment, new: Assignment) -> Assignment:
        values, known = dict(old.values), dict(old.known)
        for name, value in new.values.items():
            if name not in values:
                values[name] = value
                if name in new.known:
                    known[name] = new.known[name]
                continue
            everywhere = torch.ones(value.shape[0], dtype=torch.bool, device=value.device)
            mine, theirs = known.get(name, everywhere), new.known.get(name, everywhere)
            differs = (values[name] != value).reshape(value.shape[0], -1).any(1) & mine & theirs
            if bool(differs.any()):
                raise GraphError(f"site {int(differs.nonzero()[0])} of {name!r} is clamped already, to another value")
            shape = (-1,) + (1,) * (value.dim() - 1)
            values[name] = torch.where(theirs.reshape(shape), value, values[name])
            known[name] = mine | theirs
            if bool(known[name].all()):
                del known[name]  # clamped whole: nobody need give values
        allowed = dict(old.allowed)
        for name, states in new.allowed.items():
            allowed[name] = states & allowed[name] if name in allowed else states
        return Assignment(values, known, allowed)

    def __repr__(self) -> str:
        blocks = ", ".join(f"{v.name}: {v.domain} x {v.num_sites}" for v in self.variables.values())
        terms = ", ".join(f"{f.label}: {type(f).__name__}{f.scope}" for f in self.factors)
        return f"FactorGraph({self.num_instances} instances; {blocks}; {terms})"


def union(graphs: Sequence[FactorGraph]) -> FactorGraph:
    """The disjoint union of graphs with the same blocks and factors: a batch of all their instances, in order."""
    if not graphs:
        raise GraphError("a union needs at least one graph")
    first = graphs[0]
    for other in graphs[1:]:
        if other.topology.names != first.topology.names or [f.label for f in other.factors] != [
            f.label for f in first.factors
        ]:
            raise GraphError(
                f"a union needs the same blocks and factor labels in every graph; found {first} and {other}"
            )
    if any(g.evidence is not None for g in graphs):
        raise GraphError("a union of conditioned graphs is not defined; take the union first, then condition it")
    blocks = [_union_block([g.variables[name] for g in graphs]) for name in first.topology.names]
    factors = []
    for i, factor in enumerate(first.factors):
        parts = [g.factors[i] for g in graphs]
        factors.append(factor.concatenate(parts[1:], [g.scope(f) for g, f in zip(graphs, parts, strict=True)]))
    constant = None
    if any(g.constant is not None for g in graphs):
        zeros = [torch.zeros(g.num_instances, dtype=torch.float64) for g in graphs]
        constant = torch.cat([z if g.constant is None else g.constant for g, z in zip(graphs, zeros, strict=True)])
    guess = joined_guess([g.guess for g in graphs], {v.name: v for v in blocks})
    return FactorGraph(blocks, factors, constant=constant, guess=guess)


def _union_block(parts: Sequence[Variables]) -> Variables:
    domain = parts[0].domain
    if isinstance(domain, Discrete):
        counts = {p.discrete.num_states if p.discrete.uniform else None for p in parts}
        if len(counts) > 1 or None in counts:
            domain = Discrete(torch.cat([p.state_counts for p in parts]))
    elif any(p.domain != domain for p in parts):
        raise GraphError(f"a union needs one domain for block {parts[0].name!r}; found {[p.domain for p in parts]}")
    return Variables.of_lengths(parts[0].name, domain, torch.cat([p.lengths for p in parts]))


def _parts(assignment: Assignment) -> tuple[Mapping[str, Tensor], ...]:
    return assignment.values, assignment.known, assignment.allowed
