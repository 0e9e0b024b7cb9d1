"""Score matching and ratio matching against closed forms, enumeration, finite differences, and models that made data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.learning.losses import score_matching
from ebmstruct.learning.losses.output_energy import OutputEnergy
from ebmstruct.learning.losses.probes import probes

F64 = torch.float64
FORMS = (
    es.ScoreMatching(form="exact"),
    es.ScoreMatching(form="sliced"),
    es.ScoreMatching(form="sliced", variance_reduced=False, direction="normal", projections=2),
    es.ScoreMatching(form="denoising", sigma=(0.2, 0.4)),
)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def quartic(precision: Tensor, lengths: list[int]) -> tuple[es.FactorGraph, es.Assignment]:
    """Vectors z (d numbers a site) with energy z' P z / 2 + sum z^4 / 10 + (sum of the instance's coordinates)^2 / 4."""
    d = precision.shape[0]
    block = es.Variables.of_lengths("z", es.Real(d), lengths)

    def energy(z: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        own = 0.5 * ((z @ precision) * z).sum(1) + 0.1 * z.pow(4).sum(1)
        batch = offsets[0].numel() - 1
        instance = torch.repeat_interleave(torch.arange(batch), offsets[0].diff())
        out = own.new_zeros(batch).index_add(0, instance, own)
        return out + 0.25 * own.new_zeros(batch).index_add(0, instance, z.sum(1)).square()

    graph = es.FactorGraph([block], [es.BlockFactor(("z",), "quartic", energy)])
    return graph, es.Assignment({"z": normal(sum(lengths), d, seed=5)})


def dense_objective(graph: es.FactorGraph, target: es.Assignment, temperature: float = 1.0) -> list[float]:
    """Hyvärinen's objective by the full gradient and Hessian of each instance's energy."""
    z, block = target["z"], graph.variables["z"]
    out = []
    for b in range(graph.num_instances):
        low, high = int(block.offsets[b]), int(block.offsets[b + 1])
        if low == high:
            out.append(0.0)
            continue

        def one(part: Tensor, low: int = low, high: int = high, b: int = b) -> Tensor:
            whole = torch.cat([z[:low], part.reshape(high - low, z.shape[1]), z[high:]])
            return graph.energy({"z": whole})[b] / temperature

        flat = z[low:high].reshape(-1)
        gradient = torch.autograd.functional.jacobian(one, flat)
        hessian = torch.autograd.functional.hessian(one, flat)
        out.append(float(0.5 * gradient.square().sum() - hessian.diagonal().sum()))
    return out


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("together", [0, 100, 10**6], ids=["one by one", "in pieces", "at once"])
def test_exact_score_matching_equals_the_dense_hessian(
    temperature: float, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over ragged instances, one of them empty, the objective is that of the dense gradient and Hessian."""
    monkeypatch.setattr(score_matching, "TOGETHER", together)
    precision = torch.eye(3, dtype=F64) + 0.1
    graph, target = quartic(precision, [3, 0, 1])
    value = es.ScoreMatching(form="exact", temperature=temperature)(graph, target).value
    assert value.tolist() == pytest.approx(dense_objective(graph, target, temperature), rel=1e-10)


@pytest.mark.parametrize(
    "loss",
    [
        es.ScoreMatching(form="sliced", projections=4000),
        es.ScoreMatching(form="sliced", projections=4000, direction="normal"),
        es.ScoreMatching(form="sliced", projections=4000, variance_reduced=False),
    ],
    ids=["signs", "normal", "plain"],
)
def test_sliced_score_matching_is_exact_in_the_mean(loss: es.ScoreMatching) -> None:
    """The mean of 20 estimates of 200 projections each lies within four standard errors of the exact objective."""
    graph, target = quartic(torch.eye(2, dtype=F64) + 0.3, [2, 1])
    exact = es.ScoreMatching(form="exact")(graph, target).value
    generator = seeded(1)
    part = dataclasses.replace(loss, projections=200)
    draws = torch.stack([part(graph, target, generator=generator).value.detach() for _ in range(20)])
    error = draws.std(0) / math.sqrt(20)
    assert bool(((draws.mean(0) - exact).abs() <= 4 * error + 1e-9).all())


