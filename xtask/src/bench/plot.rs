//! Bars with spread as SVG, readable on light and dark ground.

use std::fmt::Write as _;

use super::figures::Spread;

const WIDTH: f64 = 860.0;
const LABELS: f64 = 300.0;
const NUMBERS: f64 = 110.0;
const ROW: f64 = 26.0;
const TOP: f64 = 58.0;
const BAR: f64 = 14.0;

/// Colours by the reader's preference; text and lines stay legible on both.
const STYLE: &str = "<style>\
    text{font:13px system-ui,sans-serif;fill:#1f2933}.title{font-size:16px;font-weight:600}.note{fill:#52606d;font-size:12px}\
    .own{fill:#2f7d5b}.peer{fill:#8a94a3}.spread{stroke:#1f2933;stroke-width:1.5}.bound{stroke:#c2410c;stroke-width:1.5;stroke-dasharray:4 3}\
    .boundtext{fill:#c2410c;font-size:12px}\
    @media(prefers-color-scheme:dark){text{fill:#e4e7eb}.note{fill:#9aa5b1}.own{fill:#4fb286}.peer{fill:#7b8794}\
    .spread{stroke:#e4e7eb}.bound{stroke:#fb923c}.boundtext{fill:#fb923c}}\
    </style>";

/// One bar.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is.
    pub label: String,
    /// How long it is.
    pub spread: Spread,
    /// Not ours.
    pub peer: bool,
}

/// A chart with one axis.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Headline.
    pub title: &'a str,
    /// Unit, and which direction is good.
    pub note: &'a str,
    /// The bars.
    pub rows: Vec<Row>,
    /// What is wanted of ours.
    pub bound: Option<f64>,
}

impl Chart<'_> {
    /// The picture.
    #[must_use]
    pub fn svg(&self) -> String {
        let height = TOP + ROW * self.rows.len() as f64 + 34.0;
        let greatest =
            self.rows.iter().map(|row| row.spread.greatest).chain(self.bound).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - LABELS - NUMBERS) / greatest;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">{STYLE}\
             <text class=\"title\" x=\"12\" y=\"24\">{}</text><text class=\"note\" x=\"12\" y=\"43\">{}</text>",
            escape(self.title),
            escape(self.title),
            escape(self.note)
        );
        for (number, row) in self.rows.iter().enumerate() {
            let top = TOP + ROW * number as f64;
            let (end, middle) = (LABELS + row.spread.median * scale, top + BAR / 2.0);
            let after = LABELS + row.spread.greatest * scale + 8.0;
            let drawn = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"{}\" x=\"{LABELS}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\
                 <line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
                 <text x=\"{after:.1}\" y=\"{:.1}\">{}</text>",
                LABELS - 10.0,
                top + 12.0,
                escape(&row.label),
                if row.peer { "peer" } else { "own" },
                end - LABELS,
                LABELS + row.spread.least * scale,
                LABELS + row.spread.greatest * scale,
                top + 12.0,
                number_text(row.spread.median)
            );
            debug_assert!(drawn.is_ok(), "writing to a string cannot fail");
        }
        if let Some(bound) = self.bound {
            let (x, bottom) = (LABELS + bound * scale, TOP + ROW * self.rows.len() as f64);
            svg.push_str(&format!(
                "<line class=\"bound\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\"/>\
                 <text class=\"boundtext\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">target {}</text>",
                TOP - 6.0,
                bottom + 16.0,
                number_text(bound)
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Three digits that matter, with separators.
#[must_use]
pub fn number_text(number: f64) -> String {
    if number >= 1_000.0 {
        let digits = format!("{number:.0}");
        let mut text = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        return text;
    }
    match number {
        number if number >= 100.0 => format!("{number:.0}"),
        number if number >= 10.0 => format!("{number:.1}"),
        number if number >= 0.1 => format!("{number:.2}"),
        number => format!("{number:.3}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_what_matters() {
        assert_eq!(number_text(1_234_567.8), "1,234,568");
        assert_eq!(number_text(1_000.0), "1,000");
        assert_eq!(number_text(99.96), "100.0");
        assert_eq!(number_text(15.25), "15.2");
        assert_eq!(number_text(0.0123), "0.012");
    }

    #[test]
    fn bars_end_at_their_numbers_and_text_is_escaped() {
        let row = |label: &str, median: f64| Row {
            label: label.into(),
            spread: Spread { least: median, median, greatest: median, runs: 1 },
            peer: false,
        };
        let chart = Chart { title: "a < b", note: "n", rows: vec![row("one", 50.0), row("two", 100.0)], bound: None };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b"));
        assert!(svg.contains("width=\"225.0\"") && svg.contains("width=\"450.0\""), "{svg}");
    }
}
