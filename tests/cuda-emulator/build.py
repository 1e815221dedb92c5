#!/usr/bin/env python3
"""Builds the emulated CUDA driver, and host versions of kernel files.

    build.py OUT [--flavour plain|thread|address|count] [--candle SOURCE PTX] [NAME.cu=NAME.ptx ...]

makes in OUT the libraries that a CUDA program loads or links (libcuda.so.1 and so on, each with its unversioned link),
the runtime libemurt.so, and libemuk_NAME.so for each kernel file. --candle adds candle-kernels: the folder of its .cu
files and that of their PTX. What is up to date stays. If a kernel file does not compile, its errors are printed and
the exit status is 1.
"""
import argparse
import concurrent.futures
import fcntl
import functools
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAVOURS = ["plain", "thread", "address", "count"]
AT_ONCE = 2

# What tells g++ that a GPU would do the same: no contraction, no aliasing by type; and how shared memory is found.
KERNEL = ["-std=c++17", "-fPIC", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-ftls-model=global-dynamic",
          "-fno-extern-tls-init"]
KERNEL_BY_FLAVOUR = {
    "plain": ["-O3", "-g1"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
    "address": ["-O1", "-g", "-fsanitize=address,alignment,bounds", "-fno-sanitize-recover=all"],
    "count": ["-O2", "-g1", "-fsanitize=thread"],  # its callbacks are in the runtime: never linked with -fsanitize
}
RUNTIME_BY_FLAVOUR = {
    "plain": ["-O2"],
    "thread": ["-O1", "-DEMU_TSAN"],
    "address": ["-O1", "-DEMU_ASAN", "-fsanitize=address"],
    "count": ["-O3", "-DEMU_COUNT", "-Wno-builtin-declaration-mismatch"],
}
LIBRARY = ["-std=c++17", "-g1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers",
           "-fno-strict-aliasing"]
SHARED = ["-shared", "-Wl,-rpath,$ORIGIN", "-Wl,-z,now", "-Wl,-z,defs"]

# library, version, what it is compiled from, flags of its own
LIBRARIES = [
    ("cublas", "13", ["blas/cublas.cpp", "blas/gemm.cpp"], ["-O3", "-ffp-contract=off"]),
    ("cublasLt", "13", ["blas/cublaslt.cpp", "blas/gemm.cpp"], ["-O3", "-ffp-contract=off"]),
    ("curand", "10", ["curand.cpp"], ["-O2"]),
    ("cudart", "13", ["cudart.cpp"], ["-O1"]),
    ("nvrtc", "13", ["nvrtc.cpp"], ["-O1"]),
]

# The files of candle-kernels that make PTX modules and launch through the driver.
CANDLE = ["affine", "binary", "unary", "cast", "reduce", "fill", "indexing", "ternary", "sort", "conv"]


class Failed(Exception):
    """A compiler said no: its name and its errors."""


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def run(command, what):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if re.search(r"error|undefined reference", line)]
        raise Failed(f"{what}:\n" + "\n".join(errors[:40] or [done.stderr[-4000:]]))


@functools.lru_cache(None)
def compiler_version():
    return subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()


