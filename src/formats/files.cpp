// Whole files: see files.h.
#include "formats/files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "check.h"
#include "formats/foreign.h"

namespace dualmcmc {

namespace {

// Opens a regular file. Neither the opening nor a later read waits: a FIFO without a writer would, for ever.
FILE* open_regular(const std::string& path, int64_t& size) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    const int reason = errno;
    struct stat status {};
    if ((descriptor < 0 ? stat(path.c_str(), &status) : fstat(descriptor, &status)) == 0 && !S_ISREG(status.st_mode)) {
        if (descriptor >= 0) close(descriptor);
        const char* const what = S_ISDIR(status.st_mode)    ? "a folder, not a file"
                                 : S_ISFIFO(status.st_mode) ? "a FIFO (a pipe), not a regular file; save it to a file"
                                 : S_ISSOCK(status.st_mode) ? "a socket, not a regular file"
                                                            : "a device, not a regular file";
        fail("cannot read ", path, ": it is ", what);
    }
    if (descriptor < 0) fail("cannot read ", path, ": ", std::strerror(reason));
    size = status.st_size;
    return fdopen(descriptor, "rb");
}

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path), file_(open_regular(path, size_)) {
    if (!file_) fail("cannot read ", path, ": ", std::strerror(errno));
    remaining_ = size_;
    if (const std::string what = unfetched_file(head()); !what.empty()) fail(path, " is ", what);
}

std::string InputFile::head() const {
    std::string bytes(size_t(foreign_head), '\0');
    const ssize_t found = pread(fileno(file_.get()), bytes.data(), bytes.size(), 0);
    bytes.resize(size_t(std::max<ssize_t>(found, 0)));
    return bytes;
}

void InputFile::read(void* to, int64_t bytes) {
    if (bytes > 0 && std::fread(to, 1, static_cast<size_t>(bytes), file_.get()) != static_cast<size_t>(bytes)) {
        if (std::ferror(file_.get())) throw std::system_error(errno, std::generic_category(), "cannot read " + path_);
        throw DamagedFile("cannot read " + path_ + ": unexpected end of file");
    }
    remaining_ -= bytes;
}

AtomicFile::AtomicFile(const std::string& path)
    : path_(path), temporary_(path + "." + std::to_string(getpid()) + ".tmp"),
      file_(std::fopen(temporary_.c_str(), "wb")) {
    if (!file_) give_up();
}

AtomicFile::~AtomicFile() {
    if (!committed_) unlink(temporary_.c_str());
}

void AtomicFile::give_up() const {
    fail("cannot write ", path_, ": ", std::strerror(errno),
         "; existing files are unchanged; free some space or choose another folder");
}

void AtomicFile::write(const void* from, int64_t bytes) {
    const size_t count = static_cast<size_t>(bytes);
    if (bytes > 0 && std::fwrite(from, 1, count, file_.get()) != count) give_up();
}

void AtomicFile::rewind() {
    if (std::fseek(file_.get(), 0, SEEK_SET) != 0) give_up();
}

void AtomicFile::commit(bool durable) {
    // Flush before renaming: otherwise a power cut could leave an empty file under the final name.
    if (std::fflush(file_.get()) != 0 || (durable && fsync(fileno(file_.get())) != 0)) give_up();
    if (std::fclose(file_.release()) != 0) give_up();
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) give_up();
    committed_ = true;
    if (!durable) return;
    const std::string folder = std::filesystem::path(path_).parent_path().string();
    const int descriptor = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY);
    if (descriptor < 0) return;  // the folder is writable but not readable; the file exists all the same
    fsync(descriptor);
    close(descriptor);
}

namespace {

// PATH and PID of a temporary name PATH.PID.tmp; empty and 0 for any other name.
std::pair<std::string, pid_t> parse_temporary(const std::string& name) {
    const std::string ending = ".tmp";
    if (!name.ends_with(ending)) return {};
    const std::string rest = name.substr(0, name.size() - ending.size());
    const size_t dot = rest.rfind('.');
    if (dot == std::string::npos || dot == 0) return {};
    const std::string number = rest.substr(dot + 1);
    if (number.empty() || number.size() > 9 || number.find_first_not_of("0123456789") != std::string::npos) return {};
    return {rest.substr(0, dot), pid_t(std::stol(number))};
}

// Whether it is a temporary name whose process no longer runs. (This process, which writes nothing there yet, may have
// the number of the one before it: in a container numbers are few.)
bool is_abandoned(const std::string& name) {
    const auto [path, process] = parse_temporary(name);
    return process > 0 && (process == getpid() || (kill(process, 0) != 0 && errno == ESRCH));
}

}  // namespace

std::string final_name(const std::string& temporary) { return parse_temporary(temporary).first; }

void make_folder(const std::string& path) {
    if (path.empty()) fail("--out is empty; give a folder");
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) fail("--out: cannot create the folder ", path, ": ", error.message());
    if (access(path.c_str(), W_OK | X_OK) != 0)
        fail("--out: cannot write to the folder ", path, ": ", std::strerror(errno));
    for (const auto& entry : std::filesystem::directory_iterator(path, error))
        if (is_abandoned(entry.path().filename().string())) std::filesystem::remove(entry.path(), error);
}

FolderLock::FolderLock(const std::string& path, const std::string& who)
    : descriptor_(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (descriptor_ < 0 || flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
    close(descriptor_);
    fail("--out ", path, ": ", who, " there; wait until it has finished, or give another --out");
}
FolderLock::~FolderLock() {
    if (descriptor_ >= 0) close(descriptor_);
}

std::string read_file(const std::string& path) {
    InputFile input(path);
    std::string bytes(static_cast<size_t>(input.size()), '\0');
    input.read(bytes.data(), input.size());
    return bytes;
}

void write_file(const std::string& path, const std::string& bytes) {
    AtomicFile file(path);
    file.write(bytes.data(), static_cast<int64_t>(bytes.size()));
    file.commit();
}

}  // namespace dualmcmc
