"""Where nvcc is: $NVCC, else the one below $CUDA_HOME, else that of PATH, as kernels/build.rs looks for it."""
import os
from pathlib import Path


def find():
    home = os.environ.get("CUDA_HOME")
    below_home = Path(home, "bin", "nvcc") if home else None
    return os.environ.get("NVCC") or (str(below_home) if below_home and below_home.is_file() else "nvcc")


def disassembler():
    """nvdisasm, which every toolkit has beside its nvcc."""
    return str(Path(find()).with_name("nvdisasm"))
