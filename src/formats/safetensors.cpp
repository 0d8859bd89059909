// The safetensors format: see safetensors.h.
#include "formats/safetensors.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <set>

#include "check.h"
#include "formats/files.h"

namespace dualmcmc {
namespace {

constexpr int64_t max_header = 100'000'000;  // the format's own limit, in bytes

// Bytes of one element; 0 for a name that the format does not know.
int64_t item_size(const std::string& dtype) {
    static const std::map<std::string, int64_t> sizes = {
        {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
        {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8},     {"I64", 8}, {"U64", 8}};
    const auto found = sizes.find(dtype);
    return found == sizes.end() ? 0 : found->second;
}

// Bytes of a tensor, or -1 where a side is negative, the dtype is unknown or the number does not fit.
int64_t byte_count(const std::string& dtype, const std::vector<int64_t>& shape) {
    int64_t bytes = item_size(dtype);
    if (bytes == 0) return -1;
    for (int64_t side : shape)
        if (side < 0 || __builtin_mul_overflow(bytes, side, &bytes)) return -1;
    return bytes;
}

// One tensor's line in the header; begin and end count from the first byte behind the header.
struct Entry {
    std::string name, dtype;
    std::vector<int64_t> shape;
    int64_t begin = -1, end = -1;
};

// Reads the header's JSON: objects, strings and lists of non-negative integers, in the one nesting that the format has.
// It follows that nesting and never recurses, so no input can exhaust the stack.
class HeaderReader {
public:
    HeaderReader(const std::string& json, const std::string& path) : json_(json), path_(path) {}

    void read(std::map<std::string, std::string>& metadata, std::vector<Entry>& entries) {
        object([&](const std::string& name) {
            if (name == "__metadata__") object([&](const std::string& key) { metadata[key] = string(); });
            else entries.push_back(entry(name));
        });
        skip_space();
        if (at_ != json_.size()) bad("text behind the end of the object");
    }

private:
    [[noreturn]] void bad(const std::string& what) const {
        fail(path_, " is not a valid safetensors file: bad JSON in its header, byte ", at_, ": ", what);
    }

    void skip_space() {
        while (at_ < json_.size() && std::strchr(" \t\r\n", json_[at_]) && json_[at_] != 0) ++at_;
    }

    bool take(char wanted) {
        skip_space();
        if (at_ >= json_.size() || json_[at_] != wanted) return false;
        ++at_;
        return true;
    }

    void expect(char wanted) {
        if (!take(wanted)) bad(text("expected '", wanted, "'"));
    }

    // Reads { "key": VALUE, ... }, calling read_value(key) where VALUE begins.
    template <class ReadValue>
    void object(ReadValue read_value) {
        std::set<std::string> seen;
        expect('{');
        if (take('}')) return;
        do {
            const std::string key = string();
            const auto is_control = [](unsigned char c) { return c < ' '; };
            if (std::any_of(key.begin(), key.end(), is_control)) bad("control character in a name");
            if (!seen.insert(key).second) bad("the name \"" + key + "\" stands twice");
            expect(':');
            read_value(key);
        } while (take(','));
        expect('}');
    }

    Entry entry(const std::string& name) {
        Entry result;
        std::vector<int64_t> offsets;
        bool has_shape = false;
        result.name = name;
        object([&](const std::string& key) {
            if (key == "dtype") result.dtype = string();
            else if (key == "shape") result.shape = integers(), has_shape = true;
            else if (key == "data_offsets") offsets = integers();
            else bad("unknown property \"" + key + "\" of tensor " + name);
        });
        if (result.dtype.empty() || !has_shape || offsets.size() != 2)
            bad("tensor " + name + " needs a dtype, a shape and two data_offsets");
        result.begin = offsets[0];
        result.end = offsets[1];
        return result;
    }

    std::vector<int64_t> integers() {
        std::vector<int64_t> result;
        expect('[');
        if (take(']')) return result;
        do result.push_back(integer());
        while (take(','));
        expect(']');
        return result;
    }

    int64_t integer() {
        skip_space();
        const size_t start = at_;
        int64_t value = 0;
        for (; at_ < json_.size() && json_[at_] >= '0' && json_[at_] <= '9'; ++at_)
            if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, json_[at_] - '0', &value))
                bad("the number is too large");
        if (at_ == start) bad("expected a non-negative integer");
        return value;
    }

