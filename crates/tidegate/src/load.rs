//! From a file on the command line to a checked plan.

use std::io::Read;
use std::path::Path;

use config::{Checks, Override, Plan, PropertyProblem, Source, TEXT_BYTES_MAX};

use crate::cli::Config;
use crate::failure::{Failure, USAGE_CODE};

pub fn load(config: &Config) -> Result<Plan, Failure> {
    let name = config.file.display().to_string();
    let usage = |text: String| Failure::new(USAGE_CODE, text);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&config.file).map_err(|e| usage(format!("{name} cannot be read: {e}")))?;
    let read = file.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|e| usage(format!("{name} cannot be read: {e}")))?;
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(usage(format!("{name} is larger than {TEXT_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|e| usage(format!("{name} is not UTF-8: {}", e.utf8_error())))?;
    let mut overrides = overrides_from_env()?;
    for set in &config.set {
        overrides.push(Override::set(set).map_err(usage)?);
    }
    let checks =
        Checks { kafka_property: &kafka_property, embedded_topic: &kafka::check_topic, env: &|name| std::env::var(name).ok() };
    let base = config.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    config::load(&Source { name, text }, base, &overrides, &checks)
        .map_err(|problems| usage(problems.render(std::io::IsTerminal::is_terminal(&std::io::stderr()))))
}

fn kafka_property(name: &str, value: &str, embedded: bool) -> Result<(), PropertyProblem> {
    kafka::check_property(name, value, embedded).map_err(|p| PropertyProblem { message: p.message, help: p.help })
}

/// `TIDEGATE__A__B`
fn overrides_from_env() -> Result<Vec<Override>, Failure> {
    let mut found = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|n| n.starts_with(config::ENV_PREFIX)) else { continue };
        let value = value.to_str().ok_or_else(|| Failure::new(USAGE_CODE, format!("the value of {name} is no UTF-8")))?;
        found.extend(Override::env(name, value));
    }
    Ok(found)
}
