// `dualmcmc toys`: the method and its baselines on 2-D densities, where everything they approximate can be computed:
// the EBM's normalising constant, the generator's marginal density, the posterior, and the densities at the ends of the
// chains.
#pragma once
#include <CLI/CLI.hpp>

#include <optional>

#include "experiments/annealing.h"
#include "experiments/density2d.h"
#include "method/dual_mcmc.h"

namespace dualmcmc {

// Divergences of the learned densities from the true ones, in nats; absent if a method has no such model. Those of
// posteriors are means over 16 points of the data.
struct Metrics2d {
    std::optional<double> data_ebm;           // KL(p_data ‖ π_α), π_α = exp(-E / T) / Z
    std::optional<double> data_generator;     // KL(p_data ‖ p_θ), p_θ(x) = ∫ N(z; 0, I) N(x; g(z), σ² I) dz
    std::optional<double> data_revised;       // KL(p_data ‖ density at the end of the x-chain)
    std::optional<double> ebm_generator;      // KL(π_α ‖ p_θ)
    std::optional<double> posterior_encoder;  // KL(q ‖ p_θ(z|x)), q: the density of the z-chain's start
    std::optional<double> posterior_revised;  // the same at the end of the z-chain
    std::optional<double> log_z;              // log ∫ exp(-E / T) over the square of the grid
};

// Densities for the picture; empty if a method has no such model.
struct Fields2d {
    Grid grid, latent_grid;
    Field data, ebm, generator, revised;  // on `grid`; revised: at the end of the x-chain
    // On `latent_grid`, for one data point: p_θ(z|x), and the density at the start and end of the z-chain.
    Field posterior, latent_start, latent_revised;
};

// Computes all metrics of trained models on `data` by sums over grids. The density of a chain is propagated through its
// steps: the mass of each cell moves by the drift and spreads by the step's Gaussian noise.
Metrics2d exact_metrics(Models& models, const StepSettings& settings, const Density2d& data, Fields2d& fields);

// Bounds on log_z by annealed importance sampling. The reverse run starts from exact samples, drawn from fields.ebm.
struct LogZBounds {
    LogZ lower, upper;
};
LogZBounds annealed_log_z(Models& models, const StepSettings& settings, const Fields2d& fields, uint64_t seed);

// The names for --method: those of method/settings.h, and `exact` after `shortrun`.
const std::vector<std::string>& toy_methods();

// The training settings of a method. Besides the methods of apply_method() there is
//   exact        an EBM alone, trained with exact samples of exp(-E / T) from a grid: Eq. 7 with a converged chain
StepSettings toy_settings(const std::string& method);

// Trains one method on one density.
struct ToyRun {
    std::string data, method;
    std::vector<std::pair<int64_t, Metrics2d>> history;  // iterations done, metrics
    Fields2d fields;                                     // at the end of training, as is log_z
    std::optional<LogZBounds> log_z;
};
ToyRun train_toy(const std::string& data, const std::string& method, int64_t iterations, int64_t evaluations,
                 uint64_t seed);

class ToysCommand {
public:
    explicit ToysCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    int run();

private:
    void print_settings() const;
    void print_table(const std::vector<ToyRun>& runs) const;
    void write_files(const std::vector<ToyRun>& runs) const;
    CLI::App* command_;
    std::vector<std::string> data_, methods_;
    std::string out_ = "runs/toys", device_ = "auto";
    int64_t iterations_ = 2000, evaluations_ = 5, seed_ = 1;
    int64_t threads_ = 0;
};

}  // namespace dualmcmc
