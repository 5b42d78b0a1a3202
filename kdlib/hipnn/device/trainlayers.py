r"""What happens between the matrix products of a training step, on a device.

Same names, same arguments (tensors instead of arrays), same results as
:mod:`kdlib.hipnn.kernels.trainlayers`, which has the equations. A program owns a tile of atoms
times all features. Sums over atoms end in one row per program; a second kernel adds the rows up in
their order, so that the same input gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Numbers in a tile: enough for four warps.
TILE = 2048
#: Features that a program adds up: few, so that it takes many rows at a time.
_ADDED = 16
_LINEAR = tl.constexpr(20.0)


@triton.jit
def _tile(n, F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Features of a program, which of its places exist, and where they are; see `_rows`."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    f = tl.arange(0, WIDTH)
    inside = (i < n)[:, None] & (f < F)[None, :]
    return i[:, None], f[None, :], inside, i[:, None] * F + f[None, :]


@triton.jit
def _activate(z):
    """Softplus and its derivative."""
    t = tl.exp(-tl.abs(z))
    # log1p: the error of 1 + t is undone (W. Kahan's device)
    u = 1.0 + t
    log1p = tl.where(u == 1.0, t, tl.log(u) * (t / tl.where(u == 1.0, 1.0, u - 1.0)))
    inverse = 1.0 / u
    value = tl.maximum(z, 0.0) + log1p
    slope = tl.where(z >= 0.0, inverse, t * inverse)
    return tl.where(z > _LINEAR, z, value), tl.where(z > _LINEAR, 1.0, slope)


@triton.jit(do_not_specialize=["n"])
def _interaction(
    y, scales, own, bias, adjust, shift, species, s, slope, norm, x, n, CUSP: tl.constexpr,
    S: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    i, f, inside, at = _tile(n, F, ROWS, WIDTH)
    y += i * (4 * F) + f
    a = tl.load(y + F, mask=inside, other=0.0)
    b = tl.load(y + 2 * F, mask=inside, other=0.0)
    c = tl.load(y + 3 * F, mask=inside, other=0.0)
    length = tl.sqrt(a * a + b * b + c * c + CUSP)
    k = tl.load(species + i, mask=i < n, other=0)
    known = f < F
    base = tl.load(own + f * S + k, mask=inside, other=0.0) + tl.load(bias + f, mask=known)
    z = tl.load(y, mask=inside, other=0.0) + tl.load(scales + f, mask=known) * length + base
    value, derivative = _activate(z)
    tl.store(norm + at, length, mask=inside)
    tl.store(s + at, value, mask=inside)
    tl.store(slope + at, derivative, mask=inside)
    rest = tl.load(adjust + f * S + k, mask=inside, other=0.0) + tl.load(shift + f, mask=known)
    tl.store(x + at, rest, mask=inside)


def interaction(
    y: Tensor, scales: Tensor, cusp: float, own: Tensor, bias: Tensor, adjust: Tensor,
    shift: Tensor, species: Tensor, s: Tensor, slope: Tensor, norm: Tensor, x: Tensor,
) -> None:  # fmt: skip
    """Activation of the interaction layer, and what its residual connection adds to."""
    grid, shape = _rows(s)
    _interaction[grid](
        y, scales, own, bias, adjust, shift, species, s, slope, norm, x, len(s),
        CUSP=cusp, S=own.shape[1], **shape,
    )  # fmt: skip


@triton.jit(do_not_specialize=["n"])
def _forward(
    z, bias, before, shift, s, slope, x, n,
    F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    _, f, inside, at = _tile(n, F, ROWS, WIDTH)
    known = f < F
    value, derivative = _activate(
        tl.load(z + at, mask=inside, other=0.0) + tl.load(bias + f, mask=known)
    )
    tl.store(s + at, value, mask=inside)
    tl.store(slope + at, derivative, mask=inside)
    before = tl.load(before + at, mask=inside)
    tl.store(x + at, before + tl.load(shift + f, mask=known), mask=inside)


def forward(
    z: Tensor, bias: Tensor, before: Tensor, shift: Tensor, s: Tensor, slope: Tensor, x: Tensor
) -> None:
    """Activation of an atom layer, and what its residual connection adds to."""
    grid, shape = _rows(z)
    _forward[grid](z, bias, before, shift, s, slope, x, len(z), **shape)


@triton.jit
def _fold(residual, head, shift, bias, out, constant, F: tl.constexpr, WIDTH: tl.constexpr):
    a, f = tl.arange(0, WIDTH)[:, None], tl.arange(0, WIDTH)[None, :]
    known = a < F
    weights = tl.load(residual + a * F + f, mask=known & (f < F), other=0.0)
    of_head = tl.load(head + a, mask=known, other=0.0)
    tl.store(out + tl.arange(0, WIDTH), tl.sum(of_head * weights, 0), mask=tl.arange(0, WIDTH) < F)
    total = tl.sum(of_head * tl.load(shift + a, mask=known, other=0.0))
    tl.store(constant, total + tl.load(bias))


def fold(residual: Tensor, head: Tensor, shift: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """Weights of the energy by the last activations into ``out``; returns the energy's constant."""
    constant = torch.empty_like(bias)
    _fold[(1,)](
        residual, head, shift, bias, out, constant,
        F=len(out), WIDTH=triton.next_power_of_2(len(out)),
    )  # fmt: skip
    return constant


