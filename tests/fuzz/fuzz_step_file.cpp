// Any file as a step file: its settings and its tensors. No network is built.
#include "experiments/step_file.h"
#include "fuzz.h"

using namespace dualmcmc;

FUZZ_HARNESS {
    const std::string path = fuzz::file_of("a.safetensors", data, size);
    fuzz::expect_value_or_line([&] {
        const StepFile file(path);
        const StepSettings settings = file.step_settings();
        const ModelSettings model = file.model_settings();
        const int64_t batch = file.count("batch", 1), side = model.image_size();
        file.values("batch.x", Layout::image({batch, side, side, 3}));
        file.values("noise.langevin_z", Layout::plain({settings.chain_z.steps, batch, model.latent}));
    });
    return 0;
}
