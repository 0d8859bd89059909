// What the experiments on a trained model share: their flags, loading, the settings they print, and their files.
//
//   dualmcmc NAME --model CHECKPOINT --data … --count N --out DIR --seed --batch --device --threads
//
// --out holds summary.txt (all that the command said), .csv and .png files; where it lies in a run's folder, the run's
// report.html is written anew.
#pragma once
#include <CLI/CLI.hpp>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "formats/files.h"
#include "training/config.h"
#include "training/evaluation.h"

namespace dualmcmc {

// The images first … first + batch - 1 of a set as (batch,S,S,3), round again from its beginning at its end: batch norm
// always gets whole batches, and whoever asked for fewer images leaves the rest out.
Tensor image_batch(const ImageSet& set, int64_t first, int64_t batch);

// Writes OUT/summary.txt; where OUT lies in a run's folder, that run's report.html anew.
void write_summary(const std::string& out, const std::string& summary);

// The flags of a batch-norm policy; `policy` is checked when it is set (set_batch_norm).
void add_batch_norm_flags(CLI::App& command, BatchNormMode& policy);

// Fails where a chain's settings, of the flags --steps-NAME and so on, are impossible.
void check_chain(const std::string& name, const ChainSettings& chain);

class Experiment {
public:
    virtual ~Experiment() = default;
    bool chosen() const { return command_->parsed(); }
    // Refuses bad flags, loads, says the settings, measures, writes the summary. Returns the program's exit code.
    int run();

protected:
    // `count`: the default of --count, and what it counts.
    Experiment(CLI::App& app, const std::string& name, const std::string& help, int64_t count,
               const std::string& counts);

    // Adds the flags of a chain and has its settings said. Defaults: the x-chain after training (sampler-*), the
    // model's z-chain. `long_steps`: the x-chain's length is this, unless --steps says otherwise, and no business of
    // the model's.
    void use_chain_x(std::optional<int64_t> long_steps = {});
    void use_chain_z();

    virtual void check() const {}  // of the command's own flags, before anything is read
    virtual void measure() = 0;
    // The largest --count that the test images allow.
    virtual int64_t most() const { return test().count; }

    // Prints one line and keeps it for the summary.
    void say(const std::string& line);
    // A path in --out.
    std::string file(const std::string& name) const { return out_ + "/" + name; }
    // image_batch() of --batch images.
    Tensor batch_of(const ImageSet& set, int64_t first) const { return image_batch(set, first, batch_); }
    // g(z).
    Tensor generate(const Tensor& z);
    // z ~ q(z|x).
    Tensor encode(const Tensor& x, const Tensor& epsilon);
    const ImageSet& test() const { return dataset_.held_out; }
    uint64_t seed() const { return uint64_t(seed_); }
    const ChainSettings& chain_x() const { return config_.sampler; }
    const ChainSettings& chain_z() const { return config_.step.chain_z; }

    CLI::App* command_;
    std::string name_, model_, data_, out_, device_ = "auto";
    int64_t count_, seed_ = 1, batch_ = 0;
    int threads_ = 0;
    BatchNormMode batch_norm_;
    Config config_;  // the checkpoint's, with the flags laid over it
    Dataset dataset_;
    std::optional<Models> models_;

private:
    bool given(const std::string& flag) const;
    void check_flags() const;
    void lay_flags_over();
    void say_settings(int64_t iteration);
    ChainSettings flags_x_{}, flags_z_{};
    float sigma_ = 0;
    std::optional<int64_t> long_steps_;
    bool uses_x_ = false, uses_z_ = false;
    std::string summary_;
};

// "20 steps of 4, noise 0.002, temperature (noise/step)^2 = 2.5e-07"
std::string chain_text(const ChainSettings& chain);

// The x-chain from `x`; `watch` sees each state x_k, k = 0 … steps, and its energies (B). Returns x_steps.
using WatchX = std::function<void(int64_t k, const Tensor& x, const Tensor& energy)>;
Tensor watch_chain_x(Models& models, const Tensor& x, const ChainSettings& chain, const NoiseFunction& noise,
                     const WatchX& watch);

// The z-chain of the images x from `z`; `watch` sees g(z_k), k = 0 … steps. Returns z_steps.
using WatchZ = std::function<void(int64_t k, const Tensor& image)>;
Tensor watch_chain_z(Models& models, const Tensor& z, const Tensor& x, float sigma, const ChainSettings& chain,
                     const NoiseFunction& noise, const WatchZ& watch);

// A table: a header and rows of numbers or texts, written complete or not at all. Texts with commas or quotes are
// quoted (RFC 4180).
class Csv {
public:
    explicit Csv(const std::vector<std::string>& header) { row(header); }
    void row(const std::vector<std::string>& cells);
    // Numbers keep nine significant digits: enough to give a float back as it was.
    void row(const std::vector<double>& numbers);
    void row(const std::string& name, const std::vector<double>& numbers);
    void write(const std::string& path) const { write_file(path, text_); }

private:
    std::string text_;
};

// A number in nine significant digits.
std::string digits(double value);

// Mean, and the values that a tenth of the numbers lie below and above.
struct Spread {
    double mean, low, high;
};
Spread spread_of(std::vector<float> values);

// A set whose image (r, c) is the image r of columns[c], row by row: a picture of `rows` strips.
ImageSet strips(const std::vector<ImageSet>& columns, int64_t rows);
// Of the steps 0 … steps, at most `most` evenly spaced ones, the first and the last among them.
std::vector<int64_t> spaced_steps(int64_t steps, int64_t most);
// An image becomes 64 pixels wide in a picture.
inline int64_t picture_scale(const ImageSet& set) { return 64 / set.size; }

}  // namespace dualmcmc
