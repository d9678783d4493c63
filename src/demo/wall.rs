//! Measurements with the machine's clock, kept apart from everything that is reproducible.

use super::client::Push;
use super::tally::quantile;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How fast one push turned into a decision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reaction {
    /// From sending the samples to the answer that says "decided and published", ms.
    pub published_ms: f64,
    /// From sending the samples to the new count in the hands of a reader that asked after that, ms.
    pub visible_ms: f64,
}

/// Measurements of a run.
#[derive(Debug)]
pub struct Wall {
    started: Instant,
    published_ms: Vec<f32>,
    visible_ms: Vec<f32>,
    retries: u64,
    first_raise: Option<Reaction>,
}

/// Measurements of a run, in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WallSummary {
    /// Real length of the run, s.
    pub seconds: f64,
    /// Virtual seconds per real second that were reached.
    pub speed: f64,
    /// Samples pushed per real second.
    pub samples_per_s: f64,
    /// The first raised decision after the rise of the load.
    pub first_raise: Option<Reaction>,
    /// All pushes: from the samples to the published decision, median, ms.
    pub published_p50_ms: Option<f64>,
    /// 99th percentile, ms.
    pub published_p99_ms: Option<f64>,
    /// All pushes: from the samples to a reader's answer, median, ms.
    pub visible_p50_ms: Option<f64>,
    /// 99th percentile, ms.
    pub visible_p99_ms: Option<f64>,
    /// Write requests that had to be sent again.
    pub retries: u64,
}

impl Wall {
    /// Starts measuring.
    pub fn start() -> Self {
        Wall {
            started: Instant::now(),
            published_ms: Vec::new(),
            visible_ms: Vec::new(),
            retries: 0,
            first_raise: None,
        }
    }

    /// Takes in a push whose decisions a reader has just been given.
    pub fn note(&mut self, push: &Push) -> Reaction {
        let visible = push.sent.map_or(Duration::ZERO, |sent| sent.elapsed());
        let reaction = Reaction { published_ms: ms(push.took), visible_ms: ms(visible) };
        self.published_ms.push(reaction.published_ms as f32);
        self.visible_ms.push(reaction.visible_ms as f32);
        self.retries += push.retries;
        reaction
    }

    /// Takes in that a push has raised a count; the first one counts.
    pub fn note_raise(&mut self, reaction: Reaction) {
        self.first_raise.get_or_insert(reaction);
    }

    /// The measurements so far.
    pub fn summary(&mut self, played_ms: i64, samples: u64) -> WallSummary {
        let seconds = self.started.elapsed().as_secs_f64();
        let per_s = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        WallSummary {
            seconds,
            speed: per_s(played_ms as f64 / 1000.0),
            samples_per_s: per_s(samples as f64),
            first_raise: self.first_raise,
            published_p50_ms: quantile(&mut self.published_ms, 0.5),
            published_p99_ms: quantile(&mut self.published_ms, 0.99),
            visible_p50_ms: quantile(&mut self.visible_ms, 0.5),
            visible_p99_ms: quantile(&mut self.visible_ms, 0.99),
            retries: self.retries,
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Lets virtual time pass at a speed: says until when to wait.
#[derive(Debug)]
pub struct Pace {
    speed: f64,
    from: Instant,
    from_ms: i64,
}

/// Real time that a run may be behind before it stops trying to catch up.
const BEHIND_MAX: Duration = Duration::from_secs(1);

impl Pace {
    /// Virtual time 0 is now.
    pub fn new(speed: f64) -> Self {
        Pace { speed, from: Instant::now(), from_ms: 0 }
    }

    /// How long to wait for virtual time `at_ms`. A run that was held up (a suspended machine, one too
    /// slow for the speed) goes on from here instead of hurrying.
    pub fn wait(&mut self, at_ms: i64) -> Duration {
        let due = Duration::from_secs_f64((at_ms - self.from_ms) as f64 / 1000.0 / self.speed);
        let passed = self.from.elapsed();
        if passed.saturating_sub(due) > BEHIND_MAX {
            (self.from, self.from_ms) = (Instant::now(), at_ms);
            return Duration::ZERO;
        }
        due.saturating_sub(passed)
    }
}
