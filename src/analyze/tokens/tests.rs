//! Tests of the token analyzer: what the guarded rule fixes, what is remembered and for how long, and
//! properties that hold for any input.

use proptest::prelude::*;

use super::*;

const HOUR_MS: i64 = 3_600_000;

fn variant(name: &str, gpus_per_replica: u32, current: u32) -> TokenVariant {
    TokenVariant { name: name.into(), accelerator: "A100".into(), gpus_per_replica, current, pending: 0 }
}

/// A replica of 100,000 tokens with requests of 100 input and 50 output tokens.
fn replica(variant: u32, tokens_in_use: u64, queue_length: f64) -> ReplicaTokens {
    ReplicaTokens {
        variant,
        total_kv_tokens: 100_000,
        tokens_in_use,
        queue_length,
        avg_input_tokens: 100.0,
        avg_output_tokens: 50.0,
        prefix_cache_hit_rate: 0.0,
    }
}

/// A model under one rule, called at successive times.
struct Model {
    rule: Rule,
    memory: TokenMemory,
    analysis: TokenAnalysis,
    variants: Vec<TokenVariant>,
    scheduler: Option<SchedulerQueue>,
}

impl Model {
    fn new(rule: Rule, variants: &[TokenVariant]) -> Self {
        let (memory, analysis) = Default::default();
        Model { rule, memory, analysis, variants: variants.to_vec(), scheduler: None }
    }

    fn deploy(&mut self, variant: &str, args: &[&str], at_ms: i64) {
        let of = self.variants.iter().find(|v| *v.name == *variant);
        let deployment = Deployment {
            namespace: "ns".into(),
            model_id: "m".into(),
            variant: variant.into(),
            accelerator: "A100".into(),
            gpus_per_replica: of.map_or(1, |v| v.gpus_per_replica),
            params: EngineParams::parse([], args.iter().copied(), []),
        };
        self.memory.observe_deployment(self.rule, &deployment, TimeMs(at_ms));
    }

    fn analyze(&mut self, at_ms: i64, replicas: &[ReplicaTokens]) -> &TokenAnalysis {
        let config = SaturationConfig::default();
        let input = TokenInput {
            namespace: &"ns".into(),
            model_id: &"m".into(),
            config: &config,
            variants: &self.variants,
            replicas,
            scheduler: self.scheduler,
            now: TimeMs(at_ms),
        };
        analyze_into(&mut self.analysis, &mut self.memory, self.rule, &input);
        &self.analysis
    }

    fn capacities(&mut self, at_ms: i64, replicas: &[ReplicaTokens]) -> Vec<u64> {
        self.analyze(at_ms, replicas).variants.iter().map(|v| v.per_replica).collect()
    }
}

#[test]
fn short_queue_burst_collapses_only_the_references_capacity() {
    let burst = [replica(0, 500, 9.0), replica(0, 20_000, 0.0)];
    let variants = [variant("a", 1, 2)];
    let mut reference = Model::new(Rule::Reference, &variants);
    assert_eq!(reference.capacities(0, &burst), [500]);
    let mut guarded = Model::new(Rule::Guarded, &variants);
    for at_ms in (0..20_000).step_by(1000) {
        assert_eq!(guarded.capacities(at_ms, &burst), [80_000], "at {at_ms} ms");
    }
}

#[test]
fn lasting_load_is_learned_after_three_observations() {
    let mut model = Model::new(Rule::Guarded, &[variant("a", 1, 2)]);
    let busy = [replica(0, 30_000, 9.0), replica(0, 32_000, 9.0)];
    let learned: Vec<u64> = (0..4).flat_map(|n| model.capacities(n * 10_000, &busy)).collect();
    assert_eq!(learned, [80_000, 80_000, 32_000, 32_000]);
    // It outlasts the load, and the replicas.
    assert_eq!(model.capacities(50_000, &[replica(0, 10, 0.0), replica(0, 10, 0.0)]), [32_000]);
    assert_eq!(model.capacities(60_000, &[]), [32_000]);
}

#[test]
fn variants_of_one_accelerator_do_not_share_what_was_observed() {
    let variants = [variant("one-gpu", 1, 1), variant("eight-gpus", 8, 1)];
    let load = [replica(0, 5_000, 9.0), replica(1, 60_000, 0.0)];
    assert_eq!(Model::new(Rule::Reference, &variants).capacities(0, &load), [5_000, 5_000]);
    let mut guarded = Model::new(Rule::Guarded, &variants);
    let last = (0..3).map(|n| guarded.capacities(n * 10_000, &load)).last();
    assert_eq!(last, Some(vec![5_000, 80_000]));
}

