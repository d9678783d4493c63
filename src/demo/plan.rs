//! Flags to a checked plan: when the load changes, and whether the run is long enough to show an answer.

use super::scaler::SYNC_MS;
use crate::config::Mode;
use crate::emulate::standard::{ScenarioKind, StandardOptions};
use crate::options::{DemoFlags, Scenario};
use anyhow::ensure;

/// Virtual time between two pushes, ms: how often the emulated Prometheus scrapes.
pub const STEP_MS: i64 = 1000;
/// Time of the high load that must be left after a first new replica is ready, ms.
const MARGIN_MS: i64 = 15_000;
/// Shortest run, ms.
const DURATION_MIN_MS: i64 = 60_000;

/// What is going to happen. Times are virtual, in ms since the start of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Course of the load.
    pub scenario: ScenarioKind,
    /// Analyzers that decide.
    pub mode: Mode,
    /// Seed of the load.
    pub seed: u64,
    /// Length of the run.
    pub duration_ms: i64,
    /// Start-up time of a replica.
    pub startup_ms: i64,
    /// Virtual seconds per real second.
    pub speed: f64,
    /// When the load begins to rise.
    pub rise_ms: i64,
    /// When it begins to fall, or the run's end.
    pub fall_ms: i64,
}

impl Plan {
    /// Checks the flags against each other.
    pub fn new(flags: &DemoFlags) -> anyhow::Result<Self> {
        let scenario = match flags.scenario {
            Scenario::Spike => ScenarioKind::Spike,
            Scenario::Ramp => ScenarioKind::Ramp,
            Scenario::Diurnal => ScenarioKind::Diurnal,
        };
        ensure!(
            flags.duration >= DURATION_MIN_MS,
            "--duration {} is too short to show anything; use at least {}",
            span(flags.duration),
            span(DURATION_MIN_MS),
        );
        let (rise_ms, fall_ms) = window(scenario, flags.duration);
        let needed_ms = flags.startup + SYNC_MS + MARGIN_MS;
        ensure!(
            fall_ms - rise_ms >= needed_ms,
            "--duration {} is too short for --scenario {} with --startup {}: the load is up for {}, but a \
             new replica needs up to {} (the autoscaler looks every {} s); use --duration {} or more, or a \
             shorter --startup",
            span(flags.duration),
            name(scenario),
            span(flags.startup),
            span(fall_ms - rise_ms),
            span(needed_ms),
            SYNC_MS / 1000,
            span(shortest(scenario, needed_ms)),
        );
        Ok(Plan {
            scenario,
            mode: flags.mode,
            seed: flags.seed,
            duration_ms: flags.duration,
            startup_ms: flags.startup,
            speed: flags.speed,
            rise_ms,
            fall_ms,
        })
    }

    /// Options of the emulated fleet.
    pub fn fleet(&self) -> StandardOptions {
        StandardOptions {
            seed: self.seed,
            scenario: self.scenario,
            duration_ms: self.duration_ms,
            startup_ms: self.startup_ms,
            ..StandardOptions::default()
        }
    }

    /// Name of the scenario.
    pub fn name(&self) -> &'static str {
        name(self.scenario)
    }

    /// Real seconds that the run takes at its speed.
    pub fn real_seconds(&self) -> f64 {
        self.duration_ms as f64 / 1000.0 / self.speed
    }

    /// What the load is doing at `at_ms`, in a few words.
    pub fn phase(&self, at_ms: i64) -> String {
        let (rise, fall) = (clock(self.rise_ms), clock(self.fall_ms));
        let rising = (self.rise_ms..self.fall_ms).contains(&at_ms);
        match self.scenario {
            ScenarioKind::Spike if rising => format!("spike until {fall}"),
            ScenarioKind::Spike if at_ms < self.rise_ms => format!("steady load, spike at {rise}"),
            ScenarioKind::Spike => format!("spike over since {fall}"),
            ScenarioKind::Ramp if at_ms < self.rise_ms => format!("steady load, ramp from {rise}"),
            ScenarioKind::Ramp if at_ms < self.duration_ms / 5 * 4 => format!("load rising since {rise}"),
            ScenarioKind::Ramp => "load at its top".to_owned(),
            ScenarioKind::Diurnal if rising => format!("load rising, crest at {fall}"),
            ScenarioKind::Diurnal => format!("load falling since {fall}"),
        }
    }

    /// Events of the load within `(after_ms, at_ms]`.
    pub fn load_events(&self, after_ms: i64, at_ms: i64) -> Vec<&'static str> {
        let (up, down) = match self.scenario {
            ScenarioKind::Spike => ("the spike begins", "the spike is over"),
            ScenarioKind::Ramp => ("the load begins to rise", ""),
            ScenarioKind::Diurnal => ("the load begins to rise", "the load is at its crest"),
        };
        let due = |ms: i64| after_ms < ms && ms <= at_ms;
        let all = [(self.rise_ms, up), (self.fall_ms, down)];
        all.into_iter().filter(|&(ms, text)| due(ms) && !text.is_empty()).map(|(_, text)| text).collect()
    }
}

