//! The borrowed decoder of 1.0 against prost's: equal on what is valid, never a panic and never stricter on what
//! is not.

use inferno_sidecar::proto::{
    BucketSpan, Exemplar, Histogram, Label, MetricMetadata, Sample, TimeSeries, WriteRequest, histogram,
};
use inferno_sidecar::wire::v1;
use inferno_sidecar::wire::{Counts, WireError, decompress};
use proptest::prelude::*;
use prost::Message;

/// Labels and samples of one series; values as bits, so that NaN equals itself.
type Content = (Vec<(Vec<u8>, Vec<u8>)>, Vec<(i64, u64)>);

/// Everything our decoder can read of a request.
fn ours(request: &[u8]) -> Result<(Counts, Vec<Content>), WireError> {
    let (mut all, mut failed) = (Vec::new(), None);
    let counts = v1::walk(request, |series| {
        let read = || -> Result<Content, WireError> {
            let labels = series.labels().map(|l| l.map(|(name, value)| (name.to_vec(), value.to_vec())));
            let samples = series.samples().map(|s| s.map(|(time, value)| (time.0, value.to_bits())));
            Ok((labels.collect::<Result<_, _>>()?, samples.collect::<Result<_, _>>()?))
        };
        match read() {
            Ok(content) => all.push(content),
            Err(error) => failed = failed.take().or(Some(error)),
        }
    })?;
    assert_eq!(v1::check(request).as_ref(), Ok(&counts));
    failed.map_or(Ok((counts, all)), Err)
}

/// The same of what prost has decoded.
fn theirs(request: &WriteRequest) -> (Counts, Vec<Content>) {
    let mut counts = Counts { metadata: request.metadata.len() as u64, ..Counts::default() };
    let content = |series: &TimeSeries| {
        counts.series += 1;
        counts.samples += series.samples.len() as u64;
        counts.exemplars += series.exemplars.len() as u64;
        counts.histograms += series.histograms.len() as u64;
        let labels = series.labels.iter().map(|l| (l.name.clone().into(), l.value.clone().into()));
        let samples = series.samples.iter().map(|s| (s.timestamp, s.value.to_bits()));
        (labels.collect(), samples.collect())
    };
    let all = request.timeseries.iter().map(content).collect();
    (counts, all)
}

/// Holds the relation between both decoders for any bytes.
fn compare(bytes: &[u8]) -> Result<(), TestCaseError> {
    match (WriteRequest::decode(bytes), ours(bytes)) {
        (Ok(request), Ok(read)) => prop_assert_eq!(theirs(&request), read),
        // We refuse groups, which the schema does not have and prost skips.
        (Ok(_), Err(WireError::Proto { what, .. })) => prop_assert!(what.contains("group"), "{what}"),
        (Ok(_), Err(error)) => prop_assert!(false, "prost accepts, we say {error}"),
        (Err(_), _) => {} // prost also reads what we skip: exemplars, histograms, metadata
    }
    Ok(())
}

pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z_]{0,12}",
        1 => "\\PC{0,8}",
        1 => Just("__name__".to_owned()),
        1 => Just("vllm:kv cache.usage, \u{1f999}\n".to_owned()),
        1 => "[a-z]{120,300}",
    ]
}

pub fn number() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), any::<u64>().prop_map(f64::from_bits), Just(0.0)]
}

fn some_labels() -> impl Strategy<Value = Vec<Label>> {
    prop::collection::vec((text(), text()).prop_map(|(name, value)| Label { name, value }), 0..6)
}

fn some_histogram() -> impl Strategy<Value = Histogram> {
    (number(), any::<i32>(), any::<u64>(), prop::collection::vec(any::<i64>(), 0..4), any::<i64>()).prop_map(
        |(sum, schema, count, deltas, timestamp)| Histogram {
            count: Some(histogram::Count::CountInt(count)),
            sum,
            schema,
            positive_spans: vec![BucketSpan { offset: schema, length: 3 }],
            positive_deltas: deltas,
            timestamp,
            ..Histogram::default()
        },
    )
}

fn some_series() -> impl Strategy<Value = TimeSeries> {
    let samples = prop::collection::vec(
        (number(), any::<i64>()).prop_map(|(value, timestamp)| Sample { value, timestamp }),
        0..4,
    );
    let exemplar = (some_labels(), number(), any::<i64>()).prop_map(|(labels, value, timestamp)| Exemplar {
        labels,
        value,
        timestamp,
    });
    let exemplars = prop::collection::vec(exemplar, 0..2);
    let histograms = prop::collection::vec(some_histogram(), 0..2);
    (some_labels(), samples, exemplars, histograms).prop_map(|(labels, samples, exemplars, histograms)| {
        TimeSeries { labels, samples, exemplars, histograms }
    })
}

