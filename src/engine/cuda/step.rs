//! A microbatch as the kernels read it: where each row stands, where its keys go, what it sees. All of it are 32-bit words
//! that lie behind one another, so that one copy brings them to the device.

use super::kernels::launch::DeviceSlice;
use super::kernels::prefill_attention::Tile;
use super::kernels::sample::SampleRow;
use stageline_base::{Fault, Tensors};
use stageline_core::{Member, Microbatch};
use stageline_engine::part::{emitted_position, penalised, sampling};
use stageline_model::{KvShape, held_blocks};
use std::ops::Range;

/// Words of a tile: its member, its first row, its rows, the position of that row.
const TILE_WORDS: usize = 4;
/// Stands for "no slot": such a row writes no keys.
const NO_SLOT: u32 = u32::MAX;
const SAMPLE_ROW_WORDS: usize = size_of::<SampleRow>() / 4;

/// How many there are of everything: what decides where the words lie, and so what a recorded graph was recorded for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StepShape {
    /// Rows of all members.
    pub rows: usize,
    /// Of these, in front: rows of members of one row each, for the decode attention.
    pub decode_rows: usize,
    /// Members, each with a block table.
    pub members: usize,
    /// Blocks that each table has room for.
    pub table_blocks: usize,
    /// Token ids that there is room for in the histories of sampled rows.
    pub history_ids: usize,
    /// Tiles of the prefill attention.
    pub tiles: usize,
    /// Rows that the head makes logits of.
    pub emitting: usize,
    /// What comes in.
    pub input: StepInput,
}

/// What a row of a step begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StepInput {
    /// A token id: at the first stage.
    #[default]
    Ids,
    /// So many numbers of an activation.
    Activations(usize),
}

/// The words' places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Token ids, `[rows]`, or none.
    pub ids: Range<usize>,
    /// Positions, `[rows]`.
    pub positions: Range<usize>,
    /// Places in the KV cache, `[rows]`, -1 for none.
    pub slots: Range<usize>,
    /// Positions that each decode row sees, `[decode_rows]`.
    pub lengths: Range<usize>,
    /// Tiles, `[tiles, 4]`.
    pub tiles: Range<usize>,
    /// Rows that the head takes, `[emitting]`.
    pub take: Range<usize>,
    /// How each of them is sampled, `[emitting]` of [`SampleRow`].
    pub sampling: Range<usize>,
    /// Activations, `[rows, hidden]` of f32, or none.
    pub activations: Range<usize>,
    /// What grows with the sequences: block tables `[table_blocks, members]`, and the histories of sampled rows. A step that
    /// has less than there is room for leaves the end of it as it is: a table's blocks lie `members` apart, so that those of
    /// all members' first positions come first, and the histories directly behind the last block that any member has.
    pub lists: Range<usize>,
}

impl StepShape {
    /// Where everything lies.
    pub fn places(&self) -> Places {
        let mut end = 0;
        let mut next = |count: usize| {
            let start = end;
            // Each on a 16-byte border, as wide loads want it.
            end = (start + count).next_multiple_of(4);
            start..start + count
        };
        Places {
            ids: next(if self.input == StepInput::Ids { self.rows } else { 0 }),
            positions: next(self.rows),
            slots: next(self.rows),
            lengths: next(self.decode_rows),
            tiles: next(self.tiles * TILE_WORDS),
            take: next(self.emitting),
            sampling: next(self.emitting * SAMPLE_ROW_WORDS),
            activations: next(match self.input {
                StepInput::Ids => 0,
                StepInput::Activations(hidden) => self.rows * hidden,
            }),
            lists: next(self.members * self.table_blocks + self.history_ids),
        }
    }

    /// Words in all.
    pub fn words(&self) -> usize {
        self.places().lists.end
    }
}

/// The words on the device, as kernels take them.
#[derive(Clone, Copy, Debug)]
pub struct StepSlices {
    /// See [`Places`].
    pub ids: DeviceSlice<u32>,
    /// See [`Places`].
    pub positions: DeviceSlice<u32>,
    /// See [`Places`].
    pub slots: DeviceSlice<i32>,
    /// See [`Places`].
    pub lengths: DeviceSlice<u32>,
    /// Block tables, `[table_blocks, members]`.
    pub tables: DeviceSlice<i32>,
    /// Where the histories lie that [`SampleRow`]s name.
    pub history: DeviceSlice<u32>,
    /// See [`Places`].
    pub tiles: DeviceSlice<Tile>,
    /// See [`Places`].
    pub take: DeviceSlice<u32>,
    /// See [`Places`].
    pub sampling: DeviceSlice<SampleRow>,
    /// See [`Places`].
    pub activations: DeviceSlice<f32>,
}

impl StepShape {
    /// The parts of `words`, a buffer on the device.
    ///
    /// # Errors
    /// `Internal` if the buffer is too small.
    pub fn slices(&self, words: DeviceSlice<u32>) -> Result<StepSlices, Fault> {
        let part = |range: Range<usize>| {
            let fault = || Fault::internal(format!("{self:?} does not fit {} words", words.len()));
            words.part(range).ok_or_else(fault)
        };
        let places = self.places();
        let tables = places.lists.start..places.lists.start + self.members * self.table_blocks;
        Ok(StepSlices {
            ids: part(places.ids)?,
            positions: part(places.positions)?,
            slots: read_as(part(places.slots)?),
            lengths: part(places.lengths)?,
            tables: read_as(part(tables)?),
            history: part(places.lists)?,
            tiles: read_as(part(places.tiles)?),
            take: part(places.take)?,
            sampling: read_as(part(places.sampling)?),
            activations: read_as(part(places.activations)?),
        })
    }
}

