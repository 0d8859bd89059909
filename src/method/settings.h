// What one training iteration needs to know, and the methods as rows of one table.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "engine/adam.h"

namespace dualmcmc {

// No batch is larger: flags and files are checked against this before anything is built.
inline constexpr int64_t max_batch = 1'000'000;

// A Langevin chain y <- y - ½ s² ∇ potential(y) + n U: its steps, s and n (METHOD.md, section 2).
struct ChainSettings {
    int64_t steps;
    real step_size, noise_std;
    // T: for small steps the chain's stationary density is exp(-potential / T).
    real temperature() const { return (noise_std / step_size) * (noise_std / step_size); }
};

// A chain's flags, for messages: those of its steps, s and n.
struct ChainFlags {
    std::string steps, step_size, noise;
};
// Fails, naming the flag, if a chain cannot run: more than max_steps (16 bits of its noise's key), or an s², T or 1/T
// that is not a normal positive number. Noise 0 is allowed: gradient descent.
void check_chain(const ChainSettings& chain, const ChainFlags& flags, int64_t max_steps = 65535);
// Fails unless σ and 1 / (2σ²) are positive numbers.
void check_sigma(real sigma, const std::string& flag);

// METHOD.md, section 4. The defaults are the authors' CIFAR-10 settings.
struct StepSettings {
    ChainSettings chain_x{30, 0.5, 0.001}, chain_z{10, 0.1, 0.1};
    // σ of p_θ(x|z). The authors leave out the ½ of ‖x - g‖² / (2σ²): their 0.3 is this exact σ.
    real sigma = 0.3 / 1.4142135623730951;
    real lambda_data = 1, lambda_ebm = 50, lambda_generated = 0.1;
    // x̃ of the EBM's update: "chain", the x-chain's end (Eq. 7); "resampled", the end of a second chain, from the
    // updated generator [authors]; "generated", the updated generator's g(z), unrevised.
    std::string negatives = "resampled";
    // In every long_every-th iteration chains of long_steps, above chain_x's steps, give x̃; not with "generated".
    int64_t long_steps = 0, long_every = 4;  // long_steps 0: none
    AdamSettings adam_generator{3e-4, 5e-4}, adam_ebm{1e-4, 0}, adam_encoder{1e-4, 5e-4};

    // Where the x-chain starts: "generator", g(z); "noise", uniform in [-1, 1].
    std::string start_x = "generator";
    // Where the z-chain starts: "encoder", q_φ(z|x); "noise", N(0, I); "persistent", the last end of the same image's
    // chain.
    std::string start_z = "encoder";
    bool learn_ebm = true, learn_generator = true, learn_encoder = true;
    bool joint_elbo = false;   // generator and encoder learn together on an ELBO without chains, not by Eq. 10 and 15
    bool synchronize = false;  // wait for the device after each part, so that StepTimings are GPU times
};

// A method as switches of the same iteration (METHOD.md, section 7). An absent value leaves the setting as it is.
struct Method {
    std::string name, description;
    std::string start_x, start_z;
    std::optional<int64_t> steps_x, steps_z;
    std::optional<real> lambda_data, lambda_ebm, lambda_generated;
    bool learn_ebm, learn_generator, learn_encoder, joint_elbo;
    std::vector<std::string> reports;  // the scalars of StepResult that it computes, in their order
};

// All methods; the first is the paper's.
const std::vector<Method>& methods();
// Their names, in the same order.
std::vector<std::string> names_of_methods();
inline const std::vector<std::string> method_names = names_of_methods();
// "dual, cooperative, …, abp or vae", for messages and help texts.
std::string method_list();

// Makes `s` the settings of the named method. Fails for an unknown name, listing the known ones.
void apply_method(StepSettings& s, const std::string& name);

}  // namespace dualmcmc
