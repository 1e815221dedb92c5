//! Nodes, edges and expressions that are wrong: one mistake gives one message, at its place.

use crate::wrong::are_told;

/// The same for the nodes of a flow, whose place begins at line 1, column 1.
fn nodes_are_told(cases: &[(&str, &str)]) {
    let whole = |nodes: &str| nodes.lines().map(|line| format!("   {line}\n")).collect::<String>();
    let whole: Vec<String> =
        cases.iter().map(|(nodes, _)| format!("flows:\n f:\n  nodes:\n{}", whole(nodes))).collect();
    let moved = |expected: &str| {
        let mut parts = expected.splitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok()).expect("a place");
        let (line, column) = (number() + 3, number() + 3);
        format!("{line}:{column}:{}", parts.next().expect("words"))
    };
    let expected: Vec<String> = cases.iter().map(|(_, expected)| moved(expected)).collect();
    are_told(&whole.iter().zip(&expected).map(|(text, expected)| (&**text, &**expected)).collect::<Vec<_>>());
}

#[test]
fn nodes_that_are_none() {
    nodes_are_told(&[
        ("input: {set: 1}", "1:1: `input` is no id: the word has a meaning in expressions"),
        ("a b: {set: 1}", "1:1: `a b` is no id: letters, digits, - and _ are expected, 63 at most"),
        (
            "My_node: {timeout: 1s}",
            "1:1: the node `My_node` does not say what it does, and its id is no function's name: it needs `function`, `set` or such",
        ),
        ("a: other", "1:4: the node `a` is a map: this is a text"),
        ("a: {functoin: x}", "1:5: the node `a` has no key `functoin`, did you mean `function`?"),
        ("a: {depends_on: [b], set: 1}\nb: ", "1:5: the node `a` has no key `depends_on`, did you mean `after`?"),
        (
            "a: {for_each: \"{{ input }}\", parallel: 2, input: \"{{ item }}\"}",
            "1:5: the node `a` has no key `for_each`, did you mean `foreach`?",
        ),
        (
            "a: {pipelin: p, stream: true, input: \"{{ secrets.A }}\"}",
            "1:5: the node `a` has no key `pipelin`, did you mean `pipeline`?",
        ),
        (
            "a: {pipeline: p, url: http://x, stream: true, method: GET}",
            "1:18: the node `a` does one thing: it has `pipeline` already",
        ),
        ("a: {mode: ASYNC}", "1:11: `mode`: sync or async is expected"),
        (
            "a: {zzz: 1}",
            "1:5: the node `a` has no key `zzz`: it knows function, pipeline, url, flow, set, wait, nodes, input, after, when, foreach, parallel, tolerate, timeout, retry, on_error, undo, async, stream, mode, method, headers, query",
        ),
        ("a: {function: x, url: http://x}", "1:18: the node `a` does one thing: it has `function` already"),
        (
            "a: {function: Xx}",
            "1:15: `Xx` is no name of a function: small letters, digits and - within are expected, 63 at most",
        ),
        ("a: {function: }", "1:13: `function`: a text is expected, this is nothing"),
        ("a: {url: x.example}", "1:10: `x.example` is no URL: one with http:// or https:// is expected"),
        (
            "a: {url: \"http://x/{{ input }}\"}",
            "1:10: `url`: no expression can stand here, only in `input`, `headers`, `query` and such",
        ),
        (
            "a: {url: \"https://me:secret@x/\"}",
            "1:10: a URL must not hold a password: it belongs into a header, as {{ secrets.NAME }}",
        ),
        ("a: {pipeline: [p]}", "1:15: `pipeline`: one value is expected, this is a list"),
        ("a: {method: 'A B'}", "1:13: `method`: `A B` is no method that a call can have, as GET or POST"),
        ("a: {pipeline: p, method: GET}", "1:18: `method` means nothing with `pipeline`: it is for functions and URLs"),
        ("a: {headers: {Host: x}}", "1:15: the header `Host` is not yours to set: each call has its own"),
        ("a: {headers: {'a b': x}}", "1:15: `a b` is no name of a header"),
        ("a: {headers: {A: x, a: y}}", "1:21: the header `a` is there twice: capitals make no difference"),
        ("a: {headers: {A: [x]}}", "1:18: `A`: a text is expected, this is a list"),
        ("a: {headers: {A: \"x\\ny\"}}", "1:18: `A`: one line is expected, this is \"x\\ny\""),
        ("a: {headers: [A]}", "1:14: `headers` is a map: this is a list"),
        ("a: {mode: later}", "1:11: `mode`: sync or async is expected"),
        ("a: {pipeline: p, mode: async}", "1:18: `mode` means nothing with `pipeline`: it is for functions"),
        ("a: {set: 1, retry: false}", "1:13: `retry` means nothing with `set`: it is for calls"),
        ("a: {set: 1, undo: {function: b}}", "1:13: `undo` means nothing with `set`: it is for calls"),
        (
            "a: {set: 1, timeout: 1s}",
            "1:13: `timeout` means nothing with `set`: it is for calls and `wait: {signal: …}`",
        ),
        ("a: {set: 1, input: 1}", "1:13: `input` means nothing with `set`: it is for calls, flows and groups"),
        (
            "a: {timeout: ten}",
            "1:14: `timeout`: a time of at most 366 days is expected: whole seconds, or as in 500ms, 30s, 1m30s or 2d",
        ),
        (
            "a: {timeout: 367d}",
            "1:14: `timeout`: a time of at most 366 days is expected: whole seconds, or as in 500ms, 30s, 1m30s or 2d",
        ),
        ("a: {retry: 3}", "1:12: `retry` takes a map, as in {attempts: 4}, or false: this is a number"),
        ("a: {retry: {attempts: 0}}", "1:23: `attempts`: a whole number from 1 to 100 is expected"),
        ("a: {retry: {attempts: 2.5}}", "1:23: `attempts`: a whole number from 1 to 100 is expected"),
        ("a: {retry: {min: 2m, max: 1m}}", "1:22: `max` is shorter than `min`"),
        ("a: {retry: {factor: 0.5}}", "1:21: `factor`: a number from 1 to 100 is expected"),
        (
            "a: {retry: {on: [503, 200]}}",
            "1:23: `200` is no failure: connect, timeout, a status as 503, or 5xx is expected",
        ),
        (
            "a: {retry: {backoff: 1}}",
            "1:13: `retry` has no key `backoff`: it knows attempts, min, max, factor, on, within",
        ),
        ("a: {parallel: 2}", "1:5: `parallel` means nothing without `foreach`"),
        ("a: {foreach: \"{{ input }}\", parallel: 0}", "1:39: `parallel`: a whole number from 1 to 10000 is expected"),
        (
            "a: {foreach: \"{{ input }}\", tolerate: 101%}",
            "1:39: `tolerate`: a number of items or a percentage is expected, as in 3 or 10%",
        ),
        (
            "a: {foreach: \"{{ input }}\", tolerate: some}",
            "1:39: `tolerate`: a number of items or a percentage is expected, as in 3 or 10%",
        ),
        (
            "a: {foreach: [1, 2]}",
            "1:14: `foreach`: one expression is expected, as in \"{{ input.items }}\": this is a list",
        ),
        (
            "a: {foreach: input.list}",
            "1:14: `foreach`: an expression stands in quotes and braces: \"{{ input.list }}\"",
        ),
        ("a: {on_error: ignore}", "1:15: `on_error` is fail or a map, as in {output: null}: this is a text"),
        ("a: {on_error: {value: 1}}", "1:16: `on_error` has no key `value`: it knows output"),
        ("a: {undo: {input: 1}}", "1:5: `undo` says whom it calls: `function`, `pipeline` or `url`"),
        ("a: {undo: {function: b, url: http://x}}", "1:25: `undo` makes one call: it has `function` already"),
        ("a: {async: maybe}", "1:12: `async`: true or false is expected"),
        (
            "a: {async: true}\nb: {set: \"{{ a }}\"}",
            "2:14: `a` is asynchronous, so that no node waits for it: take that from it, or do not name it",
        ),
        (
            "a: {nodes: {b: {async: true}}}",
            "1:17: `async` is for a flow's own nodes: a group waits for all that is in it",
        ),
        ("a: {nodes: }", "1:10: `nodes` is empty: a group has at least one node"),
        ("a: {nodes: {a: {set: 1}}}", "1:13: the id `a` is that of a node around it: choose another"),
        ("a: {stream: true}", "1:5: `stream` means nothing with `function`: it is for pipelines and URLs"),
        (
            "a: {pipeline: p, stream: true}\nb: {pipeline: p, stream: true}",
            "2:18: a flow has one `stream`: there is one in line 4",
        ),
        (
            "a: {pipeline: p, foreach: \"{{ input }}\", stream: true}",
            "1:42: `stream` cannot be inside of `foreach`: a run has one stream",
        ),
        (
            "a: {foreach: \"{{ input }}\", nodes: {b: {pipeline: p, stream: true}}}",
            "1:54: `stream` cannot be inside of `foreach`: a run has one stream",
        ),
        ("a: {wait: {}}", "1:11: `wait` says for what: `for`, `until` or `signal`"),
        ("a: {wait: 10s}", "1:11: `wait` is a map: this is a text"),
        ("a: {wait: {for: 10s, until: 5}}", "1:22: `wait` waits for one thing: it has `for` already"),
        (
            "a: {wait: {for: long}}",
            "1:17: `for`: a time of at most 366 days is expected: whole seconds, or as in 500ms, 30s, 1m30s or 2d",
        ),
        (
            "a: {wait: {until: tomorrow}}",
            "1:19: `until`: a moment is expected: as in 2026-12-24T18:00:00Z, or as seconds since 1970",
        ),
        ("a: {wait: {for: 10s, timeout: 1s}}", "1:22: `timeout` means something only with `signal`"),
        (
            "a: {wait: {for: 10s}, timeout: 1s}",
            "1:23: `timeout` means nothing with `wait` for a time: it is for calls and `wait: {signal: …}`",
        ),
        ("a: {wait: {signal: go, timeout: 1s}, timeout: 1s}", "1:38: `timeout` is said twice: in `wait` and beside it"),
    ]);
}

