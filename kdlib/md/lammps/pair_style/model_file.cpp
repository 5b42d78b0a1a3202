#include "model_file.h"

#include "json.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>

namespace kdlib {

namespace {

struct Tensor {
  std::vector<size_t> shape;
  std::vector<double> values;
};

[[noreturn]] void refuse(const std::string &reason) { throw std::runtime_error(reason); }

template <class real> std::vector<double> decoded(const char *bytes, size_t count)
{
  std::vector<double> values(count);
  for (size_t k = 0; k < count; ++k) {
    real value;
    std::memcpy(&value, bytes + k * sizeof(real), sizeof(real));
    values[k] = value;
  }
  return values;
}

Tensor read_tensor(const std::string &name, const Json &entry, const std::string &file, size_t start)
{
  Tensor made;
  size_t count = 1;
  for (const Json &length : entry.at("shape").array) {
    made.shape.push_back(length.as_count("shape"));
    count *= made.shape.back();
    if (count > file.size()) refuse("model.safetensors: tensor " + name + " is larger than the file");
  }
  const std::string type = entry.at("dtype").string;
  if (type != "F32" && type != "F64")
    refuse("model.safetensors: tensor " + name + " has type " + type + ", not F32 or F64");
  const size_t bytes = count * (type == "F32" ? 4 : 8);
  const std::vector<Json> &offsets = entry.at("data_offsets").array;
  if (offsets.size() != 2) refuse("model.safetensors: tensor " + name + " has no place in the file");
  const size_t from = offsets[0].as_count("data_offsets"), to = offsets[1].as_count("data_offsets");
  if (to < from || to - from != bytes || start + to > file.size())
    refuse("model.safetensors is truncated: tensor " + name + " is not in it");
  const char *data = file.data() + start + from;
  made.values = type == "F32" ? decoded<float>(data, count) : decoded<double>(data, count);
  for (const double value : made.values)
    if (!std::isfinite(value)) refuse("model.safetensors: tensor " + name + " is not finite");
  return made;
}

std::map<std::string, Tensor> read_tensors(const std::string &file)
{
  uint64_t length = 0;
  for (size_t k = 0; k < 8 && k < file.size(); ++k)    // little-endian
    length |= (uint64_t) (unsigned char) file[k] << (8 * k);
  if (file.size() < 8 || length > file.size() - 8) refuse("model.safetensors is truncated");
  Json header;
  try {
    header = JsonReader(file.substr(8, length)).read();
  } catch (std::runtime_error &) {
    refuse("model.safetensors has an unreadable header");
  }
  std::map<std::string, Tensor> made;
  for (const auto &[name, entry] : header.object)
    if (name != "__metadata__") made[name] = read_tensor(name, entry, file, 8 + length);
  return made;
}

// The tensors of a model; each must be there once, in the wanted shape.
class Weights {
 public:
  explicit Weights(const std::string &file) : tensors(read_tensors(file)) {}

  bool has(const std::string &name) const { return tensors.count(name) > 0; }

  const Tensor &at(const std::string &name) const
  {
    const auto found = tensors.find(name);
    if (found == tensors.end()) refuse("model.safetensors: tensor " + name + " is missing");
    return found->second;
  }

  const Tensor &at(const std::string &name, const std::vector<size_t> &shape) const
  {
    const Tensor &found = at(name);
    if (found.shape != shape)
      refuse("model.safetensors: the shape of tensor " + name + " does not fit config.json");
    return found;
  }

  Matrix matrix(const std::string &name, size_t rows, size_t columns) const
  {
    return {rows, columns, at(name, {rows, columns}).values};
  }

  Linear linear(const std::string &name, size_t n_out, size_t n_in) const
  {
    return {matrix(name + ".weight", n_out, n_in), at(name + ".bias", {n_out}).values};
  }

  // Number of rows of a matrix.
  size_t height(const std::string &name) const
  {
    const Tensor &found = at(name);
    return found.shape.empty() ? 0 : found.shape[0];
  }

