//! Log lines on standard error, as text for people or JSON for machines. Only binaries call this.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What goes to standard error and in which shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// Directives such as `info` or `info,nebula_mesh=debug`.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            format: LogFormat::Text,
            // chitchat and openraft report each round at info.
            filter: "info,chitchat=warn,openraft=warn,sled=warn".to_owned(),
        }
    }
}

impl std::str::FromStr for LogFormat {
    type Err = LogError;
    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("'{0}' is not a log format: use 'text' or 'json'")]
    Format(String),
    #[error("'{filter}' is not a log filter: use directives such as 'info,nebula_mesh=debug'")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("a log subscriber is already installed in this process")]
    AlreadyInstalled,
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LogError::Filter {
            filter: filter.to_owned(),
            source,
        })
}

/// Installs the process's log subscriber. Once per process.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = parse_filter(&config.filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let installed = match config.format {
        LogFormat::Text => registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_current_span(false))
            .try_init(),
    };
    installed.map_err(|_| LogError::AlreadyInstalled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_formats_are_checked() {
        assert!(parse_filter(&LogConfig::default().filter).is_ok());
        assert!(parse_filter("info,nebula_mesh=debug").is_ok());
        assert!(matches!(
            parse_filter("info,x=loud"),
            Err(LogError::Filter { .. })
        ));
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
