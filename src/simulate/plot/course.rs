//! Courses brought to the width of a picture: one value per bin of time.

use crate::simulate::run::{Moment, Outcome};
use crate::simulate::scenario::Scenario;

/// Most bins across the picture: more would not be seen.
const BINS_MAX: f64 = 300.0;
/// Lengths of a bin to choose from, s.
const LENGTHS_S: [f64; 8] = [15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

/// Points of a line, in pieces where there is nothing in between: time in s, value.
pub type Pieces = Vec<Vec<(f64, f64)>>;

/// Division of the time of a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bins {
    /// Length of a bin, s.
    pub length_s: f64,
    /// Number of bins.
    pub count: usize,
}

impl Bins {
    /// Bins over `duration_s`, of a length that people count in.
    pub fn over(duration_s: f64) -> Self {
        let longest = LENGTHS_S[LENGTHS_S.len() - 1];
        let fits = |length: &f64| duration_s / length <= BINS_MAX;
        let length_s = LENGTHS_S.into_iter().find(fits).unwrap_or(longest.max(duration_s / BINS_MAX));
        Bins { length_s, count: (duration_s / length_s).ceil().max(1.0) as usize }
    }

    /// Bins of a minute or more, for shares of requests.
    pub fn coarse(&self) -> Self {
        let join = (60.0 / self.length_s).ceil().max(1.0);
        Bins { length_s: self.length_s * join, count: (self.count as f64 / join).ceil() as usize }
    }

    /// End of the last bin, s.
    pub fn end_s(&self) -> f64 {
        self.count as f64 * self.length_s
    }

    fn index(&self, at_s: f64) -> usize {
        ((at_s / self.length_s) as usize).min(self.count - 1)
    }

    /// The values as steps, one per bin.
    pub fn steps(&self, values: &[Option<f64>]) -> Pieces {
        let mut pieces = Pieces::new();
        let mut is_open = false;
        for (bin, value) in values.iter().enumerate() {
            let Some(value) = *value else {
                is_open = false;
                continue;
            };
            if !is_open {
                pieces.push(Vec::new());
                is_open = true;
            }
            let piece = pieces.last_mut();
            let from_s = bin as f64 * self.length_s;
            piece
                .into_iter()
                .for_each(|piece| piece.extend([(from_s, value), (from_s + self.length_s, value)]));
        }
        pieces
    }
}

/// What the load of a scenario is, per bin.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Requests per second.
    pub requests_per_s: Vec<Option<f64>>,
    /// Prompt tokens per second.
    pub prompt_per_s: Vec<Option<f64>>,
    /// Generated tokens per second that the requests ask for.
    pub output_per_s: Vec<Option<f64>>,
    /// Replicas that the load fills at the targeted pace.
    pub needed: Vec<Option<f64>>,
}

impl Load {
    /// The load of `scenario`.
    pub fn of(scenario: &Scenario, bins: Bins) -> Self {
        let (mut requests, mut prompt, mut output) =
            (vec![0.0; bins.count], vec![0.0; bins.count], vec![0.0; bins.count]);
        for request in &scenario.trace.requests {
            let bin = bins.index(request.arrival_ms / 1000.0);
            requests[bin] += 1.0;
            prompt[bin] += f64::from(request.prompt_tokens);
            output[bin] += f64::from(request.output_tokens);
        }
        let duration_s = scenario.trace.duration_ms() as f64 / 1000.0;
        // A last bin that is not full says nothing about the load.
        let is_full = |bin: usize| bin == 0 || (bin + 1) as f64 * bins.length_s <= duration_s;
        let rate = |sums: Vec<f64>| -> Vec<Option<f64>> {
            let rates = sums.into_iter().enumerate();
            rates.map(|(bin, sum)| is_full(bin).then_some(sum / bins.length_s)).collect()
        };
        let demand = scenario.fluid_demand((bins.length_s * 1000.0) as i64).into_iter().enumerate();
        let mut needed: Vec<Option<f64>> = demand.map(|(bin, need)| is_full(bin).then_some(need)).collect();
        needed.resize(bins.count, None);
        Load {
            requests_per_s: rate(requests),
            prompt_per_s: rate(prompt),
            output_per_s: rate(output),
            needed,
        }
    }
}

