//! What crosses from one part of a model to the next: which tensors, of which types, and how large they may be.

use crate::TensorName;
use crate::tensor::{Element, HostTensor, MAX_RANK, NamedTensor, Shape, Tensors};
use bytes::Bytes;
use std::fmt;

/// Most tensors of a border.
pub const MAX_TENSORS: usize = 64;
/// Longest name of a tensor, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Whether `name` may name a tensor: `[A-Za-z0-9_.-]`, at most [`MAX_NAME_BYTES`].
pub fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(legal)
}

/// One extent of a tensor that crosses a border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// The rows of the request.
    Rows,
    /// Always so many.
    Is(u32),
    /// Any number up to this, as each request has it.
    UpTo(u32),
}

/// A tensor that crosses a border.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name, once in a border: see [`is_name`].
    pub name: TensorName,
    /// Type of its elements.
    pub element: Element,
    /// Its extents, outermost first; at most [`MAX_RANK`].
    pub dims: Vec<Dim>,
}

/// What crosses a border for each request: these tensors, in this order.
///
/// Where each of them begins with the request's rows and has no other extent that varies, it is cut by rows: any of its rows may
/// travel and run alone, and those of several requests lie one after the other in one tensor. All else of a request stays together.
///
/// Its text, as manifests hold it, is one line a tensor: `hidden f32 [rows, 576]`, `boxes i32 [..100, 4]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Border(Vec<TensorSpec>);

impl Border {
    /// Of these tensors; `None` without any, or where a name or a rank is not what [`TensorSpec`] says.
    pub fn new(tensors: Vec<TensorSpec>) -> Option<Self> {
        let is_right = |(at, spec): (usize, &TensorSpec)| {
            is_name(&spec.name)
                && spec.dims.len() <= MAX_RANK
                && tensors[..at].iter().all(|other| other.name != spec.name)
        };
        let right = (1..=MAX_TENSORS).contains(&tensors.len()) && tensors.iter().enumerate().all(is_right);
        right.then_some(Self(tensors))
    }

    /// Token ids, one a row: what a text brings.
    pub fn tokens() -> Self {
        Self::one(TensorName::TOKENS, Element::U32, vec![Dim::Rows, Dim::Is(1)])
    }

    /// Activations of this width, one line of numbers a row.
    pub fn hidden(width: usize) -> Self {
        Self::one(TensorName::HIDDEN, Element::F32, vec![Dim::Rows, Dim::Is(width as u32)])
    }

    /// One vector of this width.
    pub fn vector(width: usize) -> Self {
        Self::one(TensorName::VECTOR, Element::F32, vec![Dim::Is(width as u32)])
    }

    fn one(name: TensorName, element: Element, dims: Vec<Dim>) -> Self {
        Self(vec![TensorSpec { name, element, dims }])
    }

