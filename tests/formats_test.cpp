// The file formats safetensors, .npy and PNG: well-formed and malformed files, and failed writes.
#include <sys/resource.h>
#include <sys/stat.h>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <limits>

#include "data/images.h"
#include "file_helpers.h"
#include "formats/crc32.h"
#include "formats/foreign.h"
#include "formats/npy.h"
#include "formats/png.h"
#include "formats/safetensors.h"
#include "png_helpers.h"

namespace dualmcmc {
namespace {

// A handmade safetensors file: the length of `json`, `json`, and `data` bytes of data.
std::string raw_safetensors(const std::string& json, size_t data) {
    const uint64_t length = json.size();
    std::string bytes(8, 0);
    std::memcpy(bytes.data(), &length, 8);
    return bytes + json + std::string(data, 'x');
}

void expect_bad_safetensors(const std::string& bytes, const std::string& problem) {
    const std::string path = temporary_path("bad.safetensors");
    write_bytes(path, bytes);
    expect_failure([&] { read_safetensors(path); }, {problem, path});
    std::filesystem::remove(path);
}

SafetensorsFile example_file() {
    const real values[6] = {1.5f, -0.0f, 3e-42f, std::numeric_limits<real>::infinity(), -7, 1e30f};
    SafetensorsFile file;
    file.metadata = {{"config", "line 1\nline \"2\"\t\\ \x01 \xC3\xA9"}, {"", ""}};
    file.tensors["a"] = store_values({2, 3}, values);
    file.tensors["nothing"] = store_values<real>({4, 0}, nullptr);
    file.tensors["scalar"] = store_values({}, values + 4);
    file.tensors["bytes"] = {"U8", {3}, {1, 2, 3}};
    file.tensors["z wide"] = {"I64", {1}, {8, 7, 6, 5, 4, 3, 2, 1}};
    return file;
}

void expect_equal(const SafetensorsFile& a, const SafetensorsFile& b) {
    EXPECT_EQ(a.metadata, b.metadata);
    ASSERT_EQ(a.tensors.size(), b.tensors.size());
    for (const auto& [name, tensor] : a.tensors) {
        ASSERT_TRUE(b.tensors.count(name)) << name;
        const StoredTensor& other = b.tensors.at(name);
        EXPECT_EQ(tensor.dtype, other.dtype) << name;
        EXPECT_EQ(tensor.shape, other.shape) << name;
        EXPECT_EQ(tensor.bytes, other.bytes) << name;
    }
}

// The check value of the catalogue of CRCs, and Python's zlib.crc32 of the same bytes in two parts.
TEST(Crc32, IsZlibs) {
    EXPECT_EQ(crc32("123456789", 9), 0xCBF43926u);
    const std::string words = "slicing by eight, and what is left over";
    EXPECT_EQ(crc32(words.data(), words.size()), 0x4C311174u);
    EXPECT_EQ(crc32(words.data() + 11, words.size() - 11, crc32(words.data(), 11)), 0x4C311174u);
    EXPECT_EQ(crc32("", 0), 0u);
}

TEST(Safetensors, RoundTripKeepsEveryBit) {
    const std::string path = temporary_path("round.safetensors");
    write_safetensors(path, example_file());
    expect_equal(read_safetensors(path), example_file());
    expect_no_temporary(path);
    const std::vector<real> a = values_of<real>(read_safetensors(path).tensors.at("a"), "a");
    ASSERT_EQ(a.size(), 6u);
    EXPECT_EQ(a[0], 1.5f);
    EXPECT_TRUE(std::signbit(a[1]));
    EXPECT_EQ(a[5], 1e30f);
    std::filesystem::remove(path);
}

TEST(Safetensors, EmptyFileRoundTrips) {
    const std::string path = temporary_path("empty.safetensors");
    write_safetensors(path, {});
    expect_equal(read_safetensors(path), {});
    std::filesystem::remove(path);
}

// Byte for byte: aligned, widest elements first.
TEST(Safetensors, WritesTheFormatsBytes) {
    SafetensorsFile file;
    file.metadata["k"] = "v";
    file.tensors["b"] = {"I64", {1}, {1, 0, 0, 0, 0, 0, 0, 0}};
    file.tensors["a"] = {"U8", {1, 2}, {5, 6}};
    const std::string path = temporary_path("bytes.safetensors");
    write_safetensors(path, file);
    std::string json =
        "{\"__metadata__\":{\"k\":\"v\"},\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[1,2],\"data_offsets\":[8,10]}}";
    json.resize((json.size() + 7) / 8 * 8, ' ');
    EXPECT_EQ(read_bytes(path), raw_safetensors(json, 0) + std::string("\1\0\0\0\0\0\0\0\5\6", 10));
    std::filesystem::remove(path);
}

TEST(Safetensors, ReadsForeignHeaders) {
    const std::string path = temporary_path("foreign.safetensors");
    write_bytes(path, raw_safetensors("{ \"\\u00e9\\ud83d\\ude00\\/\" :\n{\"shape\":[ 2 , 1 ],\"data_offsets\":[0,4],"
                                      "\"dtype\":\"F16\"} , \"__metadata__\" : {} }  ",
                                      4));
    const SafetensorsFile file = read_safetensors(path);
    ASSERT_EQ(file.tensors.count("\xC3\xA9\xF0\x9F\x98\x80/"), 1u);
    EXPECT_EQ(file.tensors.begin()->second.shape, (std::vector<int64_t>{2, 1}));
    expect_failure([&] { values_of<real>(file.tensors.begin()->second, "half"); }, {"half", "F16", "F32"});
    std::filesystem::remove(path);
}

TEST(Safetensors, MissingFileOrFolder) {
    expect_failure([] { read_safetensors("/no/such.safetensors"); }, {"/no/such.safetensors", "No such file"});
    expect_failure([] { read_safetensors(testing::TempDir()); }, {testing::TempDir(), "folder"});
    expect_failure([] { read_safetensors("/dev/zero"); }, {"/dev/zero", "not a regular file"});
}

TEST(Safetensors, BadPrefix) {
    expect_bad_safetensors("", "empty; copy or download it again");
    expect_bad_safetensors(std::string("\1\0\0\0\0\0\0", 7), "has only 7 bytes");
    expect_bad_safetensors(std::string("\x10\0\0\0\0\0\0\0{}", 10), "claims a header of 16 bytes, the file has 10");
    expect_bad_safetensors(std::string(8, '\xFF') + "{}", "claims a header of 18446744073709551615 bytes");
}

// A header beyond the format's limit is refused even if the (here sparse) file is long enough.
TEST(Safetensors, HeaderOverTheLimit) {
    const std::string path = temporary_path("huge.safetensors");
    write_bytes(path, std::string("\0\0\0\x10\0\0\0\0", 8));  // 2^28
    std::filesystem::resize_file(path, 300'000'000);
    expect_failure([&] { read_safetensors(path); }, {path, "claims a header of 268435456 bytes"});
    std::filesystem::remove(path);
}

TEST(Safetensors, BadJson) {
    const std::string open = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}";
    const std::string incomplete = "needs a dtype, a shape and two data_offsets";
    const std::pair<std::string, std::string> cases[] = {
        {"", "expected '{'"},
        {"[]", "expected '{'"},
        {open, "expected '}'"},
        {open + ",}", "expected '\"'"},
        {open + "} x", "text after the end"},
        {open + "," + open.substr(1) + "}", "\"a\" appears twice"},
        {"{\"a\":3}", "expected '{'"},
        {"{\"a", "unterminated string"},
        {"{\"a\\q\":{}}", "unknown escape"},
        {"{\"a\\", "unknown escape"},
        {"{\"\\u00g0\":{}}", "four hexadecimal digits"},
        {"{\"\\ud800\":{}}", "unpaired surrogate"},
        {"{\"\\udc00\":{}}", "unpaired surrogate"},
        {"{\"\\ud800\\u0041\":{}}", "unpaired surrogate"},
        {"{\"a\n\":{}}", "control character in a string"},
        {"{\"a\\n\":{}}", "control character in a name"},
        {"{\"__metadata__\":{\"k\":1}}", "expected '\"'"},
        {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", "\"k\" appears twice"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "expected a non-negative integer"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", "expected ']'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", "number is too large"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", incomplete},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", incomplete},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"colour\":[0,4]}}", "unknown property \"colour\""},
        {std::string("{\0}", 3), "expected '\"'"},
    };
    for (const auto& [json, problem] : cases) {
        SCOPED_TRACE(json);
        expect_bad_safetensors(raw_safetensors(json, 4), problem);
    }
    // Deep nesting is refused at its first level; it must not exhaust the stack.
    expect_bad_safetensors(raw_safetensors("{\"a\":" + std::string(5'000'000, '['), 0), "expected '{'");
}

