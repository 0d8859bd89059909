// The safetensors format: named tensors and string metadata in one file. For what a checkpoint's names mean, see
// training/checkpoint.h.
//
// File: header length n as a little-endian uint64; n bytes of JSON; the tensors' bytes, without gaps.
// JSON: {"__metadata__": {"key": "text", ...}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dualmcmc {

// A tensor as stored: dtype is the format's own name (F32, I64, U8, ...); bytes are little endian, row major.
struct StoredTensor {
    std::string dtype;
    std::vector<int64_t> shape;
    std::vector<char> bytes;
};

// A tensor with a copy of `values`, as many as the shape has elements; shape {} is a scalar. F32 or F64, as Number is
// float or double.
template <class Number>
StoredTensor store_values(const std::vector<int64_t>& shape, const Number* values);

// The values of an F32 or F64 tensor, rounded to Number, float or double; for any other dtype fails with a message that
// calls it `name`.
template <class Number>
std::vector<Number> values_of(const StoredTensor& tensor, const std::string& name);

struct SafetensorsFile {
    std::map<std::string, std::string> metadata;
    std::map<std::string, StoredTensor> tensors;
};

// Reads a whole file. Trusts nothing in it: any malformed file throws DamagedFile, with one line that names the file
// and the problem; a file that cannot be read at all fails as InputFile.
SafetensorsFile read_safetensors(const std::string& path);

// A checksum of all tensors' bytes, taken in the order of their names: "crc32:" and eight hexadecimal digits.
std::string tensors_checksum(const SafetensorsFile& file);

// Writes a whole file, complete or not at all (AtomicFile in files.h).
void write_safetensors(const std::string& path, const SafetensorsFile& file);

}  // namespace dualmcmc
