//! Every bound of the process, by name, with the relations between them checked at compile time.

/// The limits that an operator may set; the others are constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most live relevant series.
    pub series: usize,
    /// Largest write request, before and after decompression, bytes.
    pub request_bytes: usize,
    /// Most bytes of write requests (compressed and decompressed) held at once; more is answered 503.
    pub inflight_bytes: usize,
    /// Most memory of the record, bytes.
    pub record_bytes: usize,
    /// Most open connections of a listener.
    pub connections: usize,
    /// Most open streams of external scalers.
    pub scaler_streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            series: SERIES_MAX,
            request_bytes: WRITE_DECODED_MAX_BYTES,
            inflight_bytes: WRITE_INFLIGHT_MAX_BYTES,
            record_bytes: HISTORY_MAX_BYTES,
            connections: CONNECTIONS_MAX,
            scaler_streams: SCALER_STREAMS_MAX,
        }
    }
}

/// Smallest limit of a write request that may be set, bytes: a sender's usual request fits.
pub const WRITE_REQUEST_MIN_BYTES: usize = 1 << 20;
/// Largest limit of a write request that may be set, bytes.
pub const WRITE_REQUEST_MAX_BYTES: usize = 64 << 20;
const _: () = assert!(WRITE_COMPRESSED_MAX_BYTES == WRITE_DECODED_MAX_BYTES, "one setting is for both");
const _: () = assert!(WRITE_REQUEST_MIN_BYTES <= WRITE_DECODED_MAX_BYTES);
const _: () = assert!(WRITE_DECODED_MAX_BYTES <= WRITE_REQUEST_MAX_BYTES);

/// Largest compressed remote-write body accepted, bytes. Same as client_golang's receiver.
pub const WRITE_COMPRESSED_MAX_BYTES: usize = 32 << 20;
/// Largest decompressed remote-write body accepted, bytes. Same as client_golang's receiver.
pub const WRITE_DECODED_MAX_BYTES: usize = 32 << 20;
/// Most symbols in the table of one remote-write 2.0 request. Prometheus sends a few thousand; the engine
/// keeps notes of some 30 bytes on each while it reads the request.
pub const WRITE_SYMBOLS_MAX: usize = 1 << 20;
/// Room for this many symbols is kept between requests; what a larger request needed is given back.
pub const WRITE_SYMBOLS_KEPT: usize = 1 << 16;
const _: () = assert!(WRITE_SYMBOLS_KEPT <= WRITE_SYMBOLS_MAX);
const _: () = assert!(WRITE_REQUEST_MAX_BYTES <= u32::MAX as usize, "symbols are kept as 32-bit offsets");
/// Most series of one request that are remembered from its check, some 30 bytes each; the rest of a request with
/// more relevant ones is read twice.
pub const WRITE_SERIES_KEPT: usize = 1 << 14;
/// Most labels one series may carry; Prometheus itself warns far below this.
pub const LABELS_PER_SERIES_MAX: usize = 256;
/// Longest label name or value of a relevant series, bytes.
pub const LABEL_MAX_BYTES: usize = 4096;

/// Span of data time that windows of replica signals cover, ms. The reference controller looks at the
/// maximum over one minute for saturation.
pub const WINDOW_MS: i64 = 60_000;
/// Span of data time over which a rise of the arrival rate is looked for, ms: the usual scrape interval.
pub const RECENT_MS: i64 = 15_000;
const _: () = assert!(RECENT_MS < WINDOW_MS);
/// Time within which requests that wait should be worked off beside those that arrive, ms.
pub const BACKLOG_DRAIN_MS: i64 = 15_000;
/// Completed requests within the window from which their average length is believed: the first ones to
/// complete are the short ones.
pub const REQUESTS_MEASURED_MIN: f64 = 10.0;
/// Most cells of one window: its memory bound, whatever the scrape interval.
pub const WINDOW_CELLS_MAX: usize = 32;
/// Samples closer together than this share a cell, ms. Windows are exact for scrape intervals from here
/// up; below, a window's edge is this fuzzy.
pub const CELL_MS: i64 = 2_000;
const _: () = assert!(
    WINDOW_MS / CELL_MS + 2 <= WINDOW_CELLS_MAX as i64,
    "a window of one sample per cell, and the sample before it, must fit"
);