def test_denoising_is_the_closed_form_in_the_mean() -> None:
    """For the energy z' A z / 2: the mean of |e - s A (z + s e)|^2 / 2 is (s^2 |A z|^2 + |1 - s^2 A|^2) / 2."""
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)
    block = es.Variables.of_lengths("z", es.Real(2), [1, 1])
    graph = es.FactorGraph([block], [es.BlockFactor(("z",), "e", lambda z, o: 0.5 * ((z @ a) * z).sum(1))])
    z = normal(2, 2)
    s = 0.6
    expected = 0.5 * (s**2 * (z @ a).square().sum(1) + (torch.eye(2, dtype=F64) - s**2 * a).square().sum())
    generator = seeded(2)
    for antithetic in (True, False):
        loss = es.ScoreMatching(form="denoising", sigma=s, samples=500, antithetic=antithetic)
        draws = torch.stack(
            [loss(graph, es.Assignment({"z": z}), generator=generator).value.detach() for _ in range(20)]
        )
        error = draws.std(0) / math.sqrt(20)
        assert bool(((draws.mean(0) - expected).abs() <= 4 * error).all())


def chain_of_points(stiff: Tensor, lengths: list[int], *, states: int = 0) -> es.FactorGraph:
    """Points on a line in a chain of springs; with ``states`` a latent state at each site that pulls it to a place."""
    z = es.Variables.of_lengths("z", es.Real(2), lengths)
    n = z.num_sites
    later = torch.tensor([i for i in range(n) if i not in z.offsets.tolist()], dtype=torch.long)
    factors: list[es.Factor] = [
        es.ResidualFactor(
            ("z",), "own", lambda p, w: p * w, torch.arange(n)[None], (stiff[0].expand(n, 1),), linear=True
        ),
        es.ResidualFactor(
            ("z", "z"),
            "spring",
            lambda a, b, w: (b - a - 1.0) * w,
            torch.stack([later - 1, later]),
            (stiff[1].expand(len(later), 1),),
            linear=True,
        ),
    ]
    blocks = [z]
    if states:
        blocks.append(es.Variables.of_lengths("h", es.Discrete(states), lengths))
        places = stiff[2] * torch.arange(states, dtype=F64)
        factors.append(
            es.ResidualFactor(
                ("z", "h"),
                "pull",
                lambda p, h, w: (p - w[0, h, None]) / 0.7,
                torch.stack([torch.arange(n)] * 2),
                (places.expand(n, -1),),
                linear=True,
            )
        )
    return es.FactorGraph(blocks, factors)


def test_a_chain_takes_two_colours() -> None:
    """Sites of a chain are probed in two sets, each for both coordinates: four products, not two a site."""
    graph = chain_of_points(torch.tensor([1.0, 2.0], dtype=F64), [9, 4])
    target = es.Assignment({"z": normal(13, 2)})
    assert len(probes(OutputEnergy.of(graph, target), ("z",))) == 4
    value = es.ScoreMatching(form="exact")(graph, target).value
    assert value.tolist() == pytest.approx(dense_objective(graph, target), rel=1e-10)


def latent_graph(kind: str, w: Tensor) -> tuple[es.FactorGraph, es.Assignment, Callable[[Tensor], Tensor]]:
    """A graph with latent sites, its target, and F by hand as a function of one instance's flat z."""
    if kind == "discrete chain":  # three points, three latent states in a chain of their own
        graph = chain_of_points(w, [3], states=2)
        table = w[0] * torch.tensor([[0.0, 1.0], [0.5, 0.0]], dtype=F64)
        graph = graph.add(es.ChainFactor(("h",), "switch", table))
        target = es.Assignment({"z": normal(3, 2, seed=3)})

        def free(z: Tensor) -> Tensor:
            energies = [
                graph.energy({"z": z.reshape(3, 2), "h": torch.tensor([a, b, c])})[0]
                for a in range(2)
                for b in range(2)
                for c in range(2)
            ]
            return -torch.logsumexp(-torch.stack(energies), 0)

        return graph, target, free
    if kind == "discrete sites":
        graph = chain_of_points(w, [2], states=3)

        def free_sites(z: Tensor) -> Tensor:
            energies = [
                graph.energy({"z": z.reshape(2, 2), "h": torch.tensor([a, b])})[0] for a in range(3) for b in range(3)
            ]
            return -torch.logsumexp(-torch.stack(energies), 0)

        return graph, es.Assignment({"z": normal(2, 2, seed=3)}), free_sites
    # a site in the middle of a chain of three is not known: its integral is Gaussian
    graph = chain_of_points(w, [3])
    known = torch.tensor([True, False, True])
    z = normal(3, 2, seed=3)
    target = es.Assignment({"z": torch.where(known[:, None], z, torch.nan)}, known={"z": known})
    curvature = w[0].square() + 2 * w[1].square()

    def free_middle(ends: Tensor) -> Tensor:
        first, last = ends.reshape(2, 2)
        mode = w[1].square() * ((first + 1.0) + (last - 1.0)) / curvature
        energy = graph.energy({"z": torch.stack([first, mode, last])})[0]
        return energy + 0.5 * 2 * (curvature / (2 * math.pi)).log()

    return graph, target, free_middle


