//! Questions about many topics or partitions in one request each, by librdkafka's admin interface: its Rust wrapper carries none
//! of these. Every call blocks, in slices, until the cluster answers, time is up or the caller gives up.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_char};
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::bindings as rd;
use rdkafka::consumer::Consumer;
use rdkafka::types::RDKafkaErrorCode as E;

use super::native::{Code, ReaderClient, raw_code, serve_events, text};

/// How long one wait for an answer lasts before the caller is asked whether to go on.
const SLICE_MS: i32 = 100;

/// How long after its timeout librdkafka may take to say so: of several brokers, some have answered then.
const LATE_ANSWER: Duration = Duration::from_secs(1);

/// Which offset of a partition is asked for. (KIP-79, KIP-396)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetOf {
    Earliest,
    /// The end as the isolation level shows it: the high watermark, or the last stable offset.
    Latest,
    /// The first record of at least that time, in milliseconds since the Unix epoch.
    Time(i64),
}

/// A partition by topic name.
pub type Partition = (String, i32);
/// What was told of each partition; one that is missing was not told of.
pub type Offsets = HashMap<Partition, Result<Option<i64>, Code>>;

/// The configuration of each topic, defaults included; secrets are left out.
pub type Configs = BTreeMap<String, Result<BTreeMap<String, String>, Code>>;

/// A topic as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub code: Code,
    /// `None` from brokers that know no topic ids (older than 2.8). (KIP-516)
    pub id: Option<u128>,
    /// Whether each partition has a leader, by partition number.
    pub led: Vec<bool>,
}

/// How a question is asked.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub client: &'a ReaderClient,
    pub timeout: Duration,
    pub give_up: &'a dyn Fn() -> bool,
}

// The bindings have these return an enum, and a newer broker may answer with a number that the enum does not have.
unsafe extern "C" {
    #[link_name = "rd_kafka_event_error"]
    fn event_error(event: *mut rd::rd_kafka_event_t) -> i32;
    #[link_name = "rd_kafka_error_code"]
    fn error_code(error: *const rd::rd_kafka_error_t) -> i32;
    #[link_name = "rd_kafka_ConfigResource_error"]
    fn resource_error(resource: *const rd::rd_kafka_ConfigResource_t) -> i32;
}

