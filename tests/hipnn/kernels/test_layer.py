import copy

import numpy as np
import pytest
import torch
from hippynn.graphs import GraphModule
from hippynn.layers.hiplayers import SensitivityBottleneck

from kdlib import hipnn
from kdlib.errors import InputError
from kdlib.hipnn import batches, kernels
from kdlib.hipnn.kernels.autograd import PairGraph, Radial, environment
from kdlib.training import losses

EXACT, GRADIENT = 1e-10, 1e-9  # relative, float64


def _batch(atoms, module):
    return batches.from_atoms(atoms, module.config.cutoff, module.config.torch_dtype)


def _close(found, expected, tolerance):
    found, expected = found.detach(), expected.detach()
    scale = max(float(expected.abs().max()), 1.0)
    assert float((found - expected).abs().max()) <= tolerance * scale


def _student_loss(module, batch):
    """Return the paper's student loss (eq. 5, every term), against arbitrary fixed targets."""
    generator = torch.Generator().manual_seed(0)
    predicted = module(batch, create_graph=True)
    labels = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        for name, value in (
            ("energy", predicted.energy),
            ("forces", predicted.forces),
            ("atomic_energies", predicted.atomic_energies),
        )
    }
    target = batches.replace(batch, **labels)
    weights = losses.LossWeights(energy=1, force=30, atomic_energy=100, l2=1e-3)
    return losses.total(losses.terms(module, predicted, target, weights), weights)


def _gradients(module, batch):
    trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
    values = torch.autograd.grad(_student_loss(module, batch), list(trainable.values()))
    return dict(zip(trainable, values, strict=True))


@pytest.mark.usefixtures("exact_sums")
def test_predictions_are_those_of_hippynn(system, l_max, model):
    """Energies, atomic energies, forces and virials agree to 1e-10 in float64."""
    module = model(l_max=l_max)
    batch = _batch(system, module)
    expected = module(batch, stress=True)
    found = kernels.accelerate(module)(batch, stress=True)
    for name in ("energy", "atomic_energies", "forces", "virial"):
        _close(getattr(found, name), getattr(expected, name), EXACT)


@pytest.mark.usefixtures("exact_sums")
@pytest.mark.parametrize("resnet", [True, False])
def test_gradients_of_the_student_loss_are_those_of_hippynn(l_max, resnet, model, liquid, alloy):
    """With respect to every parameter, to 1e-9 relative, over frames of different composition."""
    module = model(l_max=l_max, resnet=resnet)
    batch = batches.collate([_batch(atoms, module) for atoms in (liquid, alloy)])
    expected = _gradients(module, batch)
    found = _gradients(kernels.accelerate(module), batch)
    for name, value in expected.items():
        assert float((found[name] - value).norm() / value.norm()) < GRADIENT, name


@pytest.mark.usefixtures("exact_sums")
def test_loss_on_stress_trains(model, alloy):
    """Gradients of a virial by the parameters agree with hippynn's."""
    module = model()
    batch = _batch(alloy, module)

    def gradients():
        virial = module(batch, stress=True, create_graph=True).virial
        layer = module.network.interaction_layers[0]
        return torch.autograd.grad(virial.square().sum(), list(layer.parameters()))

    expected = gradients()
    kernels.accelerate(module)
    for found, value in zip(gradients(), expected, strict=True):
        assert float((found - value).norm() / value.norm()) < GRADIENT


@pytest.mark.usefixtures("exact_sums")
def test_single_precision_is_as_good_as_hippynn_s(liquid, model):
    """Forces are no further from float64 than 1.5 times stock float32, and within 1e-4 eV/A."""
    double, single = model(l_max=1), model("float32", l_max=1)
    single.load_state_dict(hipnn.complete_state(single, _tensors(double)))
    double.load_state_dict(hipnn.complete_state(double, _tensors(single)))
    exact = double(_batch(liquid, double)).forces
    stock = single(_batch(liquid, single)).forces - exact
    found = kernels.accelerate(single)(_batch(liquid, single)).forces - exact
    found, stock = found.detach(), stock.detach()
    assert float(found.norm()) < 1.5 * float(stock.norm())
    assert float(found.abs().max()) < 1e-4


