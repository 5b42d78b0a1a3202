r"""Geometry of a pair on a device: what the kernels for dynamics and for training share.

Triton is imported here and in the kernels alone; :func:`available` says whether that can work, and
nothing imports this module before it has asked.

Constants in the kernels are plain numbers: Triton gives them the precision of what they meet.
"""

import math

import triton
import triton.language as tl

#: Whether kernels run in Triton's interpreter, on the CPU.
INTERPRETED = triton.knobs.runtime.interpret

_HALF_PI = tl.constexpr(math.pi / 2)


@triton.jit
def sine_cosine(phi):
    """Sine and cosine for 0 <= phi <= pi / 2; the sine is relatively exact at zero."""
    if phi.dtype == tl.float64:
        return tl.sin(phi), tl.cos(phi)
    z = phi * phi
    p = z * (1.0 / 6227020800.0) - 1.0 / 39916800.0
    p = p * z + 1.0 / 362880.0
    p = p * z - 1.0 / 5040.0
    p = p * z + 1.0 / 120.0
    p = p * z - 1.0 / 6.0
    q = z * (-1.0 / 87178291200.0) + 1.0 / 479001600.0
    q = q * z - 1.0 / 3628800.0
    q = q * z + 1.0 / 40320.0
    q = q * z - 1.0 / 720.0
    q = q * z + 1.0 / 24.0
    q = q * z - 1.0 / 2.0
    return phi + phi * z * p, q * z + 1.0


@triton.jit
def direction(dx, dy, dz, valid, cutoff):
    """1/r and the unit vector; where there is no pair, one at the cutoff along x."""
    dx = tl.where(valid, dx, cutoff)
    dy = tl.where(valid, dy, 0.0)
    dz = tl.where(valid, dz, 0.0)
    r2 = dx * dx + dy * dy + dz * dz
    x = 1.0 / tl.sqrt(r2) if dx.dtype == tl.float64 else tl.rsqrt(r2)
    return r2 * x, x, dx * x, dy * x, dz * x


@triton.jit
def cutoff_value(r, inverse_cutoff):
    """C(r) = cos^2(pi r / 2 r_c), zero beyond the cutoff."""
    s, _ = sine_cosine(tl.maximum(1.0 - r * inverse_cutoff, 0.0) * _HALF_PI)
    return s * s


@triton.jit
def cutoff_and_slope(r, inverse_cutoff):
    """C(r) and C'(r)."""
    s, c = sine_cosine(tl.maximum(1.0 - r * inverse_cutoff, 0.0) * _HALF_PI)
    return s * s, s * c * inverse_cutoff * (-2.0 * _HALF_PI)


@triton.jit
def load_four(pointer, VECTOR: tl.constexpr):
    """Four neighboring float32 numbers: in one instruction where they are aligned to 16 bytes."""
    if VECTOR:
        a, b, c, d = tl.inline_asm_elementwise(
            "ld.global.nc.v4.f32 {$0, $1, $2, $3}, [$4];",
            "=f,=f,=f,=f,l",
            [pointer.to(tl.int64)],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    else:
        a = tl.load(pointer)
        b = tl.load(pointer + 1)
        c = tl.load(pointer + 2)
        d = tl.load(pointer + 3)
    return a, b, c, d
