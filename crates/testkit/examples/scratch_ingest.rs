use std::process::Command;
fn main() {
    let bin = testkit::workspace_root().join("target/release");
    let b = testkit::Broker::start(Default::default()).unwrap();
    b.create_topic("ing", 1, &[]).unwrap();
    Command::new(bin.join("raw-produce")).args(["--bootstrap", b.bootstrap(), "--topic", "ing", "--records", "5000000", "--bytes", "100", "--in-flight", "50000", "--property", "linger.ms=10"]).output().unwrap();
    let sets: &[(&str, &[&str])] = &[
        ("default", &[]),
        ("backoff 0", &["fetch.queue.backoff.ms=0"]),
        ("backoff 1", &["fetch.queue.backoff.ms=1"]),
        ("backoff 5", &["fetch.queue.backoff.ms=5"]),
        ("tidegate's", &["fetch.queue.backoff.ms=5", "queued.max.messages.kbytes=16384", "queued.min.messages=200000"]),
        ("big queue", &["fetch.queue.backoff.ms=5", "queued.max.messages.kbytes=262144", "queued.min.messages=2000000"]),
        ("big queue+crc off", &["fetch.queue.backoff.ms=1", "queued.max.messages.kbytes=1048576", "queued.min.messages=5000000"]),
    ];
    for round in 0..3 {
        for (name, props) in sets {
            let mut c = Command::new(bin.join("raw-consume"));
            c.args(["--bootstrap", b.bootstrap(), "--topic", "ing"]);
            for p in *props { c.args(["--property", p]); }
            let o = c.output().unwrap();
            let t = String::from_utf8_lossy(&o.stdout).into_owned();
            println!("{round} {name:20} {}", t.split("records_per_second\":").nth(1).unwrap_or("ERR").trim());
        }
    }
}
