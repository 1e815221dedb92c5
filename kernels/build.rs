//! The CUDA part of the build: every `kernels/*.cu` becomes a fat binary and PTX in `OUT_DIR/kernels`, from where
//! `src/engine/cuda/functions.rs` embeds them.
//!
//! The fat binary holds machine code of compute capabilities 8.0 and 9.0, which a pod need not compile when it starts cold,
//! and PTX for what is newer. The text of the PTX is what the emulated driver of the tests takes.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Compiles all kernels at once.
fn main() -> Result<(), Box<dyn Error>> {
    // A build script runs in the folder of its package.
    let folder = Path::new("../../../kernels");
    println!("cargo::rerun-if-changed={}", folder.display());
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("kernels");
    // An earlier build may have left kernels that are gone.
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    std::fs::create_dir_all(&out)?;
    let nvcc = nvcc();
    let mut running = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let source = entry?.path();
        if source.extension().is_some_and(|end| end == "cu") {
            for (kind, flags) in [("ptx", PTX.as_slice()), ("fatbin", FATBIN.as_slice())] {
                let output = out.join(source.with_extension(kind).file_name().ok_or("a kernel's file has a name")?);
                running.push((start(&nvcc, flags, &source, &output)?, source.clone()));
            }
        }
    }
    for (nvcc, source) in running {
        let done = nvcc.wait_with_output()?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(format!("nvcc cannot compile {}:\n{said}", source.display()).into());
        }
    }
    Ok(())
}

const PTX: [&str; 2] = ["-ptx", "-arch=compute_90"];
const FATBIN: [&str; 4] = [
    "-fatbin",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
];

fn start(nvcc: &Path, flags: &[&str], source: &Path, output: &Path) -> Result<Child, String> {
    let mut command = Command::new(nvcc);
    command.args(flags).args(["-std=c++17", "-O3", "-o"]).arg(output).arg(source);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|e| {
        format!(
            "cannot run {}: {e}. The feature `cuda` needs the compiler of CUDA 13.0: install the CUDA toolkit, or the \
             Python packages nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-crt, nvidia-cuda-runtime and nvidia-cuda-cccl \
             (all ==13.0.*), and set NVCC to it, CUDA_HOME to the folder above its bin, or PATH",
            nvcc.display()
        )
    })
}

/// $NVCC, else the one below $CUDA_HOME, else that of PATH.
fn nvcc() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let below_home = || Some(PathBuf::from(variable("CUDA_HOME")?).join("bin/nvcc")).filter(|nvcc| nvcc.is_file());
    variable("NVCC").map(PathBuf::from).or_else(below_home).unwrap_or_else(|| "nvcc".into())
}
