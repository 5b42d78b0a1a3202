// A model of kdlib as it is on disk: config.json and model.safetensors.

#ifndef KDLIB_MODEL_FILE_H
#define KDLIB_MODEL_FILE_H

#include <string>
#include <vector>

namespace kdlib {

// A matrix by rows, (rows, columns); a vector is one row.
struct Matrix {
  size_t rows = 0, columns = 0;
  std::vector<double> values;
  double at(size_t row, size_t column) const { return values[row * columns + column]; }
};

// x -> weight x + bias, weight (n_out, n_in).
struct Linear {
  Matrix weight;
  std::vector<double> bias;
};

// With residual connections: x -> second softplus(first x) + x. Without: x -> softplus(first x).
struct AtomLayer {
  Linear first, second;
};

// A HIP-NN of one interaction layer, in the symbols of kdlib.hipnn.kernels.
struct ModelFile {
  std::vector<std::string> species;
  double cutoff = 0.0;      // Angstrom
  double cusp = 0.0;        // summand under the root of the l = 1 invariant
  bool vector = false;      // l_max 1
  bool residual = false;
  std::vector<double> center, width;    // mu and sigma of the sensitivities
  Matrix interaction;                   // (n_species * n_sensitivities, n_middle)
  std::vector<double> vector_scale;     // (n_middle)
  Linear self;                          // (n_middle, n_species)
  Linear after;                         // with residual connections: (n_features, n_middle)
  Matrix adjust;                        // the same: species to features, (n_features, n_species)
  std::vector<AtomLayer> layers;
  Linear energy;                        // (1, n_features)
  std::vector<double> free_atoms;       // E0 of each species, eV
};

// Throws std::runtime_error with one sentence on what is wrong or not covered.
ModelFile read_model(const std::string &config, const std::string &weights);

}    // namespace kdlib

#endif
