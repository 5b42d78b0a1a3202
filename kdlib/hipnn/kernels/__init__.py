r"""Fused HIP-NN kernels: the forces of hippynn, many times faster and in little memory.

hippynn evaluates its interaction layer with tensors of one entry per pair, sensitivity and
component. Nothing here is that large: a layer needs only a sum over its pairs, and every derivative
of that sum is another sum, recomputed from the distances when it is needed.

**Energy.** Atom i sees neighbor j at :math:`\mathbf r = r\,\mathbf u`. The first interaction layer
of HIP-NN, whose input is the species, uses the sensitivities

.. math:: S_k(r) = G_k C, \quad G_k = \exp[-\tfrac12 \sigma_k^2 (1/r - 1/\mu_k)^2],
          \quad C = \cos^2(\pi r / 2 r_c)

only through the *environment* of the atom, with one channel for each species s,

.. math:: e_{isk} = \sum_{j \in s} S_k(r_{ij}), \qquad
          \mathbf e_{isk} = \sum_{j \in s} S_k(r_{ij})\,\mathbf u_{ij} .

All that follows (weights, tensor invariant, atom layers, energy head) acts on each atom separately.

**Forces.** With :math:`g = \partial E / \partial e`, which torch finds per atom, a pair contributes

.. math:: \frac{\partial E}{\partial \mathbf r} = \sum_k \left[ S_k' (g_k + \mathbf u \cdot
          \mathbf g_k)\,\mathbf u + \frac{S_k}{r} (\mathbf g_k - (\mathbf u \cdot \mathbf g_k)\,
          \mathbf u) \right], \qquad S_k' = G_k C' + G_k' C,

to the force on i, and its negative to that on j; the sum of
:math:`\mathbf r \otimes \partial E/\partial\mathbf r` is dE/dstrain.

**Training.** A loss L of energies and forces needs, per pair and accumulated over pairs, the
derivatives of :math:`e` by :math:`m_k = 1/\mu_k` and :math:`\sigma_k` (from
:math:`\partial S_k/\partial m_k = \sigma_k^2 (1/r - m_k) S_k` and
:math:`\partial S_k/\partial\sigma_k = -\sigma_k (1/r - m_k)^2 S_k`) and, for a direction
:math:`\mathbf d = \partial L / \partial(\partial E/\partial\mathbf r)`, the derivatives of
:math:`\mathbf d \cdot \partial E/\partial\mathbf r` by g (the directional derivative of the
environment along d), by :math:`m_k, \sigma_k`, and, where requested, by :math:`\mathbf r` (the
Hessian of the pair's energy times d). The kernels carry these equations beside their code.

On the CPU, a training step needs no second differentiation by torch:
:mod:`~kdlib.hipnn.kernels.gradients` derives the gradient of a loss of energies and forces as one
backward pass of a value and its change, over pairs that are prepared once
(:mod:`~kdlib.hipnn.kernels.pairtable`).

Covered: one interaction layer, l_max 0 and 1, inverse-distance sensitivities with the cosine
cutoff, any number of species, float32 and float64, on the CPU (numba) and on CUDA devices (Triton).
:func:`supports` says what is not.

Modules: :mod:`~kdlib.hipnn.kernels.layer` swaps the layers, :mod:`~kdlib.hipnn.kernels.autograd`
makes the sums differentiable, :mod:`~kdlib.hipnn.kernels.loops` runs the
:mod:`~kdlib.hipnn.kernels.sums` over atoms; :mod:`~kdlib.hipnn.kernels.forcefield` is the path for
molecular dynamics, with its :mod:`~kdlib.hipnn.kernels.mdloops`,
:mod:`~kdlib.hipnn.kernels.verlet` and :mod:`~kdlib.hipnn.kernels.celllist`;
:mod:`~kdlib.hipnn.kernels.gradients` is that of training, with its passes over pairs
:mod:`~kdlib.hipnn.kernels.trainsums`, loops between matrix products
:mod:`~kdlib.hipnn.kernels.trainlayers` and memory :mod:`~kdlib.hipnn.kernels.trainmemory`.

On a device, :mod:`~kdlib.hipnn.device.loops` runs the kernels of
:mod:`~kdlib.hipnn.device.gradients` in the place of the loops; :mod:`~kdlib.hipnn.device.field` is
the force field, over :mod:`~kdlib.hipnn.device.cells`, with the kernels of
:mod:`~kdlib.hipnn.device.sums`; :mod:`~kdlib.hipnn.device.dynamics` is a driver for long runs,
which :mod:`~kdlib.hipnn.device.motion` moves. Only these import Triton;
:func:`kdlib.hipnn.device.obstacle` is asked first.
"""

from kdlib.hipnn.kernels.autograd import pair_forces
from kdlib.hipnn.kernels.forcefield import ForceField
from kdlib.hipnn.kernels.layer import accelerate, restore, supports
from kdlib.hipnn.kernels.verlet import VerletList

__all__ = ["ForceField", "VerletList", "accelerate", "pair_forces", "restore", "supports"]
