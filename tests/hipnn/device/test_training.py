"""Sums over pairs on a device, with all their derivatives, against those of the CPU."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from kdlib.hipnn import batches, kernels
from kdlib.hipnn.kernels.autograd import PairGraph, Radial, environment


def _graph(n_species, where):
    """Eleven pairs of four atoms; tensors for a device, arrays for the CPU."""
    rng = np.random.default_rng(0)
    vectors = rng.uniform(-3, 3, size=(11, 3))
    parts = {
        "row": np.array([0, 4, 4, 9, 11]),
        "second": rng.integers(0, 4, 11),
        "species": np.array([0, 1, 0, 1]) % n_species,
    }
    if where is not None:
        parts = {name: torch.as_tensor(array, device=where) for name, array in parts.items()}
    graph = PairGraph(**parts, n_species=n_species, cutoff=5.0)
    tensors = torch.as_tensor(vectors), torch.linspace(0.2, 0.5, 3).double(), torch.full((3,), 6.0)
    return *(t.double().to(where or "cpu").requires_grad_() for t in tensors), graph


def _derivatives(n_species, where):
    """Environment, its gradients, and the gradients of the slopes along fixed directions."""
    vectors, m, sigma, graph = _graph(n_species, where)
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(4, 4, n_species, 3, generator=generator, dtype=torch.float64)
    directions = torch.randn(11, 3, generator=generator, dtype=torch.float64).to(vectors.device)
    g = g.to(vectors.device).requires_grad_()
    value = environment(vectors, Radial(m, sigma), graph)
    first = torch.autograd.grad((g * value).sum(), (vectors, m, sigma), create_graph=True)
    second = torch.autograd.grad((first[0] * directions).sum(), (g, vectors, m, sigma))
    return [t.detach().cpu() for t in (value, *first, *second)]


@pytest.mark.parametrize("n_species", [1, 2])
def test_all_derivatives_are_those_of_the_cpu(n_species, device):
    """Environment, slopes, parameter gradients, and all second derivatives agree to 1e-12."""
    found, expected = _derivatives(n_species, device), _derivatives(n_species, None)
    for a, b in zip(found, expected, strict=True):
        assert float(b.abs().max()) > 0.1
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_second_derivatives_by_finite_differences(device):
    """The slopes' gradients by the vectors, 1/mu and sigma are those of the slopes."""
    vectors, m, sigma, graph = _graph(2, device)
    g = torch.randn(4, 4, 2, 3, dtype=torch.float64).to(device)

    def slopes(vectors, m, sigma):
        energy = (g * environment(vectors, Radial(m, sigma), graph)).sum()
        return torch.autograd.grad(energy, vectors, create_graph=True)[0]

    # Random projections of the Jacobian: element by element takes minutes in the interpreter.
    assert torch.autograd.gradcheck(slopes, (vectors, m, sigma), fast_mode=True)


def test_third_derivatives_are_refused(device):
    """What the kernels cannot differentiate raises an error instead of being left out."""
    vectors, m, sigma, graph = _graph(1, device)
    energy = environment(vectors, Radial(m, sigma), graph).square().sum()
    (slope,) = torch.autograd.grad(energy, vectors, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), sigma, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        curvature.sum().backward()


def test_pair_forces_are_index_sums(device):
    """Forces on first minus second atoms, and differentiable to any order."""
    *_, graph = _graph(1, device)
    first = torch.repeat_interleave(torch.arange(4, device=device), graph.row.diff())
    slopes = torch.randn(11, 3, dtype=torch.float64).to(device).requires_grad_()
    forces = lambda s: kernels.pair_forces(s, graph.row, graph.second)  # noqa: E731
    expected = torch.zeros(4, 3, dtype=torch.float64, device=device)
    expected = expected.index_add(0, first, slopes).index_add(0, graph.second, -slopes)
    torch.testing.assert_close(forces(slopes), expected)
    assert torch.autograd.gradcheck(forces, slopes, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda s: forces(s) ** 2, slopes, fast_mode=True)


def _small_batch(module):
    atoms = bulk("Al", a=4.1, cubic=True) * (2, 1, 1)
    atoms.rattle(0.2, seed=1)
    atoms.symbols = ["Al", "Cu", "Al", "Al", "Cu", "Al", "Al", "Cu"]
    config = module.config
    parts = (atoms, atoms[:4])
    return batches.collate(
        [batches.from_atoms(a, config.cutoff, config.torch_dtype) for a in parts]
    )


def _gradients(module, batch):
    """Predictions, and the gradients of a loss on all of them by every parameter."""
    found = module(batch, stress=True, create_graph=True)
    values = found.energy, found.atomic_energies, found.forces, found.virial
    loss = sum(value.square().sum() for value in values)
    trainable = [p for p in module.parameters() if p.requires_grad]
    return [t.detach().cpu() for t in (*values, *torch.autograd.grad(loss, trainable))]


def test_training_gradients_are_those_of_the_cpu(l_max, model, device, monkeypatch):
    """A loss on energies, atomic energies, forces and virials has the same gradients, to 1e-12."""
    module = model(l_max=l_max, n_features=5, n_sensitivities=3, cutoff=4.0, soft_max=3.8)
    kernels.accelerate(module)
    batch = _small_batch(module)
    found = _gradients(module.to(device), batch.to(device))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    expected = _gradients(module.cpu(), batch)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * max(1, float(b.abs().max())))


def test_pairs_in_any_order(model, device):
    """Pairs that are not sorted, from a caller that says nothing of them, give the same energy."""
    module = model(n_features=5, n_sensitivities=3, cutoff=4.0, soft_max=3.8)
    batch = _small_batch(module).to(device)
    network = kernels.accelerate(module.to(device)).network
    order = torch.randperm(len(batch.first), generator=torch.Generator().manual_seed(0))
    features = module._one_hot[batch.numbers]

    def last(order):
        vectors = batch.vectors[order]
        pairs = batch.first[order], batch.second[order], vectors.norm(dim=1), vectors
        return network(features, *pairs)[-1]

    expected = last(torch.arange(len(order), device=device))
    torch.testing.assert_close(last(order.to(device)), expected)


def test_what_is_known_of_a_batch_reaches_the_layer(model, device, monkeypatch):
    """The model tells the layer rows and species, so that a device is not asked for them."""
    module = model(n_features=5, n_sensitivities=3, cutoff=4.0, soft_max=3.8)
    batch = _small_batch(module).to(device)
    kernels.accelerate(module.to(device))
    monkeypatch.setattr(torch, "searchsorted", None)
    monkeypatch.setattr(kernels.layer.loops, "rows_of", None)
    monkeypatch.setattr(kernels.layer.loops, "channels_of", None)
    module(batch, forces=False)
    assert not hasattr(vars(module.network.interaction_layers[0]), "prepared")
