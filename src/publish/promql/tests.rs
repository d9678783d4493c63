//! Queries over a small table of samples, with the results that Prometheus gives.

use super::*;
use crate::publish::exposition::write_value;

/// Name, labels and value of a sample.
type Row = (&'static str, &'static [(&'static str, &'static str)], f64);

const TABLE: &[Row] = &[
    ("want", &[("ns", "a"), ("v", "x")], 3.0),
    ("want", &[("ns", "a"), ("v", "y")], 5.0),
    ("want", &[("ns", "b"), ("v", "z")], -1.5),
    ("have", &[("ns", "a"), ("v", "x")], 2.0),
    ("have", &[("ns", "b"), ("v", "z")], 4.0),
    ("odd", &[("ns", "a"), ("v", "x")], f64::NAN),
    ("odd", &[("ns", "a"), ("v", "y")], f64::INFINITY),
];

/// A counter that restarts, as any range selector finds it.
const RECORDED: &[(TimeMs, f64)] = &[
    (TimeMs(10_000), 100.0),
    (TimeMs(20_000), 110.0),
    (TimeMs(30_000), 5.0),
    (TimeMs(40_000), 25.0),
    (TimeMs(50_000), 25.0),
];

struct Table;

impl Source<'static> for Table {
    fn range(
        &self,
        _: &VectorSelector,
        after: TimeMs,
        until: TimeMs,
    ) -> Result<Vec<Series<'_, 'static>>, QueryError> {
        let within = |(time, _): &(TimeMs, f64)| *time > after && *time <= until;
        let from = RECORDED.iter().position(within).unwrap_or(RECORDED.len());
        let points = &RECORDED[from..];
        let points = &points[..points.iter().take_while(|point| within(point)).count()];
        Ok(vec![Series { labels: vec![(METRIC_NAME, "want"), ("ns", "a")], points }])
    }

    fn select(&self, selector: &VectorSelector, _: TimeMs) -> Result<Vec<Sample<'static>>, QueryError> {
        let selector = &Selector::new(selector)?;
        if selector.matches_name("unknown") {
            return Err(QueryError::NotReady("unknown yet".into()));
        }
        let matching = TABLE
            .iter()
            .filter(|(name, labels, _)| selector.matches_name(name) && selector.matches_labels(labels));
        Ok(matching
            .map(|(name, labels, value)| {
                let mut all = labels.to_vec();
                all.push((METRIC_NAME, name));
                all.sort_unstable();
                Sample { labels: all, value: *value }
            })
            .collect())
    }
}

fn evaluate(query: &str) -> Result<Value<'static>, QueryError> {
    Query::parse(query)?.evaluate(&Table, Moment::at(TimeMs(60_000)))
}

/// A result as text: samples sorted, each as Prometheus writes it.
fn text(value: Value<'_>) -> String {
    let number = |value| {
        let mut out = String::new();
        write_value(&mut out, value);
        out
    };
    let samples = match value {
        Value::Scalar(value) => return number(value),
        Value::Vector(samples) => samples,
        Value::Matrix(tracks) => return format!("{tracks:?}"),
    };
    let mut lines: Vec<String> = samples
        .iter()
        .map(|sample| {
            let name = sample.labels.iter().find(|(name, _)| *name == METRIC_NAME).map_or("", |pair| pair.1);
            let labels: Vec<String> = sample
                .labels
                .iter()
                .filter(|(name, _)| *name != METRIC_NAME)
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("{name}{{{}}} {}", labels.join(","), number(sample.value))
        })
        .collect();
    lines.sort();
    lines.join("; ")
}

fn check(cases: &[(&str, &str)]) {
    for (query, expected) in cases {
        match evaluate(query) {
            Ok(value) => assert_eq!(&text(value), expected, "{query}"),
            Err(error) => panic!("{query}: {error}"),
        }
    }
}

#[test]
fn scalars_are_calculated() {
    check(&[
        ("1+1", "2"),
        ("-(2)", "-2"),
        ("7 % 4", "3"),
        ("2 ^ 3 ^ 2", "512"),
        ("1 / 0", "+Inf"),
        ("0 / 0", "NaN"),
        ("-1 / 0", "-Inf"),
        ("2 > bool 1", "1"),
        ("2 == bool 1", "0"),
        ("0x10", "16"),
        ("scalar(want{v=\"x\"})", "3"),
        ("scalar(want)", "NaN"),
        ("scalar(nothing)", "NaN"),
        ("scalar(want{v=\"x\"}) + 1", "4"),
    ]);
}

