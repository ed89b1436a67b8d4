//! Asks a broker whether it is ready, in Kafka's own protocol.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const METADATA: i16 = 3;
/// Version 1: the oldest one whose answer starts with the brokers and that Kafka 4 still speaks (KIP-896).
const METADATA_VERSION: i16 = 1;
const TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of an answer that lists brokers and no topic.
const ANSWER_BYTES: usize = 64 * 1024;

/// The number of live brokers that the one at `address` knows of. Above 0 means that it has registered with its controller and
/// serves requests; before that a broker may accept connections already.
pub(crate) fn brokers(address: SocketAddr) -> std::io::Result<usize> {
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.write_all(&metadata_request("testkit"))?;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
    if !(8..=ANSWER_BYTES).contains(&length) {
        return Err(std::io::Error::other(format!("an answer of {length} bytes is no Metadata response")));
    }
    let mut answer = vec![0; length];
    socket.read_exact(&mut answer)?;
    Ok(broker_count(&answer))
}

/// Metadata request for no topics: length, header v1 (key, version, correlation id, client id), empty topic array.
fn metadata_request(client: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(METADATA.to_be_bytes());
    body.extend(METADATA_VERSION.to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend((client.len() as i16).to_be_bytes());
    body.extend(client.as_bytes());
    body.extend(0_i32.to_be_bytes());
    [&(body.len() as i32).to_be_bytes()[..], &body].concat()
}

/// Correlation id (4 bytes), then the length of the broker array.
fn broker_count(answer: &[u8]) -> usize {
    let count = answer.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, i32::from_be_bytes);
    usize::try_from(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_layout_of_the_protocol_guide() {
        let expected: &[u8] = &[0, 0, 0, 16, 0, 3, 0, 1, 0, 0, 0, 1, 0, 2, b'm', b'e', 0, 0, 0, 0];
        assert_eq!(metadata_request("me"), expected);
    }

    #[test]
    fn counts_come_from_the_answer_and_never_panic() {
        for (answer, count) in [(&[0, 0, 0, 1, 0, 0, 0, 3][..], 3), (&[0, 0, 0, 1], 0), (&[0, 0, 0, 1, 255, 255, 255, 255], 0)] {
            assert_eq!(broker_count(answer), count, "{answer:?}");
        }
    }
}
