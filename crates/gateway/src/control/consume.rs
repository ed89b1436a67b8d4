//! Reading a topic as JSON lines: straight from the logs of the embedded cluster, or from Kafka without a cache.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use edge::Body;
use http::Response;
use http_body::Frame;
use kafka::{AdminError, Cluster, ConsumeFrom, ConsumedRecord};
use message_cache::{PartitionLog, TopicCache};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::lines::RecordLine;

/// Pieces on their way to a slow reader.
const PIECES_MAX: usize = 4;
/// Bytes of a piece, more or less: the last line may go over.
const PIECE_BYTES: usize = 64 * 1024;

/// Where to begin: `earliest`, `latest`, or an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Earliest,
    Latest,
    Offset(i64),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => match text.parse() {
                Ok(offset) if offset >= 0 => Ok(Self::Offset(offset)),
                _ => Err(format!("{text:?} is neither earliest, latest nor an offset")),
            },
        }
    }
}

struct Ask {
    partition: Option<i32>,
    from: From,
    follow: bool,
}

impl Ask {
    fn parse(query: &str) -> Result<Self, AdminError> {
        let mut ask = Self { partition: None, from: From::Earliest, follow: false };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "partition" => {
                    ask.partition = Some(value.parse().map_err(|_| AdminError::Invalid("partition is no number".into()))?)
                }
                "from" => ask.from = value.parse().map_err(AdminError::Invalid)?,
                "follow" => ask.follow = value == "true",
                other => return Err(AdminError::Invalid(format!("unknown parameter {other}"))),
            }
        }
        Ok(ask)
    }
}

/// Whether the answer to this query goes on until the reader ends it.
pub fn goes_on(query: &str) -> bool {
    Ask::parse(query).is_ok_and(|ask| ask.follow)
}

pub fn consume(cluster: &Cluster, topic: &str, query: &str) -> Result<Response<Body>, AdminError> {
    let ask = Ask::parse(query)?;
    let (tx, rx) = channel(PIECES_MAX);
    match cluster {
        Cluster::Embedded(embedded) => {
            let cache = embedded.cached(topic)?;
            if let Some(p) = ask.partition.filter(|p| cache.partition(*p).is_none()) {
                return Err(AdminError::Invalid(format!("topic {topic} has no partition {p}")));
            }
            tokio::spawn(read_logs(cache, ask, tx));
        }
        Cluster::Kafka(kafka) => {
            let (kafka, topic) = (Arc::clone(kafka), topic.to_owned());
            let from = match ask.from {
                From::Earliest => ConsumeFrom::Earliest,
                From::Latest => ConsumeFrom::Latest,
                From::Offset(n) => ConsumeFrom::Offset(n),
            };
            let read = move || {
                let mut each = |r: ConsumedRecord| {
                    let headers = r.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
                    let line =
                        RecordLine::new(r.partition, r.offset, r.timestamp_ms, r.key.as_deref(), r.value.as_deref(), headers);
                    match tx.blocking_send(Ok(piece_of(&line))) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                };
                if let Err(e) = kafka.consume(&topic, ask.partition, from, ask.follow, &mut each) {
                    let _ = tx.blocking_send(Err(std::io::Error::other(e)));
                }
            };
            tokio::task::spawn_blocking(read);
        }
    }
    Ok(Response::new(Body::stream(Pieces(rx))))
}

type Piece = std::io::Result<Bytes>;

/// Pieces as they come.
struct Pieces(Receiver<Piece>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|p| p.map(Frame::data)))
    }
}

fn piece_of(line: &RecordLine) -> Bytes {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// Partition by partition up to the end; then, with `follow`, whatever comes.
async fn read_logs(cache: Arc<TopicCache>, ask: Ask, tx: Sender<Piece>) {
    let mut changes = cache.changes();
    let life = cache.life();
    let start = |log: &PartitionLog| match ask.from {
        From::Earliest => log.start_offset(),
        From::Latest => log.end_offset(),
        From::Offset(n) => n,
    };
    let mut positions: Vec<(usize, i64)> = (cache.partitions().iter().enumerate())
        .filter(|(n, _)| ask.partition.is_none_or(|p| p as usize == *n))
        .map(|(n, log)| (n, start(log)))
        .collect();
    loop {
        if cache.life() != life {
            let line = serde_json::json!({ "error": format!("topic {} was deleted", cache.name()) });
            let _ = tx.send(Ok(format!("{line}\n").into())).await;
            return;
        }
        for (n, position) in &mut positions {
            let Some(log) = cache.partitions().get(*n).cloned() else { continue };
            if !read_log(*n, &log, position, &tx).await {
                return;
            }
        }
        if !ask.follow {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tx.closed() => return,
        }
    }
}

/// Sends what there is from `position` on; false when nobody listens any more.
async fn read_log(partition: usize, log: &PartitionLog, position: &mut i64, tx: &Sender<Piece>) -> bool {
    let mut piece = Vec::new();
    for record in log.scan(*position) {
        match record {
            Ok(r) => {
                let headers = r.headers().map(|h| (h.name, h.value));
                let line = RecordLine::new(partition as i32, r.offset(), r.timestamp_ms(), r.key(), r.value(), headers);
                piece.extend_from_slice(&piece_of(&line));
                *position = r.offset() + 1;
            }
            Err(e) => {
                // Told and stepped over: the records behind it are still there.
                piece.extend_from_slice(
                    serde_json::json!({ "partition": partition, "error": e.to_string() }).to_string().as_bytes(),
                );
                piece.push(b'\n');
            }
        }
        if piece.len() >= PIECE_BYTES && tx.send(Ok(std::mem::take(&mut piece).into())).await.is_err() {
            return false;
        }
    }
    piece.is_empty() || tx.send(Ok(piece.into())).await.is_ok()
}
