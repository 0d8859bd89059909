"""Reader and writer of the safetensors format: an 8-byte little-endian header length, a JSON header, then the data.

The header maps each tensor's name to {"dtype", "shape", "data_offsets"}; "__metadata__" maps strings to strings.
"""
import json
import struct

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U64": "<u8", "U32": "<u4", "U8": "|u1"}
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}


def load(path):
    """Returns ({name: np.ndarray}, metadata)."""
    with open(path, "rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_size))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy()
    return tensors, metadata


def save(path, tensors, metadata):
    """Writes {name: np.ndarray}, in the order given; metadata values become strings."""
    header = {"__metadata__": {key: str(value) for key, value in metadata.items()}}
    arrays, offset = [], 0
    for name, array in tensors.items():
        array = np.ascontiguousarray(array).reshape(np.shape(array))  # ascontiguousarray turns 0-d arrays into 1-d ones
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        arrays.append(array)
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight bytes
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            file.write(array.tobytes())
