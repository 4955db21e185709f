//! A diagnosis as `tracer diagnose` tells it: text for people, or one JSON object.

use bytes::BytesMut;

use crate::attribution::Group;
use crate::diagnosis::{Report, Subject};

use super::{Format, Terminal, ndjson, text};

mod page;
mod view;

/// How a report is written.
#[derive(Clone, Debug)]
pub struct Style {
    /// Text or JSON.
    pub format: Format,
    /// Whether to show what findings rest on, and all of the advice.
    pub verbose: bool,
    /// What the reader of the text sees it on.
    pub terminal: Terminal,
}

/// Appends the report, with its line ends.
pub fn write(report: &Report, style: &Style, out: &mut BytesMut) {
    match style.format {
        Format::Table => out.extend_from_slice(page::text(report, style).as_bytes()),
        Format::Json => ndjson::line(&view::DiagnosisView::from(report), out),
    }
}

/// The control group of a finding's program.
fn group<'a>(report: &'a Report, subject: &Subject) -> Option<&'a Group> {
    let cgroup_id = subject.program.and_then(|program| program.cgroup_id);
    report
        .names
        .group(cgroup_id, &[subject.pids.last().copied()])
}

/// Who a finding is about, and where, in brackets' words: `pid 812, container 3f2a…, netns web`.
fn whereabouts(report: &Report, subject: &Subject) -> Vec<String> {
    let names = &report.names;
    let mut parts = Vec::new();
    match &subject.pids[..] {
        [] => {}
        [pid] => parts.push(format!("pid {pid}")),
        [.., last] => parts.push(format!("pid {last} and {} more", subject.pids.len() - 1)),
    }
    if let Some(group) = group(report, subject) {
        match (&group.container, group.unit()) {
            (Some(container), _) => {
                // An id's first 12 digits are what `docker ps` shows.
                let id: String = container.id.chars().take(12).collect();
                parts.push(format!("container {}", text::plain(&id)));
            }
            (None, Some(unit)) => parts.push(format!("unit {}", text::plain(unit))),
            (None, None) if group.path == "/" => {}
            (None, None) => parts.push(format!("cgroup {}", text::plain(&group.path))),
        }
    }
    if let Some(name) = subject.netns.and_then(|inode| names.netns(inode)) {
        parts.push(format!("netns {}", text::plain(name)));
    }
    parts
}
