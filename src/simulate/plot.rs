//! The picture of a comparison: one self-contained SVG.
//!
//! Per scenario a block: the load above, then one row per policy with its replicas against what the load
//! needs, the requests that wait, and the share of those finished within the targets. Rows of a block share
//! their scales, so that they can be compared.

mod course;

use anyhow::Context as _;
use course::{Bins, Course, Load, Pieces, highest};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{Study, yardstick};
use super::run::Outcome;
use super::scenario::Scenario;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Width of the picture, and heights of its parts, px.
const WIDTH: u32 = 1480;
const TITLE: u32 = 44;
const BLOCK_HEAD: u32 = 66;
const ROW: u32 = 150;
const BLOCK_GAP: u32 = 26;
/// Left edges of the columns, and the right edge, px.
const COLUMNS: [i32; 4] = [12, 640, 1060, 1472];

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(38, 43, 51);
const DIM: RGBColor = RGBColor(106, 114, 126);
const GRID: RGBColor = RGBColor(222, 226, 231);
const CURRENT: RGBColor = RGBColor(178, 203, 230);
const READY: RGBColor = RGBColor(31, 97, 168);
const DESIRED: RGBColor = RGBColor(217, 119, 6);
const NEEDED: RGBColor = RGBColor(38, 43, 51);
const WAITING: RGBColor = RGBColor(124, 58, 180);
const ATTAINED: RGBColor = RGBColor(21, 128, 61);
const MISSED: RGBColor = RGBColor(220, 38, 38);
const LOAD: RGBColor = RGBColor(71, 85, 105);

/// A policy whose replicas exceed those of the others by this factor has a scale of its own.
const OWN_SCALE: f64 = 1.8;

/// Draws every policy of every scenario.
///
/// # Errors
/// When the drawing library cannot place something.
pub fn svg(study: &Study) -> anyhow::Result<String> {
    let height_of = |outcomes: &Vec<Outcome>| BLOCK_HEAD + ROW * (outcomes.len() as u32 + 1) + BLOCK_GAP;
    let height = TITLE + study.outcomes.iter().map(height_of).sum::<u32>();
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&root, study).and_then(|()| Ok(root.present()?)).context("cannot draw the picture")?;
    }
    Ok(text)
}

fn draw(root: &Area<'_>, study: &Study) -> anyhow::Result<()> {
    root.fill(&WHITE)?;
    write(root, "What each policy does, costs and holds", (12, 12), 20, &INK)?;
    write(root, &study.provenance.to_string(), (COLUMNS[2], 17), 12, &DIM)?;
    let mut top = TITLE;
    for (scenario, outcomes) in study.scenarios.iter().zip(&study.outcomes) {
        let height = BLOCK_HEAD + ROW * (outcomes.len() as u32 + 1);
        block(&root.clone().shrink((0, top), (WIDTH, height)), scenario, outcomes)?;
        top += height + BLOCK_GAP;
    }
    Ok(())
}

/// A scenario with its policies.
fn block(area: &Area<'_>, scenario: &Scenario, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let bins = Bins::over(scenario.trace.duration_ms() as f64 / 1000.0);
    let load = Load::of(scenario, bins);
    let courses: Vec<Course> = outcomes.iter().map(|outcome| Course::of(outcome, bins)).collect();
    area.draw(&PathElement::new(vec![(0, 0), (WIDTH as i32, 0)], GRID))?;
    write(area, &scenario.name(), (12, 10), 16, &INK)?;
    write(area, &scenario.summary(), (12, 32), 12, &DIM)?;
    legend(area)?;
    let row = |index: u32| area.clone().shrink((0, BLOCK_HEAD + ROW * index), (WIDTH, ROW));
    load_row(&row(0), bins, &load)?;
    let top = Scales::of(&load, &courses);
    for (index, (outcome, course)) in outcomes.iter().zip(&courses).enumerate() {
        let area = row(index as u32 + 1);
        let bold = (FONT, 14).into_font().style(FontStyle::Bold).color(&INK);
        area.draw(&Text::new(outcome.policy.clone(), (COLUMNS[0] + 46, 4), bold))?;
        write(&area, &headline(outcome, yardstick(outcomes)), (COLUMNS[0] + 160, 6), 12, &INK)?;
        policy_row(&area, bins, &load, course, &top)?;
    }
    Ok(())
}

fn headline(outcome: &Outcome, yardstick: Option<f64>) -> String {
    let ratio = yardstick.map(|hours| format!(" = {:.2} x oracle", outcome.replica_hours / hours));
    format!(
        "{:.2} % attained, {:.2} replica-hours{}, at most {} replicas",
        outcome.attainment() * 100.0,
        outcome.replica_hours,
        ratio.unwrap_or_default(),
        outcome.peak
    )
}

