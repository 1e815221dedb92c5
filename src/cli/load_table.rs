//! A load's report for people.

use crate::cli::table::{Table, percent};
use stageline_base::FaultClass;
use stageline_load::compare::Pair;
use stageline_load::histogram::Summary;
use stageline_load::report::short;
use stageline_load::{Amount, Document, Report, Scenario, Shape, sweep};
use std::time::Duration;

/// How many requests a run has, or how long it takes, as far as it is known before: warm-up too.
pub(crate) fn length(scenario: &Scenario) -> (Option<u64>, Option<Duration>) {
    match (scenario.amount, scenario.warm_up) {
        (Some(Amount::Requests(count)), Amount::Requests(first)) => (Some(count + first), None),
        (Some(Amount::Requests(count)), Amount::Time(_)) => (Some(count), None),
        (Some(Amount::Time(time)), Amount::Time(first)) => (None, Some(time + first)),
        (Some(Amount::Time(time)), Amount::Requests(_)) => (None, Some(time)),
        (None, _) => (None, None),
    }
}

/// One line on a step of a sweep.
pub(crate) fn step(report: &Report, share: f64) -> String {
    let p99 = report.end_to_end.as_ref().map_or("-".into(), |summary| short(summary.p99_ms));
    let verdict = if sweep::is_served(report, share) { "served" } else { "too much" };
    format!(
        "{}: {:.1} answered/s, {} good, 99 % within {p99} ms: {verdict}",
        report.scenario.shape,
        report.requests_per_second,
        percent(report.goodput_share)
    )
}

/// All of it.
pub(crate) fn document(document: &Document) -> String {
    let mut text = String::new();
    if let (Some(knee), runs) = (&document.knee, &document.runs) {
        let open = runs.iter().any(|run| !matches!(run.scenario.shape, Shape::Closed { .. }));
        let mut table = Table::new([
            if open { "rate" } else { "at once" },
            "answered/s",
            "good/s",
            "good",
            "tokens/s",
            "p50 ms",
            "p99 ms",
            "refused",
            "failed",
            "harness",
        ]);
        let mut sorted: Vec<&Report> = runs.iter().collect();
        sorted.sort_by(|a, b| a.level().total_cmp(&b.level()));
        for run in sorted {
            let at = |of: fn(&Summary) -> f64| run.end_to_end.as_ref().map_or("-".into(), |s| short(of(s)));
            table.row([
                format!("{}", run.level()),
                format!("{:.1}", run.requests_per_second),
                format!("{:.1}", run.goodput_per_second),
                percent(run.goodput_share),
                format!("{:.0}", run.tokens_per_second),
                at(|s| s.p50_ms),
                at(|s| s.p99_ms),
                run.refused_and_failed().0.to_string(),
                run.refused_and_failed().1.to_string(),
                if run.harness.was_bottleneck { "LIMITED" } else { "ok" }.into(),
            ]);
        }
        text += &format!("{table}\n");
        let level = match knee.level {
            Some(level) if open => format!("{level} requests/s"),
            Some(level) => format!("{level} requests at once"),
            None => "below the lowest load tried".into(),
        };
        let further = if knee.bounded { "" } else { " or more: no load that was tried was too much" };
        text += &format!("knee: {level}{further}\n({})\n", knee.rule);
        for run in runs.iter().filter(|run| run.harness.was_bottleneck) {
            text += &format!("at {}: {}\n", run.level(), run.harness.verdict);
        }
        return text;
    }
    document.runs.iter().for_each(|run| text += &report(run));
    text
}

