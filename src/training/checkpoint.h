// Checkpoints: all that a run needs to continue exactly, in one safetensors file. Tensors have the names of the
// authors' code and PyTorch's layouts.
//
//   RUN/checkpoints/iteration-NNNNNN.safetensors
//     netE.* netG.* netI.*             parameters and buffers
//     adam1.netE.* …, adam2.netE.* …   Adam's moments of each parameter
//     ema.netG.*, ema.netE.*           moving averages, with --ema and --ema-ebm
//     latents (N, d)                   states of persistent z-chains, with --start-z persistent
//     metadata                         format, iteration, rollbacks, the place in the data (DataPosition), checksum of
//                                      the tensors, and every setting under its flag's name
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "method/models.h"
#include "training/config.h"

namespace dualmcmc {

// ---- networks in a file -------------------------------------------------------------------------

// Adds every tensor of `state` to the file as prefix + name.
void store_state(SafetensorsFile& file, const std::string& prefix, const ParameterStore& state);

// Sets every tensor of `state` from the file, in place. Fails, naming `path` and the tensor, if one is missing, has the
// wrong shape, is neither F32 nor F64, or is not finite. Batch norm's num_batches_tracked is ignored, as nothing reads
// it. With `running_optional` the running statistics may be missing, too.
void load_state(const SafetensorsFile& file, const std::string& path, const std::string& prefix, ParameterStore& state,
                bool running_optional = false);

// Fails as load_state unless the file holds each tensor of the networks that `settings` describe, in its shape. Takes
// no memory: what a file says of its networks is checked against its tensors before anything is built.
void check_shapes(const SafetensorsFile& file, const std::string& path, const ModelSettings& settings,
                  bool running_optional = false);

// One tensor of the file, converted to the layout in memory. Fails as load_state.
std::vector<real> stored_values(const SafetensorsFile& file, const std::string& path, const std::string& name,
                                const Layout& layout);

// ---- checkpoints --------------------------------------------------------------------------------

// The value of `format` in a checkpoint's metadata.
inline constexpr const char* checkpoint_format = "dual-mcmc-checkpoint-1";

// The last states of persistent z-chains: a latent (d) for each training image, row-major (N, d), in host memory. They
// take 26 MB for CIFAR-10 (50,000 × 128), and as much in each checkpoint. Empty if chains are not persistent.
using ChainStates = std::vector<real>;

// Where a run stands in its training set.
struct DataPosition {
    int64_t epoch = 0;        // whole passes before this one
    int64_t images_seen = 0;  // in this pass
    int64_t images = 0;       // in the set
    std::string checksum;     // of the set's pixels: "crc32:" and eight hexadecimal digits
};

// A checkpoint's file, with its metadata parsed.
struct LoadedCheckpoint {
    std::string path;
    SafetensorsFile file;
    Config config;
    int64_t iteration = 0;                 // number of iterations done
    int64_t rollbacks = 0;                 // after divergences, so far; each moves the run to fresh noise
    std::optional<DataPosition> position;  // nothing in files of earlier versions
};

// Writes the file under a temporary name and renames it, so that it is never incomplete.
void save_checkpoint(const std::string& path, Models& models, const Config& config, int64_t iteration,
                     int64_t rollbacks, const ChainStates& chain_states = {},
                     const std::optional<DataPosition>& position = {});

// Reads a checkpoint's file and parses its metadata; files of earlier versions, with former names of settings, too.
// Throws DamagedFile if the tensors' bytes do not have the checksum in the metadata. The tensors have the shapes that
// the settings need; load_checkpoint checks their values.
LoadedCheckpoint read_checkpoint(const std::string& path);

// Sets the networks from the file. With `optimiser`, to continue training: Adam's moments and the averages, too.
// Without, to use the networks: a parameter that has an average gets the average, and the file need not hold moments
// (as the converted checkpoint of the authors). Fails as load_state, or if a tensor is unknown.
void load_checkpoint(const SafetensorsFile& file, const std::string& path, Models& models, bool optimiser);

// The chain states in the file, for `count` images. Fails as load_state.
ChainStates load_chain_states(const SafetensorsFile& file, const std::string& path, int64_t count, int64_t latent);

// ---- checkpoints of a run -----------------------------------------------------------------------
// `out` is the run's folder.

// "iteration-000500", the stem of the names of an iteration's files.
std::string iteration_name(int64_t iteration);

std::string checkpoint_path(const std::string& out, int64_t iteration);

// Empty if there is none. Only files with names that checkpoint_path gives count as checkpoints.
std::string newest_checkpoint(const std::string& out);

// The newest checkpoint that is not damaged; nothing if there is none. Damaged ones are renamed to PATH.damaged, so
// that they are kept but no longer count, and `say` is called with a line about each. A checkpoint that cannot be read
// for another reason is an error.
std::optional<LoadedCheckpoint> newest_sound_checkpoint(const std::string& out,
                                                        const std::function<void(const std::string&)>& say);

// Deletes all but the newest `keep` of them.
void remove_old_checkpoints(const std::string& out, int64_t keep);

}  // namespace dualmcmc
