//! The borrowed decoder of 2.0 against prost's: equal on what is valid, never a panic and never stricter
//! on what is not.

use crate::v1::{field, number, text, unknown_field, varint};
use inferno_sidecar::limits::WRITE_SYMBOLS_MAX;
use inferno_sidecar::proto::v2::{
    BucketSpan, Exemplar, Histogram, Metadata, Request, Sample, TimeSeries, histogram::Count,
};
use inferno_sidecar::wire::v2::{self, RefsRead, Symbols};
use inferno_sidecar::wire::{Counts, WireError};
use proptest::prelude::*;
use prost::Message;

/// One series: label references, samples (values as bits, so that NaN equals itself), references of each
/// exemplar, help and unit.
type Content = (Vec<u32>, Vec<(i64, u64)>, Vec<Vec<u32>>, [u32; 2]);
/// A whole request: counts, symbols, series.
type All = (Counts, Vec<Vec<u8>>, Vec<Content>);

/// Everything our decoder can read of a request.
fn ours(request: &[u8]) -> Result<All, WireError> {
    let mut symbols = Symbols::default();
    let counts = v2::check(request, &mut symbols)?;
    let (mut all, mut failed) = (Vec::new(), None);
    v2::walk(request, |series| {
        let read = || -> Result<Content, WireError> {
            let mut refs = Vec::new();
            assert_eq!(series.read_refs(&mut refs, usize::MAX)?, RefsRead::All);
            let samples = series.samples().map(|s| s.map(|(time, value)| (time.0, value.to_bits())));
            let mut exemplars = Vec::new();
            for exemplar in series.exemplars() {
                let (message, base) = exemplar?;
                let mut refs = Vec::new();
                assert_eq!(v2::read_refs(message, base, &mut refs, usize::MAX)?, RefsRead::All);
                exemplars.push(refs);
            }
            // Whatever the verdict, it is one.
            let judged = series.histograms().count();
            assert_eq!(judged, series.histograms as usize);
            Ok((refs, samples.collect::<Result<_, _>>()?, exemplars, series.metadata_refs()?))
        };
        match read() {
            Ok(content) => all.push(content),
            Err(error) => failed = failed.take().or(Some(error)),
        }
    })?;
    let table = symbols.iter(request).map(<[u8]>::to_vec).collect();
    failed.map_or(Ok((counts, table, all)), Err)
}

/// The same of what prost has decoded.
fn theirs(request: &Request) -> All {
    let mut counts = Counts::default();
    let content = |series: &TimeSeries| {
        counts.series += 1;
        counts.samples += series.samples.len() as u64;
        counts.exemplars += series.exemplars.len() as u64;
        counts.histograms += series.histograms.len() as u64;
        counts.metadata += u64::from(series.metadata.is_some());
        let samples = series.samples.iter().map(|s| (s.timestamp, s.value.to_bits())).collect();
        let exemplars = series.exemplars.iter().map(|exemplar| exemplar.labels_refs.clone()).collect();
        let metadata = series.metadata.unwrap_or_default();
        (series.labels_refs.clone(), samples, exemplars, [metadata.help_ref, metadata.unit_ref])
    };
    let all = request.timeseries.iter().map(content).collect();
    (counts, request.symbols.iter().map(|symbol| symbol.clone().into_bytes()).collect(), all)
}

/// Holds the relation between both decoders for any bytes.
fn compare(bytes: &[u8]) -> Result<(), TestCaseError> {
    match (Request::decode(bytes), ours(bytes)) {
        (Ok(request), Ok(read)) => prop_assert_eq!(theirs(&request), read),
        (Ok(request), Err(WireError::FirstSymbol)) => prop_assert!(!request.symbols[0].is_empty()),
        // We refuse groups, which the schema does not have and prost skips.
        (Ok(_), Err(WireError::Proto { what, .. })) => prop_assert!(what.contains("group"), "{what}"),
        (Ok(_), Err(error)) => prop_assert!(false, "prost accepts, we say {error}"),
        (Err(_), _) => {} // prost also reads what we skip or judge on its own: exemplars, histograms
    }
    Ok(())
}

fn some_refs() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![4 => 0..40u32, 1 => any::<u32>()], 0..10)
}

fn some_sample() -> impl Strategy<Value = Sample> {
    (number(), any::<i64>(), any::<i64>()).prop_map(|(value, timestamp, start_timestamp)| Sample {
        value,
        timestamp,
        start_timestamp,
    })
}

