//! A configuration file of any bytes: problems or a plan, never a panic.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let checks = config::Checks { kafka_property: &|_, _, _| Ok(()), embedded_topic: &|_, _| Ok(()), env: &|name| (name.len() % 2 == 0).then(|| "value".into()) };
    let source = config::Source { name: "fuzz.yaml".into(), text: text.into() };
    if let Err(problems) = config::load(&source, Path::new("."), &[], &checks) {
        let _ = problems.render(false);
    }
});
