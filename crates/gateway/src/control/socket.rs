//! The socket by which a running gateway takes control requests: HTTP/1.1 over a Unix socket in the locked directory.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use edge::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};

use super::{CONTROL_BODY_BYTES_MAX, Control};

/// The name of the socket in the directory of the cache.
pub const SOCKET: &str = "control.sock";

/// For the body of a request to arrive.
const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// How long no connection is accepted after that failed, as for want of file descriptors.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Connections served at a time.
const CONNECTIONS_MAX: usize = 32;

/// A path that fits `sockaddr_un` (108 bytes) however deep the directory lies: through the descriptor of the directory.
fn short_path(directory: &Path) -> std::io::Result<(std::fs::File, PathBuf)> {
    let dir = std::fs::File::open(directory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()));
    Ok((dir, path))
}

/// Serves control requests until the returned task is aborted. The caller holds the lock of the directory, so that a
/// socket that is there was left by a process that died.
pub fn listen(directory: &Path, control: Control) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let (_dir, path) = short_path(directory)?;
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // Whoever may write to the directory may use the socket, and nobody else.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(tokio::spawn(accept(listener, control)))
}

async fn accept(listener: UnixListener, control: Control) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = std::sync::Arc::clone(&slots).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = control.clone();
                connections.spawn(async move {
                    serve(stream, control).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, control: Control) {
    let service = hyper::service::service_fn(move |request| {
        let control = control.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request, &control).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "control connection");
    }
}

async fn answer(request: Request<Incoming>, control: &Control) -> Response<Body> {
    let (head, body) = request.into_parts();
    let collect = Limited::new(body, CONTROL_BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, collect).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) => return super::fault(StatusCode::BAD_REQUEST, e.to_string()),
        Err(_) => return super::fault(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
    };
    let target = head.uri.path_and_query().map_or("/", |t| t.as_str());
    control.handle(&head.method, target, body).await
}

/// A connection to the gateway that runs on a directory.
pub struct ControlClient {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl ControlClient {
    /// `Ok(None)` when no gateway listens there.
    pub async fn connect(directory: &Path) -> std::io::Result<Option<Self>> {
        let Ok((_dir, path)) = short_path(directory) else { return Ok(None) };
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Some(Self { sender }))
    }

    pub async fn send(&mut self, method: Method, target: &str, body: Bytes) -> std::io::Result<Response<Incoming>> {
        let request = Request::builder().method(method).uri(target).header("host", "tidegate").body(Full::new(body));
        let request = request.map_err(std::io::Error::other)?;
        self.sender.ready().await.map_err(std::io::Error::other)?;
        self.sender.send_request(request).await.map_err(std::io::Error::other)
    }
}
