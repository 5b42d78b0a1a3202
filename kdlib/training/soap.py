"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (doi:10.48550/arXiv.2409.11321).

What enters a layer of HIP-NN is far from centered and correlated: environments are sums over many
neighbors, softplus is positive. Adam, which scales each weight by itself, then moves slowly along
most directions, and the more so the more a noisy energy weighs in the loss. SOAP rotates the
gradient of a layer into the principal axes of its rows and columns and lets Adam work there. The
bias is a column of the matrix, which takes care of the means. Environments are whitened, too:
sensitivity functions overlap, and along directions in which environments hardly differ a weight has
a long way to go.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from hippynn.layers.hiplayers import InteractLayer
from torch import Tensor, nn

from kdlib.hipnn import HipnnModule
from kdlib.hipnn.batches import Batch


@dataclass(frozen=True)
class SoapSettings:
    """Constants of the method."""

    beta_1: float = 0.9
    """Decay per step of the mean of the gradient: Adam's."""
    beta_2: float = 0.95
    """Decay per step of the mean square of the rotated gradient: the publication's."""
    beta_factors: float = 0.95
    """Decay per step of the covariances of rows and columns."""
    refresh: int = 10
    """Steps between updates of the axes."""
    eps: float = 1e-8
    """Added to the root of the mean square."""
    whitening_floor: float = 1e-3
    """Added to the variance of environments along each direction, relative to the mean variance."""
    whitening_frames: int = 100
    """Frames, about, that the variances are taken from, evenly spaced."""
    largest_side: int = 1024
    """Longer sides of a matrix are not rotated, as in second interactions of wide networks."""


class Soap(torch.optim.Optimizer):
    """SOAP for the dense layers and interactions of a network, Adam for all other parameters.

    The first step prepares the axes and moves no layer.

    Parameters
    ----------
    module
        Its trainable parameters are optimized. Layers whose matrices have one shape are rotated
        together.
    lr
        Learning rate.
    settings
        Constants of the method.
    weight_decay
        Each step multiplies the weights of layers by 1 - lr * ``weight_decay`` (decoupled, as in
        AdamW, doi:10.48550/arXiv.1711.05101). Biases, layers of one output, which are energies, and
        all other parameters are spared.
    frames
        Training frames of a HIP-NN, one batch each, from which the whitening of the environments
        follows at the initial sensitivity functions; none: no whitening.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float | Tensor,
        settings: SoapSettings | None = None,
        weight_decay: float = 0.0,
        frames: Sequence[Batch] = (),
    ) -> None:
        trainable = [p for p in module.parameters() if p.requires_grad]
        super().__init__(trainable, {"lr": lr, "weight_decay": weight_decay})
        self.settings = settings or SoapSettings()
        by_shape = defaultdict(list)
        some = frames[:: max(1, len(frames) // self.settings.whitening_frames)]
        white = whitening(module, some, self.settings.whitening_floor) if frames else None
        for layer in _layers(module, white):
            by_shape[layer.shape].append(layer)
        self._stacks = [*by_shape.values()]
        layers = [layer for stack in self._stacks for layer in stack]
        taken = {id(p) for layer in layers for p in (layer.weight, layer.bias)}
        self._others = [p for p in trainable if id(p) not in taken]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move the parameters along their ``grad``."""
        for stack in self._stacks:
            self._move_stack(stack)
        if self._others:
            self._move_others()

    def _move_stack(self, stack: Sequence["_Layer"]) -> None:
        s, state = self.settings, self.state[stack[0].weight]
        gradient = torch.stack([layer.gradient() for layer in stack])
        factors = {"rows": gradient @ gradient.mT, "columns": gradient.mT @ gradient}
        factors = {side: f for side, f in factors.items() if f.shape[-1] <= s.largest_side}
        if not state:
            _begin(state, gradient)
            for side, factor in factors.items():
                state[side] = factor
                state[f"{side}_axes"] = (
                    torch.linalg.eigh(_steady(factor)).eigenvectors.flip(-1).contiguous()
                )
            return
        changes = _back(state, self._adam(state, _rotated(state, gradient)))
        group = self.param_groups[0]
        for layer, change in zip(stack, changes, strict=True):
            if group["weight_decay"]:
                layer.weight.mul_(1 - group["lr"] * group["weight_decay"])
            layer.add(change)
        for side, factor in factors.items():
            state[side].lerp_(factor, 1 - s.beta_factors)
        if state["step"] % s.refresh == 0:
            _refresh(state)

    def _move_others(self) -> None:
        state = self.state[self._others[0]]
        gradient = torch.cat([p.grad.flatten() for p in self._others])
        if not state:
            _begin(state, gradient)
        change = self._adam(state, gradient)
        sizes = [p.numel() for p in self._others]
        for p, part in zip(self._others, change.split(sizes), strict=True):
            p += part.view_as(p)

    def _adam(self, state: dict[str, Tensor], gradient: Tensor) -> Tensor:
        """Adam's change for a gradient, in the coordinates of the gradient."""
        s = self.settings
        state["step"] += 1
        n = state["step"].item()
        state["mean"].lerp_(gradient, 1 - s.beta_1)
        state["square"].mul_(s.beta_2).addcmul_(gradient, gradient, value=1 - s.beta_2)
        root = (state["square"] / (1 - s.beta_2**n)).sqrt_().add_(s.eps)
        return (state["mean"] / root).mul_(-self.param_groups[0]["lr"] / (1 - s.beta_1**n))


