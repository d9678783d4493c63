//! Iteration time of one variant, learned from what its replicas show.
//!
//! Model: `T = a + b n + c p + d k` with `n` decoding sequences, `p` prompt tokens computed per iteration
//! and `k` resident KV tokens of the batch; all coefficients are at least 0. The fit is a Bayesian linear
//! regression (ridge towards a prior) over sufficient statistics that fade, so it costs the same however
//! long it runs. The prior is the ratio of the coefficients to `a`, which hardly differs between published
//! profiles of models of 8 to 70 billion parameters; its scale is fitted first.

/// Ratios of `b`, `c` and `d` to `a` before anything is known: per sequence, per prompt token, per KV token.
const PRIOR: [f64; 3] = [0.005, 0.0045, 6e-6];
/// Standard deviation of each ratio relative to itself.
const PRIOR_SPREAD: f64 = 0.6;
/// Factor by which old observations count less with each new one: a memory of some five hundred.
const FADE: f64 = 0.998;
/// Noise of one observation relative to its iteration time.
const NOISE: f64 = 0.08;
/// Observations before the fit is trusted.
pub const OBSERVATIONS_MIN: f64 = 6.0;
/// An observation further from the prediction than this many standard errors counts as this far.
const GATE: f64 = 4.0;

/// Coefficients of the iteration time, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Coefficients {
    /// Base.
    pub a: f64,
    /// Per decoding sequence.
    pub b: f64,
    /// Per prompt token computed.
    pub c: f64,
    /// Per resident KV token.
    pub d: f64,
}

impl Coefficients {
    fn of(ratios: [f64; 3], a: f64) -> Self {
        Coefficients { a, b: a * ratios[0], c: a * ratios[1], d: a * ratios[2] }
    }

    /// Iteration time, ms.
    pub fn time_ms(&self, at: &Operation) -> f64 {
        self.a + self.b * at.sequences + self.c * at.prompt_tokens + self.d * at.kv_tokens
    }
}

/// What an average iteration worked on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Operation {
    /// Decoding sequences.
    pub sequences: f64,
    /// Prompt tokens computed.
    pub prompt_tokens: f64,
    /// Resident KV tokens.
    pub kv_tokens: f64,
}

/// The learned iteration time of one variant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fit {
    /// Sums of products of the regressors, scaled by the prior ratios, and of those with the times.
    xx: [[f64; 4]; 4],
    xy: [f64; 4],
    yy: f64,
    count: f64,
    known: Option<Coefficients>,
    /// Parameters that the object states, used instead of the common prior.
    stated: Option<Coefficients>,
}

impl Fit {
    /// Starts from parameters that are known, as a prior; they are trusted at once.
    pub fn state(&mut self, stated: Option<Coefficients>) {
        if self.stated != stated {
            self.stated = stated;
            self.solve();
        }
    }

    /// Takes in that iterations which worked on `at` took `time_ms` on average.
    pub fn observe(&mut self, at: &Operation, time_ms: f64) {
        let usable = |value: f64| value.is_finite() && value >= 0.0;
        let numbers = [time_ms, at.sequences, at.prompt_tokens, at.kv_tokens];
        if time_ms == 0.0 || !numbers.into_iter().all(usable) {
            return;
        }
        let mut y = time_ms;
        if let Some(known) = self.coefficients()
            && self.count >= OBSERVATIONS_MIN
        {
            let expected = known.time_ms(at);
            let reach = GATE * NOISE * expected.max(known.a);
            y = y.clamp(expected - reach, expected + 3.0 * reach);
        }
        let ratios = self.ratios();
        let x = [1.0, at.sequences * ratios[0], at.prompt_tokens * ratios[1], at.kv_tokens * ratios[2]];
        // Relative noise: each observation weighs by the inverse of its square.
        let weight = 1.0 / (NOISE * y).powi(2);
        for row in 0..4 {
            for column in 0..4 {
                self.xx[row][column] = self.xx[row][column] * FADE + weight * x[row] * x[column];
            }
            self.xy[row] = self.xy[row] * FADE + weight * x[row] * y;
        }
        self.yy = self.yy * FADE + weight * y * y;
        self.count = self.count * FADE + 1.0;
        self.solve();
    }

    /// Number of observations that still count.
    pub fn observations(&self) -> f64 {
        self.count
    }

    /// Whether the coefficients rest on enough to size by.
    pub fn is_trusted(&self) -> bool {
        self.stated.is_some() || self.count >= OBSERVATIONS_MIN
    }

