//! The spine: a checked plan becomes running parts, requests pass through them, and they are stopped in order.
//!
//! Start reading at [`pipeline`]: the path of one request is one screen there.

mod admin;
mod clusters;
mod collect;
pub mod control;
mod exchanges;
mod lines;
mod lower;
pub mod pipeline;
mod readiness;
mod run;

pub use clusters::{Clusters, OpenClustersError, directory_of};
pub use lines::{LineError, RecordLine};
pub use run::{RouteLine, Running, StartError, introduce};
