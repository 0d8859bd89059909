// The program as a user runs it: output, exit codes, files. Runs build/dualmcmc.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "check.h"
#include "file_helpers.h"
#include "formats/files.h"
#include "formats/npy.h"
#include "formats/safetensors.h"
#include "training/checkpoint.h"
#include "training/metrics.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;

struct Outcome {
    int code;
    std::string out, error;
};

std::string contents(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

// Each test works in an empty folder of its own.
class CommandLine : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_TRUE(fs::exists(program_path())) << "build it first: make";
        program_ = fs::absolute(program_path()).string();
        folder_ = temporary_path(std::string("cli_") + testing::UnitTest::GetInstance()->current_test_info()->name());
        fs::remove_all(folder_);
        fs::create_directories(folder_);
    }
    void TearDown() override { fs::remove_all(folder_); }

    std::string in(const std::string& name) const { return folder_ + "/" + name; }

    // Runs `before` and then the program with these arguments, in the folder, on one thread.
    Outcome run(const std::string& arguments, const std::string& before = "") const {
        const std::string command = "cd '" + folder_ + "' && unset CIFAR10_DIR; export CUDA_VISIBLE_DEVICES=; " +
                                    before + " OMP_NUM_THREADS=1 '" + program_ + "' " + arguments +
                                    " >out.txt 2>error.txt";
        const int status = std::system(command.c_str());
        return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(in("out.txt")), contents(in("error.txt"))};
    }

    // Exit code 1, and one line that names each of `words`.
    void expect_refused(const std::string& arguments, const std::vector<std::string>& words,
                        const std::string& before = "") const {
        const Outcome result = run(arguments, before);
        EXPECT_EQ(result.code, 1) << arguments << "\n" << result.out << result.error;
        EXPECT_EQ(std::count(result.error.begin(), result.error.end(), '\n'), 1) << arguments << "\n" << result.error;
        for (const std::string& word : words)
            EXPECT_NE(result.error.find(word), std::string::npos)
                << arguments << ": no '" << word << "' in " << result.error;
    }

    Outcome expect_runs(const std::string& arguments) const {
        const Outcome result = run(arguments);
        EXPECT_EQ(result.code, 0) << arguments << "\n" << result.out << result.error;
        return result;
    }

    // A checkpoint of a tiny trained model.
    std::string tiny_model() const {
        expect_runs(tiny + " --iterations 2 --out model");
        return in("model/checkpoints/iteration-000002.safetensors");
    }

    inline static const std::string tiny =
        "train --preset demo --width-generator 2 --width-ebm 2 --width-encoder 1 --latent 2 --batch 2 --steps-x 1 "
        "--steps-z 1 --sampler-batch 50";
    std::string folder_, program_;
};

TEST_F(CommandLine, HelpSucceeds) {
    for (const char* command :
         {"--help", "train --help", "sample --help", "export --help", "check-step --help", "bench --help"}) {
        const Outcome result = expect_runs(command);
        EXPECT_GT(result.out.size(), 100u) << command;
    }
    const std::string help = expect_runs("train --help").out;
    for (const char* flag :
         {"--preset",     "--architecture",     "--data",         "--out",     "--seed",          "--batch",
          "--iterations", "--epochs",           "--resume",       "--device",  "--threads",       "--width-generator",
          "--width-ebm",  "--width-encoder",    "--latent",       "--steps-x", "--step-size-x",   "--noise-x",
          "--steps-z",    "--step-size-z",      "--noise-z",      "--sigma",   "--ebm-negatives", "--lambda-data",
          "--lambda-ebm", "--lambda-generated", "--lr-generator", "--lr-ebm",  "--lr-encoder"})
        EXPECT_NE(help.find(flag), std::string::npos) << flag;
    for (const char* former : {"lambda-prior", "amortised", "guard", "return-lr-factor", "sample-every", "--keep "})
        EXPECT_EQ(help.find(former), std::string::npos) << former;
    EXPECT_EQ(expect_runs("--help").out.find("replay"), std::string::npos);
}

TEST_F(CommandLine, RefusesWhatMakesNoSense) {
    expect_refused("", {"subcommand"});
    expect_refused("trian --preset demo", {"no command 'trian'", "--help"});
    expect_refused("train --preset demo --batch 1e3", {"--batch", "1e3", "number"});
    expect_refused("train --preset demo --seed 99999999999999999999", {"99999999999999999999", "too large"});
    expect_refused("train --preset demo --seed=99999999999999999999", {"--seed 99999999999999999999", "too large"});
    expect_refused("bench --batch 0", {"--batch 0", "at least 1"});
    expect_refused("toys --method nope", {"--method nope", "exact"});
    expect_refused("toys --iterations 1 --evaluations 1 --out ''", {"--out", "empty"});
    expect_refused("train --preset nope", {"--preset nope", "cifar10-small", "demo"});
    expect_refused("train --nope 3", {"--nope", "--help"});
    expect_refused("train --preset demo --steps-x -3", {"--steps-x -3"});
    expect_refused("train --preset demo --steps-z -1", {"--steps-z -1"});
    expect_refused("train --preset demo --batch many", {"--batch", "many"});
    expect_refused("train --preset demo --batch 0", {"--batch 0", "at least 1"});
    expect_refused("train --preset demo --batch 20000", {"--batch 20000", "10000 images"});
    expect_refused("train --preset demo --noise-x 0", {"--noise-x 0"});
    expect_refused("train --preset demo --long-steps 6", {"--long-steps 6", "above --steps-x 6"});
    expect_refused("train --preset demo --long-steps -1", {"--long-steps -1", "from 0 to 65535"});
    expect_refused("train --preset demo --long-every 0", {"--long-every 0", "at least 1"});
    expect_refused("train --preset demo --long-steps 60 --ebm-negatives generated", {"--long-steps 60", "no chains"});
    expect_refused("train --preset demo --sigma nan", {"--sigma"});
    expect_refused("train --preset demo --rollback-lr-factor 1.5", {"--rollback-lr-factor 1.5"});
    expect_refused("train --preset demo --rollback-lr-factor 0", {"--rollback-lr-factor 0"});
    expect_refused("export", {"--data"});
    expect_refused("export --data missing", {"missing"});
    expect_refused("export --data shapes --count 20000", {"--count 20000", "10000 images"});
    expect_refused("train --preset demo --width-generator 0", {"--width-generator 0"});
    expect_refused("train --preset demo --architecture imagenet", {"imagenet", "celeba64"});
    expect_refused("train --preset celeba64 --data x.npy --width-ebm 10", {"--width-ebm 10", "16"});
    expect_refused("train --preset celeba64", {"--data", ".npy"});
    expect_refused("train --preset demo --device cuda", {"--device cuda", "cpu"});
    expect_refused("train --preset demo --device abacus", {"abacus"});
    expect_refused("train --preset demo --threads -1", {"--threads -1"});
    expect_refused("sample", {"--model"});
    expect_refused("sample --model missing.safetensors", {"missing.safetensors"});
    expect_refused("check-step missing.safetensors", {"missing.safetensors"});
    expect_refused("bench --batch 0", {"--batch"});
}

