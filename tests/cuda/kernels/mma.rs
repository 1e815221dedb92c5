//! `kernels/include/mma.cuh`: which lane holds what, as CUTLASS's own header has it, and the product; and that
//! `kernels/include/ldmatrix.cuh` loads it so.
//!
//! CuTe, the part of CUTLASS that we check against, writes such a layout as
//! `Layout<Shape<Shape<_4,_8>,Shape<_2,_2>>, Stride<Stride<_32,_1>,Stride<_16,_8>>>`: the first of each is of the lane, the
//! second of the number in it. A lane or number is taken apart by its shape, the first factor first; each part times its
//! stride, all added, is the place in a matrix that lies column by column.

use super::{floats, noise};
use crate::device;
use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use half::{bf16, f16};
use stageline_cuda::MMA_PTX as PTX;
use stageline_cuda::launch::Half;

const HEADER: &str = "STAGELINE_CUTLASS_TRAITS";
const LANES: usize = 32;

/// A factor of each dimension, and what a step of it moves.
type Factors = Vec<(usize, usize)>;

/// Where each lane's numbers lie: the factors of the lane's number and those of the number in it.
#[derive(Debug, PartialEq)]
struct Layout {
    lane: Factors,
    number: Factors,
}

impl Layout {
    /// Parses `Layout<Shape<…>,Stride<…>>`.
    fn parse(text: &str) -> Self {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let inside = |text: &str, name: &str| {
            let inside = text.strip_prefix(name).and_then(|rest| rest.strip_prefix('<')?.strip_suffix('>'));
            inside.unwrap_or_else(|| panic!("{text} is no {name}<…>")).to_string()
        };
        let [shape, stride] = two(&inside(&text, "Layout"));
        let (shape, stride) = (two(&inside(&shape, "Shape")), two(&inside(&stride, "Stride")));
        let factors = |i: usize| numbers(&shape[i]).into_iter().zip(numbers(&stride[i])).collect();
        Self { lane: factors(0), number: factors(1) }
    }

    /// Row and column, in a matrix of so many rows, of number `number` of lane `lane`.
    fn place(&self, lane: usize, number: usize, rows: usize) -> (usize, usize) {
        let at = |mut index: usize, factors: &Factors| {
            let mut at = 0;
            for (factor, stride) in factors {
                at += index % factor * stride;
                index /= factor;
            }
            at
        };
        let at = at(lane, &self.lane) + at(number, &self.number);
        (at % rows, at / rows)
    }
}

/// The two arguments of a template that `text` lists.
fn two(text: &str) -> [String; 2] {
    let mut depth = 0;
    let comma = text.find(|c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        c == ',' && depth == 0
    });
    let (first, second) = text.split_at(comma.unwrap_or_else(|| panic!("{text} is one, not two")));
    [first.to_string(), second[1..].to_string()]
}

/// The numbers of `_4` or of `Shape<_4,_8>`.
fn numbers(text: &str) -> Vec<usize> {
    text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).map(|n| n.parse().expect("digits")).collect()
}

/// The text between `from` and the next `to`.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.split_once(to)?.0)
}

/// The layout `name` (`ALayout`…) that the traits of `operation` have or inherit.
fn layout(header: &str, operation: &str, name: &str) -> Layout {
    let traits = between(header, &format!("struct MMA_Traits<{operation}>"), "};")
        .unwrap_or_else(|| panic!("the header has no traits of {operation}"));
    let using =
        |text, name: &str| between(text, &format!("using {name}"), ";").map(|rest| rest.trim_start().to_string());
    let Some(found) = using(traits, name) else {
        let parent = between(traits, "MMA_Traits<", ">").unwrap_or_else(|| panic!("{operation} has no {name}"));
        return layout(header, parent, name);
    };
    let found = found.trim_start_matches('=').trim();
    if found.starts_with("Layout") {
        return Layout::parse(found);
    }
    let alias = using(header, found).unwrap_or_else(|| panic!("the header has no {found}"));
    Layout::parse(alias.trim_start_matches('=').trim())
}

fn header() -> String {
    let path = std::env::var(HEADER)
        .unwrap_or_else(|_| panic!("{HEADER} is not set: run scripts/fetch-cutlass and set it to the path it prints"));
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{HEADER} names {path}, which cannot be read ({e}): run scripts/fetch-cutlass"))
}

/// The layouts of A, B and C, how many numbers of each a lane has, and the rows that CuTe counts: of B, as its columns.
struct Layouts([(Layout, usize, usize); 3]);

impl Layouts {
    fn of(operation: &str) -> Self {
        let header = header();
        let of = |name| layout(&header, operation, name);
        Self([(of("ALayout"), 8, 16), (of("BLayout"), 4, 8), (of("CLayout"), 4, 16)])
    }

