//! The few calls of librdkafka that its Rust wrapper does not carry, made safe: reading partitions into one queue in
//! batches, metadata of all wanted topics in one request, watermarks as last heard.
//!
//! A topic is read by librdkafka's simple consumer: no consumer group exists, so none has to be authorised or named.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::bindings as rd;
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;

use super::health::ReaderContext;

/// The client that reads.
pub type ReaderClient = BaseConsumer<ReaderContext>;

/// librdkafka's error code by number: a newer broker may answer with one that the bindings' enum does not have, and
/// such an enum must never be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(i32);

impl Code {
    pub const NONE: Self = Self(0);

    pub fn from_raw(number: i32) -> Self {
        Self(number)
    }

    pub fn is_error(self) -> bool {
        self != Self::NONE
    }

    pub fn is(self, known: RDKafkaErrorCode) -> bool {
        self.0 == known as i32
    }

    /// librdkafka's words for it.
    pub fn text(self) -> String {
        match rd::rd_kafka_resp_err_t::try_from(self.0) {
            // SAFETY: returns a static, terminated string for every code.
            Ok(known) => unsafe { text(rd::rd_kafka_err2str(known)) },
            Err(_) => format!("error {}", self.0),
        }
    }
}

impl From<RDKafkaErrorCode> for Code {
    fn from(code: RDKafkaErrorCode) -> Self {
        Self(code as i32)
    }
}

/// # Safety
/// `at` is null or points to a terminated string.
pub(super) unsafe fn text(at: *const c_char) -> String {
    if at.is_null() {
        return String::new();
    }
    // SAFETY: not null, and terminated by the caller's word.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
}

/// Reads a field of librdkafka's as the C int it is, see [`Code`].
pub(super) fn raw_code(field: &rd::rd_kafka_resp_err_t) -> Code {
    // SAFETY: the enum has a C int's size and alignment, and the field is borrowed.
    Code(unsafe { ptr::from_ref(field).cast::<i32>().read() })
}

/// # Safety
/// `at` is null, or points to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(at: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: not null here, and long enough by the caller's word.
    (!at.is_null()).then(|| unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) })
}

/// The most events that are served at a time.
const EVENTS_MAX: usize = 64;

/// Serves what the client has to say: errors, statistics, log lines. Its `poll` does not tell whether there was any of these.
pub fn serve_events(client: &ReaderClient) {
    for _ in 0..EVENTS_MAX {
        let _ = client.poll(Duration::ZERO);
    }
}

/// How long one request for metadata is waited for before it is asked whether to go on.
const ASK_SLICE: Duration = Duration::from_secs(1);

fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}

/// A topic that the client knows, for as long as this lives.
pub struct TopicHandle {
    at: *mut rd::rd_kafka_topic_t,
    client: Arc<ReaderClient>,
}

// SAFETY: librdkafka's objects may be used from every thread at once (rdkafka.h, "Thread safety").
unsafe impl Send for TopicHandle {}
// SAFETY: as above.
unsafe impl Sync for TopicHandle {}

impl TopicHandle {
    /// `None` for a name that holds a NUL, or when librdkafka refuses it.
    pub fn new(client: &Arc<ReaderClient>, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the client is alive; a null configuration means the client's own.
        let at = unsafe { rd::rd_kafka_topic_new(client.client().native_ptr(), name.as_ptr(), ptr::null_mut()) };
        (!at.is_null()).then(|| Self { at, client: Arc::clone(client) })
    }

    /// What [`Message::topic`] gives for the records of this topic.
    pub fn id(&self) -> TopicId {
        TopicId(self.at as usize)
    }

