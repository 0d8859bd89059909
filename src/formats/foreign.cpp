// Recognises foreign files by their first bytes: see foreign.h.
#include "formats/foreign.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "check.h"

namespace dualmcmc {
namespace {

using namespace std::string_literals;
using namespace std::string_view_literals;

bool holds(std::string_view head, size_t offset, std::string_view magic) {
    return head.size() >= offset + magic.size() && head.substr(offset, magic.size()) == magic;
}

std::string lower(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return char(std::tolower(c)); });
    return out;
}

bool is_text(std::string_view head) {
    const auto printable = [](unsigned char c) { return (c >= ' ' && c < 127) || (c >= '\t' && c <= '\r'); };
    return !head.empty() && std::all_of(head.begin(), head.end(), printable);
}

// The length of a header, below 4 GiB, and the brace that opens it. (That length may look like another format's magic.)
bool is_safetensors(std::string_view head) { return holds(head, 4, "\0\0\0\0{"sv); }

// "a-copy.npy" for "folder/a.npz", in the present folder.
std::string converted_name(const std::string& path, const std::string& ending) {
    return std::filesystem::path(path).stem().string() + ending;
}

// ---- formats with contents of several kinds -----------------------------------------------------

constexpr const char* binary_cifar10 = "this program reads the binary version: `bash data/cifar10.sh` fetches it";
constexpr const char* binary_cifar100 =
    "this program reads the binary version: unpack https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz";

std::string pytorch_file(const std::string& path, Wanted wanted) {
    const std::string what = "a file of PyTorch's torch.save";
    if (wanted != Wanted::networks)
        return what + "; save its images as a .npy of uint8, (N, H, W, 3), with numpy.save, and give that";
    return text(what, "; convert the authors' checkpoint: python3 reference/convert_release.py ", "to-safetensors ",
                shell_word(path), " ", shell_word(converted_name(path, ".safetensors")));
}

// The name of the archive's first file tells what wrote it.
std::string zip_file(const std::string& path, std::string_view head, Wanted wanted) {
    const auto byte = [&](size_t i) { return head.size() > i ? size_t(static_cast<unsigned char>(head[i])) : 0; };
    const std::string_view first = head.substr(std::min<size_t>(30, head.size())).substr(0, byte(26) + 256 * byte(27));
    if (first.ends_with("data.pkl")) return pytorch_file(path, wanted);
    if (first.ends_with(".npy")) {
        if (wanted == Wanted::networks) return "a .npz of NumPy arrays; give a .safetensors";
        const std::string key = std::filesystem::path(std::string(first)).stem().string(), from = python_word(path);
        return text("a .npz of NumPy arrays; save one as a .npy, here its first: python3 -c \"import numpy as np; ",
                    "np.save(", python_word(converted_name(path, ".npy")), ", np.load(", from, ")[", python_word(key),
                    "])\"");
    }
    return text("a zip archive; unpack it: unzip ", shell_word(path));
}

std::string cifar_python(bool hundred) {
    return text("the Python version of ", hundred ? "CIFAR-100; " : "CIFAR-10; ",
                hundred ? binary_cifar100 : binary_cifar10);
}

std::string gzip_file(const std::string& path) {
    const std::string name = lower(std::filesystem::path(path).filename().string());
    for (const bool hundred : {false, true})
        if (name.find(hundred ? "cifar-100-python" : "cifar-10-python") != std::string::npos)
            return cifar_python(hundred);
    const bool tar = name.find(".tar") != std::string::npos || name.ends_with(".tgz");
    if (!tar && !name.ends_with(".gz"))
        return text("a gzip archive; unpack it: tar xf ", shell_word(path), ", or gunzip");
    return text("a gzip archive; unpack it: ", tar ? "tar xf " : "gunzip -k ", shell_word(path));
}

std::string tar_file(const std::string& path, std::string_view head) {
    if (head.starts_with("cifar-10-batches-py")) return cifar_python(false);
    if (head.starts_with("cifar-100-python")) return cifar_python(true);
    return text("a tar archive; unpack it: tar xf ", shell_word(path));
}

