//! What is wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// There is no configuration to be had.
#[derive(Debug, thiserror::Error)]
pub enum AgentConfigError {
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something in the file is wrong.
    #[error(transparent)]
    Mistake(#[from] Mistake),
    /// Logs are wanted, and nowhere to send them to.
    #[error(
        "otlp.logs.enabled is true, but there is no collector to send to: set otlp.endpoint in the \
         file, or give --otlp-endpoint"
    )]
    LogsWithoutEndpoint,
}

/// What is wrong in a file, shown as `FILE:LINE:COLUMN: reason` with the line beneath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub reason: String,
    excerpt: String,
    marked: usize,
}

impl Mistake {
    /// What `error` says of `text`, which is what `file` holds.
    pub(super) fn new(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let Range { start, end } = error.span().unwrap_or(0..0);
        let before = text.get(..start).unwrap_or(text);
        let from = before.rfind('\n').map_or(0, |newline| newline + 1);
        let excerpt = text[from..].lines().next().unwrap_or_default();
        let ahead = before[from..].chars().count();
        let marked = text.get(start..end).map_or(0, |span| {
            span.lines().next().unwrap_or_default().chars().count()
        });
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: ahead + 1,
            reason: in_our_words(error.message()),
            excerpt: excerpt.to_owned(),
            marked: marked.max(1),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            reason,
            excerpt,
            ..
        } = self;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        // A tab stays one, so that the marks stand beneath what they mark.
        let indent: String = excerpt
            .chars()
            .chain(std::iter::repeat(' '))
            .take(column - 1)
            .map(|char| if char == '\t' { '\t' } else { ' ' })
            .collect();
        let marks = "^".repeat(self.marked);
        writeln!(f, "{}:{line}:{column}: {reason}", self.file.display())?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {excerpt}")?;
        write!(f, "{margin} | {indent}{marks}")
    }
}

impl std::error::Error for Mistake {}

/// serde speaks of fields; a file has keys.
fn in_our_words(message: &str) -> String {
    match message.strip_prefix("unknown field") {
        Some(rest) => format!("unknown key{rest}"),
        None => message.trim_end().to_owned(),
    }
}