/// The same memory as numbers or structs of whole words.
fn read_as<T>(words: DeviceSlice<u32>) -> DeviceSlice<T> {
    // SAFETY: the same bytes, of which any are a `T` here; every part begins at a multiple of 16 bytes.
    unsafe { DeviceSlice::new(words.address(), words.len() * 4 / size_of::<T>()) }
}

/// The shape of `batch`, of so many ids of histories at most; at the last stage (`last`) the head takes the last row of each
/// emitting member.
pub fn shape_of(
    batch: &Microbatch,
    block_size: usize,
    (input, last): (StepInput, bool),
    most_history_ids: usize,
) -> StepShape {
    let decode_rows = batch.members.iter().take_while(|member| member.rows == 1).count();
    let longer = &batch.members[decode_rows..];
    let seen = |member: &Member| (member.start + member.rows) as usize;
    StepShape {
        rows: batch.rows(),
        decode_rows,
        members: batch.members.len(),
        table_blocks: batch.members.iter().map(seen).max().unwrap_or(0).div_ceil(block_size),
        history_ids: if last && penalises(batch, most_history_ids) { all_histories(batch) } else { 0 },
        tiles: longer.iter().map(|member| Tile::cover(0, 0, member.rows, 0).count()).sum(),
        emitting: if last { batch.members.iter().filter(|member| member.emit).count() } else { 0 },
        input,
    }
}

/// The ids that the device penalises a member for, if it does so at all: not one whose logits are to be told, since they are
/// those before the penalty.
pub fn history(member: &Member) -> Option<&[u32]> {
    penalised(member).filter(|_| sampling(member).top_logits == 0)
}

/// Whether the device penalises, where there is room for so many ids of histories: if they are more, none are sent.
pub fn penalises(batch: &Microbatch, history_ids: usize) -> bool {
    all_histories(batch) <= history_ids
}

fn all_histories(batch: &Microbatch) -> usize {
    batch.members.iter().filter_map(history).map(<[u32]>::len).sum()
}

/// Writes the words of `batch` to `words`, laid out as `shape` says; `inputs` are its token ids or activations. Says how many
/// words there are: what is behind them nobody reads.
///
/// # Errors
/// `Internal` if a member's rows lie outside its blocks, or a block outside the cache.
pub fn write(
    batch: &Microbatch,
    shape: &StepShape,
    (kv, max_positions): (KvShape, usize),
    inputs: &[Tensors],
    words: &mut [u32],
) -> Result<usize, Fault> {
    let places = shape.places();
    let input = if shape.input == StepInput::Ids { places.ids.clone() } else { places.activations.clone() };
    let given = inputs.iter().flat_map(|input| input.iter()).flat_map(|named| named.tensor.words());
    let mut left = words[input].iter_mut();
    for (number, word) in given.zip(left.by_ref()) {
        *word = number;
    }
    // A graph's rows that nobody filled.
    left.for_each(|word| *word = 0);
    let held = batch.members.iter().map(|member| held_blocks(member, kv, max_positions));
    let held: Vec<&[u32]> = held.collect::<Result<_, Fault>>()?;
    let longest = held.iter().map(|blocks| blocks.len()).max().unwrap_or(0);
    let (tables, penalises) = (places.lists.start, penalises(batch, shape.history_ids));
    // What is behind a sequence's blocks is not read; 0 keeps it the same from run to run.
    let mut histories = tables + longest * shape.members;
    words[tables..histories].fill(0);
    let (mut row, mut tile, mut taken) = (0, 0, 0);
    for (number, (member, held)) in batch.members.iter().zip(held).enumerate() {
        for (word, block) in words[tables + number..].iter_mut().step_by(shape.members).zip(held) {
            *word = *block;
        }
        let rows = member.rows as usize;
        for i in 0..rows {
            let position = member.start + i as u32;
            let (block, place) = (position as usize / kv.block_size, position as usize % kv.block_size);
            words[places.positions.start + row + i] = position;
            words[places.slots.start + row + i] = held[block] * kv.block_size as u32 + place as u32;
        }
        if number < shape.decode_rows {
            words[places.lengths.start + number] = member.start + 1;
        } else {
            for one in Tile::cover(number as u32, row as u32, member.rows, member.start) {
                let at = places.tiles.start + tile * TILE_WORDS;
                words[at..at + TILE_WORDS].copy_from_slice(&[one.member, one.first_row, one.rows, one.position]);
                tile += 1;
            }
        }
        row += rows;
        if member.emit && shape.emitting > 0 {
            words[places.take.start + taken] = row as u32 - 1;
            let ids = history(member).filter(|_| penalises).unwrap_or(&[]);
            let end = histories + ids.len();
            words[histories..end].copy_from_slice(ids);
            let range = (histories - tables) as u32..(end - tables) as u32;
            histories = end;
            let how = SampleRow::new(sampling(member), emitted_position(member), range).words();
            let at = places.sampling.start + taken * SAMPLE_ROW_WORDS;
            words[at..at + SAMPLE_ROW_WORDS].copy_from_slice(&how);
            taken += 1;
        }
    }
    // They see nothing and keep nothing.
    words[places.positions.start + row..places.positions.end].fill(0);
    words[places.slots.start + row..places.slots.end].fill(NO_SLOT);
    let filled = batch.members.len().min(shape.decode_rows);
    words[places.lengths.start + filled..places.lengths.end].fill(0);
    words[places.take.start + taken..places.take.end].fill(0);
    // The least work.
    let greedy = SampleRow::new(&stageline_core::Sampling::GREEDY, 0, 0..0).words();
    for how in
        words[places.sampling.start + taken * SAMPLE_ROW_WORDS..places.sampling.end].chunks_exact_mut(greedy.len())
    {
        how.copy_from_slice(&greedy);
    }
    Ok(histories)
}
