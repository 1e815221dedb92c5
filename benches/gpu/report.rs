//! The table, printed line by line, and as JSON.

use crate::device::Device;
use serde_json::{Map, Value, json};
use stageline_base::Fault;
use std::path::Path;

/// What stands behind every part's name where the device is none.
const EMULATED: &str = "EMULATED: no GPU's figures";

/// A part of the table.
pub struct Part {
    /// One word, under which its lines are in the JSON.
    pub name: &'static str,
    /// What its figures are, beside their names.
    pub says: &'static str,
}

/// All that was measured so far.
pub struct Report {
    emulated: bool,
    /// The parts by name, each an array of lines.
    all: Map<String, Value>,
    /// The part that was printed last.
    open: &'static str,
    failures: usize,
}

impl Report {
    /// Says which device it is.
    pub fn begin(device: &Device) -> Result<Self, Fault> {
        let gpu = &device.gpu;
        let emulated = device.is_emulated();
        let name = gpu.context.name().map_err(|e| device.fault(e))?;
        let (major, minor) = gpu.context.compute_capability().map_err(|e| device.fault(e))?;
        let (free, memory) = gpu.memory()?;
        let (l2, driver) = (device.l2_bytes()?, device.driver_version()?);
        if emulated {
            println!(
                "{EMULATED}. The driver is a test double: what follows shows that this program runs, and nothing else."
            );
        }
        println!(
            "{name}: compute capability {major}.{minor}, {} multiprocessors, {:.1} GB of memory ({:.1} free), {:.0} MiB of \
             second-level cache; the driver knows CUDA {}.{}",
            gpu.multiprocessors,
            memory as f64 / 1e9,
            free as f64 / 1e9,
            l2 as f64 / 1048576.0,
            driver.0,
            driver.1
        );
        let about = json!({
            "name": name,
            "compute_capability": format!("{major}.{minor}"),
            "multiprocessors": gpu.multiprocessors,
            "memory_bytes": memory,
            "l2_bytes": l2,
            "cuda": format!("{}.{}", driver.0, driver.1),
        });
        let mut all = Map::new();
        all.insert("emulated".into(), emulated.into());
        all.insert("device".into(), about);
        Ok(Self { emulated, all, open: "", failures: 0 })
    }

    /// Prints and keeps a line of `part`: what was measured, and its figures by name. All lines of a part have the same.
    ///
    /// # Errors
    /// `Internal` if a figure is not a number above 0: then something was not measured.
    pub fn line(&mut self, part: &Part, what: &str, figures: &[(&'static str, f64)]) -> Result<(), Fault> {
        if let Some((name, figure)) = figures.iter().find(|(_, figure)| !(figure.is_finite() && *figure > 0.0)) {
            return Err(Fault::internal(format!("{what}: {name} is {figure}")));
        }
        self.head(part, figures);
        let shown: String = figures.iter().map(|(_, figure)| format!(" {:>12}", shown(*figure))).collect();
        println!("{what:44}{shown}");
        let mut line = Map::new();
        line.insert("what".into(), what.into());
        line.extend(figures.iter().map(|(name, figure)| ((*name).to_owned(), (*figure).into())));
        self.keep(part.name, line.into());
        Ok(())
    }

    /// Says what of `part` was left out, and why.
    pub fn skip(&mut self, part: &Part, what: &str, why: &str) {
        println!("{}, {what}: left out, {why}", part.name);
        self.keep("left_out", json!({"part": part.name, "what": what, "why": why}));
    }

    /// Notes it if `what` of `part` could not be measured; the rest can.
    pub fn note(&mut self, part: &Part, what: &str, measured: Result<(), Fault>) {
        if let Err(fault) = measured {
            println!("{}, {what}: FAILED, {}", part.name, fault.message);
            self.keep("failed", json!({"part": part.name, "what": what, "why": fault.message}));
            self.failures += 1;
        }
    }

    /// Prints the head of a part that begins.
    fn head(&mut self, part: &Part, figures: &[(&'static str, f64)]) {
        if self.open != part.name {
            self.open = part.name;
            let title = if self.emulated { format!("{} ({EMULATED})", part.name) } else { part.name.to_owned() };
            let names: String = figures.iter().map(|(name, _)| format!(" {name:>12}")).collect();
            println!("\n{title:44}{names}\n  {}", part.says);
        }
    }

    fn keep(&mut self, part: &str, line: Value) {
        if let Value::Array(lines) = self.all.entry(part).or_insert_with(|| Value::Array(Vec::new())) {
            lines.push(line);
        }
    }

    /// Writes all of it as JSON to `path`, if there is one.
    ///
    /// # Errors
    /// If it cannot be written, or anything was noted that could not be measured.
    pub fn end(self, path: Option<&Path>) -> Result<(), Fault> {
        if let Some(path) = path {
            let text = format!("{:#}\n", Value::Object(self.all));
            let written = std::fs::write(path, text);
            written.map_err(|e| Fault::invalid(format!("cannot write {}: {e}", path.display())))?;
        }
        match self.failures {
            0 => Ok(()),
            failures => Err(Fault::device(format!("{failures} of the measurements failed: see FAILED above"))),
        }
    }
}

/// A figure with some four digits.
fn shown(figure: f64) -> String {
    match figure {
        1000.0.. => format!("{figure:.0}"),
        100.0.. => format!("{figure:.1}"),
        10.0.. => format!("{figure:.2}"),
        0.01.. => format!("{figure:.3}"),
        _ => format!("{figure:.2e}"),
    }
}
