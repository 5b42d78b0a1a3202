r"""Elementary functions that numba turns into vector instructions.

``numpy.exp`` inside a numba loop is a call into the scalar math library, which keeps the compiler
from vectorising the loop around it.  The functions here are polynomials and bit operations only, so
that a loop over pairs that calls them becomes straight vector code.  Each exists for float32 and
float64; the type of the argument decides.

=========  ===========================  =====================================================
function   range                        largest error of the polynomial (rounding comes on top)
=========  ===========================  =====================================================
``exp2``   :math:`y \le 0`              relative: float32 2e-9, float64 3e-18
``sine``   :math:`0 \le \phi \le \pi/2` relative: float32 7e-10, float64 2e-18
``cosine`` :math:`0 \le \phi \le \pi/2` absolute: float32 7e-11, float64 1e-19
``log1p``  :math:`0 \le t \le 1`       relative: float32 2e-8, float64 2e-18
=========  ===========================  =====================================================

``exp2`` uses minimax polynomials on [-1/2, 1/2] (Remez), ``sine`` and ``cosine`` Taylor's,
``log1p`` the series of the inverse hyperbolic tangent.
"""

import math

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from kdlib._numba import inlined

# One set for all kernels: sums may be reordered (to vectorise reductions) and multiply-add pairs
# contracted; NaN and infinity keep their meaning, so that a broken input shows in the output.
FASTMATH = {"reassoc", "contract", "nsz"}

_INLINED = {"forceinline": True}  # as in kdlib._numba.inlined

_f32, _i32, _i64 = types.float32, types.int32, types.int64


@intrinsic
def _float32_from_bits(typingctx, bits):
    """Reinterpret an int32 as the float32 with the same bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _float64_from_bits(typingctx, bits):
    """Reinterpret an int64 as the float64 with the same bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


def exp2(y: float) -> float:
    r"""Return :math:`2^y = 2^i\,2^{y-i}` with i the nearest integer, for :math:`y \le 0`.

    The power of two is written into the exponent bits. Where y is below -100 (float32) or -900
    (float64) the result is exactly zero: later products would be denormal numbers, which are many
    times slower to work with. Exponent bits of zero mean 0.0, so -127 (-1023) makes the zero.
    """
    return math.exp2(y)


def sine(phi: float) -> float:
    r"""Return :math:`\sin\phi` for :math:`0 \le \phi \le \pi/2`, relatively exact at zero."""
    return math.sin(phi)


def cosine(phi: float) -> float:
    r"""Return :math:`\cos\phi` for :math:`0 \le \phi \le \pi/2`."""
    return math.cos(phi)


def log1p(t: float) -> float:
    r"""Return :math:`\ln(1 + t) = 2\,\mathrm{artanh}\frac{t}{2 + t}` for :math:`0 \le t \le 1`."""
    return math.log1p(t)


@inlined(fastmath=FASTMATH)
def _exp2_float32(y):
    y = y if y > _f32(-100.0) else _f32(-127.0)
    whole = np.floor(y + _f32(0.5))
    f = y - whole
    p = _f32(1.534581216e-4)
    p = p * f + _f32(1.339993118e-3)
    p = p * f + _f32(9.618488956e-3)
    p = p * f + _f32(5.550328777e-2)
    p = p * f + _f32(2.402264689e-1)
    p = p * f + _f32(6.931472057e-1)
    p = p * f + _f32(1.0)
    return p * _float32_from_bits((_i32(whole) + _i32(127)) << _i32(23))


@inlined(fastmath=FASTMATH)
def _exp2_float64(y):
    y = y if y > -900.0 else -1023.0
    whole = np.floor(y + 0.5)
    f = y - whole
    p = 4.43528270695727715e-10
    p = p * f + 7.0741056135081428e-9
    p = p * f + 1.01781980216719308e-7
    p = p * f + 1.32154330896763992e-6
    p = p * f + 1.52527334899885256e-5
    p = p * f + 1.54035304625144321e-4
    p = p * f + 1.33335581467899217e-3
    p = p * f + 9.61812910758833524e-3
    p = p * f + 5.55041086648199216e-2
    p = p * f + 2.40226506959101562e-1
    p = p * f + 6.93147180559945330e-1
    p = p * f + 1.0
    return p * _float64_from_bits((_i64(whole) + _i64(1023)) << _i64(52))


