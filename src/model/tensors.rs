//! Which tensors a model needs, by name, shape and place.

/// Which rows meet which numbers of a tensor: what that costs follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A row looks up one row of it: an embedding table.
    LookedUp,
    /// Every row meets all of it.
    EveryRow,
    /// A row that emits meets all of it, and others none: a head.
    EmittingRows,
}

/// A tensor that a model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorNeed {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first: a projection is `[out, in]`.
    pub shape: Vec<usize>,
    /// The unit that it is for, by its number.
    pub unit: usize,
    /// What it is for there.
    pub used: Use,
}

/// How folders may name a model's tensors.
#[derive(Clone, Copy, Debug)]
pub struct TensorNames {
    /// A tensor that every model of the family has, without `body`: a folder's prefix of it is the prefix of all.
    pub anchor: &'static str,
    /// What stands in front of most of the model's own names, and a folder's may lack; empty if nothing does.
    pub body: &'static str,
    /// The matrix of the head, if there is one: `body` does not stand in front of its name.
    pub head: Option<&'static str>,
    /// How the names of what a checkpoint may hold for other tasks begin.
    pub other_heads: &'static [&'static str],
}

/// Collects needs of one unit after the other.
pub(crate) struct Needs {
    pub list: Vec<TensorNeed>,
    pub unit: usize,
    pub used: Use,
}

impl Needs {
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.list.push(TensorNeed { name: name.into(), shape: shape.into(), unit: self.unit, used: self.used });
    }

    pub fn add_table(&mut self, name: &str, shape: &[usize]) {
        self.list.push(TensorNeed { name: name.into(), shape: shape.into(), unit: self.unit, used: Use::LookedUp });
    }

    /// A projection's weight `[out, in]`, and its bias if it has one.
    pub fn add_linear(&mut self, name: &str, shape: [usize; 2], bias: bool) {
        self.add(format!("{name}.weight"), &shape);
        if bias {
            self.add(format!("{name}.bias"), &shape[..1]);
        }
    }

    pub fn add_linears(&mut self, linear: &LinearNeed) {
        for (name, columns) in &linear.parts {
            self.add_linear(name, [*columns, linear.depth], linear.bias);
        }
    }

    pub fn add_layer_norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), &[width]);
        self.add(format!("{name}.bias"), &[width]);
    }
}

/// Linear maps of the same input, which are calculated as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearNeed {
    /// Their names, without `.weight` and `.bias`, and how many columns each has.
    pub parts: Vec<(String, usize)>,
    /// Numbers of a row of input.
    pub depth: usize,
    /// Whether each has a bias.
    pub bias: bool,
}
