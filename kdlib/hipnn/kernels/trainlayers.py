r"""What happens between the matrix products of a training step, atom by atom.

The quantities of a layer come in pairs (see :mod:`kdlib.hipnn.kernels.gradients`): a value and its
change along a direction of the environments (``_t``, tangent), the derivative of the summed energy
by it (``_g``), and the derivative of the loss by it (``_b``, from the back). Arrays are
(n_atoms, n_features), those of the interaction (n_atoms, 4, n_features).
"""

import math

import numpy as np

from kdlib._numba import compiled, inlined
from kdlib.hipnn.kernels.elementary import FASTMATH, exp2, log1p

_LOG2_E = math.log2(math.e)
#: From here on torch's softplus is the identity.
_LINEAR = 20.0

_OPTIONS = {"fastmath": FASTMATH, "error_model": "numpy"}


@inlined(**_OPTIONS)
def _activate(z):
    """Softplus and its derivative."""
    # softplus(z) = max(z, 0) + log(1 + exp(-|z|))
    real = type(z)
    one = real(1)
    t = exp2(-abs(z) * real(_LOG2_E))
    inverse = one / (one + t)
    value = max(z, real(0)) + log1p(t)
    slope = inverse if z >= real(0) else t * inverse
    return (z if z > real(_LINEAR) else value), (one if z > real(_LINEAR) else slope)


@compiled(**_OPTIONS)
def interaction(y, scales, cusp, own, bias, adjust, shift, species, s, slope, norm, x):
    """Activation of the interaction layer, and what its residual connection adds to."""
    # z = y_0 + t |y| + W_s + b;   x = adjust_s + c
    base, rest = np.empty((2, own.shape[1], own.shape[0]), own.dtype)
    for k in range(base.shape[0]):
        for f in range(base.shape[1]):
            base[k, f] = own[f, k] + bias[f]
            rest[k, f] = adjust[f, k] + shift[f]
    for i in range(s.shape[0]):
        k = species[i]
        for f in range(s.shape[1]):
            a, b, c = y[i, 1, f], y[i, 2, f], y[i, 3, f]
            norm[i, f] = math.sqrt(a * a + b * b + c * c + cusp)
            z = y[i, 0, f] + scales[f] * norm[i, f] + base[k, f]
            s[i, f], slope[i, f] = _activate(z)
            x[i, f] = rest[k, f]


@compiled(**_OPTIONS)
def forward(z, bias, before, shift, s, slope, x):
    """Activation of an atom layer, and what its residual connection adds to."""
    for i in range(z.shape[0]):
        for f in range(z.shape[1]):
            s[i, f], slope[i, f] = _activate(z[i, f] + bias[f])
            x[i, f] = before[i, f] + shift[f]


@compiled(**_OPTIONS)
def fold(residual, head, shift, bias, out):
    """Weights of the energy by the last activations into ``out``; returns the energy's constant."""
    # eps = h . (R s + c + x) + b = (R^T h) . s + h . x + (h . c + b)
    out[:] = 0
    constant = bias[0]
    for a in range(residual.shape[0]):
        constant += head[a] * shift[a]
        for f in range(residual.shape[1]):
            out[f] += head[a] * residual[a, f]
    return constant


@compiled(**_OPTIONS)
def energies(z, bias, before, folded, head, constant, s, slope, z_g, x_g, out):
    """Activation of the last layer, energies, and their derivatives by what enters the layer."""
    real = z.dtype.type
    for i in range(z.shape[0]):
        total = real(0)
        for f in range(z.shape[1]):
            s[i, f], slope[i, f] = _activate(z[i, f] + bias[f])
            total += folded[f] * s[i, f] + head[f] * before[i, f]
            z_g[i, f] = folded[f] * slope[i, f]
            x_g[i, f] = head[f]
        out[i] = total + constant


@compiled(**_OPTIONS)
def backward(s_g, slope, above, z_g, x_g):
    """Derivatives of the energy through an activation."""
    for i in range(s_g.shape[0]):
        for f in range(s_g.shape[1]):
            z_g[i, f] = s_g[i, f] * slope[i, f]
            x_g[i, f] = above[i, f]


@compiled(**_OPTIONS)
def interaction_backward(s_g, slope, y, norm, scales, z_g, y_g):
    """Derivatives of the energy through the interaction layer."""
    # Loops with few arrays each: before it vectorizes one, the compiler compares their addresses.
    w = np.empty(slope.shape[1], slope.dtype)
    for i in range(s_g.shape[0]):
        for f in range(w.size):
            z_g[i, f] = s_g[i, f] * slope[i, f]
        for f in range(w.size):
            w[f] = z_g[i, f] * scales[f] / norm[i, f]
            y_g[i, 0, f] = z_g[i, f]
        for c in range(1, 4):
            for f in range(w.size):
                y_g[i, c, f] = w[f] * y[i, c, f]


