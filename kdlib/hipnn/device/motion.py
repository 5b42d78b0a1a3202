r"""Kernels that move atoms on a device: a step of velocity Verlet or of Langevin dynamics.

A step is B A O A, forces, B: half a kick, half a drift, friction and noise, half a drift, and the
other half of the kick at the new forces (Leimkuhler and Matthews, `doi:10.1093/amrx/abs010
<https://doi.org/10.1093/amrx/abs010>`_). Without friction O does nothing, and the step is velocity
Verlet's.

**Stopping without asking.** The neighbor table holds until an atom has moved half the skin. The
host would wait for the device in every step to learn that. Instead `drift` raises a flag when an
atom is about to leave, the step is not completed, and steps that were queued behind it do nothing:
whenever the host looks, it finds the very step that needs a new table, and completes it.

``x``, ``v``, ``forces`` (n, 3) float64; ``flags`` int32: an atom has left, the run is halted, and
the number of completed steps. ``motion`` float64: time step, its half, friction factor
:math:`c = e^{-\gamma \Delta t}`, :math:`\sqrt{k_B T (1 - c^2)}`, square of half the skin.
"""

import triton
import triton.language as tl

LEFT, HALTED, STEP = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _wrapped(a, BITS: tl.constexpr):
    """Fraction of a cell vector as an integer that wraps around with the cell."""
    a = (a - tl.floor(a + 0.5)) * (4294967296.0 if BITS == 32 else 18446744073709551616.0)
    return a.to(tl.int64)


@triton.jit
def _to_place(x, y, z, inverse, kind: tl.constexpr):
    """Place of a position: three integers."""
    BITS: tl.constexpr = kind.primitive_bitwidth
    found = ()
    for c in tl.static_range(3):
        fraction = (
            x * tl.load(inverse + c) + y * tl.load(inverse + 3 + c) + z * tl.load(inverse + 6 + c)
        )
        found = found + (_wrapped(fraction, BITS).to(kind),)
    return found


@triton.jit(do_not_specialize=["n"])
def place(x, inverse, q, n, ATOMS: tl.constexpr):
    """Places of atoms at positions ``x``; ``inverse`` is that of the cell, (3, 3) float64."""
    i = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    inside = i < n
    a = tl.load(x + 3 * i, mask=inside, other=0.0)
    b = tl.load(x + 3 * i + 1, mask=inside, other=0.0)
    c = tl.load(x + 3 * i + 2, mask=inside, other=0.0)
    found = _to_place(a, b, c, inverse, q.dtype.element_ty)
    for d in tl.static_range(3):
        tl.store(q + 4 * i + d, found[d], mask=inside)


@triton.jit(do_not_specialize=["seed", "n"])
def drift(
    x, v, forces, mass, identity, inverse, box, q, q_built, motion, flags, seed, n,
    NOISE: tl.constexpr, ATOMS: tl.constexpr,
):  # fmt: skip
    """First half of a step, up to the new places; raises the flag when an atom leaves its list."""
    i = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    moving = i < tl.where(tl.load(flags + HALTED) == 0, n, 0)
    half, c = tl.load(motion + 1), tl.load(motion + 2)
    kick = half / tl.load(mass + i, mask=moving, other=1.0)
    xi = (kick, kick, kick)
    if NOISE:
        xi = _normal(seed, tl.load(identity + i, mask=moving, other=0), tl.load(flags + STEP))
        width = tl.load(motion + 3) / tl.sqrt(tl.load(mass + i, mask=moving, other=1.0))
    new = ()
    for d in tl.static_range(3):
        at = tl.load(x + 3 * i + d, mask=moving, other=0.0)
        velocity = tl.load(v + 3 * i + d, mask=moving, other=0.0)
        velocity += kick * tl.load(forces + 3 * i + d, mask=moving, other=0.0)
        at += half * velocity
        if NOISE:
            velocity = c * velocity + width * xi[d].to(tl.float64)
        at += half * velocity
        tl.store(x + 3 * i + d, at, mask=moving)
        tl.store(v + 3 * i + d, velocity, mask=moving)
        new = new + (at,)
    now = _to_place(new[0], new[1], new[2], inverse, q.dtype.element_ty)
    for d in tl.static_range(3):
        tl.store(q + 4 * i + d, now[d], mask=moving)
    far = moving & (_squared_way(now, q_built, box, i, moving) > tl.load(motion + 4))
    tl.store(flags + LEFT, 1, mask=tl.max(far.to(tl.int32)) > 0)


@triton.jit
def _squared_way(now, q_built, box, i, moving):
    """How far atoms are from where the table was built, squared, Angstrom^2."""
    a = (now[0] - tl.load(q_built + 4 * i, mask=moving, other=0)).to(tl.float64)
    b = (now[1] - tl.load(q_built + 4 * i + 1, mask=moving, other=0)).to(tl.float64)
    c = (now[2] - tl.load(q_built + 4 * i + 2, mask=moving, other=0)).to(tl.float64)
    square = tl.zeros_like(a)
    for d in tl.static_range(3):
        moved = (
            a * tl.load(box + d).to(tl.float64)
            + b * tl.load(box + 3 + d).to(tl.float64)
            + c * tl.load(box + 6 + d).to(tl.float64)
        )
        square += moved * moved
    return square


@triton.jit
def _normal(seed, identity, step):
    """Three normal numbers that depend on the seed, the atom and the step alone."""
    zero = tl.zeros_like(identity)
    a, b, c, d = tl.philox(seed, identity, zero + step, zero, zero)
    u, w = tl.uint_to_uniform_float(a), tl.uint_to_uniform_float(b)
    first, second = tl.pair_uniform_to_normal(u, w)
    third, _ = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(c), tl.uint_to_uniform_float(d))
    return first, second, third


@triton.jit(do_not_specialize=["n"])
def kick(v, forces, mass, motion, flags, n, ATOMS: tl.constexpr):
    """Last half kick of a step, unless an atom has left its list."""
    i = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    moving = i < tl.where(tl.load(flags + LEFT) == 0, n, 0)
    factor = tl.load(motion + 1) / tl.load(mass + i, mask=moving, other=1.0)
    for d in tl.static_range(3):
        force = tl.load(forces + 3 * i + d, mask=moving, other=0.0)
        velocity = tl.load(v + 3 * i + d, mask=moving, other=0.0)
        tl.store(v + 3 * i + d, velocity + factor * force, mask=moving)


@triton.jit
def finish(flags):
    """Count a completed step, or halt before the next."""
    left = tl.load(flags + LEFT)
    tl.store(flags + HALTED, left)
    tl.store(flags + STEP, tl.load(flags + STEP) + 1 - left)
