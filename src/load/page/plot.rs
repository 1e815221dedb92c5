//! A plot as inline SVG: axes with round numbers, lines and bars, a legend.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 42.0;
/// Blue, vermilion, green: told apart by most eyes, and by their dashes in black and white.
const COLOURS: [&str; 3] = ["#1f5fa8", "#c2500a", "#2e7d4f"];
const DASHES: [&str; 3] = ["", "6 3", "2 3"];

/// How letters and grids look. In the SVG itself, since not every program that prints applies a page's style to it.
const LETTERS: &str = r##"font-family="system-ui, sans-serif" font-size="11" fill="#333""##;
const BOLD: &str = r#"font-weight="600" font-size="12.5""#;
const GRID: &str = r##"stroke="#e2e2e2" stroke-width="1""##;

/// How numbers lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// From the first to the second, evenly.
    Linear(f64, f64),
    /// By their logarithms; both ends above 0.
    Log(f64, f64),
}

impl Scale {
    /// An even axis from 0 that holds all `values`.
    pub fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        let most = values.filter(|v| v.is_finite()).fold(0.0, f64::max);
        Self::Linear(0.0, if most > 0.0 { most * 1.05 } else { 1.0 })
    }

    /// An axis of whole powers of ten that holds all `values` above 0.
    pub fn powers(values: impl Iterator<Item = f64> + Clone) -> Self {
        let above = values.filter(|v| v.is_finite() && *v > 0.0);
        let low = above.clone().fold(f64::INFINITY, f64::min);
        let high = above.fold(0.0, f64::max);
        if high <= 0.0 {
            return Self::Log(0.1, 1.0);
        }
        let (low, high) = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()));
        Self::Log(low, if high > low { high } else { low * 10.0 })
    }

    /// Where `value` lies, 0 to 1.
    fn place(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear(low, high) => (value - low) / (high - low),
            Self::Log(low, high) => (value.max(low) / low).log10() / (high / low).log10(),
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear(low, high) => {
                let rough = (high - low) / 5.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
                let first = (low / step).ceil() as i64;
                (first..).map(|n| n as f64 * step).take_while(|tick| *tick <= high * (1.0 + 1e-9)).take(20).collect()
            }
            Self::Log(low, high) => {
                let (low, high) = (low.log10().round() as i32, high.log10().round() as i32);
                (low..=high).map(|power| 10f64.powi(power)).collect()
            }
        }
    }
}

/// A plot that is being drawn.
pub(super) struct Plot {
    title: String,
    axes: [(String, Scale); 2],
    drawn: String,
    legend: Vec<(String, usize)>,
}

