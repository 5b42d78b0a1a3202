r"""The three passes over pairs of a training step, on the pairs of a :class:`PairTable`.

Symbols as in :mod:`kdlib.hipnn.kernels.sums`. The first pass keeps :math:`G_k` of every pair, which
the others read, and sums the derivatives of the environment by the sensitivity parameters along
with it, so that their gradient needs no pass of its own:

.. math:: \frac{\partial e_{ck}}{\partial m_k} = \sigma_k^2 \sum_p \delta S_k u_c, \qquad
          \frac{\partial e_{ck}}{\partial\sigma_k} = -\sigma_k \sum_p \delta^2 S_k u_c .

Threads share out the frames, and sums over frames are added in the order of the frames: no bit of
a result depends on the number of threads.

Arguments shared by the passes: ``chosen`` (n_frames) frames of the table; ``begin``
(n_frames + 1) their first atoms in the batch; ``column`` (n_frames + 1) their columns in
``gauss`` (n_columns * n_sensitivities), which holds :math:`G_k`; environments and what belongs to
them are (n_atoms, 4, n_species, n_sensitivities).
"""

import numpy as np
from numba import prange

from kdlib._numba import compiled, inlined
from kdlib.hipnn.kernels.elementary import FASTMATH, exp2
from kdlib.hipnn.kernels.pairs import DC, UX, UY, UZ, C, X, padded
from kdlib.hipnn.kernels.pairtable import ROWS
from kdlib.hipnn.kernels.sums import SCALE


@inlined()
def _segment(start, count, rows, q):
    """Start, number of pairs, padded number and rows of a segment."""
    width = padded(count[q])
    first = ROWS * start[q]
    return start[q], count[q], width, rows[first : first + ROWS * width].reshape(ROWS, width)


@inlined(fastmath=FASTMATH, error_model="numpy")
def _sum_environment(table, width, m, h, gauss, env, by_m, by_sigma):
    x, c, ux, uy, uz = table[X], table[C], table[UX], table[UY], table[UZ]
    real = m.dtype.type
    for k in range(m.size):
        mk, hk = m[k], h[k]
        kept = gauss[k * width : (k + 1) * width]
        e0 = ex = ey = ez = f0 = fx = fy = fz = g0 = gx = gy = gz = real(0)
        for p in range(padded(width)):
            delta = x[p] - mk
            y = hk * delta
            t = exp2(-y * y)
            kept[p] = t
            s = t * c[p]
            f = s * delta
            g = f * delta
            e0 += s
            ex += s * ux[p]
            ey += s * uy[p]
            ez += s * uz[p]
            f0 += f
            fx += f * ux[p]
            fy += f * uy[p]
            fz += f * uz[p]
            g0 += g
            gx += g * ux[p]
            gy += g * uy[p]
            gz += g * uz[p]
        env[0, k], env[1, k], env[2, k], env[3, k] = e0, ex, ey, ez
        by_m[0, k], by_m[1, k], by_m[2, k], by_m[3, k] = f0, fx, fy, fz
        by_sigma[0, k], by_sigma[1, k], by_sigma[2, k], by_sigma[3, k] = g0, gx, gy, gz


@compiled(parallel=True, fastmath=FASTMATH, error_model="numpy")
def environments(
    atoms, start, count, rows, chosen, begin, column, m, sigma, gauss, env, by_m, by_sigma
):
    """Fill ``env``, ``gauss`` and the sums of delta S u and delta^2 S u."""
    n_species = env.shape[2]
    h = sigma * m.dtype.type(SCALE)
    for f in prange(chosen.size):
        first = atoms[chosen[f]]
        move = column[f] - start[first * n_species]
        for i in range(begin[f], begin[f + 1]):
            for s in range(n_species):
                q = (first + i - begin[f]) * n_species + s
                at, _, width, table = _segment(start, count, rows, q)
                kept = gauss[(at + move) * m.size : (at + move + width) * m.size]
                _sum_environment(
                    table, width, m, h, kept, env[i, :, s], by_m[i, :, s], by_sigma[i, :, s]
                )