fn report(run: &Report) -> String {
    let scenario = &run.scenario;
    let mut text = format!("{} at {}, seed {}\n\n", scenario.shape, scenario.target, scenario.seed);
    let mut times = Table::new(["ms", "mean", "p50", "p90", "p95", "p99", "p99.9", "max", "of"]);
    for (name, summary) in [
        ("end to end", &run.end_to_end),
        ("first token", &run.time_to_first_token),
        ("between tokens", &run.between_tokens),
        ("refused", &run.refusals),
        ("send lag", &run.lag),
    ] {
        let Some(s) = summary else { continue };
        let values = [s.mean_ms, s.p50_ms, s.p90_ms, s.p95_ms, s.p99_ms, s.p999_ms, s.max_ms].map(short);
        times.row([name.to_owned()].into_iter().chain(values).chain([s.count.to_string()]));
    }
    text += &format!("{times}\n");
    let offered = run.offered_per_second.map(|rate| format!("offered {rate:.1} requests/s, ")).unwrap_or_default();
    text += &format!(
        "{offered}answered {:.1} requests/s, {:.0} tokens/s ({} of {} requests in {:.1} s)\n",
        run.requests_per_second, run.tokens_per_second, run.answered, run.requests, run.seconds
    );
    text += &format!(
        "goodput {:.1} requests/s, {} of the requests ({})\n",
        run.goodput_per_second,
        percent(run.goodput_share),
        scenario.objective
    );
    if run.interrupted {
        text += "interrupted: the run is not whole, and what was out then counts as unfinished\n";
    }
    for (class, errors) in &run.errors {
        let how = if class == FaultClass::Overloaded.row().name { "refused" } else { "failed" };
        text += &format!("{how}: {} {class}: {}\n", errors.count, errors.example);
        // The target did not say before how many tokens its model has.
        if errors.example.contains("is not one of the model's") {
            let (low, high) = scenario.token_ids;
            text +=
                &format!("(Prompts were made of the ids {low}..{high}: give --token-ids those that the model has.)\n");
        }
    }
    text += &format!("{}\n", run.harness.verdict);
    if run.one_in > 1 {
        text += &format!("(The plot over time is of one request in {}; percentiles are of all.)\n", run.one_in);
    }
    text + &stages(run)
}

fn stages(run: &Report) -> String {
    if let Some(why) = &run.no_metrics {
        return format!("no view inside: {why}\n");
    }
    let time = |value: Option<f64>| value.map_or("not reported".into(), short);
    let mut stages = Table::new(["stage", "rows", "mean batch", "queue ms", "compute ms", "hop ms", "busy", "bubble"]);
    for stage in &run.stages {
        stages.row([
            stage.stage.to_string(),
            format!("{:.0}", stage.rows),
            format!("{:.1}", stage.mean_batch),
            time(stage.queue_ms),
            time(stage.compute_ms),
            time(stage.hop_ms),
            percent(stage.busy),
            percent(stage.bubble),
        ]);
    }
    let mut devices = Table::new(["device", "stages", "busy", "bubble"]);
    for (number, device) in run.devices.iter().enumerate() {
        let held: Vec<String> = device.stages.iter().map(u32::to_string).collect();
        devices.row([number.to_string(), held.join(" "), percent(device.busy), percent(device.bubble)]);
    }
    if run.stages.is_empty() { String::new() } else { format!("\n{stages}\n{devices}") }
}

/// Two reports side by side.
pub(crate) fn pairs(pairs: &[Pair]) -> String {
    let mut text = String::new();
    for pair in pairs {
        let mut table = Table::new(["", "before", "after", "change", ""]);
        for line in &pair.lines {
            let change = line.change();
            let better = change.zip(line.more_is_better).map(|(change, more)| (change > 0.0) == more);
            table.row([
                line.name.clone(),
                line.before.map_or("-".into(), short),
                line.after.map_or("-".into(), short),
                change.map_or("-".into(), |change| format!("{:+.1} %", 100.0 * change)),
                match better {
                    // Two runs of the same thing differ by a few percent.
                    Some(_) if change.is_some_and(|change| change.abs() < 0.05) => "",
                    Some(true) => "better",
                    Some(false) => "worse",
                    None => "",
                }
                .into(),
            ]);
        }
        text += &format!("{}\n{table}", pair.title);
        if !pair.differs.is_empty() {
            text += &format!("(Not the same load: {} differ.)\n", pair.differs.join(", "));
        }
        text += "\n";
    }
    text
}
