//! A replay as a picture: for each variant the counts over time, as one SVG file without dependencies.

use super::player::Outcome;
use super::report::{clock, time, variants};
use super::tally::{Course, Step};
use crate::units::TimeMs;
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 16.0;
const HEAD: f64 = 76.0;
/// Height of one variant's part, and of the plot in it.
const PANEL: f64 = 140.0;
const PLOT: f64 = 92.0;
/// Marks on the time axis.
const MARKS: i64 = 6;

const STYLE: &str = "\
    svg{color-scheme:light dark;background:Canvas;color:CanvasText;font:12px system-ui,sans-serif}\
    text{fill:currentColor}.dim{opacity:.65}.title{font-size:16px;font-weight:600}.name{font-weight:600}\
    .axis{stroke:currentColor;opacity:.25}.current{fill:currentColor;opacity:.13}\
    path,line{fill:none}.recorded{stroke:#2f7fd6;stroke-width:2}\
    .with{stroke:#d9822b;stroke-width:2;stroke-dasharray:5 3}";

/// The picture.
pub fn svg(outcome: &Outcome) -> String {
    let keys = variants(outcome);
    let height = HEAD + PANEL * keys.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"Replicas over time\"><style>{STYLE}</style>\n"
    );
    let (first, last) = outcome.span.unwrap_or((TimeMs(0), TimeMs(1)));
    let when = format!("{} to {} UTC", time(first), clock(last));
    // Writing to a string cannot fail; here and below.
    let _ = writeln!(
        svg,
        "<text class=\"title\" x=\"16\" y=\"26\">Desired replicas</text>\
         <text class=\"dim\" x=\"{}\" y=\"26\" text-anchor=\"end\">{when}</text>",
        WIDTH - RIGHT
    );
    legend(outcome, &mut svg);
    let axis = Axis { first, span_ms: last.since(first).max(1) };
    for (index, key) in keys.into_iter().enumerate() {
        let recorded = outcome.recorded.courses.get(key);
        let with = outcome.with.as_ref().and_then(|tally| tally.courses.get(key));
        let _ = writeln!(svg, "<g transform=\"translate(0 {})\">", HEAD + PANEL * index as f64);
        panel(&mut svg, &axis, &key.to_string(), recorded, with);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(outcome: &Outcome, svg: &mut String) {
    let cost = outcome.recorded.cost();
    let _ = write!(
        svg,
        "<line class=\"recorded\" x1=\"16\" x2=\"40\" y1=\"48\" y2=\"48\"/>\
         <text x=\"46\" y=\"52\">as recorded, cost {cost:.3}</text>"
    );
    if let Some(with) = &outcome.with {
        let _ = write!(
            svg,
            "<line class=\"with\" x1=\"250\" x2=\"274\" y1=\"48\" y2=\"48\"/>\
             <text x=\"280\" y=\"52\">with the other configuration, cost {:.3}</text>",
            with.cost()
        );
    }
    let _ = writeln!(
        svg,
        "<rect class=\"current\" x=\"580\" y=\"42\" width=\"24\" height=\"12\"/>\
         <text x=\"610\" y=\"52\">replicas there were</text>"
    );
}

struct Axis {
    first: TimeMs,
    span_ms: i64,
}

impl Axis {
    fn x(&self, at: TimeMs) -> f64 {
        let share = at.since(self.first) as f64 / self.span_ms as f64;
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn end(&self) -> TimeMs {
        self.first + self.span_ms
    }
}

fn panel(svg: &mut String, axis: &Axis, name: &str, recorded: Option<&Course>, with: Option<&Course>) {
    let courses = [recorded, with];
    let steps = || courses.into_iter().flatten().flat_map(|course| &course.steps);
    let top = steps().map(|step| step.desired.unwrap_or(0).max(step.current)).max().unwrap_or(0).max(1);
    let y = |count: u32| 16.0 + PLOT - f64::from(count) / f64::from(top) * PLOT;
    let model = recorded.or(with).map_or("", |course| &course.model_id);
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"8\"><tspan class=\"name\">{}</tspan><tspan class=\"dim\" dx=\"8\">{}</tspan></text>",
        escaped(name),
        escaped(model)
    );
    for count in [0, top] {
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{1}\" y2=\"{1}\"/>\
             <text class=\"dim\" x=\"{2}\" y=\"{3}\" text-anchor=\"end\">{count}</text>",
            WIDTH - RIGHT,
            y(count),
            LEFT - 6.0,
            y(count) + 4.0
        );
    }
    for mark in 0..=MARKS {
        let at = axis.first + axis.span_ms * mark / MARKS;
        let anchor = if mark == 0 {
            "start"
        } else if mark == MARKS {
            "end"
        } else {
            "middle"
        };
        let _ = writeln!(
            svg,
            "<text class=\"dim\" x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            axis.x(at),
            16.0 + PLOT + 16.0,
            clock(at)
        );
    }
    if let Some(course) = recorded.or(with) {
        let path = line(axis, &course.steps, y, |step| Some(step.current), true);
        let _ = writeln!(svg, "<path class=\"current\" style=\"fill:currentColor\" d=\"{path}\"/>");
    }
    for (class, course) in [("recorded", recorded), ("with", with)] {
        let Some(course) = course else { continue };
        let path = line(axis, &course.steps, y, |step| step.desired, false);
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
    }
}

/// A line of steps; `closed` ones go back along zero.
fn line(
    axis: &Axis,
    steps: &[Step],
    y: impl Fn(u32) -> f64,
    count: impl Fn(&Step) -> Option<u32>,
    closed: bool,
) -> String {
    let mut path = String::new();
    let mut began = None;
    for (index, step) in steps.iter().enumerate() {
        let until = steps.get(index + 1).map_or(axis.end(), |next| next.at);
        let (from, until) = (axis.x(step.at), axis.x(until));
        let Some(count) = count(step) else {
            close(&mut path, began.take().filter(|_| closed), from, y(0));
            continue;
        };
        let at = y(count);
        if began.is_none() {
            began = Some(from);
            let _ = write!(path, "M{from:.1} {at:.1}");
        }
        let _ = write!(path, "V{at:.1}H{until:.1}");
    }
    close(&mut path, began.filter(|_| closed), axis.x(axis.end()), y(0));
    path
}

fn close(path: &mut String, began: Option<f64>, at: f64, zero: f64) {
    if let Some(began) = began {
        let _ = write!(path, "H{at:.1}V{zero:.1}H{began:.1}Z");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
