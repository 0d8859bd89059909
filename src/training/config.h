// Every setting of a training run, as one list: the command line, config.txt and checkpoints are all made from it.
#pragma once
#include <map>
#include <string>

#include "method/dual_mcmc.h"

namespace dualmcmc {

struct Config {
    std::string preset = "cifar10", method = "dual", data, out, device = "auto", precision = "auto";
    int64_t threads = 0, seed = 1;
    ModelSettings model;
    StepSettings step;
    int64_t batch = 100, epochs = 301,
            iterations = 0;         // iterations, where not 0, counts from the run's start and rules
    double minutes = 0;             // where not 0, the run ends after this time at the latest
    bool flip = false;              // mirror images at random
    double lr_decay = 0.998;        // learning rate = base · decay^epoch, epoch from 0
    double ema = 0;                 // of the generator's parameters, for samples: avg <- ema avg + (1 - ema) now
    double max_energy_gap = 1e4;    // |energy gap| beyond which a run has diverged
    double rollback_lr_factor = 1;  // on all learning rates, for each return from a divergence
    ChainSettings sampler{70, 0.4f, 0.001f};  // the x-chain after training
    int64_t sampler_batch = 100;
    int64_t log_every = 10, eval_every = 500, checkpoint_every = 1000, keep_checkpoints = 2;
};

// Calls visit(flag without dashes, field, help) for each setting; fields are std::string, int64_t, float, double or
// bool.
template <class ConfigType, class Visit>
void for_each_setting(ConfigType& c, Visit visit) {
    visit("preset", c.preset,
          "settings to start from: cifar10 and celeba64 are the paper's, cifar10-small fits two CPU cores, demo draws "
          "its own images");
    visit("method", c.method,
          "dual (this paper) or a relative: cooperative, triangle, shortrun, abp, vae; sets the switches below, other "
          "flags override them");
    visit("architecture", c.model.architecture, "the networks: cifar10 (32x32 images) or celeba64 (64x64)");
    visit("data", c.data,
          "folder of CIFAR-10's (or CIFAR-100's) .bin files (default: $CIFAR10_DIR, else data/cifar-10-batches-bin), a "
          ".npy of uint8 (N,H,W,3), or the word shapes");
    visit("out", c.out, "the run's folder: config.txt, metrics.csv, samples/, checkpoints/; by default runs/PRESET");
    visit("seed", c.seed, "of all random numbers: initial weights, noise, order of images");
    visit("device", c.device, "auto, cpu, cuda; or one instruction set: cpu-amx, cpu-avx512, cpu-avx2, cpu-sse2");
    visit("precision", c.precision,
          "of the GPU's matrix products: fp32, tf32 or bf16 inputs, summed in fp32; auto: tf32, and fp32 on the CPU");
    visit("threads", c.threads, "CPU threads, 0 for all; results do not depend on it");
    visit("batch", c.batch, "images in one iteration");
    visit("epochs", c.epochs, "passes through the data");
    visit("iterations", c.iterations, "iterations in all, from the run's start; 0: as many as --epochs makes");
    visit("minutes", c.minutes, "end after this time at the latest, with pictures and a checkpoint; 0: no limit");
    visit("flip", c.flip, "mirror training images at random");
    visit("width-generator", c.model.width_generator, "channels of the generator");
    visit("width-ebm", c.model.width_ebm, "channels of the energy network");
    visit("width-encoder", c.model.width_encoder, "channels of the encoder's first layer");
    visit("latent", c.model.latent, "dimension d of z");
    visit("steps-x", c.step.chain_x.steps, "x-chain (Eq. 3): steps k_x");
    visit("step-size-x", c.step.chain_x.step_size, "x-chain: step s_x, drift s_x^2 / 2");
    visit("noise-x", c.step.chain_x.noise_std, "x-chain: noise n_x; the chain's temperature is (n_x / s_x)^2");
    visit("steps-z", c.step.chain_z.steps, "z-chain (Eq. 6): steps k_z");
    visit("step-size-z", c.step.chain_z.step_size, "z-chain: step s_z");
    visit("noise-z", c.step.chain_z.noise_std, "z-chain: noise n_z");
    visit("sigma", c.step.sigma, "standard deviation of p(x|z); the release's 0.3 is 0.3 / sqrt(2) = 0.2121 here");
    visit("resample", c.step.resample, "a second x-chain, from the updated generator, for the EBM's update (release)");
    visit("lambda-data", c.step.lambda_data, "weight of the data term in the generator's loss (Eq. 10)");
    visit("lambda-ebm", c.step.lambda_ebm, "weight of the EBM's revision in the generator's loss (Eq. 10)");
    visit("lambda-prior", c.step.lambda_generated, "weight of the generated pairs in the encoder's loss (Eq. 15)");
    visit("start-x", c.step.start_x, "where the x-chain starts: generator, or noise, uniform in [-1, 1]");
    visit("start-z", c.step.start_z,
          "where the z-chain starts: encoder; noise, N(0, I); or persistent, where the same image's last one ended");
    visit("learn-ebm", c.step.learn_ebm, "update the EBM (Eq. 7)");
    visit("learn-generator", c.step.learn_generator, "update the generator (Eq. 10)");
    visit("learn-encoder", c.step.learn_encoder, "update the encoder (Eq. 15)");
    visit("joint_elbo", c.step.joint_elbo,
          "generator and encoder learn without chains, on the evidence lower bound (triangle, vae)");
    visit("lr-generator", c.step.adam_generator.learning_rate, "Adam's learning rate, generator");
    visit("lr-ebm", c.step.adam_ebm.learning_rate, "Adam's learning rate, EBM");
    visit("lr-encoder", c.step.adam_encoder.learning_rate, "Adam's learning rate, encoder");
    visit("decay-generator", c.step.adam_generator.weight_decay, "L2 weight decay, in the gradient, generator");
    visit("decay-ebm", c.step.adam_ebm.weight_decay, "L2 weight decay, EBM");
    visit("decay-encoder", c.step.adam_encoder.weight_decay, "L2 weight decay, encoder");
    visit("lr-decay", c.lr_decay, "factor on all learning rates after each epoch");
    visit("ema", c.ema,
          "samples come from a moving average of the generator's parameters that keeps this share an iteration; 0: "
          "from the parameters");
    visit("guard", c.max_energy_gap,
          "a run whose energy gap passes this has diverged and returns to its last good checkpoint");
    visit("return-lr-factor", c.rollback_lr_factor,
          "factor on all learning rates after each return from a divergence; 1: as before");
    visit("sampler-steps", c.sampler.steps, "x-chain when sampling after training: steps");
    visit("sampler-step-size", c.sampler.step_size, "x-chain when sampling: step");
    visit("sampler-noise", c.sampler.noise_std, "x-chain when sampling: noise");
    visit("sampler-batch", c.sampler_batch, "images sampled together (batch norm sees them as one batch)");
    visit("log-every", c.log_every, "iterations between lines where the output is no terminal");
    visit("sample-every", c.eval_every, "iterations between pictures and sliced Wasserstein distances");
    visit("checkpoint-every", c.checkpoint_every, "iterations between checkpoints");
    visit("keep", c.keep_checkpoints, "checkpoints kept, the newest ones");
}

// The named preset. Fails, listing them, for any other name.
Config preset_config(const std::string& name);

// Sets one setting from its text. Fails for an unknown name or a text that is no such value.
void set_setting(Config& config, const std::string& name, const std::string& value);

// name -> value, exactly readable by set_setting.
std::map<std::string, std::string> config_to_map(const Config& config);

// "name = value" a line, with each setting's help in a comment: can be given back as --config.
std::string config_to_text(const Config& config);

// The settings in such a file, in its order. Fails, naming file and line, where a line is neither `name = value` nor a
// # comment.
std::vector<std::pair<std::string, std::string>> read_config(const std::string& path);

// A line for those who look at such a run, where it leaves networks untrained; empty where it does not.
std::string untrained_note(const Config& config);

// Fails, naming the flag, for values that make no sense.
void check_config(const Config& config);

}  // namespace dualmcmc
