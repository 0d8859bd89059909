// Helpers for tests that use files: temporary paths, raw bytes, and checks of error messages.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <stdexcept>
#include <string>

#include <unistd.h>

#include "formats/files.h"

namespace dualmcmc {

// A path unique to this process, so that concurrent test runs do not collide.
inline std::string temporary_path(const std::string& name) {
    return testing::TempDir() + "dualmcmc_" + std::to_string(getpid()) + "_" + name;
}

// The program under test: $DUALMCMC, which the Makefile sets.
inline std::string program_path() {
    const char* const path = std::getenv("DUALMCMC");
    return path ? path : "build/dualmcmc";
}

// Begins a shell command: sends the program that follows this signal once `condition`, a shell command without single
// quotes, succeeds; then runs `after`. Its exit code is the program's.
inline std::string signal_when(const std::string& condition, const std::string& signal, const std::string& after = "") {
    return "sh -c '\"$@\" & pid=$!; until " + condition +
           " || ! kill -0 $pid; do sleep 0.05; done 2>/dev/null; kill -s " + signal + " $pid; " + after +
           "wait $pid' sh ";
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string read_bytes(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    EXPECT_TRUE(file) << path;
    return {std::istreambuf_iterator<char>(file), {}};
}

// Half a unit of the last of the nine digits with which tables are written; the thousandth more is for 9000 roundings
// in double precision of what is written.
inline double nine_digits(double value) {
    return value == 0 ? 0 : 0.501 * std::pow(10, std::floor(std::log10(std::abs(value))) - 8);
}

// Expects that no temporary file of AtomicFile for this path is left beside it.
inline void expect_no_temporary(const std::string& path) {
    std::error_code no_folder;
    for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(path).parent_path(), no_folder))
        EXPECT_NE(final_name(entry.path().filename().string()), std::filesystem::path(path).filename().string())
            << entry.path();
}

// Expects `action` to throw a one-line message that contains all of `parts`.
inline void expect_failure(const std::function<void()>& action, std::initializer_list<std::string> parts) {
    std::string message;
    try {
        action();
    } catch (const std::runtime_error& error) {
        message = error.what();
    }
    ASSERT_FALSE(message.empty()) << "nothing was thrown; expected a message with \"" << *parts.begin() << "\"";
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const std::string& part : parts)
        EXPECT_NE(message.find(part), std::string::npos) << message << "\n  lacks: " << part;
}

// Expects that the program refused its input: exit code 1, and one line in `error` (stderr) with all of `parts`.
inline void expect_refusal(int exit_code, std::string error, std::initializer_list<std::string> parts) {
    EXPECT_EQ(exit_code, 1);
    ASSERT_FALSE(error.empty());
    EXPECT_EQ(error.back(), '\n');
    error.pop_back();
    expect_failure([&] { throw std::runtime_error(error); }, parts);
}

}  // namespace dualmcmc
