// A training run: data in, iterations, metrics, pictures, checkpoints; resuming, interruption, and the return from a
// divergence.
//
// A run's folder:  config.txt  metrics.csv  samples/*.png  checkpoints/iteration-NNNNNN.safetensors
#pragma once
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>

#include "data/images.h"
#include "formats/safetensors.h"
#include "training/config.h"

namespace dualmcmc {

// A checkpoint with what it says of itself.
struct LoadedCheckpoint {
    std::string path;
    SafetensorsFile file;
    Config config;
    int64_t iteration = 0;  // iterations done
    int64_t rollbacks = 0;  // returns from a divergence so far: each moves the run to a fresh noise stream
};

// Reads a checkpoint's file and settings; its tensors are checked when they are loaded into networks.
LoadedCheckpoint read_checkpoint(const std::string& path);

// The path of the newest checkpoint in a run's folder, empty where there is none.
std::string newest_checkpoint(const std::string& out);

// What a run asks of those who look at it; either may be absent.
struct TrainingHooks {
    // A distance between generated and real images, measured at each look at the run.
    std::function<double(const ImageSet& images, const ImageSet& real, uint64_t seed)> sliced_wasserstein;
    // Called with the run's folder whenever a checkpoint has been written.
    std::function<void(const std::string& folder)> after_checkpoint;
};

// A run that diverged again and again since its last good checkpoint, and gave up.
struct Diverged : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Trains as `config` says. `resume` is the checkpoint to go on from; without one the run starts afresh, and fails
// rather than write over a run in the same folder. Returns false where the user interrupted it (a checkpoint is
// written).
bool train(const Config& config, const std::optional<LoadedCheckpoint>& resume, const TrainingHooks& hooks = {});

}  // namespace dualmcmc
