// A checkpoint's tensors and metadata, written and read.
#include "training/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <set>

#include "formats/files.h"
#include "numbers.h"

namespace dualmcmc {

namespace fs = std::filesystem;

namespace {

void store(SafetensorsFile& file, const std::string& name, const Layout& layout, const Tensor& value) {
    file.tensors[name] = store_values(layout.file_shape, layout.to_file(value.to_host()).data());
}

std::string average_name(const std::string& prefix, const NamedTensor& entry) { return "ema." + prefix + entry.name; }

// The names of Adam's two moments of a parameter.
std::string moment_name(int moment, const std::string& prefix, const NamedTensor& entry) {
    return "adam" + std::to_string(moment) + "." + prefix + entry.name;
}

constexpr const char* chain_states_name = "latents";

}  // namespace

namespace {

const StoredTensor& find_tensor(const SafetensorsFile& file, const std::string& path, const std::string& name,
                                const Layout& layout) {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) fail(path, ": tensor ", name, " is missing");
    if (found->second.shape != layout.file_shape)
        fail(path, ": tensor ", name, " has shape ", excerpt(to_string(found->second.shape)), ", not ",
             to_string(layout.file_shape));
    if (found->second.dtype != "F32" && found->second.dtype != "F64")
        fail(path, ": tensor ", name, " is ", found->second.dtype, ", not F32 or F64");
    return found->second;
}

// Nothing reads num_batches_tracked.
bool is_loaded(const SafetensorsFile& file, const std::string& prefix, const NamedTensor& entry,
               bool running_optional) {
    const bool running = entry.name.ends_with(".running_mean") || entry.name.ends_with(".running_var");
    if (running && running_optional && !file.tensors.count(prefix + entry.name)) return false;
    return !entry.name.ends_with(".num_batches_tracked");
}

}  // namespace

void check_shapes(const SafetensorsFile& file, const std::string& path, const ModelSettings& settings,
                  bool running_optional) {
    Models shapes(settings, std::nullopt);
    for (const auto& [prefix, state] : shapes.networks())
        for (const NamedTensor& entry : state->entries())
            if (is_loaded(file, prefix, entry, running_optional))
                find_tensor(file, path, prefix + entry.name, entry.layout);
}

std::vector<real> stored_values(const SafetensorsFile& file, const std::string& path, const std::string& name,
                                const Layout& layout) {
    const std::vector<real> values = values_of<real>(find_tensor(file, path, name, layout), name);
    for (const real value : values)
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
        if (!is_loaded(file, prefix, entry, running_optional)) continue;
        entry.value.value().copy_from_host(stored_values(file, path, prefix + entry.name, entry.layout));
    }
}

// ---- the metadata -------------------------------------------------------------------------------

namespace {

std::map<std::string, std::string> to_metadata(const Config& config, int64_t iteration, int64_t rollbacks,
                                               const std::optional<DataPosition>& position) {
    std::map<std::string, std::string> metadata = config_to_map(config);
    metadata["format"] = checkpoint_format;
    metadata["iteration"] = std::to_string(iteration);
    metadata["rollbacks"] = std::to_string(rollbacks);
    if (position) {
        metadata["epoch"] = std::to_string(position->epoch);
        metadata["epoch-images-seen"] = std::to_string(position->images_seen);
        metadata["training-images"] = std::to_string(position->images);
        metadata["training-images-checksum"] = position->checksum;
    }
    return metadata;
}

// Files of earlier versions have former names.
void update_names(std::map<std::string, std::string>& metadata) {
    auto rename = [&](const char* former, const char* current) {
        auto entry = metadata.extract(former);
        if (entry.empty()) return;
        entry.key() = current;
        metadata.insert(std::move(entry));
    };
    for (const auto& [former, current] : former_names) rename(former, current);
    rename("returns", "rollbacks");
}

}  // namespace

LoadedCheckpoint read_checkpoint(const std::string& path) {
    LoadedCheckpoint out;
    out.path = path;
    out.file = read_safetensors(path);
    auto& metadata = out.file.metadata;
    if (const auto checksum = metadata.find("checksum");
        checksum != metadata.end() && checksum->second != tensors_checksum(out.file))
        throw DamagedFile(path +
                          ": its tensors have changed since it was written (the checksum differs); use an intact copy");
    if (metadata["format"] != checkpoint_format)
        fail(path, ": not a dualmcmc checkpoint: its format is '", excerpt(metadata["format"]), "', not ",
             checkpoint_format);
    update_names(metadata);
    try {
        for_each_setting(out.config, [&](const char* name, auto&, const char*) {
            if (metadata.count(name)) set_setting(out.config, name, metadata.at(name));
        });
        check_config(out.config);
    } catch (const std::exception& error) {
        fail(path, ": in its metadata: ", explain(error));
    }
    auto counter = [&](const char* name) -> int64_t {
        const std::string value = metadata.count(name) ? metadata.at(name) : "0";
        const std::optional<int64_t> count = to_number<int64_t>(value);
        if (!count || *count < 0 || *count > max_iterations)
            fail(path, ": metadata '", name, "' is '", excerpt(value), "', not a count");
        return *count;
    };
    out.iteration = counter("iteration");
    out.rollbacks = counter("rollbacks");
    if (metadata.count("training-images-checksum"))
        out.position = {counter("epoch"), counter("epoch-images-seen"), counter("training-images"),
                        metadata.at("training-images-checksum")};
    check_shapes(out.file, path, out.config.model);
    return out;
}

// ---- the tensors --------------------------------------------------------------------------------