// Protocols 2 to 5 begin with their number; older ones are text, with which no data set or network is written.
std::string pickle_file(const std::string& path, std::string_view head, Wanted wanted) {
    constexpr std::string_view torch_magic = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"sv;
    const auto contains = [&](std::string_view word) { return head.find(word) != std::string_view::npos; };
    const std::string name = std::filesystem::path(path).filename().string(),
                      ending = lower(std::filesystem::path(path).extension().string());
    if (contains(torch_magic)) return pytorch_file(path, wanted);
    const bool batch = name.starts_with("data_batch") || name.starts_with("test_batch") || name == "batches.meta";
    if (batch || contains("batch_label")) return cifar_python(false);
    if (contains("fine_label") || (contains("filenames") && contains(".png"))) return cifar_python(true);
    if (wanted == Wanted::networks)
        return ending == ".pkl" || ending == ".pickle" ? "a Python pickle; give a .safetensors"
                                                       : pytorch_file(path, wanted);
    return text("a Python pickle; if it is CIFAR-10's, ", binary_cifar10,
                "; else save its images as a .npy of uint8, (N, H, W, 3), with numpy.save, and give that");
}

// Arrays that one command converts. MNIST's images are padded to 32x32 and get three channels.
std::string array_file(const std::string& path, std::string_view head, Wanted wanted) {
    const bool matlab = head.starts_with("MATLAB 5.0 MAT-file"), mnist = head.starts_with("\0\0\x08\x03"sv);
    if (!matlab && !mnist) return "";
    const std::string what = matlab ? "a MATLAB file" : "an IDX file, the format of MNIST (28x28, grey)";
    if (wanted != Wanted::data) return what + (wanted == Wanted::networks ? "; give a .safetensors" : "");
    const std::string target = converted_name(path, ".npy"), from = python_word(path), to = python_word(target);
    if (matlab)
        return text(what, "; convert it, if it is SVHN: python3 -c \"import numpy, scipy.io; numpy.save(", to,
                    ", scipy.io.loadmat(", from, ")['X'].transpose(3, 0, 1, 2).copy('C'))\" and give ", target);
    return text(what, "; convert it: python3 -c \"import numpy as np; a = np.fromfile(", from,
                ", 'uint8')[16:].reshape(-1, 28, 28, 1); np.save(", to,
                ", np.pad(a, ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, axis=3))\" and give ", target);
}

// ---- formats by a few bytes ---------------------------------------------------------------------

struct Format {
    size_t offset;
    std::string_view magic;
    const char *name, *advice;
};
constexpr const char* unpack = "unpack it";
constexpr const char* to_npy = "save its images as a .npy of uint8, (N, H, W, 3), with numpy.save, and give that";
constexpr const char* to_png = "convert it to PNG (ImageMagick: mogrify -format png FILE)";
const Format formats[] = {
    {0, "PK\5\6"sv, "an empty zip archive", "copy or download it again"},
    {0, "BZh"sv, "a bzip2 archive", unpack},
    {0,
     "\xFD"
     "7zXZ\0"sv,
     "an xz archive", unpack},
    {0, "\x28\xB5\x2F\xFD"sv, "a zstd archive", unpack},
    {0, "7z\xBC\xAF\x27\x1C"sv, "a 7z archive", unpack},
    {0, "Rar!\x1A\x07"sv, "a rar archive", unpack},
    {0, "\x89HDF\r\n\x1A\n"sv, "an HDF5 file", to_npy},
    {0, "PAR1"sv, "a Parquet file", to_npy},
    {0, "ARROW1"sv, "an Arrow file", to_npy},
    {0, "\0\0\x08\x01"sv, "an IDX file of labels", "give images"},
    {0, "GIF8"sv, "a GIF picture", to_png},
    {8, "WEBP"sv, "a WebP picture", to_png},
    {0, "II*\0"sv, "a TIFF picture", to_png},
    {0, "MM\0*"sv, "a TIFF picture", to_png},
    {4, "ftypavif"sv, "an AVIF picture", to_png},
    {4, "ftyphei"sv, "a HEIC picture", to_png},
    {4, "ftypmif1"sv, "a HEIC picture", to_png},
    {4, "ftyp"sv, "a video or a picture of a phone", to_png},
    {0, "\0\0\0\x0CjP  "sv, "a JPEG 2000 picture", to_png},
    {0, "\xFF\x0A"sv, "a JPEG XL picture", to_png},
    {0, "\0\0\0\x0CJXL "sv, "a JPEG XL picture", to_png},
    {0, "8BPS"sv, "a Photoshop picture", to_png},
    {0, "BM"sv, "a BMP picture", to_png},
};

