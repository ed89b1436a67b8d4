//! Programs of other people that a chore needs: found, installed where that is allowed, or asked for.

use std::path::Path;
use std::process::{Command, Stdio};

use testkit::{Error, Result, find_tool};

/// By its full path: PATH may be what is broken.
const APT_GET: &str = "/usr/bin/apt-get";

/// A program and the Debian package that brings it.
pub struct Tool {
    name: &'static str,
    package: &'static str,
}

pub const JAVA: Tool = Tool { name: "java", package: "default-jre-headless" };
pub const MAVEN: Tool = Tool { name: "mvn", package: "maven" };
pub const KCAT: Tool = Tool { name: "kcat", package: "kcat" };
pub const CURL: Tool = Tool { name: "curl", package: "curl" };
pub const PYTHON: Tool = Tool { name: "python3", package: "python3" };
pub const WRK: Tool = Tool { name: "wrk", package: "wrk" };

/// Makes sure that all of them are there.
///
/// # Errors
/// When one is missing and cannot be installed here: the text holds the one command that does.
pub fn need(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| find_tool(tool.name).is_err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ");
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let by_hand = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !may_install() {
        return Err(Error::new(format!("{names} not found; on Debian or Ubuntu: sudo {by_hand}")));
    }
    eprintln!("installing {}", packages.join(" "));
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat())?;
    match missing.iter().find(|tool| find_tool(tool.name).is_err()) {
        Some(tool) => Err(Error::new(format!("{} brought no {}; tried: {by_hand}", tool.package, tool.name))),
        None => Ok(()),
    }
}

fn may_install() -> bool {
    rustix::process::geteuid().is_root() && Path::new(APT_GET).is_file()
}

fn apt(args: &[&str]) -> Result<()> {
    let output =
        Command::new(APT_GET).arg("-q").args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).output();
    let output = output.map_err(Error::doing(APT_GET))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::new(format!("apt-get {} failed ({}): {said}", args.join(" "), output.status)))
}
