//! What a safetensors file holds according to the format's own library.

use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;

/// Type, shape and bytes of a tensor.
pub type Tensor = (safetensors::Dtype, Vec<usize>, Vec<u8>);

/// Every tensor of a file, by name.
pub fn read(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let own = |view: &safetensors::tensor::TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    file.tensors().iter().map(|(name, view)| (name.clone(), own(view))).collect()
}

/// The union of a pipeline folder's shards; a tensor that two of them hold must be the same in both and one of `tied`.
pub fn union(dir: &Path, shards: &[String], tied: &[String]) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    for shard in shards {
        for (name, tensor) in read(&dir.join(shard)) {
            if let Some(other) = all.insert(name.clone(), tensor) {
                assert!(tied.contains(&name), "{name} is in two shards");
                assert!(other == all[&name], "{name} differs between two shards");
            }
        }
    }
    all
}
