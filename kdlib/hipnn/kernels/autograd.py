r"""The environment as a differentiable function of pair vectors and sensitivity parameters.

A force loss differentiates twice: forces are :math:`\partial E/\partial\mathbf r`, and their error
is differentiated by the weights. Four torch functions make that exact without ever storing a number
per pair and sensitivity:

===================  =========================================  ==================================
function             value                                      backward
===================  =========================================  ==================================
``_Environment``     :math:`e(\mathbf r; m, \sigma)`            ``_Slopes``: dE/dr per pair
``_EnvironmentOf     zero (a term that only carries the         kernel: gradient by m, sigma
Parameters``         derivative)
``_Slopes``          :math:`\partial_{\mathbf r} (g \cdot e)`   kernel: gradient by g, m, sigma
``_SlopesOf          zero, likewise                             kernel: Hessian-vector product
Vectors``
===================  =========================================  ==================================

Torch tells a Python function which inputs *could* need a gradient, not which ones this backward
pass asks for. It does prune whole functions. So each derivative lives in a function of its own,
tied to the value by adding zero: ``autograd.grad(E, vectors)`` never computes parameter gradients,
and ``autograd.backward(loss, inputs=parameters)`` never computes Hessian-vector products.

Derivatives beyond these raise torch's error for once-differentiable functions.

:func:`pair_forces`, from slopes to forces, is linear: two functions that are each other's backward.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from kdlib.hipnn.device import on_device
from kdlib.hipnn.kernels import loops
from kdlib.hipnn.kernels.threads import torch_threads


@dataclass(frozen=True)
class PairGraph:
    """Who neighbors whom: all that does not change when the atoms move a little.

    Arrays on the CPU; tensors for the kernels of a device.
    """

    row: np.ndarray | Tensor
    """Pairs of atom i are ``row[i]:row[i + 1]``, (n_atoms + 1,) int64."""
    second: np.ndarray | Tensor
    """Neighbor of each pair, (n_pairs,) int64."""
    species: np.ndarray | Tensor
    """Species channel of each atom, (n_atoms,) int64."""
    n_species: int
    """Number of channels."""
    cutoff: float
    """Hard cutoff, Angstrom."""


@dataclass(frozen=True)
class Radial:
    """Sensitivity parameters, (n_sensitivities,) each: m = 1/mu, 1/Angstrom; sigma, Angstrom."""

    m: Tensor
    sigma: Tensor

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient by one of the parameters may be asked for."""
        return self.m.requires_grad or self.sigma.requires_grad


def environment(vectors: Tensor, radial: Radial, graph: PairGraph) -> Tensor:
    """Sums of the sensitivities over each atom's neighbors.

    Parameters
    ----------
    vectors
        (n_pairs, 3), Angstrom, sorted by the first atom.
    radial
        Centers and widths of the sensitivities.
    graph
        Pairs, species and cutoff.

    Returns
    -------
    Tensor
        (n_atoms, 4, n_species, n_sensitivities): scalar channel, then the three vector components.
    """
    value = _Environment.apply(vectors, radial, graph)
    if radial.requires_grad and torch.is_grad_enabled():
        value = value + _EnvironmentOfParameters.apply(
            radial.m, radial.sigma, vectors.detach(), graph
        )
    return value


def pair_forces(slopes: Tensor, row: Tensor, second: Tensor) -> Tensor:
    """Forces from the derivative of the energy by each pair vector.

    Parameters
    ----------
    slopes
        dE/d(r_j - r_i), (n_pairs, 3), eV/Angstrom, sorted by the first atom.
    row
        Pairs of atom i are ``row[i]:row[i + 1]``, (n_atoms + 1,) int64.
    second
        Atom j of each pair, (n_pairs,) int64.

    Returns
    -------
    Tensor
        (n_atoms, 3), eV/Angstrom; differentiable any number of times.
    """
    return _Forces.apply(slopes, row, second)


def _slopes(g: Tensor, vectors: Tensor, radial: Radial, graph: PairGraph) -> Tensor:
    value = _Slopes.apply(g, radial.m, radial.sigma, vectors.detach(), graph)
    if vectors.requires_grad and torch.is_grad_enabled():
        value = value + _SlopesOfVectors.apply(vectors, g.detach(), radial, graph)
    return value


def _run(loop: str, vectors: Tensor, graph: PairGraph, *more: Tensor) -> Tensor | None:
    """Run a loop where the graph is: compiled by numba, or on a device."""
    tensors = [t.detach().contiguous() for t in (vectors, *more)]
    pairs = graph.row, graph.second, graph.species
    if isinstance(graph.row, Tensor):
        from kdlib.hipnn.device import loops as device_loops

        return getattr(device_loops, loop)(tensors[0], *pairs, float(graph.cutoff), *tensors[1:])
    arrays = [t.numpy() for t in tensors]
    cutoff = arrays[0].dtype.type(graph.cutoff)
    with torch_threads():
        found = getattr(loops, loop)(arrays[0], *pairs, cutoff, *arrays[1:])
    return None if found is None else torch.from_numpy(found)