class Folder:
    """The folder OUT: what is in it, and what each thing was made from."""

    def __init__(self, path, flavour):
        self.path, self.flavour = path, flavour
        self.parts = path / "parts"
        self.parts.mkdir(parents=True, exist_ok=True)

    def record(self, name):
        return self.parts / f"{name}.made-from.json"

    def is_made(self, name, commands):
        try:
            record = json.loads(self.record(name).read_text())
            return ((self.path / name).exists() and record["commands"] == commands
                    and all(digest(path) == sum_ for path, sum_ in record["files"].items()))
        except (OSError, ValueError, KeyError):
            return False

    def make(self, name, sources, flags, link, quiet=False):
        """Compiles `sources` and links them to the library `name`; `link` is the end of the command."""
        objects = [self.parts / f"{name}.{Path(source).name}.o" for source in sources]
        commands = [[compiler_version()]] + [[str(source), *flags] for source in sources] + [link]
        told = json.loads(json.dumps(commands).replace(str(self.path), "OUT"))
        if self.is_made(name, told):
            return
        began, files = time.monotonic(), set()
        for source, object_ in zip(sources, objects):
            compiler = "gcc" if str(source).endswith(".c") else "g++"
            flags_ = ["-O1", "-fPIC", "-w"] if compiler == "gcc" else flags
            run([compiler, "-c", *flags_, "-MMD", "-MF", f"{object_}.d", source, "-o", object_], name)
            depends = Path(f"{object_}.d").read_text().replace("\\\n", " ").split(": ", 1)[1]
            files.update(depends.split())
        fresh = self.parts / name
        run(["g++", *SHARED, "-o", fresh, *objects, *link], name)
        fresh.replace(self.path / name)
        self.record(name).write_text(json.dumps({"commands": told, "files": {f: digest(f) for f in sorted(files)}}))
        if not quiet:
            print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)

    def write(self, name, text):
        path = self.parts / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        return path

    def alias(self, name, versioned):
        link = self.path / name
        if not link.is_symlink():
            link.unlink(missing_ok=True)
            link.symlink_to(versioned)


def missing(listed, sources):
    """Names of `listed` that none of `sources` defines."""
    text = "\n".join(path.read_text() for path in sources)
    defined = set(re.findall(r"^\s*(?:CUresult|int|void|void\*\*|const char\*) +(\w+)\(", text, re.M))
    return [name for name in (HERE / listed).read_text().split() if name not in defined]


def make_runtime(folder):
    sources = sorted((HERE / "runtime").glob("*.cpp"))
    others = ["fence.cpp"] if folder.flavour == "count" else ["traffic.cpp", "callbacks.cpp"]
    sources = [source for source in sources if source.name not in others]
    # As one unit, whose functions may be inlined: a warp operation goes through many.
    whole = folder.write("runtime.cpp", "".join(f'#include "{source}"\n' for source in sources))
    flags = [*LIBRARY, "-ftls-model=initial-exec", "-fno-semantic-interposition", *RUNTIME_BY_FLAVOUR[folder.flavour]]
    sanitizer = ["-fsanitize=address"] if folder.flavour == "address" else []
    # ThreadSanitizer's functions come with the kernels, or are preloaded.
    loose = ["-Wl,-z,undefs"] if folder.flavour == "thread" else []
    folder.make("libemurt.so", [whole], flags, ["-Wl,-soname,libemurt.so", "-ldl", *sanitizer, *loose])


def make_driver(folder):
    sources = sorted((HERE / "driver").glob("*.cpp"))
    whole = folder.write("driver.cpp", "".join(f'#include "{path}"\n' for path in sources))
    stubs = "".join(f'void {name}(void) {{ emu_not_emulated("{name}"); }}\n'
                    for name in missing("driver/symbols.txt", sources))
    rest = folder.write("stubs.c", "void emu_not_emulated(const char*);\n" + stubs)
    link = ["-Wl,-soname,libcuda.so.1", f"-L{folder.path}", "-lemurt", "-ldl"]
    folder.make("libcuda.so.1", [whole, rest], [*LIBRARY, "-O2", "-ftls-model=initial-exec"], link)
    folder.alias("libcuda.so", "libcuda.so.1")


def make_library(folder, name, version, sources, flags):
    full = f"lib{name}.so.{version}"
    exports = folder.write(f"{name}.map", f"{full} {{ global: *; }};\n")  # candle asks for versioned names
    link = [f"-Wl,-soname,{full}", f"-Wl,--version-script={exports}", f"-L{folder.path}", "-lcuda", "-lemurt"]
    sources = [HERE / source for source in sources]
    folder.make(full, sources, [*LIBRARY, *flags], link)
    folder.alias(f"lib{name}.so", full)


