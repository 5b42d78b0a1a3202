// What follows the environment of an atom in a HIP-NN: dense layers, a block of atoms at a time.
//
// A block is an array with one row per feature and one column per atom, two vectors wide. A layer
// multiplies its matrix with the block; several rows of the product stay in registers while the
// columns of the matrix pass by, so that the machine multiplies and adds all the time.

#ifndef KDLIB_NETWORK_H
#define KDLIB_NETWORK_H

#include "lanes.h"
#include "model_file.h"

#include <cstdlib>
#include <new>
#include <vector>

namespace kdlib {

// An array that starts at a border of vectors.
template <class real> class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  Buffer(Buffer &&other) noexcept : values(other.values), length(other.length)
  {
    other.values = nullptr;
    other.length = 0;
  }
  ~Buffer() { std::free(values); }

  // At least this many values; what was in it is lost if it grows.
  void reserve(size_t n)
  {
    if (n <= length) return;
    std::free(values);
    length = 0;
    const size_t bytes = (n * sizeof(real) + 63) / 64 * 64;
    values = static_cast<real *>(std::aligned_alloc(64, bytes));
    if (!values) throw std::bad_alloc();
    std::memset(values, 0, bytes);
    length = n;
  }

  real *data() { return values; }
  const real *data() const { return values; }
  real &operator[](size_t k) { return values[k]; }
  size_t bytes() const { return length * sizeof(real); }

 private:
  real *values = nullptr;
  size_t length = 0;
};

// Rows of a product that are formed at the same time.
#if KDLIB_VECTOR_BYTES == 64
constexpr int TILE = 8;
#else
constexpr int TILE = 4;
#endif

constexpr int padded(int n) { return (n + TILE - 1) / TILE * TILE; }

// A matrix (n_out, n_in), stored by tiles of rows.
template <class real> class Packed {
 public:
  static constexpr int ATOMS = 2 * width<real>();

  template <class Entry> Packed(int n_out, int n_in, Entry entry) : n_out(n_out), n_in(n_in)
  {
    values.reserve((size_t) padded(n_out) * n_in + 1);
    for (int o = 0; o < n_out; ++o)
      for (int i = 0; i < n_in; ++i)
        values[((size_t) (o / TILE) * n_in + i) * TILE + o % TILE] = (real) entry(o, i);
  }

  // out (padded(n_out), ATOMS) = matrix * in (n_in, ATOMS), plus what is in out if asked.
  void multiply(const real *in, real *out, bool add) const
  {
    for (int o = 0; o < n_out; o += TILE)
      tile(values.data() + (size_t) o * n_in, in, out + (size_t) o * ATOMS, add);
  }

 private:
  int n_out, n_in;
  Buffer<real> values;

  void tile(const real *weights, const real *in, real *out, bool add) const
  {
    constexpr int W = width<real>();
    Vector<real> left[TILE], right[TILE];
    for (int t = 0; t < TILE; ++t) {
      left[t] = add ? load(out + t * ATOMS) : all<real>(0);
      right[t] = add ? load(out + t * ATOMS + W) : all<real>(0);
    }
    for (int i = 0; i < n_in; ++i) {
      const Vector<real> a = load(in + (size_t) i * ATOMS), b = load(in + (size_t) i * ATOMS + W);
#pragma GCC unroll 8
      for (int t = 0; t < TILE; ++t) {
        left[t] += weights[i * TILE + t] * a;
        right[t] += weights[i * TILE + t] * b;
      }
    }
    for (int t = 0; t < TILE; ++t) {
      store(out + t * ATOMS, left[t]);
      store(out + t * ATOMS + W, right[t]);
    }
  }
};

// x -> weight x + bias, and its adjoint.
template <class real> class Dense {
 public:
  static constexpr int ATOMS = Packed<real>::ATOMS;

  explicit Dense(const Linear &layer) :
      n_out((int) layer.weight.rows), n_in((int) layer.weight.columns),
      matrix(n_out, n_in, [&](int o, int i) { return layer.weight.at(o, i); }),
      transposed(n_in, n_out, [&](int i, int o) { return layer.weight.at(o, i); }),
      bias(layer.bias.begin(), layer.bias.end())
  {
  }

  void forward(const real *in, real *out, bool add) const
  {
    for (int o = 0; o < n_out; ++o) {
      const Vector<real> shift = all(bias[o]);
      for (int a = 0; a < ATOMS; a += width<real>())
        store(out + o * ATOMS + a, add ? load(out + o * ATOMS + a) + shift : shift);
    }
    matrix.multiply(in, out, true);
  }

  // The derivative by the input from that by the output.
  void backward(const real *out, real *in, bool add) const { transposed.multiply(out, in, add); }

  int outputs() const { return n_out; }

 private:
  int n_out, n_in;
  Packed<real> matrix, transposed;
  std::vector<real> bias;
};

// Memory of one thread for a block of atoms.
template <class real> struct Scratch {
  Buffer<real> summed;              // environments times interaction weights, 4 components
  Buffer<real> norm;                // of the vectors among them
  std::vector<Buffer<real>> slopes; // derivatives of softplus, by layer
  Buffer<real> features, inner, back;
};

template <class real> class Network {
 public:
  static constexpr int ATOMS = Packed<real>::ATOMS;

  explicit Network(const ModelFile &model);

  // Interaction energies of a block (ATOMS), and their derivatives by the environments.
  // Environments and derivatives: (components * n_channels, ATOMS), padded(n_channels) rows a
  // component; species: the channel of each atom.
  void evaluate(const real *environment, const int *species, Scratch<real> &scratch, real *energies,
                real *derivatives) const;

  int components() const { return n_components; }
  int rows() const { return padded(n_channels); }    // of a component

 private:
  int n_channels, n_middle, n_features, n_components, widest;
  bool residual;
  real cusp;
  Packed<real> interaction, interaction_back;
  std::vector<real> vector_scale;
  std::vector<real> start, adjust;    // what species add to features, (n_species, n_...)
  std::vector<Dense<real>> after;     // none without residual connections
  std::vector<Dense<real>> first, second;
  std::vector<real> energy;
  real energy_bias;

  void reserve(Scratch<real> &scratch) const;
  void interact(const real *environment, const int *species, Scratch<real> &scratch) const;
  void interact_back(Scratch<real> &scratch, real *derivatives) const;
  void go_forward(const int *species, Scratch<real> &scratch) const;
  void go_back(Scratch<real> &scratch) const;
};

}    // namespace kdlib

#endif
