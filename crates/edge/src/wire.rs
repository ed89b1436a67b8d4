//! The socket of one connection, which notes its signs of life and closes without losing our last answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::pulse::Pulse;

/// The client preface of HTTP/2 (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Head and body together up to which an answer is copied into one piece.
const JOINED_BYTES_MAX: usize = 2048;
/// Bytes that a peer may still send into a closing connection before we stop reading them.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// The protocol of a connection, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

#[derive(Debug)]
pub(crate) struct Wire {
    socket: TcpStream,
    pulse: Arc<Pulse>,
    prefix: [u8; PREFACE.len()],
    /// `prefix[given..held]` was read to tell the protocol and not given on yet.
    held: usize,
    given: usize,
    protocol: Protocol,
    ended: bool,
    shut: bool,
    lingered: usize,
}

impl Wire {
    pub(crate) fn new(socket: TcpStream, pulse: Arc<Pulse>) -> Self {
        let prefix = [0; PREFACE.len()];
        Self { socket, pulse, prefix, held: 0, given: 0, protocol: Protocol::Http1, ended: false, shut: false, lingered: 0 }
    }

    /// Reads until the first bytes can only be one protocol; keeps them for the protocol's own reader.
    pub(crate) fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Protocol>> {
        while self.held < PREFACE.len() {
            let mut buffer = ReadBuf::new(&mut self.prefix[self.held..]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            self.held += read;
            if read == 0 || self.prefix[..self.held] != PREFACE[..self.held] {
                return Poll::Ready(Ok(Protocol::Http1));
            }
        }
        self.protocol = Protocol::Http2;
        self.pulse.head_not_expected();
        Poll::Ready(Ok(Protocol::Http2))
    }

    fn note_write<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Pending => self.pulse.write_blocked(),
            Poll::Ready(_) => self.pulse.written(),
        }
        result
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given < self.held {
            let part = (self.held - self.given).min(buffer.remaining());
            buffer.put_slice(&self.prefix[self.given..self.given + part]);
            self.given += part;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        if buffer.filled().len() == before {
            self.ended = true;
        } else if self.protocol == Protocol::Http1 {
            self.pulse.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.note_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let socket = Pin::new(&mut self.socket);
        let result = if bytes <= JOINED_BYTES_MAX && slices.len() > 1 {
            // One plain write of a short answer costs the kernel less than gathering its parts.
            let mut joined = [0; JOINED_BYTES_MAX];
            let mut end = 0;
            for slice in slices {
                joined[end..end + slice.len()].copy_from_slice(slice);
                end += slice.len();
            }
            socket.poll_write(cx, &joined[..end])
        } else {
            socket.poll_write_vectored(cx, slices)
        };
        self.note_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Closes our side, then reads and forgets what the peer still sends: a socket closed over unread bytes is reset, and the reset
    /// would overtake an answer such as `431`. The watch ends this after its time, the byte limit before that.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
            self.shut = true;
            self.pulse.linger();
        }
        let mut scratch = [0; 4096];
        while !self.ended && self.lingered < LINGER_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => self.lingered += buffer.filled().len(),
                _ => self.ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}
