// Presets, and settings to and from text.
#include "training/config.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>
#include <type_traits>

namespace dualmcmc {

Config preset_config(const std::string& name) {
    Config c;  // the release's CIFAR-10 settings: the defaults of ModelSettings and StepSettings
    c.preset = name;
    if (name == "cifar10") return c;
    if (name == "celeba64") {
        c.model = {"celeba64", 1024, 1024, 128, 128};
        c.step.chain_x.step_size = 0.3f;
        c.step.lambda_ebm = 70;
        c.flip = true;
        return c;
    }
    if (name == "cifar10-small" || name == "demo") {
        // Small networks and short runs: larger learning rates; a larger step of the x-chain, since an EBM under
        // spectral normalisation that has seen little training has a small gradient; less weight on what such an EBM
        // revises: at the release's 50 the generator learned from it rather than from the data; and a moving average,
        // for samples.
        c.model = {"cifar10", 64, 32, 32, 128};
        c.batch = 32;
        c.step.chain_x = {15, 4, 0.002f};
        c.step.chain_z.steps = 8;
        c.step.resample = false;
        c.step.lambda_ebm = 5;
        c.step.adam_generator.learning_rate = c.step.adam_encoder.learning_rate = 1e-3f;
        c.step.adam_ebm.learning_rate = 2e-4f;
        c.lr_decay = 0.87;
        c.ema = 0.998;
        c.sampler = {20, 4, 0.002f};
        c.eval_every = c.checkpoint_every = 500;
        c.minutes = 60;
        if (name ==
            "demo") {  // a minute or three; after some more epochs at these rates the EBM outgrows the generator
            c.data = "shapes";
            c.model = {"cifar10", 16, 16, 8, 32};
            c.step.chain_x.steps = 10;
            c.step.chain_z.steps = 5;
            c.step.adam_ebm.learning_rate = 5e-4f;
            c.lr_decay = 0.6;
            c.ema = 0.99;
            c.eval_every = 1000;
            c.epochs = 3;
            c.minutes = 2.75;
        }
        return c;
    }
    fail("--preset ", name, ": unknown; give cifar10, cifar10-small, celeba64 or demo");
}

namespace {

template <class Number>
std::string number_to_text(Number value) {
    char buffer[64];
    return {buffer,
            std::to_chars(buffer, buffer + sizeof buffer, value).ptr};  // the shortest text that reads back the same
}

std::string to_text(const std::string& value) { return value; }
std::string to_text(bool value) { return value ? "true" : "false"; }
std::string to_text(int64_t value) { return number_to_text(value); }
std::string to_text(float value) { return number_to_text(value); }
std::string to_text(double value) { return number_to_text(value); }

template <class Number>
void parse(const std::string& name, const std::string& text, Number& field) {
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        fail("--", name, " ", text, ": expected a ", std::is_integral_v<Number> ? "whole number" : "number");
    field = value;
}
void parse(const std::string&, const std::string& text, std::string& field) { field = text; }
void parse(const std::string& name, const std::string& text, bool& field) {
    if (text == "true" || text == "1") field = true;
    else if (text == "false" || text == "0") field = false;
    else fail("--", name, " ", text, ": expected true or false");
}

}  // namespace

void set_setting(Config& config, const std::string& name, const std::string& value) {
    bool found = false;
    for_each_setting(config, [&](const char* flag, auto& field, const char*) {
        if (name != flag) return;
        parse(name, value, field);
        found = true;
    });
    if (!found) fail("there is no setting '", name, "'; 'dualmcmc train --help' lists them");
}

std::map<std::string, std::string> config_to_map(const Config& config) {
    std::map<std::string, std::string> out;
    for_each_setting(config, [&](const char* flag, const auto& field, const char*) { out[flag] = to_text(field); });
    return out;
}

std::string config_to_text(const Config& config) {
    std::string out =
        "# dualmcmc: the complete configuration of this run. Run it again: dualmcmc train --config FILE --out DIR\n";
    for_each_setting(config, [&](const char* flag, const auto& field, const char* help) {
        out += text("\n# ", help, "\n", flag, " = ", to_text(field), "\n");
    });
    return out;
}

std::vector<std::pair<std::string, std::string>> read_config(const std::string& path) {
    std::ifstream in(path);
    if (!in) fail("--config ", path, ": cannot be read");
    auto trim = [](const std::string& s) {
        const size_t first = s.find_first_not_of(" \t\r"), last = s.find_last_not_of(" \t\r");
        return first == std::string::npos ? std::string() : s.substr(first, last - first + 1);
    };
    std::vector<std::pair<std::string, std::string>> out;
    std::set<std::string> seen;
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
        if (line.find('\0') != std::string::npos) fail("--config ", path, ": is no text; give a config.txt");
        line = trim(line);
        if (line.empty() || line[0] == '#') continue;
        const size_t equals = line.find('=');
        if (equals == std::string::npos) fail(path, ":", number, ": expected 'name = value', found '", line, "'");
        out.emplace_back(trim(line.substr(0, equals)), trim(line.substr(equals + 1)));
        if (!seen.insert(out.back().first).second) fail(path, ":", number, ": '", out.back().first, "' stands twice");
        try {
            Config scratch;
            set_setting(scratch, out.back().first, out.back().second);
        } catch (const std::exception& error) {
            fail(path, ":", number, ": ", error.what());
        }
    }
    if (in.bad()) fail("--config ", path, ": cannot be read to its end");
    return out;
}

