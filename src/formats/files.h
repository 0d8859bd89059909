// Reading and writing whole files with clear errors; what every format in this folder stands on. Knows no format.
#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

namespace dualmcmc {

struct CloseFile {
    void operator()(FILE* file) const { std::fclose(file); }
};
using FileHandle = std::unique_ptr<FILE, CloseFile>;

// A file open for reading from its beginning to its end.
class InputFile {
public:
    // Fails where `path` is missing, unreadable or no regular file.
    explicit InputFile(const std::string& path);
    // Bytes in the whole file.
    int64_t size() const { return size_; }
    // Bytes not read yet.
    int64_t remaining() const { return remaining_; }
    // Copies the next `bytes` bytes to `to`; fails where the file ends before.
    void read(void* to, int64_t bytes);

private:
    std::string path_;
    FileHandle file_;
    int64_t size_ = 0, remaining_ = 0;
};

// A file that appears complete or not at all: bytes go to PATH.tmp, and commit() flushes them to the disk and renames.
// Whatever fails (folder missing or unwritable, disk full) is one line with the path and the system's reason; the
// temporary file is removed and a file that stood at PATH before stays as it was.
class AtomicFile {
public:
    explicit AtomicFile(const std::string& path);
    ~AtomicFile();
    AtomicFile(const AtomicFile&) = delete;
    AtomicFile& operator=(const AtomicFile&) = delete;
    void write(const void* from, int64_t bytes);
    // Goes back to the beginning, to write over what stands there.
    void rewind();
    // `durable`: waits until the bytes are on the disk, some milliseconds. Without, a power cut may leave an empty
    // file: for files by the thousand, whose reader can tell.
    void commit(bool durable = true);

private:
    [[noreturn]] void give_up() const;
    std::string path_, temporary_;
    FileHandle file_;
    bool committed_ = false;
};

// Makes the folder that --out names, and those above it, where they are missing; fails where that cannot be, or where
// nothing can be written there.
void make_folder(const std::string& path);

// While one lives, no other program can hold the same folder; fails where one does. Where the file system knows no
// locks, all may.
class FolderLock {
public:
    // `who`: what the other is doing, for the message.
    FolderLock(const std::string& path, const std::string& who);
    ~FolderLock();
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;

private:
    int descriptor_;
};

// A whole file's bytes, by InputFile.
std::string read_file(const std::string& path);

// Writes a whole file by AtomicFile.
void write_file(const std::string& path, const std::string& bytes);

}  // namespace dualmcmc
