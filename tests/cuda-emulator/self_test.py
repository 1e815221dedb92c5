#!/usr/bin/env python3
"""Tests the emulated driver: right programs pass in every mode, and wrong ones are noticed where they should be.

    self_test.py [--every-mode] [OUT]

builds all flavours in OUT (by default target/cuda-emulator), runs everything, and prints a line for each case. The exit
status is 1 if something right is complained of, or something wrong is not. --every-mode runs each planted bug in all
modes and prints what each says of it.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import build
from samples.planted import PLANTED

HERE = Path(__file__).resolve().parent
SAMPLES = HERE / "samples"
KERNELS = ["norm", "rope", "attention", "probes"]
PROGRAMS = {"decode": [], "scenarios": [], "captures": [], "products": ["-lcublas", "-lcublasLt"]}

# A flavour, and switches of the environment.
MODES = {
    "plain": ("plain", {}),
    "backwards": ("plain", {"EMU_ORDER": "1"}),
    "shuffled": ("plain", {"EMU_ORDER": "2"}),
    "at once": ("plain", {"EMU_LAZY": "0"}),
    "guard": ("plain", {"EMU_GUARD": "1"}),
    "thread": ("thread", {}),
    "address": ("address", {}),
    "count": ("count", {}),
}
SEEDS = [{"EMU_SCHEDULE": str(seed)} for seed in range(1, 21)]
PASSES = "as expected"

# Wrong scenarios: where they are noticed, and by which words.
EVERYWHERE = ["plain", "thread", "address", "count"]
WRONG = [
    ("read-too-early", EVERYWHERE, "what was read is 0, not 7"),
    ("freed-pointer", EVERYWHERE, "poke: operand 1 .* declared freed"),
    ("freed-read", ["count"], "EMU FAIL in poke .* accesses .* declared freed"),
    ("freed-read", ["address"], "use-after-poison"),
    ("red-zone-write", ["count"], "EMU FAIL in poke .* accesses .* declared red zone"),
    ("red-zone-write", ["address"], "use-after-poison"),
    ("red-zone-copy", EVERYWHERE, "copy to the device: .* declared red zone"),
    ("undeclared-memset", EVERYWHERE, "memset: .* never declared"),
    ("out-of-bounds-read", ["count"], "0 bytes behind the end"),
    ("out-of-bounds-read", ["address"], "heap-buffer-overflow"),
    ("out-of-bounds-write", ["guard"], "signal 11"),
    ("allocate-elsewhere-unordered", EVERYWHERE, "fill: .* allocated in another stream"),
    ("use-after-free", EVERYWHERE, "not inside of a device allocation"),
    ("replay-freed", EVERYWHERE, "graph node fill: .* not inside of a device allocation"),
    ("replay-declared-freed", EVERYWHERE, "graph node fill: .* declared freed"),
    ("racing-blocks", ["count"], "race between blocks at .*: block 0 wrote it, block 1 reads it"),
    ("chain-read-early", ["count"], "EMU FAIL in add_in_chain .* reads .* before it has waited .*, which write there"),
    ("chain-written-early", ["count"], "EMU FAIL in add_in_chain .* writes .* before it has waited"),
    ("chain-without-wait", ["plain", "thread", "address"], "EMU FAIL in add_in_chain .* has not waited"),
    ("together-without-all", EVERYWHERE, "EMU FAIL in hand_over .* only the lanes 7fffffff carry out what takes a whole warp"),
    ("shifting-blocks", ["count"], "race between blocks at .*: block 0 read it, block 1 writes it"),
]
# Noticed under some seed of the scheduler.
UNORDERED = ["overwrite-unordered", "free-elsewhere-unordered", "branches-unordered"]
RIGHT = ["overwrite", "overwrite-legacy", "free-elsewhere", "allocate-elsewhere", "branches", "threads", "read-in-time",
         "arena", "atomic-blocks", "last-block", "words", "together", "every-half", "large", "globals", "attributes",
         "chain", "injected"]


def run(program, arguments, mode, out, switches=None, kernels=None):
    """What became of a program: `as expected`, or its first complaint."""
    flavour, environment = MODES[mode]
    env = dict(os.environ, LD_LIBRARY_PATH=str(out / flavour), EMU_SAMPLES=str(SAMPLES), **environment,
               **(switches or {}), ASAN_OPTIONS="detect_leaks=0",
               TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1")
    if kernels:
        env["EMU_KERNELS"] = str(kernels)
    if flavour in ("thread", "address"):
        library = f"lib{flavour[0]}san.so"
        found = subprocess.run(["g++", f"-print-file-name={library}"], capture_output=True, text=True, check=True)
        env["LD_PRELOAD"] = found.stdout.strip()
    try:
        done = subprocess.run([out / program, *arguments], env=env, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "did not end"
    text = done.stdout + done.stderr
    if done.returncode == 0 and PASSES in text:
        return PASSES
    for complaint in (r"EMU FAIL.*", r"runtime error: .*", r"SUMMARY: .*", r"WRONG: .*"):
        found = re.search(complaint, text)
        if found:
            return found.group(0)
    return f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"


def take_from(made, other):
    """The libraries that do not depend on the flavour, with the records of what they were made from."""
    (other / "parts").mkdir(parents=True, exist_ok=True)
    for library in ["libcuda.so.1"] + [f"lib{name}.so.{version}" for name, version, _, _ in build.LIBRARIES]:
        for path in (library, f"parts/{library}.made-from.json"):
            shutil.copy2(made / path, other / path)


def make(out):
    """All flavours, and the programs."""
    pairs = [f"{SAMPLES / name}.cu={SAMPLES / name}.ptx" for name in KERNELS]
    for flavour in build.FLAVOURS:
        if flavour != "plain":
            take_from(out / "plain", out / flavour)
        if build.main([str(out / flavour), "--flavour", flavour, *pairs]):
            raise SystemExit(1)
    for name, libraries in PROGRAMS.items():
        source, program = SAMPLES / f"{name}.cpp", out / name
        newest = max(path.stat().st_mtime for path in (source, HERE / "emu.h", *SAMPLES.glob("*.h")))
        if program.exists() and program.stat().st_mtime > newest:
            continue
        command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", program, f"-L{out / 'plain'}",
                   *libraries, "-lcuda", "-lemurt"]
        build.run(command, name)


def planted_kernels(out, flavour, number, name, edit):
    """A folder with the kernels of the samples, one of them edited."""
    path = out / "planted" / flavour / str(number)
    folder = build.Folder(path, flavour)
    text = (SAMPLES / f"{name}.cu").read_text()
    edited = edit(text)
    assert edited != text, "the edit does nothing"
    source = folder.write(f"{name}.cu", edited)
    for library in ["libemurt.so"] + [f"libemuk_{other}.so" for other in KERNELS if other != name]:
        folder.alias(library, out / flavour / library)
    build.make_kernels(folder, source, SAMPLES / f"{name}.ptx", quiet=True)
    return path


def planted(out, number, modes):
    """What each of `modes` says of a planted bug."""
    _, name, edit, _ = PLANTED[number]
    said = {}
    for mode in modes:
        kernels = planted_kernels(out, MODES[mode][0], number, name, edit)
        said[mode] = run("decode", [], mode, out, kernels=kernels)
    return said


def cases(out):
    """Each case: what it is, and a function that returns what is wrong with it, or nothing."""
    def right(program, arguments, mode, switches=None):
        def check():
            became = run(program, arguments, mode, out, switches)
            return "" if became == PASSES else became
        return check

    def wrong(program, arguments, mode, words):
        def check():
            became = run(program, arguments, mode, out)
            return "" if re.search(words, became) else f"not noticed: {became}"
        return check

    def under_seeds(scenario, noticed):
        def check():
            became = [run("scenarios", [scenario], "plain", out, seed) for seed in SEEDS]
            complaints = [one for one in became if one != PASSES]
            if bool(complaints) == noticed:
                return ""
            return f"{len(complaints)} of {len(SEEDS)} seeds complain {complaints[:1]}"
        return check

    def noticed(number):
        def check():
            missed = [mode for mode, said in planted(out, number, PLANTED[number][3]).items() if said == PASSES]
            return f"not noticed by {', '.join(missed)}" if missed else ""
        return check

    for mode in MODES:
        yield f"decode passes, {mode}", right("decode", [], mode)
        for scenario in RIGHT:
            yield f"{scenario} passes, {mode}", right("scenarios", [scenario], mode)
        counts = "counts-of-traffic" if mode == "count" else "counts"
        yield f"{counts} passes, {mode}", right("scenarios", [counts], mode)
    yield "captures: each refusal", right("captures", [], "plain")
    yield "products: all types, shapes and algorithms", right("products", [], "plain")
    yield "a product of what is freed is noticed", wrong("products", ["freed"], "plain", "gemm: operand 1 .* declared freed")
    for seed in SEEDS[:5]:
        yield f"decode passes, schedule {seed['EMU_SCHEDULE']}", right("decode", [], "plain", seed)
    for scenario, modes, words in WRONG:
        for mode in modes:
            yield f"{scenario} is noticed, {mode}", wrong("scenarios", [scenario], mode, words)
    for scenario in UNORDERED:
        yield f"{scenario} is noticed under a seed", under_seeds(scenario, True)
    for scenario in ("overwrite", "overwrite-legacy", "free-elsewhere", "allocate-elsewhere", "branches", "counts"):
        yield f"{scenario} passes under all seeds", under_seeds(scenario, False)
    for number, (title, name, _, modes) in enumerate(PLANTED):
        yield f"{name}, {title}: is noticed by {', '.join(modes)}", noticed(number)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=HERE.parents[1] / "target" / "cuda-emulator")
    parser.add_argument("--every-mode", action="store_true")
    arguments = parser.parse_args()
    out, began = arguments.out.resolve(), time.monotonic()
    make(out)
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    with concurrent.futures.ThreadPoolExecutor(build.AT_ONCE) as pool:
        if arguments.every_mode:
            for number, said in enumerate(pool.map(lambda n: planted(out, n, list(MODES)), range(len(PLANTED)))):
                print(f"{PLANTED[number][1]}, {PLANTED[number][0]}")
                print("".join(f"    {mode}: {became[:150]}\n" for mode, became in said.items()), end="", flush=True)
            return 0
        every = list(cases(out))
        failed = 0
        for (title, _), complaint in zip(every, pool.map(lambda case: case[1](), every)):
            print(f"{'FAIL' if complaint else 'pass'}: {title}{': ' + complaint if complaint else ''}", flush=True)
            failed += bool(complaint)
    print(f"{len(every) - failed} of {len(every)} cases pass, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
