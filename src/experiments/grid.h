// A grid of short trainings, each measured in the same way: what `ablate` and `compare` share.
//
//   dualmcmc NAME --preset … --data … --set NAME=VALUE … --minutes M | --iterations N --seeds 1,2,3 --count N --out DIR
//   --device --threads
//
// A cell is a name and what distinguishes it; it is trained once for each seed, in a run's folder of its own, and then
// measured on held-out images with that seed: the numbers of `reconstruct`, and of the sliced Wasserstein distance of
// what `sample` draws.
//
//   OUT/CELL-SEED/   a run as `train` leaves it (config.txt, metrics.csv, samples/, checkpoints/, report.html), and
//   what was measured of it:
//                    result.csv, result.npy (the generator's and the EBM-revised samples of the picture)
//   OUT/budget.csv   what an iteration of each cell costs, and how many there are
//   OUT/NAME.csv     all results, a row for each cell and seed
//   OUT/NAME.md      the tables: means and ranges over the seeds, beside the paper's numbers
//   OUT/NAME.png     test images, then a row for each cell: the generator's samples left, EBM-revised right
//   OUT/summary.txt, OUT/report.html
//
// What is in --out already is not done again, and a training that was interrupted goes on from its last checkpoint.
#pragma once
#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "training/config.h"

namespace dualmcmc {

struct Cell {
    std::string name, method;
    std::vector<std::pair<std::string, std::string>> settings;  // over those of the preset and the method
};

// What was measured of one cell and seed; absent where its method has no such thing.
struct Result {
    std::string cell;
    std::optional<double> seed, count;          // of the images that were measured on
    std::optional<double> iterations, returns;  // done; returns to a checkpoint after a divergence
    std::optional<double> gave_up;  // 1 where it diverged again and again, and what was measured is its last checkpoint
    std::optional<double> processor;  // seconds of processor time that an iteration costs, timed before all training
    std::optional<double> seconds;    // an iteration by the clock on the wall, median; the next ones are its parts
    std::optional<double> chain_x, chain_z, generator, encoder, ebm;
    std::optional<double> mse;  // of reconstructed test images, per pixel and channel
    std::optional<double> swd_generator, swd_revised;
};

class GridCommand {
public:
    virtual ~GridCommand() = default;
    bool chosen() const { return command_->parsed(); }
    // Trains and measures what is not there yet. Returns the program's exit code: 130 where the user interrupted it.
    int run();

protected:
    // The default budget of a training: minutes, or iterations where those are above 0.
    GridCommand(CLI::App& app, const std::string& name, const std::string& help, double minutes, int64_t iterations,
                const std::vector<int64_t>& seeds);

    virtual std::vector<Cell> cells() const = 0;  // fails for bad flags of the command's own
    virtual std::string tables() const = 0;       // Markdown, of the results so far

    // A cell's field over the seeds, for a table: "mean" or "mean (least–largest)"; a dash where it has none.
    std::string over_seeds(const std::string& cell, std::optional<double> Result::*field, int decimals) const;
    // A row of Markdown.
    static std::string row(const std::vector<std::string>& texts);
    // A heading and its rule.
    static std::string heading(const std::vector<std::string>& texts);

    CLI::App* command_;

private:
    struct Training {
        Cell cell;
        Config config;
        double processor_seconds = 0;  // of an iteration
    };
    void check_flags() const;
    Config cell_config(const Cell& cell) const;
    void check_sets(const std::vector<Training>& cells) const;
    void plan(std::vector<Training>& cells) const;
    bool train_and_measure(const Training& training);
    void write() const;
    void say(const std::string& line);
    void say_settings(const Config& config, const Dataset& data);

    std::string name_, preset_ = "cifar10-small", data_, out_, device_ = "auto", said_;
    std::vector<std::string> sets_;
    double minutes_;
    int64_t iterations_, count_ = 1000;
    std::vector<int64_t> seeds_;
    int threads_ = 0;
    ImageSet test_;  // of the first seed
    std::vector<Result> results_;
};

// Its pieces, for the tests and for whoever measures a run:

// Iterations that `minutes` of processor time on each of `threads` threads are enough for.
int64_t iterations_in(double minutes, int64_t threads, double processor_seconds);

// Where the z-chain that reconstructs an image starts, and its steps, by what the method learns: as in training where
// there is an encoder
// ("mean" where no chain follows); from noise, 30 steps at least, where there is only a generator; nothing where there
// is none.
struct Inference {
    std::string start;
    int64_t steps;
};
std::optional<Inference> inference_of(const StepSettings& settings);

}  // namespace dualmcmc
