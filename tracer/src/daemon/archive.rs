//! The history as the daemon keeps it: begun as configured, told of in /metrics, and closed with what
//! is missing of it.

use crate::config::agent;
use crate::history::{History, Row, Settings, Stats};
use crate::metrics::{Family, Sample, Unit, Value};

/// The history of this agent.
#[derive(Debug)]
pub struct Archive(History);

impl Archive {
    /// Starts as `wanted`, for a host and its boot.
    ///
    /// # Errors
    /// Why none is kept, in words; the log has them.
    pub fn start(wanted: &agent::History, host: &str, boot_id: &str) -> Result<Self, String> {
        let settings = Settings {
            roll_bytes: wanted.roll_size,
            roll_after: wanted.roll_after,
            keep: wanted.keep,
            keep_bytes: wanted.keep_size,
            ..Settings::new(wanted.directory.clone(), host, boot_id)
        };
        History::start(settings).map(Self).map_err(|error| {
            let directory = wanted.directory.display();
            let problem = format!("no history is kept in {directory}: {error}");
            tracing::error!("{problem}");
            problem
        })
    }

    /// Takes in a connection that ended.
    pub fn offer(&mut self, row: Row) {
        self.0.offer(row);
    }

    /// A second has passed.
    pub fn tick(&mut self) {
        self.0.tick();
    }

    /// What is told of it in /metrics.
    pub fn families(&self) -> [Family; 3] {
        let Stats {
            rows_written,
            rows_dropped,
            files,
            errors,
            ..
        } = self.0.stats();
        let counter = |name, help, count| {
            let sample = Sample::alone(Value::Counter(count));
            Family::new(name, help, Unit::None, [sample])
        };
        let rows = [("written", rows_written), ("dropped", rows_dropped)];
        [
            Family::new(
                "tracer.history.rows",
                "Connections that are in whole files of the history, or in none because the disk or \
                 the writer did not keep up",
                Unit::None,
                rows.map(|(result, count)| {
                    Sample::of([("result", result.into())], Value::Counter(count))
                }),
            ),
            counter("tracer.history.files", "Whole files of the history", files),
            counter(
                "tracer.history.errors",
                "Steps that failed as the history was written",
                errors,
            ),
        ]
    }

    /// Writes what is there, and says what could not be written.
    pub fn close(self) {
        let Stats {
            rows_dropped,
            rows_waiting,
            ..
        } = self.0.close();
        if rows_dropped + rows_waiting > 0 {
            tracing::warn!(
                "{rows_dropped} rows of the history were dropped, {rows_waiting} were not written \
                 in time"
            );
        }
    }
}