impl Asking<'_> {
    /// One offset of each partition. The time of a partition without such a record is `Ok(None)`. Asks each leader once; no partition
    /// should be without, since one is then waited for.
    pub fn offsets(&self, partitions: &[(Partition, OffsetOf)], committed: bool) -> Result<Offsets, Code> {
        if partitions.is_empty() {
            return Ok(Offsets::new());
        }
        let list = PartitionList::new(partitions)?;
        let options = Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
        if committed {
            options.read_committed();
        }
        let queue = Queue::new(self.client);
        // SAFETY: all are alive; the list and the options are copied by the call.
        unsafe { rd::rd_kafka_ListOffsets(self.native(), list.0, options.0, queue.0) };
        let event = self.answer(&queue)?;
        // SAFETY: the event is the answer to this very question.
        Ok(unsafe { offsets_of(&event) })
    }

    /// As [`Asking::offsets`], but waits for nothing: the answer comes to the queue, and carries the ticket.
    pub fn offsets_into(
        &self,
        queue: &Queue,
        ticket: usize,
        partitions: &[(Partition, OffsetOf)],
        committed: bool,
    ) -> Result<(), Code> {
        let list = PartitionList::new(partitions)?;
        let options = Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
        if committed {
            options.read_committed();
        }
        // SAFETY: all are alive; the list and the options are copied by the call. The ticket is a number, never followed.
        unsafe {
            rd::rd_kafka_AdminOptions_set_opaque(options.0, ptr::without_provenance_mut(ticket));
            rd::rd_kafka_ListOffsets(self.native(), list.0, options.0, queue.0);
        }
        Ok(())
    }

    /// Whether the topics exist, their ids and numbers of partitions.
    pub fn topics(&self, names: &[String]) -> Result<BTreeMap<String, Described>, Code> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let names = c_strings(names)?;
        let mut pointers: Vec<*const c_char> = names.iter().map(|n| n.as_ptr()).collect();
        let options = Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let queue = Queue::new(self.client);
        // SAFETY: all are alive; names are copied into the collection, and the collection by the call.
        unsafe {
            let collection = rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            rd::rd_kafka_DescribeTopics(self.native(), collection, options.0, queue.0);
            rd::rd_kafka_TopicCollection_destroy(collection);
        }
        let event = self.answer(&queue)?;
        let mut count = 0;
        // SAFETY: as in `offsets`.
        unsafe {
            let found = rd::rd_kafka_DescribeTopics_result_topics(rd::rd_kafka_event_DescribeTopics_result(event.0), &mut count);
            Ok((0..count).map(|n| described(*found.add(n))).collect())
        }
    }

    /// How the topics are configured.
    pub fn configs(&self, names: &[String]) -> Result<Configs, Code> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut resources = Resources::new(names)?;
        let options = Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
        let queue = Queue::new(self.client);
        let (at, len) = (resources.0.as_mut_ptr(), resources.0.len());
        // SAFETY: all are alive; resources are copied by the call.
        unsafe { rd::rd_kafka_DescribeConfigs(self.native(), at, len, options.0, queue.0) };
        let event = self.answer(&queue)?;
        let mut count = 0;
        // SAFETY: as in `offsets`.
        unsafe {
            let result = rd::rd_kafka_event_DescribeConfigs_result(event.0);
            let found = rd::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
            Ok((0..count).map(|n| configured(*found.add(n))).collect())
        }
    }

    /// Sets some properties of a topic and leaves the others; `None` takes one back to its default. (KIP-339)
    ///
    /// # Errors
    /// librdkafka's code and, where the cluster gave one, its reason.
    pub fn alter(&self, topic: &str, set: &BTreeMap<String, Option<String>>) -> Result<(), (Code, String)> {
        let bare = |code: Code| (code, code.text());
        let invalid = || bare(E::InvalidArgument.into());
        let mut resources = Resources::new(&[topic.to_owned()]).map_err(bare)?;
        let resource = resources.0.first().copied().ok_or_else(invalid)?;
        for (name, value) in set {
            use rd::rd_kafka_AlterConfigOpType_t as Op;
            let name = CString::new(name.as_str()).map_err(|_| invalid())?;
            let text = value.as_deref().map(CString::new).transpose().map_err(|_| invalid())?;
            let (op, at) = match &text {
                Some(text) => (Op::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET, text.as_ptr()),
                None => (Op::RD_KAFKA_ALTER_CONFIG_OP_TYPE_DELETE, ptr::null()),
            };
            // SAFETY: the resource is alive, texts are copied, and the error, if any, is ours to free.
            unsafe {
                let error = rd::rd_kafka_ConfigResource_add_incremental_config(resource, name.as_ptr(), op, at);
                if !error.is_null() {
                    rd::rd_kafka_error_destroy(error);
                    return Err(invalid());
                }
            }
        }
        let options = Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS);
        let queue = Queue::new(self.client);
        let (at, len) = (resources.0.as_mut_ptr(), resources.0.len());
        // SAFETY: as in `configs`.
        unsafe { rd::rd_kafka_IncrementalAlterConfigs(self.native(), at, len, options.0, queue.0) };
        let event = self.answer(&queue).map_err(bare)?;
        let mut count = 0;
        // SAFETY: as in `offsets`.
        unsafe {
            let result = rd::rd_kafka_event_IncrementalAlterConfigs_result(event.0);
            let found = rd::rd_kafka_IncrementalAlterConfigs_result_resources(result, &mut count);
            let refused = (0..count).map(|n| *found.add(n)).find(|at| resource_error(*at) != 0);
            refused.map_or(Ok(()), |at| {
                Err((Code::from_raw(resource_error(at)), text(rd::rd_kafka_ConfigResource_error_string(at))))
            })
        }
    }

    fn native(&self) -> *mut rd::rd_kafka_t {
        self.client.client().native_ptr()
    }

    fn answer(&self, queue: &Queue) -> Result<Event, Code> {
        let began = Instant::now();
        loop {
            // SAFETY: the queue is alive; the event is ours to free.
            let event = unsafe { rd::rd_kafka_queue_poll(queue.0, SLICE_MS) };
            if event.is_null() {
                serve_events(self.client);
                if began.elapsed() >= self.timeout + LATE_ANSWER || (self.give_up)() {
                    return Err(E::OperationTimedOut.into());
                }
                continue;
            }
            let event = Event(event);
            // SAFETY: the event is alive.
            let code = Code::from_raw(unsafe { event_error(event.0) });
            return if code.is_error() { Err(code) } else { Ok(event) };
        }
    }
}