@pytest.mark.parametrize("kind", ["discrete chain", "discrete sites", "continuous"])
def test_latent_sites_are_summed_out(kind: str) -> None:
    """With latent sites, discrete or continuous, score matching is that of the free energy by hand, gradient included."""
    w = torch.tensor([0.8, 1.2, 1.5], dtype=F64, requires_grad=True)
    graph, target, _ = latent_graph(kind, w)
    value = es.ScoreMatching(form="exact")(graph, target).value.sum()
    (gradient,) = torch.autograd.grad(value, w)
    z = target["z"][target.known["z"]] if "z" in target.known else target["z"]

    def by_hand(parameters: Tensor) -> Tensor:
        own = latent_graph(kind, parameters)[2]
        leaf = z.reshape(-1).clone().requires_grad_()
        (slope,) = torch.autograd.grad(own(leaf), leaf, create_graph=True)
        bent = [torch.autograd.grad(slope[i], leaf, create_graph=True)[0][i] for i in range(leaf.numel())]
        return 0.5 * slope.square().sum() - torch.stack(bent).sum()

    expected = by_hand(w)
    assert value.item() == pytest.approx(expected.item(), rel=1e-8)
    assert gradient.tolist() == pytest.approx(torch.autograd.grad(expected, w)[0].tolist(), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("loss", FORMS, ids=["exact", "sliced", "plain sliced", "denoising"])
@pytest.mark.parametrize("kind", ["points", "discrete chain", "continuous", "rotations"])
def test_the_gradient_equals_finite_differences(loss: es.ScoreMatching, kind: str) -> None:
    """Autograd agrees with central differences, the noise being the same, to 1e-6 of the largest entry."""
    start = torch.tensor([0.8, 1.2, 1.5], dtype=F64)

    def value(w: Tensor) -> Tensor:
        if kind == "rotations":
            graph, target = rotations(w)
        elif kind == "points":
            graph, target = chain_of_points(w, [3, 1]), es.Assignment({"z": normal(4, 2)})
        else:
            graph, target, _ = latent_graph(kind, w)
        return loss(graph, target, generator=seeded(4)).value.sum()

    leaf = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf, allow_unused=True)
    numeric = []
    for i in range(3):
        step = 1e-5 * torch.nn.functional.one_hot(torch.tensor(i), 3)
        numeric.append(float((value(start + step) - value(start - step)).detach()) / 2e-5)
    scale = max(abs(x) for x in numeric)
    assert gradient.tolist() == pytest.approx(numeric, abs=1e-6 * scale)


