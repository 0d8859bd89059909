// More errors of the command line, beside cli_test.cpp: bad image files, bad checkpoints with --resume, impossible
// folders. Each is one line on stderr that names the cause, with exit code 1, and leaves existing files unchanged.
#include <sys/wait.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>

#include "file_helpers.h"
#include "formats/npy.h"
#include "formats/safetensors.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;

class CommandLineFiles : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_TRUE(fs::exists(program_path())) << "build it first: make";
        fs::remove_all(folder_);
        fs::create_directories(folder_);
        const std::vector<uint8_t> pixels(9 * 32 * 32 * 3, 100);
        write_npy(in("images.npy"), {9, 32, 32, 3}, pixels.data());
    }
    void TearDown() override { fs::remove_all(folder_); }

    std::string in(const std::string& name) const { return folder_ + "/" + name; }
    int run(const std::string& arguments) const {
        const std::string command = "CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 " + program_path() + " " + arguments +
                                    " >" + in("out.txt") + " 2>" + in("error.txt");
        const int status = std::system(command.c_str());
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    void expect_refused(const std::string& arguments, std::initializer_list<std::string> parts) const {
        SCOPED_TRACE(arguments);
        const int exit_code = run(arguments);
        expect_refusal(exit_code, read_bytes(in("error.txt")), parts);
    }
    std::string training(const std::string& data) const {
        return "train --preset demo --width-generator 2 --width-ebm 2 --width-encoder 1 --latent 2 --steps-x 1 "
               "--steps-z 1 --batch 2 "
               "--iterations 1 --sampler-batch 4 --data " +
               in(data) + " --out " + in("run");
    }

    const std::string folder_ = temporary_path("cli_files");
};

// images.npy with a part of its header replaced by one of the same length.
TEST_F(CommandLineFiles, ImagesOfTheWrongKind) {
    const std::string whole = read_bytes(in("images.npy"));
    const struct {
        const char *from, *to, *message;
    } cases[] = {{"|u1", "<f8", "<f8"},
                 {"|u1", "|i1", "|i1"},
                 {"False", "True ", "Fortran"},
                 {"32, 32, 3,", "32, 24, 4,", "(9, 32, 24, 4"},
                 {"32, 32, 3,", "3, 32, 32,", "(9, 3, 32, 32"},
                 {"(9, ", "(99,", "truncated"},
                 {"(9, ", "(0, ", "(0, "},
                 {"'shape'", "'shade'", "shape"}};
    for (const auto& c : cases) {
        std::string bytes = whole;
        const size_t offset = bytes.find(c.from);
        ASSERT_NE(offset, std::string::npos) << c.from;
        bytes.replace(offset, std::strlen(c.from), c.to);
        write_bytes(in("bad.npy"), bytes);
        expect_refused(training("bad.npy"), {"bad.npy", c.message});
    }
    write_bytes(in("bad.npy"), whole.substr(0, whole.size() - 100));
    expect_refused(training("bad.npy"), {"bad.npy", "truncated"});
    expect_refused(training("images.npy") + " --batch 10", {"--batch 10", "9 images"});
    EXPECT_FALSE(fs::exists(in("run")));
}

TEST_F(CommandLineFiles, CheckpointsThatCannotBeResumed) {
    ASSERT_EQ(run(training("images.npy")), 0) << read_bytes(in("error.txt"));
    const std::string path = in("run/checkpoints/iteration-000001.safetensors");
    const SafetensorsFile good = read_safetensors(path);
    const std::string name = "netG.lin_1.weight", resume = "train --resume --iterations 2 --out " + in("run");
    auto refuse = [&](const std::function<void(SafetensorsFile&)>& change, std::initializer_list<std::string> parts) {
        SafetensorsFile file = good;
        change(file);
        file.metadata["checksum"] = tensors_checksum(file);  // changed on purpose, not damaged
        write_safetensors(path, file);
        const std::string before = read_bytes(path);
        expect_refused(resume, parts);
        EXPECT_EQ(read_bytes(path), before);
    };
    refuse([&](SafetensorsFile& f) { f.tensors.erase(name); }, {path, name, "missing"});
    refuse([&](SafetensorsFile& f) { f.tensors.erase("adam1." + name); }, {path, "adam1." + name, "missing"});
    refuse([&](SafetensorsFile& f) { f.tensors.erase("adam2." + name); }, {path, "adam2." + name, "missing"});
    refuse(
        [&](SafetensorsFile& f) {
            std::swap(f.tensors.at("adam2." + name).shape[0], f.tensors.at("adam2." + name).shape[1]);
        },
        {path, "adam2." + name, "(2, 32)", "(32, 2)"});
    refuse([&](SafetensorsFile& f) { f.tensors["netQ.weight"] = f.tensors.at(name); }, {path, "netQ.weight"});
    refuse([&](SafetensorsFile& f) { f.tensors.at("netI.conv51.bias").dtype = "I32"; },
           {path, "netI.conv51.bias", "I32", "F32"});
    refuse([&](SafetensorsFile& f) { f.metadata.at("iteration") = "-1"; }, {path, "iteration", "-1"});
    refuse([&](SafetensorsFile& f) { f.metadata.at("rollbacks") = "two"; }, {path, "rollbacks", "two"});
    refuse([&](SafetensorsFile& f) { f.metadata.at("architecture") = "celeba64"; }, {path, "celeba64"});
    refuse([&](SafetensorsFile& f) { f.metadata.erase("format"); }, {path, "format"});
    // The original file resumes.
    write_safetensors(path, good);
    EXPECT_EQ(run(resume), 0) << read_bytes(in("error.txt"));
}

TEST_F(CommandLineFiles, ImpossibleFolders) {
    write_bytes(in("file"), "in the way");
    expect_refused(training("images.npy") + " --out " + in("file"), {"--out", in("file")});
    expect_refused(training("images.npy") + " --out " + in("file/below"), {"--out", in("file/below")});
    expect_refused("train --config " + folder_, {"--config", folder_});
    expect_refused("sample --model " + folder_, {folder_, "folder"});
    expect_refused("check-step " + folder_, {folder_, "folder"});
    expect_refused("check-step " + in("images.npy"), {in("images.npy"), "safetensors"});
    ASSERT_EQ(run(training("images.npy")), 0) << read_bytes(in("error.txt"));
    const std::string model = in("run/checkpoints/iteration-000001.safetensors");
    expect_refused("sample --count 1 --steps-x 1 --batch 2 --model " + model + " --out " + in("file"),
                   {"--out", in("file")});
    expect_refused("check-step " + model, {model, "dual-mcmc-step-1"});
    EXPECT_EQ(read_bytes(in("file")), "in the way");
}

}  // namespace
}  // namespace dualmcmc::test