fn some_exemplar() -> impl Strategy<Value = Exemplar> {
    (some_refs(), number(), any::<i64>()).prop_map(|(labels_refs, value, timestamp)| Exemplar {
        labels_refs,
        value,
        timestamp,
    })
}

fn some_histogram() -> impl Strategy<Value = Histogram> {
    let deltas = prop::collection::vec(any::<i64>(), 0..4);
    (number(), any::<i32>(), any::<u64>(), deltas, any::<i64>()).prop_map(
        |(sum, schema, count, positive_deltas, start_timestamp)| Histogram {
            count: Some(Count::CountInt(count)),
            sum,
            schema,
            positive_spans: vec![BucketSpan { offset: schema, length: 3 }],
            positive_deltas,
            custom_values: vec![sum],
            start_timestamp,
            ..Histogram::default()
        },
    )
}

fn some_metadata() -> impl Strategy<Value = Metadata> {
    (0..9i32, any::<u32>(), 0..9u32).prop_map(|(r#type, help_ref, unit_ref)| Metadata {
        r#type,
        help_ref,
        unit_ref,
    })
}

fn some_series() -> impl Strategy<Value = TimeSeries> {
    let many = |range| prop::collection::vec(some_sample(), range);
    let exemplars = prop::collection::vec(some_exemplar(), 0..3);
    let histograms = prop::collection::vec(some_histogram(), 0..2);
    (some_refs(), many(0..4), exemplars, histograms, prop::option::of(some_metadata())).prop_map(
        |(labels_refs, samples, exemplars, histograms, metadata)| TimeSeries {
            labels_refs,
            samples,
            histograms,
            exemplars,
            metadata,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    (prop::collection::vec(text(), 0..8), prop::collection::vec(some_series(), 0..5)).prop_map(
        |(mut symbols, timeseries)| {
            symbols.insert(0, String::new());
            Request { symbols, timeseries }
        },
    )
}

/// A valid series whose fields, unknown ones and the old created timestamp among them, come in any order;
/// references come packed, in pieces and one by one.
fn shuffled_series() -> impl Strategy<Value = Vec<u8>> {
    let packed = some_refs().prop_map(|refs| {
        let mut bytes = Vec::new();
        refs.into_iter().for_each(|reference| varint(u64::from(reference), &mut bytes));
        field(1, &bytes)
    });
    let single = any::<u32>().prop_map(|reference| {
        let mut bytes = vec![0x08];
        varint(u64::from(reference), &mut bytes);
        bytes
    });
    let created = any::<i64>().prop_map(|time| {
        let mut bytes = vec![0x30];
        varint(time as u64, &mut bytes);
        bytes
    });
    let extra = || prop::option::of(unknown_field()).prop_map(Option::unwrap_or_default);
    let sample = (some_sample(), extra())
        .prop_map(|(sample, extra)| field(2, &[sample.encode_to_vec(), extra_beyond(extra)].concat()));
    let histogram = some_histogram().prop_map(|histogram| field(3, &histogram.encode_to_vec()));
    let exemplar = some_exemplar().prop_map(|exemplar| field(4, &exemplar.encode_to_vec()));
    let metadata = some_metadata().prop_map(|metadata| field(5, &metadata.encode_to_vec()));
    let unknown = unknown_field().prop_map(extra_beyond);
    let any_field = prop_oneof![
        3 => packed, 2 => single, 1 => created, 3 => sample, 1 => histogram, 1 => exemplar, 1 => metadata,
        1 => unknown
    ];
    prop::collection::vec(any_field, 0..10).prop_map(|fields| field(5, &fields.concat()))
}

/// An unknown field of 1.0 may have number 5, which 2.0 knows.
fn extra_beyond(bytes: Vec<u8>) -> Vec<u8> {
    if bytes.first().is_some_and(|key| key >> 3 == 5 && key & 0x80 == 0) { Vec::new() } else { bytes }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_requests_read_the_same(request in request()) {
        let bytes = request.encode_to_vec();
        // Decoded once: an encoder leaves out a negative zero.
        prop_assert_eq!(ours(&bytes).unwrap(), theirs(&Request::decode(&*bytes).unwrap()));
    }

    /// Also with symbols behind the series that use them.
    #[test]
    fn fields_in_any_order_and_unknown_ones_read_the_same(
        parts in prop::collection::vec(
            prop_oneof![
                3 => shuffled_series(),
                1 => unknown_field().prop_map(extra_beyond),
                2 => text().prop_map(|text| field(4, text.as_bytes())),
            ],
            0..8,
        ),
        symbols_at in any::<prop::sample::Index>(),
    ) {
        let mut parts = parts;
        let first = parts.iter().position(|part| part.first() == Some(&0x22)).unwrap_or(parts.len());
        parts.insert(symbols_at.index(first + 1), field(4, b""));
        let bytes = parts.concat();
        let request = Request::decode(&*bytes).expect("a valid request");
        prop_assert_eq!(ours(&bytes).unwrap(), theirs(&request));
    }

    #[test]
    fn every_truncation_is_judged_alike(request in request()) {
        let bytes = request.encode_to_vec();
        for cut in 0..bytes.len().min(600) {
            compare(&bytes[..cut])?;
        }
    }

    #[test]
    fn flipped_bytes_are_judged_alike(
        request in request(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = request.encode_to_vec();
        for (index, byte) in flips {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        compare(&bytes)?;
    }

    #[test]
    fn noise_is_judged_alike(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0..50u8], 0..200)) {
        compare(&bytes)?;
        compare(&field(4, &bytes))?;
        compare(&field(5, &bytes))?;
        for number in 1..6 {
            compare(&field(5, &field(number, &bytes)))?;
        }
    }
}

#[test]
fn the_malformed_corpus_is_refused() {
    let long = [&[0xff; 9][..], &[0x01]].concat();
    let corpus: Vec<(&str, Vec<u8>)> = vec![
        ("symbol beyond the end", vec![0x22, 0x05, 0x00]),
        ("symbol of 2^64 - 1", [&[0x22][..], &long].concat()),
        ("series of 2^64 - 1", [&[0x2a][..], &long].concat()),
        ("symbol as varint", vec![0x20, 0x00]),
        ("series as fixed32", vec![0x2d, 0, 0, 0, 0]),
        ("reference as fixed32", field(5, &[0x0d, 0, 0, 0, 0])),
        ("reference as fixed64", field(5, &[0x09, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("packed references that end within one", field(5, &field(1, &[0x80]))),
        ("packed reference over 64 bits", field(5, &field(1, &[&[0xff; 9][..], &[0x02]].concat()))),
        ("sample as varint", field(5, &[0x10, 0x00])),
        ("histogram as varint", field(5, &[0x18, 0x00])),
        ("exemplar as varint", field(5, &[0x20, 0x00])),
        ("metadata as varint", field(5, &[0x28, 0x00])),
        ("value as varint", field(5, &field(2, &[0x08, 0x00]))),
        ("start as fixed64", field(5, &field(2, &[0x19, 0, 0, 0, 0, 0, 0, 0, 0]))),
        ("help as bytes", field(5, &field(5, &[0x1a, 0x00]))),
        ("exemplar's references as fixed32", field(5, &field(4, &[0x0d, 0, 0, 0, 0]))),
    ];
    for (what, bytes) in corpus {
        assert!(ours(&bytes).is_err(), "{what}");
        assert!(Request::decode(&*bytes).is_err(), "prost: {what}");
    }
}

#[test]
fn the_first_symbol_is_the_empty_string() {
    let mut symbols = Symbols::default();
    let wrong = Request { symbols: vec!["a".into()], ..Request::default() }.encode_to_vec();
    assert_eq!(v2::check(&wrong, &mut symbols), Err(WireError::FirstSymbol));
    assert_eq!(v2::check(&[], &mut symbols), Ok(Counts::default()));
}

#[test]
fn the_symbol_table_is_bounded() {
    let mut symbols = Symbols::default();
    let most = field(4, b"").repeat(WRITE_SYMBOLS_MAX);
    assert!(v2::check(&most, &mut symbols).is_ok());
    assert_eq!(symbols.len(), WRITE_SYMBOLS_MAX);
    let error = v2::check(&[most, field(4, b"")].concat(), &mut symbols).unwrap_err();
    assert!(error.to_string().contains("max_samples_per_send"), "{error}");
}

/// Either message read as the other is empty, by the numbers of its fields.
#[test]
fn one_version_read_as_the_other_is_empty() {
    use inferno_sidecar::proto;
    use inferno_sidecar::wire::v1;
    let one = proto::WriteRequest { timeseries: vec![Default::default()], ..Default::default() };
    assert_eq!(v2::check(&one.encode_to_vec(), &mut Symbols::default()), Ok(Counts::default()));
    let two = Request { symbols: vec!["".into(), "a".into()], timeseries: vec![TimeSeries::default()] };
    assert_eq!(v1::check(&two.encode_to_vec()), Ok(Counts::default()));
}
