//! What can be done with a topic: produce a record, fetch the newest of a key, fetch the collection, wait for a change.
//!
//! Knows no HTTP: requests are a [`template::Scope`] and values, answers are values and typed faults.

mod cursor;
mod etag;
mod fetch;
mod follow;
mod json;
mod merge;
mod produce;
mod topic;

pub use cursor::{Cursor, CursorError};
pub use etag::{Version, record_etag};
pub use fetch::{Ask, ClauseTemplate, Fetch, FetchError, FetchOptions, Found, Has, Latest, Select};
pub use follow::{Follow, FollowOptions, Followed, History, READ_THROUGH_RETRY};
pub use merge::{Broken, Merged, Omitted};
pub use produce::{Acknowledged, Produce, ProduceFault, ProduceOptions};
pub use topic::{Topic, Topics};
