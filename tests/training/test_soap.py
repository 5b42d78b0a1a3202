"""SOAP: what it is built from, and what it must not depend on."""

import dataclasses

import pytest
import torch
from alloys import SMALL, alloy_frames
from torch import nn

from kdlib import hipnn
from kdlib.training.soap import Soap, SoapSettings, whitening

#: Axes change within the few steps of a test.
QUICK = SoapSettings(refresh=4)
N_STEPS = 15


def steps(module, settings, gradients, turn=None):
    """Weights of a layer after each step along given gradients, perhaps turned."""
    optimizer, found = Soap(module, 1e-2, settings), []
    for gradient in gradients:
        gradient = gradient if turn is None else turn @ gradient
        module.weight.grad, module.bias.grad = gradient[:, :-1].clone(), gradient[:, -1].clone()
        optimizer.step()
        found.append(torch.cat((module.weight, module.bias[:, None]), 1).detach().clone())
    return torch.stack(found)


@pytest.fixture
def gradients():
    """Correlated gradients of a layer with five inputs, three outputs and a bias."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return torch.randn(N_STEPS, 3, 6, generator=generator, dtype=torch.float64) @ mixing


@pytest.fixture
def layer():
    """A dense layer that starts at zero."""
    made = nn.Linear(5, 3, dtype=torch.float64)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def test_turned_outputs_take_turned_steps(layer, gradients):
    """Adam's steps depend on the axes of the outputs; those of SOAP do not."""
    turn = torch.linalg.qr(gradients[0][:, :3]).Q
    plain = steps(layer, QUICK, gradients)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    turned = steps(layer, QUICK, gradients, turn)
    assert plain[-1].abs().max() > 0.01
    torch.testing.assert_close(turned, turn @ plain, rtol=0, atol=1e-7)


def test_without_axes_it_is_adam(layer, gradients):
    """Where no side may be rotated, all steps after the first are torch's."""
    ours = steps(layer, SoapSettings(largest_side=2), gradients)
    theirs = nn.Parameter(torch.zeros(3, 6, dtype=torch.float64))
    optimizer = torch.optim.Adam([theirs], lr=1e-2, betas=(0.9, 0.95))
    for gradient in gradients[1:]:
        theirs.grad = gradient
        optimizer.step()
    assert not ours[0].any()
    torch.testing.assert_close(ours[-1], theirs.detach(), rtol=0, atol=1e-13)


def test_decay_is_that_of_adamw_and_spares_biases(gradients):
    """Weights that start at one shrink as torch's do; the bias moves as without decay."""
    made = nn.Linear(5, 3, dtype=torch.float64)
    theirs = [torch.ones(3, 5, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    nn.init.ones_(made.weight), nn.init.ones_(made.bias)
    weight, bias = map(nn.Parameter, theirs)
    groups = [{"params": [weight], "weight_decay": 3.0}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    ours = Soap(made, 1e-2, SoapSettings(largest_side=2), weight_decay=3.0)
    for k, gradient in enumerate(gradients):
        made.weight.grad, made.bias.grad = gradient[:, :-1].clone(), gradient[:, -1].clone()
        ours.step()
        if k:  # SOAP's first step only prepares
            weight.grad, bias.grad = gradient[:, :-1], gradient[:, -1]
            optimizer.step()
    assert weight.abs().mean() < 0.9
    torch.testing.assert_close(made.weight, weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(made.bias, bias, rtol=0, atol=1e-12)


def test_axes_are_those_of_the_gradients(layer, gradients):
    """After some refreshes under one distribution, covariances are diagonal along the axes."""
    optimizer = Soap(layer, 1e-3, SoapSettings(refresh=1))
    for gradient in gradients[:1].repeat(60, 1, 1) + 1e-3 * gradients[torch.arange(60) % N_STEPS]:
        layer.weight.grad, layer.bias.grad = gradient[:, :-1].clone(), gradient[:, -1].clone()
        optimizer.step()
    state = optimizer.state[layer.weight]
    axes, covariance = state["rows_axes"][0], state["rows"][0]
    found = axes.T @ covariance @ axes
    assert (found - found.diag().diag()).abs().max() < 1e-4 * covariance.trace()
    torch.testing.assert_close(axes.T @ axes, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("changes", [{}, {"l_max": 2}, {"n_interaction_layers": 2}], ids=str)
def test_every_parameter_of_a_network_moves(changes):
    """Layers, interactions and all others, for two species."""
    config = dataclasses.replace(SMALL, **changes)
    module = hipnn.build(config, seed=0)
    batch = module.batch(alloy_frames()[0])
    before = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    optimizer = Soap(module, 1e-3, frames=[batch])
    for _ in range(2):
        optimizer.zero_grad()
        prediction = module(batch, create_graph=True)
        (prediction.energy.square().sum() + prediction.forces.square().sum()).backward()
        optimizer.step()
    after = dict(module.named_parameters())
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]


def environments(module, frames):
    """What the first interaction sums for each atom, and 1: (n_atoms, n + 1)."""
    layer = module.network.blocks[0][0].base_layer
    n = layer.n_dist * layer.nf_in
    with torch.no_grad():
        # (n_sensitivities, n_out, n_in): each output is one sum
        layer.int_weights.copy_(torch.eye(n).reshape(layer.n_dist, layer.nf_in, n).mT)
        layer.selfint.weight.zero_(), layer.selfint.bias.zero_()
        found = []
        for frame in frames:
            species = torch.eye(layer.nf_in, dtype=torch.float64)[
                module._species_index[frame.numbers]
            ]
            distances = frame.vectors.norm(dim=1)
            found.append(layer(species, frame.first, frame.second, distances))
    sums = torch.cat(found)
    return torch.cat((sums, torch.ones_like(sums[:, :1])), dim=1)


def test_whitened_environments_are_white():
    """Without mean and with unit covariance, for two species and scalars only."""
    config = dataclasses.replace(SMALL, l_max=0, n_features=2 * SMALL.n_sensitivities)
    module = hipnn.build(dataclasses.replace(config, dtype="float64"), seed=0)
    frames = [module.batch(atoms) for atoms in alloy_frames()]
    white = environments(module, frames) @ whitening(module, frames, 1e-12).mT
    second = white.T @ white / len(white)
    torch.testing.assert_close(
        second, torch.eye(len(second), dtype=torch.float64), atol=1e-3, rtol=0
    )


def test_whitened_coordinates_keep_the_slope():
    """What a step changes the loss by, to first order, is the same in both coordinates."""
    module = hipnn.build(dataclasses.replace(SMALL, dtype="float64"), seed=0)
    batch = module.batch(alloy_frames()[0])
    optimizer = Soap(module, 1e-3, frames=[batch])
    layer = next(layer for stack in optimizer._stacks for layer in stack if layer.basis is not None)
    before = [p.detach().clone() for p in (layer.weight, layer.bias)]
    layer.weight.grad, layer.bias.grad = (torch.randn_like(p) for p in before)
    change = torch.randn_like(layer.gradient())
    with torch.no_grad():
        layer.add(change)
    moved = [p.detach() - old for p, old in zip((layer.weight, layer.bias), before, strict=True)]
    slopes = (layer.weight.grad * moved[0]).sum() + (layer.bias.grad * moved[1]).sum()
    torch.testing.assert_close((layer.gradient() * change).sum(), slopes)