def _begin(state: dict[str, Tensor], gradient: Tensor) -> None:
    state |= {name: torch.zeros_like(gradient) for name in ("mean", "square")}
    state["step"] = torch.zeros(())


def _steady(factor: Tensor) -> Tensor:
    """A covariance whose null space has axes of its own, not those of rounding errors."""
    n = factor.shape[-1]
    ramp = torch.linspace(0, 1e-6, n, dtype=factor.dtype, device=factor.device)
    trace = factor.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    return factor + torch.diag_embed(trace / n * ramp)


def _rotated(state: dict[str, Tensor], matrix: Tensor) -> Tensor:
    """A matrix in the coordinates of the axes."""
    if "rows_axes" in state:
        matrix = state["rows_axes"].mT @ matrix
    return matrix @ state["columns_axes"] if "columns_axes" in state else matrix


def _back(state: dict[str, Tensor], matrix: Tensor) -> Tensor:
    """Inverse of :func:`_rotated`."""
    if "rows_axes" in state:
        matrix = state["rows_axes"] @ matrix
    return matrix @ state["columns_axes"].mT if "columns_axes" in state else matrix


def _refresh(state: dict[str, Tensor]) -> None:
    """Turn the axes toward the eigenvectors of today's covariances: one orthogonal iteration.

    The mean of the gradient follows exactly; the mean squares keep to their axes.
    """
    mean = _back(state, state["mean"])
    for side, dim in (("rows", -2), ("columns", -1)):
        if side not in state:
            continue
        axes = state[f"{side}_axes"]
        image = _steady(state[side]) @ axes
        order = (axes * image).sum(-2).argsort(-1, descending=True)
        along = order.unsqueeze(-3 - dim).expand_as(state["square"])
        state["square"] = state["square"].gather(dim, along)
        image = image.gather(-1, order.unsqueeze(-2).expand_as(image))
        state[f"{side}_axes"] = torch.linalg.qr(image).Q.contiguous()
    state["mean"] = _rotated(state, mean)