def rotations(w: Tensor) -> tuple[es.FactorGraph, es.Assignment]:
    """Two rotations of space that like each other, and a pose in the plane."""
    turn = es.Variables.of_lengths("turn", es.SO3(), [2])
    pose = es.Variables.of_lengths("pose", es.SE2(), [1])

    def energy(q: Tensor, p: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        first, second = q[::2], q[1::2]
        pair = w[0] * (1 - (first * second).sum(1).square()) + w[1] * first[:, 1] * first[:, 2]
        return pair + w[2] * (p[:, :2].square().sum(1) - p[:, 2] * p[:, 0])

    q = torch.nn.functional.normalize(normal(2, 4, seed=7), dim=1)
    p = torch.tensor([[0.3, -0.4, math.cos(1.0), math.sin(1.0)]], dtype=F64)
    graph = es.FactorGraph([turn, pose], [es.BlockFactor(("turn", "pose"), "e", energy)])
    return graph, es.Assignment({"turn": q, "pose": p})


def test_directions_on_the_circle_by_hand() -> None:
    """For -k cos(a - m) the objective is k^2 sin^2(a - m) / 2 - k cos(a - m) (Mardia, Kent and Laha 2016)."""
    k, a = 1.7, torch.tensor([0.4, 2.0, -1.0], dtype=F64)
    block = es.Variables.of_lengths("r", es.SO2(), [1, 1, 1])
    graph = es.FactorGraph([block], [es.BlockFactor(("r",), "e", lambda r, o: -k * r[:, 0])])
    target = es.Assignment({"r": torch.stack([a.cos(), a.sin()], 1)})
    value = es.ScoreMatching(form="exact")(graph, target).value
    assert value.tolist() == pytest.approx((0.5 * k**2 * a.sin().square() - k * a.cos()).tolist(), rel=1e-12)


def test_integration_by_parts_holds_on_rotations() -> None:
    """On rotations the objective's mean under a density p is half that of |s - s_p|^2 less that of |s_p|^2.

    By importance weights of 20,000 uniform rotations, with p of energy -a x^2 and the model's -b w^2 of quaternions
    (w, x, y, z); checked within four standard errors.
    """
    n = 20000
    q = torch.nn.functional.normalize(normal(n, 4, seed=11), dim=1)
    block = es.Variables.of_lengths("q", es.SO3(), [1] * n)

    def graph(place: int, strength: float) -> es.FactorGraph:
        return es.FactorGraph([block], [es.BlockFactor(("q",), "e", lambda r, o: -strength * r[:, place].square())])

    def score(of: es.FactorGraph) -> Tensor:
        leaf = torch.zeros(n, 3, dtype=F64, requires_grad=True)
        return torch.autograd.grad(of.energy({"q": es.SO3().retract(q, leaf)}).sum(), leaf)[0]

    model, truth = graph(0, 2.0), graph(1, 1.5)
    objective = es.ScoreMatching(form="exact")(model, es.Assignment({"q": q})).value
    own, other = score(model), score(truth)
    distance = 0.5 * ((own - other).square() - other.square()).sum(1)
    weight = (-truth.energy({"q": q})).softmax(0) * n
    apart = weight * (objective - distance)
    assert abs(float(apart.mean())) <= 4 * float(apart.std()) / math.sqrt(n)


def test_denoising_on_rotations_finds_the_score_of_the_noise() -> None:
    """With the noise's own density as energy every residual is 0: the normal one over (sin(a/2) / (a/2))^2."""
    sigma = 0.5
    block = es.Variables.of_lengths("q", es.SO3(), [1] * 50)
    centre = torch.nn.functional.normalize(normal(50, 4, seed=2), dim=1)

    def energy(q: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        about = centre.repeat(q.shape[0] // 50, 1)
        step = es.SO3().local(about, q)
        angle = step.norm(dim=1)
        return 0.5 * angle.square() / sigma**2 + 2 * ((0.5 * angle).sin() / (0.5 * angle)).log()

    graph = es.FactorGraph([block], [es.BlockFactor(("q",), "e", energy)])
    value = es.ScoreMatching(form="denoising", sigma=sigma)(graph, es.Assignment({"q": centre})).value
    assert float(value.abs().max()) < 1e-16


def test_bounded_coordinates_by_hand() -> None:
    """For exp(-r x) on x >= 0 the weighted objective is x^2 r^2 / 2 - 2 x r, least at r = 2 <x> / <x^2> = rate."""
    x = torch.tensor([[0.5], [2.0]], dtype=F64)
    rate = torch.tensor(1.3, dtype=F64)
    block = es.Variables.of_lengths("x", es.Real(1, lower=0.0), [1, 1])
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "e", lambda v, o: rate * v[:, 0])])
    target = es.Assignment({"x": x})
    value = es.ScoreMatching(form="exact")(graph, target).value
    assert value.tolist() == pytest.approx((0.5 * (x * rate).square() - 2 * x * rate)[:, 0].tolist())
    assert "leaves its bounds" in str(es.ScoreMatching(form="denoising").refuse(graph, target))


def test_a_truncated_normal_on_an_interval_is_learned() -> None:
    """The weighted objective finds mean 0.8 and precision 4 of a normal cut off at 0 and 1, from 20,000 draws."""
    draws = 0.8 + 0.5 * normal(60000, seed=8)
    x = draws[(draws > 0) & (draws < 1)][:20000, None]
    n = len(x)
    block = es.Variables.of_lengths("x", es.Real(1, 0.0, 1.0), [1] * n)
    w = torch.zeros(2, dtype=F64, requires_grad=True)
    graph = es.FactorGraph(
        [block], [es.BlockFactor(("x",), "e", lambda v, o: 0.5 * w[0] * v[:, 0] ** 2 - w[1] * v[:, 0])]
    )
    found = minimum(lambda: es.ScoreMatching(form="exact")(graph, es.Assignment({"x": x})).value.mean(), w)
    assert float(found[0]) == pytest.approx(4.0, abs=0.5) and float(found[1] / found[0]) == pytest.approx(0.8, abs=0.05)


