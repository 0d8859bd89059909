// `dualmcmc toys`: the method and its relatives on densities of the plane, where everything that they approximate can
// be computed: the normaliser of the EBM, the generator's marginal density, the encoder's posterior, and what the
// chains make of them.
#pragma once
#include <CLI/CLI.hpp>

#include <optional>

#include "experiments/annealing.h"
#include "experiments/plane.h"
#include "method/dual_mcmc.h"

namespace dualmcmc {

// What distinguishes the learned densities from the true ones, in nats; absent where a method has no such model.
struct PlaneTruth {
    std::optional<double> data_ebm;           // KL(p_data ‖ π_α), π_α = exp(-E / T) / Z
    std::optional<double> data_generator;     // KL(p_data ‖ p_θ), p_θ(x) = ∫ N(z; 0, I) N(x; g(z), σ² I) dz
    std::optional<double> data_revised;       // KL(p_data ‖ the density of the x-chain's end)
    std::optional<double> ebm_generator;      // KL(π_α ‖ p_θ)
    std::optional<double> posterior_encoder;  // mean over data of KL(q(z|x) ‖ p_θ(z|x)): where the z-chain starts
    std::optional<double> posterior_revised;  // the same of the density of the z-chain's end
    std::optional<double> log_z;              // log ∫ exp(-E / T) over the square of the grid
};

// Fields for pictures; empty where a method has no such model.
struct PlaneFields {
    Grid grid, latent_grid;
    Field data, ebm, generator, revised;  // on `grid`; revised: the x-chain's end
    Field posterior, latent_start,
        latent_revised;  // on `latent_grid`, of one data point: p_θ(z|x), the z-chain's start and end
};

// Everything about trained models on `data`, by sums over grids: nothing is estimated from samples. A chain's density
// is carried through its steps exactly: each cell's mass moves by the drift and spreads as the step's Gaussian noise.
PlaneTruth plane_truth(Models& models, const StepSettings& settings, const PlaneData& data, PlaneFields& fields);

// What annealed importance sampling says of log_z; its reverse run starts from points drawn from the grid's density.
struct PlaneLogZ {
    LogZ lower, upper;
};
PlaneLogZ annealed_log_z(Models& models, const StepSettings& settings, const PlaneFields& fields, uint64_t seed);

// The settings of a method's training; besides those of apply_method()
//   exact        an EBM alone, whose samples are drawn from a grid's exp(-E / T): Eq. 7 with a chain that has converged
StepSettings toy_settings(const std::string& method);

// Trains one method on one density.
struct ToyRun {
    std::string data, method;
    std::vector<std::pair<int64_t, PlaneTruth>> history;  // iterations done, truth
    PlaneFields fields;                                   // at the end, as log_z
    std::optional<PlaneLogZ> log_z;
};
ToyRun train_toy(const std::string& data, const std::string& method, int64_t iterations, int64_t evaluations,
                 uint64_t seed);

class ToysCommand {
public:
    explicit ToysCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    int run();

private:
    void print_table(const std::vector<ToyRun>& runs) const;
    void write_files(const std::vector<ToyRun>& runs) const;
    CLI::App* command_;
    std::vector<std::string> data_, methods_;
    std::string out_ = "runs/toys", device_ = "auto";
    int64_t iterations_ = 2000, evaluations_ = 5, seed_ = 1;
    int threads_ = 0;
};

}  // namespace dualmcmc
