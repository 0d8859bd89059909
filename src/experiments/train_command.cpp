// Flags to settings to a run.
#include "experiments/train_command.h"

#include <algorithm>
#include <cstdio>
#include <type_traits>

#include "data/dataset.h"
#include "experiments/report.h"
#include "experiments/statistics_distance.h"
#include "ranks/ranks.h"
#include "training/signals.h"
#include "training/train.h"

namespace dualmcmc {

TrainCommand::TrainCommand(CLI::App& app)
    : command_(app.add_subcommand("train", "train EBM, generator and encoder; see --preset")) {
    command_->add_option("--config", config_file_, "a config.txt with settings; flags override it");
    command_->add_flag("--resume", resume_,
                       "continue from the newest checkpoint in --out, with its settings; flags override them");
    for_each_setting(flags_, [&](const char* name, auto& field, const char* help) {
        const std::string flag = std::string("--") + name;
        if constexpr (std::is_same_v<std::decay_t<decltype(field)>, bool>)
            command_->add_flag(flag + ",!--no-" + name, field, text(help, field ? " (on)" : " (off)"));
        else command_->add_option(flag, field, help)->capture_default_str();
    });
}

// ---- settings -----------------------------------------------------------------------------------

std::string TrainCommand::flag_or_line(const std::string& name, const Lines& file) const {
    if (!given(name))
        for (const auto& [key, value] : file)
            if (key == name) return value;
    return config_to_map(flags_).at(name);
}

void TrainCommand::override_by_flags(Config& config) const {
    for (const auto& [name, value] : config_to_map(flags_))
        if (given(name)) set_setting(config, name, value);
}

std::string TrainCommand::preset(const Lines& file, const std::optional<LoadedCheckpoint>& init) const {
    const bool in_file = std::any_of(file.begin(), file.end(), [](const auto& line) { return line.first == "preset"; });
    const std::string name = flag_or_line("preset", file);
    return init && !given("preset") && !in_file ? init->config.preset : name;
}

// The order of precedence is in the header.
Config TrainCommand::settings(const Lines& file, const std::optional<LoadedCheckpoint>& resume,
                              const std::optional<LoadedCheckpoint>& init) const {
    const std::string preset = this->preset(file, init), method = flag_or_line("method", file);
    Config c = resume ? resume->config : preset_config(preset);
    if (init) {
        if (c.model.architecture != init->config.model.architecture)
            fail("--init: ", init->path, " holds ", init->config.model.architecture, " networks, but --preset ", preset,
                 " is for ", c.model.architecture, "; choose another --preset");
        c.model = init->config.model;
    }
    if (!resume) apply_method(c.step, c.method = method);
    for (const auto& [name, value] : file) set_setting(c, name, value);
    if (!resume && given("method")) apply_method(c.step, method);
    override_by_flags(c);
    c.preset = resume ? resume->config.preset : preset;
    if (resume) c.init = resume->config.init;
    return c;
}

namespace {

void print_line(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

LoadedCheckpoint checkpoint_to_resume(const std::string& out) {
    // Of several ranks the first looks for it.
    std::optional<LoadedCheckpoint> checkpoint;
    if (first_rank()) checkpoint = newest_sound_checkpoint(out, print_line);
    const std::string path = of_first_rank(checkpoint ? checkpoint->path : "");
    if (path.empty()) fail("--resume: there is no checkpoint in ", out, "/checkpoints; start without --resume");
    if (!checkpoint) checkpoint = read_checkpoint(path);
    return std::move(*checkpoint);
}

// Prints the settings that flags change in a resumed run.
void print_changes(const Config& before, const Config& now) {
    const auto old = config_to_map(before);
    std::string changes;
    for (const auto& [name, value] : config_to_map(now))
        if (name != "out" && old.at(name) != value)
            changes += text(changes.empty() ? "" : ", ", name, " ", value, " (was ", old.at(name), ")");
    if (!changes.empty()) print_line("--resume with other settings: " + changes);
}

// A run keeps the networks that it starts from with `flag`, --resume or --init.
void check_networks(const std::string& flag, const Config& config, const LoadedCheckpoint& checkpoint) {
    const ModelSettings &a = config.model, &b = checkpoint.config.model;
    if (a.architecture != b.architecture || a.width_generator != b.width_generator || a.width_ebm != b.width_ebm ||
        a.width_encoder != b.width_encoder || a.latent != b.latent)
        fail(flag, ": ", checkpoint.path, " holds ", b.architecture, " networks of widths ", b.width_generator, "/",
             b.width_ebm, "/", b.width_encoder, ", latent ", b.latent, "; leave the architecture and width flags out");
}

// A resumed run keeps its method.
void check_method(const Config& config, const LoadedCheckpoint& checkpoint) {
    if (config.method != checkpoint.config.method)
        fail("--resume: ", checkpoint.path, " is a run of --method ", checkpoint.config.method, "; leave --method out");
}

// ---- the run ------------------------------------------------------------------------------------

void print_settings(const Config& c) {
    const ModelSettings& m = c.model;
    const ChainSettings &x = c.step.chain_x, &z = c.step.chain_z;
    const std::string rhythm = c.step.learn_ebm && c.step.long_steps > 0
                                   ? text(" (one iteration in ", c.step.long_every, " with ", c.step.long_steps, ")")
                                   : "";
    std::printf(
        "%s from %s: widths %lld/%lld/%lld (generator/EBM/encoder), latent %lld, batch %lld; x-chain %lld steps of %g "
        "at temperature %.3g%s, z-chain %lld steps of %g\n",
        m.architecture.c_str(), escaped(c.data).c_str(), (long long)m.width_generator, (long long)m.width_ebm,
        (long long)m.width_encoder, (long long)m.latent, (long long)c.batch, (long long)x.steps, double(x.step_size),
        double(x.temperature()), rhythm.c_str(), (long long)z.steps, double(z.step_size));
    if (!c.init.empty()) std::printf("networks at iteration 0: those of %s\n", c.init.c_str());
    std::fflush(stdout);
    if (const std::string note = untrained_note(c); !note.empty()) print_line(note);
}

// `auto` goes on without a GPU. With networks as large as the paper's that deserves a line of its own.
void warn_of_slow_cpu(const Config& c, const std::string& device) {
    const ModelSettings& m = c.model;
    // Widths at which an iteration with batch 100 takes minutes on a desktop; celeba64's first blocks are far narrower.
    const int64_t width = std::max(m.width_generator, m.width_ebm), limit = m.architecture == "celeba64" ? 512 : 256;
    if (c.device != "auto" || !device.starts_with("CPU") || width < limit) return;
    std::printf(
        "warning: no GPU is used, and networks of widths %lld/%lld/%lld take minutes an iteration on a CPU; use a "
        "machine with a GPU, or --preset cifar10-small or smaller widths\n",
        (long long)m.width_generator, (long long)m.width_ebm, (long long)m.width_encoder);
    std::fflush(stdout);
}

std::function<double(const ImageSet&)> distance_to(const ImageSet& data) { return StatisticsDistance(data); }

// A report that cannot be written must not end the run.
std::string report(const std::string& folder) {
    try {
        write_report(folder);
        return "";
    } catch (const std::exception& error) {
        return "report.html was not written: " + explain(error);
    }
}

}  // namespace

int TrainCommand::run() {
    const Lines file = config_file_.empty() ? Lines() : read_config(config_file_);
    std::optional<LoadedCheckpoint> resume, init;
    if (resume_ && given("init"))
        fail("--init: --resume continues a run from its own checkpoint; leave one of them out");
    if (const std::string path = flag_or_line("init", file); !resume_ && !path.empty()) init = read_checkpoint(path);
    std::string out = flag_or_line("out", file);
    if (out.empty()) out = "runs/" + preset(file, init);
    if (resume_) resume = checkpoint_to_resume(out);

    Config config = settings(file, resume, init);
    config.out = out;
    if (resume) check_networks("--resume", config, *resume), check_method(config, *resume);
    if (init) check_networks("--init", config, *init);
    check_config(config);
    if (config.data.empty()) config.data = default_data(config.model.image_size());
    const std::string device = select_device(config.device, config.threads, config.precision);
    std::printf("device: %s\n", device.c_str());
    check_memory(config.model, config.batch);
    print_settings(config);
    warn_of_slow_cpu(config, device);
    if (resume) {
        print_line(text("resuming from ", resume->path));
        print_changes(resume->config, config);
    }
    return train(config, std::move(resume), {distance_to, report}) ? 0 : exit_code_of_interrupt();
}

}  // namespace dualmcmc
