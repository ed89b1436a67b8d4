//! What can be done with topics: produce a record, fetch the newest of a key, fetch the collection, wait for a change, ask and get a
//! reply.
//!
//! Knows no HTTP: requests are a [`template::Scope`] and values, answers are values and typed faults.

mod correlate;
mod cursor;
mod etag;
mod fetch;
mod follow;
mod id;
mod json;
mod merge;
mod once;
mod produce;
mod quota;
mod signing;
mod topic;
mod waiting;
mod watch;

pub use correlate::{Correlate, Pending, Progress};
pub use cursor::{Cursor, CursorError};
pub use etag::{Version, record_etag};
pub use fetch::{Ask, ClauseTemplate, Fetch, FetchError, FetchOptions, Found, Has, Latest, Select};
pub use follow::{Follow, FollowOptions, Followed, History, READ_THROUGH_RETRY};
pub use id::{CorrelationId, KeyId, RequestDigest};
pub use merge::{Broken, Merged, Omitted};
pub use once::{DIGEST_HEADER, Decide, KEY_HEADER, Once, OnceError, OnceStats};
pub use produce::{Acknowledged, Marks, Precondition, Produce, ProduceFault, ProduceOptions, RecordNames, Write};
pub use quota::{Permit, Quota};
pub use signing::Signer;
pub use topic::{Topic, Topics};
pub use watch::{Watch, WatchStats};
