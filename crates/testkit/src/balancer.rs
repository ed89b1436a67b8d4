//! A round-robin balancer for HTTP/1.1: each request goes to the next replica, those of one client connection too.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

/// Most bytes of a head, or of a chunk-size line.
const HEAD_BYTES: usize = 64 * 1024;
/// Most bytes of a request body, which is read whole before a replica is chosen.
const BODY_BYTES: usize = 16 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For a peer that neither reads nor finishes what it has begun to write.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A thread for each client connection; its buffers are on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// Names the replica that answered.
const REPLICA: &str = "balancer-replica";

/// A running balancer; ends when dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    replicas: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
    stopped: AtomicBool,
}

/// A message without its body. Hop-by-hop headers are gone (RFC 9110, section 7.6.1).
#[derive(Debug)]
struct Head {
    first: String,
    headers: Vec<(String, String)>,
    framing: Framing,
    closes: bool,
    continues: bool,
}

/// How a body ends (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    /// With the connection.
    Close,
}

/// Connections to replicas that one client connection keeps.
type Kept = Vec<(SocketAddr, BufReader<TcpStream>)>;

impl Balancer {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(replicas: Vec<SocketAddr>) -> crate::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { replicas: Mutex::new(replicas), turn: AtomicUsize::new(0), stopped: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stopped.load(Ordering::Acquire) {
                    break;
                }
                let Ok(client) = client else { continue };
                let shared = Arc::clone(&accepting);
                // Without a thread the client sees its connection closed. How a conversation ended, it knows itself.
                let _ = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || shared.converse(client));
            }
        });
        Ok(Self { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Other replicas from the next request on: one that was restarted has another address.
    pub fn set(&self, replicas: Vec<SocketAddr>) {
        *self.shared.replicas.lock().unwrap_or_else(PoisonError::into_inner) = replicas;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        // Wakes the thread that accepts. If that fails, it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// Request by request, until the client or the balancer ends.
    fn converse(&self, client: TcpStream) -> Result<()> {
        prepare(&client)?;
        client.set_read_timeout(None)?;
        let (mut client, mut kept) = (BufReader::new(client), Kept::new());
        loop {
            let Some(mut request) = Head::read(&mut client)? else { return Ok(()) };
            if self.stopped.load(Ordering::Acquire) {
                return Ok(());
            }
            if request.continues {
                client.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            // A request ends with its head if nothing is said; only an answer ends with the connection.
            if request.framing == Framing::Close {
                request.framing = Framing::Length(0);
            }
            let mut wire = request.bytes(None);
            let most = wire.len() + BODY_BYTES;
            relay(&mut client, &mut Bounded { to: &mut wire, most }, request.framing)?;
            let method = request.first.split(' ').next().unwrap_or_default();
            if !self.exchange(method, &wire, &mut client, &mut kept)? || request.closes {
                return client.get_ref().shutdown(Shutdown::Both);
            }
        }
    }

    /// One request to the next replica that takes it, and its answer to the client; whether the connection goes on.
    fn exchange(&self, method: &str, request: &[u8], client: &mut BufReader<TcpStream>, kept: &mut Kept) -> Result<bool> {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.retain(|(address, _)| replicas.contains(address));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let order = (0..replicas.len()).map(|step| replicas[(turn + step) % replicas.len()]);
        // A replica that cannot be reached has seen nothing, so the next one may.
        let reached = order.into_iter().find_map(|address| Some((address, connection(address, kept).ok()?)));
        let Some((address, mut replica)) = reached else {
            return refuse(client, "no replica accepts a connection: nothing was sent");
        };
        let answered = replica.get_mut().write_all(request).and_then(|()| {
            wait(client.get_ref(), replica.get_ref())?;
            final_head(&mut replica)
        });
        let Ok(mut answer) = answered else {
            if hung_up(client.get_ref()) {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            return refuse(client, &format!("replica {address} ended before it answered: the request may have been done"));
        };
        let status = answer.first.split(' ').nth(1).unwrap_or_default();
        if method == "HEAD" || status == "204" || status == "304" {
            answer.framing = Framing::Length(0);
        }
        client.get_mut().write_all(&answer.bytes(Some(address)))?;
        relay(&mut replica, client.get_mut(), answer.framing)?;
        if answer.framing == Framing::Close {
            return Ok(false);
        }
        if !answer.closes {
            kept.push((address, replica));
        }
        Ok(true)
    }
}

impl Head {
    /// `None` when the connection ended before a message began.
    fn read(from: &mut BufReader<TcpStream>) -> Result<Option<Self>> {
        let Some(first) = line(from)? else { return Ok(None) };
        let mut head = Self { first, headers: Vec::new(), framing: Framing::Close, closes: false, continues: false };
        let mut bytes = head.first.len();
        loop {
            let line = line(from)?.ok_or(ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                return Ok(Some(head));
            }
            bytes += line.len();
            if bytes > HEAD_BYTES {
                return Err(invalid("a head is too long"));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header without a colon"))?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "connection" => head.closes |= value.eq_ignore_ascii_case("close"),
                "keep-alive" => {}
                "expect" => head.continues = true,
                lower => {
                    match lower {
                        "transfer-encoding" => head.framing = Framing::Chunked,
                        "content-length" if head.framing != Framing::Chunked => {
                            head.framing = Framing::Length(value.parse().map_err(|_| invalid("content-length is no number"))?);
                        }
                        _ => {}
                    }
                    head.headers.push((name.to_owned(), value.to_owned()));
                }
            }
        }
    }

    /// As it goes on, with the name of the replica that it comes from.
    fn bytes(&self, replica: Option<SocketAddr>) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        self.headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        if let Some(replica) = replica {
            text.push_str(&format!("{REPLICA}: {replica}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

fn prepare(socket: &TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(STALL_TIMEOUT))?;
    socket.set_write_timeout(Some(STALL_TIMEOUT))
}

/// The connection that is kept, if the replica has not closed it meanwhile, else a new one.
fn connection(address: SocketAddr, kept: &mut Kept) -> Result<BufReader<TcpStream>> {
    while let Some(at) = kept.iter().position(|(known, _)| *known == address) {
        let (_, idle) = kept.swap_remove(at);
        if !hung_up(idle.get_ref()) {
            return Ok(idle);
        }
    }
    let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    prepare(&socket)?;
    Ok(BufReader::new(socket))
}

/// Whether the peer has closed or reset the connection.
fn hung_up(socket: &TcpStream) -> bool {
    let seen = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut [0]));
    let told = matches!(&seen, Err(e) if e.kind() == ErrorKind::WouldBlock) || matches!(seen, Ok(1..));
    socket.set_nonblocking(false).is_err() || !told
}

/// Waits for the answer, as long as the client does. One that has closed its half counts as gone.
fn wait(client: &TcpStream, replica: &TcpStream) -> Result<()> {
    // A client that has sent its next request already is not looked at again.
    let mut pipelined = false;
    loop {
        let mut either = [PollFd::new(replica, PollFlags::IN), PollFd::new(client, PollFlags::IN)];
        retry_on_intr(|| poll(if pipelined { &mut either[..1] } else { &mut either }, None))?;
        if !either[0].revents().is_empty() {
            return Ok(());
        }
        if hung_up(client) {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        pipelined = true;
    }
}

/// The head of the answer; interim ones (RFC 9110, section 15.2) stay here.
fn final_head(replica: &mut BufReader<TcpStream>) -> Result<Head> {
    loop {
        let head = Head::read(replica)?.ok_or(ErrorKind::UnexpectedEof)?;
        if !head.first.split(' ').nth(1).is_some_and(|status| status.starts_with('1')) {
            return Ok(head);
        }
    }
}

fn refuse(client: &mut BufReader<TcpStream>, why: &str) -> Result<bool> {
    let head = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain\r\ncontent-length";
    client.get_mut().write_all(format!("{head}: {}\r\n\r\nbalancer: {why}", "balancer: ".len() + why.len()).as_bytes())?;
    Ok(true)
}

/// A body as it is on the wire, each piece as it comes.
fn relay(from: &mut BufReader<TcpStream>, to: &mut impl Write, framing: Framing) -> Result<()> {
    match framing {
        Framing::Length(bytes) => copy(from, to, bytes),
        Framing::Close => copy(from, to, usize::MAX),
        Framing::Chunked => loop {
            let size = line(from)?.ok_or(ErrorKind::UnexpectedEof)?;
            to.write_all(format!("{size}\r\n").as_bytes())?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let bytes = usize::from_str_radix(digits, 16).map_err(|_| invalid("no chunk size"))?;
            if bytes == 0 {
                break trailers(from, to);
            }
            copy(from, to, bytes.checked_add(2).ok_or_else(|| invalid("a chunk is too long"))?)?;
        },
    }
}

fn trailers(from: &mut BufReader<TcpStream>, to: &mut impl Write) -> Result<()> {
    loop {
        let line = line(from)?.ok_or(ErrorKind::UnexpectedEof)?;
        to.write_all(format!("{line}\r\n").as_bytes())?;
        if line.is_empty() {
            return Ok(());
        }
    }
}

/// `usize::MAX` bytes end where the connection does.
fn copy(from: &mut BufReader<TcpStream>, to: &mut impl Write, mut bytes: usize) -> Result<()> {
    let open_ended = bytes == usize::MAX;
    while bytes > 0 {
        let piece = from.fill_buf()?;
        if piece.is_empty() {
            return if open_ended { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        let taken = piece.len().min(bytes);
        to.write_all(&piece[..taken])?;
        from.consume(taken);
        bytes -= taken;
    }
    Ok(())
}

/// A line without its end; `None` when the connection ended before it began.
fn line(from: &mut BufReader<TcpStream>) -> Result<Option<String>> {
    let mut line = Vec::new();
    from.take(HEAD_BYTES as u64).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let line = line.strip_suffix(b"\n").ok_or_else(|| invalid("a line does not end"))?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8(line.to_vec()).map(Some).map_err(|_| invalid("a head is not UTF-8"))
}

fn invalid(text: &str) -> Error {
    Error::new(ErrorKind::InvalidData, text)
}

/// A buffer that takes no more than `most` bytes.
struct Bounded<'a> {
    to: &'a mut Vec<u8>,
    most: usize,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.to.len() + bytes.len() > self.most {
            return Err(invalid("a request body is longer than the balancer takes"));
        }
        self.to.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
