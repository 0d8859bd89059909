// Reads and writes whole files with clear error messages; the basis of all formats in this folder.
#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

namespace dualmcmc {

// Thrown for a file whose contents are not what its format demands: cut off, changed, or of another format. A file that
// the system refuses to open or read is another error.
struct DamagedFile : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct CloseFile {
    void operator()(FILE* file) const { std::fclose(file); }
};
using FileHandle = std::unique_ptr<FILE, CloseFile>;

// A file opened for sequential reading.
class InputFile {
public:
    // Fails if `path` is missing, unreadable or not a regular file, at once even for a FIFO; or if a web page or a Git
    // LFS pointer lies in its place (foreign.h).
    explicit InputFile(const std::string& path);
    // The first bytes, for foreign_format; at most foreign_head of them. Reading goes on where it was.
    std::string head() const;
    // Size of the file in bytes.
    int64_t size() const { return size_; }
    // Bytes not read yet.
    int64_t remaining() const { return remaining_; }
    // Copies the next `bytes` bytes to `to`. Throws DamagedFile if the file ends earlier, std::system_error if the
    // system cannot read it.
    void read(void* to, int64_t bytes);

private:
    std::string path_;
    int64_t size_ = 0, remaining_ = 0;
    FileHandle file_;
};

// Writes a file atomically: bytes go to PATH.PID.tmp, which commit() flushes to disk and renames to PATH. Any failure
// (folder missing or read-only, disk full) throws one line with the path and the system's reason; the temporary file is
// removed, and an existing file at PATH is left untouched. Two processes may write the same PATH: the last one wins.
class AtomicFile {
public:
    explicit AtomicFile(const std::string& path);
    ~AtomicFile();
    AtomicFile(const AtomicFile&) = delete;
    AtomicFile& operator=(const AtomicFile&) = delete;
    void write(const void* from, int64_t bytes);
    // Moves back to the beginning, to overwrite what is there.
    void rewind();
    // `durable`: waits until the bytes are on disk, which takes milliseconds. Without it a power cut may leave an empty
    // file; meant for thousands of small files whose reader detects that.
    void commit(bool durable = true);

private:
    [[noreturn]] void give_up() const;
    std::string path_, temporary_;
    FileHandle file_;
    bool committed_ = false;
};

// Creates the folder given by --out and its missing parents; fails if it cannot be created or is not writable. Removes
// the temporary files that killed processes have left there.
void make_folder(const std::string& path);

// The PATH in a temporary name PATH.PID.tmp of AtomicFile; empty for any other name.
std::string final_name(const std::string& temporary);

// An exclusive lock on a folder, held for the object's lifetime; fails if another process holds it. On file systems
// without locks it always succeeds.
class FolderLock {
public:
    // `who`: subject and verb of the error message, e.g. "another program trains".
    FolderLock(const std::string& path, const std::string& who);
    ~FolderLock();
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;

private:
    int descriptor_;
};

// Reads a whole file through InputFile.
std::string read_file(const std::string& path);

// Writes a whole file through AtomicFile.
void write_file(const std::string& path, const std::string& bytes);

}  // namespace dualmcmc
