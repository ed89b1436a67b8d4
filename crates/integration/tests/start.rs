//! What keeps a gateway from starting: one clear text and an exit code of its own, and nothing half-started.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use integration::Records;
use testkit::{Gateway, poll_until};

const USAGE: i32 = 2;
const ADDRESS: i32 = 3;
const DIRECTORY: i32 = 4;

/// Runs the configuration and expects `code` and one line on standard error with all of `words`.
fn check(records: &Records, code: i32, words: &[&str]) {
    let exited = records.builder().run("run").expect("the gateway ends");
    assert_eq!(exited.code, Some(code), "{}", exited.stderr);
    let lines: Vec<&str> = exited.stderr.lines().filter(|line| line.starts_with("tidegate:")).collect();
    assert_eq!(lines.len(), 1, "one clear line: {}", exited.stderr);
    for word in words {
        assert!(lines[0].contains(word), "no {word:?} in {}", lines[0]);
    }
    assert!(!exited.stdout.contains("listening"), "{}", exited.stdout);
}

#[test]
fn a_taken_port() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    check(&Records { address: address.clone(), ..Records::embedded() }, ADDRESS, &[&address, "public"]);
}

#[test]
fn a_directory_that_cannot_be() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    fs::write(&file, "not a folder").expect("written");
    // Below a file: that holds for root too, whom permissions do not stop.
    let directory = file.join("data").display().to_string();
    check(&Records { directory: directory.clone(), ..Records::embedded() }, DIRECTORY, &[&directory]);
}

#[test]
fn a_directory_on_a_read_only_file_system() {
    check(&Records { directory: "/proc/tidegate".to_owned(), ..Records::embedded() }, DIRECTORY, &["/proc/tidegate"]);
}

#[test]
fn a_directory_that_another_process_has() {
    let dir = tempfile::tempdir().expect("a folder");
    let directory = dir.path().display().to_string();
    let records = Records { directory, ..Records::embedded() };
    let mut holder = records.builder().start().expect("the first one starts");
    let pid = holder.process().id().to_string();
    check(&records, DIRECTORY, &[&pid]);
    assert!(holder.ready(), "the first one goes on");
    holder.kill9();
    let again = records.builder().start().expect("a killed holder holds nothing");
    assert!(again.ready());
}

/// Another process could take the directory then; so it is told before one does.
#[test]
fn a_lock_file_that_was_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let directory = dir.path().display().to_string();
    let gateway = Records { directory: directory.clone(), ..Records::embedded() }.builder().start().expect("it starts");
    let problem = || gateway.readyz().expect("an answer").json()["problem"].as_str().map(str::to_owned);
    assert_eq!(problem(), None);
    fs::remove_file(dir.path().join("LOCK")).expect("it is there");
    let words = format!("the lock file of {directory} was removed or replaced");
    let logged = || gateway.stderr().lines().filter(|line| line.contains("lock file of")).count();
    // By housekeeping, before anybody asks.
    poll_until(Duration::from_secs(20), || (logged() > 0).then_some(())).expect("the log has it");
    assert!(problem().is_some_and(|text| text.starts_with(&words)) && gateway.ready(), "it goes on");
    assert_eq!(logged(), 1, "once");
}

const TEN_FAULTS: &str = "listeners:
  public: { address: nowhere, port: 80 }
log: { level: info, fromat: json }
limits: { body_bytes: huge }
clusters:
  main: { bootstrap.servers: embedded }
cache:
  topics:
    items: { cluster: mian, bootstrap: perhaps }
routes:
  - { match: GET items, fetch: { topic: items, merge: json } }
  - { match: 'GET /a/{id}', fetch: { topic: itms, filters: [{ key: '${params.id}' }] } }
  - { match: 'PUT /a/{id}', produce: { topic: items, key: '${parms.id}' } }
  - { match: GET /b }
";

#[test]
fn ten_faults_are_ten_problems_at_once() {
    for verb in ["run", "check"] {
        let exited = Gateway::builder().config(TEN_FAULTS).run(verb).expect("the gateway ends");
        assert_eq!(exited.code, Some(USAGE), "{}", exited.stderr);
        let all = format!("{}{}", exited.stdout, exited.stderr);
        let places: Vec<&str> = all.lines().filter_map(place).collect();
        // The line of each fault in the text above.
        let lines: Vec<usize> = places.iter().filter_map(|place| place.split(':').next()?.parse().ok()).collect();
        assert_eq!(lines, [2, 2, 3, 4, 9, 9, 11, 12, 13, 14], "{verb}: {all}");
        assert!(!all.contains("listening"), "{all}");
    }
}

/// `LINE:COLUMN` of a line that begins a problem.
fn place(line: &str) -> Option<&str> {
    let place = line.split_once("tidegate.yaml:")?.1;
    let mut numbers = place.splitn(3, ':');
    let column_ends = |c: char| !c.is_ascii_digit();
    let both = numbers.next()?.parse::<u32>().is_ok() && numbers.next()?.split(column_ends).next()?.parse::<u32>().is_ok();
    both.then_some(place)
}

#[test]
fn a_wrong_command_line_is_explained() {
    let exited = Gateway::builder().run("rnu").expect("the gateway ends");
    assert_eq!(exited.code, Some(USAGE));
    assert!(exited.stderr.contains("rnu"), "{}", exited.stderr);
}

#[test]
fn an_empty_file_is_no_configuration() {
    let exited = Gateway::builder().run("check").expect("the gateway ends");
    assert_eq!(exited.code, Some(USAGE), "{}", exited.stderr);
    assert!(exited.stderr.contains("listeners"), "says what is missing: {}", exited.stderr);
}

#[test]
fn a_file_that_is_too_large() {
    let dir = tempfile::tempdir().expect("a folder");
    let check = |text: &str, words: &str| {
        let exited = Gateway::builder().config(text).dir(dir.path()).run("check").expect("the gateway ends");
        assert_eq!(exited.code, Some(USAGE), "{}", exited.stderr);
        assert!(exited.stderr.contains(words), "no {words:?} in {}", exited.stderr);
    };
    check(&"# filler\n".repeat((4 << 20) / 9 + 1), "tidegate.yaml is larger than 4194304 bytes");
    // Cut in the middle of a character, where the limit lies.
    check(&"ä".repeat((4 << 20) / 2 + 1), "tidegate.yaml is larger than 4194304 bytes");
}