@inlined(fastmath=FASTMATH, error_model="numpy")
def _pair_slopes(table, width, m, sigma, gauss, g, work):
    """Slope of each pair, into rows 1 to 3 of ``work``; see `sums.pair_slopes`."""
    x, c, dc, ux, uy, uz = table[X], table[C], table[DC], table[UX], table[UY], table[UZ]
    radial, vx, vy, vz, cx2 = work[0], work[1], work[2], work[3], work[4]
    real = m.dtype.type
    for p in range(padded(width)):
        radial[p] = vx[p] = vy[p] = vz[p] = real(0)
        cx2[p] = c[p] * x[p] * x[p]
    for k in range(0, m.size, 2):  # an odd last sensitivity is paired with none
        q, on = (k + 1, real(1)) if k + 1 < m.size else (k, real(0))
        mk, mq, sk, sq = m[k], m[q], sigma[k] * sigma[k], sigma[q] * sigma[q]
        k0, kx, ky, kz = g[0, k], g[1, k], g[2, k], g[3, k]
        q0, qx, qy, qz = on * g[0, q], on * g[1, q], on * g[2, q], on * g[3, q]
        one, two = gauss[k * width : (k + 1) * width], gauss[q * width : (q + 1) * width]
        for p in range(padded(width)):
            s, t = one[p], two[p]
            ks = k0 + kx * ux[p] + ky * uy[p] + kz * uz[p]
            qs = q0 + qx * ux[p] + qy * uy[p] + qz * uz[p]
            ks *= dc[p] + sk * (x[p] - mk) * cx2[p]
            qs *= dc[p] + sq * (x[p] - mq) * cx2[p]
            radial[p] += s * ks + t * qs
            vx[p] += s * kx + t * qx
            vy[p] += s * ky + t * qy
            vz[p] += s * kz + t * qz
    for p in range(padded(width)):
        xc = x[p] * c[p]
        along = radial[p] - xc * (vx[p] * ux[p] + vy[p] * uy[p] + vz[p] * uz[p])
        vx[p] = along * ux[p] + xc * vx[p]
        vy[p] = along * uy[p] + xc * vy[p]
        vz[p] = along * uz[p] + xc * vz[p]


@inlined(fastmath=FASTMATH, error_model="numpy")
def _add_forces(work, second, n, here, there, forces):
    fx = fy = fz = forces.dtype.type(0)
    for p in range(n):
        j = there + second[p]
        sx, sy, sz = work[1, p], work[2, p], work[3, p]
        fx += sx
        fy += sy
        fz += sz
        forces[j, 0] -= sx
        forces[j, 1] -= sy
        forces[j, 2] -= sz
    forces[here, 0] += fx
    forces[here, 1] += fy
    forces[here, 2] += fz


@inlined(fastmath=FASTMATH, error_model="numpy")
def _add_virial(table, work, n, virial):
    # dE/dstrain = sum_p r_p (x) df/dr_p, with r = u / x
    for a in range(3):
        for b in range(3):
            total = work.dtype.type(0)
            for p in range(n):
                total += table[UX + a, p] / table[X, p] * work[1 + b, p]
            virial[a, b] += total


@compiled(parallel=True, fastmath=FASTMATH, error_model="numpy")
def forces(
    atoms, start, count, rows, second, chosen, begin, column, m, sigma, gauss, g,
    strained, out, virial,
):  # fmt: skip
    """Fill ``out`` (n_atoms, 3), eV/Angstrom, and ``virial`` (n_frames, 3, 3), eV, if ``strained``.

    ``g`` is dE/d(environment).
    """
    n_species = g.shape[2]
    for f in prange(chosen.size):
        first = atoms[chosen[f]]
        move = column[f] - start[first * n_species]
        last = atoms[chosen[f] + 1]
        longest = 0
        for q in range(first * n_species, last * n_species):
            longest = max(longest, padded(count[q]))
        work = np.empty((5, longest), m.dtype)
        for c in range(3):
            for i in range(begin[f], begin[f + 1]):
                out[i, c] = 0
            for d in range(3):
                virial[f, c, d] = 0
        for i in range(begin[f], begin[f + 1]):
            for s in range(n_species):
                q = (first + i - begin[f]) * n_species + s
                at, n, width, table = _segment(start, count, rows, q)
                kept = gauss[(at + move) * m.size : (at + move + width) * m.size]
                _pair_slopes(table, width, m, sigma, kept, g[i, :, s], work)
                _add_forces(work, second[at : at + n], n, i, begin[f], out)
                if strained:
                    _add_virial(table, work, n, virial[f])


@inlined(fastmath=FASTMATH, error_model="numpy")
def _project(table, n, width, second, here, there, by_force, strained, by_virial, work):
    """Changes of r and u of the pairs along dL/d(slope), as in `sums.project`.

    Rows of ``work``: a C', a C x^2, and the three of t.
    """
    # d = dL/dF_i - dL/dF_j + (dL/d(virial))^T r;  a = u . d;  t = C x (d - a u)
    x, c, dc, ux, uy, uz = table[X], table[C], table[DC], table[UX], table[UY], table[UZ]
    adc, acx2, tx, ty, tz = work[0], work[1], work[2], work[3], work[4]
    for p in range(n):
        j = there + second[p]
        tx[p] = by_force[here, 0] - by_force[j, 0]
        ty[p] = by_force[here, 1] - by_force[j, 1]
        tz[p] = by_force[here, 2] - by_force[j, 2]
    for p in range(n, width):
        tx[p] = ty[p] = tz[p] = work.dtype.type(0)
    if strained:
        v = by_virial
        for p in range(width):
            rx, ry, rz = ux[p] / x[p], uy[p] / x[p], uz[p] / x[p]
            tx[p] += v[0, 0] * rx + v[1, 0] * ry + v[2, 0] * rz
            ty[p] += v[0, 1] * rx + v[1, 1] * ry + v[2, 1] * rz
            tz[p] += v[0, 2] * rx + v[1, 2] * ry + v[2, 2] * rz
    for p in range(padded(width)):
        a = ux[p] * tx[p] + uy[p] * ty[p] + uz[p] * tz[p]
        xc = x[p] * c[p]
        adc[p] = a * dc[p]
        acx2[p] = a * xc * x[p]
        tx[p] = xc * (tx[p] - a * ux[p])
        ty[p] = xc * (ty[p] - a * uy[p])
        tz[p] = xc * (tz[p] - a * uz[p])


