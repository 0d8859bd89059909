// `dualmcmc sample`: images from a checkpoint, as folders of PNGs that programs for FID and IS read, batch by batch;
// what an interrupted run has written is gone on from. `dualmcmc export`: a data set's own images in the same form, the
// other side of the FID.
#pragma once
#include <CLI/CLI.hpp>

#include <memory>
#include <string>
#include <vector>

#include "experiments/common.h"
#include "experiments/png_folder.h"
#include "formats/npy.h"
#include "training/checkpoint.h"

namespace dualmcmc {

class SampleCommand {
public:
    explicit SampleCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    int run();

private:
    void lay_flags_over(const Config& trained);
    void load_data();
    std::string settings(const LoadedCheckpoint& checkpoint) const;
    void open_outputs(const std::string& settings);
    int64_t there() const;
    bool draw(Models& models);
    void write(int64_t first, const Samples& samples);
    void write_picture(const Samples& samples) const;
    void finish(const Samples& kept);
    bool has(const std::string& kind) const { return kind_ == kind || kind_ == "both"; }

    CLI::App* command_;
    std::string model_, out_ = "samples", kind_ = "both", data_, device_ = "auto", precision_ = "auto";
    int64_t count_ = 100, seed_ = 1, batch_ = 100;
    int threads_ = 0;
    bool npy_ = false;
    ChainSettings chain_{};
    BatchNormMode batch_norm_;
    Config config_;  // the checkpoint's, with the flags laid over it
    ImageSet real_;  // test images, for the distance; none where they cannot be had
    // Where each kind goes; one of the two.
    struct Output {
        std::string name;
        std::unique_ptr<PngFolder> folder;
        std::unique_ptr<NpyWriter> array;
    };
    std::vector<Output> outputs_;
};

class ExportCommand {
public:
    explicit ExportCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    int run();

private:
    CLI::App* command_;
    std::string data_, out_ = "images", architecture_ = "cifar10", split_ = "train";
    int64_t count_ = 0, seed_ = 1;
};

}  // namespace dualmcmc