// Formats that are read, but not as what is wanted here.
std::string misplaced(const std::string& path, std::string_view head, Wanted wanted) {
    if (wanted == Wanted::networks && holds(head, 0, "\x93NUMPY")) return "a NumPy array; give a .safetensors";
    const bool png = holds(head, 0, "\x89PNG\r\n\x1A\n"), jpeg = holds(head, 0, "\xFF\xD8\xFF");
    if (wanted != Wanted::picture && (png || jpeg)) {
        const std::string folder = std::filesystem::path(path).parent_path().string();
        return text("a picture; ", wanted == Wanted::networks ? "give a .safetensors"
                                                              : text("give the folder of pictures that it is in: ",
                                                                     folder.empty() ? "." : folder));
    }
    if (wanted != Wanted::networks && is_safetensors(head))
        return "a .safetensors, which holds networks, not images; --model takes checkpoints";
    return "";
}

}  // namespace

std::string unfetched_file(std::string_view head) {
    if (head.starts_with("version https://git-lfs.github.com/spec/"))
        return "a Git LFS pointer, not the file itself; fetch it: git lfs install && git lfs pull";
    if (head.starts_with("/annex/objects/") || head.find("/.git/annex/objects/") < 512)
        return "a git-annex pointer, not the file itself; fetch it: git annex get";
    if (head.starts_with("\xEF\xBB\xBF")) head.remove_prefix(3);
    const size_t start = head.find_first_not_of(" \t\r\n");
    const std::string begin = start == std::string_view::npos ? "" : lower(head.substr(start, 512));
    for (const char* tag : {"<!doctype html", "<html", "<head", "<body", "<title", "<script", "<meta"})
        if (begin.starts_with(tag) || (begin.starts_with("<!--") && begin.find(tag) != std::string::npos))
            return "a web page (HTML), not the file itself; the download failed: open it in a browser to see why, "
                   "then download the file again";
    if (begin.starts_with("<?xml") || begin.starts_with("<error"))
        return "an XML text, such as a server's error message, not the file itself; download the file again";
    return "";
}

std::string foreign_format(const std::string& path, std::string_view head, Wanted wanted) {
    if (const std::string what = unfetched_file(head); !what.empty()) return what;
    if (const std::string what = misplaced(path, head, wanted); !what.empty()) return what;
    if (head.empty()) return "empty; copy or download it again";
    if (is_safetensors(head)) return "";
    if (holds(head, 0, "PK\3\4")) return zip_file(path, head, wanted);
    if (holds(head, 0, "\x1F\x8B\x08")) return gzip_file(path);
    if (holds(head, 257, "ustar")) return tar_file(path, head);
    if (head.size() > 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5) return pickle_file(path, head, wanted);
    if (const std::string what = array_file(path, head, wanted); !what.empty()) return what;
    for (const Format& format : formats)
        if (holds(head, format.offset, format.magic))
            return text(format.name, "; ",
                        wanted == Wanted::networks && format.advice != unpack ? "give a .safetensors" : format.advice);
    if (is_text(head)) return text("a text file", wanted == Wanted::networks ? "; give a .safetensors" : "");
    if (std::all_of(head.begin(), head.end(), [](char c) { return c == 0; }) && wanted == Wanted::picture)
        return "only zero bytes; copy or download it again";
    return "";
}

std::string shell_word(const std::string& path) {
    const auto plain = [](unsigned char c) {
        return std::isalnum(c) || std::string_view("_./+=@%,:-").find(char(c)) != std::string_view::npos;
    };
    if (!path.empty() && path[0] != '-' && std::all_of(path.begin(), path.end(), plain)) return path;
    std::string out = "'";
    for (const char c : path) out += c == '\'' ? "'\\''"s : std::string(1, c);
    return out + "'";
}

std::string python_word(const std::string& path) {
    const auto plain = [](unsigned char c) {
        return c >= ' ' && std::string_view("'\"\\$`!").find(char(c)) == std::string_view::npos;
    };
    return std::all_of(path.begin(), path.end(), plain) ? "'" + path + "'" : "'FILE'";
}

}  // namespace dualmcmc
