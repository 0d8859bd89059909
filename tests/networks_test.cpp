// The networks of both architectures: one forward and backward pass against PyTorch (reference/networks_*.safetensors),
// names and shapes in files, and every parameter's initial distribution against METHOD.md, section 5.
#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "compare.h"
#include "method/models.h"
#include "training/checkpoint.h"

namespace dualmcmc::test {
namespace {

const char* const architectures[] = {"cifar10", "celeba64"};

std::string reference_path(const std::string& architecture) {
    return "reference/networks_" + architecture + ".safetensors";
}

int64_t metadata_integer(const SafetensorsFile& file, const std::string& key) {
    return std::stoll(file.metadata.at(key));
}

ModelSettings reference_settings(const SafetensorsFile& file) {
    return {file.metadata.at("architecture"), metadata_integer(file, "width_generator"),
            metadata_integer(file, "width_ebm"), metadata_integer(file, "width_encoder"),
            metadata_integer(file, "latent")};
}

// ---- one pass against PyTorch -------------------------------------------------------------------

// The reference is computed in float64.
//
// fp32: each pass has about 12 GEMMs forward and 12 backward, with sums of up to n = 1200 terms. Rounding errors add
// up like a random walk: about sqrt(n) unit / 2 = 17 units per GEMM and sqrt(24) 17 = 85 units for all. Batch norm over
// few pixels and cancellation in weight gradients each cost a few times as much. Tolerance: 1000 units = 6e-5.
//
// GEMM inputs rounded to a relative error of u (bf16, TF32): each GEMM is off by about 0.8 u (kernels_test.cpp), twelve
// of them by 3 u. Values are allowed ten times that. Gradients suffer more, from ReLU's kink. The density of
// activations at 0 is about 0.4, so in each of about 8 layers a fraction 0.4 · 3 u of them changes sign, and the
// relative error of the gradient is the square root of the total fraction. Of these networks' 2^15 activations about
// n = 8 · 0.4 · 3 u · 2^15 change sign; n + 3 sqrt(n) are allowed. This holds for all gradients of a network taken
// together: a single tensor, with batch norm over few pixels, may consist of nothing but such elements.
constexpr double network_tolerance = 1000 * unit;

class Networks : public EachBackend {
protected:
    // Loads the reference and the networks' state.
    void load(const std::string& architecture) {
        path = reference_path(architecture);
        file = read_safetensors(path);
        models.emplace(reference_settings(file), 99);
        for (const auto& [prefix, state] : models->networks()) load_state(file, path, prefix, *state);
        batch = metadata_integer(file, "batch");
        image = Layout::image({batch, models->settings.image_size(), models->settings.image_size(), 3});
        latent = Layout::plain({batch, models->settings.latent});
        scalars = Layout::plain({batch});
    }
    Tensor stored(const std::string& name, const Layout& layout) const {
        return Tensor::from_host(layout.memory_shape(), stored_values(file, path, name, layout));
    }
    void expect_stored(const std::string& name, const Layout& layout, const Tensor& actual) const {
        ASSERT_TRUE(actual.defined()) << name;
        EXPECT_LE(relative_l2(actual, stored(name, layout)), value_tolerance()) << name;
    }
    double value_tolerance() const { return rounding * network_tolerance + 30 * input_unit_; }
    double gradient_tolerance() const {
        const double activations = 0x1p15, crossed = 8 * 0.4 * 3 * input_unit_ * activations;
        return rounding * network_tolerance + std::sqrt((crossed + 3 * std::sqrt(crossed)) / activations);
    }

