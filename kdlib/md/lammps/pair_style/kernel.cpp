#include "kernel.h"

#include <algorithm>

namespace kdlib {

namespace {

constexpr double PI = 3.14159265358979323846;

int chunks_of(int n, int width) { return (n + width - 1) / width; }

}    // namespace

template <class real>
Worker<real>::Worker(const ModelFile &model, const Network<real> &network) :
    network(network), n_species((int) model.species.size()), n_k((int) model.center.size()),
    chunk((GAUSSIANS + n_k) * W), vector(model.vector), cutoff((real) model.cutoff), staged(ATOMS),
    by_k(n_k)
{
  const double to_exp2 = std::sqrt(std::log2(std::exp(1.0)) / 2.0);
  for (int k = 0; k < n_k; ++k) {
    center.push_back((real) (1.0 / model.center[k]));
    scale.push_back((real) (to_exp2 * model.width[k]));
    square.push_back((real) (model.width[k] * model.width[k]));
  }
  environment.reserve((size_t) network.components() * network.rows() * ATOMS);
  derivatives.reserve((size_t) network.components() * network.rows() * ATOMS);
  energies_of_block.reserve(ATOMS);
  energies = energies_of_block.data();
}

template <class real>
void Worker<real>::begin(const Neighborhood &around, const int *atoms, int n_atoms)
{
  make_room(around, atoms, n_atoms);
  int species[ATOMS] = {0};
  int *near_here = near.data();
  real *chunks = stage.data();
  for (int a = 0; a < n_atoms; ++a) {
    const int i = atoms[a];
    species[a] = around.channels[i];
    staged[a].clear();
    const int room = around.n_neighbors[i] + W;    // and a chunk of padding
    for (int s = 0; s < n_species; ++s) {
      const int n = select(around, i, s, near_here, room);
      resolve(n, room, chunks);
      if (vector)
        sum_environment<true>(n, chunks, s, a);
      else
        sum_environment<false>(n, chunks, s, a);
      staged[a].push_back({n, s, near_here, chunks});
      near_here += n;
      chunks += (size_t) chunks_of(n, W) * chunk;
    }
  }
  network.evaluate(environment.data(), species, scratch, energies_of_block.data(), derivatives.data());
}

template <class real>
void Worker<real>::make_room(const Neighborhood &around, const int *atoms, int n_atoms)
{
  size_t pairs = 0, chunks = 0;
  int longest = 0;
  for (int a = 0; a < n_atoms; ++a) {
    const int n = around.n_neighbors[atoms[a]];
    longest = std::max(longest, n);
    pairs += n;
    chunks += n / W + n_species;    // a chunk per species may be begun and not filled
  }
  const size_t room = chunks_of(longest + W, W) * W;
  flat.reserve(3 * room);
  slope.reserve(3 * room);
  stage.reserve(chunks * chunk);
  if (near.size() < pairs + 1) near.resize(pairs + 1);
}

// The neighbors inside the cutoff, into the three rows of flat.
//
// Each candidate is written to the next free column, which counts only if it is inside: no branch
// to mispredict. Positions are subtracted in double precision.
template <class real>
int Worker<real>::select(const Neighborhood &around, int i, int channel, int *near_here, int room)
{
  const double *x = around.x, xi = x[3 * i], yi = x[3 * i + 1], zi = x[3 * i + 2];
  const double reach = (double) cutoff * cutoff;
  const int *neighbors = around.neighbors[i], n_neighbors = around.n_neighbors[i];
  room = chunks_of(room, W) * W;
  real *dx = flat.data(), *dy = dx + room, *dz = dy + room;
  int n = 0;
  for (int p = 0; p < n_neighbors; ++p) {
    const int j = neighbors[p] & around.mask;
    if (around.mixed && around.channels[j] != channel) continue;
    const double a = x[3 * j] - xi, b = x[3 * j + 1] - yi, c = x[3 * j + 2] - zi;
    dx[n] = (real) a;
    dy[n] = (real) b;
    dz[n] = (real) c;
    near_here[n] = j;
    n += a * a + b * b + c * c < reach;
  }
  return n;
}

// Distances, directions and cutoff values: with phi = pi/2 (1 - r / r_c),
// C = cos^2(pi r / 2 r_c) = sin^2 phi and C' = -(pi / r_c) sin phi cos phi.
// A chunk is filled up with pairs at the cutoff, whose sensitivities vanish.
template <class real> void Worker<real>::resolve(int n, int room, real *chunks)
{
  room = chunks_of(room, W) * W;
  real *dx = flat.data(), *dy = dx + room, *dz = dy + room;
  for (int p = n; p % W; ++p) {
    dx[p] = cutoff;
    dy[p] = dz[p] = 0;
  }
  const real half_pi = (real) (PI / 2), per_cutoff = 1 / cutoff, slope = (real) (-PI) / cutoff;
  for (int p = 0; p < n; p += W, chunks += chunk) {
    const Vector<real> a = load(dx + p), b = load(dy + p), c = load(dz + p);
    const Vector<real> r = root(a * a + b * b + c * c), x = 1 / r;
    const Vector<real> inside = 1 - r * per_cutoff;
    const Vector<real> phi = half_pi * (inside > 0 ? inside : all<real>(0)), z = phi * phi;
    const Vector<real> sine = phi + phi * z * polynomial(z, Coefficients<real>::SINE);
    store(chunks + X * W, x);
    store(chunks + UX * W, a * x);
    store(chunks + UY * W, b * x);
    store(chunks + UZ * W, c * x);
    store(chunks + C * W, sine * sine);
    store(chunks + DC * W, slope * sine * polynomial(z, Coefficients<real>::COSINE));
  }
}

// e_ck = sum_p G_k C u_c, two sensitivities at a time (an odd last one twice).
template <class real>
template <bool VECTOR>
void Worker<real>::sum_environment(int n, real *chunks, int channel, int atom)
{
  const int n_chunks = chunks_of(n, W);
  const size_t component = (size_t) network.rows() * ATOMS;
  for (int k = 0; k < n_k; k += 2) {
    const int ks[2] = {k, std::min(k + 1, n_k - 1)};
    Vector<real> sums[2][4] = {};
    for (int p = 0; p < n_chunks; ++p) {
      real *here = chunks + (size_t) p * chunk;
      const Vector<real> x = load(here + X * W), c = load(here + C * W);
      for (int b = 0; b < 2; ++b) {
        const Vector<real> y = scale[ks[b]] * (x - center[ks[b]]);
        const Vector<real> g = exp2_of_minus<real>(y * y), s = g * c;
        store(here + (GAUSSIANS + ks[b]) * W, g);
        sums[b][0] += s;
        if constexpr (VECTOR)
          for (int d = 0; d < 3; ++d) sums[b][1 + d] += s * load(here + (UX + d) * W);
      }
    }
    for (int b = 0; b < 2; ++b)
      for (int d = 0; d < (VECTOR ? 4 : 1); ++d)
        environment[d * component + (size_t) (channel * n_k + ks[b]) * ATOMS + atom] = sum<real>(sums[b][d]);
  }
}

template <class real> Slopes<real> Worker<real>::slopes(int atom, const Segment<real> &segment)
{
  const size_t component = (size_t) network.rows() * ATOMS;
  for (int k = 0; k < n_k; ++k) {
    const real *g = derivatives.data() + (size_t) (segment.channel * n_k + k) * ATOMS + atom;
    by_k[k] = {g[0], 0, 0, 0, square[k], square[k] * center[k]};
    if (vector) {
      by_k[k].x = g[component];
      by_k[k].y = g[2 * component];
      by_k[k].z = g[3 * component];
    }
  }
  if (vector)
    sum_slopes<true>(segment);
  else
    sum_slopes<false>(segment);
  const real *x = slope.data();
  const size_t room = chunks_of(segment.n, W) * W;
  return {x, x + room, x + 2 * room};
}

// With R = sum_k S_k' (g_0k + u . g_k), S_k' = G_k (C' + sigma_k^2 (1/r - 1/mu_k) C / r^2), and
// V = sum_k G_k g_k:  dE/dr = [R - C/r (V . u)] u + C/r V.
template <class real>
template <bool VECTOR>
void Worker<real>::sum_slopes(const Segment<real> &segment)
{
  const int n_chunks = chunks_of(segment.n, W);
  real *sx = slope.data(), *sy = sx + n_chunks * W, *sz = sy + n_chunks * W;
  for (int p = 0; p < n_chunks; ++p) {
    const real *here = segment.stage + (size_t) p * chunk;
    const Vector<real> x = load(here + X * W), ux = load(here + UX * W), uy = load(here + UY * W),
                       uz = load(here + UZ * W), c = load(here + C * W), dc = load(here + DC * W);
    const Vector<real> xc = x * c, x2c = x * xc;
    Vector<real> radial = {}, vx = {}, vy = {}, vz = {};
    for (int k = 0; k < n_k; ++k) {
      const Derivatives &by = by_k[k];
      const Vector<real> g = load(here + (GAUSSIANS + k) * W);
      const Vector<real> change = dc + x2c * (by.square * x - by.square_center);
      if constexpr (VECTOR) {
        radial += g * change * (by.scalar + by.x * ux + by.y * uy + by.z * uz);
        vx += g * by.x;
        vy += g * by.y;
        vz += g * by.z;
      } else {
        radial += g * change * by.scalar;
      }
    }
    const Vector<real> along = radial - xc * (vx * ux + vy * uy + vz * uz);
    store(sx + p * W, along * ux + xc * vx);
    store(sy + p * W, along * uy + xc * vy);
    store(sz + p * W, along * uz + xc * vz);
  }
}

template <class real>
void Worker<real>::displacement(const Segment<real> &segment, int pair, double *d) const
{
  const real *here = segment.stage + (size_t) (pair / W) * chunk + pair % W;
  for (int k = 0; k < 3; ++k) d[k] = (double) here[(UX + k) * W] / (double) here[X * W];
}

template <class real> double Worker<real>::bytes() const
{
  return (double) (flat.bytes() + stage.bytes() + environment.bytes() + derivatives.bytes()) +
      (double) (near.capacity() * sizeof(int));
}

template class Worker<float>;
template class Worker<double>;

}    // namespace kdlib
