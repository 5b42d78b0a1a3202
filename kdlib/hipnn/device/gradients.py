r"""Kernels for training on a device: the sums over pairs and all their derivatives.

One program owns an atom, and its lanes share out the atom's pairs, which lie next to each other in
a batch: loads run along memory, and a batch of thousands of atoms fills a device. Sums end in one
number a program; gradients of the sensitivity parameters are kept per atom and added up afterwards,
so that the same input gives the same bits. Symbols and equations are those of
:mod:`kdlib.hipnn.kernels.sums`.

Arguments shared by the kernels: ``vectors`` (n_pairs, 3); ``begin``, ``end`` (n_atoms) the pairs of
an atom; ``second`` (n_pairs), which counts the atoms of ``species``; ``m``, ``sigma`` (K);
environment, ``g`` and their gradients (n_atoms, 4, S, K); partial gradients by m and sigma
(n_atoms, S, 2, K). The grid is atoms times (blocks of sensitivities, species).

Pairs may be those of all frames, of which the atoms are a part: atom i is then number
``i + move[i]`` of all, and so are its neighbors, which belong to the same frame.
"""

import math

import triton
import triton.language as tl

from kdlib.hipnn.device.pairs import cutoff_and_slope, cutoff_value, direction
from kdlib.hipnn.device.sums import load_block, slope_of_block

_SCALE = tl.constexpr(math.sqrt(math.log2(math.e) / 2))
_PI2 = tl.constexpr(math.pi**2)


@triton.jit
def _pairs(vectors, p, stop, cutoff):
    """Which lanes hold a pair, and its r, 1/r and direction; others lie beyond the cutoff."""
    valid = p < stop
    dx = tl.load(vectors + 3 * p, mask=valid, other=0.0)
    dy = tl.load(vectors + 3 * p + 1, mask=valid, other=0.0)
    dz = tl.load(vectors + 3 * p + 2, mask=valid, other=0.0)
    r, x, ux, uy, uz = direction(dx, dy, dz, valid, 2.0 * cutoff)
    return valid, r, x, ux, uy, uz


@triton.jit
def _of_channel(second, species, p, valid, channel, S: tl.constexpr):
    """Lanes whose neighbor is of a species."""
    if S > 1:
        j = tl.load(second + p, mask=valid, other=0)
        valid &= tl.load(species + j, mask=valid, other=-1) == channel
    return valid


