//! A model that stageline can run, made of its config.json.

use crate::families::{Family, LayerRange, PIPELINE_WORD, read};
use crate::kv_cache::KvShape;
use crate::load::{Loader, TensorSource};
use crate::sentence::own_dir;
use crate::stage_model::StageModel;
use crate::tensors::TensorNeed;
use candle_core::Device;
use serde_json::Value;
use stageline_base::Fault;
use stageline_ops::Ops;
use stageline_plan::Manifest;
use stageline_shard::Files;
use stageline_shard::stranger::check_model_dir;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// A model that stageline can run, of any family: what it is and needs is said by [`Family`].
#[derive(Clone)]
pub struct ModelSpec(Arc<dyn Family>);

impl Deref for ModelSpec {
    type Target = dyn Family;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref()
    }
}

impl fmt::Debug for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<F: Family + 'static> From<F> for ModelSpec {
    fn from(family: F) -> Self {
        Self(Arc::new(family))
    }
}

impl ModelSpec {
    /// What `config` (a config.json) asks for. A key that changes what is computed is honoured or refused; a key that
    /// changes nothing is known as such; a key that is not known is refused, since it may be either.
    ///
    /// # Errors
    /// `InvalidRequest`, one line that names every setting that is missing, wrong or not supported, with its value.
    pub fn parse(config: &Value) -> Result<Self, Fault> {
        read(config).map(Self)
    }

    /// Reads the config.json of `dir`, and the files that its family reads beside it. Returns config.json too, with what those
    /// say beyond it.
    ///
    /// # Errors
    /// As [`ModelSpec::parse`]; also if a file cannot be read or asks for what is not supported.
    pub fn from_dir(dir: &Path) -> Result<(Self, Value), Fault> {
        let own = own_dir(dir)?;
        check_model_dir(&own)?;
        let files = Files::of_model(&own)?;
        let mut config = files.json("config.json")?.ok_or_else(|| files.absent("config.json"))?;
        let at = |fault: Fault| Fault { message: format!("{}: {}", own.display(), fault.message), ..fault };
        let mut keys = config.as_object().into_iter().flat_map(|object| object.keys());
        if let Some(word) = keys.find(|key| key.starts_with(PIPELINE_WORD)) {
            let words = format!("config.json: {word} is a word of pipelines: fetch the model's own folder");
            return Err(at(Fault::invalid(words)));
        }
        let spec = Self::parse(&config).map_err(at)?;
        let elsewhere = spec.settings_elsewhere(&Files::of_model(dir)?, &files)?;
        match &mut config {
            Value::Object(config) if !elsewhere.is_empty() => config.extend(elsewhere),
            _ => return Ok((spec, config)),
        }
        Ok((Self::parse(&config).map_err(at)?, config))
    }

    /// The model of a pipeline's manifest: what its config.json asks for, cut at the units and borders that the manifest names.
    ///
    /// # Errors
    /// As [`ModelSpec::parse`]; also if this program would cut such a model into other units, or send something else across.
    pub fn of_pipeline(manifest: &Manifest) -> Result<Self, Fault> {
        let spec = Self::parse(&manifest.config)?;
        if manifest.units.is_empty() {
            return Ok(spec);
        }
        let wrong = |what: String| {
            let todo = "split the model again with this program, or serve it with the one that did";
            Err(Fault::invalid(format!("{}: {what}: {todo}", Manifest::FILE)))
        };
        let units = spec.units();
        for number in 0..units.len().max(manifest.units.len()) {
            let (here, there) = (units.get(number).map(|unit| &unit.name), manifest.units.get(number));
            if here != there {
                let [here, there] = [here, there].map(|name| name.map_or("none".into(), |name| format!("{name:?}")));
                return wrong(format!("unit {number} is {there}, but {here} in this program"));
            }
        }
        for (k, stage) in manifest.stages.iter().enumerate() {
            let (here, there) = (spec.border(stage.units[0]).lines(), &stage.border);
            if here != *there {
                let [here, there] = [&here, there].map(|border| border.join("; "));
                return wrong(format!("{there} crosses the border of stage {k}, but {here} in this program"));
            }
        }
        Ok(spec)
    }

    /// The tensors that a stage of `units` needs, each once.
    pub fn stage_tensors(&self, units: &Range<usize>) -> Vec<TensorNeed> {
        let (mut needs, mut seen) = (self.tensors(), BTreeSet::new());
        needs.retain(|need| units.contains(&need.unit) && seen.insert(need.name.clone()));
        needs
    }

    /// Loads layers `range` from `source` to `device`, with a KV cache of `kv` if the model's task keeps one.
    ///
    /// # Errors
    /// Whatever `source` says; `InvalidRequest` if a tensor is not what the model asks for or the range is not in it;
    /// `DeviceFailed` if the device has not the memory.
    pub fn load(
        &self,
        source: &dyn TensorSource,
        range: LayerRange,
        kv: KvShape,
        (ops, device): (Ops, &Device),
    ) -> Result<Box<dyn StageModel>, Fault> {
        if range.is_empty() || range.end > self.layers() {
            return Err(Fault::invalid(format!("a model of {} layers has no layers {range:?}", self.layers())));
        }
        self.0.load(Loader { source, device }, range, kv, ops)
    }
}