@inlined(fastmath=FASTMATH, error_model="numpy")
def _sum_tangent(table, width, m, sigma, gauss, g, work, tangent, grad_m, grad_sigma):
    """Change of the environment along the directions, and its gradient by m and sigma.

    The equations are those of `sums.add_slope_gradient`.
    """
    x, ux, uy, uz = table[X], table[UX], table[UY], table[UZ]
    adc, acx2, tx, ty, tz = work[0], work[1], work[2], work[3], work[4]
    real = m.dtype.type
    two = real(2)
    for k in range(m.size):
        mk, sk = m[k], sigma[k] * sigma[k]
        g0, gx, gy, gz = g[0, k], g[1, k], g[2, k], g[3, k]
        kept = gauss[k * width : (k + 1) * width]
        d0 = dx = dy = dz = sum_m = sum_sigma = real(0)
        for p in range(padded(width)):
            t = kept[p]
            delta = x[p] - mk
            slope = t * (adc[p] + sk * delta * acx2[p])
            d0 += slope
            dx += slope * ux[p] + t * tx[p]
            dy += slope * uy[p] + t * ty[p]
            dz += slope * uz[p] + t * tz[p]
            gu = g0 + gx * ux[p] + gy * uy[p] + gz * uz[p]
            gt = gx * tx[p] + gy * ty[p] + gz * tz[p]
            q = slope * gu + t * gt
            b = t * acx2[p] * gu
            sum_m += delta * q - b
            sum_sigma += delta * (two * b - delta * q)
        tangent[0, k], tangent[1, k], tangent[2, k], tangent[3, k] = d0, dx, dy, dz
        grad_m[k] += sk * sum_m
        grad_sigma[k] += sigma[k] * sum_sigma


@compiled(parallel=True, fastmath=FASTMATH, error_model="numpy")
def tangents(
    atoms, start, count, rows, second, chosen, begin, column, m, sigma, gauss, g,
    by_force, strained, by_virial, out,
):  # fmt: skip
    """Fill ``out`` with the change of the environment along d = dL/d(slope of each pair).

    Returns the gradients of sum_p d_p . slope_p by m and sigma, (2, n_sensitivities).
    """
    n_species = g.shape[2]
    partial = np.zeros((chosen.size, 2, m.size), m.dtype)
    for f in prange(chosen.size):
        first = atoms[chosen[f]]
        move = column[f] - start[first * n_species]
        last = atoms[chosen[f] + 1]
        longest = 0
        for q in range(first * n_species, last * n_species):
            longest = max(longest, padded(count[q]))
        work = np.empty((5, longest), m.dtype)
        by_m, by_sigma = partial[f, 0], partial[f, 1]
        for i in range(begin[f], begin[f + 1]):
            for s in range(n_species):
                q = (first + i - begin[f]) * n_species + s
                at, n, width, table = _segment(start, count, rows, q)
                kept = gauss[(at + move) * m.size : (at + move + width) * m.size]
                near = second[at : at + n]
                _project(table, n, width, near, i, begin[f], by_force, strained, by_virial[f], work)
                _sum_tangent(
                    table, width, m, sigma, kept, g[i, :, s], work, out[i, :, s], by_m, by_sigma
                )
    for f in range(1, chosen.size):
        for k in range(m.size):
            partial[0, 0, k] += partial[f, 0, k]
            partial[0, 1, k] += partial[f, 1, k]
    return partial[0]


@compiled(fastmath=FASTMATH, error_model="numpy")
def add_parameter_gradient(weight, by_m, by_sigma, m, sigma, gradient):
    """Add the gradients by m and sigma of ``weight`` times the environment to ``gradient``."""
    for i in range(weight.shape[0]):
        for c in range(4):
            for s in range(weight.shape[2]):
                for k in range(m.size):
                    w = weight[i, c, s, k]
                    gradient[0, k] += sigma[k] * sigma[k] * w * by_m[i, c, s, k]
                    gradient[1, k] -= sigma[k] * w * by_sigma[i, c, s, k]
