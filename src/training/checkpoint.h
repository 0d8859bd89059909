// A network's tensors to and from safetensors files, under the release's names and in PyTorch's layouts; and whole
// checkpoints: networks, optimiser, counters and configuration in one file.
#pragma once
#include <map>
#include <string>

#include "formats/safetensors.h"
#include "method/models.h"

namespace dualmcmc {

// Adds every tensor of `state` to the file as prefix + name.
void store_state(SafetensorsFile& file, const std::string& prefix, const ParameterStore& state);

// Sets every tensor of `state` from the file, in place. Fails, naming `path` and the tensor, where one is missing,
// wrongly shaped, no F32 or not finite. Batch norm's num_batches_tracked, which nobody reads, may be missing or of any
// kind; with `running_optional` so may the running statistics be missing.
void load_state(const SafetensorsFile& file, const std::string& path, const std::string& prefix, ParameterStore& state,
                bool running_optional = false);

// One tensor of the file, from its layout there to that in memory. Fails as load_state.
std::vector<float> stored_values(const SafetensorsFile& file, const std::string& path, const std::string& name,
                                 const Layout& layout);

// The format's name in the metadata of checkpoints.
inline constexpr const char* checkpoint_format = "dual-mcmc-checkpoint-1";

// Where persistent z-chains ended last time: a row of `latents` for each training image, in memory on the host (50,000
// × 128 of CIFAR-10 take 26 MB there and in each checkpoint). Empty for other chains.
using ChainStates = std::vector<float>;

// Writes netE.* netG.* netI.*, Adam's moments adam1.netE.* …, adam2.netE.* …, averages ema.netG.* and `latents` (N, d)
// where they are kept, and `metadata` to `path`, complete or not at all.
void save_checkpoint(const std::string& path, Models& models, const std::map<std::string, std::string>& metadata,
                     const ChainStates& latents = {});

// The file's latents for `count` images. Fails as load_state.
ChainStates load_chain_states(const SafetensorsFile& file, const std::string& path, int64_t count, int64_t dimension);

// With `optimiser`, to go on training: sets the networks, Adam's moments and the averages from the file. Without, to
// use the networks: parameters that have an average get it; a file without moments, such as the converted release, will
// do. Fails where a tensor is missing, wrongly shaped or unknown.
void load_checkpoint(const SafetensorsFile& file, const std::string& path, Models& models, bool optimiser);

}  // namespace dualmcmc
