//! The table of keys against the reader, and the JSON Schema against both.

use crate::good::read;
use crate::wrong::told;
use serde_json::Value as Json;
use stageline_flow::file::{Section, Shape, keys, schema};

/// A file in which every key stands at least once.
pub const EVERYTHING: &str = include_str!("files/everything.yml");
const SCHEMA: &str = include_str!("../../examples/flows/flow.schema.json");

#[test]
fn every_key_is_read() {
    assert_eq!(read(EVERYTHING).1, [""; 0]);
    for (section, name, keys) in keys() {
        for key in keys {
            let mut written = EVERYTHING
                .lines()
                .enumerate()
                .filter(|(_, line)| line.trim_start_matches([' ', '-']).starts_with(&format!("{}:", key.name)));
            let marked = |line: &str| line.ends_with(&format!("# {name}"));
            let Some((place, line)) = written.find(|(_, line)| marked(line)) else {
                panic!("{name}: `{}` is not in the file", key.name)
            };
            if matches!(key.shape, Shape::Any | Shape::Foreign) && section != Section::Wait {
                continue;
            }
            // What it may never be is told, and so it was read.
            let indent = line.len() - line.trim_start_matches([' ', '-']).len();
            let wrong = format!("{}{}: [[{{}}]]", &line[..indent], key.name);
            let inner = |line: &&str| line.starts_with(&" ".repeat(indent + 1));
            let lines: Vec<&str> = EVERYTHING.lines().collect();
            let after = lines[place + 1..].iter().skip_while(|line| inner(line));
            let text: Vec<&str> = lines[..place].iter().chain(&[&*wrong]).chain(after).copied().collect();
            let told = told(&text.join("\n"));
            let here = format!("{}:", place + 1);
            assert!(
                told.iter().any(|words| words.starts_with(&here)),
                "{name}: `{}` may be anything: {told:#?}",
                key.name
            );
        }
    }
}

#[test]
fn the_schema_is_made_of_the_keys() {
    let made = schema();
    if std::env::var_os("STAGELINE_WRITE_SCHEMA").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/flows/flow.schema.json");
        let text = serde_json::to_string_pretty(&made).expect("it is JSON") + "\n";
        return std::fs::write(path, text).expect("the schema can be written");
    }
    let schema: Json = serde_json::from_str(SCHEMA).expect("it is JSON");
    let old = "examples/flows/flow.schema.json is old: STAGELINE_WRITE_SCHEMA=1 cargo test -p stageline-flow writes it";
    assert!(made == schema, "{old}");
    for (_, name, keys) in keys() {
        let of = if name == "file" { &schema } else { &schema["definitions"][name] };
        let properties = of["properties"].as_object().expect("it has properties");
        assert_eq!(properties.len(), keys.len(), "{name}");
        for key in keys {
            assert!(
                properties[key.name]["description"].as_str().is_some_and(|words| words.starts_with(key.meaning)),
                "{name}: {}",
                key.name
            );
        }
    }
}