@triton.jit(do_not_specialize=["n"])
def _energies(
    z, bias, before, folded, head, constant, s, slope, z_g, x_g, out, n,
    F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    i, f, inside, at = _tile(n, F, ROWS, WIDTH)
    known = f < F
    value, derivative = _activate(
        tl.load(z + at, mask=inside, other=0.0) + tl.load(bias + f, mask=known)
    )
    tl.store(s + at, value, mask=inside)
    tl.store(slope + at, derivative, mask=inside)
    of_s = tl.load(folded + f, mask=known, other=0.0)
    of_x = tl.load(head + f, mask=known, other=0.0)
    tl.store(z_g + at, of_s * derivative, mask=inside)
    tl.store(x_g + at, tl.broadcast_to(of_x, value.shape), mask=inside)
    parts = of_s * value + of_x * tl.load(before + at, mask=inside, other=0.0)
    total = tl.sum(tl.where(inside, parts, 0.0), 1)[:, None] + tl.load(constant)
    tl.store(out + i, total, mask=i < n)


def energies(
    z: Tensor, bias: Tensor, before: Tensor, folded: Tensor, head: Tensor, constant: Tensor,
    s: Tensor, slope: Tensor, z_g: Tensor, x_g: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Activation of the last layer, energies, and their derivatives by what enters the layer."""
    grid, shape = _rows(z)
    _energies[grid](
        z, bias, before, folded, head, constant, s, slope, z_g, x_g, out, len(z), **shape
    )


@triton.jit(do_not_specialize=["n"])
def _backward(
    s_g, slope, above, z_g, x_g, n, F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    _, _, inside, at = _tile(n, F, ROWS, WIDTH)
    of_z = tl.load(s_g + at, mask=inside) * tl.load(slope + at, mask=inside)
    tl.store(z_g + at, of_z, mask=inside)
    tl.store(x_g + at, tl.load(above + at, mask=inside), mask=inside)


def backward(s_g: Tensor, slope: Tensor, above: Tensor, z_g: Tensor, x_g: Tensor) -> None:
    """Derivatives of the energy through an activation."""
    grid, shape = _rows(z_g)
    _backward[grid](s_g, slope, above, z_g, x_g, len(z_g), **shape)


@triton.jit(do_not_specialize=["n"])
def _interaction_backward(
    s_g, slope, y, norm, scales, z_g, y_g, n,
    F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    i, f, inside, at = _tile(n, F, ROWS, WIDTH)
    of_z = tl.load(s_g + at, mask=inside, other=0.0) * tl.load(slope + at, mask=inside, other=0.0)
    w = of_z * tl.load(scales + f, mask=f < F) / tl.load(norm + at, mask=inside, other=1.0)
    tl.store(z_g + at, of_z, mask=inside)
    y += i * (4 * F) + f
    y_g += i * (4 * F) + f
    tl.store(y_g, of_z, mask=inside)
    for c in tl.static_range(1, 4):
        tl.store(y_g + c * F, w * tl.load(y + c * F, mask=inside), mask=inside)


def interaction_backward(
    s_g: Tensor, slope: Tensor, y: Tensor, norm: Tensor, scales: Tensor, z_g: Tensor, y_g: Tensor
) -> None:
    """Derivatives of the energy through the interaction layer."""
    grid, shape = _rows(z_g)
    _interaction_backward[grid](s_g, slope, y, norm, scales, z_g, y_g, len(z_g), **shape)


@triton.jit(do_not_specialize=["n"])
def _interaction_tangent(
    y, y_t, norm, scales, slope, norm_t, z_t, s_t, n,
    F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    i, f, inside, at = _tile(n, F, ROWS, WIDTH)
    y += i * (4 * F) + f
    y_t += i * (4 * F) + f
    dot = tl.zeros((ROWS, WIDTH), norm.dtype.element_ty)
    for c in tl.static_range(1, 4):
        dot += tl.load(y + c * F, mask=inside) * tl.load(y_t + c * F, mask=inside)
    dot /= tl.load(norm + at, mask=inside, other=1.0)
    change = tl.load(y_t, mask=inside) + tl.load(scales + f, mask=f < F) * dot
    tl.store(norm_t + at, dot, mask=inside)
    tl.store(z_t + at, change, mask=inside)
    tl.store(s_t + at, tl.load(slope + at, mask=inside) * change, mask=inside)


def interaction_tangent(
    y: Tensor, y_t: Tensor, norm: Tensor, scales: Tensor, slope: Tensor, norm_t: Tensor,
    z_t: Tensor, s_t: Tensor,
) -> None:  # fmt: skip
    """Change of the interaction layer."""
    grid, shape = _rows(slope)
    _interaction_tangent[grid](y, y_t, norm, scales, slope, norm_t, z_t, s_t, len(slope), **shape)


@triton.jit(do_not_specialize=["n"])
def _tangent(
    z_t, slope, before, s_t, x_t, n, F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    _, _, inside, at = _tile(n, F, ROWS, WIDTH)
    change = tl.load(slope + at, mask=inside) * tl.load(z_t + at, mask=inside)
    tl.store(s_t + at, change, mask=inside)
    tl.store(x_t + at, tl.load(before + at, mask=inside), mask=inside)


def tangent(z_t: Tensor, slope: Tensor, before: Tensor, s_t: Tensor, x_t: Tensor) -> None:
    """Change of an atom layer."""
    grid, shape = _rows(z_t)
    _tangent[grid](z_t, slope, before, s_t, x_t, len(z_t), **shape)


@triton.jit(do_not_specialize=["n"])
def _energies_backward(
    seed, z_t, slope, s, x, x_t, z_g, head, z_b, x_b, partial, n,
    F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    i, f, inside, at = _tile(n, F, ROWS, WIDTH)
    a = tl.load(seed + i, mask=i < n, other=0.0)
    d = tl.load(slope + at, mask=inside, other=0.0)
    change = tl.load(z_t + at, mask=inside, other=0.0)
    of_z = tl.load(z_g + at, mask=inside, other=0.0) * (a + (1.0 - d) * change)
    tl.store(z_b + at, of_z, mask=inside)
    tl.store(x_b + at, a * tl.load(head + f, mask=f < F), mask=inside)
    folded = a * tl.load(s + at, mask=inside, other=0.0) + d * change
    of_head = a * tl.load(x + at, mask=inside, other=0.0) + tl.load(
        x_t + at, mask=inside, other=0.0
    )
    partial += tl.program_id(0) * (4 * F) + tl.arange(0, WIDTH)
    known = tl.arange(0, WIDTH) < F
    tl.store(partial, tl.sum(of_z, 0), mask=known)
    tl.store(partial + F, tl.sum(folded, 0), mask=known)
    tl.store(partial + 2 * F, tl.sum(of_head, 0), mask=known)
    tl.store(partial + 3 * F, tl.sum(tl.broadcast_to(a, of_z.shape), 0), mask=known)


def energies_backward(
    seed: Tensor, z_t: Tensor, slope: Tensor, s: Tensor, x: Tensor, x_t: Tensor, z_g: Tensor,
    head: Tensor, z_b: Tensor, x_b: Tensor, by_bias: Tensor, by_folded: Tensor, by_head: Tensor,
) -> Tensor:  # fmt: skip
    """Derivatives of the loss through the energies; ``seed`` is dL/d(atomic energy).

    Returns the sum of the seeds, (n_features,) times. ``by_head`` has no contribution of the last
    layer yet.
    """
    grid, shape = _rows(z_t)
    partial = head.new_empty(grid[0], 4, len(head))
    _energies_backward[grid](
        seed, z_t, slope, s, x, x_t, z_g, head, z_b, x_b, partial, len(z_t), **shape
    )
    *sums, total = _add_up(partial)
    torch._foreach_copy_([by_bias, by_folded, by_head], sums)
    return total


@triton.jit
def _unfold(
    residual, head, shift, by_folded, total, by_residual, by_head, by_shift, by_bias,
    F: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    a, f = tl.arange(0, WIDTH)[:, None], tl.arange(0, WIDTH)[None, :]
    known = a < F
    here = known & (f < F)
    slope = tl.load(by_folded + f, mask=f < F, other=0.0)
    of_head = tl.load(head + a, mask=known, other=0.0)
    weights = tl.load(residual + a * F + f, mask=here, other=0.0)
    tl.store(by_residual + a * F + f, of_head * slope, mask=here)
    total = tl.load(total)
    dot = tl.sum(weights * slope, 1)[:, None] + total * tl.load(shift + a, mask=known, other=0.0)
    tl.store(by_head + a, tl.load(by_head + a, mask=known, other=0.0) + dot, mask=known)
    tl.store(by_shift + a, total * of_head, mask=known)
    tl.store(by_bias, total)


def unfold(
    residual: Tensor, head: Tensor, shift: Tensor, by_folded: Tensor, total: Tensor,
    by_residual: Tensor, by_head: Tensor, by_shift: Tensor, by_bias: Tensor,
) -> None:  # fmt: skip
    """Gradients of what `fold` folds."""
    _unfold[(1,)](
        residual, head, shift, by_folded, total, by_residual, by_head, by_shift, by_bias,
        F=len(head), WIDTH=triton.next_power_of_2(len(head)),
    )  # fmt: skip


@triton.jit(do_not_specialize=["n"])
def _loss_backward(
    s_b, z_t, z_g, slope, above, z_b, x_b, partial, n,
    F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    _, _, inside, at = _tile(n, F, ROWS, WIDTH)
    d = tl.load(slope + at, mask=inside, other=0.0)
    of_change = (1.0 - d) * tl.load(z_g + at, mask=inside, other=0.0)
    of_z = d * tl.load(s_b + at, mask=inside, other=0.0)
    of_z += of_change * tl.load(z_t + at, mask=inside, other=0.0)
    tl.store(z_b + at, of_z, mask=inside)
    of_x = tl.load(above + at, mask=inside, other=0.0)
    tl.store(x_b + at, of_x, mask=inside)
    partial += tl.program_id(0) * (2 * F) + tl.arange(0, WIDTH)
    known = tl.arange(0, WIDTH) < F
    tl.store(partial, tl.sum(of_z, 0), mask=known)
    tl.store(partial + F, tl.sum(of_x, 0), mask=known)


def loss_backward(
    s_b: Tensor, z_t: Tensor, z_g: Tensor, slope: Tensor, above: Tensor, z_b: Tensor, x_b: Tensor,
    by_bias: Tensor, by_shift: Tensor,
) -> None:  # fmt: skip
    """Derivatives of the loss through an activation."""
    grid, shape = _rows(z_b)
    partial = z_b.new_empty(grid[0], 2, z_b.shape[1])
    _loss_backward[grid](s_b, z_t, z_g, slope, above, z_b, x_b, partial, len(z_b), **shape)
    torch._foreach_copy_([by_bias, by_shift], _add_up(partial))


@triton.jit(do_not_specialize=["n"])
def _interaction_loss_backward(
    s_b, z_t, z_g, slope, above, y, y_t, norm, norm_t, scales, species, y_b, partial, n,
    S: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    i, f, inside, at = _tile(n, F, ROWS, WIDTH)
    d = tl.load(slope + at, mask=inside, other=0.0)
    g = tl.load(z_g + at, mask=inside, other=0.0)
    b = d * tl.load(s_b + at, mask=inside, other=0.0)
    b += (1.0 - d) * g * tl.load(z_t + at, mask=inside, other=0.0)
    length = tl.load(norm + at, mask=inside, other=1.0)
    change = tl.load(norm_t + at, mask=inside, other=0.0)
    scale = tl.load(scales + f, mask=f < F, other=0.0)
    across = scale * g / length
    along = scale * (b - g * change / length) / length
    y += i * (4 * F) + f
    y_t += i * (4 * F) + f
    y_b += i * (4 * F) + f
    tl.store(y_b, b, mask=inside)
    for c in tl.static_range(1, 4):
        of_y = along * tl.load(y + c * F, mask=inside) + across * tl.load(y_t + c * F, mask=inside)
        tl.store(y_b + c * F, of_y, mask=inside)
    of_x = tl.load(above + at, mask=inside, other=0.0)
    partial += tl.program_id(0) * ((1 + 2 * S) * F) + tl.arange(0, WIDTH)
    known = tl.arange(0, WIDTH) < F
    tl.store(partial, tl.sum(b * length + g * change, 0), mask=known)
    channel = tl.load(species + i, mask=i < n, other=0)
    for k in tl.static_range(S):
        mine = channel == k
        tl.store(partial + (1 + k) * F, tl.sum(tl.where(mine, b, 0.0), 0), mask=known)
        tl.store(partial + (1 + S + k) * F, tl.sum(tl.where(mine, of_x, 0.0), 0), mask=known)


def interaction_loss_backward(
    s_b: Tensor, z_t: Tensor, z_g: Tensor, slope: Tensor, above: Tensor, y: Tensor, y_t: Tensor,
    norm: Tensor, norm_t: Tensor, scales: Tensor, species: Tensor, y_b: Tensor, by_scales: Tensor,
    by_own: Tensor, by_bias: Tensor, by_adjust: Tensor, by_shift: Tensor,
) -> None:  # fmt: skip
    """Derivatives of the loss through the interaction layer."""
    grid, shape = _rows(z_t)
    n_features, n_species = by_own.shape
    partial = scales.new_empty(grid[0], 1 + 2 * n_species, n_features)
    _interaction_loss_backward[grid](
        s_b, z_t, z_g, slope, above, y, y_t, norm, norm_t, scales, species, y_b, partial, len(z_t),
        S=n_species, **shape,
    )  # fmt: skip
    sums = _add_up(partial)
    own, adjust = torch.stack(sums[1:]).view(2, n_species, n_features)
    torch._foreach_copy_(
        [by_scales, by_own, by_adjust, by_bias, by_shift],
        [sums[0], own.T, adjust.T, own.sum(0), adjust.sum(0)],
    )


@triton.jit(do_not_specialize=["n_rows"])
def _add_rows(partial, out, n_rows, F: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None]
    f = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    stride = tl.num_programs(0) * F
    partial += tl.program_id(0) * F + f[None, :]
    total = tl.zeros((ROWS, WIDTH), out.dtype.element_ty)
    for start in range(0, n_rows, ROWS):
        here = (start + row < n_rows) & (f < F)[None, :]
        total += tl.load(partial + (start + row) * stride, mask=here, other=0.0)
    tl.store(out + tl.program_id(0) * F + f, tl.sum(total, 0), mask=f < F)


def _add_up(partial: Tensor) -> list[Tensor]:
    """Add up the rows of the programs, (n_programs, n_sums, n_features): (n_features,) each."""
    n, n_sums, n_features = partial.shape
    width = min(_ADDED, triton.next_power_of_2(n_features))
    out = torch.empty_like(partial[0])
    grid = n_sums, triton.cdiv(n_features, width)
    _add_rows[grid](partial, out, n, F=n_features, ROWS=TILE // width, WIDTH=width)
    return list(out)


def _rows(values: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """Grid over tiles of atoms, and their shape, for (n_atoms, n_features)."""
    width = triton.next_power_of_2(values.shape[1])
    rows = max(1, TILE // width)
    shape = {"F": values.shape[1], "ROWS": rows, "WIDTH": width}
    return (triton.cdiv(len(values), rows),), shape