TEST(Safetensors, BadLayout) {
    const auto tensor = [](const char* name, const char* dtype, const char* shape, const char* offsets) {
        return std::string("\"") + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
               ",\"data_offsets\":" + offsets + "}";
    };
    const std::string whole = "{" + tensor("a", "F32", "[2]", "[0,8]") + "}";
    const std::string a = "{" + tensor("a", "F32", "[1]", "[0,4]") + ",";
    const std::pair<std::string, std::string> cases[] = {
        {raw_safetensors("{" + tensor("a", "F31", "[2]", "[0,8]") + "}", 8), "tensor a has the unknown dtype F31"},
        {raw_safetensors("{" + tensor("a", "F32", "[3]", "[0,8]") + "}", 8), "its shape needs 12 bytes"},
        {raw_safetensors("{" + tensor("a", "F32", "[1]", "[8,4]") + "}", 8), "data_offsets 8 to 4"},
        {raw_safetensors("{" + tensor("a", "F32", "[4294967296,4294967296]", "[0,8]") + "}", 8), "too large"},
        {raw_safetensors(whole, 7), "is truncated: tensor a ends at byte 8 of the data, the file has 7"},
        {raw_safetensors(whole, 9), "1 bytes after its last tensor"},
        {raw_safetensors(a + tensor("b", "F32", "[1]", "[2,6]") + "}", 6), "tensor b overlaps another"},
        {raw_safetensors(a + tensor("b", "F32", "[1]", "[0,4]") + "}", 4), "tensor b overlaps another"},
        {raw_safetensors(a + tensor("b", "F32", "[1]", "[8,12]") + "}", 12), "tensor b follows a gap of 4 bytes"},
    };
    for (const auto& [bytes, problem] : cases) expect_bad_safetensors(bytes, problem);
    const std::string path = temporary_path("whole.safetensors");
    write_bytes(path, raw_safetensors(whole, 8));
    EXPECT_EQ(read_safetensors(path).tensors.at("a").bytes, std::vector<char>(8, 'x'));
    std::filesystem::remove(path);
}