def _tensors(module):
    return {k: v for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}


@pytest.mark.usefixtures("exact_sums")
def test_ten_steps_of_training_are_those_of_hippynn(model, liquid):
    """Adam follows the same losses with either backend, to 1e-6."""
    curves = []
    for accelerated in (False, True):
        module = model(species=("Al",))
        if accelerated:
            kernels.accelerate(module)
        trainable = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=1e-3)
        curve = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = _student_loss(module, _batch(liquid, module))
            loss.backward(inputs=trainable)
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)
    assert curves[0][-1] != pytest.approx(curves[0][0], rel=1e-3)  # something was learned


def test_swap_is_in_place_and_reversible(model, liquid):
    """Same module, parameters and state dict; restoring gives the first result to the last bit."""
    module = model()
    batch = _batch(liquid, module)
    before, state = module(batch), copy.deepcopy(module.state_dict())
    parameters = list(module.parameters())
    assert kernels.accelerate(module) is module
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    assert list(module.state_dict()) == list(state)
    kernels.accelerate(module)  # twice does no harm
    after = kernels.restore(module)(batch)
    assert torch.equal(before.forces, after.forces)
    assert type(module.network.interaction_layers[0]).__module__.startswith("hippynn")


@pytest.mark.usefixtures("exact_sums")
def test_works_inside_plain_hippynn(model, liquid):
    """A hippynn graph with its own pairs, in its own order, gives the same energy and forces."""
    module = model(species=("Al",))
    expected = module(_batch(liquid, module))
    node = hipnn.hippynn_graph(module)
    positions, graph_positions = _graph_positions(liquid, node)
    graph = kernels.accelerate(GraphModule([*graph_positions], [node.mol_energy]))
    species = torch.as_tensor(liquid.numbers)[None]
    cell = torch.as_tensor(liquid.cell.array)[None]
    (energy,) = graph(species, positions, cell)
    (slope,) = torch.autograd.grad(energy.sum(), positions)
    _close(energy.flatten() - module.e0_of(liquid.numbers).sum(), expected.energy, EXACT)
    _close(-slope[0], expected.forces, EXACT)


def _graph_positions(atoms, node):
    """Return positions as a leaf tensor, and the graph's inputs in the order of their use."""
    from hippynn.graphs import inputs
    from hippynn.graphs.gops import get_connected_nodes

    nodes = get_connected_nodes({node})
    by_type = [inputs.SpeciesNode, inputs.PositionsNode, inputs.CellNode]
    chosen = [next(n for n in nodes if isinstance(n, kind)) for kind in by_type]
    return torch.as_tensor(atoms.positions)[None].requires_grad_(), chosen


def test_input_that_is_not_one_hot_goes_through_hippynn(model, liquid):
    """Features that are not species give hippynn's result, not a wrong one."""
    module = model()
    batch = _batch(liquid, module)
    features = torch.rand(len(liquid), 2, dtype=torch.float64)
    pairs = (batch.first, batch.second, batch.vectors.norm(dim=1), batch.vectors)
    expected = module.network(features, *pairs)[-1]
    found = kernels.accelerate(module).network(features, *pairs)[-1]
    assert torch.equal(found, expected)


def test_supports_names_what_is_not_covered(model):
    """None for a covered model, otherwise one reason, and no silent change."""
    assert kernels.supports(model(l_max=0)) is None
    assert kernels.supports(kernels.accelerate(model())) is None
    assert "InteractLayerQuad" in kernels.supports(model(l_max=2))
    assert "first interaction layer" in kernels.supports(model(n_interaction_layers=2))
    assert "no HIP-NN network" in kernels.supports(torch.nn.Linear(1, 1))
    other = model()
    layer = other.network.interaction_layers[0]
    layer.sensitivity = SensitivityBottleneck(7, 1.5, 7.0, 7.5, 9)
    assert "SensitivityBottleneck" in kernels.supports(other)
    with pytest.raises(InputError, match="SensitivityBottleneck"):
        kernels.accelerate(other)


