r"""Gradient of a loss of energies and forces without differentiating twice.

Forces are first derivatives of the energy, so the gradient of a loss on forces needs second ones.
Backward through a backward pass is not the only way to them. Let the loss see atomic energies
:math:`\varepsilon_i` and the slopes :math:`\mathbf s_p = \partial E/\partial\mathbf r_p` of the
pairs (forces and virials are sums of them), with :math:`a_i = \partial L/\partial\varepsilon_i` and
:math:`\mathbf d_p = \partial L/\partial\mathbf s_p`. The slopes follow from the environments
:math:`e` of the atoms, and so

.. math:: dL = d\Big[\sum_i a_i \varepsilon_i + \sum_p \mathbf d_p \cdot \mathbf s_p\Big], \qquad
          \sum_p \mathbf d_p \cdot \mathbf s_p = \sum_i \frac{\partial\varepsilon_i}{\partial e_i}
          \cdot \dot e_i, \qquad
          \dot e_i = \sum_p \frac{\partial e_i}{\partial\mathbf r_p} \cdot \mathbf d_p,

with a and d held fixed: the second sum is the change :math:`\dot\varepsilon` of the energies when
the environments move along :math:`\dot e`. Value and change go through the layers together
(forward), and one pass from the back differentiates :math:`a\,\varepsilon + \dot\varepsilon` by all
weights. A linear layer :math:`z = W x` has :math:`\dot z = W \dot x`, so that

.. math:: \partial L/\partial W = \bar z\,x^T + \hat z\,\dot x^T ,

where :math:`\bar z` is what comes from the back and :math:`\hat z`, which belongs to the change, is
:math:`\partial\varepsilon/\partial z`: known since the forces were. The activation s(z) has

.. math:: \bar z = s'(z)\,\bar s + s''(z)\,\dot z\,\hat s .

So a step is: environments (pass over pairs), layers forward, layers backward to the forces (second
pass), the loss, :math:`\dot e` (third pass), its change forward, the loss backward. Matrix products
are torch's; :mod:`~kdlib.hipnn.kernels.trainlayers` holds what is between them,
:mod:`~kdlib.hipnn.kernels.trainsums` the passes. The last layer and the energy head are both linear
in the last activations: they act as one vector, and cost no matrix product.

The passes and what is between the products are given (:mod:`~kdlib.hipnn.kernels.passes` on the
CPU, :mod:`kdlib.hipnn.device.passes` on a device), and with them the kind of memory: arrays on the
CPU, tensors on a device.

Covered, beyond what :func:`kdlib.hipnn.kernels.supports` asks for: residual connections;
:func:`obstacle` says what is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from kdlib.hipnn import device
from kdlib.hipnn.kernels.layer import supports
from kdlib.hipnn.kernels.passes import Passes, Selection
from kdlib.hipnn.kernels.threads import torch_threads
from kdlib.hipnn.kernels.trainmemory import Arena, FlatParameters, Sizes, plain

if TYPE_CHECKING:
    from kdlib.hipnn.device.passes import DevicePasses, Layout

#: What loops work on: arrays on the CPU, tensors on a device.
Memory = np.ndarray | Tensor


def obstacle(module: nn.Module) -> str | None:
    """Say what keeps a :class:`kdlib.hipnn.HipnnModule` from :class:`Gradients`, or None."""
    if reason := supports(module):
        return reason
    network = module.network
    if network.resnet is not True:
        return "no gradient kernels for layers without residual connections"
    if type(network.activation) is not nn.Softplus:
        return f"no gradient kernels for {type(network.activation).__name__}"
    return device.obstacle(next(module.parameters()).device)


@dataclass(frozen=True)
class Outputs:
    """What a network makes of frames; the arrays hold until it sees other frames."""

    where: Selection | Layout
    energies: Memory
    """The network's energy of each atom, (n_atoms,), eV, without that of the isolated atom."""
    forces: Memory
    """(n_atoms, 3), eV/Angstrom."""
    virial: Memory
    """dE/dstrain, (n_frames, 3, 3), eV; zero unless asked for."""


