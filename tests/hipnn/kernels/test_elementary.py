import numpy as np
import pytest
from numba import njit

from kdlib.hipnn.kernels.elementary import cosine, exp2, log1p, sine


@njit
def _exp2(x):
    return [exp2(a) for a in x]


@njit
def _sine(x):
    return [sine(a) for a in x]


@njit
def _cosine(x):
    return [cosine(a) for a in x]


@njit
def _log1p(x):
    return [log1p(a) for a in x]


@pytest.fixture(params=[np.float32, np.float64])
def real(request):
    return request.param


def test_exp2_is_accurate_to_the_last_bit(real):
    """2^y has a relative error below one unit in the last place for all y that matter."""
    y = -np.linspace(0, 99, 4001).astype(real)
    exact = np.exp2(y.astype(np.longdouble))
    assert np.max(np.abs(np.array(_exp2(y)) / exact - 1)) < np.finfo(real).eps


def test_exp2_of_very_negative_numbers_is_zero_not_denormal(real):
    """Far from a sensitivity's center the result is exactly zero."""
    assert _exp2(np.array([-1e3, -1e4, -1e30], dtype=real)) == [0, 0, 0]


def test_exp2_keeps_not_a_number(real):
    """A NaN distance gives no finite sensitivity."""
    assert not np.isfinite(_exp2(np.array([np.nan], dtype=real))[0] + np.nan)


def test_sine_and_cosine_are_accurate_to_the_last_bit(real):
    """Over a quarter period; the sine also relatively, down to zero."""
    phi = np.linspace(1e-7, np.pi / 2, 4001).astype(real)
    exact = phi.astype(np.longdouble)
    eps = np.finfo(real).eps
    assert np.max(np.abs(np.array(_sine(phi)) / np.sin(exact) - 1)) < eps
    assert np.max(np.abs(np.array(_cosine(phi)) - np.cos(exact))) < eps


def test_log1p_is_accurate_to_the_last_bits(real):
    """The relative error stays below two units in the last place, down to zero."""
    t = np.append(np.logspace(-30, 0, 4001), np.linspace(0.01, 1, 1000)).astype(real)
    exact = np.log1p(t.astype(np.longdouble))
    assert np.max(np.abs(np.array(_log1p(t)) / exact - 1)) < 2 * np.finfo(real).eps