#[test]
fn edges_that_are_none() {
    nodes_are_told(&[
        ("a: {after: b}", "1:12: there is no node `b`"),
        ("a: {after: [a]}", "1:13: nodes wait for each other in a circle: a → a"),
        ("a: {set: \"{{ a }}\"}", "1:14: nodes wait for each other in a circle: a → a"),
        ("a: {after: c}\nb: {after: a}\nc: {after: b}", "1:12: nodes wait for each other in a circle: a → b → c → a"),
        (
            "a: {set: \"{{ c.x }}\"}\nb: {after: a}\nc: {input: \"{{ nodes['b'] }}\"}\nd: {after: c}",
            "1:14: nodes wait for each other in a circle: a → b → c → a",
        ),
        ("a: {after: b}\nb: {after: a}\nc: ", "1:12: nodes wait for each other in a circle: a → b → a"),
        ("vad: \nb: {set: \"{{ vda.x }}\"}", "2:14: there is no node `vda`, did you mean `vad`?"),
        (
            "worker-1: \nb: {set: \"{{ worker.x }}\"}",
            "2:14: there is no node `worker`: one with a - in its id is named nodes['worker-1']",
        ),
        (
            "a: {set: \"{{ nodes[input.x] }}\"}",
            "1:14: `nodes` is followed by a node's id in quotes, as in nodes['worker-1']: what is computed names nobody",
        ),
        (
            "a: {set: \"{{ nodes }}\"}",
            "1:14: `nodes` is followed by a node's id in quotes, as in nodes['worker-1']: what is computed names nobody",
        ),
        ("a: {set: \"{{ nodes.b }}\"}", "1:14: there is no node `b`"),
        ("a: {set: \"{{ item }}\"}", "1:14: `item` is there only inside of `foreach`"),
        ("a: {foreach: \"{{ input }}\", when: \"{{ item }}\"}", "1:39: `item` is there only inside of `foreach`"),
        ("a: {set: \"{{ error }}\"}", "1:14: `error` is there only in `on_failure` and `finally`"),
        ("a: {set: \"{{ run.state }}\"}", "1:14: `run.state` is there only in `on_failure` and `finally`"),
        (
            "a: {set: \"{{ run.ids }}\"}",
            "1:14: `run` has id, flow, started, attempt; in `on_failure` and `finally` also state",
        ),
        ("a: {set: \"{{ output }}\"}", "1:14: `output` is there only in `undo`: a node's output has the node's id"),
        ("a: {undo: {function: b, input: \"{{ a }}\"}}", "1:36: in `undo`, what `a` gave is `output`"),
        ("a: {set: \"{{ secrets.A }}\"}", "1:14: `secrets` are there only in `headers`, `query` and `input` of calls"),
        ("a: {when: \"{{ secrets.A }}\"}", "1:15: `secrets` are there only in `headers`, `query` and `input` of calls"),
        ("a: {input: \"{{ secrets }}\"}", "1:16: one secret is named at a time, as in secrets.TOKEN"),
        ("a: {set: \"{{ null }}\"}", "1:14: there is no node `null`, did you mean `none`?"),
        ("a: {nodes: {b: {set: \"{{ a }}\"}}}", "1:26: nodes wait for each other in a circle: a → a"),
        ("a: {nodes: {b: {set: 1}}}\nc: {after: b}", "2:12: there is no node `b`"),
    ]);
}

