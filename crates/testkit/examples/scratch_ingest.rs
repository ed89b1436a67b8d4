use std::process::Command;
fn main() {
    let bin = testkit::workspace_root().join("target/release");
    let b = testkit::Broker::start(Default::default()).unwrap();
    b.create_topic("ing", 1, &[]).unwrap();
    Command::new(bin.join("raw-produce"))
        .args([
            "--bootstrap",
            b.bootstrap(),
            "--topic",
            "ing",
            "--records",
            "5000000",
            "--bytes",
            "100",
            "--in-flight",
            "50000",
            "--property",
            "linger.ms=10",
        ])
        .output()
        .unwrap();
    for round in 0..4 {
        for props in [
            &["fetch.queue.backoff.ms=1000"][..],
            &[][..],
            &["queued.max.messages.kbytes=262144", "queued.min.messages=2000000"][..],
        ] {
            let mut c = Command::new(bin.join("raw-consume"));
            c.args(["--bootstrap", b.bootstrap(), "--topic", "ing"]);
            for p in props {
                c.args(["--property", p]);
            }
            let o = c.output().unwrap();
            println!("{round} {props:?} {}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        }
    }
}