def minimum(objective: Callable[[], Tensor], w: Tensor) -> Tensor:
    """The parameters at which an objective is least, by L-BFGS."""
    optimizer = torch.optim.LBFGS([w], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return w.detach()


@pytest.mark.parametrize("form", ["exact", "sliced", "denoising"])
def test_a_precision_matrix_is_learned(form: str) -> None:
    """From 4,000 draws of a Gaussian: exact score matching gives the inverse sample covariance, the others come near.

    Denoising learns the blurred density, whose precision is (C + s^2)^-1.
    """
    truth = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.5, -0.4], [0.0, -0.4, 1.0]], dtype=F64)
    n = 4000
    x = normal(n, 3, seed=1) @ torch.linalg.cholesky(torch.linalg.inv(truth)).T
    block = es.Variables.of_lengths("x", es.Real(3), [1] * n)
    w = torch.eye(3, dtype=F64).requires_grad_()
    graph = es.FactorGraph(
        [block], [es.BlockFactor(("x",), "e", lambda v, o: 0.5 * ((v @ (0.5 * (w + w.T))) * v).sum(1))]
    )
    loss = {
        "exact": FORMS[0],
        "sliced": es.ScoreMatching(projections=4),
        "denoising": es.ScoreMatching(form="denoising", sigma=0.5, samples=20),
    }[form]
    found = minimum(lambda: loss(graph, es.Assignment({"x": x}), generator=seeded(3)).value.mean(), w)
    second = x.T @ x / n
    wanted = torch.linalg.inv(second + (0.25 * torch.eye(3, dtype=F64) if form == "denoising" else 0.0))
    found = 0.5 * (found + found.T)
    assert float((found - wanted).abs().max()) < {"exact": 1e-5, "sliced": 0.05, "denoising": 0.05}[form]
    if form != "denoising":
        assert float((found - truth).abs().max()) < 0.15  # three standard errors, sqrt(2 / 4000) of an entry of 2


def test_scores_are_conditional_on_what_is_clamped() -> None:
    """Sites that the graph's evidence clamps have no score: the objective is that of the other coordinates."""
    graph = chain_of_points(torch.tensor([1.0, 2.0], dtype=F64), [3])
    z = normal(3, 2)
    seen = es.Assignment({"z": z}, known={"z": torch.tensor([True, False, False])})
    value = es.ScoreMatching(form="exact")(graph.condition(seen), es.Assignment({"z": z})).value
    # by hand: w0 = 1, w1 = 2; site 1 has curvature 1 + 2 * 4 a coordinate, site 2 has 1 + 4
    g1 = z[1] + 4 * (z[1] - z[0] - 1) - 4 * (z[2] - z[1] - 1)
    g2 = z[2] + 4 * (z[2] - z[1] - 1)
    expected = 0.5 * float(g1.square().sum() + g2.square().sum()) - 2 * (9.0 + 5.0)
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_a_batch_equals_the_loop() -> None:
    """The exact loss of each instance is the same alone and in a batch."""
    w = torch.tensor([0.8, 1.2, 1.5], dtype=F64)
    z = normal(6, 2)
    whole = es.ScoreMatching(form="exact")(chain_of_points(w, [3, 1, 2], states=2), es.Assignment({"z": z})).value
    parts = z.split([3, 1, 2])
    alone = [
        float(es.ScoreMatching(form="exact")(chain_of_points(w, [len(p)], states=2), es.Assignment({"z": p})).value)
        for p in parts
    ]
    assert whole.tolist() == pytest.approx(alone, rel=1e-10)


