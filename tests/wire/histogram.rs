//! Native histograms: every rule, seen from both sides.

use inferno_sidecar::proto::v2::{BucketSpan, Histogram, histogram::Count, histogram::ZeroCount};
use inferno_sidecar::wire::STALE_MARKER_BITS;
use inferno_sidecar::wire::histogram::{HistogramError, check};
use prost::Message;

fn span(offset: i32, length: u32) -> BucketSpan {
    BucketSpan { offset, length }
}

/// Buckets 1, 3, 2 and 1 on both sides, 2 around zero: 16 observations.
fn integers() -> Histogram {
    Histogram {
        count: Some(Count::CountInt(16)),
        zero_count: Some(ZeroCount::ZeroCountInt(2)),
        sum: 12.5,
        schema: 3,
        zero_threshold: 0.001,
        positive_spans: vec![span(-2, 2), span(3, 2)],
        positive_deltas: vec![1, 2, -1, -1],
        negative_spans: vec![span(0, 4)],
        negative_deltas: vec![1, 2, -1, -1],
        ..Histogram::default()
    }
}

fn floats() -> Histogram {
    Histogram {
        count: Some(Count::CountFloat(7.5)),
        zero_count: Some(ZeroCount::ZeroCountFloat(0.5)),
        positive_spans: vec![span(0, 2)],
        positive_counts: vec![3.0, 4.0],
        ..Histogram::default()
    }
}

fn custom() -> Histogram {
    Histogram {
        count: Some(Count::CountInt(6)),
        schema: -53,
        positive_spans: vec![span(0, 3)],
        positive_deltas: vec![1, 1, 1],
        custom_values: vec![0.1, 1.0],
        ..Histogram::default()
    }
}

fn judged(histogram: &Histogram) -> Result<(), String> {
    check(&histogram.encode_to_vec(), 0).map_err(|error| error.to_string())
}

#[test]
fn what_the_data_model_allows_is_accepted() {
    let stale = f64::from_bits(STALE_MARKER_BITS);
    let nan_sum = Histogram { sum: f64::NAN, count: Some(Count::CountInt(20)), ..integers() };
    let ended = Histogram { sum: stale, count: Some(Count::CountInt(9)), ..Histogram::default() };
    let rounding = Histogram { count: Some(Count::CountFloat(7.500001)), ..floats() };
    let beyond = Histogram { schema: 20, ..integers() };
    // The list of the other kind is not looked at.
    let other_list = Histogram { negative_counts: vec![-1.0], ..integers() };
    for histogram in
        [integers(), floats(), custom(), Histogram::default(), nan_sum, ended, rounding, beyond, other_list]
    {
        assert_eq!(judged(&histogram), Ok(()), "{histogram:?}");
    }
}

#[test]
fn what_breaks_a_rule_is_refused_with_the_rule() {
    let cases = [
        (Histogram { count: Some(Count::CountInt(15)), ..integers() }, "the count is not"),
        (Histogram { count: Some(Count::CountInt(17)), ..integers() }, "the count is not"),
        (Histogram { sum: f64::NAN, count: Some(Count::CountInt(15)), ..integers() }, "the count is not"),
        (Histogram { count: Some(Count::CountInt(5)), ..Histogram::default() }, "the count is not"),
        (Histogram { schema: -5, ..integers() }, "unknown schema"),
        (Histogram { schema: 53, ..integers() }, "unknown schema"),
        (Histogram { positive_spans: vec![span(0, 3)], ..integers() }, "do not cover"),
        (Histogram { negative_spans: vec![span(0, 5)], ..integers() }, "do not cover"),
        (Histogram { positive_spans: vec![span(0, 2), span(-1, 2)], ..integers() }, "overlap"),
        (Histogram { positive_deltas: vec![1, -2, 1, 1], ..integers() }, "less than nothing"),
        (Histogram { positive_counts: vec![-3.0, 4.0], ..floats() }, "less than nothing"),
        (Histogram { count: Some(Count::CountFloat(-1.0)), ..floats() }, "less than nothing"),
        (Histogram { custom_values: vec![1.0], ..integers() }, "exponential"),
        (Histogram { zero_count: Some(ZeroCount::ZeroCountFloat(2.0)), ..integers() }, "float zero count"),
        (Histogram { custom_values: vec![1.0, 1.0], ..custom() }, "must rise"),
        (Histogram { custom_values: vec![f64::NAN, 1.0], ..custom() }, "must rise"),
        (Histogram { custom_values: vec![1.0, f64::INFINITY], ..custom() }, "+Inf"),
        (Histogram { zero_threshold: 0.1, ..custom() }, "no zero bucket"),
        (Histogram { zero_count: Some(ZeroCount::ZeroCountInt(1)), ..custom() }, "no zero bucket"),
        (
            Histogram { negative_spans: vec![span(0, 1)], negative_deltas: vec![1], ..custom() },
            "no negative side",
        ),
        (Histogram { custom_values: vec![0.1], ..custom() }, "outside the custom bounds"),
        (Histogram { positive_spans: vec![span(-1, 3)], ..custom() }, "outside the custom bounds"),
    ];
    for (histogram, said) in cases {
        let error = judged(&histogram).expect_err(said);
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn numbers_at_the_ends_of_the_scale_do_no_harm() {
    for delta in [i64::MIN, i64::MAX] {
        let deltas = vec![delta; 50];
        let spans = vec![span(i32::MAX, u32::MAX), span(i32::MAX, 50), span(i32::MIN, u32::MAX)];
        let count = Some(Count::CountInt(u64::MAX));
        for schema in [0, -53] {
            let histogram = Histogram {
                count,
                schema,
                positive_spans: spans.clone(),
                positive_deltas: deltas.clone(),
                ..Histogram::default()
            };
            assert!(judged(&histogram).is_err());
        }
    }
}

#[test]
fn lists_may_be_written_unpacked() {
    let mut message = Histogram { positive_deltas: vec![], ..integers() }.encode_to_vec();
    for delta in [1i64, 2, -1, -1] {
        message.push(12 << 3);
        message.push((delta << 1 ^ delta >> 63) as u8);
    }
    assert_eq!(check(&message, 0), Ok(()));
}

#[test]
fn broken_messages_are_refused_with_their_place() {
    for (message, what) in [
        (vec![0x08], "varint"),
        (vec![0x09, 0, 0], "fixed-width"),
        (vec![0x20 | 1, 0, 0, 0, 0, 0, 0, 0, 0], "wrong wire type"),
        (vec![0x52, 7, 0, 0, 0, 0, 0, 0, 0], "packed doubles"),
        (vec![0x62, 1, 0x80], "varint"),
        (vec![0x42, 2, 0x0d, 0], "fixed-width"),
    ] {
        let error = check(&message, 100).expect_err(what);
        assert!(matches!(error, HistogramError::Broken(_)), "{error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
}