    std::string string() {
        std::string result;
        expect('"');
        while (true) {
            if (at_ >= json_.size()) bad("the string does not end");
            const char c = json_[at_++];
            if (c == '"') return result;
            if (static_cast<unsigned char>(c) < ' ') bad("control character in a string");
            if (c == '\\') escape(result);
            else result += c;
        }
    }

    void escape(std::string& result) {
        const char c = at_ < json_.size() ? json_[at_++] : 0;
        static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
        const char* letter = c ? std::strchr(letters, c) : nullptr;
        if (letter) result += meanings[letter - letters];
        else if (c == 'u') append_utf8(code_point(), result);
        else bad("unknown escape");
    }

    // Behind a \u, which is already read: the code point that four hex digits name, or that they and a second \u, a
    // surrogate pair, name.
    uint32_t code_point() {
        const uint32_t high = hex4();
        if (high < 0xD800 || high > 0xDFFF) return high;
        if (high > 0xDBFF || json_.compare(at_, 2, "\\u") != 0) bad("unpaired surrogate");
        at_ += 2;
        const uint32_t low = hex4();
        if (low < 0xDC00 || low > 0xDFFF) bad("unpaired surrogate");
        return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    }

    uint32_t hex4() {
        uint32_t value = 0;
        for (int i = 0; i < 4; ++i) {
            static const char digits[] = "0123456789abcdef";
            const int c = at_ < json_.size() ? std::tolower(static_cast<unsigned char>(json_[at_++])) : 0;
            const char* digit = c ? std::strchr(digits, c) : nullptr;
            if (!digit) bad("expected four hexadecimal digits");
            value = value * 16 + static_cast<uint32_t>(digit - digits);
        }
        return value;
    }

    static void append_utf8(uint32_t code, std::string& result) {
        const auto tail = [&](int shift) { result += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
        if (code < 0x80) result += static_cast<char>(code);
        else if (code < 0x800) result += static_cast<char>(0xC0 | (code >> 6)), tail(0);
        else if (code < 0x10000) result += static_cast<char>(0xE0 | (code >> 12)), tail(6), tail(0);
        else result += static_cast<char>(0xF0 | (code >> 18)), tail(12), tail(6), tail(0);
    }

    const std::string& json_;
    const std::string& path_;
    size_t at_ = 0;
};

// Fails unless every tensor's bytes match its shape and together they fill the file's data exactly: no overlap, no gap.
// Leaves the entries in the order of their bytes.
void check_layout(std::vector<Entry>& entries, int64_t data_bytes, const std::string& path) {
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    int64_t position = 0;
    for (const Entry& entry : entries) {
        const auto bad = [&](const auto&... what) {
            fail(path, " is not a valid safetensors file: tensor ", entry.name, " ", what...);
        };
        if (item_size(entry.dtype) == 0) bad("has the unknown dtype ", entry.dtype);
        const int64_t bytes = byte_count(entry.dtype, entry.shape);
        if (bytes < 0) bad("has a shape too large for any file");
        if (entry.end < entry.begin || entry.end - entry.begin != bytes)
            bad("has data_offsets ", entry.begin, " to ", entry.end, " where its shape needs ", bytes, " bytes");
        if (entry.end > data_bytes)
            fail(path, " is truncated: tensor ", entry.name, " ends at byte ", entry.end, " of the data, the file has ",
                 data_bytes);
        if (entry.begin < position) bad("overlaps another tensor");
        if (entry.begin > position) bad("lies behind a gap of ", entry.begin - position, " bytes");
        position = entry.end;
    }
    if (position != data_bytes)
        fail(path, " is not a valid safetensors file: ", data_bytes - position, " bytes behind its last tensor");
}

std::string quoted(const std::string& s) {
    std::string result = "\"";
    for (unsigned char c : s) {
        char escaped[8];
        if (c == '"' || c == '\\') result += '\\', result += static_cast<char>(c);
        else if (c < ' ') std::snprintf(escaped, sizeof escaped, "\\u%04x", c), result += escaped;
        else result += static_cast<char>(c);
    }
    return result + '"';
}

using NamedTensor = std::pair<const std::string, StoredTensor>;

// The file's tensors in the order of writing: wide elements first, so that each tensor is aligned to its element.
std::vector<const NamedTensor*> writing_order(const SafetensorsFile& file) {
    std::vector<const NamedTensor*> order;
    for (const NamedTensor& named : file.tensors) order.push_back(&named);
    std::stable_sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
        return item_size(a->second.dtype) > item_size(b->second.dtype);
    });
    return order;
}