class _Layer:
    """Parameters of one layer with its residual connection, and their gradients.

    ``weight`` and ``bias`` act before the activation, ``residual`` and ``shift`` after it.
    """

    def __init__(self, wrapper: nn.Module, linear: nn.Linear, flat: FlatParameters) -> None:
        after = wrapper.res_layer
        self.weight, self.by_weight = flat.both(linear.weight)
        self.residual, self.by_residual = flat.both(after.weight)
        self.bias, self.by_bias = flat.arrays(linear.bias)
        self.shift, self.by_shift = flat.arrays(after.bias)


class _Interaction(_Layer):
    """The interaction layer; ``weight`` is that of the atom itself, ``matrix`` of the environment.

    l_max 0 has no vector components: their scale is zero.
    """

    def __init__(self, wrapper: nn.Module, flat: FlatParameters) -> None:
        layer = wrapper.base_layer
        super().__init__(wrapper, layer.selfint, flat)
        self.own, self.by_own = flat.arrays(layer.selfint.weight)
        self.scales, self.by_scales = plain(flat.values.new_zeros(2, layer.nf_out))
        cusp = 1.0
        if vectorial := hasattr(layer, "vecscales"):
            self.scales, self.by_scales = flat.arrays(layer.vecscales)
            cusp = float(layer.cusp_reg)
        # A number of numba's has a precision; a kernel of Triton gives it that of what it meets.
        self.cusp = self.own.dtype.type(cusp) if isinstance(self.own, np.ndarray) else cusp
        self.mu, self.by_mu = (a[0] for a in flat.arrays(layer.sensitivity.mu))
        self.sigma, self.by_sigma = (a[0] for a in flat.arrays(layer.sensitivity.sigma))
        n = layer.nf_in
        self.adjust, self.by_adjust = map(
            plain, (torch.eye(n).to(flat.values), flat.values.new_zeros(n, n))
        )
        if wrapper.needs_size_adjust:
            self.adjust, self.by_adjust = flat.arrays(wrapper.adjust_layer.weight)
        self._weights, self._by_weights = flat.both(layer.int_weights)
        self.by_matrix = self.matrix().clone()
        self.sizes = layer.nf_in, layer.n_dist, layer.nf_out, vectorial

    def matrix(self) -> Tensor:
        """Weights of the environment, (n_species * n_sensitivities, n_features)."""
        return self._weights.permute(2, 0, 1).flatten(0, 1)

    def put_by_matrix(self) -> None:
        """Put ``by_matrix`` where the gradient of the weights is."""
        n_species, n_sensitivities, n_features, _ = self.sizes
        by_matrix = self.by_matrix.view(n_species, n_sensitivities, n_features)
        self._by_weights.copy_(by_matrix.permute(1, 2, 0))


