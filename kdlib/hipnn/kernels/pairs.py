r"""Geometry of one atom's pairs, staged in rows that fit the vector units.

Pairs of an atom are copied from wherever they live into a small table, one row per quantity, and
the table is filled up to a multiple of 16 (one 512-bit register of float32) with pairs *at* the
cutoff, whose sensitivities vanish. So every later loop over pairs is vector code without remainder.
"""

import math

from kdlib._numba import inlined
from kdlib.hipnn.kernels.elementary import FASTMATH, cosine, sine

# Rows of the table. X is 1/r, U the unit vector, C and DC the cutoff function and its derivative,
# CX2 is C / r^2. What follows is scratch of the kernels.
X, UX, UY, UZ, C, DC, CX2, FREE = 0, 1, 2, 3, 4, 5, 6, 7
N_ROWS = FREE + 11


@inlined(inline="always")
def padded(n):
    """Round up to a multiple of 16, in a form from which the compiler sees that it is one."""
    return ((n + 15) >> 4) << 4


@inlined(fastmath=FASTMATH, error_model="numpy")
def gather(vectors, second, species, channel, start, stop, table, index):
    """Copy the vectors of pairs ``start:stop`` whose neighbor is of species ``channel``.

    The components go to rows UX, UY, UZ; ``index`` remembers which pair each column holds.
    Returns the number of pairs.
    """
    if channel < 0:  # one species: all pairs
        for p in range(stop - start):
            table[UX, p] = vectors[start + p, 0]
            table[UY, p] = vectors[start + p, 1]
            table[UZ, p] = vectors[start + p, 2]
            index[p] = start + p
        return stop - start
    n = 0
    for p in range(start, stop):
        if species[second[p]] == channel:
            table[UX, n] = vectors[p, 0]
            table[UY, n] = vectors[p, 1]
            table[UZ, n] = vectors[p, 2]
            index[n] = p
            n += 1
    return n


@inlined(fastmath=FASTMATH, error_model="numpy")
def resolve(table, n, cutoff):
    r"""Turn vectors into distances, directions and cutoff values.

    With :math:`\phi = \frac{\pi}{2}(1 - r/r_c)`, clamped to 0 beyond the cutoff,

    .. math:: C = \cos^2(\pi r / 2 r_c) = \sin^2\phi, \qquad
              C' = -(\pi / r_c) \sin\phi \cos\phi .
    """
    real = table.dtype.type
    half_pi, one = real(math.pi / 2), real(1)
    for p in range(n, padded(n)):
        table[UX, p] = cutoff
        table[UY, p] = table[UZ, p] = real(0)
    for p in range(padded(n)):
        dx, dy, dz = table[UX, p], table[UY, p], table[UZ, p]
        r = math.sqrt(dx * dx + dy * dy + dz * dz)
        x = one / r
        phi = half_pi * max(one - r / cutoff, real(0))
        s = sine(phi)
        c = s * s
        table[X, p] = x
        table[UX, p] = dx * x
        table[UY, p] = dy * x
        table[UZ, p] = dz * x
        table[C, p] = c
        table[DC, p] = -real(2) * half_pi / cutoff * s * cosine(phi)
        table[CX2, p] = c * x * x
