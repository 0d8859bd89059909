// What lies in the place of a file that was expected: a web page, a Git LFS pointer, an archive, a pickle, an array or
// a picture of another format, recognised by its first bytes. All readers share it, so that their messages name the
// file for what it is and end with the remedy.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace dualmcmc {

enum class Wanted { data, networks, picture };  // for --data; for --model and the like; in a folder of pictures

// The number of first bytes that the functions below want to see.
inline constexpr int64_t foreign_head = 1024;

// "a Git LFS pointer, not the file itself; fetch it: git lfs pull": what stands for the contents of a file, whatever
// its format. Empty if `head`, a file's first bytes, holds no such thing.
std::string unfetched_file(std::string_view head);

// "a zip archive; unpack it: unzip FILE": as above, for files of formats that the reader of a `wanted` does not
// take. Empty if the first bytes of the file at `path` tell nothing.
std::string foreign_format(const std::string& path, std::string_view head, Wanted wanted);

// A path as one word of a shell's command line.
std::string shell_word(const std::string& path);

// A path as a string of Python within a double-quoted word of a shell's command line; 'FILE' if it cannot be one.
std::string python_word(const std::string& path);

}  // namespace dualmcmc
