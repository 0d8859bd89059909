// What every harness of this folder does with an input: it lies in a file, a reader reads it, and either succeeds or
// says why not, in one line that is safe to print and does not quote the standard library. Anything else is a finding;
// so is what the sanitizers see.
#pragma once
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "check.h"

namespace dualmcmc::fuzz {

[[noreturn]] inline void finding(const std::string& what, const std::string& message) {
    std::fprintf(stderr, "finding: %s: %s\n", what.c_str(), message.c_str());
    std::abort();
}

// Calls `read`, which may fail as fail() does.
template <class Read>
void expect_value_or_line(const Read& read) {
    try {
        read();
    } catch (const std::exception& error) {
        const std::string message = error.what();
        if (explain(error) != message) finding("an exception that fail() did not throw", message);
        if (escaped(message) != message) finding("a message that is not escaped", escaped(message));
        if (message.starts_with("src/")) finding("a broken contract, CHECK", message);
    }
}

// A folder of this process's own, in $TMPDIR.
inline const std::string& folder() {
    static const std::string path = [] {
        const char* const parent = std::getenv("TMPDIR");
        const std::string name = text(parent ? parent : "/tmp", "/fuzz-", getpid());
        if (mkdir(name.c_str(), 0700) != 0) finding("cannot make the folder", name);
        return name;
    }();
    return path;
}

// Writes a file there and returns its path.
inline std::string file_of(const std::string& name, const char* bytes, size_t size) {
    const std::string path = folder() + "/" + name;
    FILE* const file = std::fopen(path.c_str(), "wb");
    if (!file || std::fwrite(bytes, 1, size, file) != size || std::fclose(file) != 0) finding("cannot write", path);
    return path;
}
inline std::string file_of(const std::string& name, const std::string& bytes) {
    return file_of(name, bytes.data(), bytes.size());
}
inline std::string file_of(const std::string& name, const uint8_t* data, size_t size) {
    return file_of(name, reinterpret_cast<const char*>(data), size);
}

}  // namespace dualmcmc::fuzz

// The body of a harness, with `data` and `size`.
#define FUZZ_HARNESS extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)
