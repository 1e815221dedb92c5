//! Expressions alone: what they mention, what they give, and that they fit a usual thread's stack.

use serde_json::{Value as Json, json};
use stageline_template::{Budget, ErrorKind, Expression, Limits, Part, Piece, Value, pieces};

fn budget() -> Budget {
    Budget::new(Limits { steps: 100_000, bytes: 8 << 20, output_bytes: 1 << 20 })
}

/// What `source` gives as JSON, or the words of its error, when `names` are there.
fn eval(source: &str, names: &Json) -> Result<Json, String> {
    let (budget, expression) = (budget(), Expression::new(source).map_err(|error| error.to_string())?);
    let name =
        |name: &str| names.get(name).map(|value| Value::from_json(value, &budget).expect("the test's values fit"));
    let value = expression.eval(&name, &budget).map_err(|error| error.to_string())?;
    value.to_json(&budget).map_err(|error| error.to_string())
}

#[test]
fn values_keep_their_types_both_ways() {
    let all = json!({"a": [1, -2.5, "ü", null, true, {"b": []}], "big": u64::MAX, "small": i64::MIN});
    assert_eq!(eval("all", &json!({"all": all})), Ok(all));
    assert_eq!(eval("range(3)", &json!({})), Ok(json!([0, 1, 2])));
    assert_eq!(eval("(1, 'x')", &json!({})), Ok(json!([1, "x"])));
    assert_eq!(eval("x | map(attribute='a')", &json!({"x": [{"a": 1}, {"a": 2}]})), Ok(json!([1, 2])));
    for (source, words) in [
        ("2 ** 64", "18446744073709551616, which is beyond 64 bits, cannot be written as JSON"),
        ("x * x", "inf cannot be written as JSON"),
        ("range", "a function cannot be written as JSON"),
        ("[{'a': 'b'.upper}]", "a builtin_function_or_method cannot be written as JSON"),
    ] {
        assert_eq!(eval(source, &json!({"x": 1e300})), Err(words.to_string()), "{source}");
    }
}

#[test]
fn what_is_not_there_is_an_error_where_it_is_used() {
    let names = json!({"x": {"items": [1], "none": null}, "skipped": null, "list": [{"a": 1}, {}]});
    for (source, value) in [
        ("skipped", json!(null)),
        ("skipped.text.more[0]['x']", json!(null)),
        ("x.none.more", json!(null)),
        ("x.items", json!([1])),
        ("nothing is defined", json!(false)),
        ("x.y is undefined", json!(true)),
        ("nothing | default(1)", json!(1)),
        ("(x.y if true) | d(2)", json!(2)),
        ("(x.y if false) | d(3)", json!(3)),
        ("[skipped, 1] | reject('none') | list", json!([1])),
        ("list | selectattr('a', 'defined') | map(attribute='a') | list", json!([1])),
        ("list | map(attribute='a', default=0) | list", json!([1, 0])),
        ("[none] | map(attribute='a') | list", json!([null])),
        ("1 if x.y is defined else 2", json!(2)),
    ] {
        assert_eq!(eval(source, &names), Ok(value), "{source}");
    }
    for source in [
        "nothing",
        "x.y",
        "x['y']",
        "x.items[7]",
        "nothing.more | default(1)",
        "nothing or 1",
        "not nothing",
        "nothing ~ 'a'",
        "nothing == 1",
        "1 if nothing else 2",
        "[nothing]",
        "{'a': x.y}",
        "nothing | length",
        "nothing | upper",
        "nothing is none",
        "x.y | list",
        "list | map(attribute='a') | join",
        "list | selectattr('a') | list",
        "list | sum(attribute='a')",
        "[] | first",
        "1 if false",
        "range(nothing)",
        "'a' in nothing",
    ] {
        assert!(eval(source, &names).is_err(), "{source} gives {:?}", eval(source, &names));
    }
}

#[test]
fn nothing_gives_something_else_another_time() {
    for source in ["[1, 2] | random", "1 if true else [1] | random", "[[1]] | map('random') | list"] {
        assert!(eval(source, &json!({})).is_err_and(|words| words.contains("`random`")), "{source}");
    }
    assert_eq!(eval("strftime_now('%H')", &json!({})), Err("line 1: 'strftime_now' is undefined".to_string()));
    assert_eq!(eval("1 if true else 2 | nofilter", &json!({})), Err("line 1: there is no filter `nofilter`".into()));
}

