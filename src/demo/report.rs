//! The summary as text: tables of at most 90 columns, then one sentence.

use super::plan::{clock, span};
use super::screen::{percent, seconds, wrap};
use super::summary::{ModelSummary, Summary};
use std::fmt::Write as _;

impl Summary {
    /// The summary for a person.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{}", self.render_head());
        let _ = write!(text, "{}", self.render_response());
        let _ = write!(text, "{}", self.render_tables());
        let _ = write!(text, "\n{}", self.sentence());
        text
    }

    fn render_head(&self) -> String {
        let state = if self.completed { "" } else { ", stopped early" };
        format!(
            "\nSummary: {}, {} of virtual time in {:.1} s ({:.1}x), seed {}{state}\n\n",
            self.scenario,
            span((self.played_s * 1000.0) as i64),
            self.wall.seconds,
            self.wall.speed,
            self.seed,
        )
    }

    fn render_response(&self) -> String {
        let response = &self.response;
        let mut lines = Vec::new();
        lines.push(format!("  load rises              at {}", at(response.rise_at_s)));
        match (response.decision_after_s, &response.variant) {
            (Some(after_s), Some(variant)) => {
                lines.push(format!(
                    "  first raised decision   +{after_s:.0} s    {variant} {} -> {} ({})",
                    response.from.unwrap_or(0),
                    response.to.unwrap_or(0),
                    words(response.reason.as_deref().unwrap_or_default()),
                ));
                if let Some(first) = self.wall.first_raise {
                    lines.push(format!(
                        "                          {:.1} ms from the samples sent to the decision published,",
                        first.published_ms
                    ));
                    lines.push(format!(
                        "                          {} to the new count in a reader's hands (real time)",
                        first.visible_text()
                    ));
                }
            }
            _ => lines.push("  first raised decision   none".to_owned()),
        }
        if let Some(after_s) = response.applied_after_s {
            lines.push(format!(
                "  autoscaler acts         +{after_s:.0} s    it looks every {:.0} s; raises waited {:.1} s on \
                 average",
                self.autoscaler.sync_s,
                self.autoscaler.mean_wait_s.unwrap_or(0.0),
            ));
        }
        lines.push(format!("  enough ready replicas   {}", self.enough_text()));
        lines.join("\n") + "\n\n"
    }

    fn enough_text(&self) -> String {
        match (self.response.enough, self.response.enough_after_s) {
            (_, Some(after_s)) => {
                format!("+{after_s:.0} s   queues and KV cache back under their thresholds")
            }
            ("always", None) => "always  no queue or KV cache passed its threshold".to_owned(),
            _ if self.completed || self.played_s > self.response.fall_at_s => {
                "not while the load was up".to_owned()
            }
            _ => "not yet".to_owned(),
        }
    }

    fn render_tables(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "  {:<34} {:>6} {:>6} {:>8} {:>9} {:>9} {:>8}",
            "model", "served", "in SLO", "load up*", "TTFT p95", "TPOT p95", "max wait"
        );
        for model in &self.models {
            let _ = writeln!(text, "{}", model_line(model));
        }
        let _ = writeln!(
            text,
            "\n  {:<34} {:>6} {:>6} {:>8} {:>9} {:>9}",
            "variant", "peak", "at end", "cost/h", "hours", "cost"
        );
        for variant in &self.variants {
            let _ = writeln!(
                text,
                "  {:<34} {:>6} {:>6} {:>8.2} {:>9.2} {:>9.2}",
                cut(&format!("{} ({})", variant.name, variant.accelerator), 34),
                variant.ready_max,
                variant.ready_at_end,
                variant.cost_per_hour,
                variant.replica_hours,
                variant.cost,
            );
        }
        let _ = writeln!(
            text,
            "  {:<34} {:>6} {:>6} {:>8} {:>9.2} {:>9.2}",
            "total", "", "", "", self.replica_hours, self.cost
        );
        let events = &self.scale_events;
        let _ = writeln!(
            text,
            "\n  decisions {} up, {} down; applied {} up, {} down; most requests waiting {}",
            events.decided_up, events.decided_down, events.applied_up, events.applied_down, self.waiting_max,
        );
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        let _ = writeln!(
            text,
            "  {} samples in {} write requests ({:.0}/s real time); samples to published decisions:\n  \
             median {} ms, 99th percentile {} ms; to a reader: median {} ms, 99th percentile {} ms",
            self.pushed.samples,
            self.pushed.requests,
            self.wall.samples_per_s,
            ms(self.wall.published_p50_ms),
            ms(self.wall.published_p99_ms),
            ms(self.wall.visible_p50_ms),
            ms(self.wall.visible_p99_ms),
        );
        let _ = writeln!(text, "  * share in SLO of the requests that came while the load was up");
        text
    }

    fn sentence(&self) -> String {
        let response = &self.response;
        let mut text = match response.decision_after_s {
            Some(after_s) => format!(
                "The load rose at {}; {after_s:.0} s later the sidecar asked for more replicas",
                at(response.rise_at_s)
            ),
            None if self.played_s <= response.rise_at_s => "The run ended before the load rose".to_owned(),
            None => format!("The load rose at {}; no more replicas were asked for", at(response.rise_at_s)),
        };
        if let Some(first) = self.wall.first_raise {
            let _ = write!(text, " ({} after the samples were sent)", first.visible_text());
        }
        match (response.enough, response.enough_after_s) {
            (_, Some(after_s)) => {
                let _ = write!(text, ", {after_s:.0} s after the rise enough were ready");
            }
            ("always", None) => text += ", and there were enough all along",
            _ if response.decision_after_s.is_some() => text += ", but there were never enough for long",
            _ => {}
        }
        if let Some(attainment) = self.requests.attainment {
            let _ = write!(
                text,
                "; {} of {} requests met their latency targets, for {:.1} replica-hours",
                percent(attainment).trim(),
                self.requests.served + self.requests.lost + self.requests.refused,
                self.replica_hours,
            );
        }
        wrap(&(text + "."), 90, 0) + "\n"
    }
}

fn model_line(model: &ModelSummary) -> String {
    let share = |share: Option<f64>| share.map_or("-".to_owned(), percent);
    let time = |ms: Option<f64>| ms.map_or("-".to_owned(), seconds);
    format!(
        "  {:<34} {:>6} {:>6} {:>8} {:>9} {:>9} {:>8}",
        cut(&model.model, 34),
        model.requests.served,
        share(model.requests.attainment),
        share(model.attainment_while_up),
        time(model.ttft_p95_ms),
        time(model.tpot_p95_ms),
        model.waiting_max,
    )
}

fn at(s: f64) -> String {
    clock((s * 1000.0) as i64)
}

/// A reason code as words.
pub fn words(code: &str) -> String {
    code.replace('_', " ")
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}
