//! Recorded decode steps. A step of single rows is some ten launches a layer, which a CPU takes longer to issue than a GPU to
//! run at small batches; recorded once for each bucket of rows, it is one launch.

use super::decoder::{Decoder, Left};
use super::device::Gpu;
use super::recording::record;
use super::step::{StepInput, StepShape};
use super::weights::Compute;
use cudarc::driver::CudaGraph;
use stageline_base::Fault;
use std::rc::Rc;

/// Up to here there is a bucket for every number of rows: there a padding row costs most.
const EXACT: usize = 8;

/// The numbers of rows that steps are recorded for: 1 to 8, then powers of two, up to `most`, which is one itself.
pub fn buckets(most: usize) -> Vec<usize> {
    let powers = (EXACT.trailing_zeros() + 1..usize::BITS).map(|power| 1usize << power);
    let all = (1..=EXACT).chain(powers.take_while(|rows| *rows < most)).chain([most]);
    let mut all: Vec<usize> = all.filter(|rows| (1..=most).contains(rows)).collect();
    all.dedup();
    all
}

/// A step recorded for one bucket.
struct Recorded {
    graph: CudaGraph,
    left: Left,
}

/// The recorded steps of a stage. They hold addresses of its weights and work space, which live as long as the decoder.
pub struct Graphs {
    /// By rising rows; `None` where the driver refused to record.
    recorded: Vec<(usize, Option<Recorded>)>,
    /// Of what grows with the sequences, the room: a graph must serve the longest.
    room: Room,
    input: StepInput,
    last: bool,
    refused: u32,
}

/// Room for what grows with the sequences of a step.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Blocks of each table.
    pub table_blocks: usize,
    /// Ids in the histories of all rows.
    pub history_ids: usize,
}

impl Graphs {
    /// None yet: for sequences that have `room`, at a stage that takes `input` and ends the model if `last`.
    pub fn new(room: Room, input: StepInput, last: bool) -> Self {
        Self { recorded: Vec::new(), room, input, last, refused: 0 }
    }

    /// Steps that the driver would not record.
    pub fn refused(&self) -> u32 {
        self.refused
    }

    /// Ids that there is room for in the histories of a step.
    pub fn history_ids(&self) -> usize {
        self.room.history_ids
    }

    /// What the stage takes.
    pub fn input(&self) -> StepInput {
        self.input
    }

    /// The shape of a recorded step of `rows` rows.
    pub fn shape(&self, rows: usize) -> StepShape {
        StepShape {
            rows,
            decode_rows: rows,
            members: rows,
            table_blocks: self.room.table_blocks,
            history_ids: if self.last { self.room.history_ids } else { 0 },
            tiles: 0,
            emitting: if self.last { rows } else { 0 },
            input: self.input,
        }
    }

    /// Records the step of `rows` rows, whose words are those of [`Self::shape`] and lie in place. A step that the driver
    /// refuses to record runs launch by launch. Called by rising `rows`.
    ///
    /// # Errors
    /// `DeviceFailed` if the step itself fails.
    pub fn record<T: Compute>(&mut self, gpu: &Rc<Gpu>, decoder: &mut Decoder<T>, rows: usize) -> Result<(), Fault> {
        let shape = self.shape(rows);
        // Once as it is: what the first run of a shape sets up must not be part of the recording.
        decoder.step(&shape)?;
        gpu.synchronize("running a step that is to be recorded")?;
        let recorded = record(gpu, || decoder.step(&shape)).and_then(|(graph, left)| {
            graph.upload().map_err(|e| gpu.fault("loading a recorded step", e))?;
            Ok(Recorded { graph, left })
        });
        let recorded = match recorded {
            Ok(recorded) => Some(recorded),
            Err(fault) if gpu.is_lost() => return Err(fault),
            Err(fault) => {
                self.refused += 1;
                let refused = self.refused;
                tracing::error!(rows, refused, "a step could not be recorded and will run launch by launch: {fault}");
                None
            }
        };
        self.recorded.push((rows, recorded));
        Ok(())
    }

    /// The rows of the smallest recorded step that holds `rows`.
    pub fn bucket(&self, rows: usize) -> Option<usize> {
        let (bucket, recorded) = self.recorded.iter().find(|(bucket, _)| *bucket >= rows)?;
        recorded.as_ref().map(|_| *bucket)
    }

    /// Launches the recorded step of the bucket `rows`.
    ///
    /// # Errors
    /// `DeviceFailed` if the driver refuses; `Internal` if there is none.
    pub fn launch(&self, gpu: &Gpu, rows: usize) -> Result<Left, Fault> {
        let found =
            self.recorded.iter().find(|(bucket, _)| *bucket == rows).and_then(|(_, recorded)| recorded.as_ref());
        let recorded = found.ok_or_else(|| Fault::internal(format!("no recorded step of {rows} rows")))?;
        recorded.graph.launch().map_err(|e| gpu.fault(&format!("launching the recorded step of {rows} rows"), e))?;
        Ok(recorded.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_exact_then_powers_of_two_up_to_the_most() {
        assert_eq!(buckets(1), [1]);
        assert_eq!(buckets(5), [1, 2, 3, 4, 5]);
        assert_eq!(buckets(8), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(buckets(9), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(buckets(64), [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]);
        assert_eq!(buckets(48), [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 48]);
        assert!(buckets(0).is_empty());
    }
}
