//! Plots as SVG: bars of rates and lines of latencies. Everything is placed here and coloured by the page, so that one drawing is right
//! in light, in dark and on paper. The drawing is 360 units wide and shown at 340 to 560 pixels: text stays legible on a telephone.

use crate::figures::{rate, time};
use crate::report::Row;
use std::fmt::Write as _;

const WIDTH: f64 = 360.0;
/// Where names end and figures begin.
const LEFT: f64 = 92.0;
/// Room for a figure behind the longest bar.
const RIGHT: f64 = 84.0;
const LINE: f64 = 19.0;
const HEADING: f64 = 20.0;
/// How many times the lowest rate the highest is from which on bars are logarithmic.
const LOGARITHMIC_FROM: f64 = 50.0;
/// Most characters of a store's name beside its bar.
const NAME_CHARS: usize = 12;

/// Bars of operations in a second, grouped by callers, each with the lowest and the highest round, and a mark where the engine's bare
/// client is.
#[must_use]
pub fn rates(rows: &[&Row], stores: &[String]) -> String {
    let floor =
        |row: &Row| row.of_floor.filter(|ratio| ratio.median > 0.0).map(|ratio| row.per_second.median / ratio.median);
    let most = rows.iter().map(|row| row.per_second.high.max(floor(row).unwrap_or_default())).fold(1.0, f64::max);
    let least = rows.iter().map(|row| row.per_second.median).filter(|rate| *rate > 0.0).fold(most, f64::min);
    let (lowest, highest) = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
    // Beside a store in memory one that answers over a network has no bar that can be seen.
    let logarithmic = most / least > LOGARITHMIC_FROM;
    let scale = |value: f64| {
        let share = if logarithmic { (value.max(1e-3).log10() - lowest) / (highest - lowest) } else { value / most };
        LEFT + (WIDTH - LEFT - RIGHT) * share.clamp(0.0, 1.0)
    };
    let title = if logarithmic { "operations in a second, each line ten times" } else { "operations in a second" };
    let drawn = draw(title, rows, stores, |svg, row, y| {
        let spread = row.per_second;
        let (middle, height) = (y + LINE / 2.0, LINE - 6.0);
        let width = (scale(spread.median) - LEFT).max(1.0);
        let _ = write!(
            svg,
            "<rect class=\"bar\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height}\"/>",
            y + 3.0
        );
        let (low, high) = (scale(spread.low), scale(spread.high));
        let _ = write!(
            svg,
            "<path class=\"whisker\" d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v6M{high:.1} {:.1}v6\"/>",
            middle - 3.0,
            middle - 3.0
        );
        let mut end = high.max(LEFT + width);
        if let Some(floor) = floor(row) {
            let at = scale(floor);
            let _ = write!(svg, "<path class=\"floor\" d=\"M{at:.1} {:.1}v{:.1}\"/>", y + 1.0, LINE - 2.0);
            end = end.max(at);
        }
        text(svg, "value", end + 5.0, middle + 4.0, &rate(spread.median));
    });
    if !logarithmic {
        return drawn;
    }
    with_scale(drawn, rows, lowest, highest, |power| scale(10_f64.powi(power)), |power| rate(10_f64.powi(power)))
}

/// A drawing with a logarithmic scale behind everything, and its figures below.
fn with_scale(
    mut drawn: String,
    rows: &[&Row],
    lowest: f64,
    highest: f64,
    place: impl Fn(i32) -> f64,
    name: impl Fn(i32) -> String,
) -> String {
    let height = height(rows);
    let mut axis = String::new();
    for power in lowest as i32..=highest as i32 {
        let x = place(power);
        let _ = write!(axis, "<path class=\"grid\" d=\"M{x:.1} 22V{:.1}\"/>", height - 4.0);
        // Every second one where they stand too near.
        if (highest - lowest) < 4.0 || (power - lowest as i32) % 2 == 0 {
            let _ = write!(axis, "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>", height + 10.0, name(power));
        }
    }
    if let Some(at) = drawn.find("</title>") {
        drawn.insert_str(at + "</title>".len(), &axis);
    }
    drawn
}