/// From when to when the load is up. Agrees with [`ScenarioKind::over`].
fn window(scenario: ScenarioKind, duration_ms: i64) -> (i64, i64) {
    let fifth_ms = duration_ms / 5;
    match scenario {
        ScenarioKind::Spike => (fifth_ms, 3 * fifth_ms),
        ScenarioKind::Ramp => (fifth_ms, duration_ms),
        ScenarioKind::Diurnal => (0, duration_ms / 2),
    }
}

/// Shortest run whose load is up for `needed_ms`, in whole seconds.
fn shortest(scenario: ScenarioKind, needed_ms: i64) -> i64 {
    let ms = match scenario {
        ScenarioKind::Spike => needed_ms * 5 / 2,
        ScenarioKind::Ramp => needed_ms * 5 / 4,
        ScenarioKind::Diurnal => needed_ms * 2,
    };
    // Up to the next multiple of ten seconds, which also covers the rounding of the fifths.
    ((ms / 10_000 + 1) * 10_000).max(DURATION_MIN_MS)
}

fn name(scenario: ScenarioKind) -> &'static str {
    match scenario {
        ScenarioKind::Spike => "spike",
        ScenarioKind::Ramp => "ramp",
        ScenarioKind::Diurnal => "diurnal",
    }
}

/// A point of virtual time as `m:ss`, or `h:mm:ss`.
pub fn clock(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// A length of time as one would type it: `10m`, `2m30s`, `90s` as `1m30s`.
pub fn span(ms: i64) -> String {
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let mut text = String::new();
    if h > 0 {
        text += &format!("{h}h");
    }
    if m > 0 {
        text += &format!("{m}m");
    }
    if s > 0 || text.is_empty() {
        text += &format!("{}s", s as f64 / 1000.0);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(scenario: Scenario, duration: i64, startup: i64) -> DemoFlags {
        DemoFlags {
            scenario,
            mode: Mode::HYBRID,
            duration,
            speed: 10.0,
            startup,
            seed: 1,
            json: false,
            tape: Default::default(),
        }
    }

    #[test]
    fn the_default_spike_is_in_the_middle() {
        let plan = Plan::new(&flags(Scenario::Spike, 600_000, 30_000)).unwrap();
        assert_eq!((plan.rise_ms, plan.fall_ms), (120_000, 360_000));
        assert_eq!(plan.load_events(119_000, 120_000), ["the spike begins"]);
        assert!(plan.load_events(120_000, 121_000).is_empty());
        assert_eq!(plan.phase(130_000), "spike until 6:00");
        assert_eq!(plan.real_seconds(), 60.0);
    }

    #[test]
    fn a_run_too_short_to_answer_names_the_shortest_that_is_not() {
        for (scenario, duration) in
            [(Scenario::Spike, 100_000), (Scenario::Ramp, 60_000), (Scenario::Diurnal, 60_000)]
        {
            let error = Plan::new(&flags(scenario, duration, 30_000)).unwrap_err().to_string();
            let advice = error.split("use --duration ").nth(1).and_then(|rest| rest.split(' ').next());
            let advised_ms = crate::config::resolve::go_duration_ms(advice.unwrap()).unwrap() as i64;
            assert!(Plan::new(&flags(scenario, advised_ms, 30_000)).is_ok(), "{error}");
        }
        let error = Plan::new(&flags(Scenario::Spike, 5_000, 0)).unwrap_err().to_string();
        assert!(error.contains("at least 1m"), "{error}");
    }

    #[test]
    fn times_read_as_one_types_them() {
        assert_eq!([span(0), span(600_000), span(150_500), span(3_600_000)], ["0s", "10m", "2m30.5s", "1h"]);
        assert_eq!([clock(0), clock(65_000), clock(3_661_000)], ["0:00", "1:05", "1:01:01"]);
    }
}
