//! The names that dashboards and log queries rely on. A change here is a change for users.

/// Metric names, as they stand in the OpenMetrics text.
pub mod metric {
    /// Histogram, seconds from the head of the request until the response begins; labels `route`, `method`, `status`. The name
    /// is OpenTelemetry's semantic convention.
    pub const HTTP_REQUEST_DURATION: &str = "http_server_request_duration_seconds";
    /// Gauge: requests in progress.
    pub const HTTP_ACTIVE_REQUESTS: &str = "http_server_active_requests";
    /// Gauge: open connections.
    pub const CONNECTIONS: &str = "tidegate_connections";
    /// Counter; label `limit`.
    pub const LIMIT_HITS: &str = "tidegate_limit_hits_total";
    /// Counter: acknowledged records; label `topic`.
    pub const PRODUCE_RECORDS: &str = "tidegate_produce_records_total";
    /// Counter; labels `topic`, `cause`.
    pub const PRODUCE_ERRORS: &str = "tidegate_produce_errors_total";
    /// Counter; labels `topic`, `result` (`hit`, `miss`, `not_modified`, `behind`).
    pub const FETCH_REQUESTS: &str = "tidegate_fetch_requests_total";
    /// Counter: left out of a merge, as values that are not JSON or records that cannot be read; label `topic`.
    pub const FETCH_MERGE_OMITTED: &str = "tidegate_fetch_merge_omitted_total";
    /// Counter; labels `topic` (of requests), `result` (`replied`, `accepted`, or the name of the problem).
    pub const EXCHANGE_REQUESTS: &str = "tidegate_exchange_requests_total";
    /// Gauge: exchanges that wait for a reply; label `topic` (of replies).
    pub const EXCHANGE_PENDING: &str = "tidegate_exchange_pending";
    /// Counter: reply records; labels `topic`, `kind` (`awaited`, `repeated`, `late`, `unasked`, `malformed`).
    pub const EXCHANGE_REPLIES: &str = "tidegate_exchange_replies_total";
    /// Counter: requests with an idempotency key; labels `topic`, `result` (`written`, `repeated`, `conflict`, `failed`).
    pub const IDEMPOTENT_REQUESTS: &str = "tidegate_idempotent_requests_total";
    /// Counter: claims that this gateway decided; labels `topic`, `result` (`copied`, `repeated`, `refused`).
    pub const CLAIMS: &str = "tidegate_claims_total";
    /// Gauge: partitions of claims that this gateway owns; label `topic`.
    pub const CLAIMS_OWNED: &str = "tidegate_claims_owned_partitions";
    /// Info; label `version`.
    pub const BUILD_INFO: &str = "tidegate_build_info";
    /// Counter: log lines that did not fit the queue or could not be written.
    pub const LOG_DROPPED: &str = "tidegate_log_dropped_total";