/// # Safety
/// The event is an answer to a question for offsets.
unsafe fn offsets_of(event: &Event) -> Offsets {
    let mut count = 0;
    // SAFETY: by the caller's word; what the event points to lives as long as it does.
    unsafe {
        let infos = rd::rd_kafka_ListOffsets_result_infos(rd::rd_kafka_event_ListOffsets_result(event.0), &mut count);
        let told = (0..count).map(|n| {
            let info = &*rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(n));
            let code = raw_code(&info.err);
            let offset = if code.is_error() { Err(code) } else { Ok((info.offset >= 0).then_some(info.offset)) };
            ((text(info.topic), info.partition), offset)
        });
        told.collect()
    }
}

/// # Safety
/// `at` points into an answer that is alive.
unsafe fn described(at: *const rd::rd_kafka_TopicDescription_t) -> (String, Described) {
    // SAFETY: by the caller's word; all that is read belongs to the answer.
    unsafe {
        let error = rd::rd_kafka_TopicDescription_error(at);
        let code = if error.is_null() { Code::NONE } else { Code::from_raw(error_code(error)) };
        let uuid = rd::rd_kafka_TopicDescription_topic_id(at);
        let half = |bits: i64| u128::from(bits.cast_unsigned());
        let id = if uuid.is_null() {
            0
        } else {
            half(rd::rd_kafka_Uuid_most_significant_bits(uuid)) << 64 | half(rd::rd_kafka_Uuid_least_significant_bits(uuid))
        };
        let mut count = 0;
        let partitions = rd::rd_kafka_TopicDescription_partitions(at, &mut count);
        let mut led = vec![false; count];
        for n in 0..count {
            let partition = *partitions.add(n);
            let leader = rd::rd_kafka_TopicPartitionInfo_leader(partition);
            let number = usize::try_from(rd::rd_kafka_TopicPartitionInfo_partition(partition)).ok();
            if let Some(led) = number.and_then(|number| led.get_mut(number)) {
                *led = !leader.is_null() && rd::rd_kafka_Node_id(leader) >= 0;
            }
        }
        (text(rd::rd_kafka_TopicDescription_name(at)), Described { code, id: (id != 0).then_some(id), led })
    }
}

/// # Safety
/// As for [`described`].
unsafe fn configured(at: *const rd::rd_kafka_ConfigResource_t) -> (String, Result<BTreeMap<String, String>, Code>) {
    // SAFETY: by the caller's word.
    unsafe {
        let name = text(rd::rd_kafka_ConfigResource_name(at));
        let code = Code::from_raw(resource_error(at));
        if code.is_error() {
            return (name, Err(code));
        }
        let mut count = 0;
        let entries = rd::rd_kafka_ConfigResource_configs(at, &mut count);
        let told = (0..count).filter_map(|n| {
            let entry = *entries.add(n);
            let value = rd::rd_kafka_ConfigEntry_value(entry);
            // Without a value: secret.
            (!value.is_null()).then(|| (text(rd::rd_kafka_ConfigEntry_name(entry)), text(value)))
        });
        (name, Ok(told.collect()))
    }
}

fn c_strings(names: &[String]) -> Result<Vec<CString>, Code> {
    names.iter().map(|n| CString::new(n.as_str()).map_err(|_| E::InvalidArgument.into())).collect()
}

/// Where answers arrive. A late answer finds its queue closed, and is freed by librdkafka. To be dropped before its client.
pub struct Queue(*mut rd::rd_kafka_queue_t);

