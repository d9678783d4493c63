//! The summary as text: at most 80 columns, then one sentence.

use super::plan::{clock, span};
use super::screen::{percent, seconds, wrap};
use super::summary::{ModelSummary, Summary};
use super::wall::Reaction;
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
            "\nSummary: {}, {} of virtual time in {:.1} s ({:.1}x), mode {}, seed {}{state}\n\n",
            self.scenario,
            span((self.played_s * 1000.0) as i64),
            self.wall.seconds,
            self.wall.speed,
            self.mode,
            self.seed,
        )
    }

    fn render_response(&self) -> String {
        let response = &self.response;
        let mut text = String::new();
        let mut line = |what: &str, when: &str, how: &str| {
            let _ = writeln!(text, "{}", format!("  {what:<22} {when:<7} {how}").trim_end());
        };
        line("load rises", &at(response.rise_at_s), "");
        match (response.decision_after_s, &response.variant) {
            (Some(after_s), Some(variant)) => {
                let (from, to) = (response.from.unwrap_or(0), response.to.unwrap_or(0));
                let reason = words(response.reason.as_deref().unwrap_or_default());
                line(
                    "first raised decision",
                    &later(after_s),
                    &format!("{variant} {from} -> {to} ({reason})"),
                );
                if let Some(Reaction { published_ms, visible_ms }) = self.wall.first_raise {
                    let published = format!("{published_ms:.1} ms from samples sent to decision published");
                    line("  in real time", "", &published);
                    line("", "", &format!("{visible_ms:.1} ms to the number in a reader's hands"));
                }
            }
            _ => line("first raised decision", "none", ""),
        }
        if let Some(after_s) = response.applied_after_s {
            let scaler = &self.autoscaler;
            let waited = scaler.mean_wait_s.unwrap_or(0.0);
            let how = format!("looks every {:.0} s; raises wait {waited:.1} s on average", scaler.sync_s);
            line("autoscaler acts", &later(after_s), &how);
        }
        if let Some(after_s) = response.short_after_s {
            let how = format!("{:.0} s in all (queue or KV cache over threshold)", response.short_for_s);
            line("short of replicas", &later(after_s), &how);
        }
        let (when, how) = self.enough();
        line("enough ready replicas", &when, how);
        text + "\n"
    }

    fn enough(&self) -> (String, &'static str) {
        let over = self.completed || self.played_s > self.response.fall_at_s;
        match (self.response.enough, self.response.enough_after_s) {
            (_, Some(after_s)) => (later(after_s), "all under threshold, with the load still up"),
            ("always", None) => ("always".to_owned(), "no queue or KV cache passed its threshold"),
            _ if over => ("never".to_owned(), "not while the load was up"),
            _ => ("not yet".to_owned(), ""),
        }
    }

    fn render_tables(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "  {:<32} {:>6} {:>6} {:>8} {:>6} {:>6} {:>8}",
            "model", "served", "in SLO", "load up*", "TTFT", "TPOT", "max wait"
        );
        for model in &self.models {
            let _ = writeln!(text, "{}", model_line(model));
        }
        let _ = writeln!(
            text,
            "\n  {:<32} {:>6} {:>6} {:>8} {:>9} {:>9}",
            "variant", "peak", "at end", "cost/h", "hours", "cost"
        );
        for variant in &self.variants {
            let _ = writeln!(
                text,
                "  {:<32} {:>6} {:>6} {:>8.2} {:>9.2} {:>9.2}",
                cut(&format!("{} ({})", variant.name, variant.accelerator), 32),
                variant.ready_max,
                variant.ready_at_end,
                variant.cost_per_hour,
                variant.replica_hours,
                variant.cost,
            );
        }
        let _ = writeln!(
            text,
            "  {:<32} {:>6} {:>6} {:>8} {:>9.2} {:>9.2}",
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
            "  pushed {} samples in {} write requests, {:.0} samples/s of real time\n    \
             samples to published decisions: median {} ms, 99th percentile {} ms\n    \
             samples to a reader's number:   median {} ms, 99th percentile {} ms",
            self.pushed.samples,
            self.pushed.requests,
            self.wall.samples_per_s,
            ms(self.wall.published_p50_ms),
            ms(self.wall.published_p99_ms),
            ms(self.wall.visible_p50_ms),
            ms(self.wall.visible_p99_ms),
        );
        let _ = writeln!(
            text,
            "  * share in SLO of the requests that came while the load was up;\n    \
             TTFT, TPOT: 95th percentile of the whole run"
        );
        text
    }

    fn sentence(&self) -> String {
        let response = &self.response;
        let rise = at(response.rise_at_s);
        let mut text = match response.decision_after_s {
            Some(after_s) => format!(
                "The load began to rise at {rise}; {after_s:.0} s later the sidecar asked for more replicas"
            ),
            None if self.played_s <= response.rise_at_s => "The run ended before the load rose".to_owned(),
            None => format!("The load began to rise at {rise}; no more replicas were asked for"),
        };
        if let Some(first) = self.wall.first_raise {
            let _ = write!(text, " ({:.1} ms after the samples were sent)", first.visible_ms);
        }
        match (response.enough, response.enough_after_s) {
            ("always", _) => text += "; there were enough all along",
            // A slow rise has no moment from which replicas are enough.
            (_, Some(after_s)) if self.scenario == "spike" => {
                let _ = write!(text, "; after {after_s:.0} s enough were ready");
            }
            _ if response.short_for_s > 0.0 => {
                let _ = write!(text, "; replicas were short for {:.0} s", response.short_for_s);
            }
            _ => {}
        }
        if let Some(attainment) = self.requests.attainment {
            let ended = self.requests.served + self.requests.lost + self.requests.refused;
            let share = percent(attainment);
            let (share, hours) = (share.trim(), self.replica_hours);
            let _ = write!(text, "; {share} of {ended} requests met their latency targets");
            let _ = write!(text, ", for {hours:.1} replica-hours");
        }
        wrap(&(text + "."), 80, 0) + "\n"
    }
}

fn model_line(model: &ModelSummary) -> String {
    let share = |share: Option<f64>| share.map_or("-".to_owned(), percent);
    let time = |ms: Option<f64>| ms.map_or("-".to_owned(), seconds);
    format!(
        "  {:<32} {:>6} {:>6} {:>8} {:>6} {:>6} {:>8}",
        cut(&model.model, 32),
        model.requests.served,
        share(model.requests.attainment),
        share(model.attainment_while_up),
        time(model.ttft_p95_ms),
        time(model.tpot_p95_ms),
        model.waiting_max,
    )
}

/// A time after the rise.
fn later(s: f64) -> String {
    format!("+{s:.0} s")
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
