// What the experiments on a trained model share: flags, loading, the settings they print, and their files.
//
//   dualmcmc NAME --model CHECKPOINT --data … --count N --out DIR --seed --batch --device --threads
//
// --out receives summary.txt (everything the command logged) and .csv and .png files. If it lies in a run's folder, the
// run's report.html is updated.
#pragma once
#include <CLI/CLI.hpp>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "experiments/csv.h"
#include "formats/files.h"
#include "training/config.h"
#include "training/evaluation.h"

namespace dualmcmc {

// Images first … first + batch - 1 of a set as (batch,S,S,3), continuing from its beginning after its end: batch norm
// always gets full batches, and callers that want fewer images drop the rest.
Tensor image_batch(const ImageSet& set, int64_t first, int64_t batch);

// Writes OUT/summary.txt, and updates the report.html of the run whose folder holds OUT, if any.
void write_summary(const std::string& out, const std::string& summary);

// Adds the flags of the batch-norm mode; set_batch_norm checks their values.
void add_batch_norm_flags(CLI::App& command, BatchNormMode& mode);

class Experiment {
public:
    virtual ~Experiment() = default;
    bool chosen() const { return command_->parsed(); }
    // Checks the flags, loads model and data, logs the settings, measures, writes the summary. Returns the exit code.
    int run();

protected:
    // `count`: the default of --count; `counts`: what it counts, for --help.
    Experiment(CLI::App& app, const std::string& name, const std::string& help, int64_t count,
               const std::string& counts);

    // Adds a chain's flags, and its settings to the log. Defaults: the x-chain for sampling (sampler-*), the model's
    // z-chain. With `long_steps` the flag is --steps, and this is its default whatever the model says.
    void use_chain_x(std::optional<int64_t> long_steps = {});
    void use_chain_z();

    virtual void check() const {}  // checks the command's own flags, before anything is read
    virtual void measure() = 0;
    // The largest --count that the test images allow.
    virtual int64_t max_count() const { return test().count; }

    // Fails, naming the flag, if the machine's memory cannot hold `count` times so many bytes.
    void check_host_memory(const std::string& flag, int64_t count, double bytes_each) const;

    // Prints one line and appends it to the summary.
    void log(const std::string& line);
    // A path in --out.
    std::string file(const std::string& name) const { return out_ + "/" + name; }
    // image_batch() of --batch images.
    Tensor batch_of(const ImageSet& set, int64_t first) const { return image_batch(set, first, batch_); }
    // g(z).
    Tensor generate(const Tensor& z);
    // z ~ q(z|x).
    Tensor encode(const Tensor& x, const Tensor& epsilon);
    const ImageSet& test() const { return test_; }
    uint64_t seed() const { return uint64_t(seed_); }
    const ChainSettings& chain_x() const { return config_.sampler; }
    const ChainSettings& chain_z() const { return config_.step.chain_z; }

    CLI::App* command_;
    std::string name_, model_, data_, out_, device_ = "auto";
    int64_t count_, seed_ = 1, batch_ = 0;
    int64_t threads_ = 0;
    BatchNormMode batch_norm_;
    Config config_;  // the checkpoint's, with the flags applied
    ImageSet test_;  // the test images, held out from training where the data set has enough
    std::optional<Models> models_;

private:
    bool given(const std::string& flag) const;
    void check_flags() const;
    void apply_overrides();
    void log_settings(int64_t iteration);
    ChainSettings flags_x_{}, flags_z_{};
    real sigma_ = 0;
    std::optional<int64_t> long_steps_;
    bool uses_x_ = false, uses_z_ = false;
    std::string summary_;
};

// "20 steps of 4, noise 0.002, temperature (noise/step)^2 = 2.5e-07"
std::string chain_text(const ChainSettings& chain);

// Runs the x-chain from `x`. `watch` gets each state x_k, k = 0 … steps, and its energies (B). Returns the last one.
using WatchX = std::function<void(int64_t k, const Tensor& x, const Tensor& energy)>;
Tensor watch_chain_x(Models& models, const Tensor& x, const ChainSettings& chain, const NoiseFunction& noise,
                     const WatchX& watch);

// Runs the z-chain of the images x from `z`. `watch` gets g(z_k), k = 0 … steps. Returns the last state.
using WatchZ = std::function<void(int64_t k, const Tensor& image)>;
Tensor watch_chain_z(Models& models, const Tensor& z, const Tensor& x, real sigma, const ChainSettings& chain,
                     const NoiseFunction& noise, const WatchZ& watch);

// The mean, and the first and last decile.
struct MeanDeciles {
    double mean, p10, p90;
};
MeanDeciles mean_and_deciles(std::vector<real> values);

// Arranges images as a picture of `rows` strips: row r holds image r of each of the columns.
ImageSet strips(const std::vector<ImageSet>& columns, int64_t rows);
// At most `max_count` evenly spaced steps of 0 … steps, including the first and the last.
std::vector<int64_t> spaced_steps(int64_t steps, int64_t max_count);
// The factor that makes an image 64 pixels wide in a picture.
inline int64_t picture_scale(const ImageSet& set) { return 64 / set.size; }

}  // namespace dualmcmc
