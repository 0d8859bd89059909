// What `make` does on machines that lack something: CUDA toolkits that cannot be used, missing packages.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "file_helpers.h"

namespace dualmcmc::test {
namespace {

namespace fs = std::filesystem;

class Build : public testing::Test {
protected:
    void SetUp() override {
        if (!fs::exists("Makefile")) GTEST_SKIP() << "not in the folder of the Makefile";
        fs::remove_all(folder_);
        fs::create_directories(folder_);
    }
    void TearDown() override { fs::remove_all(folder_); }

    struct Outcome {
        int status;
        std::string out, error;
    };
    Outcome shell(const std::string& command) const {
        const std::string out = folder_ + "/out", error = folder_ + "/error";
        const int status = std::system(("( " + command + " ) >'" + out + "' 2>'" + error + "'").c_str());
        return {status, read_bytes(out), read_bytes(error)};
    }

    std::string script(const std::string& name, const std::string& lines) const {
        const std::string path = folder_ + "/" + name;
        fs::create_directories(fs::path(path).parent_path());
        write_bytes(path, "#!/bin/sh\n" + lines);
        fs::permissions(path, fs::perms::owner_all);
        return path;
    }

    // A stand-in for nvcc: `compiling` is what it does beyond saying its version, its paths and its GPUs.
    std::string nvcc(const std::string& release, const std::string& compiling) const {
        return script("bin/nvcc",
                      "case \"$*\" in\n"
                      "--version) echo 'Cuda compilation tools, release " +
                          release + ", V" + release +
                          "'; exit ;;\n"
                          "*native*--dryrun*) echo 'nvcc warning : Cannot find valid GPU for native'; exit ;;\n"
                          "*--dryrun*) echo '#$ INCLUDES=\"-I/toolkit/include\" '\n"
                          "  echo '#$ LIBRARIES= \"-L/toolkit/lib/stubs\" \"-L/toolkit/lib\"'; exit ;;\n"
                          "esac\n" +
                          compiling);
    }

    Outcome try_toolkit(const std::string& nvcc, const std::string& architectures = "80 90",
                        const std::string& compiler = "g++") const {
        return shell("sh src/machine/toolkit.sh '" + folder_ + "' '" + nvcc + "' '" + compiler + "' '" + architectures +
                     "' '-std=c++20'");
    }

    // One line on stderr with these words; the build goes on without the GPU.
    void expect_left_out(const Outcome& outcome, std::initializer_list<std::string> words) const {
        EXPECT_EQ(outcome.status, 0);
        EXPECT_EQ(outcome.out, "");
        expect_refusal(1, outcome.error, words);
        EXPECT_EQ(read_bytes(folder_ + "/toolkit.mk"), "");
    }

