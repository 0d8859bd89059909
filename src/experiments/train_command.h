// `dualmcmc train`: one flag for each setting, --config and --resume.
#pragma once
#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "training/checkpoint.h"
#include "training/config.h"

namespace dualmcmc {

// Where the settings of a run come from; each source overrides those above it:
//
//   1. the preset, with the architecture and widths of --init; with --resume the checkpoint, and no 2 and 4
//   2. the method's switches (apply_method)
//   3. the lines of --config
//   4. the method's switches again if --method is a flag, so that it also overrides switches in the file
//   5. the flags
//
// The names of the preset and the method, the output folder and --init are needed first. They come from the flag, else
// from the file, else from the default; the preset's default is that of --init. (Grids of trainings,
// experiments/grid.h, have sources of their own.)
class TrainCommand {
public:
    explicit TrainCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    // Returns the program's exit code: 128 + the signal after an interrupt.
    int run();

private:
    using Lines = std::vector<std::pair<std::string, std::string>>;  // name, value

    bool given(const std::string& name) const { return command_->count("--" + name) > 0; }
    std::string flag_or_line(const std::string& name, const Lines& file) const;
    std::string preset(const Lines& file, const std::optional<LoadedCheckpoint>& init) const;
    Config settings(const Lines& file, const std::optional<LoadedCheckpoint>& resume,
                    const std::optional<LoadedCheckpoint>& init) const;
    void override_by_flags(Config& config) const;

    CLI::App* command_;
    Config flags_;  // defaults, except for the flags that are given
    std::string config_file_;
    bool resume_ = false;
};

}  // namespace dualmcmc
