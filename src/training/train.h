// A training run: iterations on a data set, with metrics, evaluations and checkpoints. It can be interrupted and
// resumed, and rolls back to its last checkpoint when it diverges.
//
// A run's folder:  config.txt  metrics.csv  samples/*.png  checkpoints/iteration-NNNNNN.safetensors
#pragma once
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>

#include "data/images.h"
#include "training/checkpoint.h"
#include "training/config.h"

namespace dualmcmc {

// Callbacks of a run; either may be empty.
struct TrainingHooks {
    // How far images are from `data`: called once, with the training set; its result, with the samples of each
    // evaluation.
    std::function<std::function<double(const ImageSet& images)>(const ImageSet& data)> distance_to;
    // Called with the run's folder after each checkpoint. Returns what went wrong, for stderr, or nothing.
    std::function<std::string(const std::string& folder)> after_checkpoint;
};

// Thrown by a run that keeps diverging after rollbacks to the same checkpoint.
struct Diverged : std::runtime_error {
    Diverged(const std::string& reason, int64_t all_rollbacks) : std::runtime_error(reason), rollbacks(all_rollbacks) {}
    int64_t rollbacks;  // since the run's start, also those after its last checkpoint
};

// Trains with these settings, from the checkpoint `resume` if there is one. Without it the run is a new one, and fails
// if the folder holds a run already. Returns false if the user interrupted it, after writing a checkpoint.
bool train(const Config& config, std::optional<LoadedCheckpoint> resume, const TrainingHooks& hooks = {});

}  // namespace dualmcmc
