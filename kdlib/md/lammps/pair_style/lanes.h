// Vectors as wide as the machine's registers, and elementary functions of them.
//
// The vector types are those of GCC and Clang: arithmetic on them compiles to vector instructions
// on any machine, whatever the compiler makes of loops. The functions are the polynomials of
// kdlib.hipnn.kernels.elementary, which says how exact they are.

#ifndef KDLIB_LANES_H
#define KDLIB_LANES_H

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define KDLIB_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define KDLIB_VECTOR_BYTES 32
#else
#define KDLIB_VECTOR_BYTES 16
#endif

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace kdlib {

template <class real> struct Lanes;

template <> struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(KDLIB_VECTOR_BYTES), may_alias));
  typedef int32_t Bits __attribute__((vector_size(KDLIB_VECTOR_BYTES), may_alias));
  static constexpr int MANTISSA = 23, BIAS = 127;
  static constexpr float SMALLEST = 100.0f;    // 2^-x is 0 from here on
  static constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
};

template <> struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(KDLIB_VECTOR_BYTES), may_alias));
  typedef int64_t Bits __attribute__((vector_size(KDLIB_VECTOR_BYTES), may_alias));
  static constexpr int MANTISSA = 52, BIAS = 1023;
  static constexpr double SMALLEST = 900.0;
  static constexpr double ROUND = 6755399441055744.0;    // 1.5 * 2^52
};

template <class real> using Vector = typename Lanes<real>::Vector;
template <class real> using Bits = typename Lanes<real>::Bits;

// Numbers in a vector.
template <class real> constexpr int width() { return KDLIB_VECTOR_BYTES / (int) sizeof(real); }

template <class real> inline Vector<real> all(real value) { return Vector<real>{} + value; }

template <class real> inline Vector<real> load(const real *from)
{
  return *reinterpret_cast<const Vector<real> *>(from);
}

template <class real> inline void store(real *to, Vector<real> value)
{
  *reinterpret_cast<Vector<real> *>(to) = value;
}

template <class real> inline real sum(Vector<real> value)
{
  real total = 0;
  for (int k = 0; k < width<real>(); ++k) total += value[k];
  return total;
}

#if KDLIB_VECTOR_BYTES == 64
template <> inline float sum<float>(Vector<float> value) { return _mm512_reduce_add_ps((__m512) value); }
template <> inline double sum<double>(Vector<double> value) { return _mm512_reduce_add_pd((__m512d) value); }
inline Vector<float> root(Vector<float> value) { return (Vector<float>) _mm512_sqrt_ps((__m512) value); }
inline Vector<double> root(Vector<double> value) { return (Vector<double>) _mm512_sqrt_pd((__m512d) value); }
#else
template <class Vec> inline Vec root(Vec value)
{
  for (unsigned k = 0; k < sizeof(Vec) / sizeof(value[0]); ++k) value[k] = std::sqrt(value[k]);
  return value;
}
#endif

template <class Vec> inline Vec absolute(Vec value) { return value < 0 ? -value : value; }

// Values of a polynomial, from its highest coefficient to its lowest.
template <class Vec, class real, int n> inline Vec polynomial(Vec x, const real (&coefficients)[n])
{
  Vec value = Vec{} + coefficients[0];
  for (int k = 1; k < n; ++k) value = value * x + coefficients[k];
  return value;
}

template <class real> struct Coefficients;

template <> struct Coefficients<float> {
  static constexpr float EXP2[7] = {1.534581216e-4f, 1.339993118e-3f, 9.618488956e-3f, 5.550328777e-2f,
                                    2.402264689e-1f, 6.931472057e-1f, 1.0f};
  static constexpr float SINE[6] = {1.0f / 6227020800.0f, -1.0f / 39916800.0f, 1.0f / 362880.0f,
                                    -1.0f / 5040.0f, 1.0f / 120.0f, -1.0f / 6.0f};
  static constexpr float COSINE[8] = {-1.0f / 87178291200.0f, 1.0f / 479001600.0f, -1.0f / 3628800.0f,
                                      1.0f / 40320.0f, -1.0f / 720.0f, 1.0f / 24.0f, -0.5f, 1.0f};
  static constexpr float LOG1P[7] = {2.0f / 13, 2.0f / 11, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3, 2.0f};
};

template <> struct Coefficients<double> {
  static constexpr double EXP2[12] = {
      4.43528270695727715e-10, 7.0741056135081428e-9,  1.01781980216719308e-7, 1.32154330896763992e-6,
      1.52527334899885256e-5,  1.54035304625144321e-4, 1.33335581467899217e-3, 9.61812910758833524e-3,
      5.55041086648199216e-2,  2.40226506959101562e-1, 6.93147180559945330e-1, 1.0};
  static constexpr double SINE[10] = {1.0 / 51090942171709440000.0, -1.0 / 121645100408832000.0,
                                      1.0 / 355687428096000.0,      -1.0 / 1307674368000.0,
                                      1.0 / 6227020800.0,           -1.0 / 39916800.0,
                                      1.0 / 362880.0,               -1.0 / 5040.0,
                                      1.0 / 120.0,                  -1.0 / 6.0};
  static constexpr double COSINE[12] = {-1.0 / 1124000727777607680000.0, 1.0 / 2432902008176640000.0,
                                        -1.0 / 6402373705728000.0,       1.0 / 20922789888000.0,
                                        -1.0 / 87178291200.0,            1.0 / 479001600.0,
                                        -1.0 / 3628800.0,                1.0 / 40320.0,
                                        -1.0 / 720.0,                    1.0 / 24.0,
                                        -0.5,                            1.0};
  static constexpr double LOG1P[18] = {2.0 / 35, 2.0 / 33, 2.0 / 31, 2.0 / 29, 2.0 / 27, 2.0 / 25,
                                       2.0 / 23, 2.0 / 21, 2.0 / 19, 2.0 / 17, 2.0 / 15, 2.0 / 13,
                                       2.0 / 11, 2.0 / 9,  2.0 / 7,  2.0 / 5,  2.0 / 3,  2.0};
};

// 2^-y for y >= 0: a whole power, written into the exponent bits, times a polynomial of the rest.
// Very small results are exactly zero: denormal numbers are many times slower to work with.
template <class real> inline Vector<real> exp2_of_minus(Vector<real> y)
{
  typedef Lanes<real> L;
  y = y < L::SMALLEST ? y : all<real>(L::BIAS);
  const Vector<real> rounded = L::ROUND - y;    // its last bits hold the nearest whole number
  const Vector<real> rest = (L::ROUND - rounded) - y;
  const Bits<real> power = ((Bits<real>) rounded + L::BIAS) << L::MANTISSA;
  return polynomial(rest, Coefficients<real>::EXP2) * (Vector<real>) power;
}

// softplus(x) = ln(1 + e^x) and its derivative; from 20 on x and 1, as in torch.
template <class real> inline void softplus(Vector<real> x, Vector<real> &value, Vector<real> &slope)
{
  const Vector<real> e = exp2_of_minus<real>(absolute(x) * (real) 1.4426950408889634);
  const Vector<real> w = e / (e + 2);
  const Vector<real> log1p = w * polynomial(w * w, Coefficients<real>::LOG1P);
  const Vector<real> share = 1 / (1 + e);
  value = (x > 0 ? x : all<real>(0)) + log1p;
  slope = x > 0 ? share : e * share;
  value = x > 20 ? x : value;
  slope = x > 20 ? all<real>(1) : slope;
}

}    // namespace kdlib

#endif
