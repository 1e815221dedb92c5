//! How fast a shard comes from the disk to the device, by the way that a server takes: read, copied, and hashed meanwhile.

use crate::device::Device;
use crate::model::{Model, Noise};
use crate::plan::Plan;
use crate::report::{Part, Report};
use crate::steps;
use serde_json::{Map, json};
use stageline_base::Fault;
use stageline_model::{ModelSpec, TensorSource};
use stageline_plan::{Balance, Goal, Manifest, Mix, StageEntry};
use stageline_server::Blueprint;
use stageline_shard::names::shard_name;
use stageline_shard::write::NewFile;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub const PART: Part = Part {
    name: "load",
    says: "A shard, by the way that a server takes. read_s: until its last byte was read, all others being copied; proved_s: until \
           it can be warmed up, its SHA-256 being what the manifest says.",
};
/// Bytes that are written at once.
const BLOCK_BYTES: usize = 8 << 20;
/// Of a file's pages, how many may still be in memory when it is called cold.
const COLD: f64 = 0.05;

/// Writes a shard to a folder inside `folder`, loads it with its pages dropped and with its pages in memory, and removes it.
pub fn measure(device: &Device, plan: &Plan, folder: &Path, report: &mut Report) -> Result<(), Fault> {
    let folder = Folder::new(folder)?;
    let model = &plan.shard;
    let bytes = write(model, &folder.0)?;
    let path = folder.0.join(shard_name(0, 1));
    drop_pages(&path)?;
    let cached = in_memory(&path)?;
    if cached <= COLD {
        load(plan, (model, bytes), &folder.0, &format!("{}, cold", model.name), report)?;
    } else {
        let why = format!("{:.0} % of it stayed in memory when it was to be dropped: see --folder", cached * 100.0);
        report.skip(&PART, &format!("{}, cold", model.name), &why);
    }
    load(plan, (model, bytes), &folder.0, &format!("{}, from the page cache", model.name), report)?;
    device.gpu.synchronize("loading")
}

/// Loads the stage that lies in `folder`.
fn load(
    plan: &Plan,
    (model, bytes): (&Model, u64),
    folder: &Path,
    what: &str,
    report: &mut Report,
) -> Result<(), Fault> {
    let blueprint = Blueprint::open(folder, None, Goal::default())?;
    let blocks = plan.most_rows().div_ceil(steps::BLOCK_SIZE);
    let setup = steps::setup(plan, blocks)?;
    let begun = Instant::now();
    // When the last of the bytes was read.
    let read = Arc::new(AtomicU64::new(0));
    let last = read.clone();
    let progress = move |_| last.store(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
    let executor = blueprint.loader(0, setup, progress)()?;
    let all = begun.elapsed().as_secs_f64();
    drop(executor);
    let read = Duration::from_nanos(read.load(Ordering::Relaxed)).as_secs_f64();
    let figures =
        [("bytes", bytes as f64), ("read_s", read), ("gb_per_s", bytes as f64 / read / 1e9), ("proved_s", all)];
    report.line(&PART, what, &figures).map_err(|fault| Fault { message: format!("{}: {fault}", model.name), ..fault })
}

/// Writes `model` as a pipeline of one stage to `folder`; gives the bytes of its weights.
fn write(model: &Model, folder: &Path) -> Result<u64, Fault> {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in model.tensors() {
        let begin = end;
        end += shape.elements().unwrap_or(0) * 2;
        header.insert(name, json!({"dtype": "BF16", "shape": shape.shape, "data_offsets": [begin, end]}));
    }
    let header = serde_json::Value::Object(header).to_string().into_bytes();
    let mut file = NewFile::create(folder, &shard_name(0, 1))?;
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(&header)?;
    let (noise, mut block) = (Noise::of(model), vec![0; BLOCK_BYTES]);
    for (name, shape) in model.tensors() {
        let bytes = shape.elements().unwrap_or(0) as usize * 2;
        for at in (0..bytes).step_by(BLOCK_BYTES) {
            let part = &mut block[..BLOCK_BYTES.min(bytes - at)];
            noise.read(&name, at, part)?;
            file.write(part)?;
        }
    }
    let spec = ModelSpec::from(model.llama.clone());
    let units = spec.units();
    let stage = StageEntry {
        units: [0, units.len()],
        border: spec.border(0).lines(),
        shard: file.finish()?,
        parameters: model.parameters(),
        cost: 1.0,
    };
    let manifest = Manifest {
        version: Manifest::VERSION,
        name: "noise".into(),
        config: model.config(),
        dtype: "bf16".into(),
        balance: Balance::Cost.to_string(),
        mix: Some(Mix::default().to_string()),
        units: units.into_iter().map(|unit| unit.name).collect(),
        stages: vec![stage],
        tied: Vec::new(),
        files: Vec::new(),
    };
    let mut file = NewFile::create(folder, Manifest::FILE)?;
    file.write(&manifest.to_file())?;
    file.finish()?;
    Ok(end)
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(parent: &Path) -> Result<Self, Fault> {
        let path = parent.join(format!("stageline-gpu-{}", std::process::id()));
        let cannot = |e| Fault::invalid(format!("cannot make {}: {e}; see --folder", path.display()));
        std::fs::create_dir_all(&path).map_err(cannot)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn opened(path: &Path) -> Result<File, Fault> {
    File::open(path).map_err(|e| Fault::invalid(format!("cannot open {}: {e}", path.display())))
}

/// Asks the kernel to forget the file's pages.
fn drop_pages(path: &Path) -> Result<(), Fault> {
    let file = opened(path)?;
    // SAFETY: an advice about an open file.
    let refused = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if refused == 0 { Ok(()) } else { Err(Fault::invalid(format!("posix_fadvise fails with {refused}"))) }
}

/// The share of the file's pages that are in memory.
fn in_memory(path: &Path) -> Result<f64, Fault> {
    let file = opened(path)?;
    let cannot = || Fault::invalid(format!("cannot ask for {}: {}", path.display(), std::io::Error::last_os_error()));
    let bytes = file.metadata().map_err(|_| cannot())?.len() as usize;
    // SAFETY: a question about the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as usize;
    let mut pages = vec![0u8; bytes.div_ceil(page)];
    // SAFETY: a new mapping of an open file, which is not read, and unmapped below; one byte a page is written.
    let asked = unsafe {
        let map = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if map == libc::MAP_FAILED {
            return Err(cannot());
        }
        let asked = libc::mincore(map, bytes, pages.as_mut_ptr());
        libc::munmap(map, bytes);
        asked
    };
    if asked != 0 {
        return Err(cannot());
    }
    Ok(pages.iter().filter(|page| **page & 1 == 1).count() as f64 / pages.len() as f64)
}
