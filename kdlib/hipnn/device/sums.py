r"""Kernels for molecular dynamics on a device: neighbors, environments, forces.

One lane of the device owns an atom and walks along its neighbors; all sums of an atom live in its
registers, a block of sensitivities at a time, so that nothing is ever added by two lanes and the
same input gives the same bits.

**Places.** A displacement of two atoms is small and must be exact, in a cell that may be large. So
a place is stored as three integers that count the cell vectors in steps of 2^-32 (2^-64 for models
in float64): a difference of two of them wraps around as integers do, which *is* the minimum image,
and its error is 1e-7 Angstrom in a cell of 500 Angstrom. Cells are at least twice as wide as the
neighbor list reaches (:mod:`kdlib.hipnn.device.cells` repeats smaller ones).

**Forces.** The pair (i, j) acts on i through its own environment and through that of j, whose pair
is the mirror image. With :math:`g` of both, their sum is the slope of a single pair energy,

.. math:: \frac{d}{d\mathbf r} \sum_k S_k\,[g_k^i + g_k^j
          + \mathbf u \cdot (\mathbf g_k^i - \mathbf g_k^j)] ,

which costs no more than one of them, is exactly opposite for j, and needs no atomic additions.

Arguments shared by the kernels: ``q`` (n, 4) places; ``box`` as of
:class:`kdlib.hipnn.device.cells.Box`; ``table`` (capacity, stride) neighbors of each atom, down the
columns; ``counts`` (n); ``species`` (n) channels; ``m``, ``h``, ``sigma2`` (n_sensitivities), where
exp(-sigma^2 delta^2 / 2) = 2^-(h delta)^2; environment and ``g`` (n, 4, S, K).
"""

import triton
import triton.language as tl

from kdlib.hipnn.device.pairs import cutoff_and_slope, cutoff_value, direction, load_four

# Where things stand in ``box``: nine entries of the cell in steps of the places, then these.
CUTOFF, INVERSE_CUTOFF, REACH2 = tl.constexpr(9), tl.constexpr(10), tl.constexpr(11)


@triton.jit
def _place(q, i):
    return tl.load(q + 4 * i), tl.load(q + 4 * i + 1), tl.load(q + 4 * i + 2)


@triton.jit
def _cell(box):
    """Rows of the cell, in Angstrom per step of the places."""
    return (
        tl.load(box), tl.load(box + 1), tl.load(box + 2),
        tl.load(box + 3), tl.load(box + 4), tl.load(box + 5),
        tl.load(box + 6), tl.load(box + 7), tl.load(box + 8),
    )  # fmt: skip


@triton.jit
def _displacement(q, i0, i1, i2, j, cell):
    """Displacement r_j - r_i, Angstrom; integer differences are minimum images."""
    real = cell[0].dtype
    j0, j1, j2 = _place(q, j)
    a, b, c = (j0 - i0).to(real), (j1 - i1).to(real), (j2 - i2).to(real)
    dx = a * cell[0] + b * cell[3] + c * cell[6]
    dy = a * cell[1] + b * cell[4] + c * cell[7]
    dz = a * cell[2] + b * cell[5] + c * cell[8]
    return dx, dy, dz