impl Plot {
    /// With these axes, each with its name and unit.
    pub fn new(title: &str, x: (&str, Scale), y: (&str, Scale)) -> Self {
        let axes = [(x.0.to_owned(), x.1), (y.0.to_owned(), y.1)];
        Self { title: title.to_owned(), axes, drawn: String::new(), legend: Vec::new() }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.axes[0].1.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.axes[1].1.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// A line through `points`, in the colour of this number; a dot at each if `dots`.
    pub fn line(&mut self, name: &str, colour: usize, points: &[(f64, f64)], dots: bool) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{:.1},{:.1}", self.x(*x), self.y(*y))).collect();
        let (stroke, dash) = (COLOURS[colour % 3], DASHES[colour % 3]);
        // Writing to a String cannot fail.
        let _ = write!(
            self.drawn,
            r#"<polyline points="{}" fill="none" stroke="{stroke}" stroke-width="1.8" stroke-dasharray="{dash}"/>"#,
            path.join(" ")
        );
        if dots {
            for (x, y) in points {
                let (x, y) = (self.x(*x), self.y(*y));
                let _ = write!(self.drawn, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{stroke}"/>"#);
            }
        }
        self.legend.push((name.to_owned(), colour));
    }

    /// A word beside a point.
    pub fn word(&mut self, at: (f64, f64), text: &str) {
        let (x, y) = (self.x(at.0), self.y(at.1) - 7.0);
        let anchor = if x > WIDTH * 0.8 { "end" } else { "start" };
        let _ = write!(self.drawn, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(text));
    }

    /// The SVG.
    pub fn svg(self) -> String {
        let mut svg = format!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" {LETTERS} role="img" aria-label="{0}"><text {BOLD} x="{LEFT}" y="14">{0}</text>"#,
            escape(&self.title)
        );
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in self.axes[0].1.ticks() {
            let x = self.x(tick);
            let _ = write!(svg, r##"<line {GRID} x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom}"/>"##);
            let (y, said) = (bottom + 15.0, number(tick));
            let _ = write!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{said}</text>"#);
        }
        for tick in self.axes[1].1.ticks() {
            let y = self.y(tick);
            let _ = write!(svg, r##"<line {GRID} x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/>"##);
            let (x, y, said) = (LEFT - 6.0, y + 4.0, number(tick));
            let _ = write!(svg, r#"<text x="{x}" y="{y:.1}" text-anchor="end">{said}</text>"#);
        }
        let (middle, y) = ((LEFT + right) / 2.0, HEIGHT - 8.0);
        let _ = write!(svg, r#"<text x="{middle}" y="{y}" text-anchor="middle">{}</text>"#, escape(&self.axes[0].0));
        let middle = (TOP + bottom) / 2.0;
        let name = escape(&self.axes[1].0);
        let _ =
            write!(svg, r#"<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{name}</text>"#);
        svg += &self.drawn;
        let mut x = right;
        for (name, colour) in self.legend.iter().rev() {
            // About as wide as the letters are.
            x -= 6.4 * name.chars().count() as f64;
            let (stroke, dash) = (COLOURS[colour % 3], DASHES[colour % 3]);
            let from = x - 26.0;
            let _ = write!(
                svg,
                r#"<line x1="{from:.0}" x2="{:.0}" y1="10" y2="10" stroke="{stroke}" stroke-width="2" stroke-dasharray="{dash}"/><text x="{x:.0}" y="14">{}</text>"#,
                x - 5.0,
                escape(name)
            );
            x = from - 12.0;
        }
        svg + "</svg>"
    }
}

/// Bars of parts that add up to at most 1, one a row.
pub(super) fn bars(title: &str, parts: [&str; 2], rows: &[(String, [f64; 2])]) -> String {
    let height = TOP + 26.0 * rows.len() as f64 + 8.0;
    let mut svg = format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" {LETTERS} role="img" aria-label="{0}"><text {BOLD} x="{LEFT}" y="14">{0}</text>"#,
        escape(title)
    );
    let full = WIDTH - LEFT - 130.0;
    for (row, (name, shares)) in rows.iter().enumerate() {
        let y = TOP + 26.0 * row as f64;
        let (text, x) = (y + 13.0, LEFT - 6.0);
        let _ = write!(svg, r#"<text x="{x}" y="{text}" text-anchor="end">{}</text>"#, escape(name));
        let _ = write!(svg, r##"<rect x="{LEFT}" y="{y}" width="{full}" height="18" fill="#eee"/>"##);
        let mut from = LEFT;
        for (share, fill) in shares.iter().zip([COLOURS[0], "#f0b27a"]) {
            let width = (share.clamp(0.0, 1.0) * full).min(LEFT + full - from).max(0.0);
            let _ = write!(svg, r#"<rect x="{from:.1}" y="{y}" width="{width:.1}" height="18" fill="{fill}"/>"#);
            from += width;
        }
        let [busy, bubble] = shares.map(|share| format!("{:.1} %", 100.0 * share));
        let x = LEFT + full + 8.0;
        let _ = write!(svg, r#"<text x="{x}" y="{text}">{busy}, {bubble}</text>"#);
    }
    let mut x = WIDTH - RIGHT;
    for (name, fill) in parts.into_iter().zip([COLOURS[0], "#f0b27a"]).rev() {
        x -= 6.4 * name.chars().count() as f64;
        let from = x - 16.0;
        let _ = write!(
            svg,
            r#"<rect x="{from}" y="4" width="11" height="11" fill="{fill}"/><text x="{x}" y="14">{name}</text>"#
        );
        x = from - 12.0;
    }
    svg + "</svg>"
}

/// A tick's number, short.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if value.abs() >= 1e4 {
        return format!("{}k", (value / 1e2).round() / 10.0);
    }
    let digits = (2 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Text that may stand anywhere in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        assert_eq!(Scale::Linear(0.0, 10.5).ticks(), [0.0, 5.0, 10.0]);
        assert_eq!(Scale::powers([0.03, 2.0].into_iter()).ticks(), [0.01, 0.1, 1.0, 10.0]);
        assert_eq!(Scale::from_zero([].into_iter()), Scale::Linear(0.0, 1.0));
        for (value, text) in [(0.0, "0"), (0.01, "0.01"), (2.5, "2.5"), (1000.0, "1000"), (25_000.0, "25k")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn what_lies_outside_stays_on_the_paper() {
        for scale in [Scale::Linear(0.0, 1.0), Scale::Log(0.1, 10.0)] {
            assert_eq!((scale.place(-1.0), scale.place(1e9)), (0.0, 1.0));
        }
        assert_eq!(Scale::Log(0.1, 10.0).place(1.0), 0.5);
    }
}