@dataclass(frozen=True)
class _Layer:
    """A layer as one matrix, (n_out, n_in + 1), whose last column is the bias."""

    weight: Tensor
    bias: Tensor
    outputs: int
    """Axis of the weight that counts outputs, 0 or 1."""
    basis: Tensor | None = None
    """Steps are taken in coordinates in which the matrix is a product with this one from the right,
    (n_in + 1, n_in + 1)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        n_out = len(self.bias)
        return n_out, self.weight.numel() // n_out + 1

    def gradient(self) -> Tensor:
        """Gradient by the matrix in the coordinates of the steps."""
        weight = self.weight.grad.movedim(self.outputs, 0).flatten(1)
        joined = torch.cat((weight, self.bias.grad[:, None]), dim=1)
        return joined if self.basis is None else joined @ self.basis.mT

    def add(self, change: Tensor) -> None:
        """Add a matrix that is given in these coordinates."""
        if self.basis is not None:
            change = change @ self.basis
        weight = self.weight.movedim(self.outputs, 0)
        weight.add_(change[:, :-1].view_as(weight))
        self.bias.add_(change[:, -1])


def _interactions(module: nn.Module) -> list[InteractLayer]:
    return [m for m in module.modules() if isinstance(m, InteractLayer)]


def _layers(module: nn.Module, white: Tensor | None) -> Iterator[_Layer]:
    """Interactions, the first in whitened coordinates, and dense layers of more than one output."""
    interactions = _interactions(module)
    for k, layer in enumerate(interactions):
        # weights: (n_sensitivities, n_out, n_in)
        basis = white if k == 0 else None
        yield _Layer(layer.int_weights, layer.selfint.bias, outputs=1, basis=basis)
    within = {id(layer.selfint) for layer in interactions}
    for layer in module.modules():
        dense = isinstance(layer, nn.Linear) and layer.bias is not None
        if dense and layer.out_features > 1 and id(layer) not in within:
            yield _Layer(layer.weight, layer.bias, outputs=0)


@torch.no_grad()
def whitening(module: HipnnModule, frames: Sequence[Batch], floor: float) -> Tensor:
    r"""Coordinates in which environments have no mean and unit covariance.

    An environment (e, 1) is :math:`(e', 1) A^T` with white :math:`e'`. Vectors count as scalars do.

    Parameters
    ----------
    module
        Its first interaction sees one neighbor species per channel.
    frames
        One batch each.
    floor
        Added to the covariance, relative to its mean diagonal.

    Returns
    -------
    Tensor
        Inverse of A, (n_sensitivities * n_species + 1, n_sensitivities * n_species + 1).
    """
    found = [_environments(module, frame).cpu() for frame in frames]
    scalars = torch.cat([environments[0] for environments in found])
    n_atoms, n = scalars.shape
    covariance = sum(torch.einsum("kai,kaj->ij", e, e) for e in found) / n_atoms
    mean = scalars.mean(0)
    covariance -= torch.outer(mean, mean)
    coordinates = torch.eye(n + 1, dtype=torch.float64)
    if (scale := covariance.trace() / n) > 0:  # else no atom has a neighbor
        floors = floor * scale * torch.eye(n, dtype=torch.float64)
        coordinates[:n, :n] = torch.linalg.cholesky(covariance + floors)
        coordinates[:n, n] = mean
    return torch.linalg.inv(coordinates).to(_interactions(module)[0].int_weights)


def _environments(module: HipnnModule, frame: Batch) -> Tensor:
    """Scalars and, where the network uses them, vectors: (1 or 4, n_atoms, n_inputs), float64."""
    layer, n_species = _interactions(module)[0], len(module.config.species)
    frame = frame.to(layer.int_weights.device)
    distance = frame.vectors.norm(dim=1, keepdim=True)
    directions = torch.ones_like(distance)
    if module.config.l_max:
        directions = torch.cat((directions, frame.vectors / distance), dim=1)
    terms = directions[:, :, None] * layer.sensitivity(distance[:, 0])[:, None, :]
    species = module._species_index[frame.numbers]
    sums = terms.new_zeros(frame.n_atoms * n_species, *terms.shape[1:], dtype=torch.float64)
    sums.index_add_(0, frame.first * n_species + species[frame.second], terms.double())
    by_atom = sums.unflatten(0, (frame.n_atoms, n_species))
    return by_atom.permute(2, 0, 3, 1).flatten(2)