@triton.jit
def environment(
    vectors, begin, end, second, species, m, sigma, out,
    CUTOFF: tl.constexpr, K: tl.constexpr, S: tl.constexpr,
    BLOCK: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Environment of an atom: e_ck = sum_p G_k C u_c."""
    i = tl.program_id(0).to(tl.int64)
    channel, k0 = tl.program_id(1) % S, (tl.program_id(1) // S) * BLOCK
    stop = tl.load(end + i)
    zero = tl.zeros((PAIRS,), vectors.dtype.element_ty)
    sums = ()
    for _ in tl.static_range(BLOCK):
        sums = sums + (zero, zero, zero, zero)
    for start in range(tl.load(begin + i), stop, PAIRS):
        p = start + tl.arange(0, PAIRS)
        valid, r, x, ux, uy, uz = _pairs(vectors, p, stop, CUTOFF)
        valid = _of_channel(second, species, p, valid, channel, S)
        c = tl.where(valid, cutoff_value(r, 1.0 / CUTOFF), 0.0)
        new = ()
        for b in tl.static_range(BLOCK):
            y = tl.load(sigma + k0 + b) * _SCALE * (x - tl.load(m + k0 + b))
            s = tl.exp2(-y * y) * c
            new = new + (
                sums[4 * b] + s,
                sums[4 * b + 1] + s * ux,
                sums[4 * b + 2] + s * uy,
                sums[4 * b + 3] + s * uz,
            )
        sums = new
    out += i * (4 * S * K) + channel * K + k0
    for b in tl.static_range(BLOCK):
        for d in tl.static_range(4):
            tl.store(out + d * S * K + b, tl.sum(sums[4 * b + d]))


@triton.jit
def parameter_gradient(
    vectors, begin, end, second, species, m, sigma, weight, partial,
    CUTOFF: tl.constexpr, K: tl.constexpr, S: tl.constexpr,
    BLOCK: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Gradients by m and sigma of the environment times ``weight``."""
    # L = sum_ck w_ck e_ck:  dL/dm_k     =  sigma^2 sum_p delta   S_k sum_c w_ck u_c
    #                        dL/dsigma_k = -sigma   sum_p delta^2 S_k sum_c w_ck u_c
    i = tl.program_id(0).to(tl.int64)
    channel, k0 = tl.program_id(1) % S, (tl.program_id(1) // S) * BLOCK
    stop = tl.load(end + i)
    zero = tl.zeros((PAIRS,), vectors.dtype.element_ty)
    weight += i * (4 * S * K) + channel * K + k0
    sums, w = (), ()
    for b in tl.static_range(BLOCK):
        sums = sums + (zero, zero)
        for d in tl.static_range(4):
            w = w + (tl.load(weight + d * S * K + b),)
    for start in range(tl.load(begin + i), stop, PAIRS):
        p = start + tl.arange(0, PAIRS)
        valid, r, x, ux, uy, uz = _pairs(vectors, p, stop, CUTOFF)
        valid = _of_channel(second, species, p, valid, channel, S)
        c = tl.where(valid, cutoff_value(r, 1.0 / CUTOFF), 0.0)
        new = ()
        for b in tl.static_range(BLOCK):
            delta = x - tl.load(m + k0 + b)
            y = tl.load(sigma + k0 + b) * _SCALE * delta
            wu = w[4 * b] + w[4 * b + 1] * ux + w[4 * b + 2] * uy + w[4 * b + 3] * uz
            t = tl.exp2(-y * y) * c * delta * wu
            new = new + (sums[2 * b] + t, sums[2 * b + 1] + t * delta)
        sums = new
    partial += (i * S + channel) * (2 * K) + k0
    for b in tl.static_range(BLOCK):
        s = tl.load(sigma + k0 + b)
        tl.store(partial + b, s * s * tl.sum(sums[2 * b]))
        tl.store(partial + K + b, -s * tl.sum(sums[2 * b + 1]))


@triton.jit
def slopes(
    vectors, begin, end, second, species, m, sigma, g, out,
    CUTOFF: tl.constexpr, K: tl.constexpr, S: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Slope of each pair: df/dr = [R - x C (V . u)] u + x C V, into ``out`` (n_pairs, 3)."""
    i = tl.program_id(0).to(tl.int64)
    stop = tl.load(end + i)
    for start in range(tl.load(begin + i), stop, PAIRS):
        p = start + tl.arange(0, PAIRS)
        valid, r, x, ux, uy, uz = _pairs(vectors, p, stop, CUTOFF)
        c, dc = cutoff_and_slope(r, 1.0 / CUTOFF)
        cx2 = c * x * x
        at = g + i * (4 * S * K)
        if S > 1:
            at += tl.load(species + tl.load(second + p, mask=valid, other=0)) * K
        radial = tl.zeros_like(x)
        vx, vy, vz = radial, radial, radial
        for k in range(0, K):
            g0, gx = tl.load(at + k), tl.load(at + S * K + k)
            gy, gz = tl.load(at + 2 * S * K + k), tl.load(at + 3 * S * K + k)
            s = tl.load(sigma + k)
            delta = x - tl.load(m + k)
            y = s * _SCALE * delta
            t = tl.exp2(-y * y)
            radial += t * (dc + s * s * delta * cx2) * (g0 + gx * ux + gy * uy + gz * uz)
            vx += t * gx
            vy += t * gy
            vz += t * gz
        xc = x * c
        along = radial - xc * (vx * ux + vy * uy + vz * uz)
        tl.store(out + 3 * p, along * ux + xc * vx, mask=valid)
        tl.store(out + 3 * p + 1, along * uy + xc * vy, mask=valid)
        tl.store(out + 3 * p + 2, along * uz + xc * vz, mask=valid)


@triton.jit
def _difference(values, i, j, valid, d: tl.constexpr):
    """Component of values of atom i less that of atoms j, zero on lanes without a pair."""
    mine, theirs = tl.load(values + 3 * i + d), tl.load(values + 3 * j + d, mask=valid, other=0.0)
    return tl.where(valid, mine - theirs, 0.0)


@triton.jit
def slope_gradient(
    vectors, begin, end, second, species, m, sigma, g, direct, move, by_g, partial,
    CUTOFF: tl.constexpr, K: tl.constexpr, S: tl.constexpr,
    BLOCK: tl.constexpr, PAIRS: tl.constexpr, OF_FORCES: tl.constexpr,
):  # fmt: skip
    """Gradients by g, m and sigma of the slopes times directions.

    ``direct`` is the direction of each pair, (n_pairs, 3), or with OF_FORCES the derivative of a
    loss by the forces, (n_atoms, 3), from which they follow.
    """
    # With a = u . d and t = C x (d - a u):
    # dQ/dg_0k   = sum_p S_k' a
    # dQ/dg_ck   = sum_p (S_k' a u_c + G_k t_c)
    # dQ/dm_k    = sigma^2 sum_p (delta q - b)
    # dQ/dsigma_k = sigma  sum_p (2 delta b - delta^2 q)
    # where q = S_k' a (g_0k + u . g_k) + G_k g_k . t   and   b = G_k C x^2 a (g_0k + u . g_k)
    i = tl.program_id(0).to(tl.int64)
    channel, k0 = tl.program_id(1) % S, (tl.program_id(1) // S) * BLOCK
    stop = tl.load(end + i)
    zero = tl.zeros((PAIRS,), vectors.dtype.element_ty)
    at = i * (4 * S * K) + channel * K + k0
    sums, gk = (), ()
    for b in tl.static_range(BLOCK):
        sums = sums + (zero, zero, zero, zero, zero, zero)
        for d in tl.static_range(4):
            gk = gk + (tl.load(g + at + d * S * K + b),)
    for start in range(tl.load(begin + i), stop, PAIRS):
        p = start + tl.arange(0, PAIRS)
        valid, r, x, ux, uy, uz = _pairs(vectors, p, stop, CUTOFF)
        valid = _of_channel(second, species, p, valid, channel, S)
        if OF_FORCES:
            j = tl.load(second + p, mask=valid, other=0) - tl.load(move + i)
            dx = _difference(direct, i, j, valid, 0)
            dy = _difference(direct, i, j, valid, 1)
            dz = _difference(direct, i, j, valid, 2)
        else:
            dx = tl.load(direct + 3 * p, mask=valid, other=0.0)
            dy = tl.load(direct + 3 * p + 1, mask=valid, other=0.0)
            dz = tl.load(direct + 3 * p + 2, mask=valid, other=0.0)
        c, dc = cutoff_and_slope(r, 1.0 / CUTOFF)
        cx2, xc = c * x * x, x * c
        a = ux * dx + uy * dy + uz * dz
        tx, ty, tz = xc * (dx - a * ux), xc * (dy - a * uy), xc * (dz - a * uz)
        new = ()
        for b in tl.static_range(BLOCK):
            s = tl.load(sigma + k0 + b)
            delta = x - tl.load(m + k0 + b)
            y = s * _SCALE * delta
            t = tl.exp2(-y * y)
            slope = t * a * (dc + s * s * delta * cx2)
            gu = gk[4 * b] + gk[4 * b + 1] * ux + gk[4 * b + 2] * uy + gk[4 * b + 3] * uz
            gt = gk[4 * b + 1] * tx + gk[4 * b + 2] * ty + gk[4 * b + 3] * tz
            q, w = slope * gu + t * gt, t * a * cx2 * gu
            new = new + (
                sums[6 * b] + slope,
                sums[6 * b + 1] + slope * ux + t * tx,
                sums[6 * b + 2] + slope * uy + t * ty,
                sums[6 * b + 3] + slope * uz + t * tz,
                sums[6 * b + 4] + delta * q - w,
                sums[6 * b + 5] + delta * (2.0 * w - delta * q),
            )
        sums = new
    partial += (i * S + channel) * (2 * K) + k0
    for b in tl.static_range(BLOCK):
        for d in tl.static_range(4):
            tl.store(by_g + at + d * S * K + b, tl.sum(sums[6 * b + d]))
        s = tl.load(sigma + k0 + b)
        tl.store(partial + b, s * s * tl.sum(sums[6 * b + 4]))
        tl.store(partial + K + b, s * tl.sum(sums[6 * b + 5]))


@triton.jit
def curvatures(
    vectors, begin, end, second, species, m, sigma, g, direct, out,
    CUTOFF: tl.constexpr, K: tl.constexpr, S: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Hessian of each pair's energy times its direction; see kernels.pair_curvatures."""
    i = tl.program_id(0).to(tl.int64)
    stop = tl.load(end + i)
    for start in range(tl.load(begin + i), stop, PAIRS):
        p = start + tl.arange(0, PAIRS)
        valid, r, x, ux, uy, uz = _pairs(vectors, p, stop, CUTOFF)
        dx = tl.load(direct + 3 * p, mask=valid, other=0.0)
        dy = tl.load(direct + 3 * p + 1, mask=valid, other=0.0)
        dz = tl.load(direct + 3 * p + 2, mask=valid, other=0.0)
        c, dc = cutoff_and_slope(r, 1.0 / CUTOFF)
        ddc = tl.where(c > 0.0, (0.5 - c) * (_PI2 / (CUTOFF * CUTOFF)), 0.0)
        a = ux * dx + uy * dy + uz * dz
        vx, vy, vz = x * (dx - a * ux), x * (dy - a * uy), x * (dz - a * uz)
        at = g + i * (4 * S * K)
        if S > 1:
            at += tl.load(species + tl.load(second + p, mask=valid, other=0)) * K
        zero = tl.zeros_like(x)
        s1, s2, bx, by, bz = zero, zero, zero, zero, zero
        b1x, b1y, b1z, b2u = zero, zero, zero, zero
        for k in range(0, K):
            g0, gx = tl.load(at + k), tl.load(at + S * K + k)
            gy, gz = tl.load(at + 2 * S * K + k), tl.load(at + 3 * S * K + k)
            s = tl.load(sigma + k)
            delta = x - tl.load(m + k)
            y = s * _SCALE * delta
            t = tl.exp2(-y * y)
            q = s * s * x * x
            t1 = q * delta * t
            t2 = q * t * (x * x * (s * s * delta * delta - 1.0) - 2.0 * x * delta)
            f0, f1, f2 = t * c, t1 * c + t * dc, t2 * c + 2.0 * t1 * dc + t * ddc
            s1 += f1 * g0
            s2 += f2 * g0
            bx += f0 * gx
            by += f0 * gy
            bz += f0 * gz
            b1x += f1 * gx
            b1y += f1 * gy
            b1z += f1 * gz
            b2u += f2 * (gx * ux + gy * uy + gz * uz)
        bu, b1u = bx * ux + by * uy + bz * uz, b1x * ux + b1y * uy + b1z * uz
        bv, b1v = bx * vx + by * vy + bz * vz, b1x * vx + b1y * vy + b1z * vz
        along = (s2 + b2u) * a + b1v - x * a * b1u - x * bv + x * x * a * bu
        across, turn = s1 + b1u - x * bu, x * a
        tl.store(out + 3 * p, along * ux + across * vx + turn * (b1x - x * bx), mask=valid)
        tl.store(out + 3 * p + 1, along * uy + across * vy + turn * (b1y - x * by), mask=valid)
        tl.store(out + 3 * p + 2, along * uz + across * vz + turn * (b1z - x * bz), mask=valid)


@triton.jit
def forces(
    vectors, begin, end, second, species, move, m, h, sigma2, g, out, virial,
    CUTOFF: tl.constexpr, K: tl.constexpr, S: tl.constexpr,
    BLOCK: tl.constexpr, PAIRS: tl.constexpr, VECTOR: tl.constexpr, STRAINED: tl.constexpr,
):  # fmt: skip
    """Force on every atom, (n_atoms, 3); with STRAINED its virial, (n_atoms, 9).

    Every pair needs its mirror image, whose slope is added here; see `sums`.
    """
    i = tl.program_id(0).to(tl.int64)
    begin_of, stop, first = tl.load(begin + i), tl.load(end + i), tl.load(move + i)
    # Atoms without pairs may be beyond the table.
    channel = tl.load(species + i + first, mask=stop > begin_of, other=0) * K if S > 1 else 0
    fx = tl.zeros((PAIRS,), vectors.dtype.element_ty)
    fy, fz = fx, fx
    w = (fx, fx, fx, fx, fx, fx, fx, fx, fx)
    for start in range(begin_of, stop, PAIRS):
        p = start + tl.arange(0, PAIRS)
        valid, r, x, ux, uy, uz = _pairs(vectors, p, stop, CUTOFF)
        c, dc = cutoff_and_slope(r, 1.0 / CUTOFF)
        j = tl.load(second + p, mask=valid, other=0)
        mine = i * (4 * S * K)
        if S > 1:
            mine += tl.load(species + j) * K
        theirs = tl.where(valid, j - first, 0).to(tl.int64) * (4 * S * K) + channel
        sx, sy, sz = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
        for k0 in range(0, K, BLOCK):
            mk, hk, sk = (), (), ()
            for b in tl.static_range(BLOCK):
                mk = mk + (tl.load(m + k0 + b),)
                hk = hk + (tl.load(h + k0 + b),)
                sk = sk + (tl.load(sigma2 + k0 + b),)
            gi = load_block(g, mine, k0, K, S, BLOCK, False)
            gj = load_block(g, theirs, k0, K, S, BLOCK, VECTOR)
            ax, ay, az = slope_of_block(gi, gj, mk, hk, sk, x, ux, uy, uz, c, dc, BLOCK)
            sx += ax
            sy += ay
            sz += az
        fx += sx
        fy += sy
        fz += sz
        if STRAINED:
            dx, dy, dz = r * ux, r * uy, r * uz
            w = (
                w[0] + dx * sx, w[1] + dx * sy, w[2] + dx * sz,
                w[3] + dy * sx, w[4] + dy * sy, w[5] + dy * sz,
                w[6] + dz * sx, w[7] + dz * sy, w[8] + dz * sz,
            )  # fmt: skip
    tl.store(out + 3 * i, tl.sum(fx))
    tl.store(out + 3 * i + 1, tl.sum(fy))
    tl.store(out + 3 * i + 2, tl.sum(fz))
    if STRAINED:
        for c in tl.static_range(9):
            tl.store(virial + 9 * i + c, 0.5 * tl.sum(w[c]))


@triton.jit
def gather_forces(slope, row, incoming, into, out, PAIRS: tl.constexpr):
    """Slopes of pairs that start at an atom minus those that end there (``incoming[into[i]:]``)."""
    i = tl.program_id(0).to(tl.int64)
    zero = tl.zeros((PAIRS,), slope.dtype.element_ty)
    fx, fy, fz = zero, zero, zero
    stop = tl.load(row + i + 1)
    for start in range(tl.load(row + i), stop, PAIRS):
        p = start + tl.arange(0, PAIRS)
        fx += tl.load(slope + 3 * p, mask=p < stop, other=0.0)
        fy += tl.load(slope + 3 * p + 1, mask=p < stop, other=0.0)
        fz += tl.load(slope + 3 * p + 2, mask=p < stop, other=0.0)
    stop = tl.load(into + i + 1)
    for start in range(tl.load(into + i), stop, PAIRS):
        p = start + tl.arange(0, PAIRS)
        valid = p < stop
        p = tl.load(incoming + p, mask=valid, other=0)
        fx -= tl.load(slope + 3 * p, mask=valid, other=0.0)
        fy -= tl.load(slope + 3 * p + 1, mask=valid, other=0.0)
        fz -= tl.load(slope + 3 * p + 2, mask=valid, other=0.0)
    tl.store(out + 3 * i, tl.sum(fx))
    tl.store(out + 3 * i + 1, tl.sum(fy))
    tl.store(out + 3 * i + 2, tl.sum(fz))


@triton.jit
def spread_forces(forces, begin, end, second, out, PAIRS: tl.constexpr):
    """Adjoint of `gather_forces`: force on the first atom of each pair minus that on the second."""
    i = tl.program_id(0).to(tl.int64)
    stop = tl.load(end + i)
    for start in range(tl.load(begin + i), stop, PAIRS):
        p = start + tl.arange(0, PAIRS)
        valid = p < stop
        j = tl.load(second + p, mask=valid, other=0)
        for d in tl.static_range(3):
            tl.store(out + 3 * p + d, _difference(forces, i, j, valid, d), mask=valid)