/// A replica is gone when the stream is this many of the replica's own scrape intervals ahead of it.
pub const SILENCE_INTERVALS: i64 = 4;
/// A replica is never called gone before the stream is this far ahead of it, ms: Prometheus's shards
/// may run apart by their batch deadline (5 s by default).
pub const SILENCE_MIN_MS: i64 = 15_000;
/// Until its second sample tells a series' interval, it counts as live this long: Prometheus's own
/// lookback, ms.
pub const SILENCE_UNKNOWN_MS: i64 = 300_000;
const _: () = assert!(SILENCE_MIN_MS < SILENCE_UNKNOWN_MS);

/// A sample this far in the future of the engine's clock is refused, ms. Prometheus's own receiver uses
/// the same bound.
pub const FUTURE_MAX_MS: i64 = 600_000;

/// Without a replica count from kube-state-metrics, the pods that report are counted; the first
/// decision then waits this long after the first pod, ms, so that one early pod is not taken for all.
pub const WARM_UP_MS: i64 = 30_000;
/// A decided change that has not begun to show in the replica count after this long no longer blocks
/// new decisions, ms. Longer than the slowest usual pod start (8 minutes).
pub const TRANSITION_MAX_MS: i64 = 600_000;
const _: () = assert!(WARM_UP_MS < TRANSITION_MAX_MS);

/// After a start, decisions are given out once the newest sample is at most this old, ms: a sender that
/// works off its backlog first sends what was true some time ago.
pub const CATCH_UP_MS: i64 = 90_000;
/// A stream that is still older than that after this long, ms, is as fresh as it gets.
pub const CATCH_UP_MAX_MS: i64 = 300_000;

/// Most live relevant series, at some 800 bytes each, decisions and all; the samples of further ones are refused
/// until old ones have ended.
/// 60,000 pods with 20 relevant series each and their targets and owners stay below.
pub const SERIES_MAX: usize = 2_000_000;
/// A series without samples for this long is forgotten, ms.
pub const SERIES_FORGET_MS: i64 = 600_000;
/// Most remembered byte forms (label orders) of one series.
pub const SERIES_ALIASES_MAX: usize = 4;
/// Largest configuration file that is read, bytes; a ConfigMap cannot be larger either.
pub const CONFIG_FILE_MAX_BYTES: u64 = 1 << 20;
/// Most configuration files that are read from the folder.
pub const CONFIG_FILES_MAX: usize = 10_000;
/// Most bytes of configuration that are read from the folder.
pub const CONFIG_TOTAL_MAX_BYTES: u64 = 64 << 20;
/// Most YAML documents in one file.
pub const CONFIG_DOCUMENTS_PER_FILE_MAX: usize = 10_000;
/// Most values (scalars, lists, mappings and keys) in one document, aliases expanded.
pub const CONFIG_NODES_PER_DOCUMENT_MAX: usize = 1_000_000;
/// Longest string that means something to us in an object, bytes.
pub const CONFIG_STRING_MAX_BYTES: usize = 1024;
/// Most replicas that a bound of a variant may state.
pub const CONFIG_REPLICAS_MAX: u32 = 1_000_000;

// One file fits in the folder, and a label value made of a string of ours fits in a series.
const _: () = assert!(CONFIG_FILE_MAX_BYTES <= CONFIG_TOTAL_MAX_BYTES);
const _: () = assert!(CONFIG_STRING_MAX_BYTES <= LABEL_MAX_BYTES);
/// Most folders that are watched for configuration; more are found by the slow scan.
pub const CONFIG_WATCHES_MAX: usize = 1000;