/// Tops of the axes that the rows of a block share.
struct Scales {
    replicas: f64,
    /// On the axis of [`waiting_axis`].
    waiting: f64,
}

impl Scales {
    fn of(load: &Load, courses: &[Course]) -> Self {
        let mut tops: Vec<f64> = courses.iter().map(Scales::replicas_of).collect();
        tops.sort_by(f64::total_cmp);
        let median = tops.get(tops.len() / 2).copied().unwrap_or(1.0).max(highest(&load.needed));
        let common = tops.iter().copied().filter(|top| *top <= OWN_SCALE * median).fold(median, f64::max);
        let waiting = courses.iter().map(|course| highest(&course.waiting)).fold(9.0, f64::max);
        Scales { replicas: common.max(1.0), waiting: waiting_axis(waiting) }
    }

    fn replicas_of(course: &Course) -> f64 {
        highest(&course.desired).max(highest(&course.current))
    }
}

/// Place of a number of requests: 0, then a unit for every power of ten from 1 on.
fn waiting_axis(requests: f64) -> f64 {
    if requests < 1.0 { requests.max(0.0) } else { 1.0 + requests.log10() }
}

fn waiting_label(place: f64) -> String {
    let place = place.round() as i32;
    match place {
        0 => "0".to_owned(),
        1..=3 => format!("{}", 10_u64.pow(place as u32 - 1)),
        4..=6 => format!("{}k", 10_u64.pow(place as u32 - 4)),
        _ => format!("{}M", 10_u64.pow((place as u32).saturating_sub(7).min(9))),
    }
}

fn legend(area: &Area<'_>) -> anyhow::Result<()> {
    let (mut x, y) = (COLUMNS[1] + 44, 40);
    let swatch = |x: i32, from: i32, to: i32| [(x, y + from), (x + 22, y + to)];
    write(area, "replicas:", (x, y - 6), 12, &DIM)?;
    x += 64;
    area.draw(&Rectangle::new(swatch(x, -5, 5), CURRENT.filled()))?;
    write(area, "existing", (x + 28, y - 6), 12, &INK)?;
    x += 98;
    for (name, color, width) in [("ready", READY, 82), ("desired", DESIRED, 94)] {
        area.draw(&PathElement::new(swatch(x, 0, 0), color.stroke_width(2)))?;
        write(area, name, (x + 28, y - 6), 12, &INK)?;
        x += width;
    }
    for at in [0, 8, 16] {
        area.draw(&PathElement::new(vec![(x + at, y), (x + at + 5, y)], NEEDED))?;
    }
    write(area, "filled by the load at the targeted pace", (x + 28, y - 6), 12, &INK)?;
    x = COLUMNS[3] - 120;
    area.draw(&PathElement::new(swatch(x - 96, 0, 0), ATTAINED.stroke_width(2)))?;
    write(area, "attained", (x - 68, y - 6), 12, &INK)?;
    area.draw(&Rectangle::new(swatch(x, -5, 5), MISSED.mix(0.25).filled()))?;
    write(area, "missed", (x + 28, y - 6), 12, &INK)
}

