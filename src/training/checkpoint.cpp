// Tensors by name: what is written, and what is demanded of a file that is read.
#include "training/checkpoint.h"

#include <cmath>
#include <set>

namespace dualmcmc {

namespace {

bool ends_with(const std::string& name, const std::string& ending) {
    return name.size() >= ending.size() && name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
}

void store(SafetensorsFile& file, const std::string& name, const Layout& layout, const Tensor& value) {
    file.tensors[name] = store_floats(layout.file_shape, layout.to_file(value.to_host()).data());
}

std::string average_name(const std::string& prefix, const NamedTensor& entry) { return "ema." + prefix + entry.name; }

// The names of Adam's two moments of a parameter.
std::string moment_name(int moment, const std::string& prefix, const NamedTensor& entry) {
    return "adam" + std::to_string(moment) + "." + prefix + entry.name;
}

constexpr const char* latents_name = "latents";

}  // namespace

std::vector<float> stored_values(const SafetensorsFile& file, const std::string& path, const std::string& name,
                                 const Layout& layout) {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) fail(path, ": tensor ", name, " is missing");
    if (found->second.shape != layout.file_shape)
        fail(path, ": tensor ", name, " has shape ", to_string(found->second.shape), ", not ",
             to_string(layout.file_shape));
    if (found->second.dtype != "F32") fail(path, ": tensor ", name, " is ", found->second.dtype, ", not F32");
    const std::vector<float> values = as_floats(found->second, name);
    for (const float value : values)
        if (!std::isfinite(value)) fail(path, ": tensor ", name, " holds a value that is not finite");
    return layout.to_memory(values);
}

void store_state(SafetensorsFile& file, const std::string& prefix, const ParameterStore& state) {
    for (const NamedTensor& entry : state.entries())
        store(file, prefix + entry.name, entry.layout, entry.value.value());
}

void load_state(const SafetensorsFile& file, const std::string& path, const std::string& prefix, ParameterStore& state,
                bool running_optional) {
    for (NamedTensor& entry : state.entries()) {
        if (ends_with(entry.name, ".num_batches_tracked")) continue;
        const bool running = ends_with(entry.name, ".running_mean") || ends_with(entry.name, ".running_var");
        if (running && running_optional && !file.tensors.count(prefix + entry.name)) continue;
        entry.value.value().copy_from_host(stored_values(file, path, prefix + entry.name, entry.layout));
    }
}

void save_checkpoint(const std::string& path, Models& models, const std::map<std::string, std::string>& metadata,
                     const ChainStates& latents) {
    SafetensorsFile file;
    file.metadata = metadata;
    file.metadata["format"] = checkpoint_format;
    for (const auto& [prefix, state] : models.networks()) {
        store_state(file, prefix, *state);
        for (const NamedTensor& entry : state->entries()) {
            if (!entry.trainable) continue;
            store(file, moment_name(1, prefix, entry), entry.layout, entry.moment1);
            store(file, moment_name(2, prefix, entry), entry.layout, entry.moment2);
            if (entry.ema.defined()) store(file, average_name(prefix, entry), entry.layout, entry.ema);
        }
    }
    const int64_t dimension = models.settings.latent;
    if (!latents.empty())
        file.tensors[latents_name] = store_floats({int64_t(latents.size()) / dimension, dimension}, latents.data());
    write_safetensors(path, file);
}

ChainStates load_chain_states(const SafetensorsFile& file, const std::string& path, int64_t count, int64_t dimension) {
    return stored_values(file, path, latents_name, Layout::plain({count, dimension}));
}

void load_checkpoint(const SafetensorsFile& file, const std::string& path, Models& models, bool optimiser) {
    std::set<std::string> known{latents_name};
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries()) {
            known.insert(prefix + entry.name);
            if (!entry.trainable) continue;
            known.insert(moment_name(1, prefix, entry));
            known.insert(moment_name(2, prefix, entry));
            known.insert(average_name(prefix, entry));
        }
    for (const auto& [name, tensor] : file.tensors)
        if (!known.count(name)) fail(path, ": tensor ", name, " belongs to no network of this architecture");
    for (const auto& [prefix, state] : models.networks()) {
        load_state(file, path, prefix, *state);
        for (NamedTensor& entry : state->entries()) {
            if (!entry.trainable) continue;
            entry.ema = {};
            if (file.tensors.count(average_name(prefix, entry))) {
                const std::vector<float> average = stored_values(file, path, average_name(prefix, entry), entry.layout);
                if (optimiser) entry.ema = Tensor::from_host(entry.layout.memory_shape(), average);
                else entry.value.value().copy_from_host(average);
            }
            if (!optimiser) continue;
            entry.moment1.copy_from_host(stored_values(file, path, moment_name(1, prefix, entry), entry.layout));
            entry.moment2.copy_from_host(stored_values(file, path, moment_name(2, prefix, entry), entry.layout));
        }
    }
}

}  // namespace dualmcmc
