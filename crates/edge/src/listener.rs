//! A bound socket that accepts connections until it is drained.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at};

use crate::connection::{self, Handler, Peer, Protocols};
use crate::drain::Drain;
use crate::limits::{Limits, Observer, hit};
use crate::pulse::Command;
use crate::registry::Registry;
use crate::watch;

/// Connections that the kernel holds for us between two accepts; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for want of descriptors or memory, so that it is not tried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long idle connections stay open in a drain, so that requests that are on their way are answered, as the last ones.
const LAST_REQUEST_GRACE: Duration = Duration::from_millis(300);
/// How long aborted connections get to leave their tasks.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// What a listener is made of.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Its name in the configuration, for messages.
    pub name: String,
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What its peers may cost.
    pub limits: Limits,
}

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener `{name}` cannot listen on {address}: {}", remedy(.cause))]
pub struct BindError {
    /// The listener's name.
    pub name: String,
    /// The address that was asked for.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub cause: io::Error,
}

fn remedy(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "the port is in use by another process; stop that process or choose another port".into(),
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; use one of its own, or 0.0.0.0 or [::] for all of them".into()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE (or root), or choose a higher port".into()
        }
        _ => cause.to_string(),
    }
}

/// A socket that is bound and listening. Connections wait in the kernel until [`Listener::serve`] is called.
#[derive(Debug)]
pub struct Listener {
    options: ListenerOptions,
    socket: TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Binds the address. To be called within a tokio runtime with IO and time enabled.
    ///
    /// # Errors
    /// With address, cause and remedy, if the address cannot be had.
    pub fn bind(options: ListenerOptions) -> Result<Self, BindError> {
        match listen(options.address) {
            Ok((socket, local)) => Ok(Self { options, socket, local }),
            Err(cause) => Err(BindError { name: options.name, address: options.address, cause }),
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The address that was bound, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Accepts and serves until `stop` begins, then finishes: returns when every connection is closed or the deadline has passed,
    /// with the number of connections that had to be aborted.
    pub async fn serve<H: Handler>(self, handler: H, observer: Arc<dyn Observer>, mut stop: Drain) -> usize {
        let Self { options, socket, .. } = self;
        let registry = Registry::new(observer.clone());
        let server = Server {
            protocols: Arc::new(Protocols::new(&options.limits)),
            limits: options.limits,
            registry,
            handler,
            observer,
            name: options.name,
        };
        let mut sweep = interval(watch::period(&server.limits));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = loop {
            tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, address)) => server.admit(stream, address),
                    Err(error) => server.accept_failed(&error).await,
                },
                now = sweep.tick() => server.registry.sweep(&server.limits, now),
                deadline = stop.begun() => break deadline,
            }
        };
        // Connections that the kernel has completed may already hold a request: closing the socket would reset them.
        for _ in 0..BACKLOG {
            let Some(Ok((stream, address))) = socket.accept().now_or_never() else {
                break;
            };
            server.admit(stream, address);
        }
        drop(socket);
        server.drain(deadline, stop).await
    }
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    Handle::try_current().map_err(io::Error::other)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the old process in TIME_WAIT. It does not let two processes share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_keepalive(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let socket = TcpListener::from_std(socket.into())?;
    let local = socket.local_addr()?;
    Ok((socket, local))
}

struct Server<H> {
    name: String,
    limits: Limits,
    protocols: Arc<Protocols>,
    registry: Arc<Registry>,
    handler: H,
    observer: Arc<dyn Observer>,
}

impl<H: Handler> Server<H> {
    /// Starts to serve a connection, or closes it at once when there are too many.
    fn admit(&self, stream: TcpStream, address: SocketAddr) {
        let Some(registered) = self.registry.open(self.limits.connections, Instant::now()) else {
            self.observer.limit_hit(hit::CONNECTIONS);
            return;
        };
        // It fails only on a socket that is already dead, which the first read will show.
        let _ = stream.set_nodelay(true);
        let (handler, protocols, observer) = (self.handler.clone(), self.protocols.clone(), self.observer.clone());
        tokio::spawn(connection::serve(stream, Peer { address }, handler, protocols, observer, registered));
    }

    async fn accept_failed(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        self.observer.limit_hit(hit::OPEN_FILES);
        tracing::warn!(listener = self.name, %error, "cannot accept a connection; raise the limit of open files (ulimit -n)");
        sleep(ACCEPT_PAUSE).await;
    }

    async fn drain(self, mut deadline: Instant, mut stop: Drain) -> usize {
        let open = self.registry.command_all(Command::LastRequest);
        tracing::debug!(listener = self.name, connections = open, "draining");
        // A kept connection that is closed at once may have a request on its way, which would never be answered.
        let _ = timeout_at(deadline.min(Instant::now() + LAST_REQUEST_GRACE), self.registry.empty()).await;
        self.registry.command_all(Command::Finish);
        let mut sweep = interval(watch::period(&self.limits));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.registry.empty() => return 0,
                moved = stop.moved() => deadline = moved,
                () = sleep_until(deadline) => break,
                now = sweep.tick() => self.registry.sweep(&self.limits, now),
            }
        }
        let aborted = self.registry.command_all(Command::Abort);
        if timeout(ABORT_GRACE, self.registry.empty()).await.is_err() {
            tracing::warn!(listener = self.name, "some connections did not leave; a handler blocks its thread");
        }
        aborted
    }
}
