//! The edge of the gateway: it accepts connections, bounds what a peer may cost, and finds the route of a request.
//!
//! Reading order: [`Listener`] accepts and drains; `connection` serves one peer; `watch` is the pure policy that says when a
//! connection has used up its time; [`Router`] turns a request head into a [`Routed`] answer.
//!
//! The edge deliberately knows no Kafka, no configuration file, no metric names and no error bodies: faults leave it as types
//! ([`PathFault`], [`BindError`], [`RouteError`]) and limits that were hit as names given to an [`Observer`].

mod body;
mod connection;
mod drain;
mod head;
mod limits;
mod listener;
mod params;
mod path;
mod pattern;
mod pulse;
mod registry;
mod router;
mod watch;
mod wire;

pub use body::Body;
pub use connection::{Handler, Peer};
pub use drain::{Drain, DrainHandle};
pub use head::HeadFault;
pub use limits::{Limits, Observer, hit};
pub use listener::{BindError, Listener, ListenerOptions};
pub use params::{PARAMS_MAX, Params};
pub use path::PathFault;
pub use pattern::RouteError;
pub use router::{HeaderCondition, RouteMatch, Routed, Router};
