// The safetensors format: see safetensors.h.
#include "formats/safetensors.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <set>
#include <system_error>
#include <type_traits>

#include "check.h"
#include "formats/crc32.h"
#include "formats/files.h"
#include "formats/foreign.h"

namespace dualmcmc {
namespace {

constexpr int64_t max_header = 100'000'000;  // the format's own limit, in bytes

bool is_control(char c) { return static_cast<unsigned char>(c) < ' '; }

// Bytes per element; 0 for an unknown dtype.
int64_t element_size(const std::string& dtype) {
    static const std::map<std::string, int64_t> sizes = {
        {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
        {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8},     {"I64", 8}, {"U64", 8}};
    const auto found = sizes.find(dtype);
    return found == sizes.end() ? 0 : found->second;
}

// Bytes of a tensor; -1 if the dtype is unknown, a dimension is negative or the product overflows.
int64_t byte_count(const std::string& dtype, const std::vector<int64_t>& shape) {
    int64_t bytes = element_size(dtype);
    if (bytes == 0) return -1;
    for (int64_t dimension : shape)
        if (dimension < 0 || __builtin_mul_overflow(bytes, dimension, &bytes)) return -1;
    return bytes;
}

// A tensor's entry in the header; begin and end are its data_offsets, counted from the end of the header.
struct Entry {
    std::string name, dtype;
    std::vector<int64_t> shape;
    int64_t begin = -1, end = -1;
};

// Parses the header's JSON, one function per rule of this grammar:
//
//     header   = { "__metadata__": { KEY: string, ... }, NAME: entry, ... }
//     entry    = { "dtype": string, "shape": integers, "data_offsets": integers }
//     integers = [ integer, ... ]
//
// The nesting is fixed and nothing recurses, so no input can exhaust the stack.
class HeaderParser {
public:
    HeaderParser(const std::string& json, const std::string& path) : json_(json), path_(path) {}

    void parse(std::map<std::string, std::string>& metadata, std::vector<Entry>& entries) {
        parse_object([&](const std::string& name) {
            if (name == "__metadata__") parse_object([&](const std::string& key) { metadata[key] = parse_string(); });
            else entries.push_back(parse_entry(name));
        });
        skip_space();
        if (position_ != json_.size()) error("text after the end of the object");
    }

private:
    [[noreturn]] void error(const std::string& what) const {
        fail(path_, " is not a valid safetensors file: bad JSON in its header at byte ", position_, ": ", what);
    }

    // The next character; 0, which no rule accepts, at the end.
    char peek() const { return position_ < json_.size() ? json_[position_] : '\0'; }

    char next() { return position_ < json_.size() ? json_[position_++] : '\0'; }

    void skip_space() {
        while (peek() != 0 && std::strchr(" \t\r\n", peek())) ++position_;
    }

    // Skips `c` if it is the next character after white space.
    bool accept(char c) {
        skip_space();
        if (peek() != c) return false;
        ++position_;
        return true;
    }

    void expect(char c) {
        if (!accept(c)) error(text("expected '", c, "'"));
    }

    // { "key": VALUE, ... }: calls parse_value(key) at the start of each VALUE.
    template <class ParseValue>
    void parse_object(ParseValue parse_value) {
        std::set<std::string> seen;
        expect('{');
        if (accept('}')) return;
        do {
            const std::string key = parse_string();
            if (std::any_of(key.begin(), key.end(), is_control)) error("control character in a name");
            if (!seen.insert(key).second) error("the name \"" + excerpt(key) + "\" appears twice");
            expect(':');
            parse_value(key);
        } while (accept(','));
        expect('}');
    }

    Entry parse_entry(const std::string& name) {
        Entry result;
        std::vector<int64_t> offsets;
        bool has_shape = false;
        result.name = name;
        parse_object([&](const std::string& key) {
            if (key == "dtype") result.dtype = parse_string();
            else if (key == "shape") result.shape = parse_integers(), has_shape = true;
            else if (key == "data_offsets") offsets = parse_integers();
            else error("unknown property \"" + excerpt(key) + "\" of tensor " + excerpt(name));
        });
        if (result.dtype.empty() || !has_shape || offsets.size() != 2)
            error("tensor " + excerpt(name) + " needs a dtype, a shape and two data_offsets");
        result.begin = offsets[0];
        result.end = offsets[1];
        return result;
    }

    std::vector<int64_t> parse_integers() {
        std::vector<int64_t> result;
        expect('[');
        if (accept(']')) return result;
        do result.push_back(parse_integer());
        while (accept(','));
        expect(']');
        return result;
    }

    int64_t parse_integer() {
        skip_space();
        const size_t start = position_;
        int64_t value = 0;
        for (; peek() >= '0' && peek() <= '9'; ++position_)
            if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, peek() - '0', &value))
                error("the number is too large");
        if (position_ == start) error("expected a non-negative integer");
        return value;
    }