fn load_row(area: &Area<'_>, bins: Bins, load: &Load) -> anyhow::Result<()> {
    let panels = [
        ("load: requests per second", &load.requests_per_s),
        ("load: prompt tokens per second", &load.prompt_per_s),
        ("load: tokens to generate per second", &load.output_per_s),
    ];
    for (index, (title, values)) in panels.into_iter().enumerate() {
        let panel = Panel { title, bins, top: highest(values).max(1e-3) * 1.05, y_labels: 4 };
        let area = cell(area, index);
        panel.draw(&area, &si, |chart| {
            for piece in bins.steps(values) {
                chart.draw_series(AreaSeries::new(piece, 0.0, LOAD.mix(0.25)).border_style(LOAD))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn policy_row(
    area: &Area<'_>,
    bins: Bins,
    load: &Load,
    course: &Course,
    scales: &Scales,
) -> anyhow::Result<()> {
    let own = Scales::replicas_of(course);
    let top = if own > scales.replicas { own } else { scales.replicas };
    let panel = Panel { title: "", bins, top: top * 1.06, y_labels: 5 };
    panel.draw(&cell(area, 0), &whole, |chart| {
        for piece in bins.steps(&course.current) {
            chart.draw_series(AreaSeries::new(piece, 0.0, CURRENT))?;
        }
        lines(chart, bins.steps(&course.desired), DESIRED.stroke_width(1))?;
        lines(chart, bins.steps(&course.ready), READY.stroke_width(2))?;
        for piece in bins.steps(&load.needed) {
            chart.draw_series(DashedLineSeries::new(piece, 5, 3, NEEDED.stroke_width(1)))?;
        }
        Ok(())
    })?;
    let waiting: Vec<Option<f64>> = course.waiting.iter().map(|value| value.map(waiting_axis)).collect();
    let panel = Panel {
        title: "requests waiting, logarithmic",
        bins,
        top: scales.waiting.ceil() * 1.04,
        y_labels: 6,
    };
    panel.draw(&cell(area, 1), &waiting_label, |chart| {
        for piece in bins.steps(&waiting) {
            chart.draw_series(AreaSeries::new(piece, 0.0, WAITING.mix(0.2)).border_style(WAITING))?;
        }
        Ok(())
    })?;
    let panel = Panel { title: "finished within both targets, %", bins, top: 104.0, y_labels: 5 };
    panel.draw(&cell(area, 2), &whole, |chart| {
        for mut piece in bins.coarse().steps(&course.attained_percent) {
            piece.iter_mut().for_each(|point| point.0 = point.0.min(bins.end_s()));
            chart.draw_series(AreaSeries::new(piece.clone(), 100.0, MISSED.mix(0.25)))?;
            chart.draw_series(LineSeries::new(piece, ATTAINED.stroke_width(2)))?;
        }
        Ok(())
    })
}

fn cell<'a>(row: &Area<'a>, column: usize) -> Area<'a> {
    let (from, to) = (COLUMNS[column], COLUMNS[column + 1]);
    row.clone().shrink((from, 0), (to - from - 8, ROW as i32))
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn lines(chart: &mut Chart<'_, '_>, pieces: Pieces, style: ShapeStyle) -> anyhow::Result<()> {
    for piece in pieces {
        chart.draw_series(LineSeries::new(piece, style))?;
    }
    Ok(())
}

/// A small chart over time, with its title above.
struct Panel<'a> {
    title: &'a str,
    bins: Bins,
    top: f64,
    y_labels: usize,
}

impl Panel<'_> {
    fn draw<'b>(
        &self,
        area: &Area<'b>,
        y_label: &dyn Fn(f64) -> String,
        series: impl FnOnce(&mut Chart<'_, 'b>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        write(area, self.title, (46, 6), 12, &INK)?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(26)
            .margin_right(10)
            .x_label_area_size(20)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..self.bins.end_s(), 0.0..self.top)?;
        let label = (FONT, 11).into_font().color(&DIM);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .x_labels(0)
            .y_labels(self.y_labels)
            .y_label_formatter(&|value| y_label(*value))
            .label_style(label.clone())
            .draw()?;
        series(&mut chart)?;
        self.time_axis(area, &chart)
    }

    /// Marks of the time at whole units; the unit stands with the last one.
    fn time_axis(&self, area: &Area<'_>, chart: &Chart<'_, '_>) -> anyhow::Result<()> {
        use plotters::style::text_anchor::{HPos, Pos, VPos};
        let (unit, unit_s) = if self.bins.end_s() > 3.0 * 3600.0 { ("h", 3600.0) } else { ("min", 60.0) };
        let end = self.bins.end_s() / unit_s;
        let steps = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 240.0];
        let step = steps.into_iter().find(|step| end / step <= 8.0).unwrap_or(end / 8.0);
        let style = (FONT, 11).into_font().color(&DIM).pos(Pos::new(HPos::Center, VPos::Top));
        let base = area.get_base_pixel();
        for mark in 0..=(end / step) as u32 {
            let value = f64::from(mark) * step;
            let (x, y) = chart.backend_coord(&(value * unit_s, 0.0));
            let (x, y) = (x - base.0, y - base.1);
            area.draw(&PathElement::new(vec![(x, y), (x, y + 4)], DIM))?;
            let is_last = mark == (end / step) as u32;
            let text = if is_last { format!("{value} {unit}") } else { value.to_string() };
            area.draw(&Text::new(text, (x, y + 6), style.clone()))?;
        }
        Ok(())
    }
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, color: &RGBColor) -> anyhow::Result<()> {
    let style = (FONT, size).into_font().color(color);
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

/// A whole number; nothing in between.
fn whole(value: f64) -> String {
    if (value - value.round()).abs() < 1e-6 { format!("{value:.0}") } else { String::new() }
}

/// A quantity with three digits at most.
fn si(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", (v / 1e5).round() / 10.0),
        v if v >= 1e3 => format!("{}k", (v / 1e2).round() / 10.0),
        v => format!("{}", (v * 100.0).round() / 100.0),
    }
}
