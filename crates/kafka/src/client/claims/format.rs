//! What a claim looks like as a record of its topic: the key is the id, value and headers are those of the record to be, and one
//! header more says the rest. Whoever may write to the topic may write anything, so nothing is believed that was not looked at.
//!
//! Header `tidegate-claim`, numbers big endian: version (1 byte, 1), what follows (1 byte: 1 partition, 2 timestamp, 4 key), partition
//! (4 bytes), timestamp (8 bytes, milliseconds since the Unix epoch), key (the rest).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::ClaimsOptions;
use crate::ProduceRecord;

const HEADER: &str = "tidegate-claim";
const VERSION: u8 = 1;
const PARTITION: u8 = 1;
const TIMESTAMP: u8 = 2;
const KEY: u8 = 4;

/// A claim that was read.
#[derive(Clone, Debug)]
pub struct Claim {
    pub offset: i64,
    pub what: Result<Wanted, String>,
}

/// What a claim asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub id: String,
    pub record: ProduceRecord,
}

/// The record that says: write this one, if there is none of this id.
///
/// # Errors
/// Why no owner could ever write it.
pub fn claim(options: &ClaimsOptions, id: &str, record: ProduceRecord) -> Result<ProduceRecord, String> {
    if id.is_empty() {
        return Err("a claim needs an id".to_owned());
    }
    if record.topic != options.target {
        return Err(format!("claims of {} are for topic {}, not for {}", options.topic, options.target, record.topic));
    }
    if record.timestamp_ms.is_some_and(|at| at <= 0) {
        return Err("the timestamp must be after the Unix epoch".to_owned());
    }
    if record.partition.is_some_and(|p| p < 0) {
        return Err("partitions are counted from 0".to_owned());
    }
    let mut rest = BytesMut::new();
    let flag = |there: bool, bit: u8| if there { bit } else { 0 };
    rest.put_u8(VERSION);
    rest.put_u8(
        flag(record.partition.is_some(), PARTITION)
            | flag(record.timestamp_ms.is_some(), TIMESTAMP)
            | flag(record.key.is_some(), KEY),
    );
    record.partition.into_iter().for_each(|partition| rest.put_i32(partition));
    record.timestamp_ms.into_iter().for_each(|at| rest.put_i64(at));
    record.key.into_iter().for_each(|key| rest.put(key));
    let mut headers = record.headers;
    headers.retain(|(name, _)| name != HEADER);
    if !has_id(&headers, options, id.as_bytes()) {
        headers.push((options.id_header.clone(), Some(Bytes::copy_from_slice(id.as_bytes()))));
    }
    headers.push((HEADER.to_owned(), Some(rest.freeze())));
    let key = Some(Bytes::copy_from_slice(id.as_bytes()));
    Ok(ProduceRecord { topic: options.topic.clone(), partition: None, key, value: record.value, headers, timestamp_ms: None })
}

/// What a record of the topic of claims asks for.
///
/// # Errors
/// Why it is no claim.
pub fn wanted(
    options: &ClaimsOptions,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    mut headers: Vec<(String, Option<Bytes>)>,
) -> Result<Wanted, String> {
    let key = key.filter(|key| !key.is_empty()).ok_or("it has no key, which is to be the id")?;
    let id = String::from_utf8(key.to_vec()).map_err(|_| "its key is not text")?;
    let at = headers.iter().rposition(|(name, _)| name == HEADER).ok_or("it has no header tidegate-claim")?;
    let rest = headers.remove(at).1.ok_or("its header tidegate-claim is null")?;
    headers.retain(|(name, _)| name != HEADER);
    // Else nobody would find the record by its id, and it would be written again.
    if !has_id(&headers, options, id.as_bytes()) {
        return Err(format!("its header {} is not its key", options.id_header));
    }
    let (partition, timestamp_ms, key) = decode(rest).ok_or("its header tidegate-claim cannot be read")?;
    let value = value.map(Bytes::copy_from_slice);
    Ok(Wanted { id, record: ProduceRecord { topic: options.target.clone(), partition, key, value, headers, timestamp_ms } })
}

type Rest = (Option<i32>, Option<i64>, Option<Bytes>);

fn decode(mut rest: Bytes) -> Option<Rest> {
    let (version, flags) = (rest.try_get_u8().ok()?, rest.try_get_u8().ok()?);
    if version != VERSION || flags & !(PARTITION | TIMESTAMP | KEY) != 0 {
        return None;
    }
    let partition = if flags & PARTITION != 0 { Some(rest.try_get_i32().ok().filter(|p| *p >= 0)?) } else { None };
    let timestamp_ms = if flags & TIMESTAMP != 0 { Some(rest.try_get_i64().ok().filter(|at| *at > 0)?) } else { None };
    let has_key = flags & KEY != 0;
    (has_key || rest.is_empty()).then(|| (partition, timestamp_ms, has_key.then_some(rest)))
}

