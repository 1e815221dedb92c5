//! Values with expressions in them, and whether what the expressions name is there.

use super::reading::{Reading, Sight};
use super::report::{cut, quoted};
use super::tree::{Tree, What};
use crate::definition::{Piece, Place, Template};
use serde_json::Value as Json;
use stageline_template::{self as template, Expression, Mention, Part};

/// What `run` has.
const RUN: [&str; 4] = ["id", "flow", "started", "attempt"];
/// What expressions may name beside nodes.
const NAMES: [&str; 9] = ["input", "item", "index", "key", "run", "error", "secrets", "output", "nodes"];

/// What is said of operators of other languages, and what they are here.
const OTHERS: [(&str, &str); 4] = [
    ("unexpected '&'", "and"),
    ("a name is expected, not `|`", "or"),
    ("unexpected '!'", "not"),
    ("unexpected '?'", "… if … else …"),
];

impl Reading<'_> {
    /// `tree` with the expressions in its texts, which see what `sight` says.
    pub(super) fn template_in(&mut self, sight: Sight, tree: &Tree) -> Template {
        let before = std::mem::replace(&mut self.sight, sight);
        let template = self.template(tree);
        self.sight = before;
        template
    }

    /// `tree` with the expressions in its texts.
    pub(super) fn template(&mut self, tree: &Tree) -> Template {
        match &tree.what {
            What::Scalar { text, value, .. } if value.is_string() && has_braces(text) => self.spoken(tree, text),
            What::Scalar { value, .. } => Template::Plain(value.clone()),
            What::List(items) => {
                let items: Vec<Template> = items.iter().map(|item| self.template(item)).collect();
                let plain = items.iter().map(plain).collect::<Option<Vec<Json>>>();
                plain.map_or_else(|| Template::List(items), |items| Template::Plain(Json::Array(items)))
            }
            What::Map(entries) => {
                let mut map = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    if has_braces(&key.text) {
                        self.problem(key.place, "a key has no expressions: only values have");
                    }
                    map.push((key.text.clone(), self.template(value)));
                }
                let plain = map.iter().map(|(key, value)| Some((key.clone(), plain(value)?))).collect();
                match plain {
                    Some(map) => Template::Plain(Json::Object(map)),
                    None => Template::Map(map),
                }
            }
        }
    }

    /// A text with expressions.
    fn spoken(&mut self, tree: &Tree, text: &str) -> Template {
        let mut pieces = match template::pieces(text) {
            Ok(pieces) => pieces,
            Err(error) => {
                let place = self.inside(tree, &[error.byte.unwrap_or(0)]).pop().unwrap_or(tree.place);
                let meant = OTHERS
                    .iter()
                    .find(|(words, _)| error.what == *words)
                    .map(|(_, word)| format!(", did you mean `{word}`?"));
                self.problem(place, error.what + &meant.unwrap_or_default());
                return Template::Plain(Json::Null);
            }
        };
        let mentions = |piece: &template::Piece| match piece {
            template::Piece::Value(expression) => expression.mentions().to_vec(),
            template::Piece::Plain(_) => Vec::new(),
        };
        let mentions: Vec<Mention> = pieces.iter().flat_map(mentions).collect();
        let places = self.inside(tree, &mentions.iter().map(|mention| mention.byte).collect::<Vec<_>>());
        for (mention, place) in mentions.iter().zip(places) {
            self.mention(mention, place);
        }
        if text.contains("${{") {
            self.report.warning(tree.place, "the $ before {{ stays in the text: expressions begin with {{ alone");
        }
        // A block of YAML ends with a line break that nobody means.
        if let [template::Piece::Value(_), template::Piece::Plain(rest)] = pieces.as_slice()
            && rest.chars().all(|c| c == '\n')
        {
            pieces.pop();
        }
        match pieces.as_slice() {
            [template::Piece::Value(expression)] => Template::Value(expression.clone()),
            _ => Template::Text(pieces.into_iter().map(piece).collect()),
        }
    }

    /// The one expression that the value of `name` is.
    pub(super) fn expression(&mut self, tree: &Tree, name: &str) -> Option<Expression> {
        let problems = self.report.count();
        let template = self.template(tree);
        let words = match (template, &tree.what) {
            (Template::Value(expression), _) => return Some(expression),
            (Template::Plain(_), _) if self.report.count() > problems => return None,
            (Template::Plain(Json::Bool(value)), _) if name == "when" => {
                return Expression::new(if value { "true" } else { "false" }).ok();
            }
            (Template::Plain(Json::String(text)), _) if !text.is_empty() => {
                format!("`{name}`: an expression stands in quotes and braces: \"{{{{ {} }}}}\"", cut(&text))
            }
            (Template::Text(_), _) => format!("`{name}`: one expression is expected and nothing beside it"),
            (_, _) => format!(
                "`{name}`: one expression is expected, as in \"{{{{ input.items }}}}\": this is {}",
                tree.kind()
            ),
        };
        self.problem(tree.place, words);
        None
    }

    /// Where the bytes `at` of a scalar stand.
    fn inside(&self, tree: &Tree, at: &[usize]) -> Vec<Place> {
        match &tree.what {
            What::Scalar { text, style, .. } => self.source.inside(tree.place, *style, text, at),
            _ => vec![tree.place; at.len()],
        }
    }

    /// Checks that what an expression names is there, and notes that the node waits for it.
    fn mention(&mut self, mention: &Mention, place: Place) {
        let (name, sight) = (&*mention.name, self.sight);
        let words = match (name, &mention.part) {
            ("input", _) => return,
            ("item" | "index" | "key", _) if sight.item => return,
            ("error", _) if sight.failed || sight.ended => return,
            ("output", _) if sight.output => return,
            ("secrets", Part::Field(_)) if sight.secrets => return,
            ("run", Part::Field(field)) if RUN.contains(&&**field) || (sight.ended && &**field == "state") => return,
            ("run", Part::Whole) => return,
            ("nodes", Part::Field(id)) => return self.mentions(id, place, true),
            ("item" | "index" | "key", _) => format!("`{name}` is there only inside of `foreach`"),
            ("error", _) => "`error` is there only in `on_failure` and `finally`".into(),
            ("output", _) => "`output` is there only in `undo`: a node's output has the node's id".into(),
            ("secrets", Part::Field(_)) => "`secrets` are there only in `headers`, `query` and `input` of calls".into(),
            ("secrets", _) => "one secret is named at a time, as in secrets.TOKEN".into(),
            ("run", Part::Field(field)) if &**field == "state" => {
                "`run.state` is there only in `on_failure` and `finally`".into()
            }
            ("run", _) => format!("`run` has {}; in `on_failure` and `finally` also state", RUN.join(", ")),
            ("nodes", _) => {
                "`nodes` is followed by a node's id in quotes, as in nodes['worker-1']: what is computed names nobody"
                    .into()
            }
            (id, _) => return self.mentions(id, place, true),
        };
        self.problem(place, words);
    }

    /// What may be meant by `id`, which is no node here.
    pub(super) fn no_node(&mut self, id: &str, place: Place) {
        // A graph without nodes has its problem already.
        if self.levels.iter().any(|level| level.ids.is_empty()) {
            return;
        }
        if self.report.is_full() {
            return self.problem(place, format!("there is no node {}", quoted(id)));
        }
        let ids = || self.levels.iter().flat_map(|level| level.ids.keys().map(String::as_str));
        let dashed = ids().find(|known| known.strip_prefix(id).is_some_and(|rest| rest.starts_with('-')));
        let meant = match (id, dashed) {
            ("null" | "nil" | "None" | "undefined", _) => ", did you mean `none`?".into(),
            (_, Some(dashed)) => format!(": one with a - in its id is named nodes['{dashed}']"),
            _ => self.report.meant(id, ids().chain(NAMES)),
        };
        self.problem(place, format!("there is no node {}{meant}", quoted(id)));
    }
}

fn has_braces(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

fn plain(template: &Template) -> Option<Json> {
    match template {
        Template::Plain(value) => Some(value.clone()),
        _ => None,
    }
}

fn piece(piece: template::Piece) -> Piece {
    match piece {
        template::Piece::Plain(text) => Piece::Plain(text),
        template::Piece::Value(expression) => Piece::Value(expression),
    }
}
