//! A small blocking HTTP/1.1 client that shows what was on the wire: it follows nothing, retries nothing and hides nothing.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for the next byte of an answer.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a head or a chunk-size line.
const LINE_BYTES: u64 = 64 * 1024;
/// Most bytes of a body: a broken server must not fill the memory of the test.
const BODY_BYTES: usize = 1 << 30;

/// An answer with its body complete.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// In the order of the wire, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A connection that is kept between requests.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

/// `GET` on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Result<Response> {
    request(address, "GET", path, &[], b"")
}

/// `PUT` of `body` on a connection of its own.
pub fn put(address: SocketAddr, path: &str, body: &[u8]) -> Result<Response> {
    request(address, "PUT", path, &[], body)
}

/// One request on a connection of its own.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
    Client::connect(address)?.request(method, path, headers, body)
}

/// Writes `bytes` as they are and reads one answer; the connection is returned for whoever wants to see how it goes on.
pub fn send_bytes(address: SocketAddr, bytes: &[u8]) -> Result<(Response, Client)> {
    let mut client = Client::connect(address)?;
    client.write(bytes)?;
    Ok((client.read("GET")?, client))
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(READ_TIMEOUT))?;
        socket.set_write_timeout(Some(READ_TIMEOUT))?;
        Ok(Self { stream: BufReader::new(socket), host: address.to_string() })
    }

    /// Sends one request and reads its answer. A `content-length` is supplied when there is a body or the method suggests one.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        self.write(&head(&self.host, method, path, headers, body))?;
        self.write(body)?;
        self.read(method)
    }

    /// Raw bytes: half a request, two requests, nonsense.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next answer on the connection; `method` decides whether it has a body.
    pub fn read(&mut self, method: &str) -> Result<Response> {
        loop {
            let (status, headers) = self.read_head()?;
            if (100..200).contains(&status) {
                continue;
            }
            let mut response = Response { status, headers, body: Vec::new() };
            if method != "HEAD" && status != 204 && status != 304 {
                response.body = self.read_body(&response)?;
            }
            return Ok(response);
        }
    }

    /// Waits for `100 Continue`: the server has read the head of a request and begun with its body.
    pub fn read_continue(&mut self) -> Result<()> {
        match self.read_head()? {
            (100, _) => Ok(()),
            (status, _) => Err(invalid(&format!("status {status} instead of 100"))),
        }
    }

    /// Whether the server closes the connection within `within` without another byte. A reset counts as closed.
    pub fn closed(&mut self, within: Duration) -> Result<bool> {
        self.stream.get_ref().set_read_timeout(Some(within))?;
        match self.stream.fill_buf() {
            Ok(bytes) => Ok(bytes.is_empty()),
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_BYTES).read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            let kind = if line.is_empty() { ErrorKind::UnexpectedEof } else { ErrorKind::InvalidData };
            return Err(Error::new(kind, "the connection ended before the end of a line"));
        }
        String::from_utf8(line).map(|text| text.trim_end().to_owned()).map_err(|_| invalid("a header is not UTF-8"))
    }

    fn read_head(&mut self) -> Result<(u16, Vec<(String, String)>)> {
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| invalid(&format!("no status line: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(&format!("no header line: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// RFC 9112, section 6.3: chunked, a length, or until the connection ends.
    fn read_body(&mut self, head: &Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        if head.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            while self.read_chunk(&mut body)? {}
        } else if let Some(length) = head.header("content-length") {
            self.read_exactly(length.parse().map_err(|_| invalid("content-length is no number"))?, &mut body)?;
        } else {
            (&mut self.stream).take(BODY_BYTES as u64).read_to_end(&mut body)?;
        }
        Ok(body)
    }

    /// One chunk onto `body`; `false` after the last one and the trailers.
    fn read_chunk(&mut self, body: &mut Vec<u8>) -> Result<bool> {
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| invalid(&format!("no chunk size: {line:?}")))?;
        if size == 0 {
            while !self.line()?.is_empty() {}
            return Ok(false);
        }
        self.read_exactly(size, body)?;
        if self.line()?.is_empty() { Ok(true) } else { Err(invalid("a chunk is longer than its size")) }
    }

    fn read_exactly(&mut self, bytes: usize, body: &mut Vec<u8>) -> Result<()> {
        if body.len().saturating_add(bytes) > BODY_BYTES {
            return Err(invalid("the body is longer than this client takes"));
        }
        let start = body.len();
        body.resize(start + bytes, 0);
        self.stream.read_exact(&mut body[start..])
    }
}

impl Response {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `Null` when it is none, so that an assertion shows what was expected.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

fn head(host: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("host: {host}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let said =
        headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-length") || n.eq_ignore_ascii_case("transfer-encoding"));
    if !said && (!body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH")) {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn invalid(text: &str) -> Error {
    Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that says `wire` to the first connection and closes it.
    fn check(method: &str, wire: &'static [u8], expected: std::result::Result<(u16, &str), ErrorKind>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut request = [0; 1024];
            assert!(socket.read(&mut request).expect("a request") > 0);
            socket.write_all(wire).expect("an answer");
        });
        let answer = request(address, method, "/", &[], b"").map(|r| (r.status, r.text()));
        server.join().expect("the server ends");
        let seen = answer.as_ref().map(|(status, text)| (*status, text.as_str())).map_err(Error::kind);
        assert_eq!(seen, expected, "{}", String::from_utf8_lossy(wire));
    }

    #[test]
    fn bodies_end_where_the_protocol_says() {
        check("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokxx", Ok((200, "ok")));
        check("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Ok((200, "")));
        check("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", Ok((304, "")));
        check(
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\nt: 1\r\n\r\n",
            Ok((200, "abc")),
        );
        check("GET", b"HTTP/1.1 200 OK\r\n\r\nuntil the end", Ok((200, "until the end")));
        check("PUT", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Ok((204, "")));
    }

    #[test]
    fn broken_answers_are_errors() {
        check("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", Err(ErrorKind::UnexpectedEof));
        check("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", Err(ErrorKind::InvalidData));
        check("GET", b"SSH-2.0\r\n", Err(ErrorKind::InvalidData));
        check("GET", b"", Err(ErrorKind::UnexpectedEof));
    }
}
