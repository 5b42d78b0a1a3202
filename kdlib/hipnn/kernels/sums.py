r"""The sums over the pairs of one atom: environment, slopes, and their derivatives.

Symbols, as in :mod:`kdlib.hipnn.kernels`: a pair along :math:`\mathbf r = r\,\mathbf u`,
:math:`x = 1/r`, :math:`m_k = 1/\mu_k`, :math:`\delta_k = x - m_k`, and :math:`u_0 = 1`. Because
dx/dr = -x^2,

.. math:: G_k' = \sigma_k^2 \delta_k x^2 G_k, \qquad
          S_k' = G_k\,(C' + \sigma_k^2 \delta_k\, C x^2) .

A kernel sees one atom: its pairs as a ``table`` (:mod:`kdlib.hipnn.kernels.pairs`), ``n`` of them,
and rows ``(4, n_sensitivities)`` of the environment or of its gradient.
:mod:`kdlib.hipnn.kernels.loops` runs them over all atoms.
"""

import math

from kdlib._numba import inlined
from kdlib.hipnn.kernels.elementary import FASTMATH, exp2
from kdlib.hipnn.kernels.pairs import CX2, DC, FREE, UX, UY, UZ, C, X, padded

#: exp(-sigma^2 delta^2 / 2) = 2^(-(h delta)^2) with h = SCALE sigma.
SCALE = math.sqrt(math.log2(math.e) / 2)


@inlined(fastmath=FASTMATH, error_model="numpy")
def sum_environment(table, n, m, h, out):
    """Environment of the atom."""
    # e_ck = sum_p G_k C u_c
    # Two sensitivities at a time keep the vector units busy; an odd last one is computed twice.
    real = m.dtype.type
    for k in range(0, m.size, 2):
        q = min(k + 1, m.size - 1)
        mk, hk, mq, hq = m[k], h[k], m[q], h[q]
        k0 = kx = ky = kz = q0 = qx = qy = qz = real(0)
        for p in range(padded(n)):
            x, c = table[X, p], table[C, p]
            ux, uy, uz = table[UX, p], table[UY, p], table[UZ, p]
            y, z = hk * (x - mk), hq * (x - mq)
            s, t = exp2(-y * y) * c, exp2(-z * z) * c
            k0 += s
            kx += s * ux
            ky += s * uy
            kz += s * uz
            q0 += t
            qx += t * ux
            qy += t * uy
            qz += t * uz
        out[0, k], out[1, k], out[2, k], out[3, k] = k0, kx, ky, kz
        out[0, q], out[1, q], out[2, q], out[3, q] = q0, qx, qy, qz


@inlined(fastmath=FASTMATH, error_model="numpy")
def add_parameter_gradient(table, n, m, h, sigma, w, grad_m, grad_sigma):
    """Add the gradients by m and sigma of the environment times weights ``w``."""
    # L = sum_ck w_ck e_ck:  dL/dm_k     =  sigma^2 sum_p delta   S_k sum_c w_ck u_c
    #                        dL/dsigma_k = -sigma   sum_p delta^2 S_k sum_c w_ck u_c
    real = m.dtype.type
    for k in range(m.size):
        mk, hk = m[k], h[k]
        w0, wx, wy, wz = w[0, k], w[1, k], w[2, k], w[3, k]
        first = second = real(0)
        for p in range(padded(n)):
            delta = table[X, p] - mk
            y = hk * delta
            wu = w0 + wx * table[UX, p] + wy * table[UY, p] + wz * table[UZ, p]
            t = exp2(-y * y) * table[C, p] * delta * wu
            first += t
            second += t * delta
        grad_m[k] += sigma[k] * sigma[k] * first
        grad_sigma[k] -= sigma[k] * second


