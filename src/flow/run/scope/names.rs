//! What names mean, and what expressions of them give.

use super::super::events::secret_mark;
use super::super::logged::{Failure, Given};
use super::{Hole, LIMITS, Scope};
use serde_json::{Value as Json, json};
use stageline_template::{Budget, Expression, Part, Value};
use std::collections::{BTreeMap, HashMap};

impl Scope<'_> {
    pub(in crate::run) fn evaluated(self, expression: &Expression) -> Result<Json, Hole> {
        let budget = Budget::new(LIMITS);
        Ok(self.eval(expression, &budget)?.to_json(&budget)?)
    }

    /// Whether a condition holds, as Jinja2 takes it.
    pub(in crate::run) fn holds(self, expression: &Expression) -> Result<bool, Hole> {
        let budget = Budget::new(LIMITS);
        Ok(self.eval(expression, &budget)?.is_true())
    }

    pub(super) fn eval(self, expression: &Expression, budget: &Budget) -> Result<Value, Hole> {
        let mut names: BTreeMap<&str, Json> = BTreeMap::new();
        for mention in expression.mentions() {
            let name = &*mention.name;
            match (name, &mention.part) {
                // Of these only what is named.
                ("nodes", Part::Field(id)) => self.insert(&mut names, "nodes", id, |scope| scope.node_value(id))?,
                ("secrets", Part::Field(secret)) => {
                    let nonce = self.state.accepted.as_ref().map_or(0, |run| run.nonce);
                    self.insert(&mut names, "secrets", secret, |_| Ok(Some(secret_mark(nonce, secret).into())))?;
                }
                _ if names.contains_key(name) => {}
                _ => {
                    if let Some(value) = self.named(name)? {
                        names.insert(name, value);
                    }
                }
            }
        }
        let mut values = HashMap::new();
        for (name, value) in names {
            values.insert(name, Value::from_json(&value, budget)?);
        }
        Ok(expression.eval(&|name| values.get(name).cloned(), budget)?)
    }

    fn insert<'n>(
        self,
        names: &mut BTreeMap<&'n str, Json>,
        name: &'n str,
        field: &str,
        value: impl Fn(Self) -> Result<Option<Json>, Hole>,
    ) -> Result<(), Hole> {
        let map = names.entry(name).or_insert_with(|| json!({}));
        if let (Json::Object(map), Some(value)) = (map, value(self)?) {
            map.insert(field.to_owned(), value);
        }
        Ok(())
    }

    fn node_value(self, id: &str) -> Result<Option<Json>, Hole> {
        let Some((frame, node)) = self.find(id) else { return Ok(None) };
        self.value(&self.output_of(frame, node)?).map(Some)
    }

    fn named(self, name: &str) -> Result<Option<Json>, Hole> {
        match name {
            "input" => self.value(&self.input_of(self.frame)?).map(Some),
            "item" => self.value(&self.datum(&Given::Item)?).map(Some),
            "index" => Ok(self.fanned().map(|(_, _, item)| item.into())),
            "key" => match self.fanned() {
                Some((frame, node, item)) => {
                    let items = self.items(frame, node)?;
                    let key = items.keys.as_ref().and_then(|keys| keys.get(item as usize));
                    Ok(Some(key.map_or(item.into(), |key| key.as_str().into())))
                }
                None => Ok(None),
            },
            "run" => Ok(Some(self.run_value())),
            "error" => {
                let failure = self.error.or(self.state.failing.as_ref());
                Ok(Some(failure.map_or(Json::Null, Failure::told)))
            }
            "output" => Ok(self.output.cloned()),
            id => self.node_value(id),
        }
    }

    fn run_value(&self) -> Json {
        let accepted = self.state.accepted.as_ref();
        let state = match (&self.state.failing, self.state.cancelled) {
            (Some(_), _) => "failed",
            (None, Some(_)) => "cancelled",
            (None, None) if self.state.output.is_some() => "succeeded",
            (None, None) => "running",
        };
        json!({
            "id": self.run,
            "flow": accepted.map(|run| &run.flow),
            "call_id": accepted.map(|run| &run.call_id),
            "started": self.state.history.first().map(|moment| moment.at.0),
            "attempt": self.state.tries + 1,
            "state": state,
        })
    }
}
