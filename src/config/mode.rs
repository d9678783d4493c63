//! Which analyzers decide about a model.

/// A set of analyzers. Any of them may ask for more replicas; all must agree to fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Learned capacity, true arrivals and foresight against the service class's targets.
    pub slo: bool,
    /// Sizing by the queueing model against the service class's targets.
    pub model: bool,
    /// Tokens that the replicas hold against those that they can hold.
    pub tokens: bool,
    /// Headroom in KV cache and queue. Alone it steps one replica at a time.
    pub saturation: bool,
}

impl Default for Mode {
    fn default() -> Self {
        Mode::SATURATION
    }
}

impl Mode {
    /// Saturation alone.
    pub const SATURATION: Mode = Mode { slo: false, model: false, tokens: false, saturation: true };
    /// Token capacity alone.
    pub const TOKENS: Mode = Mode { slo: false, model: false, tokens: true, saturation: false };
    /// The queueing model alone.
    pub const MODEL: Mode = Mode { slo: false, model: true, tokens: false, saturation: false };
    /// The queueing model, and never below what saturation demands.
    pub const HYBRID: Mode = Mode { slo: false, model: true, tokens: false, saturation: true };
    /// Learned capacity and foresight.
    pub const SLO: Mode = Mode { slo: true, model: false, tokens: false, saturation: false };
    /// All modes with their names in configuration.
    const NAMES: [(&'static str, Mode); 9] = [
        ("slo", Mode::SLO),
        ("slo+saturation", Mode { slo: true, ..Mode::SATURATION }),
        ("saturation", Mode::SATURATION),
        ("tokens", Mode::TOKENS),
        ("model", Mode::MODEL),
        ("hybrid", Mode::HYBRID),
        ("tokens+saturation", Mode { tokens: true, ..Mode::SATURATION }),
        ("model+tokens", Mode { tokens: true, ..Mode::MODEL }),
        ("model+tokens+saturation", Mode { tokens: true, ..Mode::HYBRID }),
    ];
    /// What may be written, for messages.
    pub const CHOICES: &'static str = "slo, saturation, tokens, model, hybrid, or several joined by +";

    /// The mode of a name: one of the above, or analyzers joined by `+` in any order.
    pub fn parse(name: &str) -> Option<Mode> {
        if name == "hybrid" {
            return Some(Mode::HYBRID);
        }
        let mut mode = Mode { slo: false, model: false, tokens: false, saturation: false };
        for part in name.split('+') {
            let analyzer = match part.trim() {
                "slo" => &mut mode.slo,
                "model" => &mut mode.model,
                "tokens" => &mut mode.tokens,
                "saturation" => &mut mode.saturation,
                _ => return None,
            };
            *analyzer = true;
        }
        // It brings its own model of a replica, so another beside it would only be a second opinion.
        (!mode.slo || !mode.model && !mode.tokens).then_some(mode)
    }

    /// Name in configuration.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("none", |(name, _)| name)
    }

    /// Whether some analyzer sizes by demand, so that the plan does not go by steps.
    pub fn sizes_by_demand(self) -> bool {
        self.slo || self.model || self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_order_does_not_matter() {
        for (name, mode) in Mode::NAMES {
            assert_eq!((Mode::parse(name), mode.as_str()), (Some(mode), name));
        }
        assert_eq!(Mode::parse("saturation+model"), Some(Mode::HYBRID));
        assert_eq!(Mode::parse("saturation + tokens").map(Mode::as_str), Some("tokens+saturation"));
        for wrong in ["", "hybrid+tokens", "modle", "model+", "slo+model"] {
            assert_eq!(Mode::parse(wrong), None, "{wrong:?}");
        }
    }
}