// Each number is one, in decimal, as a whole, within its range: in every command, and before anything is built.
TEST_F(CommandLine, RefusesNumbersThatAreNone) {
    const std::string train = "train --preset demo --iterations 1 --out x ";
    for (const char* value : {"''", "0x10", "' 4'", "4x", "1e2", "4.0", "nan", "-", "+-4", "'{}'"})
        expect_refused(train + "--batch " + value, {"--batch", "whole number"});
    expect_refused("toys --iterations 1 --evaluations 1 --seed ''", {"--seed is empty", "whole number"});
    for (const char* value : {"''", "0x1p3", "1.5s", "nan", "inf", "1e999", "1e-999", "' 1'", "1,5"})
        expect_refused(train + "--minutes " + value, {"--minutes", "number"});
    expect_refused(train + "--sigma 1e300", {"--sigma 1e300", "too large"});
    expect_refused(train + "--sigma 1e-60", {"--sigma 1e-60", "too close to 0"});
    expect_refused(train + "--minutes 1e30", {"--minutes 1e+30", "at most"});
    expect_refused("compare --minutes 1e30", {"--minutes 1e+30", "at most"});
    expect_refused(train + "--threads 4294967297", {"--threads 4294967297", "1024"});
    expect_refused("bench --threads 4294967297", {"--threads 4294967297", "1024"});
    expect_refused("bench --steps-x -1", {"--steps-x -1"});
    expect_refused("bench --steps-z -1", {"--steps-z -1"});
    expect_refused("bench --steps-z 9223372036854775807", {"--steps-z 9223372036854775807", "65535"});
    for (const char* value : {"abc", "3", "99999999999999999999", ""})
        expect_refused(train + "--flip=" + value, {"--flip"});
    expect_refused(train + "--no-flip=2", {"--no-flip=2", "true or false"});
    expect_refused(train + "--data ''", {"--data is empty"});
    // 010 is ten, as in config.txt, not eight.
    expect_runs(tiny + " --iterations 010 --out ten");
    EXPECT_TRUE(fs::exists(in("ten/checkpoints/iteration-000010.safetensors")));
}

TEST_F(CommandLine, RefusesSizesThatNoMachineHolds) {
    const std::string huge = " 9223372036854775807";
    for (const char* flag : {"batch", "latent", "width-generator", "width-ebm", "width-encoder", "steps-x", "steps-z",
                             "iterations", "epochs", "sampler-steps", "sampler-batch"})
        expect_refused("train --preset demo --out x --" + (flag + huge), {"--" + (flag + huge)});
    for (const char* flag : {"batch", "latent", "width-generator", "width-ebm", "width-encoder", "steps-x"})
        expect_refused("bench --" + (flag + huge), {"--" + (flag + huge)});
    // Within each flag's range, but more memory than there is.
    const std::string wide = " --width-generator 16384 --width-ebm 16384 --width-encoder 16384 --latent 16384";
    expect_refused("train --preset demo --out x" + wide, {"16384/16384/16384", "GiB of memory", "lower"},
                   "ulimit -v 3000000;");
    expect_refused("bench" + wide, {"GiB of memory"}, "ulimit -v 3000000;");
    expect_refused("compare --data shapes --set width-ebm=16384 --set width-generator=16384", {"GiB of memory"},
                   "ulimit -v 3000000;");
    const std::string model = " --model " + tiny_model();
    for (const char* command : {"sample", "reconstruct", "revise", "interpolate", "ood", "longrun", "ais"})
        expect_refused(command + model + " --batch" + huge, {"--batch" + huge});
    expect_refused("sample --count" + huge + model, {"--count" + huge});
    expect_refused("ood --batch-norm-batches" + huge + model, {"--batch-norm-batches" + huge});
    expect_refused("longrun --count 65536 --steps 10000000" + model, {"--count 65536", "GiB of memory"});
    expect_refused("ais --chains 65536" + model, {"--chains 65536", "GiB of memory"}, "ulimit -v 3000000;");
    // What the standard library throws without memory becomes a line.
    expect_refused("bench --batch 3000 --iterations 1", {"memory", "--batch"}, "ulimit -v 1500000;");
}

// A file's settings are checked against its tensors, its counts against what any run has.
TEST_F(CommandLine, RefusesHugeSettingsInSmallFiles) {
    const std::string model = tiny_model(), step = fs::absolute("reference/step_cifar10.safetensors").string();
    const auto refuse = [&](const std::string& from, const std::string& key, const std::string& value,
                            const std::string& command) {
        SafetensorsFile file = read_safetensors(from);
        file.metadata[key] = value;
        write_safetensors(in("bad.safetensors"), file);
        // Far less memory than networks of such widths would take.
        expect_refused(command + " bad.safetensors", {"bad.safetensors"}, "ulimit -v 3000000;");
    };
    for (const char* key : {"width-generator", "width-ebm", "width-encoder", "latent"})
        for (const char* value : {"16384", "9223372036854775807", "3"})
            refuse(model, key, value, "sample --count 2 --model");
    for (const char* key : {"batch", "sampler-batch", "sampler-steps", "steps-x", "epochs", "iteration", "rollbacks"})
        for (const char* value : {"9223372036854775807", "99999999999999999999", "-1", "", "0x10", "1e3", "4 "})
            refuse(model, key, value, "longrun --model");
    for (const char* key : {"noise-x", "sigma", "minutes", "lr-ebm", "step-size-z"})
        for (const char* value : {"1e999", "nan", "", "0x1p3", "1;2", "-1"}) refuse(model, key, value, "ais --model");
    for (const char* key : {"width", "inference_width", "latent", "batch", "steps_x", "steps_z"})
        for (const char* value : {"9223372036854775807", "1e6", "", "0x10", "nan", "-1"})
            refuse(step, key, value, "check-step");
    for (const char* key : {"sig", "e_l_step_size", "e_n_step_size", "l_step_size", "lrG"})
        for (const char* value : {"1e300", "nan", "", "0x1p3", "1 "}) refuse(step, key, value, "check-step");
    for (const char* value : {"0", "1e-30", "1e30"}) refuse(step, "e_n_step_size", value, "check-step");
    refuse(step, "method", "em", "check-step");
}

