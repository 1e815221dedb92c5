//! Files that would cost much: each is refused in one line or read, in little time; and files broken at random.

use crate::good::{ASYNC_WORKFLOW, CALLBACK, STACK, VOICE_NOTES, read};
use crate::wrong::told;
use stageline_base::prng::Prng;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// The longest that one file may take, in a build for tests on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);

#[test]
fn what_is_too_large_is_refused_in_one_line() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let _ = writeln!(bomb, "a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 10].join(", "));
    }
    let mut steps = "a0: &a0 [x]\n".to_owned();
    for i in 1..200 {
        let _ = writeln!(steps, "a{i}: &a{i} [[[*a{}]]]", i - 1);
    }
    let merged: String = (1..5_000).map(|i| format!("m{i}: {{<<: *m0}}\n")).collect();
    let merged = format!("m0: &m0 {{{}}}\n{merged}", (0..100).map(|i| format!("k{i}: 1, ")).collect::<String>());
    let long_text = format!("a: &a {}\nb: [{}]", "x".repeat(500_000), "*a, ".repeat(50_000));
    let groups = format!(
        "flows: {{f: {{nodes: {}{{set: 1}}{}}}}}",
        (0..10).map(|i| format!("{{g{i}: {{nodes: ")).collect::<String>(),
        "}}".repeat(10)
    );
    let groups = groups.replace("{nodes: {set", "{nodes: {x: {set").replacen("1}", "1}}", 1);
    let many: String = (0..11_000).map(|i| format!("      n{i}: \n")).collect();
    let steps_flow = format!("flows: {{f: {{steps: [{}]}}}}", "apply: a, ".repeat(10_500));
    let flows: String = (0..10).map(|i| format!("  f{i}: {{nodes: {{a: {{flow: f{}}}}}}}\n", i + 1)).collect();
    for (text, words) in [
        ("x".repeat(10 << 20), "1:1: the file has 10485760 bytes: at most 1048576 are read"),
        (bomb, "the file has more than 100000 values, aliases counted"),
        (steps, "lists and maps nest more than 64 deep, by this alias"),
        (merged, "the file has more than 100000 values, aliases counted"),
        (long_text, "the file's texts have more than 4194304 bytes, aliases counted"),
        ("[".repeat(100_000), "lists and maps nest more than 64 deep"),
        ("- ".repeat(100_000), "lists and maps nest more than 64 deep"),
        ("{a: ".repeat(100_000), "lists and maps nest more than 64 deep"),
        ("? ".repeat(100_000), "lists and maps nest more than 64 deep"),
        (groups, "groups nest more than 8 deep"),
        (format!("flows:\n  f:\n    nodes:\n{many}"), "4:7: the file has more than 10000 nodes"),
        (steps_flow, "the file has more than 10000 nodes"),
        (
            format!("flows:\n{flows}  f10: {{nodes: {{a: {{set: 1}}}}}}"),
            "the flow `f2` holds more than 8 flows in each other",
        ),
    ] {
        let began = Instant::now();
        let told = told(&text);
        assert!(told.len() == 1 && told[0].ends_with(words), "{words}: {told:#?}");
        assert!(began.elapsed() < LONGEST, "{words}: {:?}", began.elapsed());
    }
}