#[test]
fn vectors_are_calculated_with_scalars() {
    check(&[
        ("want", "want{ns=a,v=x} 3; want{ns=a,v=y} 5; want{ns=b,v=z} -1.5"),
        ("want{v=\"x\"} * 2", "{ns=a,v=x} 6"),
        ("10 - want{v=\"x\"}", "{ns=a,v=x} 7"),
        ("-want{v=\"x\"}", "{ns=a,v=x} -3"),
        ("want > 4", "want{ns=a,v=y} 5"),
        ("4 < want", "want{ns=a,v=y} 5"),
        ("want >= bool 3", "{ns=a,v=x} 1; {ns=a,v=y} 1; {ns=b,v=z} 0"),
        ("odd == 1", ""),
        ("odd != 1", "odd{ns=a,v=x} NaN; odd{ns=a,v=y} +Inf"),
        ("vector(2)", "{} 2"),
        ("vector(scalar(want{v=\"x\"}))", "{} 3"),
    ]);
}

#[test]
fn vectors_are_joined_on_equal_labels() {
    check(&[
        ("want - have", "{ns=a,v=x} 1; {ns=b,v=z} -5.5"),
        ("want > have", "want{ns=a,v=x} 3"),
        ("want > bool have", "{ns=a,v=x} 1; {ns=b,v=z} 0"),
        ("want / on (ns, v) have", "{ns=a,v=x} 1.5; {ns=b,v=z} -0.375"),
        ("want{v=\"x\"} - ignoring (v) have", "{ns=a} 1"),
        ("want{v=\"x\"} > on (ns) have", "{ns=a} 3"),
        ("want and have", "want{ns=a,v=x} 3; want{ns=b,v=z} -1.5"),
        ("want unless have", "want{ns=a,v=y} 5"),
        ("have or want", "have{ns=a,v=x} 2; have{ns=b,v=z} 4; want{ns=a,v=y} 5"),
        ("have or on (ns) want", "have{ns=a,v=x} 2; have{ns=b,v=z} 4"),
        ("want and on () vector(1)", "want{ns=a,v=x} 3; want{ns=a,v=y} 5; want{ns=b,v=z} -1.5"),
        ("nothing or vector(0)", "{} 0"),
        ("sum(want) or vector(0)", "{} 6.5"),
    ]);
}

#[test]
fn groups_are_aggregated() {
    check(&[
        ("sum(want)", "{} 6.5"),
        ("sum(nothing)", ""),
        ("sum by (ns) (want)", "{ns=a} 8; {ns=b} -1.5"),
        ("sum(want) by (ns)", "{ns=a} 8; {ns=b} -1.5"),
        ("min without (v) (want)", "{ns=a} 3; {ns=b} -1.5"),
        ("max without (ns, v) (want)", "{} 5"),
        ("avg(want{ns=\"a\"})", "{} 4"),
        ("count by (missing) (want)", "{} 3"),
        ("count by (__name__) ({__name__=~\"want|have\"})", "have{} 2; want{} 3"),
        ("max(odd)", "{} +Inf"),
        ("min(odd)", "{} +Inf"),
        ("sum(odd)", "{} NaN"),
        ("sum(want > 100)", ""),
    ]);
}

#[test]
fn functions_are_applied() {
    check(&[
        ("abs(want{v=\"z\"})", "{ns=b,v=z} 1.5"),
        ("ceil(want{v=\"z\"})", "{ns=b,v=z} -1"),
        ("floor(want{v=\"z\"})", "{ns=b,v=z} -2"),
        ("round(want{v=\"z\"})", "{ns=b,v=z} -1"),
        ("round(want{v=\"x\"}, 5)", "{ns=a,v=x} 5"),
        ("clamp_min(want, 4)", "{ns=a,v=x} 4; {ns=a,v=y} 5; {ns=b,v=z} 4"),
        ("clamp_max(want, 4)", "{ns=a,v=x} 3; {ns=a,v=y} 4; {ns=b,v=z} -1.5"),
        ("clamp(want, 0, 4)", "{ns=a,v=x} 3; {ns=a,v=y} 4; {ns=b,v=z} 0"),
        ("clamp(want, 4, 0)", ""),
        ("clamp_max(want{v=\"x\"}, scalar(nothing))", "{ns=a,v=x} NaN"),
        ("clamp_max(odd{v=\"x\"}, 1)", "{ns=a,v=x} NaN"),
    ]);
}