@compiled(**_OPTIONS)
def interaction_tangent(y, y_t, norm, scales, slope, norm_t, z_t, s_t):
    """Change of the interaction layer."""
    for i in range(slope.shape[0]):
        dot = norm_t[i]
        dot[:] = 0
        for c in range(1, 4):
            for f in range(dot.size):
                dot[f] += y[i, c, f] * y_t[i, c, f]
        for f in range(dot.size):
            dot[f] /= norm[i, f]
        for f in range(dot.size):
            z_t[i, f] = y_t[i, 0, f] + scales[f] * dot[f]
        for f in range(dot.size):
            s_t[i, f] = slope[i, f] * z_t[i, f]


@compiled(**_OPTIONS)
def tangent(z_t, slope, before, s_t, x_t):
    """Change of an atom layer."""
    for i in range(z_t.shape[0]):
        for f in range(z_t.shape[1]):
            s_t[i, f] = slope[i, f] * z_t[i, f]
            x_t[i, f] = before[i, f]


@compiled(**_OPTIONS)
def energies_backward(
    seed, z_t, slope, s, x, x_t, z_g, head, z_b, x_b, by_bias, by_folded, by_head
):
    """Derivatives of the loss through the energies; ``seed`` is dL/d(atomic energy).

    Returns the sum of the seeds. ``by_head`` has no contribution of the last layer yet.
    """
    # z_b = s' seed q + s'' z' q, with s'' = s' (1 - s') and z_g = q s'
    real = seed.dtype.type
    by_bias[:] = 0
    by_folded[:] = 0
    by_head[:] = 0
    total = real(0)
    for i in range(z_t.shape[0]):
        a = seed[i]
        total += a
        for f in range(z_t.shape[1]):
            d = slope[i, f]
            z_b[i, f] = z_g[i, f] * (a + (real(1) - d) * z_t[i, f])
            x_b[i, f] = a * head[f]
            by_bias[f] += z_b[i, f]
            by_folded[f] += a * s[i, f] + d * z_t[i, f]
            by_head[f] += a * x[i, f] + x_t[i, f]
    return total


@compiled(**_OPTIONS)
def unfold(residual, head, shift, by_folded, total, by_residual, by_head, by_shift, by_bias):
    """Gradients of what `fold` folds."""
    for a in range(residual.shape[0]):
        dot = residual.dtype.type(0)
        for f in range(residual.shape[1]):
            dot += residual[a, f] * by_folded[f]
            by_residual[a, f] = head[a] * by_folded[f]
        by_head[a] += dot + total * shift[a]
        by_shift[a] = total * head[a]
    by_bias[0] = total


@compiled(**_OPTIONS)
def loss_backward(s_b, z_t, z_g, slope, above, z_b, x_b, by_bias, by_shift):
    """Derivatives of the loss through an activation."""
    # z_b = s' s_b + s'' z' s_g, with s'' s_g = (1 - s') z_g
    one = slope.dtype.type(1)
    by_bias[:] = 0
    by_shift[:] = 0
    for i in range(s_b.shape[0]):
        for f in range(s_b.shape[1]):
            d = slope[i, f]
            z_b[i, f] = d * s_b[i, f] + (one - d) * z_g[i, f] * z_t[i, f]
            x_b[i, f] = above[i, f]
            by_bias[f] += z_b[i, f]
            by_shift[f] += above[i, f]


@compiled(**_OPTIONS)
def interaction_loss_backward(
    s_b, z_t, z_g, slope, above, y, y_t, norm, norm_t, scales, species,
    y_b, by_scales, by_own, by_bias, by_adjust, by_shift,
):  # fmt: skip
    """Derivatives of the loss through the interaction layer."""
    # n = |y|, n' = y . y' / n:  y_b = z_b t y / n + z_g t (y' / n - n' y / n^2)
    one, zero = slope.dtype.type(1), slope.dtype.type(0)
    own, adjust = np.zeros((2, by_own.shape[1], slope.shape[1]), slope.dtype)
    along, across = np.empty((2, slope.shape[1]), slope.dtype)
    by_scales[:] = zero
    for i in range(slope.shape[0]):
        k, b = species[i], y_b[i, 0]
        for f in range(b.size):
            d = slope[i, f]
            b[f] = d * s_b[i, f] + (one - d) * z_g[i, f] * z_t[i, f]
        for f in range(b.size):
            n, g = norm[i, f], z_g[i, f]
            across[f] = scales[f] * g / n
            along[f] = scales[f] * (b[f] - g * norm_t[i, f] / n) / n
        for c in range(1, 4):
            for f in range(b.size):
                y_b[i, c, f] = along[f] * y[i, c, f] + across[f] * y_t[i, c, f]
        for f in range(b.size):
            by_scales[f] += b[f] * norm[i, f] + z_g[i, f] * norm_t[i, f]
        for f in range(b.size):
            own[k, f] += b[f]
            adjust[k, f] += above[i, f]
    for f in range(slope.shape[1]):
        by_bias[f] = by_shift[f] = zero
        for k in range(own.shape[0]):
            by_own[f, k] = own[k, f]
            by_adjust[f, k] = adjust[k, f]
            by_bias[f] += own[k, f]
            by_shift[f] += adjust[k, f]
