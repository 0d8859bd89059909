// Presets, settings to and from text, and their checks.
#include "training/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <set>
#include <sstream>
#include <type_traits>

#include "formats/files.h"
#include "numbers.h"

namespace dualmcmc {

std::string current_name(const std::string& name) {
    for (const auto& [former, current] : former_names)
        if (name == former) return current;
    return name;
}

std::string with_current_flag(const std::string& word) {
    if (!word.starts_with("--")) return word;
    const std::string dashes = word.starts_with("--no-") ? "--no-" : "--";
    if (word == "--resample") return "--ebm-negatives=resampled";
    if (word == "--no-resample") return "--ebm-negatives=chain";
    const size_t end = std::min(word.find('='), word.size());
    return dashes + current_name(word.substr(dashes.size(), end - dashes.size())) + word.substr(end);
}

Config preset_config(const std::string& name) {
    Config c;  // the authors' CIFAR-10 settings are the defaults of ModelSettings and StepSettings
    c.preset = name;
    if (name == "cifar10") return c;
    if (name == "celeba64") {
        c.model = {"celeba64", 1024, 1024, 128, 128};
        c.step.chain_x.step_size = 0.3;
        c.step.lambda_ebm = 70;
        c.flip = true;
        return c;
    }
    if (name == "cifar10-small" || name == "demo") {
        // What an hour of two CPU cores allows (RESULTS.md): many iterations of small networks, batches and chains. The
        // x-chain's steps are larger than the authors', because a spectrally normalised EBM has a small gradient early
        // in training; and the weight of its revision is smaller: with 50, and the authors' x-chain, samples were
        // farther from the data. As the EBM also learns from long chains, samples can be revised in more steps.
        c.model = {"cifar10", 32, 32, 16, 128};
        c.batch = 16;
        c.step.chain_x = {6, 6, 0.003};
        c.step.chain_z.steps = 4;
        c.step.negatives = "chain";
        c.step.long_steps = 60;
        c.step.lambda_ebm = 5;
        c.step.adam_generator.learning_rate = c.step.adam_encoder.learning_rate = 4e-4;
        c.step.adam_ebm.learning_rate = 2e-4;
        c.lr_decay = 0.87;
        c.ema = c.ema_ebm = 0.998;
        c.sampler = {16, 6, 0.001};  // less noise than in training, since it shows
        c.eval_every = c.checkpoint_every = 1000;
        c.minutes = 60;
        if (name == "demo") {  // one to three minutes; more noise in the x-chain shows in images as plain as these
            c.data = "shapes";
            c.model = {"cifar10", 16, 16, 8, 32};
            c.step.chain_x = {6, 4, 0.0005};
            c.step.long_steps = 0;
            c.sampler = {8, 4, 0.0005};
            c.step.adam_generator.learning_rate = c.step.adam_encoder.learning_rate = 1e-3;
            c.lr_decay = 0.6;
            c.ema = c.ema_ebm = 0.99;
            c.epochs = 4;
            c.minutes = 2.75;
        }
        return c;
    }
    fail("--preset ", excerpt(name), ": unknown; give cifar10, cifar10-small, celeba64 or demo");
}

namespace {

// A number: int64_t, float or double.
template <class Number>
std::string to_text(Number value) {
    char buffer[64];  // to_chars writes the shortest text that reads back the same
    return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

std::string to_text(const std::string& value) { return value; }
std::string to_text(bool value) { return value ? "true" : "false"; }

template <class Number>
void parse(const std::string& name, const std::string& text, Number& field) {
    if (const std::string wrong = read_number(text, field); !wrong.empty())
        fail("--", name, text.empty() ? " " : " " + excerpt(text) + ": ", wrong);
}
void parse(const std::string&, const std::string& text, std::string& field) { field = text; }
void parse(const std::string& name, const std::string& text, bool& field) {
    if (text == "true" || text == "1") field = true;
    else if (text == "false" || text == "0") field = false;
    else fail("--", name, " ", excerpt(text), ": expected true or false");
}

}  // namespace

namespace {
// The value of ebm-negatives, which was once a switch, resample.
std::string current_negatives(const std::string& text) {
    if (text == "true" || text == "1") return "resampled";
    return text == "false" || text == "0" ? "chain" : text;
}
}  // namespace

void set_setting(Config& config, const std::string& name, const std::string& value) {
    const std::string current = current_name(name);
    bool found = false;
    for_each_setting(config, [&](const char* flag, auto& field, const char*) {
        if (current != flag) return;
        parse(current, current == "ebm-negatives" ? current_negatives(value) : value, field);
        found = true;
    });
    if (!found) fail("unknown setting '", excerpt(name), "'; 'dualmcmc train --help' lists them");
}

std::map<std::string, std::string> config_to_map(const Config& config) {
    std::map<std::string, std::string> out;
    for_each_setting(config, [&](const char* flag, const auto& field, const char*) { out[flag] = to_text(field); });
    return out;
}

std::string config_to_text(const Config& config) {
    std::string out = "# dualmcmc: all settings of this run. To repeat it: dualmcmc train --config FILE --out DIR\n";
    for_each_setting(config, [&](const char* flag, const auto& field, const char* help) {
        out += text("\n# ", help, "\n", flag, " = ", to_text(field), "\n");
    });
    return out;
}

namespace {
// A config.txt has a few thousand bytes; anything much larger is another file.
std::string read_text(const std::string& path) {
    constexpr int64_t longest = 1 << 20;
    try {
        if (const int64_t bytes = InputFile(path).size(); bytes > longest)
            fail(path, " is not a config.txt: it has ", bytes, " bytes");
        return read_file(path);
    } catch (const std::exception& error) {
        fail("--config: ", explain(error));
    }
}
}  // namespace

std::vector<std::pair<std::string, std::string>> read_config(const std::string& path) {
    std::istringstream in(read_text(path));
    auto trim = [](const std::string& s) {
        const size_t first = s.find_first_not_of(" \t\r"), last = s.find_last_not_of(" \t\r");
        return first == std::string::npos ? std::string() : s.substr(first, last - first + 1);
    };
    std::vector<std::pair<std::string, std::string>> out;
    std::set<std::string> seen;
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
        if (line.find('\0') != std::string::npos) fail("--config ", path, ": not a text file; give a config.txt");
        line = trim(line);
        if (line.empty() || line[0] == '#') continue;
        const size_t equals = line.find('=');
        if (equals == std::string::npos)
            fail(path, ":", number, ": expected 'name = value', found '", excerpt(line), "'");
        const std::string name = current_name(trim(line.substr(0, equals))), value = trim(line.substr(equals + 1));
        if (!seen.insert(name).second) fail(path, ":", number, ": '", excerpt(name), "' is set twice");
        try {
            Config scratch;
            set_setting(scratch, name, value);
        } catch (const std::exception& error) {
            fail(path, ":", number, ": ", explain(error));
        }
        out.emplace_back(name, value);
    }
    return out;
}

std::string untrained_note(const Config& c) {
    std::string names;
    for (const auto& [learned, name] :
         {std::pair(c.step.learn_ebm, "EBM"), {c.step.learn_generator, "generator"}, {c.step.learn_encoder, "encoder"}})
        if (!learned) names += text(names.empty() ? "" : " and ", name);
    return names.empty() ? "" : text("note: training leaves the ", names, " out: its results are for random weights");
}

// ---- checks -------------------------------------------------------------------------------------

namespace {

template <class Number>
void check_at_least(const char* flag, Number value, Number least) {
    if (!(value >= least) || !std::isfinite(double(value)))
        fail("--", flag, " ", value, ": must be a number of at least ", least);
}

template <class Number>
void check_positive(const char* flag, Number value) {
    if (!(value > 0) || !std::isfinite(double(value))) fail("--", flag, " ", value, ": must be above 0");
}

template <class Number>
void check_range(const char* flag, Number value, Number least, Number most) {
    check_at_least(flag, value, least);
    if (value > most) fail("--", flag, " ", value, ": must be at most ", most);
}

// config.txt has a line for each setting, so that a line break in one would make two of it.
void check_texts(const Config& c) {
    for_each_setting(c, [](const char* flag, const auto& field, const char*) {
        if constexpr (std::is_same_v<std::decay_t<decltype(field)>, std::string>)
            if (std::any_of(field.begin(), field.end(), [](unsigned char b) { return b < ' ' || b == 0x7F; }))
                fail("--", flag, " ", excerpt(field), ": holds a control character");
    });
}

void check_length(const Config& c) {
    check_range<int64_t>("batch", c.batch, 1, max_batch);
    check_at_least<int64_t>("seed", c.seed, 0);
    check_range<int64_t>("threads", c.threads, 0, 1024);
    check_range<int64_t>("epochs", c.epochs, 0, max_iterations);
    check_range<int64_t>("iterations", c.iterations, 0, max_iterations);
    check_range<double>("minutes", c.minutes, 0, max_minutes);
    if (c.epochs == 0 && c.iterations == 0) fail("--epochs 0 and --iterations 0: nothing to do; give one of them");
}

void check_chains(const Config& c) {
    const StepSettings& s = c.step;
    check_chain(s.chain_x, {"--steps-x", "--step-size-x", "--noise-x"});
    check_positive("noise-x", s.chain_x.noise_std);  // not 0: the EBM's loss is divided by the temperature
    check_chain(s.chain_z, {"--steps-z", "--step-size-z", "--noise-z"});
    if (s.start_x != "generator" && s.start_x != "noise")
        fail("--start-x ", excerpt(s.start_x), ": unknown; give generator or noise");
    if (s.start_z != "encoder" && s.start_z != "noise" && s.start_z != "persistent")
        fail("--start-z ", excerpt(s.start_z), ": unknown; give encoder, noise or persistent");
    if (s.negatives != "chain" && s.negatives != "resampled" && s.negatives != "generated")
        fail("--ebm-negatives ", excerpt(s.negatives), ": unknown; give chain, resampled or generated");
    if (s.negatives == "generated" && s.start_x == "noise")
        fail("--ebm-negatives generated: chains that start from noise have no generator; give chain or resampled");
    if (s.long_steps != 0) {
        check_chain({s.long_steps, s.chain_x.step_size, s.chain_x.noise_std},
                    {"--long-steps", "--step-size-x", "--noise-x"});
        if (s.long_steps <= s.chain_x.steps)
            fail("--long-steps ", s.long_steps, ": must be above --steps-x ", s.chain_x.steps, ", or 0 for none");
        if (s.negatives == "generated")
            fail("--long-steps ", s.long_steps, ": --ebm-negatives generated has no chains; give chain or resampled");
    }
    check_range<int64_t>("long-every", s.long_every, 1, max_iterations);
    if (s.start_z == "persistent" && c.flip)
        fail("--start-z persistent: a flipped image has a different latent; leave --flip out");
}

void check_losses(const StepSettings& s) {
    if (!s.learn_ebm && !s.learn_generator && !s.learn_encoder)
        fail("--no-learn-ebm, --no-learn-generator and --no-learn-encoder together: nothing would learn");
    if (s.joint_elbo && !(s.learn_generator && s.learn_encoder))
        fail("--joint-elbo: trains generator and encoder; leave --no-learn-generator and --no-learn-encoder out");
    check_sigma(s.sigma, "--sigma");
    check_at_least<real>("lambda-data", s.lambda_data, 0);
    check_at_least<real>("lambda-ebm", s.lambda_ebm, 0);
    check_at_least<real>("lambda-generated", s.lambda_generated, 0);
}

void check_optimiser(const Config& c) {
    check_at_least<real>("lr-generator", c.step.adam_generator.learning_rate, 0);
    check_at_least<real>("lr-ebm", c.step.adam_ebm.learning_rate, 0);
    check_at_least<real>("lr-encoder", c.step.adam_encoder.learning_rate, 0);
    check_at_least<real>("decay-generator", c.step.adam_generator.weight_decay, 0);
    check_at_least<real>("decay-ebm", c.step.adam_ebm.weight_decay, 0);
    check_at_least<real>("decay-encoder", c.step.adam_encoder.weight_decay, 0);
    check_positive("lr-decay", c.lr_decay);
    for (const auto& [flag, ema] : {std::pair{"--ema ", c.ema}, {"--ema-ebm ", c.ema_ebm}})
        if (!(ema >= 0 && ema < 1)) fail(flag, ema, ": must be at least 0 and below 1");
    check_positive("max-energy-gap", c.max_energy_gap);
    if (!(c.rollback_lr_factor > 0 && c.rollback_lr_factor <= 1))
        fail("--rollback-lr-factor ", c.rollback_lr_factor, ": must be above 0 and at most 1");
}

void check_output(const Config& c) {
    check_chain(c.sampler, {"--sampler-steps", "--sampler-step-size", "--sampler-noise"});
    check_range<int64_t>("sampler-batch", c.sampler_batch, 1, max_batch);
    check_at_least<int64_t>("log-every", c.log_every, 1);
    check_at_least<int64_t>("eval-every", c.eval_every, 1);
    check_at_least<int64_t>("checkpoint-every", c.checkpoint_every, 1);
    check_at_least<int64_t>("keep-checkpoints", c.keep_checkpoints, 1);
}

}  // namespace

void check_config(const Config& c) {
    check_texts(c);
    StepSettings of_method;
    apply_method(of_method, c.method);  // fails if there is no such method
    check_settings(c.model);
    check_length(c);
    check_chains(c);
    check_losses(c.step);
    check_optimiser(c);
    check_output(c);
}

}  // namespace dualmcmc