// SAFETY: librdkafka's objects may be used from every thread at once (rdkafka.h, "Thread safety").
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    pub fn new(client: &ReaderClient) -> Self {
        // SAFETY: the client is alive.
        Self(unsafe { rd::rd_kafka_queue_new(client.client().native_ptr()) })
    }

    /// The next answer to [`Asking::offsets_into`], and its ticket; `None` when there is none within `wait`.
    pub fn next_offsets(&self, wait: Duration) -> Option<(usize, Result<Offsets, Code>)> {
        // SAFETY: the queue is alive; the event is ours to free.
        let event = unsafe { rd::rd_kafka_queue_poll(self.0, i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)) };
        if event.is_null() {
            return None;
        }
        let event = Event(event);
        // SAFETY: the event is alive.
        let (ticket, code) = unsafe { (rd::rd_kafka_event_opaque(event.0).addr(), Code::from_raw(event_error(event.0))) };
        // SAFETY: nothing else is asked into such a queue.
        Some((ticket, if code.is_error() { Err(code) } else { Ok(unsafe { offsets_of(&event) }) }))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_queue_new, released once.
        unsafe { rd::rd_kafka_queue_destroy(self.0) };
    }
}

struct Event(*mut rd::rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: given by rd_kafka_queue_poll, freed once, nothing points into it any more.
        unsafe { rd::rd_kafka_event_destroy(self.0) };
    }
}

struct Options(*mut rd::rd_kafka_AdminOptions_t);

impl Options {
    fn new(asking: &Asking<'_>, op: rd::rd_kafka_admin_op_t) -> Self {
        let timeout_ms = i32::try_from(asking.timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client is alive; a refused timeout leaves the default, and no text is asked for.
        unsafe {
            let options = rd::rd_kafka_AdminOptions_new(asking.native(), op);
            rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
            Self(options)
        }
    }

    fn read_committed(&self) {
        let level = rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
        // SAFETY: the options are alive; the error, if any, is ours to free, and freeing none is fine.
        unsafe {
            let error = rd::rd_kafka_AdminOptions_set_isolation_level(self.0, level);
            if !error.is_null() {
                rd::rd_kafka_error_destroy(error);
            }
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_AdminOptions_new, released once.
        unsafe { rd::rd_kafka_AdminOptions_destroy(self.0) };
    }
}

struct PartitionList(*mut rd::rd_kafka_topic_partition_list_t);

impl PartitionList {
    fn new(partitions: &[(Partition, OffsetOf)]) -> Result<Self, Code> {
        // SAFETY: any size is fine, it grows.
        let list = Self(unsafe { rd::rd_kafka_topic_partition_list_new(i32::try_from(partitions.len()).unwrap_or(0)) });
        for ((topic, partition), of) in partitions {
            let topic = CString::new(topic.as_str()).map_err(|_| Code::from(E::InvalidArgument))?;
            let offset = match of {
                OffsetOf::Earliest => rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST as i64,
                OffsetOf::Latest => rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64,
                OffsetOf::Time(at_ms) => (*at_ms).max(0),
            };
            // SAFETY: the list is alive, the name is copied, the entry is the list's.
            unsafe { (*rd::rd_kafka_topic_partition_list_add(list.0, topic.as_ptr(), *partition)).offset = offset };
        }
        Ok(list)
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_topic_partition_list_new, released once.
        unsafe { rd::rd_kafka_topic_partition_list_destroy(self.0) };
    }
}

struct Resources(Vec<*mut rd::rd_kafka_ConfigResource_t>);

impl Resources {
    fn new(topics: &[String]) -> Result<Self, Code> {
        let kind = rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        // SAFETY: names are terminated, and copied.
        let new = |name: CString| unsafe { rd::rd_kafka_ConfigResource_new(kind, name.as_ptr()) };
        Ok(Self(c_strings(topics)?.into_iter().map(new).filter(|at| !at.is_null()).collect()))
    }
}

impl Drop for Resources {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_ConfigResource_new, released once.
        self.0.iter().for_each(|at| unsafe { rd::rd_kafka_ConfigResource_destroy(*at) });
    }
}
