//! Real brokers and the gateway under test, for tests that see the whole system from outside.
//!
//! Blocking and built on `std`, because `cargo xtask` compiles this crate before it can do anything. It deliberately knows no crate
//! of the gateway: what it observes is what a user could observe (bytes on sockets, exit codes, files, Kafka's own tools).

mod balancer;
mod broker;
mod gateway;
pub mod http;
mod jars;
mod place;
mod probe;
mod process;
mod steps;
mod tools;
mod worker;

pub use balancer::Balancer;
pub use broker::{Broker, BrokerOptions, kafka_tool};
pub use gateway::{Exited, Gateway, GatewayBuilder, binary};
pub use jars::KAFKA_VERSION;
pub use place::{free_ports, left_out, poll_until, shared_kafka, target_dir, unique, without_kafka, workspace_root};
pub use process::Process;
pub use steps::{Step, run_steps};
pub use tools::{curl, find_tool, kcat, kcat_process};
pub use worker::{Answer, Record, Reply, Worker};

/// What went wrong in the test bed itself, in words for the person who reads the test's output.
#[derive(Debug)]
pub struct Error(String);

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The same fault with the thing that was attempted in front.
    pub fn doing(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self(format!("{what}: {cause}"))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(cause: std::io::Error) -> Self {
        Self(cause.to_string())
    }
}
