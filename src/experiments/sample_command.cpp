// See sample_command.h.
#include "experiments/sample_command.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string_view>

#include "experiments/statistics_distance.h"
#include "formats/files.h"
#include "formats/progress_line.h"
#include "hash.h"
#include "ranks/ranks.h"
#include "training/signals.h"

namespace dualmcmc {

namespace fs = std::filesystem;

namespace {

constexpr int64_t picture_images = 100;        // of each kind, in samples.png
constexpr int64_t max_count = 1'000'000'000;   // of each kind
constexpr int64_t max_distance_images = 5000;  // of each kind, in a distance

// A hash of a checkpoint's tensors.
uint64_t contents_hash(const SafetensorsFile& file) {
    uint64_t out = 0;
    for (const auto& [name, tensor] : file.tensors)
        out = hash64(out, std::hash<std::string_view>()({tensor.bytes.data(), tensor.bytes.size()}));
    return out;
}

}  // namespace

// ---- sample -------------------------------------------------------------------------------------

SampleCommand::SampleCommand(CLI::App& app)
    : command_(app.add_subcommand(
          "sample", "samples from a checkpoint, generator and EBM-revised, as folders of PNGs for FID and IS")) {
    command_
        ->add_option("--model", model_, "a checkpoint, .safetensors; its moving averages are used where it has them")
        ->required();
    command_->add_option("--count", count_, "number of images; rerun with a larger count to add more")
        ->capture_default_str();
    command_->add_option("--kind", kind_, "generator, revised (by the EBM's x-chain) or both")
        ->check(CLI::IsMember({"generator", "revised", "both"}))
        ->capture_default_str();
    command_->add_option("--out", out_, "folder for the images: generator/ and revised/, 000000.png and so on")
        ->capture_default_str();
    command_->add_option("--seed", seed_, "seed of the samples")->capture_default_str();
    command_->add_option("--batch", batch_, "images sampled together (default: the model's sampler-batch, 100)");
    add_batch_norm_flags(*command_, batch_norm_);
    command_->add_option("--steps-x", chain_.steps,
                         "x-chain: number of steps (default: the model's sampler-steps, 70)");
    command_->add_option("--step-size-x", chain_.step_size,
                         "x-chain: step size (default: the model's sampler-step-size, 0.4)");
    command_->add_option("--noise-x", chain_.noise_std, "x-chain: noise (default: the model's sampler-noise, 0.001)");
    command_->add_option("--data", data_,
                         "as in train, for the statistics distance to its training images (default: the model's)");
    command_->add_flag("--npy", npy_, "write a .npy of uint8 (N,S,S,3) per kind instead of a folder of PNGs");
    command_->add_option("--device", device_, "as in train")->capture_default_str();
    command_->add_option("--precision", precision_, "as in train")->capture_default_str();
    command_->add_option("--threads", threads_, "CPU threads, 0 for all")->capture_default_str();
}

void SampleCommand::apply_overrides(const Config& trained) {
    config_ = trained;
    if (command_->count("--steps-x")) config_.sampler.steps = chain_.steps;
    if (command_->count("--step-size-x")) config_.sampler.step_size = chain_.step_size;
    if (command_->count("--noise-x")) config_.sampler.noise_std = chain_.noise_std;
    if (command_->count("--batch")) config_.sampler_batch = batch_;
    if (command_->count("--data")) config_.data = data_;
    check_chain(config_.sampler, {"--steps-x", "--step-size-x", "--noise-x"});
    if (config_.sampler_batch < 1) fail("--batch ", config_.sampler_batch, ": must be at least 1");
    if (config_.sampler_batch > max_batch) fail("--batch ", config_.sampler_batch, ": must be at most ", max_batch);
    check_memory(config_.model, config_.sampler_batch);
}

// The data that a checkpoint names may have moved. Sampling works without it, so only the distance is skipped.
void SampleCommand::load_data() {
    try {
        if (config_.data.empty()) fail("the checkpoint does not name the data it was trained on; give --data");
        data_set_ = load_some(config_.data, config_.model.image_size(), uint64_t(config_.seed), distance_data_images,
                              std::min(count_, max_distance_images));
    } catch (const std::exception& error) {
        if (command_->count("--data")) throw;
        std::printf("no statistics distance: %s\n", explain(error).c_str());
    }
}

// Everything the images depend on. samples.txt holds this text and an existing folder is continued only if it is the
// same, so its wording must not change.
std::string SampleCommand::settings(const LoadedCheckpoint& checkpoint) const {
    const ChainSettings& chain = config_.sampler;
    const auto averaged = [&](const std::string& network) {
        return std::any_of(checkpoint.file.tensors.begin(), checkpoint.file.tensors.end(),
                           [&](const auto& tensor) { return tensor.first.starts_with("ema." + network); });
    };
    char contents[32];
    std::snprintf(contents, sizeof contents, "%016llx", (unsigned long long)contents_hash(checkpoint.file));
    return text(fs::path(model_).filename().string(), ", iteration ", checkpoint.iteration, ", contents ", contents,
                "; generator's ",
                averaged("netG.") ? text("moving average (ema ", config_.ema, ")") : "parameters as they are",
                averaged("netE.") ? text("; EBM's moving average (ema-ebm ", config_.ema_ebm, ")") : "", "; seed ",
                seed_, "\nbatches of ", config_.sampler_batch, ", ", batch_norm_.text(config_.sampler_batch),
                "\nx-chain from ", config_.step.start_x, ": ", chain_text(chain), "\n");
}

// Fails if the folder holds images made with other settings.
void SampleCommand::open_outputs(const std::string& settings) {
    make_folder(out_);
    const std::string note = out_ + "/samples.txt";
    if (fs::exists(note) && read_file(note) != settings)
        fail("--out: ", out_,
             " holds images made with other settings (see its samples.txt); delete it or give another --out");
    for (const char* name : {"generator", "revised"}) {
        if (!has(name)) continue;
        Output output{name, nullptr, nullptr};
        if (npy_) output.array = std::make_unique<NpyWriter>(out_ + "/" + name + ".npy");
        else output.folder = std::make_unique<PngFolder>(out_ + "/" + name, count_);
        if (output.folder && output.folder->complete() > 0 && !fs::exists(note))
            fail("--out: ", out_, "/", name,
                 " holds images, but no samples.txt describes them; delete it or give another --out");
        outputs_.push_back(std::move(output));
    }
    write_file(note, settings);
}

void SampleCommand::write(int64_t first, const Samples& samples) {
    for (Output& output : outputs_) {
        const ImageSet& images = output.name == "generator" ? samples.generated : samples.revised;
        if (output.folder) output.folder->write(first, images);
        else output.array->write(images.pixels.data(), std::min(images.count, count_ - first), images.size);
    }
}

// How many leading images are complete in every kind.
int64_t SampleCommand::images_done() const {
    int64_t out = count_;
    for (const Output& output : outputs_) out = std::min(out, output.folder ? output.folder->complete() : 0);
    return out;
}

// Ranks share the batches out, and the first writes the images of all. Returns false after an interrupt.
bool SampleCommand::draw(Models& models) {
    const int64_t batch = config_.sampler_batch, before = of_first_rank(images_done()),
                  batches = (count_ + batch - 1) / batch, first = before == count_ ? batches : before / batch,
                  begin = std::min(count_, first * batch);
    if (before > 0) std::printf("%lld of %lld images are already done\n", (long long)before, (long long)count_);
    const SignalGuard signals;
    CountProgress counter("", "images", begin, count_);
    Samples kept;  // for picture and distance
    int64_t done = begin;
    const auto work = [&](int64_t index) {
        return to_bytes(
            draw_batch(models, index, batch, config_.step.start_x, config_.sampler, uint64_t(seed_), has("revised")));
    };
    const auto take = [&](int64_t, const std::string& bytes) {
        const Samples samples = samples_from_bytes(bytes, batch, models.settings.image_size());
        write(done, samples);
        if (done - begin < max_distance_images) {
            append_images(kept.generated, first_images(samples.generated, count_ - done));
            append_images(kept.revised, first_images(samples.revised, count_ - done));
        }
        done = std::min(count_, done + batch);
        counter.show(done);
    };
    try {
        const int64_t end = share_out(first, batches, work, take, [&] { return signals.interrupted(); });
        done = std::min(count_, end * batch);
    } catch (const std::exception& error) {
        const std::string hint = text(" (", done, " of ", count_,
                                      " images are complete; run the same command again to continue from there)");
        fail(explain(error), npy_ ? "" : hint);
    }
    counter.end();
    if (!first_rank()) return done == count_;
    if (begin == 0 && done > 0) write_picture(kept);
    if (done == count_) {
        for (const Output& output : outputs_)
            if (output.array) output.array->commit();
        finish(kept);
        return true;
    }
    if (npy_) std::printf("interrupted: a .npy file is written complete or not at all\n");
    else
        std::printf("interrupted: %lld of %lld images are in %s; run the same command again to continue\n",
                    (long long)done, (long long)count_, out_.c_str());
    return false;
}

void SampleCommand::write_picture(const Samples& samples) const {
    const ImageSet generator = first_images(samples.generated, picture_images),
                   revised = first_images(samples.revised, picture_images);
    std::vector<const ImageSet*> panels{&generator};
    if (revised.count > 0) panels.push_back(&revised);
    write_grid(out_ + "/samples.png", panels, 10, 64 / generator.size);
}

// Prints the number of images in each folder, and the distances of the newly drawn ones to the data.
void SampleCommand::finish(const Samples& kept) {
    for (const Output& output : outputs_) {
        if (output.folder) output.folder->check();
        std::printf("%s/%s%s: %lld images\n", out_.c_str(), output.name.c_str(), output.folder ? "" : ".npy",
                    (long long)count_);
    }
    const int64_t images = std::min(kept.generated.count, max_distance_images);
    if (images < 2 || data_set_.train.count < 2) return;
    const StatisticsDistance distance(data_set_.train);
    std::string line = text("statistics distance of ", images, " images to ", escaped(data_set_.train.name));
    const auto add = [&](const char* name, const ImageSet& set) {
        line += name + formatted(" %.3g", distance(first_images(set, images)));
    };
    if (has("generator")) add(": generator", kept.generated);
    if (has("revised")) add(has("generator") ? ", EBM-revised" : ": EBM-revised", kept.revised);
    if (!data_set_.none_held_out && data_set_.held_out.count >= images) add("; held-out images", data_set_.held_out);
    std::printf("%s\n", line.c_str());
}

int SampleCommand::run() {
    if (count_ < 1) fail("--count ", count_, ": must be at least 1");
    if (count_ > max_count) fail("--count ", count_, ": must be at most ", max_count);
    if (seed_ < 0) fail("--seed ", seed_, ": must be at least 0");
    std::printf("device: %s\n", select_device(device_, threads_, precision_).c_str());
    const LoadedCheckpoint checkpoint = read_checkpoint(model_);
    apply_overrides(checkpoint.config);
    Models models(config_.model, 0);
    load_checkpoint(checkpoint.file, model_, models, false);
    set_batch_norm(models, batch_norm_, config_.sampler_batch, uint64_t(seed_));
    if (first_rank()) load_data();
    const std::string text = settings(checkpoint);
    std::printf("%s", text.c_str());
    if (const std::string note = untrained_note(config_); !note.empty()) std::printf("%s\n", note.c_str());
    std::fflush(stdout);
    if (first_rank()) open_outputs(text);
    return draw(models) ? 0 : exit_code_of_interrupt();
}

// ---- export -------------------------------------------------------------------------------------

ExportCommand::ExportCommand(CLI::App& app)
    : command_(app.add_subcommand("export", "the images of a data set as a folder of PNGs for FID and IS")) {
    command_->add_option("--data", data_, "as in train")->required();
    command_
        ->add_option("--split", split_,
                     "train, test or all (default: all of a file or a folder of pictures, train of CIFAR and shapes)")
        ->check(CLI::IsMember({"train", "test", "all"}));
    command_->add_option("--count", count_, "number of images, from the first on (default: all)");
    command_->add_option("--out", out_, "folder for the images: 000000.png and so on")->capture_default_str();
    command_->add_option("--architecture", architecture_, "cifar10 (32x32 images) or celeba64 (64x64)")
        ->check(CLI::IsMember({"cifar10", "celeba64"}))
        ->capture_default_str();
    command_->add_option("--seed", seed_, "seed of the data set shapes")->capture_default_str();
}

ImageSet ExportCommand::load(int64_t size) const {
    if (split_.empty() || split_ == "all") {
        if (std::optional<ImageSet> whole = load_unsplit(data_, size)) return std::move(*whole);
        if (split_ == "all") fail("--split all: ", data_, " comes in two parts; export train and test to two folders");
    }
    Dataset data = load_dataset(data_, size, uint64_t(seed_));
    if (split_ == "test" && data.none_held_out)
        fail("--split test: no image of ", data_, " is held out; leave --split out to export all ", data.train.count);
    return std::move(split_ == "test" ? data.held_out : data.train);
}

int ExportCommand::run() {
    if (command_->count("--count") && count_ < 1) fail("--count ", count_, ": must be at least 1");
    if (seed_ < 0) fail("--seed ", seed_, ": must be at least 0");
    ModelSettings model;
    model.architecture = architecture_;
    const ImageSet images = load(model.image_size());
    if (count_ > images.count) fail("--count ", count_, ": ", images.name, " has ", images.count, " images");
    const int64_t count = count_ > 0 ? count_ : images.count;
    make_folder(out_);
    if (!fs::is_empty(out_)) fail("--out: ", out_, " is not empty; empty it or give another --out");
    const PngFolder folder(out_, count);
    folder.write(0, images);
    folder.check();
    std::printf("%s: %lld images of %s\n", out_.c_str(), (long long)count, images.name.c_str());
    return 0;
}

}  // namespace dualmcmc
