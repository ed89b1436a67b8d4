//! The stop signal shared by all listeners of a process.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Held by whoever may stop the listeners.
#[derive(Debug)]
pub struct DrainHandle {
    deadline: watch::Sender<Option<Instant>>,
}

/// Listened to by each listener; cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    deadline: watch::Receiver<Option<Instant>>,
}

impl Drain {
    /// A signal and its handle. A handle that is dropped unused means that nobody will ever stop the listeners.
    pub fn new() -> (DrainHandle, Drain) {
        let (sender, receiver) = watch::channel(None);
        (DrainHandle { deadline: sender }, Drain { deadline: receiver })
    }

    /// Waits until a drain has begun and returns its deadline.
    pub async fn begun(&mut self) -> Instant {
        match self.deadline.wait_for(Option::is_some).await.map(|deadline| *deadline) {
            Ok(Some(deadline)) => deadline,
            _ => std::future::pending().await,
        }
    }

    /// Waits until the deadline was moved by another `begin`.
    pub(crate) async fn moved(&mut self) -> Instant {
        if self.deadline.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.begun().await
    }
}

impl DrainHandle {
    /// Stops accepting at once, lets requests in progress finish for up to `grace`, and aborts what is left then. Called again, it
    /// moves the deadline: a second signal may shorten the wait to nothing.
    pub fn begin(&self, grace: Duration) {
        self.deadline.send_replace(Some(Instant::now() + grace));
    }
}