 private:
  std::map<std::string, Tensor> tensors;
};

// hippynn keeps (n_sensitivities, n_middle, n_species).
Matrix interaction(const Tensor &tensor)
{
  const size_t n_k = tensor.shape[0], n_out = tensor.shape[1], n_species = tensor.shape[2];
  Matrix made{n_species * n_k, n_out, std::vector<double>(tensor.values.size())};
  for (size_t k = 0; k < n_k; ++k)
    for (size_t o = 0; o < n_out; ++o)
      for (size_t s = 0; s < n_species; ++s)
        made.values[(s * n_k + k) * n_out + o] = tensor.values[(k * n_out + o) * n_species + s];
  return made;
}

// hippynn adds the one-hot species themselves where there are as many features.
Matrix residual_of_species(const Weights &weights, const std::string &name, size_t n_features,
                           size_t n_species)
{
  if (n_features != n_species) return weights.matrix(name + ".weight", n_features, n_species);
  Matrix made{n_features, n_species, std::vector<double>(n_features * n_species, 0.0)};
  for (size_t s = 0; s < n_species; ++s) made.values[s * n_species + s] = 1.0;
  return made;
}

void read_layers(ModelFile &model, const Weights &weights, size_t n_layers, size_t n_features)
{
  const std::string block = "network.blocks.0.";
  const std::string first = block + (model.residual ? "0.base_layer." : "0.");
  const size_t n_k = model.center.size(), n_species = model.species.size();
  const Tensor &pairs = weights.at(first + "int_weights");
  const size_t n_middle = pairs.shape.size() == 3 ? pairs.shape[1] : 0;
  weights.at(first + "int_weights", {n_k, n_middle, n_species});
  model.interaction = interaction(pairs);
  if (model.vector) model.vector_scale = weights.at(first + "vecscales", {n_middle}).values;
  model.self = weights.linear(first + "selfint", n_middle, n_species);
  if (model.residual) {
    model.after = weights.linear(block + "0.res_layer", n_features, n_middle);
    model.adjust = residual_of_species(weights, block + "0.adjust_layer", n_features, n_species);
  } else if (n_middle != n_features) {
    refuse("model.safetensors: the width of its layers does not fit config.json");
  }
  for (size_t k = 1; k <= n_layers; ++k) {
    const std::string name = block + std::to_string(k);
    if (!model.residual) {
      model.layers.push_back({weights.linear(name, n_features, n_features), {}});
      continue;
    }
    const size_t inner = weights.height(name + ".base_layer.weight");
    model.layers.push_back({weights.linear(name + ".base_layer", inner, n_features),
                            weights.linear(name + ".res_layer", n_features, inner)});
  }
  if (weights.has(block + std::to_string(n_layers + 1) + (model.residual ? ".base_layer.weight" : ".weight")))
    refuse("model.safetensors holds more atom layers than config.json");
}

void check_covered(const Json &settings)
{
  if (settings.at("n_interaction_layers").as_count("n_interaction_layers") != 1)
    refuse("the model has several interaction layers, and the pair style covers one");
  if (settings.at("l_max").as_count("l_max") > 1)
    refuse("the model has l_max 2, and the pair style covers l_max 0 and 1");
}

Json read_settings(const std::string &config)
{
  try {
    const Json whole = JsonReader(config).read();
    return whole.at("hipnn");
  } catch (std::runtime_error &error) {
    refuse("config.json is not that of a kdlib model: " + std::string(error.what()));
  }
}

}    // namespace

ModelFile read_model(const std::string &config, const std::string &weights_file)
{
  const Json settings = read_settings(config);
  check_covered(settings);
  ModelFile model;
  for (const Json &symbol : settings.at("species").array) model.species.push_back(symbol.string);
  if (model.species.empty()) refuse("config.json names no species");
  model.cutoff = settings.at("cutoff").as_number("cutoff");
  if (!(model.cutoff > 0.0 && std::isfinite(model.cutoff)))
    refuse("config.json: the cutoff is not a positive length");
  model.vector = settings.at("l_max").as_count("l_max") == 1;
  model.cusp = settings.at("cusp_reg").as_number("cusp_reg");
  if (!(model.cusp >= 0.0)) refuse("config.json: cusp_reg is negative");
  model.residual = settings.at("resnet").as_number("resnet") != 0.0;
  const size_t n_k = settings.at("n_sensitivities").as_count("n_sensitivities");
  const size_t n_features = settings.at("n_features").as_count("n_features");
  if (n_k == 0 || n_features == 0) refuse("config.json: the model has no width");

  const Weights weights(weights_file);
  const std::string first =
      std::string("network.blocks.0.0.") + (model.residual ? "base_layer." : "") + "sensitivity.";
  model.center = weights.at(first + "mu", {1, n_k}).values;
  model.width = weights.at(first + "sigma", {1, n_k}).values;
  for (const double center : model.center)
    if (center == 0.0) refuse("model.safetensors: a sensitivity is centered at zero");
  read_layers(model, weights, settings.at("n_atom_layers").as_count("n_atom_layers"), n_features);
  model.free_atoms = weights.matrix("henergy.layers.0.weight", 1, model.species.size()).values;
  model.energy = weights.linear("henergy.layers.1", 1, n_features);
  return model;
}

}    // namespace kdlib