// Every proper prefix of a good file is refused. A file with one changed byte is refused or read; it never crashes.
TEST(Safetensors, CorruptFilesDoNotCrashTheReader) {
    const std::string path = temporary_path("corrupt.safetensors");
    write_safetensors(path, example_file());
    const std::string good = read_bytes(path);
    for (size_t length = 0; length < good.size(); ++length) {
        write_bytes(path, good.substr(0, length));
        EXPECT_THROW(read_safetensors(path), std::runtime_error) << length;
    }
    int refused = 0;
    for (size_t i = 0; i < good.size(); ++i) {
        std::string changed = good;
        changed[i] ^= 0x15;
        write_bytes(path, changed);
        try {
            read_safetensors(path);
        } catch (const std::runtime_error& error) {
            EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
            ++refused;
        }
    }
    EXPECT_GT(refused, 100);
    std::filesystem::remove(path);
}

// During its lifetime no file of this process can grow beyond `bytes`: writes fail as on a full disk.
class FullDisk {
public:
    explicit FullDisk(rlim_t bytes) : before_(std::signal(SIGXFSZ, SIG_IGN)) {
        getrlimit(RLIMIT_FSIZE, &limit_);
        const rlimit small{bytes, limit_.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
    }
    ~FullDisk() {
        setrlimit(RLIMIT_FSIZE, &limit_);
        std::signal(SIGXFSZ, before_);
    }

private:
    void (*before_)(int);
    rlimit limit_{};
};

TEST(Safetensors, FullDiskLeavesTheOldFileIntact) {
    const std::string path = temporary_path("full.safetensors");
    write_safetensors(path, example_file());
    // Smaller and larger than the stream's buffer: the error comes only when flushing, or already when writing.
    for (const int64_t floats : {500, 1'000'000}) {
        SafetensorsFile large;
        const std::vector<real> values(floats, 1.0f);
        large.tensors["large"] = store_values({floats}, values.data());
        std::string message;
        {
            FullDisk full(1000);
            try {
                write_safetensors(path, large);
            } catch (const std::runtime_error& error) {
                message = error.what();
            }
        }
        EXPECT_NE(message.find("cannot write " + path + ": File too large"), std::string::npos) << message;
        expect_no_temporary(path);
        expect_equal(read_safetensors(path), example_file());
    }
    std::filesystem::remove(path);
}

TEST(Safetensors, UnwritablePaths) {
    const std::string file = temporary_path("plain_file"), folder = temporary_path("folder");
    write_bytes(file, "old contents");
    std::filesystem::create_directory(folder);
    const auto expect = [](const std::string& path, const std::string& problem) {
        expect_failure([&] { write_safetensors(path, example_file()); }, {"cannot write " + path, problem});
        expect_no_temporary(path);
    };
    expect("/no/such/folder/x.safetensors", "No such file or directory");
    expect(file + "/x.safetensors", "Not a directory");
    expect(folder, "Is a directory");  // only the rename fails
    EXPECT_EQ(read_bytes(file), "old contents");
    std::filesystem::remove(file);
    std::filesystem::remove(folder);
}

TEST(Safetensors, ShapeMustMatchTheBytes) {
    SafetensorsFile file;
    file.tensors["short"] = {"F32", {2}, {0, 0, 0, 0}};
    const std::string path = temporary_path("never.safetensors");
    EXPECT_THROW(write_safetensors(path, file), std::runtime_error);
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_THROW(store_values<real>({-1}, nullptr), std::runtime_error);
}

// --- .npy

std::string text_of_type(const std::string& type) { return "elements of type '" + type + "'"; }

// A handmade .npy file of the given version.
std::string raw_npy(const std::string& dictionary, size_t data, char version = 1) {
    std::string header = dictionary + "\n";
    std::string bytes = std::string("\x93NUMPY") + version + '\0' + static_cast<char>(header.size()) + '\0';
    if (version > 1) bytes += std::string(2, '\0');
    return bytes + header + std::string(data, 'x');
}

std::string dictionary(const std::string& type, const std::string& fortran, const std::string& shape) {
    return "{'descr': '" + type + "', 'fortran_order': " + fortran + ", 'shape': (" + shape + "), }";
}

TEST(Npy, RoundTrip) {
    const std::string path = temporary_path("round.npy");
    std::vector<uint8_t> values(2 * 4 * 5 * 3);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(i * 7);
    write_npy(path, {2, 4, 5, 3}, values.data());
    const std::string bytes = read_bytes(path);
    EXPECT_EQ((bytes.size() - values.size()) % 64, 0u);
    EXPECT_EQ(bytes[bytes.size() - values.size() - 1], '\n');
    NpyImages images(path);
    EXPECT_EQ(images.count, 2);
    EXPECT_EQ(images.height, 4);
    EXPECT_EQ(images.width, 5);
    std::vector<uint8_t> back(values.size());
    images.read_next(back.data());
    images.read_next(back.data() + 60);
    EXPECT_EQ(back, values);
    EXPECT_THROW(images.read_next(back.data()), std::runtime_error);
    std::filesystem::remove(path);
}

TEST(Npy, ReadsVersionsOneToThree) {
    const std::string path = temporary_path("version.npy");
    for (char version : {1, 2, 3}) {
        write_bytes(path, raw_npy(dictionary("|u1", "False", "1, 2, 2, 3"), 12, version));
        NpyImages images(path);
        std::vector<uint8_t> image(12);
        images.read_next(image.data());
        EXPECT_EQ(image, std::vector<uint8_t>(12, 'x'));
    }
    std::filesystem::remove(path);
}

TEST(Npy, BadFiles) {
    const std::string shape = "1, 2, 2, 3", good = dictionary("|u1", "False", shape);
    const std::pair<std::string, std::string> cases[] = {
        {"", "empty; copy or download it again"},
        {std::string("\1\2\0", 3), "has only 3 bytes"},
        {"PK\3\4 a zip archive", "a zip archive; unpack it"},
        {std::string(50, '\1'), "does not start with \\x93NUMPY"},
        {raw_npy(good, 12, 4), "version 4"},
        {raw_npy(good, 12).replace(8, 2, "\xFF\xFF"), "claims a header of 65535 bytes"},
        {raw_npy(good, 12, 2).replace(8, 4, "\xFF\xFF\xFF\xFF"), "claims a header of 4294967295 bytes"},
        {raw_npy("{'fortran_order': False, 'shape': (1, 2, 2, 3)}", 12), "no complete 'descr'"},
        {raw_npy("{'descr': '|u1', 'shape': (1, 2, 2, 3)}", 12), "no complete 'fortran_order'"},
        {raw_npy("{'descr': '|u1', 'fortran_order': False}", 12), "no complete 'shape'"},
        {raw_npy(dictionary("|u1", "False", "1, 2, -2, 3"), 12),
         "shape (1, 2, -2, 3); expected uint8 images (N, H, W, 3)"},
        {raw_npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2, 3", 12), "no complete 'shape'"},
        {raw_npy(dictionary("<f4", "False", shape), 48), "elements of type '<f4', shape (1, 2, 2, 3); expected uint8"},
        {raw_npy(dictionary("|u1", "True", shape), 12), "Fortran order"},
        {raw_npy(dictionary("|u1", "False", "2, 2, 3"), 12),
         "a single image, shape (2, 2, 3); expected uint8 images (N, H, W, 3)"},
        {raw_npy(dictionary("|u1", "False", "1, 3, 2, 2"), 12), "images (N, H, W, 3)"},
        {raw_npy(dictionary("|u1", "False", "0, 2, 2, 3"), 0), "impossible shape"},
        {raw_npy(dictionary("|u1", "False", "999999999999999, 99999, 99999, 3"), 12), "impossible shape"},
        {raw_npy(dictionary("|u1", "False", "9999999999999999999, 2, 2, 3"), 12), "images (N, H, W, 3)"},
        {raw_npy(good, 11), "is truncated: shape (1, 2, 2, 3) needs 12 bytes, the file has 11"},
    };
    const std::string path = temporary_path("bad.npy");
    for (const auto& [bytes, problem] : cases) {
        SCOPED_TRACE(problem);
        write_bytes(path, bytes);
        expect_failure([&] { NpyImages images(path); }, {problem, path});
    }
    std::filesystem::remove(path);
    expect_failure([] { NpyImages images("/no/such.npy"); }, {"/no/such.npy", "No such file"});
    expect_failure([] { write_npy("/no/such/x.npy", {0}, nullptr); }, {"cannot write /no/such/x.npy", "No such file"});
}

// Every spelling of the header that NumPy reads.
TEST(Npy, HeadersAreReadAsNumPyReadsThem) {
    const std::string path = temporary_path("spelling.npy"), shape = "'shape': (1, 2, 2, 3)";
    std::vector<std::string> dictionaries{
        "{\"descr\": \"|u1\", \"fortran_order\": False, \"shape\": (1, 2, 2, 3)}",
        "{'shape':(1,2,2,3),'descr':'|u1','fortran_order':False}",
        "  {  'shape' : ( 1 , 2 , 2 , 3 , ) ,\n 'fortran_order' : False , 'descr' : '|u1' , }  ",
        "{'descr': u'|u1', 'fortran_order': False, 'shape': (1L, 2L, 2L, 3L), }",
        "{'descr': b'u1', 'fortran_order': False,\t'shape': (1, 2, 2, 3)}",
        "{'fortran_order': False, \"descr\": '|u1', 'shape': (1, 2, 2, 3), }"};
    for (const char* type : {"u1", "<u1", ">u1", "=u1", "uint8", "ubyte", "B", "<B", "|B"})
        dictionaries.push_back(dictionary(type, "False", "1, 2, 2, 3"));
    for (const std::string& text : dictionaries)
        for (const char version : {1, 2, 3}) {
            SCOPED_TRACE(text);
            write_bytes(path, raw_npy(text, 12, version));
            NpyImages images(path);
            EXPECT_EQ(images.count, 1);
            EXPECT_EQ(images.width, 2);
            std::vector<uint8_t> image(12);
            images.read_next(image.data());
            EXPECT_EQ(image, std::vector<uint8_t>(12, 'x'));
        }
    for (const char* type : {"<uint8", "U1", "B1", "i1", "|b1", "u2", "", "|O", "S1"}) {
        write_bytes(path, raw_npy(dictionary(type, "False", "1, 2, 2, 3"), 100));
        expect_failure([&] { NpyImages images(path); }, {path, text_of_type(type), "expected uint8"});
    }
    for (const char* broken : {"", "descr", "{'descr'", "{'descr': '|u1'", "{'descr': '|u1, 'fortran_order': False}",
                               "{descr: '|u1', 'fortran_order': False, 'shape': (1, 2, 2, 3)}",
                               "{'descr': '|u1' 'fortran_order': False, 'shape': (1, 2, 2, 3)}",
                               "{'descr': '|u1', 'fortran_order': Maybe, 'shape': (1, 2, 2, 3)}",
                               "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2, 3"}) {
        write_bytes(path, raw_npy(broken, 12));
        expect_failure([&] { NpyImages images(path); }, {path, "not a valid .npy file"});
    }
    std::filesystem::remove(path);
}

// The command in the message makes what is read: run where NumPy is found.
TEST(Npy, OtherArraysAreNamedWithACommandThatConvertsThem) {
    struct Case {
        std::string array, what;
        int64_t count, height, width;
    };
    const Case cases[] = {
        {"np.arange(60, dtype='uint8').reshape(5, 3, 2, 2)", "channels first", 5, 2, 2},
        {"np.arange(60, dtype='<f4').reshape(5, 2, 2, 3) / 59", "elements of type '<f4'", 5, 2, 2},
        {"np.arange(60, dtype='f8').reshape(5, 3, 2, 2) / 30 - 1", "elements of type '<f8', channels first", 5, 2, 2},
        {"np.arange(60).reshape(5, 2, 2, 3)", "elements of type '<i8'", 5, 2, 2},
        {"np.asfortranarray(np.arange(60, dtype='uint8').reshape(5, 2, 2, 3))", "Fortran order", 5, 2, 2},
        {"np.arange(5 * 784).astype('uint8').reshape(5, 28, 28)", "grey 28x28 images (MNIST's)", 5, 32, 32},
        {"np.arange(5 * 784).astype('f4').reshape(5, 1, 28, 28)", "grey 28x28 images (MNIST's)", 5, 32, 32},
        {"np.arange(5 * 784).astype('uint8').reshape(5, 784)", "grey 28x28 images (MNIST's)", 5, 32, 32},
        {"np.arange(2 * 3072).astype('uint8').reshape(2, 3072)", "flat rows", 2, 32, 32},
        {"np.arange(40, dtype='uint8').reshape(5, 2, 4)", "grey images", 5, 2, 4},
        {"np.arange(40, dtype='uint8').reshape(5, 2, 4, 1)", "grey images", 5, 2, 4},
        {"np.arange(160, dtype='uint8').reshape(5, 4, 8, 1).repeat(4, 3)", "four channels", 5, 4, 8},
        {"np.arange(60, dtype='uint8').reshape(2, 2, 3, 5)", "the images along the last axis", 5, 2, 2},
        {"np.arange(12, dtype='uint8').reshape(2, 2, 3)", "a single image", 1, 2, 2},
        {"np.ones((5, 2, 2, 3), 'bool')", "elements of type '|b1'", 5, 2, 2}};
    const std::string folder = temporary_path("arrays"), python = "cd '" + folder + "' && PATH=/usr/bin:$PATH ";
    std::filesystem::create_directory(folder);
    if (std::system((python + "python3 -c 'import numpy' 2>/dev/null").c_str()) != 0)
        GTEST_SKIP() << "NumPy was not found";
    for (const Case& c : cases) {
        SCOPED_TRACE(c.array);
        ASSERT_EQ(
            std::system((python + "python3 -c \"import numpy as np; np.save('a.npy', " + c.array + ")\"").c_str()), 0);
        std::string message;
        try {
            NpyImages images(folder + "/a.npy");
        } catch (const std::runtime_error& error) {
            message = error.what();
        }
        EXPECT_NE(message.find(c.what + ", shape ("), std::string::npos) << message;
        const size_t begin = message.find("python3 -c"), end = message.find(" and give a-uint8.npy");
        ASSERT_TRUE(begin != std::string::npos && end != std::string::npos) << message;
        ASSERT_EQ(std::system((python + message.substr(begin, end - begin)).c_str()), 0) << message;
        NpyImages images(folder + "/a-uint8.npy");
        EXPECT_EQ(images.count, c.count);
        EXPECT_EQ(images.height, c.height);
        EXPECT_EQ(images.width, c.width);
    }
    std::filesystem::remove_all(folder);
}

// --- foreign files

TEST(Foreign, FilesAreNamedForWhatTheyAre) {
    const std::string zip = "PK\3\4" + std::string(22, '\0');
    const auto zipped = [&](const std::string& name) { return zip + char(name.size()) + std::string(3, '\0') + name; };
    const std::string torch = std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15),
                      tar = std::string("cifar-10-batches-py/").append(237, '\0') + "ustar";
    struct Case {
        std::string name, bytes, as_data, as_networks;
    };
    const std::string converter = "reference/convert_release.py to-safetensors ";
    const Case cases[] = {
        {"x.npz", zipped("arr_0.npy"), "np.load('x.npz')['arr_0']", "a .npz"},
        {"x.pth", zipped("archive/data.pkl"), "torch.save", converter + "x.pth x.safetensors"},
        {"x.ckpt", torch, "torch.save", converter + "x.ckpt x.safetensors"},
        {"a b.pth", torch, "torch.save", converter + "'a b.pth' 'a b.safetensors'"},
        {"x.zip", zipped("img_align_celeba/"), "unzip x.zip", "unzip x.zip"},
        {"cifar-10-python.tar.gz", "\x1F\x8B\x08xyz", "Python version of CIFAR-10; ", "CIFAR-10"},
        {"cifar-100-python.tar.gz", "\x1F\x8B\x08xyz", "Python version of CIFAR-100", "CIFAR-100"},
        {"x.tar.gz", "\x1F\x8B\x08xyz", "tar xf x.tar.gz", "tar xf x.tar.gz"},
        {"x.npy.gz", "\x1F\x8B\x08xyz", "gunzip -k x.npy.gz", "gunzip"},
        {"x.npy", "\x1F\x8B\x08xyz", "tar xf x.npy, or gunzip", "gunzip"},
        {"x.tar", tar, "Python version of CIFAR-10", "CIFAR-10"},
        {"data_batch_1", "\x80\x04\x95.......", "Python version of CIFAR-10", "CIFAR-10"},
        {"x.pkl", "\x80\x04\x95.......", "a Python pickle", "a Python pickle"},
        {"x.pt", "\x80\x04\x95.......", "a Python pickle", converter},
        {"x.h5", "\x89HDF\r\n\x1A\n.", "an HDF5 file", "give a .safetensors"},
        {"x.mat", "MATLAB 5.0 MAT-file, ...",
         "numpy.save('x.npy', scipy.io.loadmat('x.mat')['X'].transpose(3, 0, 1, 2)", "give a .safetensors"},
        {"train-images-idx3-ubyte", std::string("\0\0\x08\x03\0\0", 6), "MNIST (28x28, grey); convert it: python3 -c",
         "give a .safetensors"},
        {"x.parquet", "PAR1....", "a Parquet file", "give a .safetensors"},
        {"a/x.png", "\x89PNG\r\n\x1A\n..", "give the folder of pictures that it is in: a", "a picture"},
        {"x.jpg", "\xFF\xD8\xFF\xE0..", "that it is in: .", "a picture"},
        {"x.gif", "GIF89a", "a GIF picture", "a GIF picture"},
        {"x.npy", "\x93NUMPY\1", "", "a NumPy array; give a .safetensors"},
        {"x.safetensors", raw_safetensors("{}", 0), ".safetensors, which holds networks", ""},
        // A header whose length has the bytes of a pickle.
        {"x.safetensors", raw_safetensors("{" + std::string(639, ' '), 0), "which holds networks", ""},
        {"x", "<html>", "a web page", "a web page"},
        {"x", "\n  <!DOCTYPE HTML PUBLIC", "a web page", "a web page"},
        {"x", "<?xml version='1.0'?><Error>", "an XML text", "an XML text"},
        {"x", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull", "git lfs pull"},
        {"x", "/annex/objects/SHA256E-s1", "git annex get", "git annex get"},
        {"x", "words", "a text file", "a text file; give a .safetensors"},
        {"x", "", "empty", "empty"},
        {"x", std::string("\3\1\4\1\5\x92\6\5\3\5", 10), "", ""}};
    for (const Case& c : cases) {
        SCOPED_TRACE(c.name + " " + c.bytes.substr(0, 20));
        for (const auto& [wanted, part] : {std::pair(Wanted::data, c.as_data), {Wanted::networks, c.as_networks}}) {
            const std::string what = foreign_format(c.name, c.bytes, wanted);
            EXPECT_EQ(what.find('\n'), std::string::npos);
            if (part.empty()) EXPECT_EQ(what, "");
            else EXPECT_NE(what.find(part), std::string::npos) << what;
        }
    }
}

// Whatever reads them: no reader waits, and all say what lies there.
TEST(Foreign, EveryReaderRefusesWhatIsNoFile) {
    const std::string path = temporary_path("no_file");
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    const std::pair<std::string, std::string> cases[] = {
        {path, "a FIFO"}, {"/dev/zero", "a device"}, {"/dev", "a folder"}, {"/no/such/file", "No such file"}};
    for (const auto& [file, problem] : cases) {
        expect_failure([&] { InputFile input(file); }, {"cannot read " + file, problem});
        expect_failure([&] { NpyImages images(file); }, {file, problem});
        expect_failure([&] { read_safetensors(file); }, {file, problem});
    }
    std::filesystem::remove(path);
    for (const std::string bytes : {"<!doctype html><p>Sign in", "version https://git-lfs.github.com/spec/v1\noid"}) {
        write_bytes(path, bytes);
        expect_failure([&] { InputFile input(path); }, {path + " is a", "not the file itself"});
        expect_failure([&] { read_file(path); }, {path});
    }
    std::filesystem::remove(path);
}

// --- PNG

ImageSet numbered_images(int64_t count, int64_t size, int start) {
    ImageSet set{count, size, std::vector<uint8_t>(count * size * size * 3), ""};
    for (size_t i = 0; i < set.pixels.size(); ++i) set.pixels[i] = static_cast<uint8_t>((start + i * 5) % 251);
    return set;
}

TEST(Png, RoundTrip) {
    const std::string path = temporary_path("round.png");
    std::vector<uint8_t> pixels(7 * 5 * 3);
    for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * i);
    write_png(path, pixels.data(), 7, 5);
    const Picture picture = decode(path);
    EXPECT_EQ(picture.width, 7);
    EXPECT_EQ(picture.height, 5);
    EXPECT_EQ(picture.pixels, pixels);
    expect_no_temporary(path);
    std::filesystem::remove(path);
    expect_failure([&] { write_png(path, pixels.data(), 40000, 20000); }, {path, "40000x20000", "too large"});
}

// Every pixel of a grid: 3 + 5 images of 4x4 in 2 columns, scale 2, gap 3.
TEST(Png, GridHasEveryPixelInPlace) {
    const std::string path = temporary_path("grid.png");
    const ImageSet first = numbered_images(3, 4, 10), second = numbered_images(5, 4, 99);
    write_grid(path, {&first, &second}, 2, 2, 3);
    const Picture picture = decode(path);
    const int pitch = 8 + 3, panel = 2 * 8 + 3, panel_gap = 15, rows = 3;
    ASSERT_EQ(picture.width, 2 * panel + panel_gap);
    ASSERT_EQ(picture.height, rows * 8 + (rows - 1) * 3);
    std::vector<uint8_t> expected(picture.pixels.size(), 255);
    int left = 0;
    for (const ImageSet* set : {&first, &second}) {
        for (int i = 0; i < set->count; ++i)
            for (int y = 0; y < 8; ++y)
                for (int x = 0; x < 8; ++x)
                    for (int c = 0; c < 3; ++c)
                        expected[((i / 2 * pitch + y) * picture.width + left + i % 2 * pitch + x) * 3 + c] =
                            set->pixels[((i * 4 + y / 2) * 4 + x / 2) * 3 + c];
        left += panel + panel_gap;
    }
    EXPECT_EQ(picture.pixels, expected);
    std::filesystem::remove(path);
}

TEST(Png, ErrorsAndContracts) {
    const ImageSet four = numbered_images(1, 4, 0), five = numbered_images(1, 5, 0);
    expect_failure([&] { write_grid("/no/such/folder/x.png", {&four}, 1); },
                   {"cannot write /no/such/folder/x.png", "No such file or directory"});
    const std::string path = temporary_path("never.png");
    EXPECT_THROW(write_grid(path, {&four, &five}, 1), std::runtime_error);
    EXPECT_THROW(write_grid(path, {}, 1), std::runtime_error);
    EXPECT_THROW(write_grid(path, {&four}, 0), std::runtime_error);
    EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace dualmcmc