fn request() -> impl Strategy<Value = WriteRequest> {
    let metadata = (0..8i32, text(), text(), text()).prop_map(|(r#type, metric_family_name, help, unit)| {
        MetricMetadata { r#type, metric_family_name, help, unit }
    });
    (prop::collection::vec(some_series(), 0..5), prop::collection::vec(metadata, 0..3))
        .prop_map(|(timeseries, metadata)| WriteRequest { timeseries, metadata })
}

pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of a later version of the message.
pub fn unknown_field() -> impl Strategy<Value = Vec<u8>> {
    let number = 5..1u64 << 29;
    (number, 0..4usize, any::<u64>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(
        |(number, kind, value, bytes)| {
            let mut out = Vec::new();
            varint(number << 3 | [0, 1, 2, 5][kind], &mut out);
            match kind {
                0 => varint(value, &mut out),
                1 => out.extend_from_slice(&value.to_le_bytes()),
                2 => {
                    varint(bytes.len() as u64, &mut out);
                    out.extend_from_slice(&bytes);
                }
                _ => out.extend_from_slice(&(value as u32).to_le_bytes()),
            }
            out
        },
    )
}

/// Wraps `message` as field `number`.
pub fn field(number: u64, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3 | 2, &mut out);
    varint(message.len() as u64, &mut out);
    out.extend_from_slice(message);
    out
}

/// A valid series whose fields, unknown ones among them, come in any order.
fn shuffled_series() -> impl Strategy<Value = Vec<u8>> {
    let label = (text(), text(), prop::option::of(unknown_field())).prop_map(|(name, value, extra)| {
        field(1, &[extra.unwrap_or_default(), Label { name, value }.encode_to_vec()].concat())
    });
    let sample =
        (number(), any::<i64>(), prop::option::of(unknown_field())).prop_map(|(value, timestamp, extra)| {
            field(2, &[Sample { value, timestamp }.encode_to_vec(), extra.unwrap_or_default()].concat())
        });
    let histogram = some_histogram().prop_map(|histogram| field(4, &histogram.encode_to_vec()));
    let any_field = prop_oneof![4 => label, 3 => sample, 1 => histogram, 1 => unknown_field()];
    prop::collection::vec(any_field, 0..10).prop_map(|fields| field(1, &fields.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_requests_read_the_same(request in request()) {
        let bytes = request.encode_to_vec();
        // Decoded once: an encoder leaves out a negative zero.
        prop_assert_eq!(ours(&bytes).unwrap(), theirs(&WriteRequest::decode(&*bytes).unwrap()));
    }

    #[test]
    fn fields_in_any_order_and_unknown_ones_read_the_same(
        parts in prop::collection::vec(prop_oneof![shuffled_series(), unknown_field()], 0..6),
    ) {
        let bytes = parts.concat();
        let request = WriteRequest::decode(&*bytes).expect("a valid request");
        prop_assert_eq!(ours(&bytes).unwrap(), theirs(&request));
    }

    /// The leading labels identify a series: equal bytes, equal labels.
    #[test]
    fn label_bytes_hold_all_labels_or_are_not_given(bytes in shuffled_series()) {
        v1::walk(&bytes, |series| {
            let Some(leading) = series.label_bytes() else { return };
            let alone = TimeSeries::decode(leading).expect("labels only");
            let all: Vec<_> = series.labels().map(Result::unwrap).collect();
            assert_eq!(alone.labels.len(), all.len());
        }).unwrap();
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
            if !bytes.is_empty() {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
        }
        compare(&bytes)?;
    }

    #[test]
    fn noise_is_judged_alike(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0..40u8], 0..200)) {
        compare(&bytes)?;
        compare(&field(1, &bytes))?;
        compare(&field(1, &field(1, &bytes)))?;
        compare(&field(1, &field(2, &bytes)))?;
    }

    /// Whatever fits is restored, whatever the buffer held before; nothing panics.
    #[test]
    fn snappy_blocks_are_restored(
        data in prop::collection::vec(any::<u8>(), 0..5000),
        before in prop::collection::vec(any::<u8>(), 0..6000),
        cut in any::<prop::sample::Index>(),
        flip in any::<(prop::sample::Index, u8)>(),
    ) {
        let mut body = snap::raw::Encoder::new().compress_vec(&data).unwrap();
        let mut buffer = before;
        let capacity = buffer.len().max(data.len());
        prop_assert_eq!(decompress(&body, &mut buffer).unwrap(), &data[..]);
        prop_assert_eq!(buffer.len(), capacity);
        let truncated = decompress(&body[..cut.index(body.len())], &mut buffer).is_ok();
        prop_assert!(!truncated);
        let at = flip.0.index(body.len());
        body[at] = flip.1;
        // Snappy blocks have no checksum, so only the announced size can be relied upon.
        if let Ok(restored) = decompress(&body, &mut buffer) {
            prop_assert_eq!(restored.len(), snap::raw::decompress_len(&body).unwrap());
        }
    }

    #[test]
    fn noise_is_no_snappy_block_or_a_bounded_one(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut buffer = Vec::new();
        let _ = decompress(&body, &mut buffer);
        prop_assert!(buffer.len() <= inferno_sidecar::limits::WRITE_DECODED_MAX_BYTES);
    }
}

#[test]
fn the_malformed_corpus_is_refused() {
    let overlong = [0x80; 10];
    let corpus: Vec<(&str, Vec<u8>)> = vec![
        ("length beyond the end", vec![0x0a, 0x05, 0x00]),
        ("length of 2^64 - 1", [&[0x0a][..], &[0xff; 9], &[0x01]].concat()),
        ("length of 2^63", [&[0x0a][..], &[0x80; 9], &[0x01]].concat()),
        ("varint of 11 bytes", [&[0x28][..], &overlong, &[0x00]].concat()),
        ("varint over 64 bits", [&[0x28][..], &[0xff; 9], &[0x02]].concat()),
        ("varint cut short", vec![0x28, 0x80]),
        ("field number 0", vec![0x02, 0x00]),
        ("key over 32 bits", vec![0x80, 0x80, 0x80, 0x80, 0x10, 0x00]),
        ("wire type 6", vec![0x0e]),
        ("wire type 7", vec![0x0f]),
        ("series as varint", vec![0x08, 0x00]),
        ("metadata as fixed64", vec![0x19, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("fixed64 cut short", vec![0x29, 0, 0, 0]),
        ("fixed32 cut short", vec![0x2d, 0, 0]),
        ("end of a group that never began", vec![0x2c]),
        ("group that never ends", vec![0x2b]),
        ("label as varint", field(1, &[0x08, 0x00])),
        ("sample as fixed32", field(1, &[0x15, 0, 0, 0, 0])),
        ("name as varint", field(1, &field(1, &[0x08, 0x00]))),
        ("value as varint", field(1, &field(2, &[0x08, 0x00]))),
        ("time as fixed64", field(1, &field(2, &[0x11, 0, 0, 0, 0, 0, 0, 0, 0]))),
        ("label that ends in its name", field(1, &field(1, &[0x0a, 0x05, b'x']))),
    ];
    for (what, bytes) in corpus {
        assert!(ours(&bytes).is_err(), "{what}");
        assert!(WriteRequest::decode(&*bytes).is_err(), "prost: {what}");
    }
    // A closed group is valid protobuf, but no part of any version of the message.
    let group = [0x2b, 0x08, 0x01, 0x2c];
    assert!(WriteRequest::decode(&group[..]).is_ok());
    assert!(ours(&group).unwrap_err().to_string().contains("group"));
}

#[test]
fn an_overlong_but_valid_varint_is_accepted() {
    // Length 1, written in two bytes, around an unknown field of the series... and an empty request.
    let bytes = [0x0a, 0x82, 0x00, 0x28, 0x01];
    assert_eq!(ours(&bytes).unwrap(), theirs(&WriteRequest::decode(&bytes[..]).unwrap()));
    assert_eq!(ours(&[]).unwrap(), (Counts::default(), vec![]));
}

#[test]
fn both_size_limits_are_enforced_by_name() {
    use inferno_sidecar::limits::{WRITE_COMPRESSED_MAX_BYTES, WRITE_DECODED_MAX_BYTES};
    let mut buffer = Vec::new();
    let body = vec![0; WRITE_COMPRESSED_MAX_BYTES + 1];
    assert!(matches!(decompress(&body, &mut buffer), Err(WireError::CompressedTooLarge { .. })));
    let largest = vec![0; WRITE_DECODED_MAX_BYTES];
    let body = snap::raw::Encoder::new().compress_vec(&largest).unwrap();
    assert_eq!(decompress(&body, &mut buffer).unwrap().len(), largest.len());
    let body = snap::raw::Encoder::new().compress_vec(&vec![0; WRITE_DECODED_MAX_BYTES + 1]).unwrap();
    let error = decompress(&body, &mut buffer).unwrap_err();
    assert!(matches!(error, WireError::DecodedTooLarge { .. }));
    assert!(error.to_string().contains("max_samples_per_send"), "{error}");
}
