// A grid of short trainings, all measured in the same way: what `ablate` and `compare` share.
//
//   dualmcmc NAME --preset … --data … --set NAME=VALUE … --minutes M | --iterations N --seeds 1,2,3 --count N
//                 --out DIR --device --threads
//
// A variant is a name and the settings that distinguish it. Each variant is trained once per seed, in a run folder of
// its own, and then measured on held-out images with that seed: the MSE that `reconstruct` reports, and the
// statistics distances of the samples that `sample` draws.
//
//   OUT/VARIANT-SEED/   a run as `train` leaves it (config.txt, metrics.csv, samples/, checkpoints/, report.html), plus
//                       result.csv and result.npy (the generator's and the EBM-revised samples of the picture)
//   OUT/budget.csv      the cost of an iteration of each variant, and the number of iterations
//   OUT/NAME.csv        all results, one row per variant and seed
//   OUT/NAME.md         the tables: means and ranges over the seeds, beside the paper's values
//   OUT/NAME.png        test images, then one row per variant: the generator's samples left, EBM-revised ones right
//   OUT/summary.txt, OUT/report.html
//
// Results in --out are kept, and an interrupted training resumes from its last checkpoint. Ranks (ranks/ranks.h) take
// the trainings in turn; only those of the first show their progress.
#pragma once
#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "experiments/grid_files.h"
#include "training/config.h"

namespace dualmcmc {

struct Variant {
    std::string name, method;
    std::vector<std::pair<std::string, std::string>> settings;  // applied over the preset's and the method's
};

class GridCommand {
public:
    virtual ~GridCommand() = default;
    bool chosen() const { return command_->parsed(); }
    // Trains and measures what is missing. Returns the exit code: 128 + the signal after an interrupt.
    int run();

protected:
    // The default budget of a training: `iterations`, or `minutes` if that is above 0.
    GridCommand(CLI::App& app, const std::string& name, const std::string& help, double minutes, int64_t iterations,
                const std::vector<int64_t>& seeds);

    virtual std::vector<Variant> variants() const = 0;  // fails if the command's own flags are bad
    virtual std::string tables() const = 0;             // Markdown, of the results so far

    // A field of a variant over the seeds, for a table: "mean" or "mean (least–largest)"; a dash if it is absent.
    std::string over_seeds(const std::string& variant, std::optional<double> Result::*field, int decimals) const;
    // A row in Markdown.
    static std::string row(const std::vector<std::string>& texts);
    // A heading and the rule below it.
    static std::string heading(const std::vector<std::string>& texts);

    CLI::App* command_;

private:
    struct Training {
        Variant variant;
        Config config;
        double cpu_seconds = 0;  // per iteration
    };
    void check_flags() const;
    Config variant_config(const Variant& variant) const;
    void check_sets(const std::vector<Training>& trainings) const;
    void measure_costs(std::vector<Training>& trainings) const;
    std::vector<Training> of_all_seeds(const std::vector<Training>& trainings) const;
    void plan(std::vector<Training>& trainings) const;
    bool train_all(const std::vector<Training>& trainings);
    bool train_and_measure(const Training& training);
    void write() const;
    void log(const std::string& line);
    void log_settings(const Config& config, const Dataset& data);

    std::string name_, preset_ = "cifar10-small", data_, out_, device_ = "auto", summary_;
    std::vector<std::string> sets_;
    double minutes_;
    int64_t iterations_, count_ = 1000;
    std::vector<int64_t> seeds_;
    int64_t threads_ = 0;
    ImageSet test_;  // of the first seed
    std::vector<Result> results_;
};

// Parts of it, exposed for the tests and for other measurements:

// The number of iterations that fit into `minutes` of CPU time on each of `threads` threads; at least 1.
int64_t iterations_in(double minutes, int64_t threads, double cpu_seconds);

// How a trained model reconstructs an image: the start of the z-chain ("mean": no chain follows) and its steps. With an
// encoder as in training; from noise, at least 30 steps, if the method has a generator only; nothing without a
// generator.
struct Inference {
    std::string start;
    int64_t steps;
};
std::optional<Inference> inference_of(const StepSettings& settings);

}  // namespace dualmcmc