    /// The high watermark as the last fetch told it, without asking the cluster.
    pub fn last_heard_end(&self, partition: i32) -> Option<i64> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: client and topic are alive, the outputs are valid.
        let code = unsafe {
            let name = rd::rd_kafka_topic_name(self.at);
            rd::rd_kafka_get_watermark_offsets(self.client.client().native_ptr(), name, partition, &mut low, &mut high)
        };
        (code as i32 == 0 && high >= 0).then_some(high)
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_topic_new, released once; the client outlives it.
        unsafe { rd::rd_kafka_topic_destroy(self.at) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicId(usize);

/// The queue into which all partitions that are read deliver.
pub struct RecordQueue {
    at: *mut rd::rd_kafka_queue_t,
    /// Slots for one batch, kept to spare an allocation per batch.
    slots: Vec<*mut rd::rd_kafka_message_t>,
    /// The queue must go before its client does.
    _client: Arc<ReaderClient>,
}

// SAFETY: as for TopicHandle; `slots` is empty between two calls.
unsafe impl Send for RecordQueue {}

impl RecordQueue {
    /// `batch`: the most records that one [`RecordQueue::take`] gives.
    pub fn new(client: &Arc<ReaderClient>, batch: usize) -> Self {
        // SAFETY: the client is alive.
        let at = unsafe { rd::rd_kafka_queue_new(client.client().native_ptr()) };
        Self { at, slots: vec![ptr::null_mut(); batch], _client: Arc::clone(client) }
    }

    /// Starts reading a partition at an offset. The client must not read it already.
    pub fn start(&self, topic: &TopicHandle, partition: i32, offset: i64) -> Result<(), String> {
        // SAFETY: topic and queue are alive and of the same client.
        let refused = unsafe { rd::rd_kafka_consume_start_queue(topic.at, partition, offset, self.at) } != 0;
        if refused { Err(format!("cannot read partition {partition} from offset {offset}")) } else { Ok(()) }
    }

    /// Stops reading a partition; what it had fetched and not given out is dropped. Harmless when it is not read.
    pub fn stop(&self, topic: &TopicHandle, partition: i32) {
        // SAFETY: the topic is alive.
        unsafe { rd::rd_kafka_consume_stop(topic.at, partition) };
    }

    /// What has arrived, oldest first; waits up to `wait` when there is nothing.
    pub fn take(&mut self, wait: Duration) -> Batch<'_> {
        // SAFETY: the queue is alive and `slots` has room for as many as are asked for.
        let mut taken = unsafe { rd::rd_kafka_consume_batch_queue(self.at, 0, self.slots.as_mut_ptr(), self.slots.len()) };
        if taken <= 0 {
            // The batch call would wait until the batch is full, this one until there is one record.
            // SAFETY: the queue is alive.
            let one = unsafe { rd::rd_kafka_consume_queue(self.at, millis(wait)) };
            taken = 0;
            if !one.is_null() && !self.slots.is_empty() {
                self.slots[0] = one;
                taken = 1;
            }
        }
        let taken = usize::try_from(taken).unwrap_or(0).min(self.slots.len());
        Batch { messages: &mut self.slots[..taken] }
    }
}

impl Drop for RecordQueue {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_queue_new, released once; the client outlives it.
        unsafe { rd::rd_kafka_queue_destroy(self.at) };
    }
}

/// Records taken from the queue, given back to librdkafka when dropped.
pub struct Batch<'q> {
    messages: &'q mut [*mut rd::rd_kafka_message_t],
}

impl Batch<'_> {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Message<'_>> {
        // SAFETY: the queue gave this pointer and the batch still owns it.
        self.messages.iter().map(|at| Message { raw: unsafe { &**at } })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for at in self.messages.iter_mut() {
            // SAFETY: owned by this batch, destroyed once, and no `Message` outlives the batch.
            unsafe { rd::rd_kafka_message_destroy(*at) };
            *at = ptr::null_mut();
        }
    }
}

/// A record, or what went wrong with a partition.
#[derive(Clone, Copy)]
pub struct Message<'b> {
    raw: &'b rd::rd_kafka_message_t,
}

impl<'b> Message<'b> {
    pub fn code(self) -> Code {
        raw_code(&self.raw.err)
    }

    /// librdkafka's words for what went wrong.
    pub fn error_text(self) -> String {
        // SAFETY: the message is alive; the text belongs to it and is copied.
        unsafe { text(rd::rd_kafka_message_errstr(self.raw)) }
    }

    pub fn topic(self) -> TopicId {
        TopicId(self.raw.rkt as usize)
    }

    pub fn partition(self) -> i32 {
        self.raw.partition
    }

    pub fn offset(self) -> i64 {
        self.raw.offset
    }

