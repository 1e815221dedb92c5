//! Files that are wrong: one mistake gives one message, at its place.

use stageline_flow::file;

/// All that is told of `text`.
pub fn told(text: &str) -> Vec<String> {
    let read = file::read(text);
    assert_eq!(read.file.is_some(), read.problems.is_empty(), "{text}");
    read.problems.iter().map(ToString::to_string).collect()
}

/// Each text is told this, and nothing else.
pub fn are_told(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .map(|(text, expected)| (text, *expected, told(text)))
        .filter(|(_, expected, told)| told[..] != [expected.to_string()])
        .map(|(text, expected, told)| {
            format!("{text}\n  expected: {expected}\n  told:     {}", told.join("\n            "))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn texts_that_are_no_file() {
    are_told(&[
        ("", "1:1: the file says nothing: it needs `flows` or `async_hooks`"),
        ("# nothing\n", "1:1: the file says nothing: it needs `flows` or `async_hooks`"),
        ("flows", "1:1: a flow file is a map: this is a text"),
        ("- a\n- b", "1:1: a flow file is a map: this is a list"),
        ("a: b: c", "1:5: this is no YAML: mapping values are not allowed in this context"),
        ("a: [1, 2", "2:1: this is no YAML: while parsing a flow sequence, expected ',' or ']'"),
        (
            "flows:\n\tf: {}",
            "2:2: this is no YAML: tabs disallowed within this context (block indentation): lines begin with blanks, never with tabs",
        ),
        (
            "flows: {f: {nodes: {a: {set: {{ input }}}}}}",
            "1:30: a key must be a text; an expression needs quotes around it, as in \"{{ input.text }}\"",
        ),
        (
            "flows:\n  f:\n    nodes:\n      a:\n        set: {{ input }} and more",
            "5:14: a key must be a text; an expression needs quotes around it, as in \"{{ input.text }}\"",
        ),
        ("flows: {f: {nodes: {a: {set: 1}}}}\n---\na: 1", "2:1: a second document begins here: a file has one"),
        ("a: 1\na: 2\n", "2:1: the key `a` is there twice: first in line 1, column 1"),
        ("a: &x [1, *x]", "1:11: this alias stands inside of what it repeats"),
        ("a: *x", "1:4: this is no YAML: while parsing node, found unknown anchor"),
        ("flows: {f: {nodes: {a: {set: !mine 1}}}}", "1:30: the tag `!mine` means nothing here: leave it out"),
        ("flows: {f: {nodes: {a: {set: .nan}}}}", "1:30: `.nan` is no number that JSON can hold; a text needs quotes"),
        ("flows: {f: {nodes: {a: {set: !!int x}}}}", "1:30: `x` is no `!!int`"),
        ("flows: {f: {nodes: {a: {<<: 1, set: 1}}}}", "1:29: `<<` takes over a map's entries: this is a number"),
        ("flow: {f: {nodes: {a: {set: 1}}}}", "1:1: a flow file has no key `flow`, did you mean `flows`?"),
        (
            "nodes: {a: {set: 1}}",
            "1:1: a flow file has no key `nodes`: they belong to a flow, as in flows: {my-flow: {nodes: …}}",
        ),
        ("async_hook: []", "1:1: a flow file has no key `async_hook`, did you mean `async_hooks`?"),
    ]);
}

#[test]
fn flows_that_are_none() {
    are_told(&[
        ("flows: {f: {node: {a: }, output: '{{ a }}'}}", "1:13: the flow `f` has no key `node`, did you mean `nodes`?"),
        (
            "flows: {f: {nodes: [a], output: '{{ a }}', finally: {b: {after: a}}}}",
            "1:20: `nodes` is a map of ids and nodes: this is a list",
        ),
        ("flows: [a]", "1:8: `flows` is a map: this is a list"),
        (
            "flows: {F: {nodes: {a: {set: 1}}}}",
            "1:9: `F` is no name of a flow: small letters, digits and - within are expected, 63 at most",
        ),
        ("flows: {f: }", "1:9: the flow `f` does nothing: it needs `nodes` or `steps`"),
        ("flows: {f: worker}", "1:12: the flow `f` is a map: this is a text"),
        ("flows: {f: {nodes: {}}}", "1:20: `nodes` is empty: a flow has at least one node"),
        ("flows: {f: {nodes: [a]}}", "1:20: `nodes` is a map of ids and nodes: this is a list"),
        ("flows: {f: {steps: {apply: a}}}", "1:20: `steps` is a list, as in [apply: worker-1]: this is a map"),
        (
            "flows: {f: {steps: [apply: a], nodes: {a: }}}",
            "1:13: the flow `f` has `nodes` already: `steps` are another way to say them",
        ),
        ("flows: {f: {steps: [a]}}", "1:21: a step is a map, as in {apply: a}"),
        ("flows: {f: {steps: [{input: 1}]}}", "1:21: a step says what it calls: `apply`, `apply_async` or `then`"),
        ("flows: {f: {steps: [{apply: a, then: b}]}}", "1:32: a step makes one call: it has `apply` already"),
        (
            "flows: {f: {steps: [{apply: A}]}}",
            "1:22: `A` is no name of a function: small letters, digits and - within are expected, 63 at most",
        ),
        ("flows: {f: {steps: [{apply: a, id: x}, {then: b, id: x}]}}", "1:54: the id `x` is there twice"),
        (
            "flows: {f: {steps: [{apply: input}]}}",
            "1:22: `input` is no id: the word has a meaning in expressions; `id` gives the step another",
        ),
        (
            "flows: {f: {steps: [{apply: a, after: b}]}}",
            "1:32: a step has no key `after`: it knows apply, apply_async, then, id, input, when, foreach, parallel, tolerate, timeout, retry, on_error, undo, mode, method, headers, query",
        ),
        ("flows: {f: {node: {a: }}}", "1:13: the flow `f` has no key `node`, did you mean `nodes`?"),
        (
            "flows: {f: {timeout: 1y, nodes: {a: }}}",
            "1:22: `timeout`: a time of at most 366 days is expected: whole seconds, or as in 500ms, 30s, 1m30s or 2d",
        ),
        ("flows: {f: {timeout: 0, nodes: {a: }}}", "1:22: `timeout`: a time longer than nothing is expected"),
        ("flows: {f: {max_live: 0, nodes: {a: }}}", "1:23: `max_live`: a whole number from 1 to 1000000 is expected"),
        ("flows: {f: {priority: high, nodes: {a: }}}", "1:23: `priority`: a whole number from 0 to 1 is expected"),
        (
            "flows: {f: {callback_url: me, nodes: {a: }}}",
            "1:27: `me` is no URL: one with http:// or https:// is expected",
        ),
        ("flows: {f: {output: '{{ b }}', nodes: {a: }}}", "1:25: there is no node `b`"),
        ("flows: {f: {output: '{{ item }}', nodes: {a: }}}", "1:25: `item` is there only inside of `foreach`"),
        (
            "flows: {f: {output: '{{ secrets.A }}', nodes: {a: }}}",
            "1:25: `secrets` are there only in `headers`, `query` and `input` of calls",
        ),
        ("flows: {f: {nodes: {a: }, finally: {a: }}}", "1:37: the id `a` is that of a node around it: choose another"),
        (
            "flows: {f: {nodes: {a: }, finally: {b: {after: a, pipeline: p, stream: true}}}}",
            "1:64: `stream` cannot be in `on_failure` or `finally`: the run is over by then",
        ),
        ("flows: {f: {nodes: {a: {flow: g}}}}", "1:31: the file has no flow `g`"),
        ("flows: {f: {nodes: {a: {flow: f}}}}", "1:31: flows are in each other: f → f"),
        ("flows: {f: {nodes: {a: {flow: g}}}, g: {nodes: {a: {flow: f}}}}", "1:31: flows are in each other: f → g → f"),
        ("targets: {a: {}}", "1:11: the target `a` says nothing: it needs `concurrency`, `rate` or both"),
        ("targets: {a: {rate: 50}}", "1:21: `rate`: calls in a time are expected, as in 50/s, 100/m or 1000/h"),
        ("targets: {'ftp://x': {rate: 50/s}}", "1:11: `ftp://x` is no URL: one with http:// or https:// is expected"),
        ("pipelines: {a: {stages: 2}}", "1:13: the pipeline `a` has no `model`: the folder that it is in"),
        ("pipelines: {a: [b]}", "1:16: the pipeline `a` is a map: this is a list"),
        ("provider: {gateway: localhost}", "1:21: `localhost` is no URL: one with http:// or https:// is expected"),
    ]);
}

#[test]
fn hooks_that_are_none() {
    let functions = "functions: {a: {}, b: {}, c: {}}\n";
    let cases = [
        (
            "async_hooks: {a: b}",
            "2:14: `async_hooks` is a list of hooks, each with `source` and `destination`: this is a map",
        ),
        ("async_hooks: [{source: a}]", "2:15: a hook has `source` and `destination`: `destination` is missing"),
        ("async_hooks: [{source: a, destination: bb}]", "2:40: `destination`: the file has no function `bb`"),
        ("async_hooks: [{source: a, target: b}]", "2:27: a hook has no key `target`: it knows source, destination"),
        ("async_hooks: [{source: a, destination: a}]", "2:15: hooks go in a circle: a → a"),
        (
            "async_hooks: [{source: a, destination: b}, {source: b, destination: c}, {source: c, destination: b}]",
            "2:73: hooks go in a circle: b → c → b",
        ),
        (
            "async_hooks: [{source: a, destination: b}]\nflows: {a: {nodes: {x: }}}",
            "2:24: hooks begin a flow `a` here, but `flows` has one of that name",
        ),
        ("async_hooks: [{source: [a], destination: b}]", "2:24: `source`: one value is expected, this is a list"),
    ];
    let texts: Vec<String> = cases.iter().map(|(text, _)| format!("{functions}{text}")).collect();
    are_told(&texts.iter().zip(&cases).map(|(text, (_, told))| (&**text, *told)).collect::<Vec<_>>());
    let without = "functions: {b: {}}\nasync_hooks: [{source: a, destination: b}]";
    are_told(&[(without, "2:24: `source`: the file has no function `a`")]);
}

#[test]
fn all_mistakes_are_told_at_once_in_their_order() {
    let text = "flows:\n  f:\n    timeout: soon\n    nodes:\n      a: {retry: 3, after: zz}\n      b: {set: \"{{ a + }}\", parallel: 1}\n      \
                input: {}\n  G:\n    nodes: {x: {url: y}}\nasync_hooks: [{source: q, destination: r}]\n";
    let places: Vec<String> =
        told(text).iter().map(|words| words.splitn(3, ':').take(2).collect::<Vec<_>>().join(":")).collect();
    assert_eq!(
        places,
        ["3:14", "5:18", "5:28", "6:24", "6:29", "7:7", "8:3", "9:22", "10:24", "10:40"],
        "{:#?}",
        told(text)
    );
}
