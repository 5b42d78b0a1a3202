"""Memory of a training step: parameters and gradient as vectors, work space that is kept."""

from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kdlib.hipnn.device import on_device

#: Numbers per cache line, to which parameters are aligned.
_LINE = 16


def plain(tensor: Tensor) -> np.ndarray | Tensor:
    """Memory of a tensor as loops take it: an array on the CPU, the tensor itself on a device."""
    return tensor if on_device(tensor) else tensor.numpy()


class FlatParameters:
    """The trainable parameters of a module as one vector, and their gradient as another.

    The module's parameters become views of the vector. Those in ``regularized`` come first.

    Attributes
    ----------
    values, gradient
        (n,); between parameters there are zeros.
    n_regularized
        How many of the values, from the first, are ``regularized``.
    """

    def __init__(self, module: nn.Module) -> None:
        chosen = {id(p) for p in module.network.regularization_params()}
        trainable = [p for p in module.parameters() if p.requires_grad]
        order = sorted(trainable, key=lambda p: id(p) not in chosen)
        starts = np.cumsum([0] + [-(-p.numel() // _LINE) * _LINE for p in order])
        self.values = order[0].new_zeros(int(starts[-1])).detach()
        self.gradient = torch.zeros_like(self.values)
        self.n_regularized = int(starts[sum(id(p) in chosen for p in order)])
        self._where = {id(p): int(a) for p, a in zip(order, starts, strict=False)}
        for p in order:
            view = self.view(self.values, p)
            view.copy_(p.detach())
            p.data = view

    def view(self, vector: Tensor, parameter: Tensor) -> Tensor:
        """Part of a vector like ``values`` that belongs to a parameter, in its shape."""
        start = self._where[id(parameter)]
        return vector[start : start + parameter.numel()].view(parameter.shape)

    def both(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """A parameter and the gradient by it."""
        return self.view(self.values, parameter), self.view(self.gradient, parameter)

    def arrays(self, parameter: Tensor) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
        """A parameter and the gradient by it, as loops take them."""
        value, slope = self.both(parameter)
        return plain(value), plain(slope)


class Pair:
    """A quantity and its companion, (2, n_rows, ...)."""

    def __init__(self, tensor: Tensor) -> None:
        #: Both, one below the other, for matrix products over all rows.
        self.both = tensor.flatten(0, 1)
        self.one, self.two = tensor
        self.first, self.second = plain(tensor)

    def rows(self, vectorial: bool) -> "Pair":
        """The tensors as matrices, from (2, n_atoms, 4, width): all components, or the scalar."""
        rows = copy(self)
        for name in ("both", "one", "two"):
            value = getattr(self, name)
            setattr(rows, name, value.flatten(0, 1) if vectorial else value[:, 0])
        return rows


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network."""

    n_species: int
    n_sensitivities: int
    n_features: int
    n_layers: int
    """Atom layers."""
    vectorial: bool
    """Whether l_max is 1."""


class Room:
    """Work space for a number of atoms, with the names of :mod:`kdlib.hipnn.kernels.gradients`.

    Pairs are a value and its change (env, y, s, x), or the derivatives of the loss and of the
    energy by a quantity (``*_b``).
    """

    def __init__(self, arena: "Arena", n: int, sizes: Sizes) -> None:
        width, n_layers = sizes.n_features, sizes.n_layers
        channels = (4, sizes.n_species, sizes.n_sensitivities)
        inputs = sizes.n_species * sizes.n_sensitivities

        def pair(name: str, *size: int) -> Pair:
            return Pair(arena.take(name, 2, n, *size))

        def by_components(name: str, size: int) -> tuple[Pair, Pair]:
            whole = pair(name, 4, size)
            return whole, whole.rows(sizes.vectorial)

        env, self.env_rows = by_components("env", inputs)
        env_b, self.env_b_rows = by_components("env_b", inputs)
        #: For the passes over pairs, (n_atoms, 4, n_species, n_sensitivities).
        self.env, self.env_t = plain(env.both.view(2, n, *channels))
        self.env_b, self.env_g = plain(env_b.both.view(2, n, *channels))
        self.y, self.y_rows = by_components("y", width)
        self.y_b, self.y_b_rows = by_components("y_b", width)
        self.norm = pair("norm", width)
        self.s = [pair(f"s{k}", width) for k in range(n_layers + 1)]
        self.z_b = [pair(f"z_b{k}", width) for k in range(n_layers + 1)]
        self.x = [pair(f"x{k}", width) for k in range(n_layers)]
        self.x_b = [pair(f"x_b{k}", width) for k in range(n_layers)]
        #: Changes before the activations, and the slopes of these.
        self.z_t = [arena.take(f"z_t{k}", 1, n, width)[0] for k in range(n_layers + 1)]
        slopes = [arena.take(f"slope{k}", 1, n, width)[0] for k in range(n_layers + 1)]
        self.slope = [plain(one) for one in slopes]
        self.work = arena.take("work", 1, n, width)[0]
        self.energies = plain(arena.take("energies", 1, n)[0])
        self.forces = plain(arena.take("forces", 1, n, 3)[0])


class Arena:
    """Rooms for any number of atoms, over one piece of memory for each quantity."""

    def __init__(self, sizes: Sizes, like: Tensor) -> None:
        self._sizes, self._like = sizes, like
        self._memory: dict[str, Tensor] = {}
        self._rooms: dict[int, Room] = {}
        self._most = 0

    def room(self, n: int) -> Room:
        """Room for ``n`` atoms; what another one held is lost."""
        if n > self._most:
            self._most = n + n // 4
            self._memory.clear()
            self._rooms.clear()
        if n not in self._rooms:
            self._rooms[n] = Room(self, n, self._sizes)
        return self._rooms[n]

    def take(self, name: str, companions: int, n: int, *size: int) -> Tensor:
        """Beginning of the memory of that name, as (companions, n, *size); zero at first."""
        per_atom = companions * int(np.prod(size))
        if name not in self._memory:
            self._memory[name] = self._like.new_zeros(per_atom * self._most)
        return self._memory[name][: per_atom * n].view(companions, n, *size)