#[test]
fn what_is_large_is_read_in_little_time() {
    let chain: String = (1..10_000).map(|i| format!("      n{i}: {{set: '{{{{ n{} }}}}'}}\n", i - 1)).collect();
    let strangers: String = (1..8_000).map(|i| format!("      n{i}: {{set: '{{{{ m{i} }}}}'}}\n")).collect();
    let circle: String = (0..10_000).map(|i| format!("      n{i}: {{after: n{}}}\n", (i + 1) % 10_000)).collect();
    let pairs: String =
        (0..5_000).map(|i| format!("      a{i}: {{after: b{i}}}\n      b{i}: {{after: a{i}}}\n")).collect();
    let all: Vec<String> = (0..300).map(|i| format!("n{i}")).collect();
    let star: String = (0..300).map(|i| format!("      m{i}: {{after: [{}]}}\n", all.join(", "))).collect();
    let braces = "{{ ".repeat(100_000);
    let parts = "{{ 1 }}".repeat(100_000);
    let long = format!("{{{{ {} }}}}", "1 + ".repeat(200_000) + "1");
    let whole = |nodes: &str| format!("flows:\n  f:\n    nodes:\n      n0: {{set: 1}}\n{nodes}");
    let nodes: String = all[1..].iter().map(|id| format!("      {id}: \n")).collect();
    let hooks: String = (0..2_000).map(|i| format!("- {{source: f{i}, destination: f{}}}\n", i + 1)).collect();
    let functions: String = (0..2_001).map(|i| format!("  f{i}: {{}}\n")).collect();
    let wide: String = (0..1_000).map(|i| format!("- {{source: e{i}, destination: f0}}\n")).collect();
    let wide_functions: String = (0..1_000).map(|i| format!("  e{i}: {{}}\n")).collect();
    let half: String = hooks.lines().take(1_000).map(|line| format!("{line}\n")).collect();
    let targets: String = (0..9_000).map(|i| format!("  t{i}: {{rate: 1/s}}\n")).collect();
    let targets = format!("{}targets:\n{targets}", (0..9_000).map(|i| format!("      c{i}: \n")).collect::<String>());
    let targets = format!("{targets}functions:\n{}", (0..9_000).map(|i| format!("  d{i}: {{}}\n")).collect::<String>());
    for (text, problems) in [
        (whole(&chain), 0),
        (whole(&strangers), 101),
        (whole("").replace("      n0: {set: 1}\n", "") + &circle, 1),
        (whole("").replace("      n0: {set: 1}\n", "") + &pairs, 101),
        (whole(&(nodes + &star)), 0),
        (whole(&format!("      a: {{set: '{braces}'}}")), 1),
        (whole(&format!("      a: {{set: '{parts}'}}")), 0),
        (whole(&format!("      a: {{set: '{long}'}}")), 0),
        (whole(&format!("      a: {{set: '{}'}}", "{{ n0 }} ".repeat(90_000))), 0),
        (
            whole(&format!(
                "      a: {{headers: {{{}}}}}",
                (0..50_000).map(|i| format!("a{i}: x,")).collect::<String>()
            )),
            1,
        ),
        (whole(&targets), 0),
        (whole(&format!("      a: {{set: {}'{{{{ n0 }}}}'{}}}", "[".repeat(59), "]".repeat(59))), 0),
        (format!("functions:\n{functions}async_hooks:\n{hooks}"), 0),
        (format!("functions:\n{functions}{wide_functions}async_hooks:\n{wide}{half}"), 1),
        (format!("flows: {{f: {{steps: [{}]}}}}", "apply: a, ".repeat(9_000)), 0),
        (format!("{}: 1", "k".repeat(900_000)), 1),
        ("a: \"\\".to_owned() + &"\n".repeat(500_000), 1),
        ("\t".repeat(500_000), 1),
        ("# c\n".repeat(250_000), 1),
        ("%".repeat(500_000), 1),
        ("a: |\n".to_owned() + &" x\n".repeat(300_000), 0),
        ("'".repeat(900_000), 1),
        ("a".repeat(900_000) + ":", 1),
        ("&a ".repeat(300_000), 1),
        ("!".repeat(900_000), 1),
        ("a: b\n".repeat(150_000), 101),
    ] {
        let began = Instant::now();
        let told = told(&text);
        let begin: String = text.chars().take(80).collect();
        println!("{:?} {begin:?}", began.elapsed());
        assert_eq!(told.len(), problems, "{begin}: {:#?}", &told[..told.len().min(3)]);
        assert!(began.elapsed() < LONGEST, "{begin}: {:?}", began.elapsed());
    }
}

/// How many broken files are read; the full count is STAGELINE_MUTATIONS=1000000.
fn mutations() -> u64 {
    std::env::var("STAGELINE_MUTATIONS").map_or(20_000, |text| text.parse().expect("STAGELINE_MUTATIONS is a number"))
}

/// What is put into files: what YAML and expressions are made of.
const PIECES: [&str; 56] = [
    ":",
    ": ",
    "\n",
    "\n  ",
    " ",
    "-",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "'",
    "\"",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "!x ",
    "|",
    ">",
    "|-\n",
    "?",
    "#",
    "%",
    "@",
    "`",
    "\t",
    "\r\n",
    "---\n",
    "...\n",
    "~",
    "null",
    "\\",
    "\\x",
    "\u{fffd}",
    "ü",
    "\u{feff}",
    "\0",
    "{{",
    "}}",
    "{{ ",
    " }}",
    "{%",
    "-}}",
    "{{-",
    "item",
    "secrets.A",
    "nodes['a']",
    "| map(",
    "foreach: ",
    "nodes: ",
    "set: ",
    "99999999999999999999",
    "0",
    "steps: ",
];

#[test]
fn broken_files_are_refused_or_read() {
    let everything = crate::keys::EVERYTHING;
    let sources = [STACK, CALLBACK, ASYNC_WORKFLOW, VOICE_NOTES, everything];
    let mut random = Prng::new(18);
    let (mut good, mut refused) = (0, 0);
    for i in 0..mutations() {
        let mut text: Vec<char> = sources[random.below(sources.len() as u64) as usize].chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len() as u64 + 1) as usize;
            let end = (at + random.below(12) as usize).min(text.len());
            match random.below(5) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..end, PIECES[random.below(PIECES.len() as u64) as usize].chars())),
                2 => drop(text.splice(at..at, PIECES[random.below(PIECES.len() as u64) as usize].chars())),
                3 => {
                    let from = random.below(text.len() as u64 + 1) as usize;
                    let copied: Vec<char> = text[from..(from + 30).min(text.len())].to_vec();
                    drop(text.splice(at..at, copied));
                }
                _ => drop(text.splice(at..end, char::from_u32(random.below(0x300) as u32))),
            }
        }
        let text: String = text.into_iter().collect();
        let began = Instant::now();
        let told = told(&text);
        assert!(began.elapsed() < LONGEST, "mutation {i} takes {:?}:\n{text}", began.elapsed());
        if told.is_empty() {
            good += 1;
            crate::exports::hold(&read(&text).0);
        } else {
            refused += 1;
        }
    }
    assert!(good > 0 && refused > good / 4, "{good} good, {refused} refused: the mutations test nothing");
}