#[test]
fn expressions_that_are_none() {
    nodes_are_told(&[
        ("a: {set: \"{{ 1 + }}\"}", "1:18: an expression is expected, not the end of the tag"),
        ("a: {set: \"{{ input.x && true }}\"}", "1:22: unexpected '&', did you mean `and`?"),
        ("a: {set: \"{{ input.x || true }}\"}", "1:23: a name is expected, not `|`, did you mean `or`?"),
        ("a: {set: \"{{ !input.x }}\"}", "1:14: unexpected '!', did you mean `not`?"),
        (
            "a: {set: \"{{ input[\"x\"] }}\"}",
            "1:21: this is no YAML: invalid trailing content after double-quoted scalar: one pair of quotes stands around the whole text, and the other kind of quotes inside of it",
        ),
        ("a: {set: \"{{ }}\"}", "1:14: an expression is expected, not the end of the tag"),
        ("a: {set: \"{{ input\"}", "1:11: the end of a tag is missing"),
        ("a: {set: \"{% if input %}\"}", "1:11: a statement, {% %}, cannot stand here: only expressions in {{ }}"),
        ("a: {set: \"ü {{ input | upcase }}\"}", "1:24: there is no filter `upcase`"),
        (
            "a: {set: \"{{ input | random }}\"}",
            "1:22: the filter `random` gives something else each time: it cannot be used here",
        ),
        ("a: {set: \"{{ input is odder }}\"}", "1:23: there is no test `odder`"),
        ("a: {set: '{{ ''x'' ~ b }}'}", "1:22: there is no node `b`"),
        ("a:\n  set: |\n    one\n    two {{ b }}", "4:12: there is no node `b`"),
        ("a:\n  set: >-\n\n    one\n    {{ input +\n    b }}", "6:5: there is no node `b`"),
        ("a:\n  set: one\n    two {{ b }}", "3:12: there is no node `b`"),
        ("a: {set: \"\\u00fc {{ b }}\"}", "1:10: there is no node `b`"),
        ("a: {set: {\"{{ input }}\": 1}}", "1:11: a key has no expressions: only values have"),
        ("a: {when: text}", "1:11: `when`: an expression stands in quotes and braces: \"{{ text }}\""),
        ("a: {when: \"{{ input }} and more\"}", "1:11: `when`: one expression is expected and nothing beside it"),
        ("a: {when: {x: 1}}", "1:11: `when`: one expression is expected, as in \"{{ input.items }}\": this is a map"),
        ("a: {when: \"{{ 1 2 }}\"}", "1:17: the end of the expression is expected, not a number"),
    ]);
}