    /// Times that reading a partition was begun again after a fault.
    pub const CACHE_FETCH_RESTARTS: &str = "tidegate_cache_fetch_restarts_total";
    /// Times that the watchdog found no progress.
    pub const CACHE_FETCH_STALLS: &str = "tidegate_cache_fetch_stalls_total";
    /// Where a cached partition begins.
    pub const CACHE_START_OFFSET: &str = "tidegate_cache_start_offset";
    /// Heap bytes of the indexes of a partition.
    pub const CACHE_INDEX_BYTES: &str = "tidegate_cache_index_heap_bytes";
    /// 1 while housekeeping of a partition fails.
    pub const CACHE_PROBLEM: &str = "tidegate_cache_housekeeping_failing";
    /// 1 while a bound on bytes keeps a topic from taking records.
    pub const CACHE_FULL: &str = "tidegate_cache_full";
    /// Look-ups by key that found a record.
    pub const CACHE_HITS: &str = "tidegate_cache_hits_total";
    /// Look-ups by key that found none.
    pub const CACHE_MISSES: &str = "tidegate_cache_misses_total";
    /// Records that readers skipped for newer ones.
    pub const CACHE_CONFLATED: &str = "tidegate_cache_conflated_total";
    /// Records that retention removed.
    pub const CACHE_EXPIRED: &str = "tidegate_cache_expired_total";
    /// Records that compaction removed.
    pub const CACHE_COMPACTED: &str = "tidegate_cache_compacted_total";
    /// Tombstones that compaction removed.
    pub const CACHE_TOMBSTONES: &str = "tidegate_cache_tombstones_removed_total";
    /// Bytes that housekeeping gave back.
    pub const CACHE_RECLAIMED_BYTES: &str = "tidegate_cache_reclaimed_bytes_total";
    /// Bytes dropped for want of room.
    pub const CACHE_EVICTED_BYTES: &str = "tidegate_cache_evicted_bytes_total";
    /// Turns of the housekeeper.
    pub const CACHE_HOUSEKEEPING_TURNS: &str = "tidegate_cache_housekeeping_turns_total";
    /// Gauge: the next offset that the cache will hold; labels `cluster`, `topic`, `partition`.
    pub const CACHE_END_OFFSET: &str = "tidegate_cache_end_offset";
    /// Gauge: offsets between the cached end and the cluster's; labels `cluster`, `topic`, `partition`.
    pub const CACHE_LAG_RECORDS: &str = "tidegate_cache_lag_records";
    /// Gauge: bytes of segment files; labels `cluster`, `topic`, `partition`.
    pub const CACHE_BYTES: &str = "tidegate_cache_bytes";
    /// Gauge: segments on disk; labels `cluster`, `topic`, `partition`.
    pub const CACHE_SEGMENTS: &str = "tidegate_cache_segments";
    /// Counter: records fetched from the cluster; labels `cluster`, `topic`.
    pub const CACHE_FETCHED_RECORDS: &str = "tidegate_cache_fetched_records_total";
    /// Counter: corrupt places found by recovery, and reads of a key that met one; labels `cluster`, `topic`, `partition`.
    pub const CACHE_CORRUPT: &str = "tidegate_cache_corrupt_total";
    /// Gauge: seconds that recovery took at start; labels `cluster`, `topic`, `partition`.
    pub const CACHE_RECOVERY_SECONDS: &str = "tidegate_cache_recovery_seconds";
    /// Gauge, 0 or 1; label `cluster`.
    pub const CLUSTER_UP: &str = "tidegate_cluster_up";
    /// Gauge, 0 or 1; labels `cluster`, `broker`.
    pub const BROKER_UP: &str = "tidegate_broker_up";
}

/// Label names.
pub mod label {
    pub const ROUTE: &str = "route";
    pub const METHOD: &str = "method";
    pub const STATUS: &str = "status";
    pub const LIMIT: &str = "limit";
    pub const TOPIC: &str = "topic";
    pub const PARTITION: &str = "partition";
    pub const CAUSE: &str = "cause";
    pub const RESULT: &str = "result";
    pub const KIND: &str = "kind";
    pub const CLUSTER: &str = "cluster";
    pub const BROKER: &str = "broker";
    pub const VERSION: &str = "version";
}

/// Fields of log lines.
pub mod field {
    /// RFC 3339, UTC.
    pub const TIMESTAMP: &str = "timestamp";
    pub const LEVEL: &str = "level";
    pub const TARGET: &str = "target";
    pub const REQUEST_ID: &str = "request_id";
    /// 32 hexadecimal digits (W3C Trace Context).
    pub const TRACE_ID: &str = "trace_id";
    pub const METHOD: &str = "method";
    pub const PATH: &str = "path";
    pub const ROUTE: &str = "route";
    pub const STATUS: &str = "status";
    pub const BYTES_IN: &str = "bytes_in";
    pub const BYTES_OUT: &str = "bytes_out";
    /// Milliseconds with three decimals, until the response begins.
    pub const DURATION_MS: &str = "duration_ms";
    /// Of an exchange, the request record: `partition` and `offset`, and milliseconds until it was acknowledged.
    pub const REQUEST_PARTITION: &str = "request_partition";
    pub const REQUEST_OFFSET: &str = "request_offset";
    pub const REQUEST_MS: &str = "request_ms";
    /// Of an exchange, the reply record, and milliseconds until it was there.
    pub const REPLY_PARTITION: &str = "reply_partition";
    pub const REPLY_OFFSET: &str = "reply_offset";
    pub const REPLY_MS: &str = "reply_ms";
    pub const PEER: &str = "peer";
    pub const USER_AGENT: &str = "user_agent";
}

/// The target of access log lines.
pub const ACCESS_TARGET: &str = "access";
/// Request and response header that carries the request id.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// Header that carries the trace context.
pub const TRACEPARENT_HEADER: &str = "traceparent";