fn has_id(headers: &[(String, Option<Bytes>)], options: &ClaimsOptions, id: &[u8]) -> bool {
    headers.iter().any(|(name, value)| *name == options.id_header && value.as_deref() == Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ClaimsOptions {
        ClaimsOptions { topic: "c".to_owned(), target: "t".to_owned(), id_header: "id".to_owned() }
    }

    fn text(text: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn what_is_claimed_is_what_is_wanted() {
        let check = |record: ProduceRecord, added: bool| {
            let mut expected = ProduceRecord { topic: "t".to_owned(), ..record };
            let made = claim(&options(), "x", expected.clone()).expect("a claim");
            assert_eq!((made.topic.as_str(), made.key.as_deref(), made.partition), ("c", Some(&b"x"[..]), None));
            let found = wanted(&options(), made.key.as_deref(), made.value.as_deref(), made.headers).expect("it is one");
            if added {
                expected.headers.push(("id".to_owned(), text("x")));
            }
            assert_eq!((found.id.as_str(), format!("{:?}", found.record)), ("x", format!("{expected:?}")));
        };
        let id = ("id".to_owned(), text("x"));
        check(ProduceRecord::default(), true);
        check(ProduceRecord { headers: vec![id.clone(), ("a".to_owned(), None)], ..ProduceRecord::default() }, false);
        check(ProduceRecord { headers: vec![("id".to_owned(), text("y"))], ..ProduceRecord::default() }, true);
        check(ProduceRecord { key: text(""), value: text("v"), partition: Some(3), ..ProduceRecord::default() }, true);
        let all =
            ProduceRecord { key: text("k"), value: text(""), partition: Some(0), timestamp_ms: Some(7), ..Default::default() };
        check(all, true);
    }

    #[test]
    fn a_client_cannot_say_how_its_record_is_written() {
        let forged = vec![(HEADER.to_owned(), text("\u{1}\u{1}\0\0\0\u{9}"))];
        let record = ProduceRecord { topic: "t".to_owned(), headers: forged, ..ProduceRecord::default() };
        let made = claim(&options(), "x", record).expect("a claim");
        let found = wanted(&options(), made.key.as_deref(), None, made.headers).expect("it is one");
        assert_eq!((found.record.partition, found.record.headers.len()), (None, 1));
    }

    #[test]
    fn what_no_owner_could_write_is_refused() {
        let check = |id: &str, topic: &str, partition: Option<i32>, timestamp_ms: Option<i64>, part: &str| {
            let record = ProduceRecord { topic: topic.to_owned(), partition, timestamp_ms, ..ProduceRecord::default() };
            let refusal = claim(&options(), id, record).expect_err("refused");
            assert!(refusal.contains(part), "{refusal}");
        };
        check("", "t", None, None, "needs an id");
        check("x", "u", None, None, "not for u");
        check("x", "t", Some(-1), None, "counted from 0");
        check("x", "t", None, Some(0), "Unix epoch");
    }

    #[test]
    fn what_is_no_claim_is_told() {
        let check = |key: Option<&[u8]>, id: Option<&'static str>, rest: Option<&'static [u8]>, part: &str| {
            let id = id.map(|id| ("id".to_owned(), text(id)));
            let rest = rest.map(|rest| (HEADER.to_owned(), Some(Bytes::from_static(rest))));
            let refusal = wanted(&options(), key, None, id.into_iter().chain(rest).collect()).expect_err("no claim");
            assert!(refusal.contains(part), "{refusal}");
        };
        check(None, Some("x"), Some(&[1, 0]), "no key");
        check(Some(b""), Some(""), Some(&[1, 0]), "no key");
        check(Some(b"\xff"), Some("x"), Some(&[1, 0]), "not text");
        check(Some(b"x"), Some("x"), None, "no header");
        check(Some(b"x"), None, Some(&[1, 0]), "header id is not");
        check(Some(b"x"), Some("y"), Some(&[1, 0]), "header id is not");
        for rest in [
            &[][..],
            &[1],
            &[2, 0],
            &[1, 8],
            &[1, 0, 0],
            &[1, 1, 0, 0, 0],
            &[1, 1, 255, 0, 0, 0],
            &[1, 2, 0, 0],
            &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            check(Some(b"x"), Some("x"), Some(rest), "cannot be read");
        }
    }
}
