//! A report as one HTML page with plots: no script, nothing from elsewhere, light colours for paper.

use crate::histogram::Summary;
use crate::report::{Document, Report, short};
use plot::{Plot, Scale, bars, escape};

mod plot;

const STYLE: &str = "
:root { color-scheme: light }
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; border-bottom: 1px solid #ccc }
p { margin: .4rem 0 } .quiet { color: #555 } .loud { border-left: 4px solid #c2500a; padding-left: .7rem; font-weight: 600 }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .15rem .5rem; border-bottom: 1px solid #e4e4e4 } th:first-child, td:first-child { text-align: left }
th { font-weight: 600; border-bottom: 1px solid #888 }
svg { width: 100%; height: auto; margin: .6rem 0 }
pre { background: #f6f6f6; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px }
@media print { body { margin: 0; max-width: none; font-size: 11pt } svg, tr { break-inside: avoid } h2 { break-after: avoid }
  svg * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
";

/// The page.
pub fn render(document: &Document) -> String {
    let target = document.runs.first().map(|run| run.scenario.target.as_str()).unwrap_or_default();
    let title = format!("Load on {}", escape(target));
    let mut body = format!("<h1>{title}</h1>");
    body += &format!(
        "<p class=quiet>stageline {}, began {} (seconds since 1970). Every latency counts from the scheduled send.</p>",
        escape(&document.stageline),
        document.unix_seconds
    );
    if document.knee.is_some() {
        body += &sweep(document);
    }
    let mut runs: Vec<&Report> = document.runs.iter().collect();
    runs.sort_by(|a, b| a.level().total_cmp(&b.level()));
    runs.iter().for_each(|report| body += &run(report));
    format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><body>{body}</body></html>\n"
    )
}

fn sweep(document: &Document) -> String {
    let mut runs: Vec<&Report> = document.runs.iter().collect();
    runs.sort_by(|a, b| a.level().total_cmp(&b.level()));
    let point = |run: &&Report, of: fn(&Summary) -> f64| {
        run.end_to_end.as_ref().map(|summary| (run.requests_per_second, of(summary)))
    };
    let p50: Vec<(f64, f64)> = runs.iter().filter_map(|run| point(run, |s| s.p50_ms)).collect();
    let p99: Vec<(f64, f64)> = runs.iter().filter_map(|run| point(run, |s| s.p99_ms)).collect();
    let x = Scale::from_zero(p50.iter().map(|p| p.0));
    let y = Scale::powers(p50.iter().chain(&p99).map(|p| p.1));
    let mut plot = Plot::new("Latency against throughput", ("answered requests/s", x), ("end to end, ms", y));
    plot.line("p50", 0, &p50, true);
    plot.line("p99", 1, &p99, true);
    for (run, at) in runs.iter().filter(|run| run.end_to_end.is_some()).zip(&p99) {
        plot.word(*at, &format!("{}", run.level()));
    }
    let mut text = String::from("<h2>The sweep</h2>");
    if let Some(knee) = &document.knee {
        let level = knee.level.map_or("below the lowest load tried".into(), |level| format!("<b>{level}</b>"));
        let more = if knee.bounded { "" } else { " or more: no load that was tried was too much" };
        text += &format!("<p>Knee: {level}{more}: {}.</p>", escape(&knee.rule));
    }
    text += &plot.svg();
    let head =
        ["load", "answered/s", "good/s", "good %", "tokens/s", "p50 ms", "p99 ms", "refused", "failed", "harness"];
    let rows = runs.iter().map(|run| {
        let at = |of: fn(&Summary) -> f64| run.end_to_end.as_ref().map_or("-".into(), |s| short(of(s)));
        vec![
            escape(&run.scenario.shape.to_string()),
            short(run.requests_per_second),
            short(run.goodput_per_second),
            short(100.0 * run.goodput_share),
            short(run.tokens_per_second),
            at(|s| s.p50_ms),
            at(|s| s.p99_ms),
            run.refused_and_failed().0.to_string(),
            run.refused_and_failed().1.to_string(),
            if run.harness.was_bottleneck { "<b>limited it</b>" } else { "ok" }.into(),
        ]
    });
    text + &table(&head, rows.collect())
}

fn run(run: &Report) -> String {
    let mut text = format!("<h2>{}, seed {}</h2>", escape(&run.scenario.shape.to_string()), run.scenario.seed);
    let offered = run.offered_per_second.map(|rate| format!("{} requests/s offered, ", short(rate)));
    text += &format!(
        "<p>{}<b>{} requests/s</b> and {} tokens/s answered: {} of {} requests in {} s. Goodput {} requests/s, {} % \
         ({}).</p>",
        offered.unwrap_or_default(),
        short(run.requests_per_second),
        short(run.tokens_per_second),
        run.answered,
        run.requests,
        short(run.seconds),
        short(run.goodput_per_second),
        short(100.0 * run.goodput_share),
        escape(&run.scenario.objective.to_string())
    );
    if run.interrupted {
        text += "<p class=loud>Interrupted: the run is not whole, and what was out then counts as unfinished.</p>";
    }
    let class = if run.harness.was_bottleneck { "loud" } else { "quiet" };
    text += &format!("<p class={class}>{}.</p>", escape(&run.harness.verdict));
    let rows = times(run).into_iter().map(|(name, s)| {
        let values = [s.mean_ms, s.p50_ms, s.p90_ms, s.p95_ms, s.p99_ms, s.p999_ms, s.max_ms].map(short);
        [name.to_owned()].into_iter().chain(values).chain([s.count.to_string()]).collect()
    });
    text += &table(&["ms", "mean", "p50", "p90", "p95", "p99", "p99.9", "max", "of"], rows.collect());
    if !run.errors.is_empty() {
        let rows = run.errors.iter().map(|(class, e)| vec![escape(class), e.count.to_string(), escape(&e.example)]);
        text += &table(&["not answered", "requests", "the first one said"], rows.collect());
    }
    text += &over_time(run);
    text += &shares(run);
    text += &inside(run);
    let scenario = serde_json::to_string(&run.scenario).unwrap_or_default();
    text + &format!("<p class=quiet>The load, whole:</p><pre>{}</pre>", escape(&scenario))
}

fn times(run: &Report) -> Vec<(&'static str, &Summary)> {
    let all = [
        ("end to end", &run.end_to_end),
        ("first token", &run.time_to_first_token),
        ("between tokens", &run.between_tokens),
        ("refused", &run.refusals),
        ("send lag", &run.lag),
    ];
    all.into_iter().filter_map(|(name, summary)| Some((name, summary.as_ref()?))).collect()
}

fn over_time(run: &Report) -> String {
    let answered: Vec<_> = run.windows.iter().filter(|window| window.requests > window.failed).collect();
    let p50: Vec<(f64, f64)> = answered.iter().map(|window| (window.from, window.p50_ms)).collect();
    let p99: Vec<(f64, f64)> = answered.iter().map(|window| (window.from, window.p99_ms)).collect();
    let x = Scale::from_zero(run.windows.iter().map(|window| window.from));
    let y = Scale::from_zero(p99.iter().map(|p| p.1));
    let mut plot = Plot::new("Latency over time", ("scheduled at, s", x), ("end to end, ms", y));
    plot.line("p50", 0, &p50, false);
    plot.line("p99", 1, &p99, false);
    let failed: u64 = run.windows.iter().map(|window| window.failed).sum();
    let note = if run.one_in > 1 { format!("Of one request in {}. ", run.one_in) } else { String::new() };
    let gap = if failed > 0 { format!("{failed} failed requests are not in it.") } else { String::new() };
    let said =
        if note.is_empty() && gap.is_empty() { String::new() } else { format!("<p class=quiet>{note}{gap}</p>") };
    plot.svg() + &said
}

fn shares(run: &Report) -> String {
    let all = times(run);
    // Lag and refusals have their lines in the table; three lines are enough for an eye.
    let shown: Vec<_> = all.iter().filter(|(name, _)| !["send lag", "refused"].contains(name)).collect();
    let values = shown.iter().flat_map(|(_, s)| s.distribution.iter().map(|p| p.0));
    let x = Scale::powers(values.collect::<Vec<_>>().into_iter());
    let (x_name, y_name) = ("ms (logarithmic)", "% not longer");
    let mut plot = Plot::new("Share of requests by latency", (x_name, x), (y_name, Scale::Linear(0.0, 100.0)));
    for (colour, (name, summary)) in shown.iter().enumerate() {
        let points: Vec<(f64, f64)> = summary.distribution.iter().map(|(ms, share)| (*ms, 100.0 * share)).collect();
        plot.line(name, colour, &points, false);
    }
    plot.svg()
}

fn inside(run: &Report) -> String {
    if let Some(why) = &run.no_metrics {
        return format!("<p class=quiet>No view inside: {}.</p>", escape(why));
    }
    if run.stages.is_empty() {
        return String::new();
    }
    let rows: Vec<(String, [f64; 2])> =
        run.stages.iter().map(|stage| (format!("stage {}", stage.stage), [stage.busy, stage.bubble])).collect();
    let devices: Vec<(String, [f64; 2])> = run
        .devices
        .iter()
        .enumerate()
        .map(|(n, device)| (format!("device {n}"), [device.busy, device.bubble]))
        .collect();
    let time = |value: Option<f64>| value.map_or("not reported".into(), short);
    let cells = run.stages.iter().map(|stage| {
        vec![
            stage.stage.to_string(),
            format!("{:.0}", stage.rows),
            short(stage.mean_batch),
            time(stage.queue_ms),
            time(stage.compute_ms),
            time(stage.hop_ms),
        ]
    });
    bars("Stages: share of the time", ["busy", "bubble"], &rows)
        + &bars("Devices: share of the time", ["busy", "bubble"], &devices)
        + "<p class=quiet>Bubble: the device waited although requests were there.</p>"
        + &table(&["stage", "rows", "mean batch", "queue ms", "compute ms", "hop ms"], cells.collect())
}

/// A table; its cells are HTML.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let cells = |tag: &str, cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<{tag}>{cell}</{tag}>")).collect::<String>()
    };
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: String = rows.iter().map(|row| format!("<tr>{}</tr>", cells("td", row))).collect();
    format!("<table><thead><tr>{}</tr></thead><tbody>{rows}</tbody></table>", cells("th", &head))
}