    std::string parse_string() {
        std::string result;
        expect('"');
        while (true) {
            if (position_ == json_.size()) error("unterminated string");
            const char c = next();
            if (c == '"') return result;
            if (is_control(c)) error("control character in a string");
            if (c == '\\') parse_escape(result);
            else result += c;
        }
    }

    // The escape sequence after a backslash; appends the character it stands for.
    void parse_escape(std::string& result) {
        const char c = next();
        static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
        const char* letter = c ? std::strchr(letters, c) : nullptr;
        if (letter) result += meanings[letter - letters];
        else if (c == 'u') append_utf8(parse_code_point(), result);
        else error("unknown escape");
    }

    // The code point after \u: four hexadecimal digits, or a surrogate pair of twice four, joined by another \u.
    uint32_t parse_code_point() {
        const uint32_t high = parse_hex4();
        if (high < 0xD800 || high > 0xDFFF) return high;
        if (high > 0xDBFF || json_.compare(position_, 2, "\\u") != 0) error("unpaired surrogate");
        position_ += 2;
        const uint32_t low = parse_hex4();
        if (low < 0xDC00 || low > 0xDFFF) error("unpaired surrogate");
        return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    }

    uint32_t parse_hex4() {
        uint32_t value = 0;
        for (int i = 0; i < 4; ++i) {
            static const char digits[] = "0123456789abcdef";
            const int c = std::tolower(static_cast<unsigned char>(next()));
            const char* digit = c ? std::strchr(digits, c) : nullptr;
            if (!digit) error("expected four hexadecimal digits");
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
    size_t position_ = 0;
};

// Fails unless each tensor's bytes match its shape and all together fill the file's data without overlap or gap. Sorts
// the entries by their position.
void check_layout(std::vector<Entry>& entries, int64_t data_bytes, const std::string& path) {
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    int64_t position = 0;
    for (const Entry& entry : entries) {
        const auto error = [&](const auto&... what) {
            fail(path, " is not a valid safetensors file: tensor ", excerpt(entry.name), " ", what...);
        };
        if (element_size(entry.dtype) == 0) error("has the unknown dtype ", excerpt(entry.dtype));
        const int64_t bytes = byte_count(entry.dtype, entry.shape);
        if (bytes < 0) error("has a shape too large for any file");
        if (entry.end < entry.begin || entry.end - entry.begin != bytes)
            error("has data_offsets ", entry.begin, " to ", entry.end, ", but its shape needs ", bytes, " bytes");
        if (entry.end > data_bytes)
            fail(path, " is truncated: tensor ", excerpt(entry.name), " ends at byte ", entry.end,
                 " of the data, the file has ", data_bytes);
        if (entry.begin < position) error("overlaps another tensor");
        if (entry.begin > position) error("follows a gap of ", entry.begin - position, " bytes");
        position = entry.end;
    }
    if (position != data_bytes)
        fail(path, " is not a valid safetensors file: ", data_bytes - position, " bytes after its last tensor");
}

// `s` as a JSON string.
std::string quoted(const std::string& s) {
    std::string result = "\"";
    for (unsigned char c : s) {
        char escaped[8];
        if (c == '"' || c == '\\') result += '\\', result += static_cast<char>(c);
        else if (is_control(c)) std::snprintf(escaped, sizeof escaped, "\\u%04x", c), result += escaped;
        else result += static_cast<char>(c);
    }
    return result + '"';
}

using NamedTensor = std::pair<const std::string, StoredTensor>;

// The tensors in the order of writing: widest elements first, so that each tensor is aligned to its element size.
std::vector<const NamedTensor*> writing_order(const SafetensorsFile& file) {
    std::vector<const NamedTensor*> order;
    for (const NamedTensor& named : file.tensors) order.push_back(&named);
    std::stable_sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
        return element_size(a->second.dtype) > element_size(b->second.dtype);
    });
    return order;
}

// The JSON header, padded with spaces to a multiple of 8 bytes so that the data start aligned.
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

template <class Number>
StoredTensor store_values(const std::vector<int64_t>& shape, const Number* values) {
    const std::string dtype = std::is_same_v<Number, float> ? "F32" : "F64";
    const int64_t bytes = byte_count(dtype, shape);
    CHECK_GE(bytes, 0);
    StoredTensor tensor{dtype, shape, std::vector<char>(static_cast<size_t>(bytes))};
    if (bytes > 0) std::memcpy(tensor.bytes.data(), values, tensor.bytes.size());
    return tensor;
}
template StoredTensor store_values(const std::vector<int64_t>& shape, const float* values);
template StoredTensor store_values(const std::vector<int64_t>& shape, const double* values);

namespace {
template <class Stored, class Number>
std::vector<Number> convert(const std::vector<char>& bytes) {
    std::vector<Stored> stored(bytes.size() / sizeof(Stored));
    if (!stored.empty()) std::memcpy(stored.data(), bytes.data(), stored.size() * sizeof(Stored));
    if constexpr (std::is_same_v<Stored, Number>) return stored;
    else return {stored.begin(), stored.end()};
}
}  // namespace

template <class Number>
std::vector<Number> values_of(const StoredTensor& tensor, const std::string& name) {
    if (tensor.dtype == "F32") return convert<float, Number>(tensor.bytes);
    if (tensor.dtype == "F64") return convert<double, Number>(tensor.bytes);
    fail("tensor ", name, " has dtype ", tensor.dtype, ", expected F32 or F64");
}
template std::vector<float> values_of(const StoredTensor& tensor, const std::string& name);
template std::vector<double> values_of(const StoredTensor& tensor, const std::string& name);

namespace {
SafetensorsFile read_contents(InputFile& input, const std::string& path) {
    if (const std::string what = foreign_format(path, input.head(), Wanted::networks); !what.empty())
        fail(path, " is not a safetensors file, but ", what);
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
    HeaderParser(json, path).parse(file.metadata, entries);
    check_layout(entries, input.remaining(), path);
    for (const Entry& entry : entries) {
        StoredTensor& tensor = file.tensors[entry.name];
        tensor = {entry.dtype, entry.shape, std::vector<char>(static_cast<size_t>(entry.end - entry.begin))};
        input.read(tensor.bytes.data(), entry.end - entry.begin);
    }
    return file;
}
}  // namespace

SafetensorsFile read_safetensors(const std::string& path) {
    InputFile input(path);
    try {
        return read_contents(input, path);
    } catch (const std::system_error&) {
        throw;
    } catch (const std::runtime_error& error) {
        throw DamagedFile(error.what());
    }
}

std::string tensors_checksum(const SafetensorsFile& file) {
    uint32_t crc = 0;
    for (const auto& [name, tensor] : file.tensors) crc = crc32(tensor.bytes.data(), tensor.bytes.size(), crc);
    return crc32_text(crc);
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
