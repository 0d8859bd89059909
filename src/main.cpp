// The command line: train, sample, export, replay, bench, report, the experiments. Errors end here, as one line.
#include <CLI/CLI.hpp>

#include <charconv>
#include <cstdio>
#include <iostream>

#include "experiments/ablate.h"
#include "experiments/ais.h"
#include "experiments/bench.h"
#include "experiments/chains_command.h"
#include "experiments/check_step.h"
#include "experiments/compare.h"
#include "experiments/interpolate.h"
#include "experiments/longrun.h"
#include "experiments/ood.h"
#include "experiments/reconstruct.h"
#include "experiments/report.h"
#include "experiments/sample_command.h"
#include "experiments/sliced_wasserstein.h"
#include "experiments/toys.h"
#include "training/checkpoint.h"
#include "training/train.h"

namespace dualmcmc {
namespace {

// ---- train --------------------------------------------------------------------------------------

// Flags that describe the networks: a resumed run cannot change them.
void check_same_model(const ModelSettings& a, const ModelSettings& b, const std::string& path) {
    if (a.architecture != b.architecture || a.width_generator != b.width_generator || a.width_ebm != b.width_ebm ||
        a.width_encoder != b.width_encoder || a.latent != b.latent)
        fail("--resume: ", path, " holds ", b.architecture, " networks of widths ", b.width_generator, "/", b.width_ebm,
             "/", b.width_encoder, ", latent ", b.latent, "; leave the architecture and width flags out");
}

class TrainCommand {
public:
    explicit TrainCommand(CLI::App& app)
        : command_(app.add_subcommand("train", "train the three networks; see --preset")) {
        command_->add_option("--config", config_file_, "a config.txt to start from; flags override it");
        command_->add_flag("--resume", resume_,
                           "go on from the newest checkpoint in --out; flags override its settings");
        for_each_setting(config_, [&](const char* name, auto& field, const char* help) {
            const std::string flag = std::string("--") + name;
            if constexpr (std::is_same_v<std::decay_t<decltype(field)>, bool>)
                command_->add_flag(flag + ",!--no-" + name, field, text(help, field ? " (on)" : " (off)"));
            else command_->add_option(flag, field, help)->capture_default_str();
        });
    }
    bool chosen() const { return command_->parsed(); }

    // The first parse tells which settings to start from; the flags are then laid over them by a second.
    int run(CLI::App& app, int argc, char** argv) {
        const Config flags = config_;
        std::vector<std::pair<std::string, std::string>> from_file;
        if (!config_file_.empty()) from_file = read_config(config_file_);
        std::string preset = flags.preset, out = flags.out, method = flags.method;
        for (const auto& [name, value] : from_file) {
            if (name == "preset" && !command_->count("--preset")) preset = value;
            if (name == "out" && !command_->count("--out")) out = value;
            if (name == "method" && !command_->count("--method")) method = value;
        }
        if (out.empty()) out = "runs/" + preset;

        std::optional<LoadedCheckpoint> resume;
        if (resume_) {
            const std::string path = newest_checkpoint(out);
            if (path.empty()) fail("--resume: there is no checkpoint in ", out, "/checkpoints; start without --resume");
            try {
                resume = read_checkpoint(path);
            } catch (const std::exception& error) {
                fail(error.what(), "; delete it, and --resume goes on from the checkpoint before it, if there is one");
            }
            config_ = resume->config;
        } else {
            config_ = preset_config(preset);
            apply_method(config_.step, config_.method = method);
        }
        for (const auto& [name, value] : from_file) set_setting(config_, name, value);
        if (!resume && command_->count("--method"))
            apply_method(config_.step, method);  // over the file's switches, too
        app.parse(argc, argv);
        config_.out = out;
        config_.preset = preset;
        if (resume) {
            config_.preset = resume->config.preset;
            check_same_model(config_.model, resume->config.model, resume->path);
            if (config_.method != resume->config.method)
                fail("--resume: ", resume->path, " is a run of --method ", resume->config.method,
                     "; leave --method out");
        }
        check_config(config_);
        if (config_.data.empty()) config_.data = default_data(config_.model.image_size());
        std::printf("device: %s\n", select_device(config_.device, int(config_.threads), config_.precision).c_str());
        const ModelSettings& m = config_.model;
        std::printf(
            "%s from %s: widths %lld/%lld/%lld (generator/EBM/encoder), latent %lld, batch %lld; x-chain %lld steps of "
            "%g at temperature %.3g, "
            "z-chain %lld steps of %g\n",
            m.architecture.c_str(), config_.data.c_str(), (long long)m.width_generator, (long long)m.width_ebm,
            (long long)m.width_encoder, (long long)m.latent, (long long)config_.batch,
            (long long)config_.step.chain_x.steps, double(config_.step.chain_x.step_size),
            double(config_.step.chain_x.temperature()), (long long)config_.step.chain_z.steps,
            double(config_.step.chain_z.step_size));
        if (const std::string note = untrained_note(config_); !note.empty()) std::printf("%s\n", note.c_str());
        std::fflush(stdout);
        return train(config_, resume, {distance, report}) ? 0 : 130;
    }

private:
    static double distance(const ImageSet& images, const ImageSet& real, uint64_t seed) {
        return sliced_wasserstein(images, real, seed).mean;
    }