@inlined(fastmath=FASTMATH, error_model="numpy")
def pair_slopes(table, n, m, h, sigma, g):
    """Slope of each pair, for g = dE/d(environment), in rows FREE + 1 to FREE + 3."""
    # f(r) = sum_k S_k (g_0k + u . g_k);  with R = sum_k S_k' (g_0k + u . g_k), V = sum_k G_k g_k:
    # df/dr = [R - x C (V . u)] u + x C V
    real = m.dtype.type
    radial, vx, vy, vz = FREE, FREE + 1, FREE + 2, FREE + 3
    table[FREE : FREE + 4, : padded(n)] = real(0)
    for k in range(m.size):
        mk, hk, sigma2 = m[k], h[k], sigma[k] * sigma[k]
        g0, gx, gy, gz = g[0, k], g[1, k], g[2, k], g[3, k]
        for p in range(padded(n)):
            delta = table[X, p] - mk
            y = hk * delta
            t = exp2(-y * y)
            gu = g0 + gx * table[UX, p] + gy * table[UY, p] + gz * table[UZ, p]
            table[radial, p] += t * (table[DC, p] + sigma2 * delta * table[CX2, p]) * gu
            table[vx, p] += t * gx
            table[vy, p] += t * gy
            table[vz, p] += t * gz
    for p in range(padded(n)):
        ux, uy, uz = table[UX, p], table[UY, p], table[UZ, p]
        xc = table[X, p] * table[C, p]
        along = table[radial, p] - xc * (table[vx, p] * ux + table[vy, p] * uy + table[vz, p] * uz)
        table[vx, p] = along * ux + xc * table[vx, p]
        table[vy, p] = along * uy + xc * table[vy, p]
        table[vz, p] = along * uz + xc * table[vz, p]


@inlined(fastmath=FASTMATH, error_model="numpy")
def project(table, n, index, direction):
    """Turn the directions of the pairs into the changes of r and u along them."""
    # a = (u . d), at = C x (d - a u): the directional derivatives of r and of u (times C) along d
    real = table.dtype.type
    a, tx, ty, tz = FREE, FREE + 1, FREE + 2, FREE + 3
    for p in range(n):
        table[tx, p] = direction[index[p], 0]
        table[ty, p] = direction[index[p], 1]
        table[tz, p] = direction[index[p], 2]
    for p in range(n, padded(n)):
        table[tx, p] = table[ty, p] = table[tz, p] = real(0)
    for p in range(padded(n)):
        ux, uy, uz = table[UX, p], table[UY, p], table[UZ, p]
        xc = table[X, p] * table[C, p]
        along = ux * table[tx, p] + uy * table[ty, p] + uz * table[tz, p]
        table[a, p] = along
        table[tx, p] = xc * (table[tx, p] - along * ux)
        table[ty, p] = xc * (table[ty, p] - along * uy)
        table[tz, p] = xc * (table[tz, p] - along * uz)


@inlined(fastmath=FASTMATH, error_model="numpy")
def add_slope_gradient(table, n, m, h, sigma, g, grad_g, grad_m, grad_sigma):
    """Gradients by g, m and sigma of the slopes times directions (see `project`)."""
    # Q = sum_p d_p . df/dr_p = sum_pk [ S_k' a (g_0k + u . g_k) + G_k g_k . t ]  (a, t: `project`)
    # dQ/dg_0k   = sum_p S_k' a
    # dQ/dg_ck   = sum_p (S_k' a u_c + G_k t_c)
    # dQ/dm_k    = sigma^2 sum_p (delta q - b)
    # dQ/dsigma_k = sigma  sum_p (2 delta b - delta^2 q)
    # where q = S_k' a (g_0k + u . g_k) + G_k g_k . t   and   b = G_k C x^2 a (g_0k + u . g_k)
    real = m.dtype.type
    two = real(2)
    a, tx, ty, tz = FREE, FREE + 1, FREE + 2, FREE + 3
    for k in range(m.size):
        mk, hk, sigma2 = m[k], h[k], sigma[k] * sigma[k]
        g0, gx, gy, gz = g[0, k], g[1, k], g[2, k], g[3, k]
        d0 = dx = dy = dz = sum_m = sum_sigma = real(0)
        for p in range(padded(n)):
            ux, uy, uz = table[UX, p], table[UY, p], table[UZ, p]
            delta = table[X, p] - mk
            y = hk * delta
            t = exp2(-y * y)
            ta = t * table[a, p]
            slope = ta * (table[DC, p] + sigma2 * delta * table[CX2, p])
            d0 += slope
            dx += slope * ux + t * table[tx, p]
            dy += slope * uy + t * table[ty, p]
            dz += slope * uz + t * table[tz, p]
            gu = g0 + gx * ux + gy * uy + gz * uz
            gt = gx * table[tx, p] + gy * table[ty, p] + gz * table[tz, p]
            q = slope * gu + t * gt
            b = ta * table[CX2, p] * gu
            sum_m += delta * q - b
            sum_sigma += delta * (two * b - delta * q)
        grad_g[0, k], grad_g[1, k], grad_g[2, k], grad_g[3, k] = d0, dx, dy, dz
        grad_m[k] += sigma2 * sum_m
        grad_sigma[k] += sigma[k] * sum_sigma


