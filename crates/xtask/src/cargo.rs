//! Cargo, as this very run of it was started.

use std::path::PathBuf;
use std::process::Command;

use testkit::{Error, Result, target_dir, workspace_root};

/// `cargo` in the root of the repository.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    command
}

/// Runs `cargo build --quiet` with `args`; the compiler speaks for itself when it fails.
pub fn build(args: &[&str]) -> Result<()> {
    let status = cargo().args(["build", "--quiet"]).args(args).status().map_err(Error::doing("cannot run cargo"))?;
    if status.success() { Ok(()) } else { Err(Error::new(format!("cargo build {} failed", args.join(" ")))) }
}

/// Where the binaries of a profile are (`debug`, `release`).
pub fn output(profile: &str) -> Result<PathBuf> {
    Ok(target_dir()?.with_file_name(profile))
}