    /// The coefficients, once anything is known: those that were stated until enough was observed.
    pub fn coefficients(&self) -> Option<Coefficients> {
        match self.stated {
            Some(stated) if self.count < OBSERVATIONS_MIN => Some(stated),
            _ => self.known.or(self.stated),
        }
    }

    fn ratios(&self) -> [f64; 3] {
        match self.stated {
            Some(stated) if stated.a > 0.0 => [stated.b / stated.a, stated.c / stated.a, stated.d / stated.a],
            _ => PRIOR,
        }
        .map(|ratio| if ratio > 0.0 { ratio } else { 1e-9 })
    }

    /// Solves for the coefficients: the scale of the prior first, then the ridge around it.
    fn solve(&mut self) {
        if self.count <= 0.0 {
            return;
        }
        let ratios = self.ratios();
        // With all scaled coefficients equal to `a`, T = a * sum(x).
        let total: f64 = self.xx.iter().flatten().sum();
        let along: f64 = self.xy.iter().sum();
        if total <= 0.0 || along <= 0.0 {
            return;
        }
        let scale = along / total;
        let mut matrix = self.xx;
        let mut right = self.xy;
        let precision = 1.0 / (PRIOR_SPREAD * scale).powi(2);
        for index in 0..4 {
            matrix[index][index] += precision;
            right[index] += precision * scale;
        }
        let Some(mut solution) = solve4(matrix, right) else { return };
        // A coefficient far from the prior's ratio is chance: the regressors move together.
        solution.iter_mut().for_each(|value| *value = value.clamp(0.25 * scale, 4.0 * scale));
        let fitted = Coefficients {
            a: solution[0],
            b: solution[1] * ratios[0],
            c: solution[2] * ratios[1],
            d: solution[3] * ratios[2],
        };
        self.known = Some(fitted);
    }

    /// The prior at a base time, for tests and first guesses.
    pub fn prior(a_ms: f64) -> Coefficients {
        Coefficients::of(PRIOR, a_ms)
    }
}

/// Gaussian elimination with pivoting; `None` when the matrix is singular.
fn solve4(mut matrix: [[f64; 4]; 4], mut right: [f64; 4]) -> Option<[f64; 4]> {
    for column in 0..4 {
        let pivot =
            (column..4).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))?;
        if matrix[pivot][column].abs() < 1e-12 {
            return None;
        }
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        for row in column + 1..4 {
            let pivot_row = matrix[column];
            let factor = matrix[row][column] / pivot_row[column];
            for (value, pivot) in matrix[row].iter_mut().zip(pivot_row).skip(column) {
                *value -= factor * pivot;
            }
            right[row] -= factor * right[column];
        }
    }
    let mut solution = [0.0; 4];
    for row in (0..4).rev() {
        let rest: f64 = (row + 1..4).map(|at| matrix[row][at] * solution[at]).sum();
        solution[row] = (right[row] - rest) / matrix[row][row];
    }
    solution.iter().all(|value| value.is_finite()).then_some(solution)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUE: Coefficients = Coefficients { a: 16.5, b: 0.05, c: 0.075, d: 0.00013 };

    fn taught(observations: u32) -> Fit {
        let mut fit = Fit::default();
        for index in 0..observations {
            let at = Operation {
                sequences: f64::from(index * 7 % 40),
                prompt_tokens: f64::from(index * 13 % 300),
                kv_tokens: f64::from(index * 29 % 50) * 800.0,
            };
            fit.observe(&at, TRUE.time_ms(&at));
        }
        fit
    }

    #[test]
    fn varied_observations_recover_the_iteration_time() {
        let found = taught(300).coefficients().unwrap();
        let at = Operation { sequences: 60.0, prompt_tokens: 400.0, kv_tokens: 40_000.0 };
        let (expected, predicted) = (TRUE.time_ms(&at), found.time_ms(&at));
        assert!((predicted / expected - 1.0).abs() < 0.05, "{found:?}: {predicted} for {expected} ms");
    }

    #[test]
    fn an_outlier_hardly_moves_a_settled_fit() {
        let mut fit = taught(300);
        let before = fit.coefficients().unwrap();
        let at = Operation { sequences: 20.0, prompt_tokens: 100.0, kv_tokens: 10_000.0 };
        fit.observe(&at, 10_000.0);
        let after = fit.coefficients().unwrap();
        assert!((after.time_ms(&at) / before.time_ms(&at) - 1.0).abs() < 0.05, "{before:?} {after:?}");
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut fit = taught(10);
        let before = fit.clone();
        for wrong in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            fit.observe(&Operation::default(), wrong);
        }
        fit.observe(&Operation { sequences: f64::NAN, ..Operation::default() }, 10.0);
        assert_eq!(fit, before);
    }
}
