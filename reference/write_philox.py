"""Writes philox.safetensors: random words, uniforms and normals for a few (seed, purpose, step), drawn by philox.py.

Tensors case<i>.words (U32), case<i>.uniforms, case<i>.normals (F32) and, before the rounding to float32,
case<i>.uniforms.f64, case<i>.normals.f64 (F64); metadata case<i>.seed, .stream (the purpose), .step, and "cases", their
number. known_answer.counter (3,4), .key (3,2), .words (3,4) are the known-answer vectors of Random123.

`for script in write_*.py; do python3 $script; done` in this folder rewrites all reference outputs.
"""
import numpy as np

import philox
import safetensors_io

CASES = [  # seed, purpose, step, count (not always a multiple of four)
    (0, philox.PRIOR, 0, 64),
    (1, philox.REPARAMETRISE, 65536, 64),
    (1234, philox.LANGEVIN_X, 3 * 65536 + 29, 67),
    (0x0123456789ABCDEF, philox.LANGEVIN_Z, 7, 64),  # a seed above 2^32
    (2**64 - 1, philox.LANGEVIN_X_RESAMPLE, 150_000 * 65536 + 17, 66),  # a step above 2^32
    (42, philox.INIT, 2**56 - 1, 61),  # the largest step
]

philox.check_known_answers()
tensors, metadata = {}, {"format": "dual-mcmc-philox-1", "cases": len(CASES)}
for i, (seed, purpose, step, count) in enumerate(CASES):
    metadata.update({f"case{i}.seed": seed, f"case{i}.stream": purpose, f"case{i}.step": step})
    tensors[f"case{i}.words"] = philox.words(seed, purpose, step, count)
    for suffix, dtype in ("", np.float32), (".f64", np.float64):
        tensors[f"case{i}.uniforms{suffix}"] = philox.uniforms(seed, purpose, step, count).astype(dtype)
        tensors[f"case{i}.normals{suffix}"] = philox.normals(seed, purpose, step, count, dtype)
counter = np.array([[0] * 4, [0xFFFFFFFF] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]], np.uint32)
key = np.array([[0] * 2, [0xFFFFFFFF] * 2, [0xA4093822, 0x299F31D0]], np.uint32)
tensors.update({"known_answer.counter": counter, "known_answer.key": key})
tensors["known_answer.words"] = np.stack(philox.philox4x32_10(counter.T, key.T), axis=1).astype(np.uint32)
safetensors_io.save("philox.safetensors", tensors, metadata)

many = philox.normals(5, philox.PRIOR, 0, 1 << 20, np.float64)
print(f"philox.safetensors: {len(CASES)} cases; 2^20 normals have mean {many.mean():.1e}, "
      f"variance 1{many.var() - 1:+.1e}")