/// Lines from the median latency over the 99th percentile to the 99.9th, on a logarithmic scale.
#[must_use]
pub fn latencies(rows: &[&Row], stores: &[String]) -> String {
    let all = || rows.iter().flat_map(|row| [row.latency.p50_us, row.latency.p999_us]).filter(|micros| *micros > 0.0);
    let lowest = all().fold(f64::MAX, f64::min).clamp(0.1, 1e8).log10().floor();
    let highest = all().fold(0.0, f64::max).clamp(1.0, 1e9).log10().ceil().max(lowest + 1.0);
    let place = |micros: f64| {
        LEFT + (WIDTH - LEFT - RIGHT) * ((micros.max(0.1).log10() - lowest) / (highest - lowest)).clamp(0.0, 1.0)
    };
    let drawn = draw("latency: half, 99 and 99.9 of 100", rows, stores, |svg, row, y| {
        let middle = y + LINE / 2.0;
        let (p50, p99, p999) = (place(row.latency.p50_us), place(row.latency.p99_us), place(row.latency.p999_us));
        let _ =
            write!(svg, "<path class=\"line\" d=\"M{p50:.1} {middle:.1}H{p999:.1}M{p999:.1} {:.1}v8\"/>", middle - 4.0);
        let _ = write!(svg, "<circle class=\"dot\" cx=\"{p50:.1}\" cy=\"{middle:.1}\" r=\"4\"/>");
        let _ = write!(svg, "<circle class=\"ring\" cx=\"{p99:.1}\" cy=\"{middle:.1}\" r=\"4\"/>");
        text(svg, "value", WIDTH - RIGHT + 8.0, middle + 4.0, &time(row.latency.p99_us));
    });
    with_scale(drawn, rows, lowest, highest, |power| place(10_f64.powi(power)), short)
}

/// A power of ten of microseconds.
fn short(power: i32) -> String {
    let value = 10_f64.powi(power);
    match power {
        ..0 => format!("{value} µs"),
        0..3 => format!("{value:.0} µs"),
        3..6 => format!("{:.0} ms", value / 1e3),
        _ => format!("{:.0} s", value / 1e6),
    }
}

fn height(rows: &[&Row]) -> f64 {
    HEADING + groups(rows).len() as f64 * HEADING + rows.len() as f64 * LINE
}

fn groups(rows: &[&Row]) -> Vec<u32> {
    let mut groups: Vec<u32> = rows.iter().map(|row| row.callers).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// A drawing with a line for each row, grouped by callers.
fn draw(title: &str, rows: &[&Row], stores: &[String], line: impl Fn(&mut String, &Row, f64)) -> String {
    let total = height(rows) + 16.0;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {total}\" role=\"img\"><title>{}</title>", escape(title));
    text(&mut svg, "title", 0.0, 13.0, title);
    let mut y = HEADING;
    for callers in groups(rows) {
        let caption = if callers == 1 { "1 caller".to_owned() } else { format!("{callers} callers") };
        text(&mut svg, "group", 0.0, y + 14.0, &caption);
        y += HEADING;
        for row in rows.iter().filter(|row| row.callers == callers) {
            let colour = stores
                .iter()
                .position(|store| *store == row.store)
                .map_or_else(|| "none".into(), |at| (at % 8).to_string());
            let name: String = match row.store.chars().count() {
                ..=NAME_CHARS => row.store.clone(),
                _ => row.store.chars().take(NAME_CHARS - 1).chain(['…']).collect(),
            };
            let _ = write!(svg, "<g class=\"store-{colour}\"><title>{}</title>", escape(&row.store));
            text(&mut svg, "name", LEFT - 6.0, y + LINE / 2.0 + 4.0, &name);
            if row.is_measured() {
                line(&mut svg, row, y);
            } else {
                text(&mut svg, "value", LEFT, y + LINE / 2.0 + 4.0, "not measured");
            }
            svg.push_str("</g>");
            y += LINE;
        }
    }
    svg.push_str("</svg>");
    svg
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, text: &str) {
    let _ = write!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
