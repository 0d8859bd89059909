// The networks of both architectures: one forward and backward pass against PyTorch (reference/networks_*.safetensors),
// names and shapes in files, and every parameter's initial distribution against METHOD.md, section 5.
#include <algorithm>
#include <map>
#include <set>

#include "compare.h"
#include "method/models.h"
#include "rounding.h"
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

// Against the file, computed in float64, within what rounding makes of the network (rounding.h). In these networks a
// sum has up to 4×4 taps of 24 channels.

// A network in the file at `path`, and its condition in double precision.
struct Stored {
    rounding::NetworkCase network;
    rounding::Condition condition;
};
std::vector<Stored>& stored_networks(const std::string& path) {
    static std::map<std::string, std::vector<Stored>> all;
    std::vector<Stored>& networks = all[path];
    if (!networks.empty()) return networks;
    const std::vector<rounding::NetworkCase> exact = rounding::stored_networks_in_double(path);
#ifdef DOUBLE
    const std::vector<rounding::NetworkCase>& own = exact;
#else
    const std::vector<rounding::NetworkCase> own = rounding::stored_networks_in_float(path);
#endif
    for (size_t i = 0; i < own.size(); ++i) networks.push_back({own[i], rounding::Condition(exact[i].run, 16 * 24)});
    return networks;
}

// The relative error of all gradients where inputs are rounded to v: a GEMM is off by about 0.8 v, twelve by 3 v. The
// density of activations at 0 is about 0.4, so that in each of about 8 layers a fraction 0.4 · 3 v changes sign, and
// the error is the square root of the total fraction. Of 2^15 activations that is n = 8 · 0.4 · 3 v · 2^15;
// n + 3 sqrt(n) are allowed.
double kinks(double v) {
    const double activations = 0x1p15, n = 8 * 0.4 * 3 * v * activations;
    return std::sqrt((n + 3 * std::sqrt(n)) / activations);
}

// The gradient of a single layer, with batch norm over few pixels, may consist of nothing but elements behind the
// ReLUs that are on their other side: then it counts within all gradients only.
void expect_stored(Stored& stored, double input_unit) {
    const rounding::Pass found = stored.network.run(0, 0);
    const rounding::Pass& exact = stored.condition.exact;
    const int64_t crossed = crossings(found, exact);
    const std::vector<double> bounds = stored.condition.bounds(unit, input_unit, crossed),
                              unrounded = stored.condition.bounds(unit, 0, 0);
    ASSERT_EQ(found.quantities.size(), bounds.size());
    for (size_t k = 0; k < bounds.size(); ++k) {
        const std::string& name = found.quantities[k].name;
        if (crossed > 0 && name.starts_with("grad.")) continue;
        const bool singular_vector = name.ends_with("weight_u") || name.ends_with("weight_v");  // without convolutions
        const double error = distance(found.quantities[k], exact.expected[k]),
                     bound = singular_vector                         ? unrounded[k]
                             : name == "gradients" && input_unit > 0 ? std::min(bounds[k], kinks(input_unit))
                                                                     : bounds[k];
        EXPECT_LE(error, bound) << stored.network.name << ", " << name << ", " << crossed << " ReLUs across their kink";
    }
}

class Networks : public EachBackend {
    WithThreads one_{1};
};
INSTANTIATE_TEST_SUITE_P(Cpu, Networks, testing::ValuesIn(cpu_backends()), backend_name);
INSTANTIATE_TEST_SUITE_P(Gpu, Networks, testing::ValuesIn(gpu_backends_of_all_precisions()), backend_name);

// By exact convolutions, which are fp32 on every device, and as in training.
TEST_P(Networks, MatchPyTorch) {
    for (const std::string architecture : architectures)
        for (Stored& stored : stored_networks(reference_path(architecture))) {
            SCOPED_TRACE(architecture);
            expect_stored(stored, input_unit(backend()));
            const ExactConvolutions exact;
            SCOPED_TRACE("exact convolutions");
            expect_stored(stored, 0);
        }
}

// Every result in the files, which are their only tensors in float64, is compared.
TEST(NetworkFiles, EveryResultIsCompared) {
    for (const std::string architecture : architectures) {
        std::set<std::string> compared;
        for (const Stored& stored : stored_networks(reference_path(architecture)))
            for (const rounding::Quantity& quantity : stored.condition.exact.quantities) compared.insert(quantity.name);
        for (const auto& [name, tensor] : read_safetensors(reference_path(architecture)).tensors)
            EXPECT_EQ(tensor.dtype == "F64",
                      compared.contains(name) || compared.contains(name.substr(0, name.rfind('.'))))
                << architecture << ", " << name;
    }
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