@inlined(fastmath=FASTMATH)
def _sine_float32(phi):
    z = phi * phi
    p = _f32(1.0 / 6227020800.0)
    p = p * z - _f32(1.0 / 39916800.0)
    p = p * z + _f32(1.0 / 362880.0)
    p = p * z - _f32(1.0 / 5040.0)
    p = p * z + _f32(1.0 / 120.0)
    p = p * z - _f32(1.0 / 6.0)
    return phi + phi * z * p


@inlined(fastmath=FASTMATH)
def _sine_float64(phi):
    z = phi * phi
    p = 1.0 / 51090942171709440000.0
    p = p * z - 1.0 / 121645100408832000.0
    p = p * z + 1.0 / 355687428096000.0
    p = p * z - 1.0 / 1307674368000.0
    p = p * z + 1.0 / 6227020800.0
    p = p * z - 1.0 / 39916800.0
    p = p * z + 1.0 / 362880.0
    p = p * z - 1.0 / 5040.0
    p = p * z + 1.0 / 120.0
    p = p * z - 1.0 / 6.0
    return phi + phi * z * p


@inlined(fastmath=FASTMATH)
def _cosine_float32(phi):
    z = phi * phi
    p = _f32(-1.0 / 87178291200.0)
    p = p * z + _f32(1.0 / 479001600.0)
    p = p * z - _f32(1.0 / 3628800.0)
    p = p * z + _f32(1.0 / 40320.0)
    p = p * z - _f32(1.0 / 720.0)
    p = p * z + _f32(1.0 / 24.0)
    p = p * z - _f32(1.0 / 2.0)
    return p * z + _f32(1.0)


@inlined(fastmath=FASTMATH)
def _cosine_float64(phi):
    z = phi * phi
    p = -1.0 / 1124000727777607680000.0
    p = p * z + 1.0 / 2432902008176640000.0
    p = p * z - 1.0 / 6402373705728000.0
    p = p * z + 1.0 / 20922789888000.0
    p = p * z - 1.0 / 87178291200.0
    p = p * z + 1.0 / 479001600.0
    p = p * z - 1.0 / 3628800.0
    p = p * z + 1.0 / 40320.0
    p = p * z - 1.0 / 720.0
    p = p * z + 1.0 / 24.0
    p = p * z - 1.0 / 2.0
    return p * z + 1.0


@inlined(fastmath=FASTMATH)
def _log1p_float32(t):
    w = t / (_f32(2.0) + t)
    z = w * w
    p = _f32(2.0 / 13.0)
    p = p * z + _f32(2.0 / 11.0)
    p = p * z + _f32(2.0 / 9.0)
    p = p * z + _f32(2.0 / 7.0)
    p = p * z + _f32(2.0 / 5.0)
    p = p * z + _f32(2.0 / 3.0)
    p = p * z + _f32(2.0 / 1.0)
    return w * p


@inlined(fastmath=FASTMATH)
def _log1p_float64(t):
    w = t / (2.0 + t)
    z = w * w
    p = 2.0 / 35.0
    p = p * z + 2.0 / 33.0
    p = p * z + 2.0 / 31.0
    p = p * z + 2.0 / 29.0
    p = p * z + 2.0 / 27.0
    p = p * z + 2.0 / 25.0
    p = p * z + 2.0 / 23.0
    p = p * z + 2.0 / 21.0
    p = p * z + 2.0 / 19.0
    p = p * z + 2.0 / 17.0
    p = p * z + 2.0 / 15.0
    p = p * z + 2.0 / 13.0
    p = p * z + 2.0 / 11.0
    p = p * z + 2.0 / 9.0
    p = p * z + 2.0 / 7.0
    p = p * z + 2.0 / 5.0
    p = p * z + 2.0 / 3.0
    p = p * z + 2.0 / 1.0
    return w * p


@overload(exp2, jit_options=_INLINED)
def _choose_exp2(y):
    if y == types.float32:
        return lambda y: _exp2_float32(y)
    return lambda y: _exp2_float64(y)


@overload(sine, jit_options=_INLINED)
def _choose_sine(phi):
    if phi == types.float32:
        return lambda phi: _sine_float32(phi)
    return lambda phi: _sine_float64(phi)


@overload(cosine, jit_options=_INLINED)
def _choose_cosine(phi):
    if phi == types.float32:
        return lambda phi: _cosine_float32(phi)
    return lambda phi: _cosine_float64(phi)


@overload(log1p, jit_options=_INLINED)
def _choose_log1p(t):
    if t == types.float32:
        return lambda t: _log1p_float32(t)
    return lambda t: _log1p_float64(t)