/// Most bytes of write requests (compressed and decompressed) held at once; more is answered 503.
pub const WRITE_INFLIGHT_MAX_BYTES: usize = 256 << 20;
/// Most decoded write requests that wait for the engine; more is answered 503.
pub const WRITE_QUEUE_MAX: usize = 256;
const _: () = assert!(
    WRITE_INFLIGHT_MAX_BYTES >= 2 * (WRITE_COMPRESSED_MAX_BYTES + WRITE_DECODED_MAX_BYTES),
    "two requests of the largest size must be able to be under way"
);
/// Longest time a sender may take over one request body, seconds; Prometheus itself gives up after 30.
pub const WRITE_BODY_MAX_S: u64 = 30;
/// Seconds after which a refused sender is asked to try again.
pub const RETRY_AFTER_S: u64 = 1;
/// Most open connections that are served.
pub const CONNECTIONS_MAX: usize = 1024;
/// Most connections beyond them that are answered 503; further ones wait in the listener's backlog.
pub const TURNED_AWAY_MAX: usize = 256;
/// Longest time that such a connection may last, seconds.
pub const TURNED_AWAY_MAX_S: u64 = 20;
/// Longest wait for a request's headers on an open connection, seconds. Prometheus sends metadata once a
/// minute, so a live sender's connection is never idle for longer.
pub const HEADER_READ_MAX_S: u64 = 120;
/// Most headers of one request.
pub const HEADERS_MAX: usize = 100;
/// Most bytes of one request's headers.
pub const HEADERS_MAX_BYTES: usize = 64 << 10;
/// Longest time for a TLS handshake, and then for the headers of the first request, seconds.
pub const CONNECTION_OPENING_MAX_S: u64 = 10;
/// A connection on which no byte moves in either direction for this long is closed, seconds. HTTP/2
/// connections are pinged within it.
pub const CONNECTION_IDLE_MAX_S: u64 = 180;
/// A connection whose other end takes nothing of an answer for this long is closed, seconds.
pub const CONNECTION_STALL_MAX_S: u64 = 30;
const _: () = assert!(CONNECTION_OPENING_MAX_S < HEADER_READ_MAX_S);
const _: () = assert!(CONNECTION_OPENING_MAX_S + DRAINED_MAX_S < TURNED_AWAY_MAX_S);
const _: () = assert!(HEADER_READ_MAX_S + 20 < CONNECTION_IDLE_MAX_S, "a ping and its answer must fit");
/// Most bytes of a refused request's body that are still taken in, so that the answer arrives.
pub const DRAINED_MAX_BYTES: usize = 1 << 20;
/// Longest time for that, seconds.
pub const DRAINED_MAX_S: u64 = 5;
/// Largest form body of a query, bytes.
pub const QUERY_MAX_BYTES: usize = 64 << 10;
/// Longest time a reader may take over one form body, or over one gRPC message, seconds.
pub const FORM_BODY_MAX_S: u64 = 10;
/// Most operators and brackets of a query, which bounds the recursion over it.
pub const QUERY_LEVELS_MAX: usize = 100;
/// Most samples that a query may take at one point in time: its memory bound.
pub const QUERY_SAMPLES_MAX: usize = 200_000;
/// Most recorded samples that a query may read, 16 bytes each.
pub const QUERY_RECORDED_MAX: usize = 2_000_000;
/// Most samples that a range query may take over all its points in time: some seconds of work.
pub const QUERY_WORK_MAX: usize = 20_000_000;
/// Most values in the answer to a range query, some 30 bytes each.
pub const QUERY_ANSWER_MAX: usize = 500_000;
const _: () = assert!(QUERY_SAMPLES_MAX <= QUERY_RECORDED_MAX && QUERY_RECORDED_MAX <= QUERY_WORK_MAX);
/// Most queries over the record, and remote reads, that are worked on at once; further ones wait.
pub const QUERY_CONCURRENCY_MAX: usize = 4;
/// Longest wait for one of these places, seconds.
pub const QUERY_WAIT_MAX_S: u64 = 10;
/// Most points in time of a range, as in Prometheus.
pub const QUERY_POINTS_MAX: i64 = 11_000;
/// Time for open requests to finish after a termination signal, seconds.
pub const SHUTDOWN_GRACE_S: u64 = 10;
/// Query times within this of now, and those after it, mean "now", ms: KEDA truncates its time to the second,
/// and clocks differ a little. Older ones ask for what is recorded.
pub const QUERY_NOW_MS: i64 = 5_000;
/// How far a query looks back for the last sample of a series, ms, as in Prometheus.
pub const LOOKBACK_MS: i64 = 300_000;
const _: () = assert!(QUERY_NOW_MS < LOOKBACK_MS);

