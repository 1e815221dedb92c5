//! Names of files.

/// A model's weights in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// The index of a model's weights in several files.
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// The file of stage `stage` of `stages`, numbered so that a listing shows the stages in order.
pub fn shard_name(stage: usize, stages: usize) -> String {
    let width = stages.saturating_sub(1).to_string().len();
    format!("stage-{stage:0width$}.safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_list_in_order() {
        assert_eq!(shard_name(0, 1), "stage-0.safetensors");
        assert_eq!(shard_name(9, 10), "stage-9.safetensors");
        assert_eq!(shard_name(2, 11), "stage-02.safetensors");
        assert!(stageline_plan::manifest::is_file_name(&shard_name(1023, 1024)));
    }
}
