// Text that is safe to print, and exceptions in words.
#include "check.h"

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <new>
#include <system_error>

namespace dualmcmc {

namespace {

// The code point that starts at `at` and the number of its bytes; 0 bytes if that is not UTF-8 (RFC 3629).
struct CodePoint {
    uint32_t value;
    size_t bytes;
};
CodePoint code_point(const std::string& s, size_t at) {
    const auto byte = [&](size_t i) { return i < s.size() ? uint32_t(static_cast<unsigned char>(s[i])) : 0u; };
    const uint32_t first = byte(at);
    if (first < 0x80) return {first, 1};
    const size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4) return {first, 0};
    uint32_t value = first & (0x7Fu >> bytes);
    for (size_t i = 1; i < bytes; ++i) {
        if ((byte(at + i) & 0xC0) != 0x80) return {first, 0};
        value = value << 6 | (byte(at + i) & 0x3F);
    }
    const uint32_t least = bytes == 4 ? 0x10000 : bytes == 3 ? 0x800 : 0x80;
    const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
    return {value, value < least || value > 0x10FFFF || surrogate ? 0 : bytes};
}

// Control characters, and what changes the direction of text or breaks a line.
bool changes_the_terminal(uint32_t c) {
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0x200B && c <= 0x200F) || (c >= 0x2028 && c <= 0x202E) ||
           (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF;
}

}  // namespace

std::string formatted(const char* format, double value) {
    std::string out(size_t(std::snprintf(nullptr, 0, format, value)), ' ');
    std::snprintf(out.data(), out.size() + 1, format, value);
    return out;
}

std::string escaped(const std::string& text) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
        const CodePoint c = code_point(text, at);
        const size_t bytes = c.bytes ? c.bytes : 1;
        if (text[at] == '\n') out += "\\n";
        else if (text[at] == '\t') out += "\\t";
        else if (c.bytes && !changes_the_terminal(c.value)) out.append(text, at, bytes);
        else
            for (size_t i = at; i < at + bytes; ++i) {
                char hex[8];
                std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(text[i])));
                out += hex;
            }
        at += bytes;
    }
    return out;
}

std::string excerpt(const std::string& text) {
    constexpr size_t longest = 120;
    if (text.size() <= longest) return escaped(text);
    size_t end = longest;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
    return escaped(text.substr(0, end)) + "…";
}

std::string explain(const std::exception& error) {
    if (dynamic_cast<const std::bad_alloc*>(&error) || dynamic_cast<const std::length_error*>(&error))
        return "out of memory; lower --batch, --count or the widths, or use a machine with more memory";
    if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&error))
        return escaped(text("cannot access ", file->path1().string(), ": ", file->code().message()));
    if (const auto* system = dynamic_cast<const std::system_error*>(&error))
        return escaped(text("the system refused a request: ", system->what()));
    if (dynamic_cast<const std::runtime_error*>(&error)) return escaped(error.what());
    return "an error in the program itself; please report the command, and the files it read";
}

}  // namespace dualmcmc
