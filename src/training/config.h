// Every setting of a training run, in one list, from which the command line, config.txt and the metadata of checkpoints
// are made.
#pragma once
#include <map>
#include <string>

#include "method/dual_mcmc.h"

namespace dualmcmc {

// What no run exceeds: flags and files are checked against these before anything is built.
inline constexpr int64_t max_iterations = 1'000'000'000;
inline constexpr double max_minutes = 1e7;  // 19 years

struct Config {
    std::string preset = "cifar10", method = "dual", data, init, out, device = "auto", precision = "auto";
    int64_t threads = 0, seed = 1;
    ModelSettings model;
    StepSettings step;
    int64_t batch = 100, epochs = 301;
    int64_t iterations = 0;   // total since the run's start; overrides epochs unless 0
    double minutes = 0;       // time limit of this process; 0: none
    bool flip = false;        // random horizontal flips
    double lr_decay = 0.998;  // learning rate = base · decay^epoch, epoch from 0
    // Moving averages: avg <- d avg + (1 - d) θ, d = min(ema, t / (t + 9)) after iteration t (from 1); 0: none
    double ema = 0;                         // of the generator's parameters, for samples
    double ema_ebm = 0;                     // of the EBM's, for the x-chain after training
    double max_energy_gap = 1e4;            // the run has diverged if |energy gap| exceeds this
    double rollback_lr_factor = 1;          // multiplies all learning rates at each rollback
    ChainSettings sampler{70, 0.4, 0.001};  // the x-chain after training
    int64_t sampler_batch = 100;
    int64_t log_every = 10, eval_every = 500, checkpoint_every = 1000, keep_checkpoints = 2;
};

// ---- the list of settings -----------------------------------------------------------------------
// for_each_setting calls visit(name, field, help) for each of them. `name` is the flag without its dashes, and the key
// in files; `field` is a std::string, int64_t, real, double or bool.

template <class ConfigType, class Visit>
void for_each_run_setting(ConfigType& c, Visit& visit) {
    visit(
        "preset", c.preset,
        "initial settings: cifar10 and celeba64 are the paper's, cifar10-small fits two CPU cores, demo draws its own "
        "images");
    visit(
        "method", c.method,
        "dual (this paper) or a baseline: cooperative, triangle, shortrun, abp, vae; sets the method's switches below, "
        "which other flags override");
    visit("architecture", c.model.architecture, "network architecture: cifar10 (32x32 images) or celeba64 (64x64)");
    visit("data", c.data,
          "folder of PNG or JPEG pictures, sub-folders too; folder with the .bin files of CIFAR-10 or CIFAR-100 "
          "(default: "
          "$CIFAR10_DIR, else data/cifar-10-batches-bin); a .npy file of uint8 images (N,H,W,3); or shapes, which the "
          "program draws");
    visit(
        "init", c.init,
        "start from the networks of this checkpoint, with fresh optimisers, at iteration 0 (fine-tuning); it sets the "
        "architecture and the widths");
    visit("out", c.out, "output folder for config.txt, metrics.csv, samples/ and checkpoints/; default: runs/PRESET");
    visit("seed", c.seed, "seed of all random numbers: initial weights, noise, order of the images");
    visit("device", c.device, "auto, cpu or cuda; or one instruction set: cpu-amx, cpu-avx512, cpu-avx2, cpu-sse2");
    visit("precision", c.precision,
          "inputs of the GPU's matrix multiplications: fp32, tf32 or bf16, accumulated in fp32; auto: tf32 on a GPU, "
          "fp32 on the CPU");
    visit("threads", c.threads, "CPU threads, 0 for all; results do not depend on it");
    visit("batch", c.batch, "batch size");
    visit("epochs", c.epochs, "passes over the training set");
    visit("iterations", c.iterations, "total iterations, counted from the run's start; 0: use --epochs");
    visit("minutes", c.minutes, "time limit in minutes; the run ends with an evaluation and a checkpoint; 0: none");
    visit("flip", c.flip, "flip training images horizontally at random");
}

template <class ConfigType, class Visit>
void for_each_model_setting(ConfigType& c, Visit& visit) {
    visit("width-generator", c.model.width_generator, "channels of the generator");
    visit("width-ebm", c.model.width_ebm, "channels of the EBM");
    visit("width-encoder", c.model.width_encoder, "channels of the encoder's first layer");
    visit("latent", c.model.latent, "dimension d of the latent z");
}

template <class ConfigType, class Visit>
void for_each_step_setting(ConfigType& c, Visit& visit) {
    visit("steps-x", c.step.chain_x.steps, "x-chain (Eq. 3): number of steps k_x");
    visit("step-size-x", c.step.chain_x.step_size, "x-chain: step size s_x; the gradient is scaled by s_x^2 / 2");
    visit("noise-x", c.step.chain_x.noise_std,
          "x-chain: standard deviation n_x of the noise; the temperature is (n_x / s_x)^2");
    visit("steps-z", c.step.chain_z.steps, "z-chain (Eq. 6): number of steps k_z");
    visit("step-size-z", c.step.chain_z.step_size, "z-chain: step size s_z");
    visit("noise-z", c.step.chain_z.noise_std, "z-chain: standard deviation n_z of the noise");
    visit("sigma", c.step.sigma,
          "standard deviation of p(x|z); the authors' sig of 0.3 is 0.3 / sqrt(2) = 0.2121 here");
    visit("ebm-negatives", c.step.negatives,
          "samples in the EBM's update (Eq. 7): chain, the x-chain's ends; resampled, the ends of a second chain from "
          "the updated generator, as in the authors' code; or generated, the updated generator's, unrevised");
    visit("long-steps", c.step.long_steps,
          "number of steps of the longer x-chains that the EBM also learns from, in every --long-every-th iteration; "
          "must "
          "exceed --steps-x; 0: none");
    visit("long-every", c.step.long_every, "iterations from one update of the EBM with long chains to the next");
    visit("lambda-data", c.step.lambda_data, "weight of the data term in the generator's loss (Eq. 10)");
    visit("lambda-ebm", c.step.lambda_ebm, "weight of the EBM-revised samples in the generator's loss (Eq. 10)");
    visit("lambda-generated", c.step.lambda_generated, "weight of the generated pairs in the encoder's loss (Eq. 15)");
    visit("start-x", c.step.start_x, "start of the x-chain: generator, or noise, uniform in [-1, 1]");
    visit("start-z", c.step.start_z,
          "start of the z-chain: encoder; noise, N(0, I); or persistent, the end of the same image's previous chain");
    visit("learn-ebm", c.step.learn_ebm, "update the EBM (Eq. 7)");
    visit("learn-generator", c.step.learn_generator, "update the generator (Eq. 10)");
    visit("learn-encoder", c.step.learn_encoder, "update the encoder (Eq. 15)");
    visit("joint-elbo", c.step.joint_elbo,
          "train generator and encoder jointly, without chains, on the evidence lower bound (triangle, vae)");
}

template <class ConfigType, class Visit>
void for_each_optimiser_setting(ConfigType& c, Visit& visit) {
    visit("lr-generator", c.step.adam_generator.learning_rate, "Adam's learning rate, generator");
    visit("lr-ebm", c.step.adam_ebm.learning_rate, "Adam's learning rate, EBM");
    visit("lr-encoder", c.step.adam_encoder.learning_rate, "Adam's learning rate, encoder");
    visit("decay-generator", c.step.adam_generator.weight_decay, "L2 weight decay, added to the gradient, generator");
    visit("decay-ebm", c.step.adam_ebm.weight_decay, "L2 weight decay, EBM");
    visit("decay-encoder", c.step.adam_encoder.weight_decay, "L2 weight decay, encoder");
    visit("lr-decay", c.lr_decay, "factor on all learning rates after each epoch");
    visit("ema", c.ema,
          "decay of the moving average (EMA) of the generator's parameters that samples are drawn with; 0: no EMA");
    visit("ema-ebm", c.ema_ebm,
          "decay of the moving average of the EBM's parameters that revises samples after training; 0: no EMA");
    visit("max-energy-gap", c.max_energy_gap,
          "energy gap above which a run has diverged and rolls back to its last checkpoint");
    visit("rollback-lr-factor", c.rollback_lr_factor, "factor on all learning rates at each rollback; 1: unchanged");
}

template <class ConfigType, class Visit>
void for_each_output_setting(ConfigType& c, Visit& visit) {
    visit("sampler-steps", c.sampler.steps, "x-chain when sampling after training: number of steps");
    visit("sampler-step-size", c.sampler.step_size, "x-chain when sampling: step size");
    visit("sampler-noise", c.sampler.noise_std, "x-chain when sampling: standard deviation of the noise");
    visit("sampler-batch", c.sampler_batch, "batch size when sampling; batch norm sees these images together");
    visit("log-every", c.log_every, "iterations between progress lines when stdout is not a terminal");
    visit("eval-every", c.eval_every, "iterations between evaluations: pictures and distances to the data");
    visit("checkpoint-every", c.checkpoint_every, "iterations between checkpoints");
    visit("keep-checkpoints", c.keep_checkpoints, "number of most recent checkpoints to keep");
}

template <class ConfigType, class Visit>
void for_each_setting(ConfigType& c, Visit visit) {
    for_each_run_setting(c, visit);
    for_each_model_setting(c, visit);
    for_each_step_setting(c, visit);
    for_each_optimiser_setting(c, visit);
    for_each_output_setting(c, visit);
}

// ---- names --------------------------------------------------------------------------------------

// Settings that have been renamed. The former names remain valid as flags, in config.txt, in the metadata of
// checkpoints and in --set; they are never written, and no help text lists them.
struct FormerName {
    const char *former, *current;
};
inline constexpr FormerName former_names[] = {
    {"lambda-prior", "lambda-generated"}, {"amortised", "joint-elbo"},
    {"guard", "max-energy-gap"},          {"return-lr-factor", "rollback-lr-factor"},
    {"sample-every", "eval-every"},       {"keep", "keep-checkpoints"},
    {"resample", "ebm-negatives"},
};

// The current name of a former one; any other name as it is.
std::string current_name(const std::string& name);

// A word of train's command line with its flag's current name: --guard=9, --no-amortised and so on.
std::string with_current_flag(const std::string& word);

// ---- values -------------------------------------------------------------------------------------

// The named preset. Fails, listing them, for any other name.
Config preset_config(const std::string& name);

// Sets one setting, by its current or former name, from its text. Fails if there is no such setting or the text does
// not parse.
void set_setting(Config& config, const std::string& name, const std::string& value);

// Name -> value, which set_setting reads back exactly.
std::map<std::string, std::string> config_to_map(const Config& config);

// The text of config.txt: a line "name = value" for each setting, with its help in a comment. --config reads it.
std::string config_to_text(const Config& config);

// The settings in such a file, in its order, by their current names. Fails, naming the file and the line, if a line is
// neither `name = value` nor a # comment, sets a setting again or one that does not exist, or has a value that does not
// parse; and if the file exceeds 1 MiB.
std::vector<std::pair<std::string, std::string>> read_config(const std::string& path);

// A note for readers of a run's results if the method leaves networks untrained; else empty.
std::string untrained_note(const Config& config);

// Fails, naming the flag, if a value makes no sense.
void check_config(const Config& config);

}  // namespace dualmcmc