    // Compares the gradients of one network's input and parameters (grad.*). A gradient that is zero in exact
    // arithmetic (a bias before batch norm) is all rounding: its error is relative to the network's largest gradient.
    void expect_gradients(const std::string& input_name, const Layout& layout, const Tensor& input,
                          const std::string& prefix, const ParameterStore& state) const {
        const bool exact = input_unit_ == 0;
        if (exact) expect_stored(input_name, layout, input);
        double largest = 0;
        auto norm = [](const Values& x) { return relative_l2(x, Values(x.size(), 0)); };
        for (const NamedTensor& entry : state.entries())
            if (entry.trainable)
                largest =
                    std::max(largest, norm(stored_values(file, path, "grad." + prefix + entry.name, entry.layout)));
        ASSERT_GT(largest, 0);
        Values all_expected = stored_values(file, path, input_name, layout), all_actual = input.to_host();
        for (const NamedTensor& entry : state.entries()) {
            const std::string name = "grad." + prefix + entry.name;
            if (!entry.trainable) continue;
            ASSERT_TRUE(entry.value.grad().defined()) << name;
            const Values expected = stored_values(file, path, name, entry.layout),
                         actual = entry.value.grad().to_host();
            const double own = norm(expected);
            const double scale = own < 1e-5 * largest ? largest : own;
            if (exact) {
                EXPECT_LE(relative_l2(actual, expected) * (own > 0 ? own : 1) / scale, value_tolerance()) << name;
            }
            all_expected.insert(all_expected.end(), expected.begin(), expected.end());
            all_actual.insert(all_actual.end(), actual.begin(), actual.end());
        }
        EXPECT_LE(relative_l2(all_actual, all_expected), gradient_tolerance()) << "all gradients of " << prefix;
    }
    // Compares after.* of one network for the entries with these name endings; there must be `count` of them.
    void expect_after(const std::string& prefix, const ParameterStore& state, const std::set<std::string>& endings,
                      size_t count) const {
        size_t found = 0;
        for (const NamedTensor& entry : state.entries()) {
            if (!endings.count(entry.name.substr(entry.name.rfind('.')))) continue;
            expect_stored("after." + prefix + entry.name, entry.layout, entry.value.value());
            ++found;
        }
        EXPECT_EQ(found, count);
    }
    void check_energy() {
        const Var x(stored("x", image));
        EnergyModel& energy = models->ebm;
        const Var e = energy.forward(x);
        expect_stored("energy", scalars, e.value());
        std::vector<Var> inputs = energy.state.parameters();
        inputs.push_back(x);
        backward(e, inputs, stored("denergy", scalars));
        expect_gradients("energy.dx", image, x.grad(), "netE.", energy.state);
        const size_t weights = models->settings.architecture == "cifar10" ? 11 : 16;
        expect_after("netE.", energy.state, {".weight_u", ".weight_v"}, 2 * weights);
    }
    void check_generator() {
        const Var z(stored("z", latent));
        const Var y = models->generator(z);
        expect_stored("image", image, y.value());
        std::vector<Var> inputs = models->generator.state.parameters();
        inputs.push_back(z);
        backward(y, inputs, stored("dimage", image));
        expect_gradients("image.dz", latent, z.grad(), "netG.", models->generator.state);
        const size_t norms = models->settings.architecture == "cifar10" ? 7 : 9;
        expect_after("netG.", models->generator.state, {".running_mean", ".running_var"}, 2 * norms);
    }
    void check_encoder() {
        const Var x(stored("x", image));
        const auto [mu, logvar] = models->encoder(x);
        expect_stored("mu", latent, mu.value());
        expect_stored("logvar", latent, logvar.value());
        const Var dmu(stored("dmu", latent)), dlogvar(stored("dlogvar", latent));
        std::vector<Var> inputs = models->encoder.state.parameters();
        inputs.push_back(x);
        backward(add(sum(multiply(mu, dmu)), sum(multiply(logvar, dlogvar))), inputs);
        expect_gradients("encoder.dx", image, x.grad(), "netI.", models->encoder.state);
    }

    // Runs check() with exact convolutions, for which the tolerance is derived, and as in training: Winograd rounds
    // five times as much (winograd.cpp).
    template <class Check>
    void with_exact_and_fast_convolutions(Check check) {
        for (const std::string architecture : architectures)
            for (const bool exact : {true, false}) {
                SCOPED_TRACE(architecture + (exact ? ", exact convolutions" : ""));
                std::optional<ExactConvolutions> scope;
                if (exact) scope.emplace();
                rounding = exact ? 1 : 5;
                input_unit_ = exact ? 0 : input_unit(backend());  // exact convolutions are fp32 on every device
                load(architecture);
                check();
            }
    }

