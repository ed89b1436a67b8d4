//! Clients that do what clients do: they ask twice, hang up, come back later, and try again elsewhere until they have an answer.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::http::{Client, Response};

/// Until a client gives up: the longest that a dead gateway, a broker that starts and a full queue may take together.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);
/// A client that was told to come again does not do so at once.
const PAUSE: Duration = Duration::from_millis(50);

/// What clients ask of whom.
#[derive(Debug)]
pub struct Load {
    /// Request `n` goes to the address `n % length`, and is tried again there.
    pub addresses: Vec<SocketAddr>,
    pub requests: Range<u64>,
    pub seed: u64,
    next: AtomicU64,
    done: AtomicU64,
}

/// What clients saw.
#[derive(Debug, Default)]
pub struct Tally {
    /// From the first byte to the right answer, and whether the worker took its time on purpose.
    pub latencies: Vec<(Duration, bool)>,
    /// When requests were over.
    pub ends: Vec<Instant>,
    /// Answers that made a client come again, by what was said.
    pub retries: BTreeMap<String, u64>,
    /// How requests were made.
    pub ways: BTreeMap<&'static str, u64>,
    /// Wrong answers, and answers that never came.
    pub faults: Vec<String>,
}

/// How the worker treats a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Once, at once.
    Prompt,
    /// At once, and again with something else.
    Twice,
    /// While the client waits.
    Late,
    /// After the route's timeout.
    TooLate,
}

impl Care {
    pub fn of(seed: u64, n: u64) -> Self {
        match random(seed, n, 0) % 1000 {
            0..2 => Self::TooLate,
            2..30 => Self::Late,
            30..230 => Self::Twice,
            _ => Self::Prompt,
        }
    }

    /// From the request record to the reply, by the route's timeout.
    pub fn takes(self, timeout: Duration) -> Option<Duration> {
        match self {
            Self::Prompt | Self::Twice => None,
            Self::Late => Some(timeout / 10),
            Self::TooLate => Some(timeout + Duration::from_millis(500)),
        }
    }
}

/// What the worker makes of the value of a request.
pub fn right(n: u64) -> String {
    format!("done v{n}")
}

