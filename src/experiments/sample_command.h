// `dualmcmc sample`: samples from a checkpoint as folders of PNGs, the format that FID and IS programs read. It works
// batch by batch, and an interrupted run can be continued. `dualmcmc export`: the images of a data set in the same
// format, the other input of the FID.
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
    void apply_overrides(const Config& trained);
    void load_data();
    std::string settings(const LoadedCheckpoint& checkpoint) const;
    void open_outputs(const std::string& settings);
    int64_t images_done() const;
    bool draw(Models& models);
    void write(int64_t first, const Samples& samples);
    void write_picture(const Samples& samples) const;
    void finish(const Samples& kept);
    bool has(const std::string& kind) const { return kind_ == kind || kind_ == "both"; }

    CLI::App* command_;
    std::string model_, out_ = "samples", kind_ = "both", data_, device_ = "auto", precision_ = "auto";
    int64_t count_ = 100, seed_ = 1, batch_ = 100;
    int64_t threads_ = 0;
    bool npy_ = false;
    ChainSettings chain_{};
    BatchNormMode batch_norm_;
    Config config_;     // the checkpoint's, with the flags applied
    Dataset data_set_;  // for the distance; empty if it cannot be loaded
    // The destination of one kind of images: either a folder or an array.
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
    ImageSet load(int64_t size) const;

    CLI::App* command_;
    std::string data_, out_ = "images", architecture_ = "cifar10", split_;
    int64_t count_ = 0, seed_ = 1;
};

}  // namespace dualmcmc