#[test]
fn unseen_variant_is_estimated_from_its_flags_and_an_interchangeable_one() {
    let variants = [variant("a", 1, 1), variant("b", 1, 0)];
    let load = [replica(0, 1_000, 0.0)];
    let estimate = |rule, a: &[&str], b: &[&str]| {
        let mut model = Model::new(rule, &variants);
        model.deploy("a", a, 0);
        model.deploy("b", b, 0);
        model.capacities(0, &load)[1]
    };
    // 256 requests of 100 + 50 / 2 tokens; or what `a` can hold, when that is less.
    assert_eq!(estimate(Rule::Guarded, &[], &[]), 32_000);
    assert_eq!(estimate(Rule::Guarded, &["--max-num-seqs=8"], &["--max-num-seqs=8"]), 1_000);
    // A different sequence limit makes `a` no measure for `b`, which the reference overlooks.
    assert_eq!(estimate(Rule::Guarded, &["--max-num-seqs=8"], &[]), 32_000);
    assert_eq!(estimate(Rule::Reference, &["--max-num-seqs=8"], &[]), 1_000);
}

#[test]
fn changed_flags_void_what_was_measured() {
    let variants = [variant("a", 1, 1)];
    for (rule, want) in [(Rule::Guarded, 8 * 125), (Rule::Reference, 32_000)] {
        let mut model = Model::new(rule, &variants);
        model.deploy("a", &[], 0);
        assert_eq!(model.capacities(0, &[replica(0, 1_000, 0.0)]), [32_000]);
        model.deploy("a", &["--max-num-seqs=8"], 1);
        assert_eq!(
            model.capacities(1, &[ReplicaTokens { total_kv_tokens: 0, ..replica(0, 0, 0.0) }]),
            [want]
        );
    }
}

#[test]
fn nothing_is_spare_while_a_replica_cannot_be_seen() {
    let idle = replica(0, 0, 0.0);
    let cases = [
        vec![idle; 2],
        vec![idle, idle, ReplicaTokens { total_kv_tokens: 0, ..idle }],
        vec![idle, idle, ReplicaTokens { queue_length: f64::NAN, ..idle }],
        vec![idle, idle, ReplicaTokens { avg_output_tokens: -1.0, ..idle }],
    ];
    for replicas in cases {
        let mut guarded = Model::new(Rule::Guarded, &[variant("a", 1, 3)]);
        assert_eq!((guarded.analyze(0, &replicas).spare, guarded.analysis.blind), (0.0, 1));
        let mut reference = Model::new(Rule::Reference, &[variant("a", 1, 3)]);
        assert!(reference.analyze(0, &replicas).spare > 0.0);
    }
    let mut model = Model::new(Rule::Guarded, &[variant("a", 1, 3)]);
    assert_eq!(model.analyze(0, &[idle; 3]).spare, 240_000.0);
}

#[test]
fn scheduler_queue_is_demand() {
    let mut model = Model::new(Rule::Guarded, &[variant("a", 1, 1)]);
    model.scheduler = Some(SchedulerQueue { size: 10.0, bytes: 800.0 });
    assert_eq!(model.analyze(0, &[replica(0, 0, 0.0)]).demand, 10.0 * 100.0 + 10.0 * 50.0);
    model.scheduler = Some(SchedulerQueue { size: f64::NAN, bytes: f64::INFINITY });
    assert_eq!(model.analyze(0, &[replica(0, 7, 0.0)]).demand, 7.0);
}

#[test]
fn memory_ages_out_but_not_while_in_use() {
    let mut model = Model::new(Rule::Guarded, &[variant("a", 1, 1)]);
    model.deploy("gone", &[], 0);
    for hour in 0..30 {
        model.analyze(hour * HOUR_MS, &[replica(0, 9_000, 9.0)]);
        model.memory.evict(TimeMs(hour * HOUR_MS));
    }
    assert!(model.memory.record("ns", "m", "gone").is_none());
    assert!(model.memory.record("ns", "m", "a").is_some());
    model.memory.evict(TimeMs(80 * HOUR_MS));
    assert!(model.memory.is_empty() && model.memory.models.is_empty());
}