@pytest.mark.usefixtures("exact_sums")
def test_second_interaction_layer_keeps_hippynn(model, liquid):
    """A network of two interaction layers is accelerated in its first and gives the same forces."""
    module = model(n_interaction_layers=2, n_atom_layers=1)
    batch = _batch(liquid, module)
    expected = module(batch).forces
    _close(kernels.accelerate(module)(batch).forces, expected, EXACT)


def _small_graph(n_species=1):
    rng = np.random.default_rng(0)
    vectors = torch.as_tensor(rng.uniform(-3, 3, size=(11, 3))).requires_grad_()
    graph = PairGraph(
        row=np.array([0, 4, 4, 9, 11]),
        second=rng.integers(0, 4, 11),
        species=np.array([0, 1, 0, 1]) % n_species,
        n_species=n_species,
        cutoff=5.0,
    )
    m = torch.linspace(0.2, 0.5, 3, dtype=torch.float64, requires_grad=True)
    sigma = torch.full((3,), 6.0, dtype=torch.float64, requires_grad=True)
    return vectors, m, sigma, graph


@pytest.mark.parametrize("n_species", [1, 2])
def test_first_derivatives_by_finite_differences(n_species):
    """The environment's gradients by vectors, 1/mu and sigma are those of its values."""
    *tensors, graph = _small_graph(n_species)
    assert torch.autograd.gradcheck(
        lambda vectors, m, sigma: environment(vectors, Radial(m, sigma), graph), tensors
    )


def test_second_derivatives_by_finite_differences():
    """The slopes' gradients by g, 1/mu and sigma, and by the vectors, are those of the slopes."""
    vectors, m, sigma, graph = _small_graph(2)
    g = torch.randn(4, 4, 2, 3, dtype=torch.float64, requires_grad=True)

    def slopes(g, vectors, m, sigma):
        energy = (g * environment(vectors, Radial(m, sigma), graph)).sum()
        return torch.autograd.grad(energy, vectors, create_graph=True)[0]

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(slopes, (g, vectors, m, sigma))


def test_third_derivatives_are_refused():
    """Derivatives that the kernels lack raise an error instead of being omitted."""
    vectors, m, sigma, graph = _small_graph()
    energy = environment(vectors, Radial(m, sigma), graph).square().sum()
    (slope,) = torch.autograd.grad(energy, vectors, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), sigma, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        curvature.sum().backward()


def test_no_bit_depends_on_threads_or_repetition():
    """Values and gradients of the sums are the same in every call, with one thread and with two."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(9000, 3, generator=generator) * 4
    graph = PairGraph(
        np.arange(0, 9001, 90), np.zeros(9000, np.int64), np.zeros(100, np.int64), 1, 7.5
    )

    def results():
        r = vectors.clone().requires_grad_()
        m = torch.linspace(0.15, 0.6, 8).requires_grad_()
        sigma = torch.full((8,), 24.0).requires_grad_()
        value = environment(r, Radial(m, sigma), graph)
        (slope,) = torch.autograd.grad(value.square().sum(), r, create_graph=True)
        forces = kernels.pair_forces(
            slope, torch.as_tensor(graph.row), torch.as_tensor(graph.second)
        )
        return value, forces, *torch.autograd.grad(forces.square().sum(), (m, sigma, r))

    runs = []
    for n_threads in (1, 2, 2):
        torch.set_num_threads(n_threads)
        runs.append(results())
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_pair_forces_are_index_sums():
    """Forces on first minus second atoms, and differentiable to any order."""
    _, _, _, graph = _small_graph()
    row, second = torch.as_tensor(graph.row), torch.as_tensor(graph.second)
    first = torch.repeat_interleave(torch.arange(4), row.diff())
    slopes = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    expected = expected.index_add(0, first, slopes).index_add(0, second, -slopes)
    torch.testing.assert_close(kernels.pair_forces(slopes, row, second), expected)
    assert torch.autograd.gradcheck(lambda s: kernels.pair_forces(s, row, second), slopes)
    assert torch.autograd.gradgradcheck(lambda s: kernels.pair_forces(s, row, second) ** 2, slopes)
