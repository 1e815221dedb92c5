"""Bugs planted in the sample kernels, and what has to notice each: modes of self_test.py."""


def nth(text, pattern, number, instead):
    """`text` with the `number`-th `pattern` in it, from 1, replaced."""
    at = -1
    for _ in range(number):
        at = text.index(pattern, at + 1)
    return text[:at] + instead + text[at + len(pattern):]


def swap(pattern, instead):
    return lambda text: nth(text, pattern, 1, instead)


def without_barrier(number):
    return lambda text: nth(text, "    __syncthreads();", number, "")


# what it is, kernel file, edit, modes that must notice
PLANTED = [
    ("no barrier before part[] is read", "norm", without_barrier(1), ["thread"]),
    ("no barrier before total is read", "norm", without_barrier(2), ["thread"]),
    ("a shuffle that starts at 8", "norm", swap("int o = 16", "int o = 8"), ["plain"]),
    ("shared memory read that was never set", "norm", swap("lane < warps ? part[lane] : 0.f", "part[lane]"), ["plain"]),
    ("a barrier for the first warp only", "norm",
     swap("    __syncthreads();\n    return total", "    if (warp == 0) __syncthreads();\n    return total"), ["plain"]),
    ("a write past the row", "norm", swap("i < n; i += blockDim.x) store(o", "i < n + 1; i += blockDim.x) store(o"),
     ["address", "count"]),
    ("a read past the weights", "norm", swap("load(w, i)", "load(w, i + 1)"), ["plain", "count"]),
    ("a shared array that is too small", "norm", swap("float part[32]", "float part[4]"), ["address"]),
    ("no barrier between two uses of part[]", "attention",
     swap("    __syncthreads(); // part is used again\n", ""), ["thread"]),
    ("no barrier after the query is loaded", "attention", without_barrier(1), ["thread"]),
    ("no barrier before the sums are added", "attention", without_barrier(5), ["thread"]),
    ("sums that overlap the scores", "attention", swap("dynamic + d.max_len", "dynamic + d.max_len - 8"), ["plain"]),
    ("dynamic shared memory overrun", "attention", swap("dynamic + d.max_len", "dynamic + d.max_len + 64"), ["plain"]),
    ("half a warp's mask for all of it", "attention", swap("0xffffffffu, s, o", "0x0000ffffu, s, o"), ["plain"]),
    ("a shuffle in a branch that not all take", "attention",
     swap("for (int o = 16; o > 0; o >>= 1) s +=", "if (lane < 20) for (int o = 16; o > 0; o >>= 1) s +="), ["plain"]),
    ("v written to the first page", "rope", swap("v_cache[to + i] = v", "v_cache[i] = v"), ["plain", "count"]),
    ("a pair rotated by two threads", "rope",
     swap("p[i] = __float2bfloat16(x0 * c - x1 * s);", "p[(i + 1) % half] = __float2bfloat16(x0 * c - x1 * s);"),
     ["plain", "thread"]),
    ("two blocks that write one row", "norm",
     swap("*o = out + (size_t)blockIdx.x * n", "*o = out + (size_t)(blockIdx.x / 2) * n"), ["plain", "count"]),
    ("blocks that add in place to what others read", "norm",
     swap("x + (size_t)blockIdx.x * n", "res + (size_t)((blockIdx.x + 1) % gridDim.x) * n"), ["count"]),
]
