// Any file as a checkpoint: its settings and its tensors' shapes. No network is built.
#include "fuzz.h"
#include "training/checkpoint.h"

using namespace dualmcmc;

FUZZ_HARNESS {
    const std::string path = fuzz::file_of("a.safetensors", data, size);
    fuzz::expect_value_or_line([&] {
        const LoadedCheckpoint checkpoint = read_checkpoint(path);
        Models shapes(checkpoint.config.model, std::nullopt);
        for (const auto& [prefix, state] : shapes.networks())
            for (const NamedTensor& entry : state->entries())
                if (!entry.name.ends_with(".num_batches_tracked"))
                    stored_values(checkpoint.file, path, prefix + entry.name, entry.layout);
        check_memory(checkpoint.config.model, checkpoint.config.sampler_batch);
        load_chain_states(checkpoint.file, path, 3, checkpoint.config.model.latent);
    });
    return 0;
}
