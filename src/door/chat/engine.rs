//! Tests of the engine of templates on the stack that it is given here: Jinja2's answers, and hostile templates.

use crate::apart::apart;
use proptest::prelude::*;
use stageline_template::*;

const LIMITS: Limits = Limits { steps: 1_000_000, bytes: 32 << 20, output_bytes: 1 << 20 };

/// What `source` writes when it sees the entries of `names`, with the functions that chat templates call.
fn written(source: &str, names: &Json) -> Result<String, Error> {
    let budget = Budget::new(LIMITS);
    let raise = |args: Args, _: &Budget| {
        let [words] = args.bind("raise_exception", ["message"])?;
        Err(Error::new(ErrorKind::Raised, format!("{words:?}")))
    };
    let mut sees =
        vec![function("raise_exception", raise), function("strftime_now", |_, budget| text("26 Jul 2024", budget))];
    if let Json::Object(entries) = names {
        for (name, value) in entries {
            sees.push((name.as_str(), value.value(&budget)?));
        }
    }
    Template::new(source)?.render(sees, &budget)
}

/// As [`written`], on the stack that a template may need.
fn outcome(source: &str, names: &Json) -> Result<String, Error> {
    apart("the template", || written(source, names)).expect("no template panics")
}

#[test]
fn everything_is_as_jinja2_writes_it() {
    let file = include_str!("../../../tests/golden/templates.json");
    let golden: Json = serde_json::from_str(file).unwrap();
    let Some(Json::List(groups)) = golden.get("groups") else { panic!("groups are expected") };
    let (mut count, mut wrong) = (0, Vec::new());
    for group in groups {
        let Some(Json::List(cases)) = group.get("cases") else { panic!("cases are expected") };
        for case in cases {
            let Json::List(case) = case else { panic!("a case is a list") };
            let [Json::Text(source), want] = case.as_slice() else { panic!("a case has a template and an answer") };
            let named = source.strip_prefix('@').map(|name| golden.get("sources").and_then(|s| s.get(name)).unwrap());
            let source = named.map_or(source.as_str(), |source| source.as_str().unwrap());
            let got = outcome(source, group.get("names").unwrap_or(&Json::Null));
            count += 1;
            if got.as_deref().ok() != want.as_str() {
                wrong.push(format!("{source}\n  is {got:?}\n  not {want:?}"));
            }
        }
    }
    assert!(count > 900, "{count} cases were read");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Templates that try to end the process: by its stack, by memory, by time.
fn hostile() -> Vec<String> {
    let mut sources = Vec::new();
    for n in [90, 120, 1000, 20_000] {
        let nested = |begin: &str, middle: &str, end: &str| format!("{}{middle}{}", begin.repeat(n), end.repeat(n));
        let inside = |expression: String| format!("{{{{ {expression} }}}}");
        for (begin, middle, end) in [
            ("not ", "1", ""),
            ("- ", "1", ""),
            ("(", "1", ")"),
            ("[", "", "]"),
            ("{1:", "1", "}"),
            ("a(", "", ")"),
            ("1 if 0 else ", "1", ""),
        ] {
            sources.push(inside(nested(begin, middle, end)));
        }
        for (first, more) in [
            ("a", ".b"),
            ("a", "[0]"),
            ("'a'", "|upper"),
            ("1", "+1"),
            ("2", "**2"),
            ("1", "~1"),
            ("0", " or 0"),
            ("0", "<1"),
            ("1", " if 1"),
            ("x", "()"),
            ("1", " is odd"),
        ] {
            sources.push(inside(format!("{first}{}", more.repeat(n))));
        }
        for (begin, end) in [
            ("{% if 1 %}", "{% endif %}"),
            ("{% for x in [1] %}", "{% endfor %}"),
            ("{% macro m() %}", "{% endmacro %}"),
            ("{% with %}", "{% endwith %}"),
            ("{% set x %}", "{% endset %}"),
            ("{% filter upper %}", "{% endfilter %}"),
            ("{% call m() %}", "{% endcall %}"),
            ("{{", ""),
            ("{%", ""),
            ("{#", ""),
            ("{% raw %}", ""),
            ("{% if 0 %}{% elif 0 %}", "{% endif %}"),
            ("{% set (", ""),
        ] {
            sources.push(nested(begin, "", end));
        }
        // Values that nest, in themselves or in a chain of namespaces, macros, methods and loops.
        let again = |first: &str, step: &str, last: &str| {
            format!("{{% set ns = namespace(v={first}) %}}{{% for i in range({n}) %}}{step}{{% endfor %}}{last}")
        };
        for step in [
            "{% set ns.v = [ns.v] %}",
            "{% set ns.v = {'a': ns.v} %}",
            "{% set ns.v = (ns.v,) %}",
            "{% set m = namespace(p=ns.v) %}{% set ns.v = m %}",
            "{% set ns.v = [ns.v].copy %}",
            "{% set ns.v = cycler(ns.v) %}",
            "{% set ns.v = joiner(ns.v) %}",
            "{% for x in [ns.v] %}{% set ns.v = loop %}{% endfor %}",
            "{% macro f() %}{{ ns.v }}{% endmacro %}{% set ns.v = f %}",
            "{% set ns.v = ns.v ~ ns.v %}",
            "{% set ns.v = [ns.v, ns.v] %}",
            "{% set ns.v = (ns.v, ns.v) %}",
        ] {
            for last in [
                "",
                "{{ ns.v }}",
                "{{ ns.v | tojson }}",
                "{{ {ns.v: 1} }}",
                "{{ ns.v == ns.v ~ '' }}",
                "{{ [ns.v] | unique | list }}",
            ] {
                sources.push(again("1", step, last));
            }
        }
        sources.push(format!(
            "{{% macro f(n) %}}{{% if n > 0 %}}{{{{ f(n - 1) }}}}{{% endif %}}{{% endmacro %}}{{{{ f({n}) }}}}"
        ));
        sources.push(format!("{{% macro f(n, x=f(n - 1) if n else 0) %}}{{% endmacro %}}{{{{ f({n}) }}}}"));
        sources.push(format!("{{% set a = ['map'] * {n} %}}{{{{ [[[1]]] | map(*a) | list }}}}"));
        sources.push("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_string());
    }
    // Macros that call each other, themselves, their callers, and themselves with more each time.
    for source in [
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro a(f) %}{{ f(f) }}{% endmacro %}{{ a(a) }}",
        "{% macro a(s) %}{{ a(s ~ s) }}{% endmacro %}{{ a('x') }}",
        "{% macro a(s) %}{{ a([s, s]) }}{% endmacro %}{{ a(1) }}",
        "{% macro a() %}{{ caller() }}{% endmacro %}{% call a() %}{% call a() %}{{ a() }}{% endcall %}{% endcall %}",
        "{% macro a() %}{% call a() %}{{ caller() }}{% endcall %}{% endmacro %}{{ a() }}",
        "{% macro a(n) %}{% for i in range(2) %}{{ a(n + 1) }}{% endfor %}{% endmacro %}{{ a(0) }}",
        "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}",
        "{% macro a(n) %}{% filter upper %}{{ a(n) }}{% endfilter %}{% endmacro %}{{ a(0) }}",
        "{% macro a(n) %}{% set x %}{{ a(n) }}{% endset %}{{ x }}{{ x }}{% endmacro %}{{ a(0) }}",
        "{% macro a(x=a()) %}{% endmacro %}{{ a() }}",
        "{% macro a() %}{{ varargs | length }}{{ a(*(varargs * 2)) }}{% endmacro %}{{ a(1, 2) }}",
        "{% macro a() %}{{ a(**dict(kwargs, x=kwargs)) }}{% endmacro %}{{ a(y=1) }}",
        "{% for x in [[1]] recursive %}{{ loop([x, x]) }}{% endfor %}",
        "{% for x in 'ab' recursive %}{{ loop(x ~ x) }}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.f = ns %}{{ ns }}{{ [ns] | pprint }}{{ ns | string | length }}",
        "{% set ns = namespace(a=[]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a | pprint }}",
        "{% set ns = namespace(a={}) %}{% for i in range(60) %}{% set ns.a = dict(x=ns.a, y=ns.a) %}{% endfor %}{{ ns.a | tojson }}",
        "{% print 1, 2, 3, %}{% print %}{% autoescape true %}{% endautoescape %}",
    ] {
        sources.push(source.to_string());
    }
    // What grows, alone and again and again.
    for what in [
        "'a' * 10000000000",
        "[1] * 10000000000",
        "'%1000000000d' | format(1)",
        "'%.1000000000f' | format(1)",
        "'{:1000000000}'.format(1)",
        "'a' | indent(10**9)",
        "('a\n' * 100000) | indent('x' * 10000)",
        "'a' | center(10**9)",
        "'a'.ljust(10**9)",
        "'a'.zfill(10**12)",
        "('a' * 10000) | replace('a', 'b' * 100000)",
        "('a' * 10000).replace('', 'b' * 100000)",
        "('a' * 10000) | join('b' * 100000)",
        "('b' * 100000).join('a' * 10000)",
        "[1] | batch(10**9, 1) | list",
        "[1] | slice(10**9) | list",
        "range(10**9)",
        "range(10**30)",
        "2 ** 10 ** 10",
        "('\t' * 10000).expandtabs(100000)",
        "[[[[1]]]] | tojson(indent='x' * 1000000)",
        "('a' * 1000000) | list | length",
        "('a ' * 1000000).split() | length",
        "('a' * 1000000).strip('b' * 1000000)",
        "dict([(1, 2)] * 100000)",
        "(range(1000) | map('float') | list + ['nan' | float] * 1000) | sort | length",
        "-(-170141183460469231731687303715884105727 - 1)",
        "(-170141183460469231731687303715884105727 - 1) // -1",
        "'x'[-10**30:10**30:10**30]",
        "3.5 | round(10**9)",
        "'%c' % 55555555",
        "'%d' % 1e300",
        "('a' * 100000) | wordwrap(1)",
        "('a-' * 100000) | wordwrap(2)",
        "('-' * 100000) | wordwrap(3)",
        "('a-----' * 100000) | wordwrap(3, false)",
        "('a b ' * 100000) | wordwrap(10**9)",
        "'a' | wordwrap(-1)",
        "('a\n' * 100000) | wordwrap(9, true, 'x' * 100000)",
        "('<' * 100000) | striptags",
        "('<!--' * 100000) | striptags",
        "('&' * 100000) | striptags",
        "('&#99999999;' * 10000) | striptags",
        "('\u{e9}' * 1000000) | urlencode",
        "[[1, 2]] * 100000 | urlencode",
        "dict([('a' * 100000, 'b' * 100000)]) | urlencode",
        "{'a' * 100000: '<' * 100000} | xmlattr",
        "range(100000) | list | pprint",
        "('a ' * 100000) | pprint",
        "('a' * 100000) | pprint",
        "{'a': [[[['b' * 1000] * 100]]]} | pprint",
        "{1: 2, 'a': 3, none: 4, 1.5: 5, (1,): 6} | pprint",
        "dict([('nan' | float, 1), (1.0, 2), ('nan' | float, 3)]) | pprint",
        "1e308 | filesizeformat",
        "'inf' | float | filesizeformat",
        "'nan' | float | filesizeformat",
        "range(100000) | random",
        "'%*d' % (10**30, 1)",
        "'%*d' % (-10**9, 1)",
        "'%.*f' % (10**9, 1.5)",
        "'%*' % (1,)",
        "'{:{}}'.format(1, 10**9)",
        "'{:{}{}}'.format(1, 9, 999999)",
        "('{' * 100000).format(1)",
        "('{:{' * 10000).format(1)",
        "('{0}' * 100000).format('a' * 10000)",
        "'{0[0][0][0]}'.format([[[1]]])",
        "'{:c}'.format(55555)",
        "range(100000) | groupby('x') | list | length",
        "range(100000) | sort(attribute='a,b,c') | length",
        "('x' * 100000) | title | swapcase | length",
        "'{0.__class__.__mro__}'.format('')",
        "''.__class__.__mro__",
    ] {
        sources.push(format!("{{{{ {what} }}}}"));
        sources.push(format!("{{% for i in range(1000) %}}{{% set x = {what} %}}{{% endfor %}}"));
    }
    for (first, step) in [
        ("'a' * 10000000", "{% if 'b' in x %}{% endif %}"),
        ("'a' * 10000000", "{{ x[9999999] }}{{ x[-1] }}"),
        ("range(100000) | list", "{{ 'q' in x }}"),
        ("'a' * 100000", "{{ x }}"),
        ("'a' * 1000000", "{{ x == x ~ '' }}"),
        ("[0] * 100000", "{{ x[1:] | length }}"),
        ("1", "{% set ns = namespace(a=x) %}{% set ns.b = ns %}"),
        ("'a' * 1000", "{% set y = x | pprint %}"),
        ("'a b' * 1000", "{% set y = x | wordwrap(2) %}"),
        ("namespace(s='a')", "{% set x.s = x.s ~ x.s %}"),
        ("namespace(s=[])", "{% set x.s = x.s + [x] %}{{ x.s | length }}"),
        ("namespace(s='')", "{% set x.s = x.s + strftime_now('%Y' * 100) %}"),
    ] {
        sources.push(format!("{{% set x = {first} %}}{{% for i in range(100000) %}}{step}{{% endfor %}}"));
    }
    sources
}

#[test]
fn no_template_ends_the_process() {
    let sources = hostile();
    assert!(sources.len() > 400, "{} templates", sources.len());
    for source in &sources {
        let brief: String = source.chars().take(120).collect();
        match outcome(source, &Json::Null) {
            Ok(written) => assert!(written.len() <= LIMITS.output_bytes, "{brief}"),
            Err(error) => assert!(!error.what.is_empty() && error.what.len() < 2000, "{brief}"),
        }
    }
}

#[test]
fn the_parts_of_a_text_are_counted_before_they_are_there() {
    for parts in ["splitlines()", "split('\n')", "rsplit('\n')"] {
        let error = outcome(&format!("{{{{ ('\n' * 2500000).{parts} | length }}}}"), &Json::Null).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Memory, "{parts}");
    }
    for filter in ["indent", "wordwrap", "pprint"] {
        let error = outcome(&format!("{{{{ ('\n' * 2500000) | {filter} }}}}"), &Json::Null).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Memory, "{filter}");
    }
}