    /// Its tensors.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.0
    }

    /// Whether its tensors are token ids.
    pub fn is_tokens(&self) -> bool {
        let is = |spec: &TensorSpec| {
            spec.name == TensorName::TOKENS && spec.element == Element::U32 && spec.dims == [Dim::Rows, Dim::Is(1)]
        };
        self.0.len() == 1 && self.0.iter().all(is)
    }

    /// Whether it is cut by rows.
    pub fn is_by_rows(&self) -> bool {
        self.0.iter().all(TensorSpec::is_by_rows)
    }

    /// Most bytes that cross for `rows` rows of one request; exactly so many where it is cut by rows.
    pub fn most_bytes(&self, rows: u64) -> u64 {
        self.0.iter().map(|spec| spec.most_bytes(rows)).fold(0, u64::saturating_add)
    }

    /// The same with activations as bf16 where they are f32.
    pub fn narrowed(mut self) -> Self {
        for spec in self.0.iter_mut().filter(|spec| spec.element == Element::F32) {
            spec.element = Element::Bf16;
        }
        self
    }

    /// Whether `tensors` are what crosses for `rows` rows.
    pub fn admits(&self, rows: u64, tensors: &Tensors) -> bool {
        let fits =
            |(spec, named): (&TensorSpec, &NamedTensor)| spec.name == named.name && spec.admits(rows, &named.tensor);
        self.0.len() == tensors.len() && self.0.iter().zip(tensors.iter()).all(fits)
    }

    /// `tensors` in this border's order, those without a name by their places; `None` if a name is not of this border or comes twice.
    pub fn arranged(&self, tensors: Tensors) -> Option<Tensors> {
        let mut left: Vec<Option<NamedTensor>> = tensors.into_iter().map(Some).collect();
        let arranged = self.0.iter().enumerate().map(|(at, spec)| {
            let named = left.iter().position(|left| left.as_ref().is_some_and(|named| named.name == spec.name));
            let nameless = || left.get(at)?.as_ref().filter(|named| named.name.is_empty()).map(|_| at);
            let at = named.or_else(nameless)?;
            Some((spec.name.clone(), left[at].take()?.tensor))
        });
        let arranged = arranged.collect::<Option<Tensors>>()?;
        left.iter().all(Option::is_none).then_some(arranged)
    }

    /// The rows of a request that brings `tensors` (1 where no extent is rows); `None` if they are not what crosses here.
    pub fn rows_of(&self, tensors: &Tensors) -> Option<u64> {
        let row_extents = self.0.iter().zip(tensors.iter()).flat_map(|(spec, named)| {
            let shape = named.tensor.shape();
            spec.dims.iter().position(|dim| *dim == Dim::Rows).and_then(|at| shape.get(at).copied())
        });
        let rows = row_extents.map(|extent| extent as u64).next().unwrap_or(1);
        self.admits(rows, tensors).then_some(rows)
    }

    /// `tensors` as a request brings them, [`Border::arranged`], and its rows; `None` if they are not what crosses here.
    pub fn brought(&self, tensors: Tensors) -> Option<(u64, Tensors)> {
        let arranged = self.arranged(tensors)?;
        Some((self.rows_of(&arranged)?, arranged))
    }

    /// Tensors of zeros for `rows` rows, as large as they may be; `None` beyond what can be addressed.
    pub fn zeros(&self, rows: usize) -> Option<Tensors> {
        let zeros = |spec: &TensorSpec| {
            let extents: Vec<usize> = spec.dims.iter().map(|dim| dim.most(rows as u64) as usize).collect();
            let shape = Shape::new(&extents)?;
            Some((spec.name.clone(), HostTensor::zeros(spec.element, shape)?))
        };
        self.0.iter().map(zeros).collect()
    }

    /// Reads what Display writes.
    pub fn parse(lines: &[impl AsRef<str>]) -> Option<Self> {
        Self::new(lines.iter().map(|line| TensorSpec::parse(line.as_ref())).collect::<Option<_>>()?)
    }

    /// Its text, a line a tensor.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(TensorSpec::to_string).collect()
    }
}

impl Tensors {
    /// Token ids, as they cross [`Border::tokens`].
    pub fn tokens(ids: &[u32]) -> Self {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let tensor = HostTensor::new(Element::U32, [ids.len(), 1], bytes.into());
        tensor.map(|tensor| Self::one(TensorName::TOKENS, tensor)).unwrap_or_default()
    }

    /// Activations of `rows` rows, as they cross [`Border::hidden`]; `None` if `bytes` are not of whole rows.
    pub fn hidden(rows: usize, bytes: Bytes) -> Option<Self> {
        let width = bytes.len() / 4 / rows.max(1);
        HostTensor::new(Element::F32, [rows, width], bytes).map(|tensor| Self::one(TensorName::HIDDEN, tensor))
    }

    /// A vector, as it crosses [`Border::vector`].
    pub fn vector(numbers: &[f32]) -> Self {
        HostTensor::of_f32([numbers.len()], numbers)
            .map(|tensor| Self::one(TensorName::VECTOR, tensor))
            .unwrap_or_default()
    }
}

impl Dim {
    fn most(self, rows: u64) -> u64 {
        match self {
            Self::Rows => rows,
            Self::Is(extent) | Self::UpTo(extent) => extent.into(),
        }
    }

    fn admits(self, rows: u64, extent: usize) -> bool {
        match self {
            Self::UpTo(most) => extent <= most as usize,
            Self::Rows | Self::Is(_) => extent as u64 == self.most(rows),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        // A number in its one spelling: manifests that say the same have the same digest.
        let number = |digits: &str| digits.parse().ok().filter(|number: &u32| number.to_string() == digits);
        match text.strip_prefix("..") {
            _ if text == "rows" => Some(Self::Rows),
            Some(most) => number(most).map(Self::UpTo),
            None => number(text).map(Self::Is),
        }
    }
}

impl TensorSpec {
    /// One row of what is cut by rows: its shape, and its bytes. `None` where it is not.
    pub fn row(&self) -> Option<(Shape, usize)> {
        let extents: Vec<usize> = self.dims.iter().map(|dim| dim.most(1) as usize).collect();
        let row = Shape::new(&extents).filter(|_| self.is_by_rows())?;
        Some((row, row.elements()?.checked_mul(self.element.bytes())?))
    }

    fn is_by_rows(&self) -> bool {
        let mut dims = self.dims.iter();
        dims.next() == Some(&Dim::Rows) && dims.all(|dim| matches!(dim, Dim::Is(_)))
    }

    fn most_bytes(&self, rows: u64) -> u64 {
        self.dims.iter().fold(self.element.bytes() as u64, |bytes, dim| bytes.saturating_mul(dim.most(rows)))
    }

