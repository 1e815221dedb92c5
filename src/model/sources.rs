//! Where a stage's weights come from: its shard, or the model's own folder.

use crate::{Checkpoint, RawTensor, TensorSource};
use stageline_base::Fault;
use stageline_shard::header::TensorShape;
use stageline_shard::{ShardFile, ShardOnDisk, TensorBytes};

impl From<TensorBytes> for RawTensor {
    fn from(tensor: TensorBytes) -> Self {
        Self { dtype: tensor.dtype, shape: tensor.shape, bytes: tensor.bytes }
    }
}

impl TensorSource for ShardFile {
    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        ShardFile::tensor(self, name).map(RawTensor::from)
    }
}

impl TensorSource for ShardOnDisk {
    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        ShardOnDisk::tensor(self, name).map(RawTensor::from)
    }

    fn stored(&self, name: &str) -> Result<TensorShape, Fault> {
        Ok(self.entry(name)?.shape.clone())
    }

    fn read(&self, name: &str, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        ShardOnDisk::read(self, name, at as u64, out)
    }
}

impl TensorSource for Checkpoint {
    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        Checkpoint::tensor(self, name).map(RawTensor::from)
    }

    fn stored(&self, name: &str) -> Result<TensorShape, Fault> {
        let entry = self.folder().entry(self.source_name(name));
        let entry = entry.ok_or_else(|| Fault::invalid(format!("tensor {name:?} is missing")))?;
        Ok(entry.shape.clone())
    }

    fn read(&self, name: &str, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        self.folder().read(self.source_name(name), at as u64, out)
    }
}