std::string untrained_note(const Config& c) {
    std::string names;
    for (const auto& [learned, name] :
         {std::pair(c.step.learn_ebm, "EBM"), {c.step.learn_generator, "generator"}, {c.step.learn_encoder, "encoder"}})
        if (!learned) names += text(names.empty() ? "" : " and ", name);
    return names.empty() ? ""
                         : text("note: --method ", c.method, " trains no ", names,
                                ": what is said of it is said of random weights");
}

void check_config(const Config& c) {
    check_settings(c.model);
    auto at_least = [](const char* flag, auto value, auto least) {
        if (!(value >= least) || !std::isfinite(double(value)))
            fail("--", flag, " ", value, ": must be a number of at least ", least);
    };
    auto positive = [](const char* flag, auto value) {
        if (!(value > 0) || !std::isfinite(double(value))) fail("--", flag, " ", value, ": must be above 0");
    };
    at_least("batch", c.batch, 1);
    at_least("seed", c.seed, 0);
    at_least("epochs", c.epochs, 0);
    at_least("iterations", c.iterations, 0);
    at_least("minutes", c.minutes, 0);
    if (c.epochs == 0 && c.iterations == 0) fail("--epochs 0 and --iterations 0: nothing to do; give one of them");
    for (const auto& [name, chain] : {std::pair("x", c.step.chain_x), std::pair("z", c.step.chain_z)}) {
        if (chain.steps < 0 || chain.steps > 65535)
            fail("--steps-", name, " ", chain.steps, ": must be from 0 to 65535");
        positive(name[0] == 'x' ? "step-size-x" : "step-size-z", chain.step_size);
        at_least(name[0] == 'x' ? "noise-x" : "noise-z", chain.noise_std, 0);
    }
    // The EBM's loss is divided by the temperature.
    positive("noise-x", c.step.chain_x.noise_std);
    if (c.step.start_x != "generator" && c.step.start_x != "noise")
        fail("--start-x ", c.step.start_x, ": unknown; give generator or noise");
    if (c.step.start_z != "encoder" && c.step.start_z != "noise" && c.step.start_z != "persistent")
        fail("--start-z ", c.step.start_z, ": unknown; give encoder, noise or persistent");
    if (c.step.start_z == "persistent" && c.flip)
        fail("--start-z persistent: a mirrored image has other latents; leave --flip out");
    if (!c.step.learn_ebm && !c.step.learn_generator && !c.step.learn_encoder)
        fail("--no-learn-ebm, --no-learn-generator and --no-learn-encoder together: nothing would learn");
    if (c.step.joint_elbo && !(c.step.learn_generator && c.step.learn_encoder))
        fail(
            "--joint_elbo: generator and encoder learn together; leave --no-learn-generator and --no-learn-encoder "
            "out");
    positive("sigma", c.step.sigma);
    at_least("lambda-data", c.step.lambda_data, 0);
    at_least("lambda-ebm", c.step.lambda_ebm, 0);
    at_least("lambda-prior", c.step.lambda_generated, 0);
    at_least("lr-generator", c.step.adam_generator.learning_rate, 0);
    at_least("lr-ebm", c.step.adam_ebm.learning_rate, 0);
    at_least("lr-encoder", c.step.adam_encoder.learning_rate, 0);
    at_least("decay-generator", c.step.adam_generator.weight_decay, 0);
    at_least("decay-ebm", c.step.adam_ebm.weight_decay, 0);
    at_least("decay-encoder", c.step.adam_encoder.weight_decay, 0);
    positive("lr-decay", c.lr_decay);
    if (!(c.ema >= 0 && c.ema < 1)) fail("--ema ", c.ema, ": must be at least 0 and below 1");
    positive("guard", c.max_energy_gap);
    if (!(c.rollback_lr_factor > 0 && c.rollback_lr_factor <= 1))
        fail("--return-lr-factor ", c.rollback_lr_factor, ": must be above 0 and at most 1");
    if (c.sampler.steps < 0 || c.sampler.steps > 65535)
        fail("--sampler-steps ", c.sampler.steps, ": must be from 0 to 65535");
    positive("sampler-step-size", c.sampler.step_size);
    at_least("sampler-noise", c.sampler.noise_std, 0);
    at_least("sampler-batch", c.sampler_batch, 1);
    at_least("log-every", c.log_every, 1);
    at_least("sample-every", c.eval_every, 1);
    at_least("checkpoint-every", c.checkpoint_every, 1);
    at_least("keep", c.keep_checkpoints, 1);
}

}  // namespace dualmcmc
