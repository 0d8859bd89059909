// The three networks of the method, in both architectures and at any width (METHOD.md, section 5); and, for 2-D
// densities whose truth is known, as small MLPs.
//
//   EnergyModel   E_α(x) = -f_α(x), one scalar per image (Eq. 1)         x (B, S, S, 3) -> (B)
//   Generator     g_θ(z), the mean of p_θ(x|z) (Eq. 4)                   z (B, d) -> (B, S, S, 3) in [-1, 1]
//   Encoder       μ_φ(x) and log V_φ(x) of q_φ(z|x)                      x (B, S, S, 3) -> (B, d) twice
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/layers.h"

namespace dualmcmc {

// Which networks, and how wide. `architecture`: "cifar10" (S = 32), "celeba64" (S = 64), or "toy2d": x (B, 2).
struct ModelSettings {
    std::string architecture = "cifar10";
    int64_t width_generator = 512, width_ebm = 512, width_encoder = 128, latent = 128;
    int64_t image_size() const { return architecture == "celeba64" ? 64 : 32; }
};
// Fails, naming the flag, unless these are the settings of an image network (toy2d's are not).
void check_settings(const ModelSettings& settings);

// Fails, naming the flags, if this machine's memory cannot hold these networks, a batch of images and the generator's
// largest layer. On a GPU only the images count here, and the allocator sees to the rest.
void check_memory(const ModelSettings& settings, int64_t batch);

// (B, in) -> (B, out) through three hidden layers of `width`. Their swish, x sigmoid(x), is smooth, because the
// network's gradient is a chain's drift.
struct Mlp {
    Mlp(ParameterStore& state, const std::string& name, int64_t in, int64_t width, int64_t out);
    Var operator()(const Var& x) const;
    std::vector<Linear> layers;
};

// A residual block of the EBM. No biases; every weight is under spectral normalisation.
struct EnergyBlock {
    EnergyBlock(ParameterStore& state, const std::string& name, int64_t in, int64_t out, bool first, bool down);
    Var operator()(const Var& x) const;
    bool first, down;  // the first block has no ReLU before its first convolution
    SpectralNormWeight conv1, conv2, shortcut;
};

class EnergyModel {
public:
    EnergyModel(const ModelSettings& settings, std::optional<uint64_t> seed);

    // Advances u and v of every weight by one power iteration and sets the weights W / σ that energy() uses.
    void power_iteration();
    // E_α(x) (B) with the W / σ of the last power_iteration(), which must follow a change of W. Changes no state.
    Var energy(const Var& x) const;
    // A forward pass in training mode, as torch.nn.utils.spectral_norm does it: power_iteration(), then energy(x).
    Var forward(const Var& x);

    ParameterStore state;

private:
    std::vector<EnergyBlock> blocks_;
    SpectralNormWeight linear_;
    std::optional<Mlp> mlp_;  // toy2d: this one instead, without spectral normalisation
};

struct GeneratorBlock {
    GeneratorBlock(ParameterStore& state, const std::string& name, int64_t in, int64_t out);
    Var operator()(const Var& x) const;
    BatchNorm norm1, norm2;
    Conv conv1, conv2, shortcut;
};

class Generator {
public:
    Generator(const ModelSettings& settings, std::optional<uint64_t> seed);
    Var operator()(const Var& z) const;
    // Its batch norms, each with the side of the images that it normalises.
    std::vector<std::pair<BatchNorm*, int64_t>> norms();

    ParameterStore state;

private:
    std::optional<LinearToImage> linear_;
    std::vector<GeneratorBlock> blocks_;
    std::optional<BatchNorm> last_norm_;
    std::optional<Conv> last_conv_;
    std::optional<Mlp> mlp_;  // toy2d: this one instead
};

class Encoder {
public:
    Encoder(const ModelSettings& settings, std::optional<uint64_t> seed);
    std::pair<Var, Var> operator()(const Var& x) const;  // μ, log-variance

    ParameterStore state;

private:
    std::vector<Conv> convs_, heads_;  // heads: μ, log-variance
    std::vector<Mlp> mlps_;            // toy2d: μ, log-variance
};

// The three together. Tensors are named netE.*, netG.*, netI.* in files. Without a seed they are shapes only
// (ParameterStore).
struct Models {
    Models(const ModelSettings& settings, std::optional<uint64_t> seed);
    ModelSettings settings;
    EnergyModel ebm;
    Generator generator;
    Encoder encoder;

    struct Named {
        const char* prefix;
        ParameterStore* state;
    };
    std::vector<Named> networks();
};

}  // namespace dualmcmc
