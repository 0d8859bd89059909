// CRC-32 as in zlib, PNG and zip (ISO 3309, reflected polynomial EDB88320), so that other programs can verify it:
// Python's zlib.crc32 gives the same values. Eight bytes at a time ("slicing by eight"), about 1 GB/s.
#pragma once
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

namespace dualmcmc {

// table[k][b]: the contribution of byte b, followed by k more bytes.
constexpr auto crc32_tables = [] {
    std::array<std::array<uint32_t, 256>, 8> table{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        table[0][byte] = crc;
    }
    for (size_t k = 1; k < 8; ++k)
        for (size_t byte = 0; byte < 256; ++byte)
            table[k][byte] = table[k - 1][byte] >> 8 ^ table[0][table[k - 1][byte] & 255];
    return table;
}();

// The CRC of `bytes` bytes at `data`, continuing from the CRC of what comes before them (0 at the beginning).
inline uint32_t crc32(const void* data, size_t bytes, uint32_t before = 0) {
    const auto* at = static_cast<const uint8_t*>(data);
    uint32_t crc = ~before;
    for (; bytes >= 8; bytes -= 8, at += 8) {
        uint64_t word;
        std::memcpy(&word, at, 8);  // little endian, as all processors that this program runs on
        word ^= crc;
        crc = 0;
        for (size_t k = 0; k < 8; ++k) crc ^= crc32_tables[7 - k][word >> 8 * k & 255];
    }
    for (; bytes > 0; --bytes, ++at) crc = crc >> 8 ^ crc32_tables[0][(crc ^ *at) & 255];
    return ~crc;
}

// "crc32:" and eight hexadecimal digits.
inline std::string crc32_text(uint32_t crc) {
    char out[16];
    std::snprintf(out, sizeof out, "crc32:%08x", crc);
    return out;
}

}  // namespace dualmcmc