/// With the results of Prometheus 3 for these samples; `tests/record.rs` asks it itself.
#[test]
fn ranges_are_summed_up() {
    check(&[
        ("rate(want[60s])", "{ns=a} 0.875"),
        ("increase(want[60s])", "{ns=a} 52.5"),
        ("delta(want[60s])", "{ns=a} -112.5"),
        ("irate(want[60s])", "{ns=a} 0"),
        ("idelta(want[60s])", "{ns=a} 0"),
        ("count_over_time(want[30s])", "{ns=a} 2"),
        ("sum_over_time(want[60s])", "{ns=a} 265"),
        ("avg_over_time(want[60s])", "{ns=a} 53"),
        ("min_over_time(want[60s])", "{ns=a} 5"),
        ("max_over_time(want[60s])", "{ns=a} 110"),
        ("last_over_time(want[60s])", "want{ns=a} 25"),
        ("changes(want[60s])", "{ns=a} 3"),
        ("resets(want[60s])", "{ns=a} 1"),
        ("rate(want[15s])", ""),
        ("time()", "60"),
    ]);
}

#[test]
fn what_is_not_known_is_an_error_of_the_whole_query() {
    for query in [
        "unknown",
        "unknown or vector(0)",
        "vector(0) or unknown",
        "sum(unknown) or vector(0)",
        "want unless unknown",
        "want{v=\"none\"} and unknown",
        "scalar(unknown) + 1",
        "clamp_min(unknown, 0)",
        "count({__name__=~\".+\"})",
    ] {
        assert_eq!(evaluate(query), Err(QueryError::NotReady("unknown yet".into())), "{query}");
    }
}

#[test]
fn the_rest_is_refused_by_name() {
    for (query, part) in [
        ("deriv(want[5m])", "function deriv"),
        ("max_over_time(want[5m:1m])", "max_over_time"),
        ("topk(1, want)", "topk"),
        ("quantile(0.5, want)", "quantile"),
        ("stddev(want)", "stddev"),
        ("want * on (ns) group_left have", "group_left"),
        ("want * on (ns) group_right have", "group_right"),
        ("label_replace(want, \"a\", \"b\", \"c\", \"d\")", "label_replace"),
        ("\"text\"", "string"),
        ("want{v=\"x\" or ns=\"a\"}", "or between matchers"),
    ] {
        let error = evaluate(query).expect_err(query);
        assert!(matches!(&error, QueryError::Unsupported(what) if what.contains(part)), "{query}: {error}");
    }
}

#[test]
fn ambiguous_matches_fail() {
    for query in ["have - on (ns) want", "want - on (ns) have", "abs({__name__=~\"want|have\"})"] {
        let error = evaluate(query).expect_err(query);
        assert!(matches!(error, QueryError::Failed(_)), "{query}: {error}");
    }
}

#[test]
fn types_are_checked() {
    for query in
        ["sum(1)", "1 and want", "1 > 2", "abs(1)", "vector(want)", "want +", "clamp_min(want, want)"]
    {
        let error = evaluate(query).expect_err(query);
        assert!(matches!(error, QueryError::BadData(_)), "{query}: {error}");
    }
}

#[test]
fn the_samples_of_a_query_are_bounded() {
    struct Many;
    impl Source<'static> for Many {
        fn select(&self, _: &VectorSelector, _: TimeMs) -> Result<Vec<Sample<'static>>, QueryError> {
            Ok(vec![Sample { labels: vec![("a", "b")], value: 1.0 }; QUERY_SAMPLES_MAX / 2])
        }

        fn range(
            &self,
            _: &VectorSelector,
            _: TimeMs,
            _: TimeMs,
        ) -> Result<Vec<Series<'_, 'static>>, QueryError> {
            Ok(Vec::new())
        }
    }
    let evaluate = |query: &str| Query::parse(query).unwrap().evaluate(&Many, Moment::at(TimeMs(0)));
    assert!(evaluate("sum(x) + sum(x)").is_ok());
    let error = evaluate("sum(x) + sum(x) + sum(x)").unwrap_err();
    assert!(matches!(error, QueryError::Failed(_)), "{error}");
}