/// Samples of one chunk of the record: a quarter of an hour at the default step.
pub const HISTORY_CHUNK_SAMPLES: u16 = 60;
/// Most memory of the record, bytes: an hour of 10,000 variants whose every number changes at every step.
pub const HISTORY_MAX_BYTES: usize = 256 << 20;
/// Shortest time between two steps of the record, ms.
pub const HISTORY_STEP_MIN_MS: i64 = 1_000;
/// Longest time between two steps, ms: two of them lie within a lookback.
pub const HISTORY_STEP_MAX_MS: i64 = 120_000;
const _: () = assert!(2 * HISTORY_STEP_MAX_MS < LOOKBACK_MS);
/// A clock that was set back further than this ends the record, ms.
pub const HISTORY_CLOCK_BACK_MS: i64 = 60_000;
/// Most boards and questions that wait for the record's thread.
pub const HISTORY_QUEUE_MAX: usize = 1024;
/// Most recorded samples in one answer to a remote read.
pub const READ_SAMPLES_MAX: usize = 2_000_000;
/// Largest request of a remote read, bytes.
pub const READ_REQUEST_MAX_BYTES: usize = 1 << 20;
/// Most queries in one remote read.
pub const READ_QUERIES_MAX: usize = 100;

/// Largest message of an external scaler's client, bytes: the metadata of one trigger.
pub const SCALER_REQUEST_MAX_BYTES: usize = 64 << 10;
/// Longest metric name of an external scaler, bytes; it becomes part of a URL.
pub const SCALER_METRIC_NAME_MAX_BYTES: usize = 100;
/// Most open streams of external scalers.
pub const SCALER_STREAMS_MAX: usize = 20_000;
/// An external scaler's stream repeats that its target is active after this long, seconds.
pub const SCALER_REPEAT_S: u64 = 15;
/// Most requests under way on one HTTP/2 connection: two for each of 5,000 push triggers.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 10_000;
const _: () = assert!(STREAMS_PER_CONNECTION_MAX as usize <= SCALER_STREAMS_MAX);

/// Most records that wait for the recorder's thread; more are left out and counted.
pub const RECORD_QUEUE_MAX: usize = 4096;
/// Most bytes of write requests that wait for the recorder's thread.
pub const RECORD_QUEUE_MAX_BYTES: usize = 64 << 20;
/// Largest record, bytes: a configuration of the largest size, or a write request, and what is around it.
pub const RECORD_MAX_BYTES: usize = 96 << 20;
const _: () = assert!(RECORD_MAX_BYTES as u64 > CONFIG_TOTAL_MAX_BYTES);
const _: () = assert!(RECORD_MAX_BYTES > WRITE_REQUEST_MAX_BYTES && RECORD_MAX_BYTES < u32::MAX as usize);
/// Seconds after which a recorder that could not write tries again.
pub const RECORD_RETRY_S: u64 = 10;

/// Most readers of the stream of decisions; they hold connections, most of which are for others.
pub const STREAM_CLIENTS_MAX: usize = 256;
const _: () = assert!(STREAM_CLIENTS_MAX <= CONNECTIONS_MAX / 4);
/// Events that a reader of the stream may be behind; one that is further gets the whole board.
pub const STREAM_BACKLOG: usize = 64;
/// Latest changes of desired counts that are kept for new readers of the stream.
pub const STREAM_RECENT_MAX: usize = 200;