class _Environment(Function):
    """e, with its derivative by the vectors."""

    @staticmethod
    def forward(ctx: FunctionCtx, vectors: Tensor, radial: Radial, graph: PairGraph) -> Tensor:
        ctx.save_for_backward(vectors)
        # The parameters stay outside the graph of this function (its backward has no gradient for
        # them) but keep their own history, which the backward of the backward needs.
        ctx.radial, ctx.graph = radial, graph
        n_atoms = len(graph.row) - 1
        out = vectors.new_empty(n_atoms, 4, graph.n_species, len(radial.m))
        _run("environment", vectors, graph, radial.m, radial.sigma, out)
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor, None, None]:
        (vectors,) = ctx.saved_tensors
        return _slopes(g, vectors, ctx.radial, ctx.graph), None, None


class _EnvironmentOfParameters(Function):
    """Zero, with the derivative of e by m and sigma."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, m: Tensor, sigma: Tensor, vectors: Tensor, graph: PairGraph
    ) -> Tensor:
        ctx.save_for_backward(m, sigma, vectors)
        ctx.graph = graph
        return m.new_zeros(()).expand(len(graph.row) - 1, 4, graph.n_species, len(m))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, weight: Tensor) -> tuple[Tensor, Tensor, None, None]:
        m, sigma, vectors = ctx.saved_tensors
        by_m, by_sigma = _run("parameter_gradient", vectors, ctx.graph, m, sigma, weight)
        return by_m, by_sigma, None, None


class _Slopes(Function):
    """d(g . e)/d(vectors), with its derivative by g, m and sigma."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, g: Tensor, m: Tensor, sigma: Tensor, vectors: Tensor, graph: PairGraph
    ) -> Tensor:
        ctx.save_for_backward(g, m, sigma, vectors)
        ctx.graph = graph
        out = torch.empty_like(vectors)
        _run("slopes", vectors, graph, m, sigma, g, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, direction: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        g, m, sigma, vectors = ctx.saved_tensors
        by_g = torch.empty_like(g, memory_format=torch.contiguous_format)
        by_m, by_sigma = _run("slope_gradient", vectors, ctx.graph, m, sigma, g, direction, by_g)
        return by_g, by_m, by_sigma, None, None


class _SlopesOfVectors(Function):
    """Zero, with the derivative of d(g . e)/d(vectors) by the vectors."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, vectors: Tensor, g: Tensor, radial: Radial, graph: PairGraph
    ) -> Tensor:
        ctx.save_for_backward(vectors, g)
        ctx.radial, ctx.graph = radial, graph
        return vectors.new_zeros(()).expand_as(vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, direction: Tensor) -> tuple[Tensor, None, None, None]:
        vectors, g = ctx.saved_tensors
        out = torch.empty_like(vectors, memory_format=torch.contiguous_format)
        radial = ctx.radial
        _run("curvatures", vectors, ctx.graph, radial.m, radial.sigma, g, direction, out)
        return out, None, None, None


class _Forces(Function):
    """Forces from slopes."""

    @staticmethod
    def forward(ctx: FunctionCtx, slopes: Tensor, row: Tensor, second: Tensor) -> Tensor:
        ctx.row, ctx.second = row, second
        slopes = slopes.detach().contiguous()
        if on_device(slopes):
            from kdlib.hipnn.device import loops as device_loops

            incoming = device_loops.incoming(second, len(row) - 1)
            return device_loops.gather_forces(slopes, row, *incoming)
        with torch_threads():
            found = loops.gather_forces(slopes.numpy(), row.numpy(), second.numpy())
        return torch.from_numpy(found)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _ForcesAdjoint.apply(grad, ctx.row, ctx.second), None, None


class _ForcesAdjoint(Function):
    """Gradient by the slopes from the gradient by the forces."""

    @staticmethod
    def forward(ctx: FunctionCtx, grad: Tensor, row: Tensor, second: Tensor) -> Tensor:
        ctx.row, ctx.second = row, second
        grad = grad.detach().contiguous()
        if on_device(grad):
            from kdlib.hipnn.device import loops as device_loops

            return device_loops.spread_forces(grad, row, second)
        with torch_threads():
            found = loops.spread_forces(grad.numpy(), row.numpy(), second.numpy())
        return torch.from_numpy(found)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Forces.apply(grad, ctx.row, ctx.second), None, None