class Gradients:
    """Energies and forces of frames, and the gradient of a loss of them by the parameters.

    Parameters
    ----------
    module
        A :class:`kdlib.hipnn.HipnnModule` without an :func:`obstacle`.
    passes
        The passes over the pairs of the frames.
    flat
        The module's parameters; :meth:`backward` fills their gradient.
    """

    def __init__(
        self, module: nn.Module, passes: Passes | DevicePasses, flat: FlatParameters
    ) -> None:
        first, *others = module.network.blocks[0]
        self._passes, self._between = passes, passes.layers
        self._interaction = _Interaction(first, flat)
        self._layers = [_Layer(wrapper, wrapper.base_layer, flat) for wrapper in others]
        head = module.henergy.layers[1]
        self._head, self._by_head = (a[0] for a in flat.arrays(head.weight))
        self._bias, self._by_bias = flat.arrays(head.bias)
        self._folded, self._by_folded = plain(flat.values.new_empty(2, len(self._head)))
        n_species, n_sensitivities, n_features, vectorial = self._interaction.sizes
        sizes = Sizes(n_species, n_sensitivities, n_features, len(others), vectorial)
        self._arena = Arena(sizes, flat.values)

    def reserve(self, n_atoms: int) -> None:
        """Take the memory for at most so many atoms; it stays where it is for smaller numbers."""
        self._arena.room(n_atoms)

    def forces(self, where: Selection | Layout, strained: bool) -> Outputs:
        """Energies and forces of selected frames, and virials if ``strained``."""
        self._where = where
        self._room = room = self._arena.room(len(where.species))
        self._strained = strained
        with torch.no_grad(), torch_threads():
            self._environments()
            self._energies()
            self._energy_slopes()
            virial = self._forces()
        return Outputs(where, room.energies, room.forces, virial)

    def backward(self, seed: Memory, by_force: Memory, by_virial: Memory | None) -> None:
        """Gradient by the parameters, from the derivatives of the loss by the last outputs.

        Parameters
        ----------
        seed
            By the atomic energies, (n_atoms,).
        by_force
            By the forces, (n_atoms, 3).
        by_virial
            By the virials, (n_frames, 3, 3); read only after strained forces.
        """
        with torch.no_grad(), torch_threads():
            by_sensitivity = self._passes.tangents(
                self._where, self._radial, self._room.env_g, by_force, self._strained, by_virial,
                self._room.env_t,
            )  # fmt: skip
            self._changes()
            self._last_layer_backward(seed)
            self._layers_backward()
            self._interaction_backward()
            self._sensitivities_backward(by_sensitivity)

    def _environments(self) -> None:
        layer = self._interaction
        self._radial = 1 / layer.mu, layer.sigma
        self._passes.environments(self._where, self._radial, self._room.env)

    def _energies(self) -> None:
        """Layers forward."""
        room, first = self._room, self._interaction
        self._matrix = first.matrix()
        torch.mm(room.env_rows.one, self._matrix, out=room.y_rows.one)
        self._between.interaction(
            room.y.first, first.scales, first.cusp, first.own, first.bias, first.adjust,
            first.shift, self._where.species, room.s[0].first, room.slope[0], room.norm.first,
            room.x[0].first,
        )  # fmt: skip
        before = first
        for k, layer in enumerate(self._layers[:-1], start=1):
            room.x[k - 1].one.addmm_(room.s[k - 1].one, before.residual.T)
            z = plain(torch.mm(room.x[k - 1].one, layer.weight.T, out=room.work))
            self._between.forward(
                z, layer.bias, room.x[k - 1].first, layer.shift, room.s[k].first, room.slope[k],
                room.x[k].first,
            )  # fmt: skip
            before = layer
        last, x, s = self._layers[-1], room.x[-1], room.s[-1]
        x.one.addmm_(room.s[-2].one, before.residual.T)
        z = plain(torch.mm(x.one, last.weight.T, out=room.work))
        constant = self._between.fold(
            plain(last.residual), self._head, last.shift, self._bias, self._folded
        )
        self._between.energies(
            z, last.bias, x.first, self._folded, self._head, constant, s.first, room.slope[-1],
            room.z_b[-1].second, room.x_b[-1].second, room.energies,
        )  # fmt: skip

    def _energy_slopes(self) -> None:
        """Layers backward: derivatives of the energy, down to the environments."""
        room, first = self._room, self._interaction
        for k, layer in zip(range(len(self._layers), 0, -1), reversed(self._layers), strict=True):
            x_g = room.x_b[k - 1]
            x_g.two.addmm_(room.z_b[k].two, layer.weight)
            below = self._layers[k - 2] if k > 1 else first
            s_g = plain(torch.mm(x_g.two, below.residual, out=room.work))
            if k > 1:
                self._between.backward(
                    s_g, room.slope[k - 1], x_g.second, room.z_b[k - 1].second,
                    room.x_b[k - 2].second,
                )  # fmt: skip
        self._between.interaction_backward(
            s_g, room.slope[0], room.y.first, room.norm.first, first.scales, room.z_b[0].second,
            room.y_b.second,
        )  # fmt: skip
        torch.mm(room.y_b_rows.two, self._matrix.T, out=room.env_b_rows.two)

    def _forces(self) -> Memory:
        room = self._room
        return self._passes.forces(
            self._where, self._radial, room.env_g, self._strained, room.forces
        )

    def _changes(self) -> None:
        """Layers forward: changes along that of the environments."""
        room, first = self._room, self._interaction
        torch.mm(room.env_rows.two, self._matrix, out=room.y_rows.two)
        self._between.interaction_tangent(
            room.y.first, room.y.second, room.norm.first, first.scales, room.slope[0],
            room.norm.second, plain(room.z_t[0]), room.s[0].second,
        )  # fmt: skip
        torch.mm(room.s[0].two, first.residual.T, out=room.x[0].two)
        for k, layer in enumerate(self._layers, start=1):
            torch.mm(room.x[k - 1].two, layer.weight.T, out=room.z_t[k])
            if k == len(self._layers):
                return
            self._between.tangent(
                plain(room.z_t[k]), room.slope[k], room.x[k - 1].second, room.s[k].second,
                room.x[k].second,
            )  # fmt: skip
            room.x[k].two.addmm_(room.s[k].two, layer.residual.T)

    def _last_layer_backward(self, seed: Memory) -> None:
        """Gradient by the energy head and the last residual, from the atomic energies."""
        room, layer, x = self._room, self._layers[-1], self._room.x[-1]
        total = self._between.energies_backward(
            seed, plain(room.z_t[-1]), room.slope[-1], room.s[-1].first, x.first, x.second,
            room.z_b[-1].second, self._head, room.z_b[-1].first, room.x_b[-1].first,
            layer.by_bias, self._by_folded, self._by_head,
        )  # fmt: skip
        self._between.unfold(
            plain(layer.residual), self._head, layer.shift, self._by_folded, total,
            plain(layer.by_residual), self._by_head, layer.by_shift, self._by_bias,
        )  # fmt: skip

    def _layers_backward(self) -> None:
        """Gradient by the atom layers, down to what leaves the interaction layer."""
        room = self._room
        for k, layer in zip(range(len(self._layers), 0, -1), reversed(self._layers), strict=True):
            z, x_b = room.z_b[k], room.x_b[k - 1]
            torch.mm(z.both.T, room.x[k - 1].both, out=layer.by_weight)
            x_b.one.addmm_(z.one, layer.weight)
            below = self._layers[k - 2] if k > 1 else self._interaction
            torch.mm(x_b.both.T, room.s[k - 1].both, out=below.by_residual)
            s_b = plain(torch.mm(x_b.one, below.residual, out=room.work))
            if k > 1:
                self._between.loss_backward(
                    s_b, plain(room.z_t[k - 1]), room.z_b[k - 1].second, room.slope[k - 1],
                    x_b.first, room.z_b[k - 1].first, room.x_b[k - 2].first, below.by_bias,
                    below.by_shift,
                )  # fmt: skip

    def _interaction_backward(self) -> None:
        """Gradient by the interaction layer, down to the environments."""
        room, layer = self._room, self._interaction
        self._between.interaction_loss_backward(
            plain(room.work), plain(room.z_t[0]), room.z_b[0].second, room.slope[0],
            room.x_b[0].first, room.y.first, room.y.second, room.norm.first, room.norm.second,
            layer.scales, self._where.species, room.y_b.first, layer.by_scales, layer.by_own,
            layer.by_bias, layer.by_adjust, layer.by_shift,
        )  # fmt: skip
        torch.mm(room.env_rows.both.T, room.y_b_rows.both, out=layer.by_matrix)
        layer.put_by_matrix()
        torch.mm(room.y_b_rows.one, self._matrix.T, out=room.env_b_rows.one)

    def _sensitivities_backward(self, of_changes: Memory) -> None:
        """Gradient by centers and widths; that of the changes is there already."""
        layer, (m, _) = self._interaction, self._radial
        by_m, by_sigma = self._passes.parameter_gradient(
            self._where, self._radial, self._room.env_b, of_changes
        )
        # m = 1 / mu
        layer.by_mu[:] = -m * m * by_m
        layer.by_sigma[:] = by_sigma