// The JSON header, filled with spaces to a multiple of 8 bytes so that the data begin aligned.
std::string make_header(const SafetensorsFile& file, const std::vector<const NamedTensor*>& order) {
    std::string json = "{\"__metadata__\":{", separator;
    for (const auto& [key, value] : file.metadata) {
        json += separator + quoted(key) + ":" + quoted(value);
        separator = ",";
    }
    json += "}";
    int64_t position = 0;
    for (const NamedTensor* named : order) {
        const auto& [name, tensor] = *named;
        const int64_t bytes = static_cast<int64_t>(tensor.bytes.size());
        CHECK_EQ(byte_count(tensor.dtype, tensor.shape), bytes);
        json += "," + quoted(name) + ":{\"dtype\":" + quoted(tensor.dtype) + ",\"shape\":[";
        for (size_t i = 0; i < tensor.shape.size(); ++i) json += text(i ? "," : "", tensor.shape[i]);
        json += text("],\"data_offsets\":[", position, ",", position + bytes, "]}");
        position += bytes;
    }
    json += "}";
    json.resize((json.size() + 7) / 8 * 8, ' ');
    return json;
}

}  // namespace

StoredTensor store_floats(const std::vector<int64_t>& shape, const float* values) {
    const int64_t bytes = byte_count("F32", shape);
    CHECK_GE(bytes, 0);
    StoredTensor tensor{"F32", shape, std::vector<char>(static_cast<size_t>(bytes))};
    if (bytes > 0) std::memcpy(tensor.bytes.data(), values, tensor.bytes.size());
    return tensor;
}

std::vector<float> as_floats(const StoredTensor& tensor, const std::string& name) {
    if (tensor.dtype != "F32") fail("tensor ", name, " has dtype ", tensor.dtype, ", F32 is wanted");
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(float));
    return values;
}

SafetensorsFile read_safetensors(const std::string& path) {
    InputFile input(path);
    uint64_t length = 0;
    if (input.size() < 8) fail(path, " is not a safetensors file: it has only ", input.size(), " bytes");
    input.read(&length, sizeof length);
    if (length > static_cast<uint64_t>(std::min(max_header, input.remaining())))
        fail(path, " is truncated or not a safetensors file: it claims a header of ", length, " bytes, the file has ",
             input.size());
    std::string json(length, ' ');
    input.read(json.data(), static_cast<int64_t>(length));

    SafetensorsFile file;
    std::vector<Entry> entries;
    HeaderReader(json, path).read(file.metadata, entries);
    check_layout(entries, input.remaining(), path);
    for (const Entry& entry : entries) {
        StoredTensor& tensor = file.tensors[entry.name];
        tensor = {entry.dtype, entry.shape, std::vector<char>(static_cast<size_t>(entry.end - entry.begin))};
        input.read(tensor.bytes.data(), entry.end - entry.begin);
    }
    return file;
}

void write_safetensors(const std::string& path, const SafetensorsFile& file) {
    const std::vector<const NamedTensor*> order = writing_order(file);
    const std::string header = make_header(file, order);
    const uint64_t length = header.size();
    AtomicFile output(path);
    output.write(&length, sizeof length);
    output.write(header.data(), static_cast<int64_t>(length));
    for (const NamedTensor* named : order)
        output.write(named->second.bytes.data(), static_cast<int64_t>(named->second.bytes.size()));
    output.commit();
}

}  // namespace dualmcmc