    // A page to look at is no reason to lose a run.
    static void report(const std::string& folder) {
        try {
            write_report(folder);
        } catch (const std::exception& error) {
            std::cerr << "report.html was not written: " << error.what() << '\n';
        }
    }

    CLI::App* command_;
    Config config_;
    std::string config_file_;
    bool resume_ = false;
};

// ---- replay -------------------------------------------------------------------------------------

class ReplayCommand {
public:
    explicit ReplayCommand(CLI::App& app)
        : command_(app.add_subcommand(
              "replay", "hold a step file of another implementation against this one; exit 0 if they agree")) {
        command_->add_option("file", file_, "a step file, dual-mcmc-step-1")->required();
        command_->add_option("--tolerance", tolerance_, "largest relative L2 error of an output or gradient")
            ->capture_default_str();
        command_->add_flag("--fast", fast_, "with the convolutions of training, which round a little more");
        command_->add_option("--device", device_, "as in train")->capture_default_str();
        command_->add_option("--precision", precision_, "as in train, but fp32 unless said otherwise")
            ->capture_default_str();
        command_->add_option("--threads", threads_, "CPU threads, 0 for all")->capture_default_str();
    }
    bool chosen() const { return command_->parsed(); }

    int run() {
        if (!(tolerance_ > 0)) fail("--tolerance ", tolerance_, ": must be above 0");
        std::printf("device: %s\n", select_device(device_, threads_, precision_).c_str());
        int failures = 0;
        const std::vector<StepCheck> lines = check_step(file_, tolerance_, fast_);
        for (const StepCheck& line : lines) {
            std::printf("%-60s %.3e%s\n", line.name.c_str(), line.error, line.passes() ? "" : "  FAILS");
            failures += !line.passes();
        }
        std::printf("%s: %zu compared, %d beyond the tolerance of %g\n", failures ? "DIFFERS" : "agrees", lines.size(),
                    failures, tolerance_);
        return failures ? 1 : 0;
    }

private:
    CLI::App* command_;
    std::string file_, device_ = "auto", precision_ = "fp32";
    double tolerance_ = 1e-3;
    int threads_ = 0;
    bool fast_ = false;
};

// What CLI11 lets pass: a whole number too large for any flag, which it would take for the largest there is.
void check_numbers(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const char* const digits = word.data() + word.rfind('=') + 1;
        int64_t value;
        const auto [end, error] = std::from_chars(digits, word.data() + word.size(), value);
        if (error == std::errc::result_out_of_range && *end == 0) fail(word, ": the number is too large");
    }
}

int run(int argc, char** argv) {
    check_numbers(argc, argv);
    CLI::App app(
        "Learning energy-based models by dual-MCMC teaching (Cui and Han, NeurIPS 2023).\n"
        "Start with: dualmcmc train --preset demo",
        "dualmcmc");
    app.require_subcommand(1);
    app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    TrainCommand train_command(app);
    SampleCommand sample_command(app);
    ExportCommand export_command(app);
    ReplayCommand replay_command(app);
    ToysCommand toys_command(app);
    BenchCommand bench_command(app);
    ReportCommand report_command(app);
    ReconstructCommand reconstruct_command(app);
    ReviseCommand revise_command(app);
    InterpolateCommand interpolate_command(app);
    OodCommand ood_command(app);
    LongrunCommand longrun_command(app);
    AisCommand ais_command(app);
    AblateCommand ablate_command(app);
    CompareCommand compare_command(app);
    Experiment* const experiments[] = {&reconstruct_command, &revise_command,  &interpolate_command,
                                       &ood_command,         &longrun_command, &ais_command};
    const auto asked_for = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
    if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(asked_for).empty())
        fail("there is no command '", argv[1], "' ('dualmcmc --help' lists them)");
    try {
        app.parse(argc, argv);
        if (train_command.chosen()) return train_command.run(app, argc, argv);
    } catch (const CLI::Success& help) {
        return app.exit(help);
    } catch (const CLI::ParseError& error) {
        std::string message = error.what();
        if (const std::string unclear = "Could not convert: "; message.starts_with(unclear))
            message = message.substr(unclear.size()) + ": not the kind of number that is wanted";
        fail(message, " ('dualmcmc ", app.get_subcommands().empty() ? "" : app.get_subcommands()[0]->get_name() + " ",
             "--help' lists what there is)");
    }
    if (sample_command.chosen()) return sample_command.run();
    if (export_command.chosen()) return export_command.run();
    if (toys_command.chosen()) return toys_command.run();
    if (bench_command.chosen()) return bench_command.run();
    if (report_command.chosen()) return report_command.run();
    for (Experiment* experiment : experiments)
        if (experiment->chosen()) return experiment->run();
    for (GridCommand* grid : {static_cast<GridCommand*>(&ablate_command), static_cast<GridCommand*>(&compare_command)})
        if (grid->chosen()) return grid->run();
    return replay_command.run();
}

}  // namespace
}  // namespace dualmcmc

int main(int argc, char** argv) {
    try {
        const int code = dualmcmc::run(argc, argv);
        std::cout.flush();
        if (std::fflush(stdout) != 0 || std::ferror(stdout))
            dualmcmc::fail("what was said could not be written; is the disk full?");
        return code;
    } catch (const std::exception& error) {
        std::fflush(stdout);
        std::cerr << "dualmcmc: " << error.what() << '\n';
        return 1;
    }
}