void save_checkpoint(const std::string& path, Models& models, const Config& config, int64_t iteration,
                     int64_t rollbacks, const ChainStates& chain_states, const std::optional<DataPosition>& position) {
    SafetensorsFile file;
    file.metadata = to_metadata(config, iteration, rollbacks, position);
    for (const auto& [prefix, state] : models.networks()) {
        store_state(file, prefix, *state);
        for (const NamedTensor& entry : state->entries()) {
            if (!entry.trainable) continue;
            store(file, moment_name(1, prefix, entry), entry.layout, entry.moment1);
            store(file, moment_name(2, prefix, entry), entry.layout, entry.moment2);
            if (entry.ema.defined()) store(file, average_name(prefix, entry), entry.layout, entry.ema);
        }
    }
    const int64_t latent = models.settings.latent;
    if (!chain_states.empty())
        file.tensors[chain_states_name] =
            store_values({int64_t(chain_states.size()) / latent, latent}, chain_states.data());
    file.metadata["checksum"] = tensors_checksum(file);
    write_safetensors(path, file);
}

ChainStates load_chain_states(const SafetensorsFile& file, const std::string& path, int64_t count, int64_t latent) {
    return stored_values(file, path, chain_states_name, Layout::plain({count, latent}));
}

namespace {

// Fails if the file holds a tensor that no checkpoint of these networks has.
void check_tensor_names(const SafetensorsFile& file, const std::string& path, Models& models) {
    std::set<std::string> known{chain_states_name};
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries()) {
            known.insert(prefix + entry.name);
            if (!entry.trainable) continue;
            known.insert(moment_name(1, prefix, entry));
            known.insert(moment_name(2, prefix, entry));
            known.insert(average_name(prefix, entry));
        }
    for (const auto& [name, tensor] : file.tensors)
        if (!known.count(name)) fail(path, ": tensor ", excerpt(name), " belongs to no network of this architecture");
}

}  // namespace

void load_checkpoint(const SafetensorsFile& file, const std::string& path, Models& models, bool optimiser) {
    check_tensor_names(file, path, models);
    for (const auto& [prefix, state] : models.networks()) {
        load_state(file, path, prefix, *state);
        for (NamedTensor& entry : state->entries()) {
            if (!entry.trainable) continue;
            entry.ema = {};
            if (file.tensors.count(average_name(prefix, entry))) {
                const std::vector<real> average = stored_values(file, path, average_name(prefix, entry), entry.layout);
                if (optimiser) entry.ema = Tensor::from_host(entry.layout.memory_shape(), average);
                else entry.value.value().copy_from_host(average);
            }
            if (!optimiser) continue;
            entry.moment1.copy_from_host(stored_values(file, path, moment_name(1, prefix, entry), entry.layout));
            entry.moment2.copy_from_host(stored_values(file, path, moment_name(2, prefix, entry), entry.layout));
        }
    }
}

// ---- the files of a run -------------------------------------------------------------------------

namespace {

// The number in a checkpoint's name, "iteration-000500.safetensors"; nothing for other names.
std::optional<int64_t> iteration_of(const std::string& name) {
    const std::string before = "iteration-", after = ".safetensors";
    if (!name.starts_with(before) || !name.ends_with(after)) return {};
    const std::string digits = name.substr(before.size(), name.size() - before.size() - after.size());
    if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) return {};
    return std::stoll(digits);
}

// Oldest first.
std::vector<std::string> checkpoints_in(const std::string& out) {
    std::vector<std::string> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(out + "/checkpoints", error)) {
        const std::string path = entry.path().string();
        const std::optional<int64_t> iteration = iteration_of(entry.path().filename().string());
        if (iteration && path == checkpoint_path(out, *iteration) && entry.is_regular_file(error))
            found.push_back(path);
    }
    // A longer name is a later iteration, of more than six digits.
    std::sort(found.begin(), found.end(), [](const std::string& a, const std::string& b) {
        return a.size() != b.size() ? a.size() < b.size() : a < b;
    });
    return found;
}

}  // namespace

std::string iteration_name(int64_t iteration) {
    char name[64];
    std::snprintf(name, sizeof name, "iteration-%06lld", static_cast<long long>(iteration));
    return name;
}

std::string checkpoint_path(const std::string& out, int64_t iteration) {
    return out + "/checkpoints/" + iteration_name(iteration) + ".safetensors";
}

std::string newest_checkpoint(const std::string& out) {
    const std::vector<std::string> all = checkpoints_in(out);
    return all.empty() ? "" : all.back();
}

std::optional<LoadedCheckpoint> newest_sound_checkpoint(const std::string& out,
                                                        const std::function<void(const std::string&)>& say) {
    for (std::string path = newest_checkpoint(out); !path.empty(); path = newest_checkpoint(out)) {
        try {
            return read_checkpoint(path);
        } catch (const DamagedFile& error) {
            const std::string aside = path + ".damaged";
            std::error_code failed;
            fs::rename(path, aside, failed);
            if (failed) fail(error.what(), "; delete it: it cannot be renamed (", failed.message(), ")");
            say(text("damaged, and now named ", aside, ": ", error.what()));
        }
    }
    return {};
}

void remove_old_checkpoints(const std::string& out, int64_t keep) {
    const std::vector<std::string> all = checkpoints_in(out);
    std::error_code error;  // one that cannot be deleted does no harm
    for (size_t i = 0; i + size_t(keep) < all.size(); ++i) fs::remove(all[i], error);
}

}  // namespace dualmcmc