    std::string path;
    SafetensorsFile file;
    std::optional<Models> models;
    double rounding = 1, input_unit_ = 0;
    int64_t batch = 0;
    Layout image, latent, scalars;
};
INSTANTIATE_TEST_SUITE_P(Cpu, Networks, testing::ValuesIn(cpu_backends()), backend_name);
INSTANTIATE_TEST_SUITE_P(Gpu, Networks, testing::ValuesIn(gpu_backends_of_all_precisions()), backend_name);

TEST_P(Networks, EnergyModelMatchesPyTorch) {
    with_exact_and_fast_convolutions([this] { check_energy(); });
}

TEST_P(Networks, GeneratorMatchesPyTorch) {
    with_exact_and_fast_convolutions([this] { check_generator(); });
}

TEST_P(Networks, EncoderMatchesPyTorch) {
    with_exact_and_fast_convolutions([this] { check_encoder(); });
}

// ---- names and shapes ---------------------------------------------------------------------------

TEST(NetworkFiles, NamesAndShapesAreTheAuthors) {
    for (const std::string architecture : architectures) {
        SCOPED_TRACE(architecture);
        const SafetensorsFile reference = read_safetensors(reference_path(architecture));
        std::map<std::string, Shape> expected, actual;
        for (const auto& [name, tensor] : reference.tensors)
            if (name.starts_with("netE.") || name.starts_with("netG.") || name.starts_with("netI."))
                expected[name] = tensor.shape;
        ASSERT_GT(expected.size(), 80u);
        Models models(reference_settings(reference), 1);
        SafetensorsFile stored;
        for (const auto& [prefix, state] : models.networks()) store_state(stored, prefix, *state);
        for (const auto& [name, tensor] : stored.tensors) actual[name] = tensor.shape;
        EXPECT_EQ(actual, expected);
    }
}

TEST(NetworkFiles, LoadedStateIsStoredUnchanged) {
    for (const std::string architecture : architectures) {
        SCOPED_TRACE(architecture);
        const std::string path = reference_path(architecture);
        const SafetensorsFile reference = read_safetensors(path);
        Models models(reference_settings(reference), 1);
        SafetensorsFile stored;
        for (const auto& [prefix, state] : models.networks()) {
            load_state(reference, path, prefix, *state);
            store_state(stored, prefix, *state);
        }
        for (const auto& [name, tensor] : stored.tensors)
            EXPECT_EQ(values_of<real>(tensor, name), values_of<real>(reference.tensors.at(name), name)) << name;
    }
}

// Closed forms from the layers in METHOD.md, section 5.
int64_t conv_weights(int64_t in, int64_t out, int64_t kernel) { return in * out * kernel * kernel; }
int64_t ebm_block(int64_t in, int64_t out, bool down) {
    return conv_weights(in, out, 3) + conv_weights(out, out, 3) + (down ? conv_weights(in, out, 1) : 0);
}
int64_t generator_block(int64_t in, int64_t out) {
    return conv_weights(in, out, 3) + conv_weights(out, out, 3) + conv_weights(in, out, 1) + 3 * out + 2 * in + 2 * out;
}

int64_t parameters_in(const ParameterStore& state) {
    int64_t count = 0;
    for (const Var& parameter : state.parameters()) count += parameter.value().size();
    return count;
}

TEST(NetworkFiles, ParameterCountsMatchTheClosedForms) {
    const int64_t w = 48, e = 32, n = 5, d = 7;
    const int64_t encoder = conv_weights(n, 2 * n, 4) + conv_weights(2 * n, 4 * n, 4) + conv_weights(4 * n, 8 * n, 4) +
                            2 * (conv_weights(8 * n, d, 4) + d);
    Models small({"cifar10", w, e, n, d}, 1);
    EXPECT_EQ(parameters_in(small.ebm.state),
              ebm_block(3, e, true) + ebm_block(e, e, true) + 2 * ebm_block(e, e, false) + e);
    EXPECT_EQ(parameters_in(small.generator.state),
              16 * w * (d + 1) + 3 * generator_block(w, w) + 2 * w + conv_weights(w, 3, 3) + 3);
    EXPECT_EQ(parameters_in(small.encoder.state), conv_weights(3, n, 3) + encoder);

    Models large({"celeba64", w, e, n, d}, 1);
    EXPECT_EQ(parameters_in(large.ebm.state), ebm_block(3, e / 16, true) + ebm_block(e / 16, e / 8, true) +
                                                  ebm_block(e / 8, e / 4, true) + ebm_block(e / 4, e / 2, true) +
                                                  ebm_block(e / 2, e, true) + e);
    EXPECT_EQ(parameters_in(large.generator.state), 16 * w * (d + 1) + generator_block(w, w / 2) +
                                                        generator_block(w / 2, w / 4) + generator_block(w / 4, w / 8) +
                                                        generator_block(w / 8, w / 16) + 2 * w / 16 +
                                                        conv_weights(w / 16, 3, 3) + 3);
    EXPECT_EQ(parameters_in(large.encoder.state), conv_weights(3, n, 4) + encoder);
}

// ---- initial values -----------------------------------------------------------------------------

const ModelSettings moderate[] = {{"cifar10", 24, 32, 10, 16}, {"celeba64", 96, 80, 8, 16}};

// A tensor's initial distribution. `scale` is a normal's standard deviation, a uniform's bound or a constant's value.
struct Rule {
    enum Kind { normal, uniform, constant, unit_vector } kind;
    double scale;
};

// The rule for `entry`, from its name and its shape in the file.
Rule rule_of(const ParameterStore& state, const NamedTensor& entry) {
    const size_t dot = entry.name.rfind('.');
    const std::string layer = entry.name.substr(0, dot), what = entry.name.substr(dot + 1);
    const Shape& shape = entry.layout.file_shape;
    if (what == "weight_u" || what == "weight_v") return {Rule::unit_vector, 1};
    if (what == "running_var") return {Rule::constant, 1};
    if (what == "running_mean" || what == "num_batches_tracked") return {Rule::constant, 0};
    if (layer.find("bn_") != std::string::npos)
        return what == "weight" ? Rule{Rule::normal, 1} : Rule{Rule::constant, 0};
    if (what == "bias") {  // convolution or linear layer: ±1/sqrt(fan_in), fan_in from the weight (out, in, ...)
        for (const NamedTensor& weight : state.entries())
            if (weight.name == layer + ".weight")
                return {Rule::uniform, std::sqrt(double(weight.layout.file_shape[0]) /
                                                 double(element_count(weight.layout.file_shape)))};
        ADD_FAILURE() << entry.name << " has no weight";
    }
    const double fan_in = double(element_count(shape) / shape[0]), fan_out = double(element_count(shape) / shape[1]);
    if (shape.size() == 2) return {Rule::uniform, 1 / std::sqrt(fan_in)};
    return {Rule::normal, std::sqrt(2 / (fan_in + fan_out))};
}

// Compares the moments of n independent values, scaled to unit scale, with those of the distribution, within 5 standard
// errors. N(0, 1): Var x² = 2; a sample's excess kurtosis has variance 24/n. U(-1, 1): E x² = 1/3, Var x² = 4/45;
// the largest of n values is below 1 - 14/n with probability e^-14. There are about 500 comparisons: one fails by
// chance for one seed in 1000.
void expect_moments(const Values& x, Rule::Kind kind, const std::string& what) {
    const double n = double(x.size());
    double mean = 0, second = 0, fourth = 0, largest = 0;
    for (const real value : x) {
        const double square = double(value) * double(value);
        mean += double(value) / n;
        second += square / n;
        fourth += square * square / n;
        largest = std::max(largest, std::abs(double(value)));
    }
    if (kind == Rule::normal) {
        EXPECT_LE(std::abs(mean), 5 / std::sqrt(n)) << what;
        EXPECT_LE(std::abs(second - 1), 5 * std::sqrt(2 / n)) << what;
        if (n >= 1000) {
            EXPECT_LE(std::abs(fourth / (second * second) - 3), 5 * std::sqrt(24 / n))
                << what << ": kurtosis (of a uniform distribution: 1.8)";
        }
        EXPECT_LE(largest, 6.5) << what;
    } else {
        EXPECT_LE(std::abs(mean), 5 / std::sqrt(3 * n)) << what;
        EXPECT_LE(std::abs(second - 1.0 / 3), 5 * std::sqrt(4 / (45 * n))) << what;
        EXPECT_LE(largest, 1 + 1e-6) << what;
        EXPECT_GE(largest, 1 - 14 / n) << what;
    }
}

TEST(Initialisation, EveryParameterFollowsItsRule) {
    for (const ModelSettings& settings : moderate) {
        SCOPED_TRACE(settings.architecture);
        Models models(settings, 5);
        std::map<Rule::Kind, Values> small;  // small tensors, at unit scale, are tested together
        std::map<Rule::Kind, int> seen;
        for (const auto& [prefix, state] : models.networks()) {
            for (const NamedTensor& entry : state->entries()) {
                const std::string name = prefix + entry.name;
                const Rule rule = rule_of(*state, entry);
                Values values = entry.value.value().to_host();
                ++seen[rule.kind];
                if (rule.kind == Rule::constant) {
                    for (const real value : values) EXPECT_EQ(value, real(rule.scale)) << name;
                    continue;
                }
                if (rule.kind == Rule::unit_vector) {  // normalised N(0, 1): unit scale times 1/sqrt(n)
                    EXPECT_NEAR(relative_l2(values, Values(values.size(), 0)), 1, 1e-6) << name;
                    if (values.size() < 100) continue;
                    for (real& value : values) value *= std::sqrt(real(values.size()));
                    expect_moments(values, Rule::normal, name);
                    continue;
                }
                for (real& value : values) value /= real(rule.scale);
                if (values.size() >= 100) expect_moments(values, rule.kind, name);
                else small[rule.kind].insert(small[rule.kind].end(), values.begin(), values.end());
            }
        }
        const bool cifar = settings.architecture == "cifar10";
        EXPECT_EQ(seen[Rule::normal],
                  cifar ? 10 + 10 + 7 + 6 : 15 + 13 + 9 + 6);  // convolutions E, G; batch norms; convolutions I
        EXPECT_EQ(seen[Rule::uniform],
                  cifar ? 1 + 2 + 10 + 2 : 1 + 2 + 13 + 2);  // linear E; linear G with bias; biases G, I
        EXPECT_EQ(seen[Rule::unit_vector], cifar ? 22 : 32);
        for (const auto& [kind, values] : small) {
            ASSERT_GE(values.size(), 150u);
            expect_moments(values, kind, kind == Rule::normal ? "small normal tensors" : "small uniform tensors");
        }
    }
}

// All randomly initialised tensors of the three networks.
std::vector<std::pair<std::string, Values>> drawn_tensors(Models& models) {
    std::vector<std::pair<std::string, Values>> out;
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries())
            if (rule_of(*state, entry).kind != Rule::constant)
                out.emplace_back(prefix + entry.name, entry.value.value().to_host());
    return out;
}

// sqrt(n) Σ a b / sqrt(Σ a² Σ b²) over the first n elements, as many as both have. Independent: N(0, 1).
double correlation_in_sigmas(const Values& a, const Values& b) {
    double aa = 0, bb = 0, ab = 0;
    const size_t n = std::min(a.size(), b.size());
    for (size_t i = 0; i < n; ++i) aa += double(a[i]) * a[i], bb += double(b[i]) * b[i], ab += double(a[i]) * b[i];
    return ab / std::sqrt(aa * bb) * std::sqrt(double(n));
}

// 10,000 pairs: 6 sigmas are exceeded by chance for one seed in 50,000.
TEST(Initialisation, TensorsAreIndependent) {
    for (const ModelSettings& settings : moderate) {
        SCOPED_TRACE(settings.architecture);
        Models models(settings, 5);
        const auto tensors = drawn_tensors(models);
        for (size_t i = 0; i < tensors.size(); ++i)
            for (size_t j = 0; j < i; ++j) {
                if (std::min(tensors[i].second.size(), tensors[j].second.size()) < 40)
                    continue;  // 6 sigmas would be a correlation above 0.95
                EXPECT_LE(std::abs(correlation_in_sigmas(tensors[i].second, tensors[j].second)), 6)
                    << tensors[i].first << " and " << tensors[j].first;
            }
    }
}

TEST(Initialisation, DependsOnTheSeedOnly) {
    for (const ModelSettings& settings : moderate) {
        SCOPED_TRACE(settings.architecture);
        Models first(settings, 5), again(settings, 5), other(settings, 6), high(settings, 5 + (uint64_t(1) << 32));
        const auto a = drawn_tensors(first), b = drawn_tensors(again), c = drawn_tensors(other),
                   d = drawn_tensors(high);
        for (size_t i = 0; i < a.size(); ++i) {
            EXPECT_EQ(a[i].second, b[i].second) << a[i].first;
            if (a[i].second.size() > 1) {  // a unit vector of one element is ±1
                EXPECT_NE(a[i].second, c[i].second) << a[i].first;
                EXPECT_NE(a[i].second, d[i].second) << a[i].first;
            }
            if (a[i].second.size() < 40) continue;
            EXPECT_LE(std::abs(correlation_in_sigmas(a[i].second, c[i].second)), 6) << a[i].first;
            EXPECT_LE(std::abs(correlation_in_sigmas(a[i].second, d[i].second)), 6)
                << a[i].first << ", upper half of the seed";
        }
    }
}

}  // namespace
}  // namespace dualmcmc::test
