// See step_file.h.
#include "experiments/step_file.h"

#include <cmath>

#include "numbers.h"
#include "training/checkpoint.h"

namespace dualmcmc {

StepFile::StepFile(const std::string& path_) : path(path_), file(read_safetensors(path_)) {
    if (word("format") != "dual-mcmc-step-1")
        fail(path, ": its format is '", excerpt(word("format")), "', not dual-mcmc-step-1");
}

std::string StepFile::word(const std::string& key) const {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) fail(path, ": not a step file: its metadata lacks '", key, "'");
    return found->second;
}

double StepFile::number(const std::string& key) const {
    const std::string value = word(key);
    double parsed = 0;
    if (!read_number(value, parsed).empty() || !std::isfinite(real(parsed)))
        fail(path, ": metadata '", key, "' is '", excerpt(value), "', not a number that a setting can hold");
    return parsed;
}

int64_t StepFile::count(const std::string& key, int64_t min) const {
    const double value = number(key);
    if (value != std::floor(value) || value < double(min) || value > 1e6)
        fail(path, ": metadata '", key, "' is ", excerpt(word(key)), "; expected a whole number from ", min,
             " to 1000000");
    return int64_t(value);
}

std::string StepFile::negatives() const {
    const bool resample = count("resample", 0) != 0;
    if (!file.metadata.count("negatives")) return resample ? "resampled" : "chain";
    const std::string value = word("negatives");
    if (value != "chain" && value != "resampled" && value != "generated")
        fail(path, ": metadata 'negatives' is '", excerpt(value), "'; expected chain, resampled or generated");
    return value;
}

void StepFile::in_metadata(const std::function<void()>& check) const {
    try {
        check();
    } catch (const std::exception& error) {
        fail(path, ": in its metadata: ", explain(error));
    }
}

double StepFile::storage_error(const std::string& name) const {
    const auto found = file.tensors.find(name);
    return found != file.tensors.end() && found->second.dtype == "F64" ? 1e-9 : 1e-6;
}

std::vector<real> StepFile::values(const std::string& name, const Layout& layout) const {
    return stored_values(file, path, name, layout);
}

Tensor StepFile::tensor(const std::string& name, const Layout& layout) const {
    return Tensor::from_host(layout.memory_shape(), values(name, layout));
}

NoiseFunction StepFile::noise(const std::string& name, int64_t steps, const Layout& layout) const {
    Layout all = layout;
    for (Shape* shape : {&all.file_shape, &all.view}) shape->insert(shape->begin(), steps);
    for (int& axis : all.axes) ++axis;
    all.axes.insert(all.axes.begin(), 0);
    if (steps == 0) return [](int64_t) { return Tensor(); };
    const Tensor stacked = tensor(name, all);
    return [stacked, one = layout.memory_shape()](int64_t step) { return stacked.slice_copy(step, 1).reshaped(one); };
}

ModelSettings StepFile::model_settings() const {
    ModelSettings s;
    s.architecture = word("architecture");
    s.width_generator = s.width_ebm = count("width", 1);
    s.width_encoder = count("inference_width", 1);
    s.latent = count("latent", 1);
    in_metadata([&] { check_settings(s); });
    check_shapes(file, path, s, true);
    return s;
}

namespace {
// Fails, by the metadata's names, where the iteration could not be computed.
void check_numbers(const StepSettings& s) {
    check_chain(s.chain_x, {"steps_x", "e_l_step_size", "e_n_step_size"});
    check_chain(s.chain_z, {"steps_z", "l_step_size", "n_step_size"});
    check_sigma(s.sigma, "sig / sqrt(2):");
    const bool divides = s.learn_ebm || (s.joint_elbo && s.lambda_ebm > 0);  // by the temperature
    if (divides && s.chain_x.noise_std == 0)
        fail("e_n_step_size 0: the EBM's loss is divided by the chain's temperature, (noise / step size)^2");
}
}  // namespace

StepSettings StepFile::step_settings() const {
    StepSettings s;
    // The method is optional; the default is dual.
    if (file.metadata.count("method")) in_metadata([&] { apply_method(s, word("method")); });
    s.chain_x = {count("steps_x", 0), real(number("e_l_step_size")), real(number("e_n_step_size"))};
    s.chain_z = {count("steps_z", 0), real(number("l_step_size")), real(number("n_step_size"))};
    // The authors' code has ‖x - g‖² / sig², without the ½.
    s.sigma = real(number("sig") / std::sqrt(2.0));
    s.lambda_data = real(number("Gfactor"));
    s.lambda_ebm = real(number("Sfactor"));
    s.lambda_generated = real(number("Ifactor"));
    s.negatives = negatives();
    s.adam_generator = {real(number("lrG")), real(number("wdG"))};
    s.adam_ebm = {real(number("lrE")), 0};
    s.adam_encoder = {real(number("lrI")), real(number("wdI"))};
    in_metadata([&] { check_numbers(s); });
    return s;
}

}  // namespace dualmcmc
