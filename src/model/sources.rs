//! Where a stage's weights come from: its shard, or the model's own folder.

use crate::base::Fault;
use crate::model::{Checkpoint, RawTensor, TensorSource};
use crate::shard::{ShardFile, TensorBytes};

impl From<TensorBytes> for RawTensor {
    fn from(tensor: TensorBytes) -> Self {
        Self { dtype: tensor.dtype, shape: tensor.shape, bytes: tensor.bytes }
    }
}

impl TensorSource for ShardFile {
    fn contains(&self, name: &str) -> bool {
        self.header().tensors.contains_key(name)
    }

    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        ShardFile::tensor(self, name).map(RawTensor::from)
    }
}

impl TensorSource for Checkpoint {
    fn contains(&self, name: &str) -> bool {
        self.folder().entry(&self.source_name(name)).is_some()
    }

    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        Checkpoint::tensor(self, name).map(RawTensor::from)
    }
}
