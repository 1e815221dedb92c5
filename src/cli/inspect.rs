//! `inspect`: what a manifest and its shards hold.

use crate::cli::split::as_error;
use crate::cli::table::{Table, bytes, count, percent};
use serde_json::json;
use stageline_base::hex;
use stageline_plan::{Manifest, StageEntry};
use stageline_shard::verify::check_file;
use stageline_shard::{Header, PipelineFolder};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Says what the pipeline folder `dir` holds, as text or as one JSON object, after checking the manifest, every file's
/// length and every shard's header. (It reads no weights: [`verify`] does.)
///
/// # Errors
/// One line that says what is missing or wrong.
pub fn inspect(dir: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let folder = PipelineFolder::open(dir).map_err(as_error)?;
    let headers: Vec<Header> = (0..folder.manifest().stages.len())
        .map(|k| folder.stage_header(k))
        .collect::<Result<_, _>>()
        .map_err(as_error)?;
    if json {
        writeln!(out, "{}", as_json(folder.manifest(), &headers))?;
    } else {
        as_text(folder.manifest(), &headers, out)?;
    }
    Ok(())
}

/// Reads every file of the pipeline folder `dir` and compares it with the manifest's SHA-256.
///
/// # Errors
/// One line that names the first file that is missing or damaged.
pub fn verify(dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let folder = PipelineFolder::open(dir).map_err(as_error)?;
    let manifest = folder.manifest();
    for entry in manifest.stages.iter().map(|stage| &stage.shard).chain(&manifest.files) {
        let path = folder.path(entry).map_err(as_error)?;
        check_file(&path, entry).map_err(as_error)?;
        writeln!(out, "{}: {}, its SHA-256 is the manifest's", entry.file, bytes(entry.bytes))?;
    }
    Ok(())
}

fn as_text(manifest: &Manifest, headers: &[Header], out: &mut dyn Write) -> anyhow::Result<()> {
    let setting = |key: &str| manifest.config.get(key).map_or("?".into(), |value| value.to_string().replace('"', ""));
    writeln!(
        out,
        "{}: {} with {} units of width {}, vocabulary {}, weights in {}; cut into {} by {}{}; digest {}\n",
        manifest.name,
        setting("model_type"),
        manifest.unit_count(),
        setting("hidden_size"),
        setting("vocab_size"),
        manifest.dtype,
        manifest.stages.len(),
        manifest.balance,
        manifest.mix.as_ref().map(|mix| format!(" for {mix}")).unwrap_or_default(),
        manifest.digest8()
    )?;
    let mut table = Table::new(["stage", "units", "parameters", "cost", "tensors", "size", "file"]);
    for (k, (stage, header)) in manifest.stages.iter().zip(headers).enumerate() {
        table.row([
            k.to_string(),
            format!("{}..{}", stage.units[0], stage.units[1]),
            count(stage.parameters),
            percent(stage.cost),
            header.tensors.len().to_string(),
            bytes(stage.shard.bytes),
            stage.shard.file.clone(),
        ]);
    }
    table.write(out)?;
    for (k, header) in headers.iter().enumerate() {
        writeln!(out, "\nstage {k}:")?;
        for ((name, shape), layers) in by_kind(header) {
            let times = if layers > 1 { format!(" × {layers}") } else { String::new() };
            writeln!(out, "  {name}  {shape}{times}")?;
        }
    }
    writeln!(out)?;
    for tied in &manifest.tied {
        writeln!(out, "tied: {tied}")?;
    }
    for entry in &manifest.files {
        writeln!(out, "file: {} ({})", entry.file, bytes(entry.bytes))?;
    }
    Ok(())
}

/// The tensors of a shard, those that differ only in their layer's number together (`*` in its place), with their count.
fn by_kind(header: &Header) -> BTreeMap<(String, String), usize> {
    let mut kinds = BTreeMap::new();
    for (name, entry) in &header.tensors {
        let star = |part: &str| if part.bytes().all(|b| b.is_ascii_digit()) { "*".into() } else { part.to_owned() };
        let kind = name.split('.').map(star).collect::<Vec<_>>().join(".");
        *kinds.entry((kind, entry.shape.to_string())).or_insert(0) += 1;
    }
    kinds
}

fn as_json(manifest: &Manifest, headers: &[Header]) -> serde_json::Value {
    let stage = |(stage, header): (&StageEntry, &Header)| {
        let tensors = header.tensors.iter().map(|(name, entry)| {
            json!({
                "name": name,
                "dtype": format!("{:?}", entry.shape.dtype),
                "shape": entry.shape.shape,
                "bytes": [entry.bytes.start, entry.bytes.end],
            })
        });
        json!({
            "units": stage.units,
            "border": stage.border,
            "parameters": stage.parameters,
            "cost": stage.cost,
            "shard": stage.shard,
            "tensors": tensors.collect::<Vec<_>>(),
        })
    };
    json!({
        "name": manifest.name,
        "digest": hex(&manifest.digest()),
        "dtype": manifest.dtype,
        "balance": manifest.balance,
        "mix": manifest.mix,
        "units": manifest.units,
        "config": manifest.config,
        "stages": manifest.stages.iter().zip(headers).map(stage).collect::<Vec<_>>(),
        "tied": manifest.tied,
        "files": manifest.files,
    })
}