def test_refusals() -> None:
    """Discrete outputs, constraints, latents without an exact sum, and energies without a second derivative are refused."""
    z = es.Variables.of_lengths("z", es.Real(1), [1])
    y = es.Variables.of_lengths("y", es.Discrete(2), [1])
    both = es.FactorGraph([z, y], [es.TableFactor(("y",), "t", torch.zeros(1, 2)), square(z)])
    full = es.Assignment({"z": torch.zeros(1, 1), "y": torch.zeros(1, dtype=torch.long)})
    with pytest.raises(es.LossRefusal, match="discrete block 'y'"):
        es.ScoreMatching()(both, full)
    assert es.ScoreMatching().refuse(both, es.Assignment({"z": torch.zeros(1, 1)})) is None
    wall = es.ResidualFactor(
        ("z",), "wall", lambda p: p - 1, torch.zeros(1, 1, dtype=torch.long), constraint="inequality"
    )
    with pytest.raises(es.LossRefusal, match="constraint"):
        es.ScoreMatching()(es.FactorGraph([z], [square(z), wall]), es.Assignment({"z": torch.zeros(1, 1)}))
    u = es.Variables.of_lengths("u", es.Real(1), [1])
    bent = es.BlockFactor(("z", "u"), "bent", lambda a, b, o: (a[:, 0] - b[:, 0].sin()).square() + b[:, 0].square())
    with pytest.raises(es.LossRefusal, match="not exact"):
        es.ScoreMatching()(es.FactorGraph([z, u], [bent]), es.Assignment({"z": torch.zeros(1, 1)}))
    hidden = es.BlockFactor(("z",), "hidden", lambda a, o: a[:, 0].detach())
    with pytest.raises(es.LossRefusal, match="no derivative"):
        es.ScoreMatching()(es.FactorGraph([z], [hidden]), es.Assignment({"z": torch.zeros(1, 1)}))
    once = es.BlockFactor(("z",), "once", lambda a, o: Once.apply(a)[:, 0])  # type: ignore[no-untyped-call]
    with pytest.raises(es.LossRefusal, match="once only"):
        es.ScoreMatching()(es.FactorGraph([z], [once]), es.Assignment({"z": torch.ones(1, 1)}))


class Once(torch.autograd.Function):
    """The square, differentiable once."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * x * grad


def square(block: es.Variables) -> es.Factor:
    """Half the square of a block's points."""
    index = torch.arange(block.num_sites)[None]
    return es.ResidualFactor((block.name,), "square", lambda p: p, index, linear=True)


def test_values_carry_a_record_of_parameters_only() -> None:
    """Without parameters, or without gradients, the value has no record; with a parameter hidden in a function it has."""
    z = es.Variables.of_lengths("z", es.Real(1), [1])
    target = es.Assignment({"z": torch.ones(1, 1)})
    w = torch.ones((), requires_grad=True)
    plain = es.FactorGraph([z], [square(z)])
    hidden = es.FactorGraph([z], [es.BlockFactor(("z",), "e", lambda p, o: w * p[:, 0].square())])
    for loss in FORMS:
        assert not loss(plain, target).value.requires_grad
        assert loss(hidden, target).value.requires_grad
        with torch.no_grad():
            assert not loss(hidden, target).value.requires_grad


def test_options_are_checked() -> None:
    """A form that does not exist, no projections, and a width of 0 are faults of the caller."""
    for options in ({"form": "none"}, {"projections": 0}, {"sigma": 0.0}, {"sigma": ()}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="score_matching"):
            es.ScoreMatching(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ratio_matching"):
        es.RatioMatching(temperature=0.0)


def ising(field: Tensor, coupling: Tensor, batch: int) -> es.FactorGraph:
    """Binary sites with fields (n,) and couplings (pairs,) of all pairs, the same for each instance."""
    n = field.numel()
    block = es.Variables.of_lengths("y", es.Discrete(2), [n] * batch)
    first, second = torch.triu_indices(n, n, 1)
    shift = n * torch.arange(batch)[:, None]
    index = torch.stack([(first + shift).reshape(-1), (second + shift).reshape(-1)])
    unary = torch.stack([torch.zeros_like(field), field], 1).repeat(batch, 1)
    agree = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=F64)
    tables = (coupling[:, None, None] * agree).repeat(batch, 1, 1)
    return es.FactorGraph(
        [block], [es.TableFactor(("y",), "field", unary), es.TableFactor(("y", "y"), "pair", tables, index=index)]
    )


def draws_of_ising(field: Tensor, coupling: Tensor, count: int, seed: int) -> Tensor:
    """(count, n) states, by enumeration."""
    n = field.numel()
    states = torch.cartesian_prod(*[torch.arange(2)] * n)
    energy = ising(field, coupling, len(states)).energy({"y": states.reshape(-1)})
    return states[torch.multinomial((-energy).softmax(0), count, True, generator=seeded(seed))]