#[test]
fn what_is_met_is_said_with_its_line() {
    let error = |source: &str| {
        let error = outcome(source, &Json::Null).unwrap_err();
        (error.kind, error.to_string())
    };
    for (source, kind, words) in [
        ("a\n{{ b", ErrorKind::Syntax, "line 2: the end of a tag is missing"),
        (
            "\n\n{% if 1 %}",
            ErrorKind::Syntax,
            "line 3: `elif` or `else` or `endif` is expected, not the end of the template",
        ),
        ("{{ 1\n + }}", ErrorKind::Syntax, "line 2: an expression is expected, not the end of the tag"),
        ("\n{{ x.y.z }}", ErrorKind::Invalid, "line 2: 'x' is undefined"),
        ("{% set x = {} %}\n{{ x.y.z }}", ErrorKind::Invalid, "line 2: 'dict object' has no attribute 'y'"),
        ("{{ [].append(1) }}", ErrorKind::Invalid, "line 1: access to attribute 'append' of 'list' object is unsafe"),
        (
            "{{ 170141183460469231731687303715884105727 + 1 }}",
            ErrorKind::Invalid,
            "line 1: a whole number is larger than 128 bits",
        ),
    ] {
        assert_eq!(error(source), (kind, words.to_string()), "{source}");
    }
    let many = "not ".repeat(50_000);
    for (source, kind) in [
        (format!("{{{{ {many}1 }}}}"), ErrorKind::Depth),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_string(), ErrorKind::Depth),
        ("{{ 'a' * 10**9 }}".to_string(), ErrorKind::Memory),
        ("{% for i in range(9999) %}{{ 'a' * 1000 }}{% endfor %}".to_string(), ErrorKind::Output),
        ("{% set x = range(99999) | list %}{% for i in x %}{{ 'q' in x }}{% endfor %}".to_string(), ErrorKind::Steps),
    ] {
        assert_eq!(error(&source).0, kind, "{source:.80}");
    }
}

proptest! {
    #[test]
    fn no_source_panics(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", "if ", "else", "endif", "for ", " in ", "endfor", "x", "'é'", "\"", "[", "]", "(", ")",
                "{", "}", ".", "|", "upper", " is ", "not ", "1", "1.5", "~", ":", ",", "=", "*", "**", "\n", " ", "raw", "endraw", "set ", "\\", "é",
            ]),
            0..24,
        ),
    ) {
        let _ = written(&parts.concat(), &Json::Null);
    }
}
