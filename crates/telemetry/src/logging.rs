//! The one log of the process: to stderr, as text on a terminal and as JSON lines otherwise.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::access::AccessLog;
use crate::escape::Style;
use crate::queue::{LogQueue, QUEUE_BYTES_MAX};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text if stderr is a terminal, JSON otherwise.
    #[default]
    Auto,
    Text,
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// In the syntax of `tracing_subscriber`'s `EnvFilter`: `info`, or `info,edge=debug`.
    pub level: String,
    pub format: LogFormat,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto }
    }
}

/// The log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log level `{level}` is not valid: {cause}; write `info`, `debug`, or `info,edge=debug`")]
    Level {
        /// As it was given.
        level: String,
        /// What is wrong with it.
        cause: String,
    },
    #[error("the log is already started in this process; start it once")]
    Started,
    #[error("the log's writer thread cannot be started: {0}; raise the limit of threads (ulimit -u)")]
    Thread(#[source] io::Error),
}

/// Keeps the log alive. Dropping it writes what is queued, for up to two seconds; later lines are lost.
#[derive(Debug)]
pub struct LogGuard {
    queue: LogQueue,
    style: Style,
}

impl LogGuard {
    /// The access log, in the same format and through the same queue.
    pub fn access_log(&self) -> AccessLog {
        AccessLog::new(self.queue.clone(), self.style)
    }

    /// The queue itself, for [`Metrics::watch_log`](crate::Metrics::watch_log).
    pub fn queue(&self) -> LogQueue {
        self.queue.clone()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Starts the log of the process.
///
/// # Errors
/// If the level cannot be parsed, the log was started before, or no thread can be had.
pub fn init_logging(options: LogOptions) -> Result<LogGuard, LogError> {
    let terminal = io::stderr().is_terminal();
    let style = match options.format {
        LogFormat::Text => Style::Text,
        LogFormat::Json => Style::Json,
        LogFormat::Auto if terminal => Style::Text,
        LogFormat::Auto => Style::Json,
    };
    // The convention of no-color.org: set and not empty.
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let filter = filter(&options.level)?;
    let (queue, _thread) = LogQueue::start(Box::new(io::stderr()), QUEUE_BYTES_MAX).map_err(LogError::Thread)?;
    let guard = LogGuard { queue: queue.clone(), style };
    let subscriber = tracing_subscriber::registry().with(filter).with(layer(queue, style, colours));
    subscriber.try_init().map_err(|_| LogError::Started)?;
    Ok(guard)
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(level).map_err(|error| LogError::Level { level: level.into(), cause: error.to_string() })
}

fn layer<S>(queue: LogQueue, style: Style, colours: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let layer = fmt::layer().with_writer(move || queue.clone());
    match style {
        Style::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        Style::Text => layer.with_ansi(colours).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::Memory;

    fn logged(style: Style, level: &str) -> String {
        let memory = Memory::default();
        let (queue, thread) = LogQueue::start(Box::new(memory.clone()), 1 << 20).expect("start");
        let subscriber =
            tracing_subscriber::registry().with(filter(level).expect("level")).with(layer(queue.clone(), style, false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(topic = "items", text = "a\nb", "hello");
            tracing::debug!("only when asked for");
        });
        queue.close();
        thread.join().expect("writer");
        memory.text()
    }

    #[test]
    fn json_lines() {
        let text = logged(Style::Json, "info");
        let line: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
        assert_eq!(line["message"], "hello");
        assert_eq!(line["topic"], "items");
        assert_eq!(line["text"], "a\nb");
        assert_eq!(line[crate::names::field::LEVEL], "INFO");
        assert!(line[crate::names::field::TIMESTAMP].is_string());
    }

    #[test]
    fn text_lines() {
        let text = logged(Style::Text, "info,telemetry=debug");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("INFO") && lines[0].contains("hello") && lines[0].contains(r#"topic="items""#), "{text}");
        assert!(lines[1].contains("only when asked for"), "{text}");
    }

    #[test]
    fn a_wrong_level_is_named() {
        let error = filter("info,edge=loud").expect_err("a wrong level").to_string();
        assert!(error.contains("`info,edge=loud`"), "{error}");
    }
}