    const std::string folder_ = temporary_path("build");
};

TEST_F(Build, SaysWhyTheGpuIsLeftOut) {
    const std::string begin = "building without the GPU: ", end = "CUDA=0";
    expect_left_out(try_toolkit(""), {begin, "no nvcc", "CUDA=DIR", end});
    expect_left_out(try_toolkit(folder_ + "/none/nvcc"), {begin, "/none/nvcc does not run", end});
    expect_left_out(try_toolkit(nvcc("11.8", "exit 0")), {begin, "nvcc 11.8", "too old", "CUDA 12", end});
    expect_left_out(try_toolkit(nvcc("12.0",
                                     "echo 'host_config.h:132:2: error: #error -- unsupported GNU version! gcc "
                                     "versions later than 12 are not supported!' >&2; exit 1")),
                    {begin, "nvcc 12.0", "refuses the compiler g++", "later than 12", "CXX=", end});
    expect_left_out(try_toolkit(nvcc("13.0", "echo 'Segmentation fault'; exit 139")),
                    {begin, "nvcc 13.0", "fails", "Segmentation fault", end});
    expect_left_out(try_toolkit(nvcc("13.0", "exit 1")), {begin, "nvcc 13.0", "fails", end});
    // It compiles, but there is nothing to link with.
    expect_left_out(try_toolkit(nvcc("13.0", "exit 0")), {begin, "does not link", "LIBRARY_PATH", end});
}

// The paths are what nvcc says, whatever the layout; a compiler that links anything stands for the host's.
TEST_F(Build, TakesThePathsFromNvcc) {
    const std::string working = nvcc("13.0", "exit 0"), linker = script("linker", "exit 0");
    const Outcome outcome = try_toolkit(working, "86", linker);
    EXPECT_EQ(outcome.error + outcome.out, "");
    const std::string found = read_bytes(folder_ + "/toolkit.mk");
    for (const char* words : {"GPU_WORKS     := 1", "-I/toolkit/include", "-L/toolkit/lib -lcudart_static",
                              "-gencode arch=compute_86,code=[sm_86,compute_86]"})
        EXPECT_NE(found.find(words), std::string::npos) << words << " in\n" << found;
    // Known to work: it is not tried again, until the settings change.
    nvcc("13.0", "exit 1");
    EXPECT_EQ(try_toolkit(working, "86", linker).error, "");
    EXPECT_NE(try_toolkit(working, "80", linker).error, "");
}

TEST_F(Build, TakesComputeCapabilitiesInSeveralSpellings) {
    const std::string working = nvcc("13.0", "exit 0"), linker = script("linker", "exit 0");
    for (const char* spelling : {"86", "sm_86", "compute_86", "8.6"}) {
        EXPECT_EQ(try_toolkit(working, spelling, linker).out, "");
        EXPECT_NE(read_bytes(folder_ + "/toolkit.mk").find("GPU_CODE      := -gencode arch=compute_86,code=[sm_86,"),
                  std::string::npos)
            << spelling;
    }
    for (const char* spelling : {"80 90", "80,90", "sm_80;sm_90"}) {
        EXPECT_EQ(try_toolkit(working, spelling, linker).out, "");
        EXPECT_NE(read_bytes(folder_ + "/toolkit.mk").find("compute_80] -gencode arch=compute_90,"), std::string::npos)
            << spelling;
    }
    for (const char* spelling : {"75", "ampere", "86x", "all", "-1"}) {
        const std::string message = try_toolkit(working, spelling, linker).out;
        expect_refusal(1, message,
                       {std::string("CUDA_ARCH=") + spelling, "8.0 or later", "sm_86", "\"80 90\"", "native"});
    }
    expect_refusal(1, try_toolkit(working, "native", linker).out, {"CUDA_ARCH=native", "no GPU", "such as 86"});
}

// make in a folder of its own, with nothing on the PATH but what `packages` calls; no apt-get.
TEST_F(Build, LooksForHeadersByCompiling) {
    const std::string tools = folder_ + "/tools";
    fs::create_directories(tools);
    for (const char* tool : {"sh",   "make", "g++",   "gcc", "as",  "ld",    "tr",   "id",  "mkdir", "cmp",
                             "grep", "wc",   "nproc", "awk", "cat", "paste", "find", "git", "echo",  "printf"})
        for (const char* place : {"/usr/bin/", "/bin/"})
            if (fs::exists(std::string(place) + tool) && !fs::exists(tools + "/" + tool))
                fs::create_symlink(std::string(place) + tool, tools + "/" + tool);
    const auto make = [&](const std::string& environment, const std::string& goal) {
        return shell("env -u MAKEFLAGS -u MAKELEVEL PATH='" + tools + "' " + environment +
                     " make -s CUDA=0 CXX=g++ BUILD='" + folder_ + "/b' CXXFLAGS='-nostdinc -isystem " + folder_ +
                     "/omp' " + goal);
    };
    fs::create_directories(folder_ + "/omp");
    write_bytes(folder_ + "/omp/omp.h", "");
    const Outcome none = make("", "packages");
    EXPECT_NE(none.status, 0);
    for (const char* words : {"missing: libcli11-dev libstb-dev", "CPATH=DIR", "LIBRARY_PATH=DIR"})
        EXPECT_NE(none.error.find(words), std::string::npos) << words << " in\n" << none.error;

    for (const char* header : {"CLI/CLI.hpp", "stb/stb_image_write.h", "gtest/gtest.h"}) {
        fs::create_directories(fs::path(folder_ + "/copies/" + header).parent_path());
        write_bytes(folder_ + "/copies/" + header, "");
    }
    const Outcome all = make("CPATH='" + folder_ + "/copies'", "packages");
    EXPECT_EQ(all.status, 0) << all.error;
    EXPECT_EQ(all.error, "");
}

}  // namespace
}  // namespace dualmcmc::test
