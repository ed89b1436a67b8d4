//! The least that hyper can do: 1 KiB for every GET, 204 for everything else once its body is read. What a gateway adds stands beside it.
//! At `/hang` nothing comes once the body is read; `GET /hanging` tells how many wait there.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static KIBIBYTE: [u8; 1024] = [b'x'; 1024];
static HANGING: AtomicUsize = AtomicUsize::new(0);

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// Speak HTTP/2 without TLS, too.
    #[arg(long)]
    http2: bool,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(args.address).await?;
    println!("listening public http://{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let (socket, answer) = (TokioIo::new(socket), service_fn(answer));
            // A client that hangs up in the middle is no concern of a baseline.
            if args.http2 {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(socket, answer).await;
            } else {
                let _ = http1::Builder::new().serve_connection(socket, answer).await;
            }
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/hanging" {
        return Ok(Response::new(Full::new(HANGING.load(Ordering::Relaxed).to_string().into())));
    }
    if request.uri().path() == "/hang" {
        let _read = request.into_body().collect().await;
        HANGING.fetch_add(1, Ordering::Relaxed);
        return pending().await;
    }
    if request.method() == Method::GET {
        let mut response = Response::new(Full::new(Bytes::from_static(&KIBIBYTE)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        return Ok(response);
    }
    let status = match request.into_body().collect().await {
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    Ok(response)
}