    fn admits(&self, rows: u64, tensor: &HostTensor) -> bool {
        let shape = tensor.shape();
        let fits = |(dim, extent): (&Dim, &usize)| dim.admits(rows, *extent);
        tensor.element() == self.element
            && shape.len() == self.dims.len()
            && self.dims.iter().zip(shape.iter()).all(fits)
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once(' ')?;
        let (element, dims) = rest.split_once(' ')?;
        let dims = dims.strip_prefix('[')?.strip_suffix(']')?;
        let dims = match dims {
            "" => Vec::new(),
            dims => dims.split(", ").map(Dim::parse).collect::<Option<_>>()?,
        };
        Some(Self { name: name.into(), element: Element::parse(element)?, dims })
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows => f.write_str("rows"),
            Self::Is(extent) => write!(f, "{extent}"),
            Self::UpTo(most) => write!(f, "..{most}"),
        }
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(Dim::to_string).collect();
        write!(f, "{} {} [{}]", self.name, self.element, dims.join(", "))
    }
}

impl fmt::Display for Border {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn border(lines: &[&str]) -> Border {
        Border::parse(lines).unwrap()
    }

    #[test]
    fn its_text_reads_back_and_has_one_spelling() {
        for lines in [&["tokens u32 [rows, 1]"][..], &["a u8 [3, ..64, ..64]", "b.c_d-1 bool []"]] {
            assert_eq!(border(lines).lines(), lines);
        }
        assert_eq!(border(&["hidden f32 [rows, 576]"]), Border::hidden(576));
        for line in
            ["a f32", "a f64 [1]", "a f32 [01]", "a f32 [1,2]", "a f32 [-1]", "a f32 [..]", "a/b u8 [1]", " f32 [1]"]
        {
            assert_eq!(Border::parse(&[line]), None, "{line}");
        }
        assert_eq!(Border::parse(&["a f32 [1]", "a u8 [2]"]), None);
        assert_eq!(Border::parse(&["a f32 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]), None);
        assert_eq!(Border::parse(&[""; 0]), None);
    }

    #[test]
    fn it_admits_what_it_says_and_nothing_else() {
        let boxes = border(&["boxes i32 [..5, 4]", "score f32 []"]);
        let set = |boxes: HostTensor| -> Tensors {
            [("boxes".into(), boxes), ("score".into(), HostTensor::of_f32([], &[0.5]).unwrap())].into_iter().collect()
        };
        let zeros = |element, shape: [usize; 2]| HostTensor::zeros(element, shape).unwrap();
        assert_eq!(boxes.rows_of(&set(zeros(Element::I32, [5, 4]))), Some(1));
        assert_eq!(boxes.rows_of(&set(zeros(Element::I32, [0, 4]))), Some(1));
        for wrong in [zeros(Element::I32, [6, 4]), zeros(Element::U32, [5, 4]), zeros(Element::I32, [5, 3])] {
            assert_eq!(boxes.rows_of(&set(wrong)), None);
        }
        assert_eq!(boxes.rows_of(&Tensors::one("boxes", zeros(Element::I32, [5, 4]))), None);
        assert!(!boxes.is_by_rows());
        assert_eq!(boxes.most_bytes(7), 84);

        let mixed =
            [("score", [1, 1]), ("boxes", [2, 4])].map(|(name, shape)| (name.into(), zeros(Element::I32, shape)));
        let arranged = boxes.arranged(mixed.into_iter().collect()).unwrap();
        assert_eq!(arranged.iter().map(|named| &*named.name).collect::<Vec<_>>(), ["boxes", "score"]);
        let nameless = [("", [1, 1]), ("score", [2, 4])].map(|(name, shape)| (name.into(), zeros(Element::I32, shape)));
        assert!(boxes.arranged(nameless.into_iter().collect()).is_some());
        for wrong in [["score", "score"], ["boxes", "other"], ["", "boxes"]] {
            let wrong = wrong.map(|name| (name.into(), zeros(Element::I32, [1, 4])));
            assert_eq!(boxes.arranged(wrong.into_iter().collect()), None);
        }

        let hidden = Border::hidden(3);
        assert!(hidden.is_by_rows() && hidden.most_bytes(7) == 84);
        assert_eq!(hidden.rows_of(&Tensors::one("hidden", zeros(Element::F32, [7, 3]))), Some(7));
        assert!(!hidden.admits(6, &Tensors::one("hidden", zeros(Element::F32, [7, 3]))));
        assert_eq!(hidden.narrowed().lines(), ["hidden bf16 [rows, 3]"]);
        assert!(!border(&["a f32 [rows, rows]"]).is_by_rows());
    }
}
