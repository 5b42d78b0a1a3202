// LAMMPS's pair style hipnn: a trained HIP-NN of kdlib.

#ifndef LMP_PAIR_HIPNN_H
#define LMP_PAIR_HIPNN_H

#include "kernel.h"
#include "model_file.h"

#include "pair.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

template <class real> struct HipnnEngine {
  explicit HipnnEngine(const kdlib::ModelFile &model) : network(model) {}
  kdlib::Network<real> network;
  std::vector<std::unique_ptr<kdlib::Worker<real>>> workers;    // one per thread
};

class PairHipnn : public Pair {
 public:
  explicit PairHipnn(class LAMMPS *lmp);
  ~PairHipnn() override;

  void compute(int eflag, int vflag) override;
  void settings(int narg, char **arg) override;
  void coeff(int narg, char **arg) override;
  void init_style() override;
  double init_one(int i, int j) override;
  double memory_usage() override;

 private:
  bool precise = false;    // compute in double precision
  kdlib::ModelFile model;
  std::vector<int> channel_of_type;    // from 1
  std::vector<int> channels;           // of atoms and ghosts
  std::unique_ptr<HipnnEngine<float>> in_float;
  std::unique_ptr<HipnnEngine<double>> in_double;
  std::vector<double> energies;                 // sums of the threads
  std::vector<std::vector<double>> forces;      // of threads but the first
  std::vector<double> virials;                  // 6 for each thread

  void allocate();
  std::string broadcast(const std::string &path);
  void read(const std::string &folder);
  void map_types();
  template <class real> void evaluate(HipnnEngine<real> &engine);
  template <class real>
  void work(kdlib::Worker<real> &worker, const kdlib::Neighborhood &around, int thread, int n_threads);
  template <class real> void spread(kdlib::Worker<real> &worker, int atom, int i, double *f, double *sums);
  template <class real>
  void tally(kdlib::Worker<real> &worker, const kdlib::Segment<real> &segment,
             const kdlib::Slopes<real> &slopes, int i, double *sums);
};

}    // namespace LAMMPS_NS

#endif
