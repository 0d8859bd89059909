"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with cuRAND's mapping, stateless.

value = f(seed, purpose, step, index). The key is the seed. The counter's low half is the block index // 4, its high
half the subsequence (purpose << 56) | step. A block of four words gives four uniforms or, by Box-Muller, four normals,
each pair's sine first. Elements of images are counted in NHWC order, those of (B,d) tensors row by row.
"""
import numpy as np

# The purposes, numbered like RngPurpose in src/engine/layers.h.
PRIOR, REPARAMETRISE, LANGEVIN_X, LANGEVIN_Z, LANGEVIN_X_RESAMPLE, SHUFFLE, INIT = range(7)
START_X = 10
STEPS_PER_ITERATION = 65536  # step = iteration * 65536 + k, where k is the chain's step (0 outside the chains)

LOW = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


def philox4x32_10(counter, key):
    """counter: four, key: two uint32 arrays or integers, broadcast together. Returns the four output words."""
    c0, c1, c2, c3, k0, k1 = np.broadcast_arrays(*[np.asarray(word, np.uint64) for word in (*counter, *key)])
    for _ in range(10):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2  # 32 x 32 bits fit into 64
        c0, c1, c2, c3 = (product1 >> WORD) ^ c1 ^ k0, product1 & LOW, (product0 >> WORD) ^ c3 ^ k1, product0 & LOW
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return c0, c1, c2, c3


def words(seed, purpose, step, count):
    """The first `count` raw words, uint32."""
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    subsequence = (purpose << 56) | step
    counter = block & LOW, block >> WORD, subsequence & 0xFFFFFFFF, subsequence >> 32
    output = philox4x32_10(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return np.stack(output, axis=1).reshape(-1)[:count].astype(np.uint32)


def uniforms(seed, purpose, step, count):
    """In (0, 1), float64: the midpoints of 2^32 equal intervals, without rounding."""
    return words(seed, purpose, step, count) * 2.0**-32 + 2.0**-33


def normals(seed, purpose, step, count, dtype=np.float32):
    """Box-Muller in float64, rounded to dtype."""
    u, v = uniforms(seed, purpose, step, (count + 3) // 4 * 4).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * v
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1).reshape(-1)[:count].astype(dtype)


def normal_latents(seed, purpose, step, batch, latent, dtype=np.float32):
    return normals(seed, purpose, step, batch * latent, dtype).reshape(batch, latent)


def channels_first(values, batch, size):
    """(B,3,S,S), as in PyTorch, from values in the order of (B,S,S,3)."""
    return np.ascontiguousarray(values.reshape(batch, size, size, 3).transpose(0, 3, 1, 2))


def normal_images(seed, purpose, step, batch, size, dtype=np.float32):
    return channels_first(normals(seed, purpose, step, batch * size * size * 3, dtype), batch, size)


def iteration_noise(seed, iteration, batch, latent, size, steps_x, steps_z, dtype=np.float32):
    """All noise of one training iteration, named as in the step file."""
    base = iteration * STEPS_PER_ITERATION
    latents = lambda purpose, k=0: normal_latents(seed, purpose, base + k, batch, latent, dtype)
    images = lambda purpose, k: normal_images(seed, purpose, base + k, batch, size, dtype)
    chain_x = lambda purpose: np.stack([images(purpose, k) for k in range(steps_x)])
    noise = {"prior": latents(PRIOR), "reparam": latents(REPARAMETRISE)}
    if steps_x:
        noise.update(langevin_x=chain_x(LANGEVIN_X), langevin_x_resample=chain_x(LANGEVIN_X_RESAMPLE))
    if steps_z:
        noise["langevin_z"] = np.stack([latents(LANGEVIN_Z, k) for k in range(steps_z)])
    return noise


def start_images(seed, iteration, batch, size, dtype=np.float32):
    """The start of x-chains from noise: uniform in [-1, 1], (B,3,S,S)."""
    values = -1 + 2 * uniforms(seed, START_X, iteration * STEPS_PER_ITERATION, batch * size * size * 3)
    return channels_first(values.astype(dtype), batch, size)


def check_known_answers():
    """The known-answer vectors of Random123 for philox4x32 with ten rounds."""
    ones = 0xFFFFFFFF
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    for counter, key, expected in [
        ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ones,) * 4, (ones,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (*pi, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]:
        found = " ".join(f"{int(word):08x}" for word in philox4x32_10(counter, key))
        assert found == expected, (found, expected)


if __name__ == "__main__":
    check_known_answers()
    print("philox4x32-10: the three known-answer vectors agree")