    /// Row and column of number `i` of matrix `matrix` of a lane.
    fn place(&self, matrix: usize, lane: usize, i: usize) -> (usize, usize) {
        let (layout, _, rows) = &self.0[matrix];
        let (row, column) = layout.place(lane, i, *rows);
        if matrix == 1 { (column, row) } else { (row, column) }
    }
}

const BF16: &str = "SM80_16x8x16_F32BF16BF16F32_TN";
const F16: &str = "SM80_16x8x16_F32F16F16F32_TN";

fn function(device: &crate::Device, name: &str) -> CudaFunction {
    let module = device.stream.context().load_module(Ptx::from_src(PTX)).expect("the device takes mma.cu");
    module.load_function(name).expect("a function of mma.cu")
}

fn one_warp(device: &crate::Device, name: &str, arguments: &[u64]) {
    let function = function(device, name);
    let mut builder = device.stream.launch_builder(&function);
    arguments.iter().for_each(|address| {
        builder.arg(address);
    });
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (LANES as u32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: mma.cu tells how many numbers each address must have, and the callers allocate so many.
    unsafe { builder.launch(config) }.expect("a launch");
}

#[test]
fn the_header_says_of_each_lane_what_cutlass_says() {
    let device = device();
    let places = device.unset::<u32>(LANES * 16 * 2);
    one_warp(&device, "mma_places", &[places.slice().address()]);
    let places = places.read();
    for operation in [BF16, F16] {
        let layouts = Layouts::of(operation);
        for lane in 0..LANES {
            let mut got = places[lane * 32..][..32].chunks_exact(2).map(|p| (p[0] as usize, p[1] as usize));
            for matrix in 0..3 {
                for i in 0..layouts.0[matrix].1 {
                    let want = layouts.place(matrix, lane, i);
                    assert_eq!(got.next(), Some(want), "{operation}: matrix {matrix}, lane {lane}, number {i}");
                }
            }
        }
    }
}

fn products_are_those_of_plain_loops<T: Half>(name: &str, operation: &str) {
    let device = device();
    let layouts = Layouts::of(operation);
    let (a, b, c) = (noise::<T>(16 * 16, 1), noise::<T>(16 * 8, 2), floats(16 * 8, 3));
    let widths = [16, 8, 8];
    let at = |matrix: usize, lane, i| {
        let (row, column) = layouts.place(matrix, lane, i);
        row * widths[matrix] + column
    };
    let spread = |matrix: usize| {
        let count = layouts.0[matrix].1;
        (0..LANES).flat_map(move |lane| (0..count).map(move |i| (lane, i)))
    };
    let of_a: Vec<T> = spread(0).map(|(lane, i)| a[at(0, lane, i)]).collect();
    let of_b: Vec<T> = spread(1).map(|(lane, i)| b[at(1, lane, i)]).collect();
    let of_c: Vec<f32> = spread(2).map(|(lane, i)| c[at(2, lane, i)]).collect();
    let (of_a, of_b, of_c) = (device.array(&of_a), device.array(&of_b), device.array(&of_c));
    one_warp(&device, name, &[of_a.slice().address(), of_b.slice().address(), of_c.slice().address()]);
    for ((lane, i), got) in spread(2).zip(of_c.read()) {
        let (row, column) = layouts.place(2, lane, i);
        let product = |k: usize| f64::from(a[row * 16 + k].to_f32()) * f64::from(b[k * 8 + column].to_f32());
        let want = f64::from(c[row * 8 + column]) + (0..16).map(product).sum::<f64>();
        assert!((f64::from(got) - want).abs() < 1e-5, "{name}: row {row}, column {column}: {got}, not {want}");
    }
}

#[test]
fn products_are_those_of_plain_loops_in_both_types() {
    products_are_those_of_plain_loops::<bf16>("mma_tile_bf16", BF16);
    products_are_those_of_plain_loops::<f16>("mma_tile_f16", F16);
}

/// The emulated device runs the header's plain branch. That the instruction gets the registers in the right order is only
/// seen in the PTX: each of A, B and C was loaded from one word after the other, and C goes back where it came from.
#[test]
fn the_instruction_takes_its_registers_in_order() {
    for of in ["bf16", "f16"] {
        let code = between(PTX, &format!(".entry mma_tile_{of}("), "ret;").expect("the kernel");
        let instruction = format!("mma.sync.aligned.m16n8k16.row.col.f32.{of}.{of}.f32 ");
        let operands = between(code, &instruction, ";").unwrap_or_else(|| panic!("no {instruction}"));
        let matrices: Vec<Vec<&str>> = operands
            .split('{')
            .skip(1)
            .map(|matrix| matrix.split('}').next().expect("a matrix").split(", ").collect())
            .collect();
        assert_eq!(matrices.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2, 4], "{operands}");
        assert_eq!(matrices[0], matrices[3], "{operands}");
        for (word, register) in matrices.iter().flat_map(|matrix| matrix.iter().enumerate()) {
            let load = |line: &&str| line.contains("ld.global") && line.contains(&format!("{register},"));
            let line = code.lines().find(load).unwrap_or_else(|| panic!("{register} is loaded nowhere"));
            assert!(line.contains(&offset(word)), "word {word} of {operands}: {line}");
        }
        are_stored_in_order(code, &matrices[0]);
    }
}

