// The networks, layer by layer, as in METHOD.md, section 5. Two exact identities save work: a 1×1 convolution commutes
// with average pooling and with bilinear upsampling (whose weights sum to 1, so that a bias passes too), and is done at
// the lower resolution.
#include "method/models.h"

#include "machine/memory.h"

namespace dualmcmc {

void check_settings(const ModelSettings& s) {
    if (s.architecture != "cifar10" && s.architecture != "celeba64")
        fail("--architecture ", excerpt(s.architecture), ": unknown; give cifar10 or celeba64");
    auto positive = [](const char* flag, int64_t value) {
        if (value < 1) fail(flag, " ", value, ": must be at least 1");
        if (value > 16384) fail(flag, " ", value, ": must be at most 16384");
    };
    positive("--width-generator", s.width_generator);
    positive("--width-ebm", s.width_ebm);
    positive("--width-encoder", s.width_encoder);
    positive("--latent", s.latent);
    if (s.architecture == "celeba64") {
        // The narrowest layers have W / 16 channels, rounded down.
        if (s.width_generator < 16) fail("--width-generator ", s.width_generator, ": celeba64 needs at least 16");
        if (s.width_ebm < 16) fail("--width-ebm ", s.width_ebm, ": celeba64 needs at least 16");
    }
}

void check_memory(const ModelSettings& s, int64_t batch) {
    const double pixels = double(batch) * double(s.image_size() * s.image_size());
    double values = 2 * 3 * pixels;  // of the images, in the host's memory and on the device
    if (!backend().free_bytes) {
        values += pixels * double(s.architecture == "celeba64" ? s.width_generator / 16 : s.width_generator);
        Models shapes(s, std::nullopt);
        for (const auto& [prefix, state] : shapes.networks())
            for (const NamedTensor& entry : state->entries())
                values += double(element_count(entry.layout.file_shape)) * (entry.trainable ? 3 : 1);  // Adam's moments
    }
    const double gib = 1 << 30, needed = values * sizeof(real) / gib, available = double(memory_limit()) / gib;
    if (needed > available)
        fail("--batch ", batch, " with widths ", s.width_generator, "/", s.width_ebm, "/", s.width_encoder, ", latent ",
             s.latent, ": needs at least ", needed, " GiB of memory, but there are ", available,
             "; lower --batch or the widths");
}

// ---- 2-D densities ------------------------------------------------------------------------

namespace {
bool is_toy(const ModelSettings& settings) { return settings.architecture == "toy2d"; }
constexpr real toy_scale = 4;  // the details of these densities are about a quarter of a unit
}  // namespace

Mlp::Mlp(ParameterStore& state, const std::string& name, int64_t in, int64_t width, int64_t out) {
    const int64_t sizes[] = {in, width, width, width, out};
    for (int layer = 0; layer < 4; ++layer)
        layers.emplace_back(state, name + "." + std::to_string(layer), sizes[layer], sizes[layer + 1]);
}

Var Mlp::operator()(const Var& x) const {
    Var h = layers[0](x);
    for (size_t layer = 1; layer < layers.size(); ++layer) h = layers[layer](swish(h));
    return h;
}

// ---- energy-based model -------------------------------------------------------------------------

EnergyBlock::EnergyBlock(ParameterStore& state, const std::string& name, int64_t in, int64_t out, bool first_,
                         bool down_)
    : first(first_), down(down_), conv1(spectral_conv(state, name + ".conv1", in, out, 3)),
      conv2(spectral_conv(state, name + ".conv2", out, out, 3)) {
    if (down) shortcut = spectral_conv(state, name + ".sc", in, out, 1);
}

Var EnergyBlock::operator()(const Var& x) const {
    const Var h = conv2d(x, conv1.weight, Var(), {.padding = 1, .relu = !first});
    if (!down) return conv2d(h, conv2.weight, Var(), {.padding = 1, .relu = true, .residual = x});
    const Var residual = conv2d(avg_pool2(x), shortcut.weight, Var(), {});
    return conv2d(h, conv2.weight, Var(), {.padding = 1, .relu = true, .pool = true, .residual = residual});
}

EnergyModel::EnergyModel(const ModelSettings& settings, std::optional<uint64_t> seed) : state(seed, 0) {
    const int64_t w = settings.width_ebm;
    if (is_toy(settings)) {
        mlp_.emplace(state, "mlp", 2, w, 1);
    } else if (settings.architecture == "cifar10") {
        blocks_.emplace_back(state, "conv_1", 3, w, true, true);
        blocks_.emplace_back(state, "block2", w, w, false, true);
        blocks_.emplace_back(state, "block3", w, w, false, false);
        blocks_.emplace_back(state, "block4", w, w, false, false);
        linear_ = spectral_linear(state, "lin_5", w, 1);
    } else {
        blocks_.emplace_back(state, "conv_1", 3, w / 16, true, true);
        blocks_.emplace_back(state, "block2", w / 16, w / 8, false, true);
        blocks_.emplace_back(state, "block3", w / 8, w / 4, false, true);
        blocks_.emplace_back(state, "block4", w / 4, w / 2, false, true);
        blocks_.emplace_back(state, "block5", w / 2, w, false, true);
        linear_ = spectral_linear(state, "lin_6", w, 1);
    }
}

void EnergyModel::power_iteration() {
    if (mlp_) return;
    std::vector<SpectralNormWeight*> weights;
    for (EnergyBlock& block : blocks_) {
        weights.insert(weights.end(), {&block.conv1, &block.conv2});
        if (block.down) weights.push_back(&block.shortcut);
    }
    weights.push_back(&linear_);
    dualmcmc::power_iteration(weights);
}

Var EnergyModel::energy(const Var& x) const {
    if (mlp_) return reshape((*mlp_)(scale(x, toy_scale)), {x.dim(0)});
    Var h = x;
    for (const EnergyBlock& block : blocks_) h = block(h);
    h = global_avg_pool(relu(h));
    return reshape(linear(h, linear_.weight, Var()), {x.dim(0)});
}

Var EnergyModel::forward(const Var& x) {
    power_iteration();
    return energy(x);
}

// ---- generator ----------------------------------------------------------------------------------

GeneratorBlock::GeneratorBlock(ParameterStore& state, const std::string& name, int64_t in, int64_t out)
    : norm1(state, name + ".bn_1", in), norm2(state, name + ".bn_2", out),
      conv1(state, name + ".conv1", in, out, 3, 1, 1, true), conv2(state, name + ".conv2", out, out, 3, 1, 1, true),
      shortcut(state, name + ".sc", in, out, 1, 1, 0, true) {}

Var GeneratorBlock::operator()(const Var& x) const {
    const Var h = norm_relu_conv(norm1, conv1, x, {.upsample = true});
    return norm_relu_conv(norm2, conv2, h, {.residual = shortcut(x), .upsample_residual = true});
}

Generator::Generator(const ModelSettings& settings, std::optional<uint64_t> seed) : state(seed, 1) {
    if (is_toy(settings)) {
        mlp_.emplace(state, "mlp", settings.latent, settings.width_generator, 2);
        return;
    }
    linear_.emplace(state, "lin_1", settings.latent, settings.width_generator, 4);
    int64_t width = settings.width_generator;
    const bool halving = settings.architecture == "celeba64";  // each block halves the width
    for (int block = 2; block <= (halving ? 5 : 4); ++block) {
        const int64_t next = halving ? width / 2 : width;
        blocks_.emplace_back(state, "block" + std::to_string(block), width, next);
        width = next;
    }
    last_norm_.emplace(state, halving ? "bn_6" : "bn_5", width);
    last_conv_.emplace(state, halving ? "conv6" : "conv5", width, 3, 3, 1, 1, true);
}

Var Generator::operator()(const Var& z) const {
    if (mlp_) return (*mlp_)(z);
    Var h = (*linear_)(z);
    for (const GeneratorBlock& block : blocks_) h = block(h);
    return tanh(norm_relu_conv(*last_norm_, *last_conv_, h, {}));
}

std::vector<std::pair<BatchNorm*, int64_t>> Generator::norms() {
    std::vector<std::pair<BatchNorm*, int64_t>> out;
    int64_t side = 4;
    for (GeneratorBlock& block : blocks_) {
        out.emplace_back(&block.norm1, side);
        out.emplace_back(&block.norm2, side *= 2);
    }
    if (last_norm_) out.emplace_back(&*last_norm_, side);
    return out;
}

// ---- encoder ------------------------------------------------------------------------------------

Encoder::Encoder(const ModelSettings& settings, std::optional<uint64_t> seed) : state(seed, 2) {
    const int64_t n = settings.width_encoder, d = settings.latent;
    if (is_toy(settings)) {
        mlps_.emplace_back(state, "mean", 2, n, d);
        mlps_.emplace_back(state, "log_variance", 2, n, d);
        return;
    }
    if (settings.architecture == "cifar10") convs_.emplace_back(state, "main.0", 3, n, 3, 1, 1, false);
    else convs_.emplace_back(state, "main.0", 3, n, 4, 2, 1, false);
    convs_.emplace_back(state, "main.2", n, 2 * n, 4, 2, 1, false);
    convs_.emplace_back(state, "main.4", 2 * n, 4 * n, 4, 2, 1, false);
    convs_.emplace_back(state, "main.6", 4 * n, 8 * n, 4, 2, 1, false);
    heads_.emplace_back(state, "conv51", 8 * n, d, 4, 1, 0, true);
    heads_.emplace_back(state, "conv52", 8 * n, d, 4, 1, 0, true);
}

std::pair<Var, Var> Encoder::operator()(const Var& x) const {
    if (!mlps_.empty()) return {mlps_[0](scale(x, toy_scale)), mlps_[1](scale(x, toy_scale))};
    Var h = x;
    for (const Conv& conv : convs_) h = leaky_relu(conv(h), 0.2);
    const Shape latent{x.dim(0), heads_[0].weight.dim(3)};
    return {reshape(heads_[0](h), latent), reshape(heads_[1](h), latent)};
}

// ---- the three together -------------------------------------------------------------------------

Models::Models(const ModelSettings& settings_, std::optional<uint64_t> seed)
    : settings(settings_), ebm(settings, seed), generator(settings, seed), encoder(settings, seed) {}

std::vector<Models::Named> Models::networks() {
    return {{"netE.", &ebm.state}, {"netG.", &generator.state}, {"netI.", &encoder.state}};
}

}  // namespace dualmcmc