/// Objects of one page of a list from the API server, as in the clients of Kubernetes itself.
pub const CLUSTER_LIST_PAGE: u32 = 500;
/// Most messages of watches that may wait; further ones wait at the watches.
pub const CLUSTER_EVENTS_MAX: usize = 1024;
/// Most namespaces whose own ConfigMaps are followed, one watch each.
pub const CLUSTER_NAMESPACES_MAX: usize = 1000;
/// Longest wait for a connection to the API server, seconds.
pub const CLUSTER_CONNECT_MAX_S: u64 = 5;
/// Most writes to the API server under way at once.
pub const CLUSTER_WRITES_MAX: usize = 8;
/// Buckets that models are put into before these are given to instances.
pub const SHARD_BUCKETS: u32 = 512;
/// Most instances that share the models.
pub const SHARDS_MAX: u32 = 64;
const _: () = assert!(SHARDS_MAX <= SHARD_BUCKETS);

/// Largest certificate, key, token or password file that is read, bytes.
pub const SECRET_FILE_MAX_BYTES: u64 = 1 << 20;
/// Longest wait until a connection that the sidecar opens stands, TLS aside, seconds.
pub const CONNECT_MAX_S: u64 = 10;

/// Most bearer tokens of one surface.
pub const BEARER_TOKENS_MAX: usize = 1000;
/// Most users of one surface.
pub const LOGIN_USERS_MAX: usize = 1000;
/// Largest bcrypt cost of a user's hash; one more doubles the time, which at 14 is about a second.
pub const LOGIN_COST_MAX: u32 = 14;
/// Most names and passwords whose check is remembered.
pub const LOGINS_REMEMBERED_MAX: usize = 4096;
/// Most requests that wait for a password's hash; more are answered 503.
pub const LOGINS_WAITING_MAX: usize = 64;
const _: () = assert!(LOGIN_USERS_MAX < LOGINS_REMEMBERED_MAX);

/// Most requirements of one label selector.
pub const SELECTOR_REQUIREMENTS_MAX: usize = 100;
/// How long the cluster's word on a token or a permission is remembered, seconds; as API servers do.
pub const REVIEWS_REMEMBERED_S: u64 = 10;
/// Most words of the cluster that are remembered, of tokens and of permissions each.
pub const REVIEWS_REMEMBERED_MAX: usize = 4096;
/// Most questions to the cluster under way; requests beyond are answered 503.
pub const REVIEWS_UNDER_WAY_MAX: usize = 64;
/// Longest wait for the cluster's word, seconds.
pub const REVIEW_MAX_S: u64 = 10;
/// The end of a backfill's span that is never skipped for want of time, ms: longer than a decided change is waited for.
pub const BACKFILL_RECENT_MS: i64 = 15 * 60_000;
/// Span of time that one request of the backfill asks for, ms.
pub const BACKFILL_SLICE_MS: i64 = 60_000;
/// The span is halved down to this when an answer is too large, ms.
pub const BACKFILL_SLICE_MIN_MS: i64 = 2_000;
/// Largest answer to a request of the backfill, bytes, as it is sent.
pub const BACKFILL_ANSWER_MAX_BYTES: usize = 64 << 20;
/// Largest answer to a request of the backfill, bytes, decompressed.
pub const BACKFILL_DECODED_MAX_BYTES: usize = 256 << 20;
/// Most samples that a backfill takes in.
pub const BACKFILL_SAMPLES_MAX: u64 = 50_000_000;
/// Samples of this span of time are taken in and decided upon together, ms.
pub const BACKFILL_BATCH_MS: i64 = 1_000;
/// Largest request in which a backfill hands samples to the engine, bytes.
pub const BACKFILL_REQUEST_BYTES: usize = 4 << 20;
const _: () = assert!(BACKFILL_REQUEST_BYTES < WRITE_DECODED_MAX_BYTES);
/// Largest file of profiles, bytes: some 200,000 variants.
pub const PROFILES_FILE_MAX_BYTES: usize = 64 << 20;
/// Most variants whose profiles the state keeps while they are away.
pub const STATE_PROFILES_MAX: usize = 20_000;
