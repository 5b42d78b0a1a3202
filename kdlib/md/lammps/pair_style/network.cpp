#include "network.h"

#include <algorithm>

namespace kdlib {

namespace {

// (rows, columns) by columns, so that the entries of one species lie side by side.
template <class real> std::vector<real> by_columns(const Matrix &matrix, const std::vector<double> &bias)
{
  std::vector<real> made;
  for (size_t s = 0; s < matrix.columns; ++s)
    for (size_t o = 0; o < matrix.rows; ++o)
      made.push_back((real) (matrix.at(o, s) + (bias.empty() ? 0.0 : bias[o])));
  return made;
}

template <class real> std::vector<real> cast(const std::vector<double> &values)
{
  return {values.begin(), values.end()};
}

// softplus in place; its derivative into slopes.
template <class real> void activate(real *values, real *slopes, int n)
{
  for (int k = 0; k < n; k += width<real>()) {
    Vector<real> value, slope;
    softplus<real>(load(values + k), value, slope);
    store(values + k, value);
    store(slopes + k, slope);
  }
}

template <class real> void scale(real *values, const real *factors, int n)
{
  for (int k = 0; k < n; k += width<real>()) store(values + k, load(values + k) * load(factors + k));
}

}    // namespace

template <class real>
Network<real>::Network(const ModelFile &model) :
    n_channels((int) model.interaction.rows), n_middle((int) model.interaction.columns),
    n_features((int) model.energy.weight.columns), n_components(model.vector ? 4 : 1),
    residual(model.residual), cusp((real) model.cusp),
    interaction(n_middle, n_channels, [&](int o, int q) { return model.interaction.at(q, o); }),
    interaction_back(n_channels, n_middle, [&](int q, int o) { return model.interaction.at(q, o); }),
    vector_scale(cast<real>(model.vector_scale)),
    start(by_columns<real>(model.self.weight, model.self.bias)),
    adjust(by_columns<real>(model.adjust, {})), energy(cast<real>(model.energy.weight.values)),
    energy_bias((real) model.energy.bias[0])
{
  widest = std::max(n_middle, n_features);
  if (residual) after.emplace_back(model.after);
  for (const AtomLayer &layer : model.layers) {
    first.emplace_back(layer.first);
    if (residual) second.emplace_back(layer.second);
    widest = std::max(widest, first.back().outputs());
  }
}

template <class real> void Network<real>::reserve(Scratch<real> &scratch) const
{
  const size_t n = (size_t) padded(widest) * ATOMS;
  scratch.summed.reserve(n_components * n);
  scratch.norm.reserve(n);
  scratch.slopes.resize(first.size() + 1);
  for (Buffer<real> &slopes : scratch.slopes) slopes.reserve(n);
  for (Buffer<real> *buffer : {&scratch.features, &scratch.inner, &scratch.back}) buffer->reserve(n);
}

// x = V e_0 + t sqrt(|V e|^2 + cusp) + W z + b, into inner
template <class real>
void Network<real>::interact(const real *environment, const int *species, Scratch<real> &scratch) const
{
  const size_t stride = (size_t) padded(n_middle) * ATOMS;
  real *summed = scratch.summed.data(), *inner = scratch.inner.data(), *norm = scratch.norm.data();
  for (int c = 0; c < n_components; ++c)
    interaction.multiply(environment + (size_t) c * rows() * ATOMS, summed + c * stride, false);
  for (int o = 0; o < n_middle; ++o)
    for (int a = 0; a < ATOMS; ++a) inner[o * ATOMS + a] = start[species[a] * n_middle + o];
  for (int o = 0; o < n_middle; ++o)
    for (int k = o * ATOMS; k < (o + 1) * ATOMS; k += width<real>()) {
      Vector<real> x = load(inner + k) + load(summed + k);
      if (n_components > 1) {
        const Vector<real> u = load(summed + stride + k), v = load(summed + 2 * stride + k),
                           w = load(summed + 3 * stride + k);
        const Vector<real> length = root(u * u + v * v + w * w + cusp);
        x += vector_scale[o] * length;
        store(norm + k, length);
      }
      store(inner + k, x);
    }
}

// From the derivative by x in inner to that by the environments.
template <class real> void Network<real>::interact_back(Scratch<real> &scratch, real *derivatives) const
{
  const size_t stride = (size_t) padded(n_middle) * ATOMS;
  const real *by_x = scratch.inner.data(), *norm = scratch.norm.data();
  real *summed = scratch.summed.data();
  interaction_back.multiply(by_x, derivatives, false);
  if (n_components == 1) return;
  for (int o = 0; o < n_middle; ++o)
    for (int k = o * ATOMS; k < (o + 1) * ATOMS; k += width<real>()) {
      const Vector<real> factor = vector_scale[o] * load(by_x + k) / load(norm + k);
      for (int c = 1; c < 4; ++c)
        store(summed + c * stride + k, load(summed + c * stride + k) * factor);
    }
  for (int c = 1; c < 4; ++c)
    interaction_back.multiply(summed + c * stride, derivatives + (size_t) c * rows() * ATOMS, false);
}

template <class real>
void Network<real>::go_forward(const int *species, Scratch<real> &scratch) const
{
  real *x = scratch.features.data(), *inner = scratch.inner.data();
  activate(inner, scratch.slopes[0].data(), n_middle * ATOMS);
  if (residual) {
    for (int o = 0; o < n_features; ++o)
      for (int a = 0; a < ATOMS; ++a) x[o * ATOMS + a] = adjust[species[a] * n_features + o];
    after[0].forward(inner, x, true);
  } else {
    std::copy(inner, inner + n_features * ATOMS, x);
  }
  for (size_t k = 0; k < first.size(); ++k) {
    first[k].forward(x, inner, false);
    activate(inner, scratch.slopes[k + 1].data(), first[k].outputs() * ATOMS);
    if (residual)
      second[k].forward(inner, x, true);
    else
      std::copy(inner, inner + n_features * ATOMS, x);
  }
}

template <class real> void Network<real>::go_back(Scratch<real> &scratch) const
{
  real *by_x = scratch.back.data(), *inner = scratch.inner.data();
  for (int o = 0; o < n_features; ++o) std::fill_n(by_x + o * ATOMS, ATOMS, energy[o]);
  for (size_t k = first.size(); k-- > 0;) {
    if (residual)
      second[k].backward(by_x, inner, false);
    else
      std::copy(by_x, by_x + n_features * ATOMS, inner);
    scale(inner, scratch.slopes[k + 1].data(), first[k].outputs() * ATOMS);
    first[k].backward(inner, by_x, residual);
  }
  if (residual)
    after[0].backward(by_x, inner, false);
  else
    std::copy(by_x, by_x + n_middle * ATOMS, inner);
  scale(inner, scratch.slopes[0].data(), n_middle * ATOMS);
}

template <class real>
void Network<real>::evaluate(const real *environment, const int *species, Scratch<real> &scratch,
                             real *energies, real *derivatives) const
{
  reserve(scratch);
  interact(environment, species, scratch);
  go_forward(species, scratch);
  const real *x = scratch.features.data();
  for (int a = 0; a < ATOMS; a += width<real>()) {
    Vector<real> total = all(energy_bias);
    for (int o = 0; o < n_features; ++o) total += energy[o] * load(x + o * ATOMS + a);
    store(energies + a, total);
  }
  go_back(scratch);
  interact_back(scratch, derivatives);
}

template class Network<float>;
template class Network<double>;

}    // namespace kdlib
