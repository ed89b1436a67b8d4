//! The socket by which a running gateway takes control requests: HTTP/1.1 over a Unix socket in the locked directory.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use edge::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{CONTROL_BODY_BYTES_MAX, Control, consume};

/// The name of the socket in the directory of the cache.
pub const SOCKET: &str = "control.sock";

/// For the body of a request to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long no connection is accepted after that failed, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// For a gateway to take a connection and give its first answer. What is asked of it then may take longer.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections served at a time, beside those that follow a topic.
const CONNECTIONS_MAX: usize = 32;

/// Connections that follow a topic at a time: they stay, and are not to keep others out.
const FOLLOWERS_MAX: usize = 32;

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
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let followers = Arc::new(Semaphore::new(FOLLOWERS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let seat = Seat { held: Mutex::new(slot), followers: Arc::clone(&followers) };
                connections.spawn(serve(stream, control.clone(), seat));
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What a connection counts as, until it ends.
struct Seat {
    held: Mutex<OwnedSemaphorePermit>,
    followers: Arc<Semaphore>,
}

impl Seat {
    /// Makes room for another connection; false when as many follow as may.
    fn follow(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if std::ptr::eq(Arc::as_ptr(held.semaphore()), Arc::as_ptr(&self.followers)) {
            return true;
        }
        let place = Arc::clone(&self.followers).try_acquire_owned();
        place.map(|place| *held = place).is_ok()
    }
}

async fn serve(stream: UnixStream, control: Control, seat: Seat) {
    let (control, seat) = (&control, &seat);
    let answer = async move |request| Ok::<_, std::convert::Infallible>(answer(request, control, seat).await);
    let service = hyper::service::service_fn(answer);
    let connection =
        hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "control connection");
    }
}

async fn answer(request: Request<Incoming>, control: &Control, seat: &Seat) -> Response<Body> {
    let (head, body) = request.into_parts();
    let collect = Limited::new(body, CONTROL_BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, collect).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) => return super::fault(StatusCode::BAD_REQUEST, e.to_string()),
        Err(_) => return super::fault(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
    };
    let target = head.uri.path_and_query().map_or("/", |t| t.as_str());
    if head.method == Method::GET && head.uri.query().is_some_and(consume::goes_on) && !seat.follow() {
        let text = format!(
            "{FOLLOWERS_MAX} connections follow topics already, the most there may be: end one of them, or do not follow"
        );
        return super::fault(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    control.handle(&head.method, target, body).await
}

/// A connection to the gateway that runs on a directory.
pub struct ControlClient {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl ControlClient {
    /// `Ok(None)` when no gateway listens there.
    ///
    /// # Errors
    /// When one does and cannot be asked, or does not answer within [`FIRST_ANSWER_TIMEOUT`].
    pub async fn connect(directory: &Path) -> std::io::Result<Option<Self>> {
        Self::connect_within(directory, FIRST_ANSWER_TIMEOUT).await
    }

    async fn connect_within(directory: &Path, patience: Duration) -> std::io::Result<Option<Self>> {
        tokio::time::timeout(patience, Self::greet(directory)).await.unwrap_or_else(|_| {
            let text = format!(
                "it did not answer within {} s: it is stopped (SIGSTOP, a debugger), overloaded, or has {CONNECTIONS_MAX} other \
                 commands to serve; continue it (SIGCONT), or end it and try again",
                patience.as_secs_f32()
            );
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
        })
    }

    /// The kernel connects also to a process that is stopped. So it is asked for something, which it need not know.
    async fn greet(directory: &Path) -> std::io::Result<Option<Self>> {
        let Some(mut client) = Self::dial(directory).await? else { return Ok(None) };
        let answer = client.send(Method::GET, "/", Bytes::new()).await?;
        answer.into_body().collect().await.map_err(std::io::Error::other)?;
        Ok(Some(client))
    }

    async fn dial(directory: &Path) -> std::io::Result<Option<Self>> {
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

#[cfg(test)]
mod tests {
    use config::{Checks, Source};

    use super::*;
    use crate::clusters::Clusters;

    const FOLLOW: &str = "/embedded/main/topics/t/records?from=latest&follow=true";

    async fn control(directory: &Path) -> Control {
        let text = "listeners: { http: { address: '127.0.0.1:0' } }\n\
                    clusters: { main: { bootstrap.servers: embedded } }\n\
                    cache: { directory: cache, topics: { t: {} } }\n\
                    routes: [{ match: { path: /t }, fetch: { topic: t, filters: [{ key: k }] } }]\n";
        let checks = Checks { kafka_property: &|_, _, _| Ok(()), embedded_topic: &kafka::check_topic, env: &|_| None };
        let plan = config::load(&Source { name: "t".into(), text: text.into() }, directory, &[], &checks);
        let plan = plan.unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        Control { clusters: Arc::new(Clusters::open(&plan, "test").await.unwrap()) }
    }

    async fn get(client: &mut ControlClient, target: &str) -> Response<Incoming> {
        client.send(Method::GET, target, Bytes::new()).await.unwrap()
    }

    async fn connect(directory: &Path) -> ControlClient {
        ControlClient::connect(directory).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn followers_do_not_keep_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let server = listen(dir.path(), control(dir.path()).await).unwrap();
        let mut following = Vec::new();
        for _ in 0..FOLLOWERS_MAX {
            let mut client = connect(dir.path()).await;
            let answer = get(&mut client, FOLLOW).await;
            assert_eq!(answer.status(), StatusCode::OK);
            following.push((client, answer));
        }
        let mut operators = Vec::new();
        for n in 0..CONNECTIONS_MAX {
            let mut operator = connect(dir.path()).await;
            let answer = get(&mut operator, "/embedded/main/topics").await;
            assert_eq!(answer.status(), StatusCode::OK, "{n}");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "t\n", "{n}");
            operators.push(operator);
        }
        let one_more = &mut operators[0];
        let refused = get(one_more, FOLLOW).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let text = refused.into_body().collect().await.unwrap().to_bytes();
        assert!(text.starts_with(b"32 connections follow topics already"), "{text:?}");
        // Both bounds are reached: a further connection is not served, and is told so.
        let waits = ControlClient::connect_within(dir.path(), Duration::from_millis(50)).await.err().unwrap();
        assert_eq!(waits.kind(), std::io::ErrorKind::TimedOut);
        // A follower that ends makes room for another one.
        following.pop();
        let again = async {
            loop {
                let answer = get(&mut operators[0], FOLLOW).await;
                if answer.status() == StatusCode::OK {
                    return answer;
                }
                answer.into_body().collect().await.unwrap();
            }
        };
        let _follows = tokio::time::timeout(Duration::from_secs(10), again).await.expect("there is room again");
        // And the connection that follows now, for one that does not.
        connect(dir.path()).await;
        server.abort();
    }

    #[tokio::test]
    async fn a_gateway_that_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ControlClient::connect(dir.path()).await.unwrap().is_none(), "none is there");
        // As one that was stopped: the kernel takes the connection, and nobody accepts it.
        let _listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let error = ControlClient::connect_within(dir.path(), Duration::from_millis(50)).await.err().unwrap();
        assert!(error.to_string().starts_with("it did not answer within 0.05 s: it is stopped (SIGSTOP"), "{error}");
    }
}