/// Even numbers in all bits, by what they are for (splitmix64).
pub fn random(seed: u64, n: u64, what: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(8).wrapping_add(what).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The connections of one client, by address; the second is for what is asked at the same moment.
type Lines = HashMap<(SocketAddr, bool), Client>;

/// What an answer means to a client.
enum Verdict {
    Right,
    ComeAgain,
    /// The reply will be there.
    At(String),
}

impl Load {
    pub fn new(addresses: Vec<SocketAddr>, requests: Range<u64>, seed: u64) -> Self {
        let next = AtomicU64::new(requests.start);
        Self { addresses, requests, seed, next, done: AtomicU64::new(0) }
    }

    /// Requests that have ended.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// One client, until there is nothing left to ask.
    pub fn run(&self) -> Tally {
        let (mut tally, mut lines) = (Tally::default(), Lines::new());
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.requests.end {
                return tally;
            }
            let began = Instant::now();
            let mut one = One { load: self, n, began, lines: &mut lines, tally: &mut tally };
            if let Err(fault) = one.ask() {
                tally.faults.push(format!("request {n}, {:?} after {:?}: {fault}", Care::of(self.seed, n), began.elapsed()));
            }
            tally.ends.push(Instant::now());
            tally.latencies.push((began.elapsed(), matches!(Care::of(self.seed, n), Care::Late | Care::TooLate)));
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tally {
    pub fn add(mut self, other: Self) -> Self {
        self.latencies.extend(other.latencies);
        self.ends.extend(other.ends);
        self.faults.extend(other.faults);
        other.retries.into_iter().for_each(|(why, count)| *self.retries.entry(why).or_default() += count);
        other.ways.into_iter().for_each(|(way, count)| *self.ways.entry(way).or_default() += count);
        self
    }

    /// The longest time in which no client was done: when it began, and how long it was.
    pub fn silence(&self, began: Instant) -> (Duration, Duration) {
        let mut ends: Vec<Instant> = std::iter::once(began).chain(self.ends.iter().copied()).collect();
        ends.sort_unstable();
        let gaps = ends.windows(2).map(|pair| (pair[0] - began, pair[1] - pair[0]));
        gaps.max_by_key(|(_, gap)| *gap).unwrap_or_default()
    }

    /// Quantiles in milliseconds, of those whose worker did (not) take its time.
    pub fn quantiles(&self, late: bool) -> String {
        let mut millis: Vec<u128> = self.latencies.iter().filter(|(_, l)| *l == late).map(|(t, _)| t.as_millis()).collect();
        millis.sort_unstable();
        let at = |q: usize| millis.get((millis.len() * q / 1000).min(millis.len().saturating_sub(1))).copied().unwrap_or(0);
        format!("{} requests: p50 {} ms, p99 {} ms, p99.9 {} ms, max {} ms", millis.len(), at(500), at(990), at(999), at(1000))
    }
}

/// One request, as long as it takes.
struct One<'c> {
    load: &'c Load,
    n: u64,
    began: Instant,
    lines: &'c mut Lines,
    tally: &'c mut Tally,
}

impl One<'_> {
    fn ask(&mut self) -> Result<(), String> {
        let post = |prefer| self.post(prefer);
        let (plain, later) = (post(""), post("prefer: respond-async\r\n"));
        let way = match random(self.load.seed, self.n, 1) % 100 {
            0..15 => {
                self.both_at_once(&plain)?;
                "twice at once"
            }
            15..35 => {
                self.until_answered(&plain)?;
                self.until_answered(&plain)?;
                "again after the answer"
            }
            35..45 => {
                let line = self.line(false).and_then(|line| line.write(&plain));
                // Gone before the answer, whether the request got there or not.
                drop(line);
                self.lines.remove(&(self.address(), false));
                self.until_answered(&plain)?;
                "again after hanging up"
            }
            45..65 => {
                self.until_answered(&later)?;
                "fetched later"
            }
            _ => {
                self.until_answered(&plain)?;
                "once"
            }
        };
        *self.tally.ways.entry(way).or_default() += 1;
        Ok(())
    }

    fn post(&self, prefer: &str) -> Vec<u8> {
        let (n, value) = (self.n, format!("v{}", self.n));
        let key = format!("idempotency-key: k{n}\r\n");
        format!("POST /orders/{n} HTTP/1.1\r\nhost: x\r\n{key}{prefer}content-length: {}\r\n\r\n{value}", value.len())
            .into_bytes()
    }

    fn both_at_once(&mut self, request: &[u8]) -> Result<(), String> {
        let sent = [false, true].map(|second| self.line(second).and_then(|line| line.write(request)).is_ok());
        let mut answered = false;
        for (second, sent) in [false, true].into_iter().zip(sent) {
            let answer = match self.lines.get_mut(&(self.address(), second)) {
                Some(line) if sent => line.read("POST"),
                _ => Err(std::io::ErrorKind::NotConnected.into()),
            };
            answered |= self.judge(answer, second, false)?.is_some_and(|verdict| matches!(verdict, Verdict::Right));
        }
        if answered { Ok(()) } else { self.until_answered(request) }
    }

    /// The same request again and again, and where it says that the reply will be.
    fn until_answered(&mut self, request: &[u8]) -> Result<(), String> {
        let mut location: Option<String> = None;
        loop {
            let (bytes, method) = match &location {
                None => (request.to_vec(), "POST"),
                Some(at) => (format!("GET {at} HTTP/1.1\r\nhost: x\r\nprefer: wait=2\r\n\r\n").into_bytes(), "GET"),
            };
            let answer = self.line(false).and_then(|line| {
                line.write(&bytes)?;
                line.read(method)
            });
            match self.judge(answer, false, location.is_some())? {
                Some(Verdict::Right) => return Ok(()),
                Some(Verdict::At(at)) => location = Some(at),
                Some(Verdict::ComeAgain) => {}
                None => thread::sleep(PAUSE),
            }
            if self.began.elapsed() > ANSWERED_WITHIN {
                return Err(format!("no answer; {}", if location.is_some() { "it was accepted" } else { "never accepted" }));
            }
        }
    }

    /// `None`: to be asked again after a pause.
    fn judge(&mut self, answer: std::io::Result<Response>, second: bool, is_get: bool) -> Result<Option<Verdict>, String> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(cause) => {
                self.lines.remove(&(self.address(), second));
                self.retry(format!("{:?}", cause.kind()));
                return Ok(None);
            }
        };
        let location = answer.header("location").map(str::to_owned);
        let problem = answer.json();
        let name = problem["type"].as_str().and_then(|name| name.rsplit(':').next()).unwrap_or("of the balancer");
        match answer.status {
            200 if answer.text() == right(self.n) => Ok(Some(Verdict::Right)),
            // It looked whether the reply is there, as long as it was to.
            202 if is_get => Ok(Some(Verdict::ComeAgain)),
            202 => location.map(|at| Some(Verdict::At(at))).ok_or_else(|| format!("accepted, and no location: {answer:?}")),
            429 | 502 | 503 | 504 => {
                let (written, at) = (name == "no-reply", problem["location"].as_str().map(str::to_owned));
                self.retry(format!("{} {name}", answer.status));
                // What is surely written can be fetched; half of the clients ask again all the same.
                let fetches = written && random(self.load.seed, self.n, 2).is_multiple_of(2);
                Ok(if fetches { at.map(Verdict::At) } else { None })
            }
            _ => Err(format!("{answer:?} {}", answer.text())),
        }
    }

    fn retry(&mut self, why: String) {
        *self.tally.retries.entry(why).or_default() += 1;
    }

    fn address(&self) -> SocketAddr {
        self.load.addresses[self.n as usize % self.load.addresses.len()]
    }

    fn line(&mut self, second: bool) -> std::io::Result<&mut Client> {
        let address = self.address();
        match self.lines.entry((address, second)) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(new) => Ok(new.insert(Client::connect(address)?)),
        }
    }
}
