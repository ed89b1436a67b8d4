//! Exit codes, and what is printed with them.

use std::process::ExitCode;

use gateway::{OpenClustersError, StartError};

/// Anything that has no code of its own.
pub const OTHER: u8 = 1;
/// The command line or the configuration is wrong.
pub const USAGE_CODE: u8 = 2;
pub const USAGE: Exit = Exit(USAGE_CODE);
/// An address cannot be listened on.
pub const ADDRESS: u8 = 3;
/// A directory cannot be written to, or another process has it.
pub const DIRECTORY: u8 = 4;
/// A cluster or a topic cannot be reached.
pub const CLUSTER: u8 = 5;

pub struct Exit(u8);

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.0.into()
    }
}

/// Why a verb did not do its work.
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub fn other(text: impl Into<String>) -> Self {
        Self::new(OTHER, text)
    }

    pub fn report(self) -> ExitCode {
        use std::io::Write;
        if self.text.is_empty() {
            return self.code.into();
        }
        // Problems of a configuration come whole, several lines each; anything else is one line.
        let text = if self.text.contains('\n') { self.text } else { format!("{}tidegate:{} {}", RED, RESET, self.text) };
        let _ = writeln!(anstream::stderr(), "{}", text.trim_end());
        self.code.into()
    }
}

pub const RED: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();
pub const GREEN: anstyle::Style = anstyle::AnsiColor::Green.on_default();
pub const RESET: anstyle::Reset = anstyle::Reset;

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<StartError> for Failure {
    fn from(e: StartError) -> Self {
        match e {
            StartError::Clusters(e) => e.into(),
            StartError::Bind(e) => Self::new(ADDRESS, e.to_string()),
            StartError::Control(_) | StartError::SigningKey(_) => Self::new(DIRECTORY, e.to_string()),
            StartError::Housekeeping(_) | StartError::Lower(_) => Self::other(e.to_string()),
        }
    }
}

impl From<OpenClustersError> for Failure {
    fn from(e: OpenClustersError) -> Self {
        let code = match e {
            OpenClustersError::Directory(_) | OpenClustersError::Io { .. } => DIRECTORY,
            OpenClustersError::Create { source: kafka::AdminError::Unavailable(_), .. } => DIRECTORY,
            OpenClustersError::Properties { .. } | OpenClustersError::Create { .. } => USAGE_CODE,
        };
        Self::new(code, e.to_string())
    }
}