/// How an address in PTX ends that is so many words behind another.
fn offset(word: usize) -> String {
    if word == 0 { "]".to_string() } else { format!("+{}]", 4 * word) }
}

fn are_stored_in_order(code: &str, registers: &[&str]) {
    for (word, register) in registers.iter().enumerate() {
        let line = code.lines().find(|line| line.contains("st.global") && line.ends_with(&format!("{register};")));
        assert!(line.is_some_and(|line| line.contains(&offset(word))), "word {word}: {line:?}");
    }
}

/// What `kernel` gives each lane of a matrix of 16 rows of 16, whose numbers are 0, 1, 2…, if a lane brings that half of
/// that row which `row` says.
fn loaded(kernel: &str, row: impl Fn(usize) -> (usize, usize)) -> Vec<Vec<usize>> {
    let device = device();
    let matrix: Vec<u32> = (0..128).map(|word| (2 * word) | (2 * word + 1) << 16).collect();
    let rows: Vec<u32> = (0..LANES).map(row).map(|(row, half)| (2 * row + half) as u32).collect();
    let (matrix, rows, loaded) = (device.array(&matrix), device.array(&rows), device.unset::<u32>(4 * LANES));
    one_warp(&device, kernel, &[matrix.slice().address(), rows.slice().address(), loaded.slice().address()]);
    let numbers = loaded.read().into_iter().flat_map(|word| [word & 0xffff, word >> 16]);
    numbers.map(|n| n as usize).collect::<Vec<_>>().chunks_exact(8).map(<[usize]>::to_vec).collect()
}

/// The rows that attention's lanes bring: A is queries, a row each; two B are keys, a column each, or values, a row each.
#[test]
fn rows_are_loaded_as_the_product_takes_them() {
    let layouts = Layouts::of(F16);
    let queries = loaded("ldmatrix_rows", |lane| (lane % 16, lane / 16));
    let keys = loaded("ldmatrix_rows", |lane| (lane / 16 * 8 + lane % 8, lane / 8 % 2));
    let values = loaded("ldmatrix_transposed_rows", |lane| (lane % 16, lane / 16));
    for lane in 0..LANES {
        for i in 0..8 {
            let (row, column) = layouts.place(0, lane, i);
            assert_eq!(queries[lane][i], 16 * row + column, "queries: lane {lane}, number {i}");
            let (row, column) = layouts.place(1, lane, i % 4);
            let column = column + i / 4 * 8;
            assert_eq!(keys[lane][i], 16 * column + row, "keys: lane {lane}, number {i}");
            assert_eq!(values[lane][i], 16 * row + column, "values: lane {lane}, number {i}");
        }
    }
}

/// As for the product: the instruction itself is only seen in the PTX.
#[test]
fn the_load_gives_its_registers_in_order() {
    for (kernel, form) in [("ldmatrix_rows", ""), ("ldmatrix_transposed_rows", ".trans")] {
        let code = between(PTX, &format!(".entry {kernel}("), "ret;").expect("the kernel");
        let instruction = format!("ldmatrix.sync.aligned.m8n8.x4{form}.shared.b16 {{");
        let registers = between(code, &instruction, "}").unwrap_or_else(|| panic!("no {instruction}"));
        let registers: Vec<&str> = registers.split(", ").collect();
        assert_eq!(registers.len(), 4, "{registers:?}");
        are_stored_in_order(code, &registers);
    }
}

#[test]
fn layouts_are_read_as_cutlass_writes_them() {
    let header = "using Row = Layout<Shape <Shape < _4,_8>,Shape < _2,_2>>,\n  Stride<Stride<_32,_1>,Stride<_16,_8>>>;\n\
                  struct MMA_Traits<ONE>\n{ using ALayout = Layout<Shape<_2,_1>,Stride<_3,_0>>;\n using CLayout = Row;\n};\n\
                  struct MMA_Traits<TWO>\n : MMA_Traits<ONE>\n{ using ValTypeD = float;\n};";
    let row = layout(header, "TWO", "CLayout");
    assert_eq!(row, Layout { lane: vec![(4, 32), (8, 1)], number: vec![(2, 16), (2, 8)] });
    assert_eq!(layout(header, "ONE", "ALayout"), Layout { lane: vec![(2, 3)], number: vec![(1, 0)] });
    // Lane 6 is 2 and 1, number 3 is 1 and 1: 64 + 1 + 16 + 8.
    assert_eq!(row.place(6, 3, 16), (89 % 16, 89 / 16));
}