    pub fn key(self) -> Option<&'b [u8]> {
        // SAFETY: librdkafka's pointer and length, alive as long as the message.
        unsafe { bytes(self.raw.key, self.raw.key_len) }
    }

    pub fn value(self) -> Option<&'b [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes(self.raw.payload, self.raw.len) }
    }

    /// Milliseconds since the Unix epoch (-1: none), and whether the broker set it.
    pub fn timestamp(self) -> (i64, bool) {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: message and output are valid.
        let at = unsafe { rd::rd_kafka_message_timestamp(self.raw, &mut kind) };
        (at, kind == rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME)
    }

    /// In order, with duplicates. A name's bytes are whatever the producer wrote.
    pub fn each_header(self, mut each: impl FnMut(&'b CStr, Option<&'b [u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: message and output are valid; the headers stay the message's.
        if unsafe { rd::rd_kafka_message_headers(self.raw, &mut headers) } as i32 != 0 {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
            // SAFETY: headers and outputs are valid; past the last one it answers with an error.
            let code = unsafe { rd::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut len) };
            if code as i32 != 0 || name.is_null() {
                return;
            }
            // SAFETY: name is terminated, value has `len` bytes, both live as long as the message.
            each(unsafe { CStr::from_ptr(name) }, unsafe { bytes(value, len) });
        }
    }
}

/// What the cluster says of topics and brokers.
#[derive(Debug, Default)]
pub struct Metadata {
    pub topics: BTreeMap<String, TopicMetadata>,
}

#[derive(Debug)]
pub struct TopicMetadata {
    pub code: Code,
    /// Leader of each partition by partition number; -1 without one.
    pub leaders: Vec<i32>,
}

/// Which topics to ask about.
#[derive(Clone, Copy)]
pub enum Ask<'a> {
    /// Every topic of the cluster.
    All,
    /// Those this client holds a handle of; none is fine, and asks whether the cluster answers at all.
    Known,
    One(&'a TopicHandle),
}

/// Asks the cluster until it answers, time is up, or `give_up` says so. Blocks; a call of librdkafka cannot be broken
/// off, so it is made of short ones.
pub fn metadata_unless<C: ClientContext>(
    client: &Client<C>,
    ask: Ask<'_>,
    timeout: Duration,
    give_up: impl Fn() -> bool,
) -> Result<Metadata, Code> {
    let began = Instant::now();
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        match metadata(client, ask, left.min(ASK_SLICE)) {
            Err(code) if is_no_answer(code) && left > ASK_SLICE && !give_up() => {}
            result => return result,
        }
    }
}

fn is_no_answer(code: Code) -> bool {
    code.is(RDKafkaErrorCode::OperationTimedOut) || code.is(RDKafkaErrorCode::BrokerTransportFailure)
}

/// Asks the cluster. Blocks up to `timeout`.
pub fn metadata<C: ClientContext>(client: &Client<C>, ask: Ask<'_>, timeout: Duration) -> Result<Metadata, Code> {
    let (all, only) = match ask {
        Ask::All => (1, ptr::null_mut()),
        Ask::Known => (0, ptr::null_mut()),
        Ask::One(topic) => (0, topic.at),
    };
    let mut answer = ptr::null();
    // SAFETY: client and topic handle are borrowed and so alive, the output is valid.
    let code = unsafe { rd::rd_kafka_metadata(client.native_ptr(), all, only, &mut answer, millis(timeout)) } as i32;
    if code != 0 || answer.is_null() {
        return Err(Code(code));
    }
    // SAFETY: a filled structure of librdkafka's that is ours until destroyed.
    let result = unsafe { copy_metadata(&*answer) };
    // SAFETY: destroyed once, nothing points into it any more.
    unsafe { rd::rd_kafka_metadata_destroy(answer) };
    Ok(result)
}

/// # Safety
/// `from` is as librdkafka filled it.
unsafe fn copy_metadata(from: &rd::rd_kafka_metadata) -> Metadata {
    let mut topics = BTreeMap::new();
    for index in 0..usize::try_from(from.topic_cnt).unwrap_or(0) {
        // SAFETY: `topics` holds `topic_cnt` entries. The error is read as the C int it is, see `Code`.
        let (name, code, partitions, count) = unsafe {
            let topic = from.topics.add(index);
            let code = ptr::addr_of!((*topic).err).cast::<i32>().read();
            (text((*topic).topic), Code(code), (*topic).partitions, (*topic).partition_cnt)
        };
        let mut leaders = vec![-1; usize::try_from(count).unwrap_or(0)];
        for entry in 0..leaders.len() {
            // SAFETY: `partitions` holds `partition_cnt` entries.
            let (id, leader) = unsafe { ((*partitions.add(entry)).id, (*partitions.add(entry)).leader) };
            if let Some(slot) = usize::try_from(id).ok().and_then(|id| leaders.get_mut(id)) {
                *slot = leader;
            }
        }
        topics.insert(name, TopicMetadata { code, leaders });
    }
    Metadata { topics }
}