@inlined(fastmath=FASTMATH, error_model="numpy")
def pair_curvatures(table, n, cutoff, m, h, sigma, g, index, direction, out):
    """Hessian of each pair's energy times the pair's direction, into ``out``."""
    # Hessian of f times d, for f = s + u . b with s = sum_k S_k g_0k and b = sum_k S_k g_k (primes:
    # d/dr), from the changes along d: dr = a = u . d, du = v = x (d - a u), dx = -x^2 a:
    # H d = [s'' a + (b'' . u) a + b' . v - x a (b' . u) - x (b . v) + x^2 a (b . u)] u
    #       + [s' + b' . u - x (b . u)] v + x a (b' - x b)
    # G_k'' = sigma^2 x^2 G_k [x^2 (sigma^2 delta^2 - 1) - 2 x delta],  C'' = (pi / r_c)^2 (1/2 - C)
    real = m.dtype.type
    half, one, two = real(0.5), real(1), real(2)
    w2 = (real(math.pi) / cutoff) ** 2
    for p in range(n):
        x, c, dc = table[X, p], table[C, p], table[DC, p]
        ddc = w2 * (half - c) if c > real(0) else real(0)
        ux, uy, uz = table[UX, p], table[UY, p], table[UZ, p]
        dx, dy, dz = direction[index[p], 0], direction[index[p], 1], direction[index[p], 2]
        a = ux * dx + uy * dy + uz * dz
        vx, vy, vz = x * (dx - a * ux), x * (dy - a * uy), x * (dz - a * uz)
        s1 = s2 = bx = by = bz = b1x = b1y = b1z = b2u = real(0)
        for k in range(m.size):
            delta = x - m[k]
            y = h[k] * delta
            t = exp2(-y * y)
            q = sigma[k] * sigma[k] * x * x
            t1 = q * delta * t
            t2 = q * t * (x * x * (sigma[k] * sigma[k] * delta * delta - one) - two * x * delta)
            f0 = t * c
            f1 = t1 * c + t * dc
            f2 = t2 * c + two * t1 * dc + t * ddc
            s1 += f1 * g[0, k]
            s2 += f2 * g[0, k]
            bx += f0 * g[1, k]
            by += f0 * g[2, k]
            bz += f0 * g[3, k]
            b1x += f1 * g[1, k]
            b1y += f1 * g[2, k]
            b1z += f1 * g[3, k]
            b2u += f2 * (g[1, k] * ux + g[2, k] * uy + g[3, k] * uz)
        bu = bx * ux + by * uy + bz * uz
        b1u = b1x * ux + b1y * uy + b1z * uz
        bv = bx * vx + by * vy + bz * vz
        b1v = b1x * vx + b1y * vy + b1z * vz
        along = (s2 + b2u) * a + b1v - x * a * b1u - x * bv + x * x * a * bu
        across = s1 + b1u - x * bu
        out[index[p], 0] = along * ux + across * vx + x * a * (b1x - x * bx)
        out[index[p], 1] = along * uy + across * vy + x * a * (b1y - x * by)
        out[index[p], 2] = along * uz + across * vz + x * a * (b1z - x * bz)