@triton.jit(do_not_specialize=["n", "capacity", "nx", "ny", "nz"])
def list_neighbors(
    q, bin_of, bin_start, box, table, counts, n, stride, capacity, nx, ny, nz,
    OX: tl.constexpr, OY: tl.constexpr, OZ: tl.constexpr, ATOMS: tl.constexpr,
):  # fmt: skip
    """Write the neighbors within reach of every atom; ``counts`` may exceed what has room.

    Atoms are sorted by their bins, a grid of (nx, ny, nz), of which an atom looks at OX x OY x OZ
    (three along a direction, or all where there are fewer).
    """
    i = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    inside = i < n
    at = tl.minimum(i, n - 1)
    cell, reach2 = _cell(box), tl.load(box + REACH2)
    i0, i1, i2 = _place(q, at)
    home = tl.load(bin_of + at)
    bx, by, bz = home // (ny * nz), (home // nz) % ny, home % nz
    count = tl.zeros((ATOMS,), tl.int32)
    for o in range(OX * OY * OZ):
        x = (bx + o // (OY * OZ) - OX // 3 + nx) % nx
        y = (by + (o // OZ) % OY - OY // 3 + ny) % ny
        z = (bz + o % OZ - OZ // 3 + nz) % nz
        start = tl.load(bin_start + (x * ny + y) * nz + z)
        length = tl.load(bin_start + (x * ny + y) * nz + z + 1) - start
        for t in range(0, tl.max(length)):
            j = start + t
            valid = inside & (t < length) & (j != i)
            j = tl.where(valid, j, 0)
            dx, dy, dz = _displacement(q, i0, i1, i2, j, cell)
            near = valid & (dx * dx + dy * dy + dz * dz <= reach2)
            slot = count.to(tl.int64) * stride + i
            tl.store(table + slot, j, mask=near & (count < capacity))
            count += near.to(tl.int32)
    tl.store(counts + i, count, mask=inside)


@triton.jit(do_not_specialize=["first", "n"])
def sum_environment(
    q, species, box, table, counts, m, h, out, first, n, stride,
    K: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr, ATOMS: tl.constexpr,
):  # fmt: skip
    """Environment of atoms ``first`` to ``first + n``, one block of sensitivities and species."""
    row = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    inside = row < n
    i = first + tl.minimum(row, n - 1)
    channel, k0 = tl.program_id(1) % S, (tl.program_id(1) // S) * BLOCK
    cell = _cell(box)
    cutoff, inverse_cutoff = tl.load(box + CUTOFF), tl.load(box + INVERSE_CUTOFF)
    i0, i1, i2 = _place(q, i)
    count = tl.where(inside, tl.load(counts + i), 0)
    zero = tl.zeros((ATOMS,), cutoff.dtype)
    sums, mk, hk = (), (), ()
    for b in tl.static_range(BLOCK):
        sums = sums + (zero, zero, zero, zero)
        mk = mk + (tl.load(m + k0 + b),)
        hk = hk + (tl.load(h + k0 + b),)
    here = table + i
    for p in range(0, tl.max(count)):
        valid = p < count
        j = tl.load(here, mask=valid, other=0)
        here += stride
        dx, dy, dz = _displacement(q, i0, i1, i2, j, cell)
        if S > 1:
            valid &= tl.load(species + j) == channel
        r, x, ux, uy, uz = direction(dx, dy, dz, valid, cutoff)
        c = cutoff_value(r, inverse_cutoff)
        new = ()
        for b in tl.static_range(BLOCK):
            y = hk[b] * (x - mk[b])
            s = tl.exp2(-y * y) * c
            new = new + (
                sums[4 * b] + s,
                sums[4 * b + 1] + s * ux,
                sums[4 * b + 2] + s * uy,
                sums[4 * b + 3] + s * uz,
            )
        sums = new
    out += row * (4 * S * K) + channel * K + k0
    for b in tl.static_range(BLOCK):
        for d in tl.static_range(4):
            tl.store(out + d * S * K + b, sums[4 * b + d], mask=inside)


@triton.jit
def load_block(
    g, at, k0, K: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr
):
    """Entries of a block: each of the four components of its sensitivities."""
    found = ()
    if VECTOR:
        for d in tl.static_range(4):
            for b in tl.static_range(BLOCK // 4):
                found = found + load_four(g + at + d * S * K + k0 + 4 * b, VECTOR)
    else:
        for d in tl.static_range(4):
            for b in tl.static_range(BLOCK):
                found = found + (tl.load(g + at + d * S * K + k0 + b),)
    return found


@triton.jit(do_not_specialize=["n"])
def gather_forces(
    q, species, box, table, counts, m, h, sigma2, g, forces, virials, n, stride,
    K: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr, ATOMS: tl.constexpr,
    VECTOR: tl.constexpr, STRAINED: tl.constexpr,
):  # fmt: skip
    """Force on every atom, (n, 3) float64; with STRAINED, twice the virial of each program."""
    row = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    inside = row < n
    i = tl.minimum(row, n - 1)
    cell = _cell(box)
    cutoff, inverse_cutoff = tl.load(box + CUTOFF), tl.load(box + INVERSE_CUTOFF)
    i0, i1, i2 = _place(q, i)
    count = tl.where(inside, tl.load(counts + i), 0)
    longest = tl.max(count)
    mine = i * (4 * S * K)
    channel = tl.load(species + i) * K if S > 1 else 0
    fx = tl.zeros((ATOMS,), tl.float64)
    fy, fz = fx, fx
    w = (fx, fx, fx, fx, fx, fx, fx, fx, fx)
    for k0 in range(0, K, BLOCK):
        mk, hk, sk = (), (), ()
        for b in tl.static_range(BLOCK):
            mk = mk + (tl.load(m + k0 + b),)
            hk = hk + (tl.load(h + k0 + b),)
            sk = sk + (tl.load(sigma2 + k0 + b),)
        gi = load_block(g, mine, k0, K, S, BLOCK, VECTOR)
        here = table + i
        for p in range(0, longest):
            valid = p < count
            j = tl.load(here, mask=valid, other=0)
            here += stride
            dx, dy, dz = _displacement(q, i0, i1, i2, j, cell)
            r, x, ux, uy, uz = direction(dx, dy, dz, valid, cutoff)
            c, dc = cutoff_and_slope(r, inverse_cutoff)
            gj = load_block(g, j.to(tl.int64) * (4 * S * K) + channel, k0, K, S, BLOCK, VECTOR)
            if S > 1:
                gi = load_block(g, mine + tl.load(species + j) * K, k0, K, S, BLOCK, VECTOR)
            sx, sy, sz = slope_of_block(gi, gj, mk, hk, sk, x, ux, uy, uz, c, dc, BLOCK)
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
    tl.store(forces + 3 * row, fx, mask=inside)
    tl.store(forces + 3 * row + 1, fy, mask=inside)
    tl.store(forces + 3 * row + 2, fz, mask=inside)
    if STRAINED:
        for c in tl.static_range(9):
            tl.store(virials + 9 * tl.program_id(0) + c, tl.sum(w[c]))


@triton.jit
def slope_of_block(gi, gj, mk, hk, sk, x, ux, uy, uz, c, dc, BLOCK: tl.constexpr):
    """Slope of the energy of a pair, seen from both its atoms."""
    # df/dr = [R - x C (V . u)] u + x C V as in kdlib.hipnn.kernels.sums, of g0 = gi0 + gj0 and
    # g = gi - gj
    cx2 = c * x * x
    radial = tl.zeros_like(x)
    vx, vy, vz = radial, radial, radial
    for b in tl.static_range(BLOCK):
        g0 = gi[b] + gj[b]
        gx = gi[BLOCK + b] - gj[BLOCK + b]
        gy = gi[2 * BLOCK + b] - gj[2 * BLOCK + b]
        gz = gi[3 * BLOCK + b] - gj[3 * BLOCK + b]
        delta = x - mk[b]
        y = hk[b] * delta
        t = tl.exp2(-y * y)
        radial += t * (dc + sk[b] * delta * cx2) * (g0 + gx * ux + gy * uy + gz * uz)
        vx += t * gx
        vy += t * gy
        vz += t * gz
    xc = x * c
    along = radial - xc * (vx * ux + vy * uy + vz * uz)
    return along * ux + xc * vx, along * uy + xc * vy, along * uz + xc * vz


@triton.jit(do_not_specialize=["n"])
def nearest(q, box, table, counts, out, n, stride, ATOMS: tl.constexpr):
    """Squared distance to the nearest neighbor of every atom, Angstrom^2; inf without one."""
    row = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    inside = row < n
    i = tl.minimum(row, n - 1)
    cell = _cell(box)
    i0, i1, i2 = _place(q, i)
    count = tl.where(inside, tl.load(counts + i), 0)
    least = tl.full((ATOMS,), float("inf"), cell[0].dtype)
    here = table + i
    for p in range(0, tl.max(count)):
        valid = p < count
        j = tl.load(here, mask=valid, other=0)
        here += stride
        dx, dy, dz = _displacement(q, i0, i1, i2, j, cell)
        least = tl.minimum(least, tl.where(valid, dx * dx + dy * dy + dz * dz, float("inf")))
    tl.store(out + row, least, mask=inside)
