// The command line: finds the command, parses its flags, runs it. Errors end here, as one line.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>

#include "backend.h"
#include "experiments/ablate.h"
#include "experiments/ais.h"
#include "experiments/bench.h"
#include "experiments/chains_command.h"
#include "experiments/check_step_command.h"
#include "experiments/compare.h"
#include "experiments/interpolate.h"
#include "experiments/longrun.h"
#include "experiments/ood.h"
#include "experiments/reconstruct.h"
#include "experiments/report.h"
#include "experiments/sample_command.h"
#include "experiments/toys.h"
#include "experiments/train_command.h"
#include "machine/threads.h"
#include "numbers.h"
#include "ranks/ranks.h"
#include "training/signals.h"

namespace dualmcmc {
namespace {

// The arguments without the program's name, and with current names for former ones: those of train's flags, and
// `replay`, now check-step.
std::vector<std::string> arguments(int argc, char** argv) {
    std::vector<std::string> words(argv + 1, argv + argc);
    if (words.empty()) return words;
    if (words[0] == "replay") words[0] = "check-step";
    if (words[0] == "train") std::transform(words.begin(), words.end(), words.begin(), with_current_flag);
    return words;
}

// CLI11 takes 010 for octal, an empty text for 0, and cuts 1e300 to infinity: each value is checked before it converts.
void check_values(CLI::App& command) {
    for (CLI::Option* option : command.get_options()) {
        const std::string name = option->get_name(), type = option->get_type_name();
        option->transform(CLI::Validator(
            [name, type](std::string& value) {
                int64_t whole = 0;
                float number = 0;  // the narrowest type of any flag
                std::string wrong;
                if (type == "INT") wrong = read_number(value, whole);
                else if (type == "FLOAT") wrong = read_number(value, number);
                else if (value.empty()) wrong = "is empty; give a value";
                if (!wrong.empty()) fail(name, value.empty() ? " " : " " + excerpt(value) + ": ", wrong);
                if (type == "INT") value = std::to_string(whole);
                return std::string();
            },
            ""));
    }
}

// The same for the values of switches, --flip=VALUE, which CLI11 converts while it parses.
void check_switches(const CLI::App& app, const std::vector<std::string>& words) {
    static const std::vector<std::string> known{"true", "false", "on", "off", "yes", "no", "1", "0"};
    if (words.empty()) return;
    for (const CLI::App* command : app.get_subcommands({})) {
        if (command->get_name() != words[0]) continue;
        for (const std::string& word : words) {
            const size_t equals = word.find('=');
            if (!word.starts_with("--") || equals == std::string::npos) continue;
            const CLI::Option* const option = command->get_option_no_throw(word.substr(0, equals));
            const bool is_switch = option && option->get_expected_min() == 0;
            if (is_switch && std::find(known.begin(), known.end(), word.substr(equals + 1)) == known.end())
                fail(word, ": expected true or false");
        }
    }
}

constexpr const char* release = "1.0.0";

// What a report of an error should name.
std::string version() {
#ifdef __clang__
    const std::string compiler = __VERSION__;  // "Clang 16.0.6", after the distribution's name
#else
    const std::string compiler = text("g++ ", __VERSION__);
#endif
    const std::string revision = REVISION;  // empty outside of a clone
    return text("dualmcmc ", release, revision.empty() ? "" : ", revision " + revision, ", compiled by ", compiler,
                ", ", cuda_backends().empty() ? "without" : "with", " code for GPUs",
                std::is_same_v<real, double> ? ", in double precision" : "");
}

// Fills the commands' flags. False if it was a call for help or for the version, which is then printed.
bool parse(CLI::App& app, const std::vector<std::string>& words) {
    const auto is_first_word = [&](const CLI::App* command) { return command->get_name() == words[0]; };
    if (!words.empty() && !words[0].starts_with("-") && app.get_subcommands(is_first_word).empty())
        fail("there is no command '", words[0], "' ('dualmcmc --help' lists them)");
    try {
        app.parse(std::vector<std::string>(words.rbegin(), words.rend()));  // CLI11 takes them last first
        return true;
    } catch (const CLI::Success& asked_for) {
        app.exit(asked_for);
        return false;
    } catch (const CLI::ParseError& error) {
        const std::string command = app.get_subcommands().empty() ? "" : app.get_subcommands()[0]->get_name() + " ";
        fail(error.what(), " (see 'dualmcmc ", command, "--help')");
    }
}

// On several ranks all run it together.
template <class... Commands>
int run_chosen(Commands&... commands) {
    int code = 0;
    ((commands.chosen() && ((code = commands.run()), true)) || ...);
    return code;
}

// On several ranks the first runs it alone, and the others wait for it.
template <class... Commands>
int run_chosen_alone(Commands&... commands) {
    if (!first_rank()) return 0;
    const WorkAlone alone;
    return run_chosen(commands...);
}

int run(int argc, char** argv) {
    set_default_threads();
    const std::vector<std::string> words = arguments(argc, argv);
    CLI::App app(
        "Learning energy-based models by dual-MCMC teaching (Cui and Han, NeurIPS 2023).\n"
        "Start with: dualmcmc train --preset demo",
        "dualmcmc");
    app.require_subcommand(1);
    app.set_version_flag("--version", version(), "the program's version, and how it was built");
    app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    TrainCommand train(app);
    SampleCommand sample(app);
    ExportCommand export_images(app);
    CheckStepCommand check_step(app);
    ToysCommand toys(app);
    BenchCommand bench(app);
    ReportCommand report(app);
    ReconstructCommand reconstruct(app);
    ReviseCommand revise(app);
    InterpolateCommand interpolate(app);
    OodCommand ood(app);
    LongrunCommand longrun(app);
    AisCommand ais(app);
    AblateCommand ablate(app);
    CompareCommand compare(app);
    for (CLI::App* command : app.get_subcommands({})) check_values(*command);
    check_switches(app, words);
    if (!parse(app, words)) return 0;
    if (const int code = run_chosen(train, sample, bench, reconstruct, ablate, compare)) return code;
    return run_chosen_alone(export_images, check_step, toys, report, revise, interpolate, ood, longrun, ais);
}

// An exception that leaves a parallel region cannot be caught outside of it.
[[noreturn]] void end_with_a_line() {
    try {
        if (const std::exception_ptr thrown = std::current_exception()) std::rethrow_exception(thrown);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "dualmcmc: %s\n", explain(error).c_str());
    } catch (...) {}
    std::_Exit(1);
}

}  // namespace
}  // namespace dualmcmc

int main(int argc, char** argv) {
    std::set_terminate(dualmcmc::end_with_a_line);
    try {
        dualmcmc::limit_spinning(argv);  // first: it starts the program again
        dualmcmc::handle_signals();
        dualmcmc::start_ranks();
        dualmcmc::require_same_build(dualmcmc::version());
        const int code = dualmcmc::run(argc, argv);
        std::cout.flush();
        // An interrupted program's reader or terminal may be gone.
        if ((std::fflush(stdout) != 0 || std::ferror(stdout)) && code < 128)
            dualmcmc::fail("cannot write to stdout; is the disk full?");
        dualmcmc::end_ranks();
        return code;
    } catch (const std::exception& error) {
        std::fflush(stdout);
        const std::string line = dualmcmc::explain(error);
        dualmcmc::end_all_ranks(line);
        std::cerr << "dualmcmc: " << line << '\n';
        return 1;
    }
}
