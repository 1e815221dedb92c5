//! docs/flows.md and the examples against the reader: its tables are made of the keys, and the flows that they show can be read.
//! `STAGELINE_WRITE_DOCS=1 cargo test -p stageline-flow --test flow reference` writes the tables anew.

use stageline_flow::file::{Key, Section, Shape, keys, read};
use std::path::{Path, PathBuf};

const DOCUMENT: &str = "docs/flows.md";

fn path_of(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(name)
}

fn text_of(name: &str) -> String {
    std::fs::read_to_string(path_of(name)).expect(name)
}

/// What a section is called in another's table.
fn called(section: Section) -> String {
    let name = keys().into_iter().find(|(other, ..)| *other == section).map(|(_, name, _)| name);
    match name.expect("every section has a name") {
        "on_error" => "a map with `output`".into(),
        name @ ("wait" | "retry" | "undo") => format!("a map, as [`{name}`](#{name}) says"),
        name => format!("a {name}"),
    }
}

fn must_be(shape: Shape) -> String {
    let quoted = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
    match shape {
        Shape::Any => "anything".into(),
        Shape::Foreign => "OpenFaaS' own".into(),
        Shape::Text => "a text".into(),
        Shape::Condition => "one expression, `true` or `false`".into(),
        Shape::Expression => "one expression".into(),
        Shape::Duration => "a time".into(),
        Shape::Count(least, most) => format!("a whole number from {least} to {most}"),
        Shape::Number(least, most) => format!("a number from {least} to {most}"),
        Shape::Flag => "`true` or `false`".into(),
        Shape::Words(words) => quoted(words),
        Shape::Texts => "a text or a list of texts".into(),
        Shape::Share => "a number up to 10000, or `10%`".into(),
        Shape::Rate => "as in `50/s`, `100/m`, `1000/h`".into(),
        Shape::Failures => "one of these or a list: `connect`, `timeout`, 300 to 599, `3xx`, `4xx`, `5xx`".into(),
        Shape::TextMap => "a map of texts".into(),
        Shape::In(section) => called(section),
        Shape::InOr(section, words) => format!("{}, or {}", called(section), quoted(words)),
        Shape::MapOf(Section::Pipeline) => "a map of names, each with a folder or a map".into(),
        Shape::MapOf(section) => format!("a map of names, each with {}", called(section)),
        Shape::ListOf(section) => format!("a list, each of {}", called(section)),
    }
}

fn table(keys: &[Key]) -> String {
    let has_default = keys.iter().any(|key| !key.default.is_empty());
    let row = |key: &Key| {
        let default = if has_default { format!(" {} |", key.default) } else { String::new() };
        format!("| `{}` | {} |{default} {} |\n", key.name, must_be(key.shape), key.meaning)
    };
    let (title, rule) = if has_default { (" default |", "---|") } else { ("", "") };
    let rows: String = keys.iter().map(row).collect();
    assert!(!rows.contains("| |"), "a cell of a table is empty, or a `|` stands in one: {rows}");
    format!("| key | must be |{title} what |\n|---|---|{rule}---|\n{rows}").replace("|  |", "| |")
}

#[test]
fn the_tables_of_the_reference_are_what_the_reader_knows() {
    let was = text_of(DOCUMENT);
    let mut text = was.clone();
    for (_, name, keys) in keys() {
        let begin = format!("<!-- made: {name} -->\n");
        let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{DOCUMENT} has no table {name}"));
        let (_, after) = rest.split_once("<!-- end -->").expect("a table's end");
        text = format!("{before}{begin}{}<!-- end -->{after}", table(&keys));
    }
    if std::env::var_os("STAGELINE_WRITE_DOCS").is_some() {
        return std::fs::write(path_of(DOCUMENT), text).expect("the reference can be written");
    }
    let differs = was.lines().zip(text.lines()).find(|(is, wanted)| is != wanted);
    let rewrite = "STAGELINE_WRITE_DOCS=1 cargo test -p stageline-flow --test flow reference";
    assert!(was == text, "{DOCUMENT} is not what the keys say (it is, it should be: {differs:?}): {rewrite}");
}

/// The blocks of YAML in a document that are flow files.
fn shown(document: &str) -> Vec<String> {
    let text = text_of(document);
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let files = blocks.filter(|block| block.contains("flows:\n") || block.contains("async_hooks:"));
    files.map(str::to_owned).collect()
}

#[test]
fn the_flows_that_documents_show_can_be_read() {
    for (document, least) in [(DOCUMENT, 3), ("README.md", 1)] {
        let shown = shown(document);
        assert!(shown.len() >= least, "{document} shows {} flow files", shown.len());
        for text in shown {
            let read = read(&text);
            assert!(read.problems.is_empty() && read.warnings.is_empty(), "{document}: {read:#?}\n{text}");
            assert!(read.file.is_some_and(|file| !file.flows.is_empty()), "{document}:\n{text}");
        }
    }
}

#[test]
fn every_example_has_the_flow_of_its_name() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path_of("examples/flows")).expect("there are examples") {
        let path = entry.expect("an example").path();
        if path.extension().is_none_or(|end| end != "yml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("an example");
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let read = read(&text);
        assert!(read.problems.is_empty() && read.warnings.is_empty(), "{name}: {read:#?}");
        assert!(read.file.is_some_and(|file| file.flows.contains_key(&name)), "{name}.yml has no flow of its name");
        assert!(text.starts_with("# yaml-language-server: $schema=./flow.schema.json\n"), "{name}.yml names no schema");
        names.push(name);
    }
    for name in ["async-workflow", "hello"] {
        assert!(names.iter().any(|known| known == name), "{name} is not there");
    }
}

#[test]
fn words_that_the_reference_calls_no_ids_are_none() {
    let text = text_of(DOCUMENT);
    let words = text.split("means something in expressions (").nth(1).and_then(|rest| rest.split(')').next());
    let words: Vec<&str> = words.expect("the list of words").split('`').skip(1).step_by(2).collect();
    assert!(words.len() > 20, "{words:?}");
    for word in words {
        let read = read(&format!("flows: {{f: {{nodes: {{{word}: {{set: 1}}}}}}}}"));
        assert!(read.file.is_none(), "{word} is taken as an id");
    }
}