#[test]
fn records_are_bounded_and_can_be_forgotten() {
    let mut model = Model::new(Rule::Guarded, &[]);
    for n in 0..RECORDS_PER_MODEL_MAX + 3 {
        model.deploy(&format!("v{n}"), &[], n as i64);
    }
    assert_eq!(model.memory.len(), RECORDS_PER_MODEL_MAX);
    assert!(model.memory.record("ns", "m", "v2").is_none());
    model.memory.forget("ns", "m", "v3");
    assert!(model.memory.record("ns", "m", "v3").is_none());
}

#[test]
fn history_keeps_the_last_ten() {
    let mut history = History::default();
    assert_eq!((history.mean(), history.median()), (None, None));
    (1..=12).for_each(|n| history.push(TimeMs(n), n as u64));
    assert_eq!(history.iter().collect::<Vec<_>>(), (3..=12).collect::<Vec<_>>());
    assert_eq!((history.mean(), history.median()), (Some(7), Some(7)));
}

fn readings() -> impl Strategy<Value = Vec<ReplicaTokens>> {
    let odd = || prop_oneof![20 => 0.0..2000.0f64, 1 => any::<f64>()];
    let one = (0..4u32, 0..200_000u64, 0..200_000u64, 0.0..9.0f64, odd(), odd(), 0.0..1.0f64);
    let one =
        one.prop_map(|(variant, total_kv_tokens, tokens_in_use, queue_length, i, o, hit)| ReplicaTokens {
            variant,
            total_kv_tokens,
            tokens_in_use,
            queue_length,
            avg_input_tokens: i,
            avg_output_tokens: o,
            prefix_cache_hit_rate: hit,
        });
    proptest::collection::vec(one, 0..12)
}

fn fleet(rule: Rule) -> Model {
    let mut model = Model::new(rule, &[variant("a", 1, 3), variant("b", 2, 2), variant("c", 1, 0)]);
    model.deploy("a", &["--max-num-seqs=64"], 0);
    model.deploy("c", &["--max-num-seqs=64"], 0);
    model.scheduler = Some(SchedulerQueue { size: 3.0, bytes: 5_000.0 });
    model
}

fn figures(analysis: &TokenAnalysis) -> (Vec<VariantTokens>, [f64; 5]) {
    let a = analysis;
    (a.variants.clone(), [a.supply, a.anticipated, a.demand, a.required, a.spare])
}

proptest! {
    /// The order in which replicas are listed changes nothing, neither now nor in what is remembered.
    #[test]
    fn replica_order_changes_nothing(
        steps in proptest::collection::vec(
            readings().prop_flat_map(|r| (Just(r.clone()), Just(r).prop_shuffle())), 1..6),
    ) {
        let (mut listed, mut shuffled) = (fleet(Rule::Guarded), fleet(Rule::Guarded));
        for (at, (a, b)) in steps.iter().enumerate() {
            let at_ms = at as i64 * 12_000;
            prop_assert_eq!(figures(listed.analyze(at_ms, a)), figures(shuffled.analyze(at_ms, b)));
        }
    }

    /// Asked twice at the same time, the answer is the same.
    #[test]
    fn analysis_is_idempotent(steps in proptest::collection::vec(readings(), 1..6)) {
        let mut model = fleet(Rule::Guarded);
        for (at, readings) in steps.iter().enumerate() {
            let first = figures(model.analyze(at as i64 * 12_000, readings));
            prop_assert_eq!(first, figures(model.analyze(at as i64 * 12_000, readings)));
        }
    }

    /// Figures are numbers and not negative, whatever the readings.
    #[test]
    fn figures_are_always_numbers(readings in readings()) {
        for rule in [Rule::Reference, Rule::Guarded] {
            let (variants, model) = figures(fleet(rule).analyze(0, &readings));
            let of_variants = variants.iter().flat_map(|v| [v.supply, v.demand, v.utilization]);
            prop_assert!(of_variants.chain(model).all(|x| x >= 0.0 && !x.is_nan()));
        }
    }

    /// More tokens in use never require less, nor leave more spare, while no queue reaches its threshold.
    #[test]
    fn more_load_never_requires_less(readings in readings(), more in 0..50_000u64) {
        let mut calm = readings;
        calm.iter_mut().for_each(|r| r.queue_length = r.queue_length.min(4.9));
        let (_, before) = figures(fleet(Rule::Guarded).analyze(0, &calm));
        calm.iter_mut().for_each(|r| r.tokens_in_use += more);
        let (_, after) = figures(fleet(Rule::Guarded).analyze(0, &calm));
        prop_assert!(after[3] >= before[3] && after[4] <= before[4]);
    }
}