// T = (noise / step size)^2. Noise of exactly 0 is gradient descent, which the samplers allow.
TEST_F(CommandLine, RefusesTemperaturesThatAreNone) {
    const std::string train = "train --preset demo --iterations 1 --out x ", model = " --model " + tiny_model();
    for (const char* value : {"0", "1e-30", "1e30"}) {
        expect_refused(train + "--noise-x " + value, {"--noise-x"});
        expect_refused(train + "--method vae --noise-x " + value, {"--noise-x"});
    }
    expect_refused(train + "--step-size-x 1e18 --noise-x 1e-5", {"--noise-x", "temperature"});
    expect_refused(train + "--noise-z 1e-30", {"--noise-z", "temperature"});
    expect_refused(train + "--sampler-noise 1e-30", {"--sampler-noise", "temperature"});
    expect_refused(train + "--step-size-x 1e-30", {"--noise-x", "--step-size-x", "temperature"});
    expect_refused(train + "--step-size-z 1e30", {"--noise-z", "--step-size-z", "temperature"});
    expect_refused(train + "--step-size-z 1e30 --noise-z 0", {"--step-size-z 1e+30", "square"});
    expect_refused(train + "--sigma 1e-30", {"--sigma"});
    for (const char* command : {"sample", "revise", "longrun"})
        expect_refused(command + model + " --noise-x 1e-30", {"--noise-x", "temperature"});
    for (const char* command : {"reconstruct", "revise", "interpolate"})
        expect_refused(command + model + " --noise-z 1e-30", {"--noise-z", "temperature"});
    expect_runs("sample" + model + " --noise-x 0 --count 2 --batch 2 --out pictures");
}

// Nothing that a file or the command line holds reaches the terminal as a command.
TEST_F(CommandLine, MessagesAreEscaped) {
    const std::string evil = "a\x1b[31m\xff\xc2\x9b\xe2\x80\xae", shown = "a\\x1b[31m\\xff\\xc2\\x9b\\xe2\\x80\\xae";
    write_bytes(in("name.txt"), evil + " = 3\n");
    expect_refused("train --config name.txt", {"name.txt:1", "'" + shown + "'"});
    write_bytes(in("line.txt"), evil + "\n");
    expect_refused("train --config line.txt", {"line.txt:1", "'" + shown + "'"});
    write_bytes(in("value.txt"), "batch = " + evil + "\n");
    expect_refused("train --config value.txt", {"value.txt:1", shown});
    write_bytes(in("data.txt"), "data = " + evil + "\n");
    expect_refused("train --preset demo --config data.txt", {shown});
    write_bytes(in("twice.txt"), "preset = demo\npreset = " + evil + "\n");
    expect_refused("train --config twice.txt", {"twice.txt:2"});
    expect_refused("train --preset '" + evil + "'", {shown});
    expect_refused("train --'" + evil + "' 3", {shown});
    expect_refused("'" + evil + "'", {shown});
    const std::string model = tiny_model();
    const auto refuse = [&](const std::function<void(SafetensorsFile&)>& change) {
        SafetensorsFile file = read_safetensors(model);
        change(file);
        write_safetensors(in("bad.safetensors"), file);
        expect_refused("sample --count 2 --model bad.safetensors", {shown});
    };
    for (const char* key : {"format", "preset", "method", "data", "batch", "architecture", "start-x", "iteration"})
        refuse([&](SafetensorsFile& f) { f.metadata[key] = evil; });
    // A line break in a setting would make two settings of it in config.txt.
    expect_refused("train --preset demo --data 'a\nbatch = 3'", {"--data", "control character"});
}

// Before anything slow begins: the data is refused right after it.
TEST_F(CommandLine, WarnsOfThePapersWidthsOnACpu) {
    const auto warned = [&](const std::string& flags) {
        const Outcome result = run("train --data missing " + flags);
        EXPECT_NE(result.error.find("folder missing"), std::string::npos) << result.error;
        return result.out.find("\nwarning: no GPU is used") != std::string::npos;
    };
    std::ofstream(in("config.txt")) << "preset = cifar10\n";
    for (const char* flags : {"--preset cifar10", "--preset celeba64", "--config config.txt", "--device auto",
                              "--preset demo --width-ebm 512"})
        EXPECT_TRUE(warned(flags)) << flags;
    for (const char* flags : {"--preset cifar10 --device cpu", "--preset cifar10-small", "--preset demo",
                              "--preset cifar10 --width-generator 64 --width-ebm 64"})
        EXPECT_FALSE(warned(flags)) << flags;
}

