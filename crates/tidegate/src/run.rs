//! `tidegate run`

use gateway::Running;
use telemetry::{LogFormat, LogOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Config;
use crate::failure::Failure;
use crate::{VERSION, load};

pub fn run(config: &Config) -> Result<(), Failure> {
    let plan = load::load(config)?;
    let options = LogOptions {
        level: plan.log.level.as_str().to_owned(),
        format: match plan.log.format {
            config::LogFormat::Auto => LogFormat::Auto,
            config::LogFormat::Text => LogFormat::Text,
            config::LogFormat::Json => LogFormat::Json,
        },
    };
    let log = telemetry::init_logging(options).map_err(|e| Failure::other(e.to_string()))?;
    allow_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::other(format!("no runtime: {e}")))?;
    runtime.block_on(async {
        // Before anything listens, so that no early signal is missed.
        let fault = |e: std::io::Error| Failure::other(format!("signals: {e}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
        let routes: Vec<_> = plan.routes.iter().map(gateway::RouteLine::of).collect();
        let running = Running::start(plan, VERSION, Some(&log)).await?;
        // Whoever started the gateway need not read what it says.
        let _ = gateway::introduce(&running.addresses, &routes, &mut anstream::stdout());
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let again = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        running.stop(again).await;
        Ok(())
    })
}

/// As many open files as the system grants: each segment and each connection is one, and the usual soft limit is 1024.
fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let granted = getrlimit(Resource::Nofile);
    if granted.current < granted.maximum || granted.maximum.is_none() {
        let wanted = Rlimit { current: granted.maximum, maximum: granted.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            eprintln!("tidegate: the limit of open files stays at {:?}: {error}", granted.current);
        }
    }
}