def test_ratio_matching_by_enumeration_and_differences() -> None:
    """The loss equals that of conditionals by enumeration, for two states Hyvärinen's, and its gradient differences."""
    field, coupling = normal(3, seed=1), normal(3, seed=2)
    y = torch.tensor([0, 1, 1])

    def by_hand(f: Tensor, c: Tensor) -> Tensor:
        total = f.new_zeros(())
        for i in range(3):
            energies = torch.stack(
                [ising(f, c, 1).energy({"y": torch.where(torch.arange(3) == i, k, y)})[0] for k in range(2)]
            )
            total = total + (-energies).softmax(0)[1 - y[i]].square()
        return total

    leaves = [field.clone().requires_grad_(), coupling.clone().requires_grad_()]
    value = es.RatioMatching()(ising(leaves[0], leaves[1], 1), es.Assignment({"y": y})).value.sum()
    assert value.item() == pytest.approx(by_hand(field, coupling).item(), rel=1e-12)
    for leaf, found in zip(leaves, torch.autograd.grad(value, leaves), strict=True):
        for i in range(3):
            step = 1e-6 * torch.nn.functional.one_hot(torch.tensor(i), 3)
            ends = [[x + s * step if x is leaf else x for x in leaves] for s in (1.0, -1.0)]
            up, down = (
                float(es.RatioMatching()(ising(e[0], e[1], 1), es.Assignment({"y": y})).value.detach()) for e in ends
            )
            assert float(found[i]) == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-8)


def test_ratio_matching_of_more_states() -> None:
    """With three states, by hand: half of (p - e)^2 for the probabilities that a table gives; chains run too."""
    table = torch.tensor([[0.0, 1.0, 2.0]], dtype=F64)
    block = es.Variables.of_lengths("y", es.Discrete(3), [1])
    graph = es.FactorGraph([block], [es.TableFactor(("y",), "t", table)])
    p = (-table[0]).softmax(0)
    wanted = 0.5 * (p - torch.tensor([0.0, 1.0, 0.0])).square().sum()
    assert float(es.RatioMatching()(graph, es.Assignment({"y": torch.tensor([1])})).value) == pytest.approx(
        float(wanted)
    )


def test_ratio_matching_learns_an_ising_model() -> None:
    """From 20,000 draws of four coupled spins every parameter comes within 0.1 (about three standard errors)."""
    field = 0.5 * normal(4, seed=3)
    coupling = 0.4 * normal(6, seed=4)
    y = draws_of_ising(field, coupling, 20000, seed=5)
    states, counts = torch.unique(y, dim=0, return_counts=True)
    w = torch.zeros(10, dtype=F64, requires_grad=True)
    target = es.Assignment({"y": states.reshape(-1)})

    def objective() -> Tensor:
        value = es.RatioMatching()(ising(w[:4], w[4:], len(states)), target).value
        return (value * counts).sum() / counts.sum()

    found = minimum(objective, w)
    assert float((found - torch.cat([field, coupling])).abs().max()) < 0.1


def test_ratio_matching_refuses() -> None:
    """Unknown sites and open continuous blocks are refused; a clamped continuous block is not."""
    z = es.Variables.of_lengths("z", es.Real(1), [1])
    y = es.Variables.of_lengths("y", es.Discrete(2), [1])

    def pull(p: Tensor, s: Tensor) -> Tensor:
        return p - s[:, None]

    index = torch.zeros(2, 1, dtype=torch.long)
    graph = es.FactorGraph([z, y], [es.ResidualFactor(("z", "y"), "pull", pull, index, linear=True)])
    full = es.Assignment({"z": torch.zeros(1, 1), "y": torch.zeros(1, dtype=torch.long)})
    assert "discrete" in str(es.RatioMatching().refuse(graph, full))
    clamped = graph.condition(es.Assignment({"z": torch.zeros(1, 1)}))
    value = es.RatioMatching()(clamped, full).value
    assert float(value) == pytest.approx((1 / (1 + math.exp(0.5))) ** 2, rel=1e-6)
    nothing = es.FactorGraph([y], [es.TableFactor(("y",), "t", torch.zeros(1, 2))])
    assert "every site" in str(es.RatioMatching().refuse(nothing, es.Assignment({})))