/// What a policy did, per bin.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// Most replicas wanted.
    pub desired: Vec<Option<f64>>,
    /// Most replicas that existed.
    pub current: Vec<Option<f64>>,
    /// Most replicas that served.
    pub ready: Vec<Option<f64>>,
    /// Most requests waiting.
    pub waiting: Vec<Option<f64>>,
    /// Share of the requests finished that met both targets, %; per bin of [`Bins::coarse`].
    pub attained_percent: Vec<Option<f64>>,
}

impl Course {
    /// The course of `outcome`.
    pub fn of(outcome: &Outcome, bins: Bins) -> Self {
        let most = |value: fn(&Moment) -> f64| {
            let mut values: Vec<Option<f64>> = vec![None; bins.count];
            for moment in &outcome.course {
                let slot = &mut values[bins.index(moment.at_s)];
                *slot = Some(slot.unwrap_or(0.0).max(value(moment)));
            }
            // Counts stay as they are until something is noted again.
            let last = values.iter().rposition(Option::is_some).unwrap_or(0);
            (1..last).for_each(|bin| values[bin] = values[bin].or(values[bin - 1]));
            values
        };
        let coarse = bins.coarse();
        let (mut finished, mut met) = (vec![0; coarse.count], vec![0; coarse.count]);
        for moment in &outcome.course {
            // What a moment counts happened before it.
            let bin = coarse.index((moment.at_s - 1.0).max(0.0));
            finished[bin] += moment.finished;
            met[bin] += moment.met;
        }
        let percent =
            |(&met, &finished): (&u64, &u64)| (finished > 0).then(|| 100.0 * met as f64 / finished as f64);
        Course {
            desired: most(|moment| f64::from(moment.desired)),
            current: most(|moment| f64::from(moment.current)),
            ready: most(|moment| f64::from(moment.ready)),
            waiting: most(|moment| moment.waiting as f64),
            attained_percent: met.iter().zip(&finished).map(percent).collect(),
        }
    }
}

/// The largest of some values; 0 without any.
pub fn highest(values: &[Option<f64>]) -> f64 {
    values.iter().flatten().copied().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_of_a_length_that_people_count_in_and_cover_everything() {
        assert_eq!(Bins::over(0.0), Bins { length_s: 15.0, count: 1 });
        assert_eq!(Bins::over(3600.0), Bins { length_s: 15.0, count: 240 });
        assert_eq!(Bins::over(18_001.0), Bins { length_s: 120.0, count: 151 });
        assert!(Bins::over(1e9).count <= 301);
    }

    #[test]
    fn a_line_is_broken_where_nothing_is_known() {
        let bins = Bins { length_s: 10.0, count: 4 };
        let pieces = bins.steps(&[Some(1.0), Some(2.0), None, Some(3.0)]);
        assert_eq!(
            pieces,
            [vec![(0.0, 1.0), (10.0, 1.0), (10.0, 2.0), (20.0, 2.0)], vec![(30.0, 3.0), (40.0, 3.0)]]
        );
    }

    #[test]
    fn a_short_peak_is_not_lost_and_attainment_is_that_of_the_requests() {
        let moment = |at_s: f64, desired: u32, finished: u64, met: u64| Moment {
            at_s,
            arrivals_per_s: 0.0,
            desired,
            current: desired,
            ready: 1,
            waiting: 0,
            finished,
            met,
        };
        let course = vec![moment(0.0, 1, 0, 0), moment(20.0, 9, 10, 10), moment(40.0, 2, 30, 0)];
        let outcome = Outcome { course, ..Outcome::default() };
        let seen = Course::of(&outcome, Bins { length_s: 60.0, count: 2 });
        assert_eq!(seen.desired, [Some(9.0), None]);
        assert_eq!(seen.attained_percent, [Some(25.0), None]);
    }
}