TEST_F(CommandLine, RefusesBadData) {
    expect_refused("train --preset cifar10", {"data/cifar-10-batches-bin", "cifar10.sh"});
    expect_refused("train --preset cifar10 --data missing", {"missing"});
    fs::create_directories(in("cifar"));
    for (const char* name :
         {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"})
        std::ofstream(in("cifar/") + name + ".bin") << "too short";
    expect_refused("train --preset cifar10 --data cifar", {"data_batch_1.bin", "30730000"});
    const std::vector<uint8_t> pixels(4 * 20 * 20 * 3, 7);
    write_npy(in("small.npy"), {4, 20, 20, 3}, pixels.data());
    expect_refused("train --preset demo --data small.npy", {"small.npy", "20", "32"});
    std::ofstream(in("text.npy")) << "no npy at all";
    expect_refused("train --preset demo --data text.npy", {"text.npy"});
    EXPECT_FALSE(fs::exists(in("runs"))) << "a refused run leaves nothing behind";
}

TEST_F(CommandLine, RefusesBadConfigurations) {
    expect_refused("train --config missing.txt", {"missing.txt"});
    std::ofstream(in("bad.txt")) << "# a comment\nbatch = 4\nno equals sign\n";
    expect_refused("train --config bad.txt", {"bad.txt:3", "no equals sign"});
    std::ofstream(in("unknown.txt")) << "colour = red\n";
    expect_refused("train --config unknown.txt", {"unknown.txt:1", "colour"});
    std::ofstream(in("value.txt")) << "batch = four\n";
    expect_refused("train --config value.txt", {"value.txt:1", "four"});
    std::ofstream(in("twice.txt")) << "batch = 4\nseed = 1\nbatch = 5\n";
    expect_refused("train --config twice.txt", {"twice.txt:3", "'batch' is set twice"});
    std::ofstream(in("binary.txt"), std::ios::binary).write("batch\0= 4\n", 10);
    expect_refused("train --config binary.txt", {"binary.txt", "not a text file"});
}

TEST_F(CommandLine, RefusesDamagedCheckpoints) {
    const std::string model = tiny_model(), whole = contents(model);
    auto refuse = [&](const std::string& bytes, const std::vector<std::string>& words) {
        std::ofstream(in("bad.safetensors"), std::ios::binary) << bytes;
        expect_refused("sample --model bad.safetensors --count 2", words);
    };
    refuse(whole.substr(0, whole.size() / 2), {"bad.safetensors"});
    refuse(whole.substr(0, 5), {"bad.safetensors"});
    refuse("\xff\xff\xff\xff\xff\xff\xff\x7f" + whole.substr(8), {"bad.safetensors", "header"});
    std::string json = whole;
    json[8] = '[';
    refuse(json, {"bad.safetensors"});

    auto tamper = [&](const std::function<void(SafetensorsFile&)>& change, const std::vector<std::string>& words) {
        SafetensorsFile file = read_safetensors(model);
        change(file);
        file.metadata["checksum"] = tensors_checksum(file);  // changed on purpose, not damaged
        write_safetensors(in("bad.safetensors"), file);
        expect_refused("sample --model bad.safetensors --count 2", words);
    };
    const std::string name = "netG.conv5.weight";
    tamper([&](SafetensorsFile& f) { f.tensors.erase(name); }, {name, "missing"});
    tamper([&](SafetensorsFile& f) { f.tensors["netG.extra"] = f.tensors.at(name); }, {"netG.extra"});
    tamper([&](SafetensorsFile& f) { std::swap(f.tensors.at(name).shape[0], f.tensors.at(name).shape[1]); },
           {name, "shape"});
    tamper([&](SafetensorsFile& f) { std::fill_n(f.tensors.at(name).bytes.begin(), 4, char(-1)); }, {name, "finite"});
    tamper([&](SafetensorsFile& f) { f.metadata["width-ebm"] = "many"; }, {"width-ebm", "many"});
    tamper([&](SafetensorsFile& f) { f.metadata["format"] = "other"; }, {"other"});

    std::string changed = whole;
    changed.back() = char(changed.back() ^ 1);
    refuse(changed, {"bad.safetensors", "checksum", "intact copy"});

    // --resume takes the one before it. Flags that would need other networks are refused.
    const std::string newest = "model/checkpoints/iteration-000003.safetensors";
    std::ofstream(in(newest), std::ios::binary) << whole.substr(0, 1000);
    EXPECT_NE(expect_runs("train --resume --out model").out.find("damaged, and now named " + newest + ".damaged"),
              std::string::npos);
    expect_refused("train --resume --out model --width-ebm 4", {"--resume", "width"});
}

TEST_F(CommandLine, RefusesToLoseARun) {
    expect_refused("train --resume --out nowhere", {"nowhere", "--resume"});
    expect_refused(tiny + " --iterations 1 --out /proc/nowhere", {"/proc/nowhere"});
    tiny_model();
    expect_refused(tiny + " --iterations 2 --out model", {"model", "--resume"});
}

TEST_F(CommandLine, TwoRunsDoNotShareAFolder) {
    const FolderLock other(folder_, "the test trains");
    expect_refused(tiny + " --iterations 1 --out .", {"--out .", "another program trains there"});
    expect_runs(tiny + " --iterations 1 --out below");
}

TEST_F(CommandLine, FullDiskIsNoticedOnStdout) {
    for (const char* arguments : {"--help", "export --data shapes --count 1 --out pictures"}) {
        const int status = std::system(
            ("cd '" + folder_ + "' && '" + program_ + "' " + arguments + " >/dev/full 2>error.txt").c_str());
        EXPECT_EQ(WEXITSTATUS(status), 1) << arguments;
        EXPECT_NE(contents(in("error.txt")).find("disk full"), std::string::npos) << contents(in("error.txt"));
    }
}

TEST_F(CommandLine, FullDiskLeavesTheEarlierCheckpointWhole) {
    const std::string model = tiny_model(), before = contents(model);
    // No file may be as large as a checkpoint (in blocks of 512 bytes): the next one cannot be written.
    const int64_t blocks = int64_t(before.size()) / 512 - 1;
    ASSERT_GT(blocks * 512, 12'000) << "config.txt and metrics.csv, which are written before, must fit";
    expect_refused("train --resume --out model --iterations 9 --checkpoint-every 3 --eval-every 100",
                   {"model/checkpoints/iteration-000003.safetensors", "cannot write"},
                   text("ulimit -f ", blocks, "; trap '' XFSZ;"));
    EXPECT_EQ(contents(model), before);
    for (const auto& entry : fs::directory_iterator(in("model/checkpoints")))
        EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
    expect_runs("train --resume --out model --iterations 3");
}

// metrics.csv, which grows by a row an iteration, may not become longer than config.txt and a little.
TEST_F(CommandLine, FullDiskEndsMetrics) {
    tiny_model();
    const int64_t blocks = int64_t(fs::file_size(in("model/config.txt"))) / 512 + 3;
    expect_refused("train --resume --out model --iterations 100000 --checkpoint-every 100000 --eval-every 100000",
                   {"model/metrics.csv", "disk full"}, text("ulimit -f ", blocks, "; trap '' XFSZ;"));
    const MetricsTable written = parse_metrics(contents(in("model/metrics.csv")));
    EXPECT_GT(written.rows.size(), 10u);
    for (size_t i = 0; i < written.rows.size(); ++i) EXPECT_EQ(written.rows[i][0], std::to_string(i));
    expect_runs("train --resume --out model --iterations 3");
    EXPECT_EQ(parse_metrics(contents(in("model/metrics.csv"))).rows.size(), 4u);  // the untrained networks; 1, 2, 3
}

// One line of JSON for each line of input: reference/bench.py reads them.
TEST_F(CommandLine, BenchServesAnIterationForEachLine) {
    const Outcome result =
        run("bench --serve --width-generator 2 --width-ebm 2 --width-encoder 1 --latent 2 --batch 2 --steps-x 2 "
            "--steps-z 1",
            "printf 'one\\nmore\\n' |");
    EXPECT_EQ(result.code, 0) << result.error;
    std::istringstream lines(result.out);
    int answers = 0;
    for (std::string line; std::getline(lines, line); ++answers) {
        double total, parts[5], peak, device;
        int end = 0;
        ASSERT_EQ(std::sscanf(line.c_str(),
                              "{\"total\": %lf, \"x_chain\": %lf, \"z_chain\": %lf, \"generator\": %lf, "
                              "\"encoder\": %lf, \"ebm\": %lf, \"peak_mib\": %lf, \"device_mib\": %lf}%n",
                              &total, &parts[0], &parts[1], &parts[2], &parts[3], &parts[4], &peak, &device, &end),
                  8)
            << line;
        EXPECT_EQ(size_t(end), line.size()) << line;
        double sum = 0;
        for (const double part : parts) sum += part;
        EXPECT_NEAR(total, sum, 6 * 0.00005) << "each is rounded to four digits: " << line;
        EXPECT_GT(total, 0) << line;
        EXPECT_GT(peak, 1) << line;
    }
    EXPECT_EQ(answers, 2) << result.out;
}

// A run that its time ends is evaluated and saved, and goes on as one of so many iterations does.
TEST_F(CommandLine, MinutesEndARun) {
    tiny_model();
    const auto rows = [&] { return parse_metrics(contents(in("model/metrics.csv"))).rows; };
    expect_runs("train --resume --out model --iterations 1000000000 --minutes 0.02 --eval-every 1000000");
    const std::vector<std::string> last = rows().back();
    const int64_t done = std::stoll(last[0]);
    EXPECT_GT(done, 2);
    EXPECT_EQ(std::count(last.begin(), last.end(), ""), 0) << "it has the distances of an evaluation";
    expect_runs(text("train --resume --out model --minutes 0 --iterations ", done + 2));
    EXPECT_EQ(rows().back()[0], std::to_string(done + 2));
    expect_runs(text(tiny, " --out whole --iterations ", done + 2));
    const SafetensorsFile parts = read_safetensors(checkpoint_path(in("model"), done + 2)),
                          whole = read_safetensors(checkpoint_path(in("whole"), done + 2));
    ASSERT_EQ(parts.tensors.size(), whole.tensors.size());
    for (const auto& [name, tensor] : whole.tensors) EXPECT_EQ(parts.tensors.at(name).bytes, tensor.bytes) << name;
}

TEST_F(CommandLine, IterationsCountFromTheStart) {
    expect_runs(tiny + " --iterations 4 --out run");
    expect_runs("train --iterations 8 --resume --out run");
    EXPECT_TRUE(fs::exists(in("run/checkpoints/iteration-000008.safetensors")));
    const std::string metrics = contents(in("run/metrics.csv"));
    EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 10);  // a header, the untrained networks, eight rows
    EXPECT_NE(expect_runs("train --iterations 8 --resume --out run").out.find("nothing to do"), std::string::npos);
}

TEST_F(CommandLine, ConfigurationReproducesTheRun) {
    expect_runs(tiny + " --iterations 3 --seed 5 --no-resample --lambda-ebm 7 --out first");
    expect_runs("train --config first/config.txt --out second");
    const SafetensorsFile a = read_safetensors(in("first/checkpoints/iteration-000003.safetensors")),
                          b = read_safetensors(in("second/checkpoints/iteration-000003.safetensors"));
    ASSERT_EQ(a.tensors.size(), b.tensors.size());
    for (const auto& [name, tensor] : a.tensors) EXPECT_EQ(tensor.bytes, b.tensors.at(name).bytes) << name;
    EXPECT_EQ(a.metadata.at("lambda-ebm"), "7");
}

// Former names of settings, as flags and in files, give the same run; what is written has the current names.
TEST_F(CommandLine, FormerNamesAreAccepted) {
    const std::string shared = tiny + " --iterations 1 --out ";
    expect_runs(
        shared +
        "now --method vae --lambda-generated 0.375 --max-energy-gap 123 --rollback-lr-factor 0.5 --eval-every 17 "
        "--keep-checkpoints=9 --joint-elbo");
    expect_runs(shared +
                "flags --method vae --lambda-prior 0.375 --guard 123 --return-lr-factor 0.5 --sample-every 17 --keep=9 "
                "--amortised");
    std::ofstream(in("old.txt"))
        << "method = vae\nlambda-prior = 0.375\nguard = 123\nreturn-lr-factor = 0.5\nsample-every = 17\n"
           "keep = 9\namortised = true\n";
    expect_runs(shared + "file --config old.txt");
    const auto settings = [&](const std::string& out) {
        const std::string lines = contents(in(out + "/config.txt"));
        return lines.substr(lines.find("\n# seed of"));
    };
    for (const char* line : {"lambda-generated = 0.375", "max-energy-gap = 123", "rollback-lr-factor = 0.5",
                             "eval-every = 17", "keep-checkpoints = 9", "joint-elbo = true"})
        EXPECT_NE(settings("now").find(text("\n", line, "\n")), std::string::npos) << line;
    EXPECT_EQ(settings("flags"), settings("now"));
    EXPECT_EQ(settings("file"), settings("now"));
    EXPECT_EQ(contents(in("flags/config.txt")).find("amortised"), std::string::npos);

    // The later flag wins, whichever its name; messages have the current names.
    expect_runs(shared + "both --guard 5 --max-energy-gap 6 --keep 3 --keep-checkpoints 4 --sample-every 7");
    expect_runs(shared + "reversed --max-energy-gap 6 --guard 5 --no-amortised --amortised");
    EXPECT_NE(settings("both").find("\nmax-energy-gap = 6\n"), std::string::npos);
    EXPECT_NE(settings("reversed").find("\nmax-energy-gap = 5\n"), std::string::npos);
    EXPECT_NE(settings("reversed").find("\njoint-elbo = true\n"), std::string::npos);
    expect_refused("train --preset demo --return-lr-factor 1.5", {"--rollback-lr-factor 1.5"});
    expect_refused("train --preset demo --keep many", {"--keep-checkpoints", "many", "number"});
    expect_refused("compare --iterations 1 --set keep=2 --set keep-checkpoints=3", {"keep-checkpoints", "twice"});
    std::ofstream(in("both.txt")) << "guard = 4\nmax-energy-gap = 4\n";
    expect_refused("train --config both.txt", {"both.txt:2", "'max-energy-gap' is set twice"});
}

// The order of precedence in experiments/train_command.h.
TEST_F(CommandLine, LaterSourcesOfSettingsOverrideEarlierOnes) {
    std::ofstream(in("file.txt")) << "method = vae\nlearn-ebm = true\nsigma = 0.5\nbatch = 3\n";
    const auto expect_settings = [&](const std::string& flags, const std::vector<std::string>& lines) {
        expect_runs(tiny + " --config file.txt --iterations 1 --out run " + flags);
        for (const std::string& line : lines)
            EXPECT_NE(contents(in("run/config.txt")).find("\n" + line + "\n"), std::string::npos) << flags << line;
        fs::remove_all(in("run"));
    };
    // The preset; the method's switches; the file over both; flags over the file.
    expect_settings(
        "", {"ema = 0.99", "method = vae", "joint-elbo = true", "learn-ebm = true", "sigma = 0.5", "batch = 2"});
    // --method: its switches over the file's, which otherwise applies; flags over the switches.
    expect_settings("--method abp", {"method = abp", "joint-elbo = false", "learn-ebm = false", "sigma = 0.5"});
    expect_settings("--learn-ebm --method abp", {"method = abp", "learn-ebm = true", "learn-encoder = false"});
    // --resume: the checkpoint, with its method's switches as they are in it, the file, the flags.
    std::ofstream(in("again.txt")) << "sigma = 0.75\nlr-ebm = 0.25\n";
    expect_runs(tiny + " --method vae --learn-ebm --iterations 1 --out run");
    expect_runs("train --resume --out run --config again.txt --lr-ebm 0.5 --iterations 2");
    for (const std::string line : {"learn-ebm = true", "sigma = 0.75", "lr-ebm = 0.5", "batch = 2", "preset = demo"})
        EXPECT_NE(contents(in("run/config.txt")).find("\n" + line + "\n"), std::string::npos) << line;
}

// A batch system's SIGTERM, a closed terminal's SIGHUP and the end of the program that reads the output do what Ctrl-C
// does. (A shell started in the background may ignore SIGINT, but the program does not.)
TEST_F(CommandLine, EverySignalWritesACheckpoint) {
    for (const auto& [name, number] : {std::pair("INT", 2), std::pair("TERM", 15), std::pair("HUP", 1)}) {
        const std::string out = std::string("run") + name;
        run("", signal_when("grep -q ^1, " + out + "/metrics.csv", name) + "env --default-signal OMP_NUM_THREADS=1 '" +
                    program_ + "' " + tiny + " --iterations 100000 --out " + out +
                    " >run.txt 2>&1; echo $? >code.txt;");
        EXPECT_EQ(contents(in("code.txt")), text(128 + number, "\n")) << contents(in("run.txt"));
        EXPECT_NE(contents(in("run.txt")).find("--resume --out " + out), std::string::npos) << contents(in("run.txt"));
        EXPECT_GT(std::distance(fs::directory_iterator(in(out + "/checkpoints")), fs::directory_iterator()), 1);
    }
    run("", "(OMP_NUM_THREADS=1 '" + program_ + "' " + tiny +
                " --log-every 1 --iterations 100000 --out pipe; echo $? >code.txt) 2>&1 | head -6 >run.txt;");
    EXPECT_EQ(contents(in("code.txt")), "141\n");
    EXPECT_GT(std::distance(fs::directory_iterator(in("pipe/checkpoints")), fs::directory_iterator()), 1);
}

// In the middle of an iteration that takes minutes, and without a checkpoint of it. The first one alone does not end
// it.
TEST_F(CommandLine, ASecondInterruptEndsAtOnce) {
    const std::string second = "sleep 0.5; kill -0 $pid && touch alive; kill -s INT $pid; ";
    run("", "ulimit -t 60; " + signal_when("test -e run/report.html && sleep 0.5", "INT", second) +
                "env --default-signal OMP_NUM_THREADS=1 '" + program_ + "' " + tiny +
                " --batch 50 --steps-x 65535 --iterations 2 --out run >run.txt 2>&1; echo $? >code.txt;");
    EXPECT_TRUE(fs::exists(in("alive"))) << contents(in("run.txt"));
    EXPECT_EQ(contents(in("code.txt")), "130\n") << contents(in("run.txt"));
    EXPECT_NE(contents(in("run.txt")).find("dualmcmc: interrupted\n"), std::string::npos) << contents(in("run.txt"));
    EXPECT_EQ(std::distance(fs::directory_iterator(in("run/checkpoints")), fs::directory_iterator()), 1);
}

// Where there is nothing to save, a signal ends the program at once, with one line.
TEST_F(CommandLine, SignalsEndExperimentsAtOnce) {
    const std::string model = tiny_model();
    run("", signal_when("grep -q x-chain run.txt", "HUP") + "env --default-signal OMP_NUM_THREADS=1 '" + program_ +
                "' longrun --steps 10000000 --model " + model + " --out long >run.txt 2>&1; echo $? >code.txt;");
    EXPECT_EQ(contents(in("code.txt")), "129\n") << contents(in("run.txt"));
    EXPECT_NE(contents(in("run.txt")).find("dualmcmc: interrupted\n"), std::string::npos);
}

// Two programs that write the same page at the same time: each page is whole.
TEST_F(CommandLine, ReportsBesideEachOther) {
    tiny_model();
    const std::string loop = "for i in 1 2 3 4 5 6 7 8; do '" + program_ +
                             "' report model >out.txt 2>>error2.txt || touch failed; "
                             "tail -c 8 model/report.html | grep -q '</html>' || touch half; done";
    run("", "(" + loop + ") & (" + loop + "); wait;");
    EXPECT_FALSE(fs::exists(in("failed"))) << contents(in("error2.txt"));
    EXPECT_FALSE(fs::exists(in("half")));
    for (const auto& entry : fs::directory_iterator(in("model"))) EXPECT_NE(entry.path().extension(), ".tmp");
}

// A program killed while it writes leaves a temporary file, which the next one removes.
TEST_F(CommandLine, LeftOverTemporaryFilesAreRemoved) {
    const std::string model = tiny_model();
    const std::string killed[] = {"model/config.txt.999999999.tmp",
                                  "model/samples/iteration-000002-samples.png.999999999.tmp",
                                  "model/checkpoints/iteration-000003.safetensors.999999999.tmp"};
    for (const std::string& name : killed) std::ofstream(in(name)) << "half";
    std::ofstream(in("model/notes.tmp")) << "mine";
    expect_runs("train --resume --iterations 3 --out model");
    for (const std::string& name : killed) EXPECT_FALSE(fs::exists(in(name))) << name;
    EXPECT_TRUE(fs::exists(in("model/notes.tmp")));
}

// --init: the networks of a checkpoint, as `sample` uses them, with fresh optimisers at iteration 0.
TEST_F(CommandLine, InitStartsFromTheNetworksOfACheckpoint) {
    const std::string model = tiny_model();
    const std::string start = "train --preset demo --steps-x 1 --steps-z 1 --batch 3 --sampler-batch 50 --seed 9 ";
    const Outcome result = expect_runs(start + "--iterations 1 --out tuned --keep-checkpoints 9 --init " + model);
    EXPECT_NE(result.out.find("networks at iteration 0: those of " + model), std::string::npos) << result.out;
    EXPECT_NE(contents(in("tuned/config.txt")).find("\ninit = " + model + "\n"), std::string::npos);
    EXPECT_NE(contents(in("tuned/config.txt")).find("\nwidth-generator = 2\n"), std::string::npos);
    const SafetensorsFile from = read_safetensors(model),
                          to = read_safetensors(in("tuned/checkpoints/iteration-000000.safetensors"));
    int averages = 0, networks = 0;
    for (const auto& [name, tensor] : to.tensors) {
        if (name.starts_with("adam")) {
            EXPECT_EQ(tensor.bytes, std::vector<char>(tensor.bytes.size(), 0)) << name;
        }
        if (!name.starts_with("net") || name.ends_with("num_batches_tracked")) continue;
        const auto average = from.tensors.find("ema." + name);
        averages += average != from.tensors.end();
        ++networks;
        EXPECT_EQ(tensor.bytes, (average != from.tensors.end() ? average->second : from.tensors.at(name)).bytes)
            << name;
    }
    EXPECT_GT(averages, 5);
    EXPECT_GT(networks, averages);
    // Resuming needs the file no more; the settings repeat the run while it is there.
    fs::rename(in("model"), in("moved"));
    expect_runs("train --resume --out tuned --iterations 2");
    EXPECT_NE(contents(in("tuned/config.txt")).find("\ninit = " + model + "\n"), std::string::npos);
    expect_refused("train --config tuned/config.txt --out again", {model, "No such file"});
    fs::rename(in("moved"), in("model"));
    expect_runs("train --config tuned/config.txt --out again --iterations 1 --keep-checkpoints 9");
    EXPECT_EQ(contents(in("again/checkpoints/iteration-000000.safetensors")).size(),
              contents(in("tuned/checkpoints/iteration-000000.safetensors")).size());
    for (const auto& [name, tensor] : read_safetensors(in("again/checkpoints/iteration-000001.safetensors")).tensors)
        EXPECT_EQ(tensor.bytes,
                  read_safetensors(in("tuned/checkpoints/iteration-000001.safetensors")).tensors.at(name).bytes);
    // Without --preset that of the model; networks of other shapes are refused.
    expect_runs("train --steps-x 1 --steps-z 1 --batch 2 --sampler-batch 50 --iterations 1 --out plain --init " +
                model);
    EXPECT_NE(contents(in("plain/config.txt")).find("\npreset = demo\n"), std::string::npos);
    expect_refused(start + "--width-ebm 4 --init " + model, {"--init", model, "widths 2/2/1", "width flags"});
    expect_refused("train --preset celeba64 --data x --init " + model,
                   {"--init", "cifar10 networks", "--preset celeba64"});
    expect_refused("train --resume --out tuned --init " + model, {"--init", "--resume"});
    expect_refused(start + "--init missing.safetensors", {"missing.safetensors", "No such file"});
    std::ofstream(in("authors.pth")) << "PK\3\4" + std::string(22, '\0') +
                                            std::string("\x10\0\0\0archive/data.pkl", 20);
    expect_refused(start + "--init authors.pth", {"authors.pth", "convert_release.py to-safetensors authors.pth"});
    expect_refused("sample --model authors.pth", {"convert_release.py to-safetensors authors.pth authors.safetensors"});
    expect_refused("reconstruct --model authors.pth", {"convert_release.py"});
}

// What `export` and `sample` write are folders of pictures.
TEST_F(CommandLine, FoldersOfPicturesAreData) {
    const std::string model = tiny_model();
    expect_runs("export --data shapes --count 12 --out pictures");
    expect_runs("sample --model " + model + " --count 3 --batch 2 --steps-x 1 --out samples");
    EXPECT_NE(expect_runs("export --data pictures --out again").out.find("again: 12 images"), std::string::npos);
    for (const auto& entry : fs::directory_iterator(in("pictures")))
        EXPECT_EQ(contents(in("again/" + entry.path().filename().string())), contents(entry.path().string()));
    EXPECT_NE(expect_runs("export --data samples --out both").out.find("both: 6 images of samples"), std::string::npos);
    const Outcome trained = expect_runs(tiny + " --iterations 1 --out run --data pictures");
    EXPECT_NE(trained.out.find("12 training images; none are held out"), std::string::npos) << trained.out;
    EXPECT_NE(trained.out.find("statistics distance of 8 samples: generator"), std::string::npos) << trained.out;
    const std::string ood =
        expect_runs("ood --model " + model + " --against pictures --against samples/revised --count 20").out;
    EXPECT_NE(ood.find("pictures                         12 images: AUROC"), std::string::npos) << ood;
    EXPECT_NE(ood.find("samples/revised                   3 images: AUROC"), std::string::npos) << ood;
    expect_refused("export --data pictures --split test --out test", {"--split test", "held out"});
    expect_refused("export --data shapes --split all --out all", {"--split all", "two parts"});
    fs::create_directory(in("nothing"));
    expect_refused(tiny + " --data nothing", {"nothing", "PNG or JPEG"});
}

TEST_F(CommandLine, APipeIsRefusedAtOnce) {
    ASSERT_EQ(std::system(("mkfifo '" + in("pipe") + "'").c_str()), 0);
    for (const char* arguments : {"train --preset demo --data pipe", "train --config pipe", "sample --model pipe",
                                  "check-step pipe", "train --preset demo --init pipe", "export --data pipe"})
        expect_refused(arguments, {"pipe", "FIFO"}, "ulimit -t 20; timeout 20 env");
    expect_refused("export --data /dev/zero", {"/dev/zero", "device"});
    std::ofstream(in("page.txt")) << "<!DOCTYPE html><html>";
    expect_refused("train --config page.txt", {"page.txt", "web page"});
}

// reference/convert_release.py, where PyTorch is found: the weights that `sample` uses, there and back.
TEST_F(CommandLine, TheConverterWritesTheAverages) {
    const std::string python = "cd '" + folder_ + "' && PATH=/usr/bin:$PATH; export OMP_NUM_THREADS=1; python3 ",
                      script = "'" + fs::absolute("reference/convert_release.py").string() + "' ";
    if (std::system((python + "-c 'import torch' 2>/dev/null").c_str()) != 0) GTEST_SKIP() << "PyTorch was not found";
    const std::string model = tiny_model();
    const auto convert = [&](const std::string& arguments) {
        const int status = std::system((python + script + arguments + " >out.txt 2>error.txt").c_str());
        return Outcome{WEXITSTATUS(status), contents(in("out.txt")), contents(in("error.txt"))};
    };
    const Outcome to_pth = convert("to-pth " + model + " back.pth");
    EXPECT_EQ(to_pth.code, 0) << to_pth.error;
    EXPECT_NE(to_pth.out.find("netE (moving average), netG (moving average), netI,"), std::string::npos) << to_pth.out;
    EXPECT_EQ(convert("to-safetensors back.pth again.safetensors").code, 0);
    const SafetensorsFile before = read_safetensors(model), after = read_safetensors(in("again.safetensors"));
    for (const auto& [name, tensor] : after.tensors) {
        const auto average = before.tensors.find("ema." + name);
        EXPECT_EQ(tensor.bytes, (average != before.tensors.end() ? average->second : before.tensors.at(name)).bytes)
            << name;
    }
    expect_runs(tiny + " --iterations 1 --out tuned --init again.safetensors");
    std::ofstream(in("page.pth")) << "<html>";
    for (const auto& [arguments, part] :
         {std::pair<std::string, std::string>{"to-safetensors missing.pth x.safetensors", "missing.pth: no such file"},
          {"to-safetensors page.pth x.safetensors", "page.pth: is a web page"},
          {"to-safetensors " + model + " x.safetensors", "to-pth converts it"},
          {"to-pth back.pth x.pth", "not a .safetensors"},
          {"to-pth " + model + " nowhere/x.pth", "No such file or directory"},
          {"to-nothing a b", "usage"}}) {
        const Outcome refused = convert(arguments);
        expect_refusal(refused.code, refused.error, {part});
    }
}

TEST_F(CommandLine, InterruptWritesACheckpoint) {
    run("", signal_when("grep -q ^1, run/metrics.csv", "INT") + "env OMP_NUM_THREADS=1 '" + program_ + "' " + tiny +
                " --iterations 100000 --out run >run.txt 2>&1; code=$?; test $code = 130 && touch stopped;");
    EXPECT_TRUE(fs::exists(in("stopped"))) << contents(in("run.txt"));
    EXPECT_NE(contents(in("run.txt")).find("--resume --out run"), std::string::npos) << contents(in("run.txt"));
    std::string newest;
    for (const auto& entry : fs::directory_iterator(in("run/checkpoints")))
        newest = std::max(newest, entry.path().filename().string());
    EXPECT_GT(newest, "iteration-000000.safetensors");
    const int64_t done = std::stoll(newest.substr(10, 6));
    expect_runs("train --resume --out run --iterations " + std::to_string(done + 1));
}

TEST_F(CommandLine, DivergenceRollsBackAndStops) {
    const Outcome result = run(tiny + " --iterations 5 --max-energy-gap 1e-9 --out run");
    EXPECT_EQ(result.code, 1);
    EXPECT_NE(result.out.find("fresh noise"), std::string::npos) << result.out;
    EXPECT_NE(result.error.find("diverged"), std::string::npos) << result.error;
    EXPECT_TRUE(fs::exists(in("run/checkpoints/iteration-000000.safetensors")));
}

// Each method trains. The columns of metrics.csv that it does not compute stay empty: mse, energy_data, energy_model,
// energy_gap, loss_revise, nll_posterior, nll_prior.
TEST_F(CommandLine, TrainsEachMethod) {
    const std::vector<std::pair<std::string, std::string>> methods{{"dual", "1111111"},     {"cooperative", "0111100"},
                                                                   {"triangle", "1111011"}, {"shortrun", "0111000"},
                                                                   {"abp", "1000000"},      {"vae", "1000010"}};
    for (const auto& [method, expected] : methods) {
        expect_runs(tiny + " --iterations 2 --method " + method + " --out " + method);
        std::istringstream lines(contents(in(method + "/metrics.csv")));
        std::string line, cell, found;
        for (int skipped = 0; skipped < 2; ++skipped) std::getline(lines, line);  // the header and iteration 0
        ASSERT_TRUE(std::getline(lines, line)) << method;
        std::istringstream cells(line);
        for (int column = 0; column < 9 && std::getline(cells, cell, ','); ++column)
            if (column >= 2) found += cell.empty() ? '0' : '1';
        EXPECT_EQ(found, expected) << method << ": " << line;
    }
    expect_runs(
        "sample --model shortrun/checkpoints/iteration-000002.safetensors --count 2 --batch 2 --steps-x 1 --out "
        "pictures");
    expect_refused(tiny + " --method em", {"--method em", "dual", "vae"});
    expect_refused(tiny + " --start-x data", {"--start-x data", "noise"});
    expect_refused(tiny + " --start-z data", {"--start-z data", "noise"});
    expect_refused(tiny + " --no-learn-ebm --no-learn-generator --no-learn-encoder", {"nothing would learn"});
    expect_refused(tiny + " --method vae --no-learn-encoder", {"--joint-elbo"});
    expect_refused(tiny + " --resume --method vae --out dual", {"--method dual"});
    // The method of a configuration file applies; --method overrides it together with its switches in the file.
    expect_runs("train --config vae/config.txt --iterations 1 --out again");
    EXPECT_NE(contents(in("again/config.txt")).find("\nlearn-ebm = false\n"), std::string::npos);
    expect_runs("train --config vae/config.txt --method dual --iterations 1 --out dual_again");
    EXPECT_NE(contents(in("dual_again/config.txt")).find("\nlearn-ebm = true\n"), std::string::npos);
}

TEST_F(CommandLine, ToysMakeATableAndAPicture) {
    const Outcome result = expect_runs("toys --data rings --method vae --iterations 2 --evaluations 2 --out toys");
    EXPECT_NE(result.out.find("rings         vae"), std::string::npos) << result.out;
    const std::string csv = contents(in("toys/toys.csv"));
    EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 3) << csv;
    EXPECT_TRUE(fs::exists(in("toys/toys.png")));
    expect_refused("toys --data rings,squares", {"--data squares", "moons"});
    expect_refused("toys --method em", {"--method em", "abp"});
    expect_refused("toys --iterations 0", {"--iterations 0"});
    expect_refused("toys --iterations 3 --evaluations 4", {"--evaluations 4"});
    expect_refused("toys --seed -1", {"--seed -1"});
    expect_refused("train --preset demo --architecture toy2d", {"--architecture toy2d"});
}

TEST_F(CommandLine, SamplesAsArraysAndPictures) {
    const std::string model = tiny_model();
    expect_runs("sample --model " + model + " --count 5 --batch 4 --out arrays --steps-x 2 --npy");
    for (const char* name : {"arrays/generator.npy", "arrays/revised.npy"}) {
        NpyImages images(in(name));
        EXPECT_EQ(images.count, 5);
        EXPECT_EQ(images.height, 32);
    }
    EXPECT_TRUE(fs::exists(in("arrays/samples.png")));
    expect_runs("sample --model " + model + " --count 3 --batch 4 --out pictures");
    EXPECT_TRUE(fs::exists(in("pictures/revised/000002.png")));
    EXPECT_FALSE(fs::exists(in("pictures/revised/000003.png")));
    expect_refused("sample --model " + model + " --count 0", {"--count 0"});
    expect_refused("sample --model " + model + " --kind all", {"--kind", "all"});
    expect_refused("sample --model " + model + " --data missing", {"missing"});
}

// The images written before the disk was full stay, and the same command continues.
TEST_F(CommandLine, FullDiskKeepsTheSamplesThatAreWhole) {
    const std::string sample =
        "sample --model " + tiny_model() + " --count 6 --batch 2 --steps-x 1 --kind generator --out pictures";
    expect_refused(sample,
                   {"cannot write", "pictures/generator/00000", "0 of 6 images are complete", "same command again"},
                   "ulimit -f 1; trap '' XFSZ;");
    for (const auto& entry : fs::recursive_directory_iterator(in("pictures")))
        EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
    expect_runs(sample);
    fs::remove(in("pictures/generator/000004.png"));
    EXPECT_NE(expect_runs(sample).out.find("4 of 6 images are already done"), std::string::npos);
}

TEST_F(CommandLine, InterruptKeepsTheSamplesThatAreWhole) {
    const std::string sample =
        "sample --model " + tiny_model() + " --batch 50 --steps-x 1 --kind generator --out pictures --count ";
    run("", signal_when("test -e pictures/generator/000000.png", "INT") + "env OMP_NUM_THREADS=1 '" + program_ + "' " +
                sample + "100000000 >run.txt 2>&1; code=$?; test $code = 130 && touch stopped;");
    const std::string output = contents(in("run.txt"));
    EXPECT_TRUE(fs::exists(in("stopped"))) << output;
    EXPECT_NE(output.find("of 100000000 images are in pictures; run the same command again"), std::string::npos)
        << output;
    const auto there = std::distance(fs::directory_iterator(in("pictures/generator")), fs::directory_iterator());
    EXPECT_GT(there, 0);
    EXPECT_NE(expect_runs(sample + std::to_string(there + 1)).out.find(std::to_string(there) + " of"),
              std::string::npos);
    EXPECT_TRUE(fs::exists(in("pictures/samples.png")));
}

TEST_F(CommandLine, CheckStepExitCodes) {
    const std::string step = fs::absolute("reference/step_cifar10.safetensors").string();
    EXPECT_NE(expect_runs("check-step " + step).out.find("agrees"), std::string::npos);
    EXPECT_EQ(expect_runs("replay " + step).out, expect_runs("check-step " + step).out) << "the former name";
    const Outcome strict = run("check-step " + step + " --tolerance 1e-17");
    EXPECT_EQ(strict.code, 1);
    EXPECT_NE(strict.out.find("DIFFERS"), std::string::npos);
    expect_refused("check-step " + step + " --tolerance 0", {"--tolerance"});
    // The device's own arithmetic counts only with --strict.
    const Outcome rounded = run("check-step " + step + " --device-tolerance 1e-12");
    EXPECT_EQ(rounded.code, 0);
    const size_t crossings = rounded.out.find("ReLUs that rounding took across their kink: ");
    ASSERT_NE(crossings, std::string::npos);
    EXPECT_LE(std::count(rounded.out.begin() + std::ptrdiff_t(crossings), rounded.out.end(), '\n'), 1 + 3 + 1)
        << "a line for each chain and for the updates";
    EXPECT_EQ(run("check-step " + step + " --device-tolerance 1e-12 --strict").code, 1);
}

}  // namespace
}  // namespace dualmcmc::test