def fnv1a(text):
    """What the driver knows a PTX file by, as driver/modules.cpp computes it."""
    value = 0xCBF29CE484222325
    for byte in text:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def whole_text(source, seen):
    """The text of a file and of those that it includes by a name in quotes."""
    if source in seen or not source.is_file():
        return ""
    seen.add(source)
    text = source.read_text()
    included = re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.M)
    return text + "".join(whole_text((source.parent / name).resolve(), seen) for name in included)


def make_kernels(folder, source, ptx, quiet=False):
    """The host version of a kernel file: every .entry of its PTX, and its dynamic shared memory."""
    name = source.stem
    entries = re.findall(r"\.entry\s+(\w+)", ptx.read_text())
    if not entries:
        raise Failed(f"{ptx}: no kernels in it")
    table = "".join(f"EMU_KERNEL({entry})\n" for entry in entries)
    text = (f'#include "{source}"\n#include "register.h"\n'
            f'extern "C" const unsigned long emu_ptx = {fnv1a(ptx.read_bytes())}ul;\n'
            f'extern "C" const emu_kernel emu_kernels[] = {{\n{table}{{}} }};\n')
    sources = [folder.write(f"{name}.kernels.cpp", text)]
    arrays = sorted(set(re.findall(r"extern\s+__shared__[^;\[]*?(\w+)\s*\[\s*\]", whole_text(source, set()))))
    if arrays:
        sources.append(folder.write(f"{name}.dynamic.c", dynamic_shared(arrays)))
    flags = [*KERNEL, *KERNEL_BY_FLAVOUR[folder.flavour], f"-I{HERE / 'shim'}", f"-I{source.parent}",
             "-include", HERE / "shim" / "cuda_shim.h"]
    sanitizers = [f for f in KERNEL_BY_FLAVOUR[folder.flavour] if f.startswith("-fsanitize")]
    link = [] if folder.flavour == "count" else sanitizers
    folder.make(f"libemuk_{name}.so", sources, [str(f) for f in flags], [f"-L{folder.path}", "-lemurt", *link],
                quiet)


def dynamic_shared(arrays):
    """C, since the names must not be mangled. All dynamic arrays of a file are one memory, as in CUDA."""
    first, room = arrays[0], 233472
    text = f"__thread char {first}[{room}] __attribute__((aligned(1024)));\n"
    text += "".join(f'extern __thread char {name}[{room}] __attribute__((alias("{first}")));\n' for name in arrays[1:])
    return text + f'__attribute__((visibility("hidden"))) char* emu_dynamic(void) {{ return {first}; }}\n'


def pairs(arguments):
    """The kernel files and their PTX that were asked for."""
    found = []
    for pair in arguments.kernels:
        source, equals, ptx = pair.partition("=")
        if not equals:
            raise Failed(f"{pair}: NAME.cu=NAME.ptx is expected")
        found.append((Path(source).resolve(), Path(ptx).resolve()))
    if arguments.candle:
        source, ptx = (Path(folder).resolve() for folder in arguments.candle)
        found += [(source / f"{name}.cu", ptx / f"{name}.ptx") for name in CANDLE]
    for path in (path for pair in found for path in pair):
        if not path.is_file():
            raise Failed(f"{path}: no such file")
    return found


def main(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--flavour", choices=FLAVOURS, default="plain")
    parser.add_argument("--candle", nargs=2, metavar=("SOURCE", "PTX"))
    parser.add_argument("kernels", nargs="*", metavar="NAME.cu=NAME.ptx")
    arguments = parser.parse_intermixed_args(given)
    try:
        kernels = pairs(arguments)
        folder = Folder(arguments.out.resolve(), arguments.flavour)
        with open(folder.parts / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            make_runtime(folder)
            make_driver(folder)
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                jobs = [pool.submit(make_library, folder, *library) for library in LIBRARIES]
                jobs += [pool.submit(make_kernels, folder, *pair) for pair in kernels]
                failures = [job.exception() for job in jobs if job.exception()]
    except Failed as failed:
        failures = [failed]
    for failure in failures:
        if not isinstance(failure, Failed):
            raise failure
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