#[test]
fn names_are_told_with_what_is_asked_of_them() {
    let source =
        "nodes['worker-1'].x + vad.segments[0] ~ input[1:] + nodes[key] | map(attribute=a) + range(dict(b=c).b) + d.0";
    let expression = Expression::new(source).expect("it can be read");
    let field = |name: &str| Part::Field(name.into());
    let told: Vec<_> = expression.mentions().iter().map(|m| (&*m.name, m.part.clone(), m.byte)).collect();
    let at = |text: &str| source.find(text).expect("it is there");
    let expected = [
        ("nodes", field("worker-1"), 0),
        ("vad", field("segments"), at("vad")),
        ("input", Part::Computed, at("input")),
        ("nodes", Part::Computed, at("nodes[key]")),
        ("key", Part::Whole, at("key")),
        ("a", Part::Whole, at("a)")),
        ("c", Part::Whole, at("c)")),
        ("d", Part::Place(0), at("d.0")),
    ];
    assert_eq!(told, expected);
}

#[test]
fn texts_are_cut_at_their_expressions() {
    let cut = |text: &str| -> Vec<String> {
        let piece = |piece| match piece {
            Piece::Plain(text) => text,
            Piece::Value(expression) => format!("<{}>", expression.source()),
        };
        pieces(text).unwrap_or_else(|error| panic!("{text}: {error}")).into_iter().map(piece).collect()
    };
    assert_eq!(cut("a {{ b }} c"), ["a ", "<b>", " c"]);
    assert_eq!(cut("{{b}}"), ["<b>"]);
    assert_eq!(cut("a {{- b -}} \n c"), ["a", "<b>", "c"]);
    assert_eq!(cut("{{ '}}' }}{{ {'a': {}} }}"), ["<'}}'>", "<{'a': {}}>"]);
    assert_eq!(cut("{ {# x #} } }}"), ["{ {# x #} } }}"]);
    assert_eq!(cut("ü{{ x\n}}"), ["ü", "<x>"]);
    assert_eq!(cut(""), [""; 0]);
    for (text, byte) in
        [("ü {{ a + }}", 10), ("{{ a", 0), ("x {% if a %}", 2), ("{{ a }}{{ }}", 10), ("{{ a b }}", 5), ("{{ 'a }}", 3)]
    {
        assert_eq!(pieces(text).expect_err(text).byte, Some(byte), "{text}");
    }
    let at = |text: &str| match &pieces(text).expect("it can be read")[..] {
        [.., Piece::Value(expression)] => expression.mentions()[0].byte,
        other => panic!("{other:?}"),
    };
    assert_eq!(at("ü {{ a }} {{ b }}"), 14);
}

#[test]
fn a_usual_threads_stack_is_enough_for_any_expression() {
    let nested =
        |open: &str, inner: &str, close: &str, n: usize| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    let deepest = move |open: &'static str, close: &'static str| {
        let fits =
            |n: &usize| !matches!(Expression::new(&nested(open, "1", close, *n)), Err(e) if e.kind == ErrorKind::Depth);
        (1..1000).take_while(fits).last().map(|n| nested(open, "1", close, n))
    };
    let work = move || {
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("{1:", "}"),
            ("not ", ""),
            ("-", ""),
            ("x[", "]"),
            ("dict(a=", ")"),
            ("1 if 1 else ", ""),
            ("[[1]]|map('map', *", ")"),
            ("1 is eq (", ")"),
        ] {
            let source = deepest(open, close).expect("one level can be read");
            let _ = eval(&source, &json!({"x": [0, 1]}));
            assert!(Expression::new(&nested(open, "1", close, 5_000)).is_err());
        }
        // Filters that apply filters, and values as deep as they may be.
        let maps = format!("[{}] | map({}) | list", nested("[", "1", "]", 20), vec!["'map'"; 200].join(","));
        let _ = eval(&maps, &json!({}));
        let mut deep = json!(1);
        for _ in 0..1_000 {
            deep = json!([deep]);
        }
        assert_eq!(Value::from_json(&deep, &budget()).expect_err("it is too deep").kind, ErrorKind::Depth);
        let mut deep = json!(1);
        for _ in 0..99 {
            deep = json!({"a": deep});
        }
        for source in ["x", "x ~ ''", "x | tojson", "x == x", "x | pprint", "[x, x] | sort", "[x] | unique | list"] {
            let _ = eval(source, &json!({"x": deep}));
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).expect("a thread begins").join().expect("it ends well");
}

#[test]
fn work_and_memory_are_bounded() {
    for source in ["'a' * 10 ** 9", "range(99999) | list | tojson * 9999", "[range(9999) | list] * 9999999"] {
        assert!(eval(source, &json!({})).is_err(), "{source}");
    }
    assert!(eval("range(99999) | map('string') | map('upper') | list", &json!({})).is_err_and(|e| e.contains("steps")));
}

#[test]
fn what_was_read_can_go_to_another_thread() {
    fn goes<T: Send + Sync>() {}
    goes::<stageline_flow::definition::File>();
}
