// Ten training iterations with this program's own noise, against PyTorch in float64 (reference/trajectory.safetensors).
//
// In double precision alone (in the float program as a part compiled in double: Makefile, PROOF_OF_TESTS): training is
// chaotic, so that in fp32 one ReLU that rounding takes across its kink ends the comparison. What fp32 makes of a
// single step is in rounding_test.cpp and reference_test.cpp.
#include <algorithm>

#include "compare.h"
#include "method/dual_mcmc.h"
#include "training/checkpoint.h"

namespace dualmcmc::test {
namespace {

class Trajectory {
public:
    explicit Trajectory(const std::string& path_) : path(path_), file(read_safetensors(path_)) {}
    int64_t count(const std::string& key) const { return std::stoll(file.metadata.at(key)); }
    real number(const std::string& key) const { return real(std::stod(file.metadata.at(key))); }

    ModelSettings model() const {
        return {file.metadata.at("architecture"), count("width"), count("width"), count("inference_width"),
                count("latent")};
    }
    StepSettings step() const {
        StepSettings s;
        s.chain_x = {count("steps_x"), number("e_l_step_size"), number("e_n_step_size")};
        s.chain_z = {count("steps_z"), number("l_step_size"), number("n_step_size")};
        s.sigma = number("sig") / std::sqrt(real(2));
        s.lambda_data = number("Gfactor"), s.lambda_ebm = number("Sfactor"), s.lambda_generated = number("Ifactor");
        s.negatives = count("resample") == 1 ? "resampled" : "chain";
        s.adam_generator = {number("lrG"), number("wdG")};
        s.adam_ebm = {number("lrE"), 0};
        s.adam_encoder = {number("lrI"), number("wdI")};
        return s;
    }
    // The batch of one iteration, NHWC: images (i B + b) mod N.
    Tensor batch(int64_t iteration) const {
        const Values images = values_of<real>(file.tensors.at("data.images"), "data.images");
        const int64_t b = count("batch"), n = count("images"), size = model().image_size(), pixels = 3 * size * size;
        Values chosen;
        for (int64_t i = 0; i < b; ++i) {
            const auto first = images.begin() + (iteration * b + i) % n * pixels;
            chosen.insert(chosen.end(), first, first + pixels);
        }
        return Tensor::from_host({b, size, size, 3}, nchw_to_nhwc(chosen, b, 3, size, size));
    }
    // The slice of out.<name> for one iteration.
    Values expected(const std::string& name, int64_t iteration) const {
        const Values all = values_of<real>(file.tensors.at("out." + name), name);
        const auto part = int64_t(all.size()) / count("iterations");
        return {all.begin() + iteration * part, all.begin() + (iteration + 1) * part};
    }

    std::string path;
    SafetensorsFile file;
};

Values values_of_trace(const std::vector<Tensor>& trace) {
    Values out;
    for (const Tensor& x : trace) out.push_back(x.item());
    return out;
}

constexpr int64_t iterations = 10;
using Quantities = std::vector<std::pair<std::string, Values>>;

std::vector<Quantities> run_trajectory(const Trajectory& t) {
    Models models(t.model(), 1);
    for (const auto& [prefix, state] : models.networks()) load_state(t.file, t.path, prefix, *state);
    std::vector<Quantities> out;
    for (int64_t i = 0; i < iterations; ++i) {
        const Tensor x = t.batch(i);
        const StepNoise noise = philox_noise(uint64_t(t.count("seed")), uint64_t(i), x.shape(), t.model().latent);
        const StepResult r = dual_mcmc_step(models, x, noise, t.step(), i + 1);
        out.push_back({{"z_init", r.z_init.to_host()},
                       {"z_revised", r.z_revised.to_host()},
                       {"energy_profile", values_of_trace(r.energy_trace)},
                       {"sse_profile", values_of_trace(r.sse_trace)},
                       {"loss_recon", r.loss_recon.to_host()},
                       {"loss_revise", r.loss_revise.to_host()},
                       {"nll_posterior", r.nll_posterior.to_host()},
                       {"nll_prior", r.nll_generated.to_host()},
                       {"energy_data", r.energy_data.to_host()},
                       {"energy_model", r.energy_model.to_host()}});
    }
    return out;
}

// No ReLU is close enough to its kink for double precision to cross it. The iterations do not enlarge rounding: 1.5e-14
// was found (a Xeon with AVX-512), and sums in another order change that by a small factor.
TEST(Trajectory, TenIterationsMatchPyTorch) {
    const WithThreads one(1);
    const Trajectory t("reference/trajectory.safetensors");
    ASSERT_EQ(t.count("iterations"), iterations);
    ASSERT_GT(t.count("seed"), int64_t(1) << 32);  // uses both halves of the key
    const auto found = run_trajectory(t);
    ASSERT_EQ(found[0].size(),
              size_t(std::count_if(t.file.tensors.begin(), t.file.tensors.end(),
                                   [](const auto& tensor) { return tensor.first.starts_with("out."); })));
    for (size_t i = 0; i < found.size(); ++i)
        for (const auto& [name, values] : found[i])
            EXPECT_LE(relative_l2(values, t.expected(name, int64_t(i))), 1e-12) << name << ", iteration " << i;
}

}  // namespace
}  // namespace dualmcmc::test
