//! How a pipeline is served, as far as the stages' machines are concerned.

use stageline_base::{Border, Element, ReplicaId, StageIndex, Task};
use stageline_core::Planted;
use stageline_core::link::Room;
use stageline_core::machine::StageSetup;
use stageline_core::requests::DoorSetup;
use stageline_transport::LEASE;
use std::time::Duration;

/// A sequence that gets no row for this long is dropped: far above any deadline's replay, so it only ever frees what a
/// lost Close left behind.
const IDLE_LIMIT: Duration = Duration::from_secs(600);

/// Bytes that requests whose tensors stay together may take at a receiver, from each sender.
const SETS_BYTES: u64 = 64 << 20;

/// How often a door looks for the replicas on its requests' paths. A dead one is passed by within twice this, and what was on its
/// way through it is opened elsewhere.
const PING_EVERY: Duration = Duration::from_millis(100);

/// Every replica of a pipeline is served with the same ones.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most live sequences.
    pub max_num_seqs: u32,
    /// Longest sequence.
    pub max_model_len: u32,
    /// Most rows of a microbatch.
    pub max_batch_tokens: u32,
    /// How long a microbatch that is not full waits.
    pub max_batch_delay: Duration,
    /// Positions of a KV block.
    pub block_size: u32,
    /// KV blocks that a stage wants; its executor says what it has.
    pub kv_blocks: u32,
    /// KV blocks without which it does not serve.
    pub least_kv_blocks: u32,
    /// Decode microbatches.
    pub microbatches: u32,
    /// How many of them are in the pipeline at once; all but for measurements.
    pub microbatches_away: u32,
    /// Most waiting requests.
    pub max_queue: usize,
    /// How long a request may wait for room.
    pub queue_timeout: Duration,
    /// How long a request waits for a stage that is missing.
    pub stage_timeout: Duration,
    /// `max_tokens` of a request that names none.
    pub default_max_tokens: u32,
    /// Longest deadline.
    pub max_deadline: Duration,
    /// What numbers that cross between stages are: f32 or bf16.
    pub wire_dtype: Element,
}

impl Options {
    /// Most rows of a microbatch on the device: decode rows and prefill, or one sequence that is never cut.
    pub fn most_rows(&self, task: Task) -> usize {
        let longest = if task.is_whole() { self.max_model_len } else { 0 };
        (self.max_batch_tokens.max(longest) + self.max_num_seqs) as usize
    }

    /// The stage's machine's, if it has all the KV blocks that it wants, whatever the model's vocabulary. The borders are those in
    /// front of it and behind it.
    pub fn stage(
        &self,
        me: &ReplicaId,
        (stage, stages): (StageIndex, StageIndex),
        (takes, gives): (Border, Border),
    ) -> StageSetup {
        // A whole encoder sequence, or two microbatches of prefill (one runs, one is on its way), beside the rows that
        // decode keeps for itself.
        let rows = u64::from(self.max_num_seqs) * 2 + u64::from((self.max_batch_tokens * 2).max(self.max_model_len));
        StageSetup {
            me: me.clone(),
            stage,
            stages,
            kv_blocks: self.kv_blocks,
            block_size: self.block_size,
            max_num_seqs: self.max_num_seqs,
            max_batch_tokens: self.max_batch_tokens,
            microbatches: self.microbatches,
            max_batch_delay: self.max_batch_delay,
            vocab: u32::MAX,
            direct: None,
            window: Room { rows, bytes: self.window_bytes(rows, &takes) },
            takes,
            gives,
            lease: LEASE,
            // No door keeps a sequence beyond its deadline.
            idle_limit: (self.max_deadline + LEASE * 2).min(IDLE_LIMIT),
            planted: Planted::None,
        }
    }

    /// Bytes that a sender may have queued where `takes` is crossed, beside so many rows.
    fn window_bytes(&self, rows: u64, takes: &Border) -> u64 {
        if takes.is_by_rows() {
            return takes.most_bytes(rows);
        }
        // As many requests, each as large as it may be, as this memory holds: two at least, one that runs and one on its way.
        let most = takes.most_bytes(self.max_model_len.into()).max(1);
        most.saturating_mul((SETS_BYTES / most).clamp(2, self.max_num_seqs.max(2).into()))
    }

    /// The door's machine's, whatever the model's vocabulary; without a `broker` all stages share its process, so that none can
    /// go without it.
    pub fn door(&self, me: &ReplicaId, (takes, gives): (Border, Border), broker: Option<String>) -> DoorSetup {
        DoorSetup {
            me: me.clone(),
            boot: me.boot(),
            max_num_seqs: self.max_num_seqs,
            max_queue: self.max_queue,
            queue_timeout: self.queue_timeout,
            stage_timeout: self.stage_timeout,
            ping_every: broker.is_some().then_some(PING_EVERY),
            broker,
            microbatches: self.microbatches,
            microbatches_away: self.microbatches_away,
            lease: LEASE,
            vocab: u32::MAX,
            takes,
            gives,
            planted: Planted::None,
        }
    }
}
