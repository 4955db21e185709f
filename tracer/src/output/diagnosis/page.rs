//! The report as text. Its first line says what fails and whose doing it is, its second the one
//! change to make; on 80 columns by 24 lines the worst of the rest can be seen without scrolling.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style as Colour};

use crate::diagnosis::{Advice, Finding, Report, Severity, Verdict};
use crate::ports::Outlook;

use super::{Style, text, whereabouts};

/// How much of the worst finding is shown where not all of it is asked for.
const EVIDENCE: usize = 3;
const ADVICE: usize = 3;

pub(super) fn text(report: &Report, style: &Style) -> String {
    let mut page = Page {
        room: style.terminal.width.map(usize::from),
        color: style.terminal.color,
        text: String::new(),
    };
    let [first, second] = headline(report);
    let severity = report.findings.first().map(|finding| finding.severity);
    page.whole(severity, &first);
    page.whole(None, &second);
    for (rank, finding) in report.findings.iter().enumerate() {
        page.text.push('\n');
        page.finding(report, finding, style.verbose, rank == 0);
    }
    if style.verbose && !report.routes.is_empty() {
        page.text.push('\n');
        page.routes(report);
    }
    page.text.push('\n');
    page.account(report);
    page.text
}

/// The two lines that are read first.
fn headline(report: &Report) -> [String; 2] {
    let watched = duration(report);
    match (report.verdict(), report.findings.first()) {
        (_, Some(finding)) if finding.severity != Severity::Info => [
            finding.summary.clone(),
            finding.advice.first().map_or_else(
                || "Change: nothing on this host".to_owned(),
                |advice| match advice.present {
                    Some(_) => format!("Change: {}", change(advice)),
                    None => format!("Do: {}", change(advice)),
                },
            ),
        ],
        (Verdict::Inconclusive, _) if report.opened + report.closed == 0 => [
            format!("Inconclusive: no connection opened or closed in {watched}."),
            "Run it while connections are made: tracer diagnose --duration 1m".to_owned(),
        ],
        (Verdict::Inconclusive, _) => [
            format!("Inconclusive: nothing wrong was seen in {watched}, but not all could be."),
            match report.blind.first() {
                Some(blind) => format!("Not seen: {blind}"),
                None => "Too many events were lost: try --buffer 256MiB".to_owned(),
            },
        ],
        _ => [
            format!(
                "Healthy: {} connections begun in {watched}, nothing wrong was seen.",
                text::count(report.opened)
            ),
            "Change nothing.".to_owned(),
        ],
    }
}

/// An advice in one line: its command, where it has one.
fn change(advice: &Advice) -> String {
    let mut line = advice
        .command
        .clone()
        .unwrap_or_else(|| advice.what.clone());
    match (&advice.present, &advice.proposed) {
        (Some(present), _) => text::push(&mut line, format_args!(" (now {present})")),
        (None, Some(proposed)) if advice.command.is_none() => {
            text::push(&mut line, format_args!(": {proposed}"));
        }
        _ => {}
    }
    line
}

/// A sentence of a clause.
fn sentence(clause: &str) -> String {
    let mut characters = clause.chars();
    let first = characters.next().map(char::to_uppercase);
    let first: String = first.into_iter().flatten().collect();
    format!("{first}{}.", characters.as_str().trim_end_matches('.'))
}

fn duration(report: &Report) -> String {
    format!("{:.0} s", report.watched.as_secs_f64())
}

struct Page {
    /// Columns; `None`: lines are not wrapped.
    room: Option<usize>,
    color: bool,
    text: String,
}

impl Page {
    fn finding(&mut self, report: &Report, finding: &Finding, verbose: bool, is_worst: bool) {
        let severity = finding.severity.name().to_uppercase();
        let mut about = whereabouts(report, &finding.subject).join(", ");
        if !about.is_empty() {
            about = format!(" ({about})");
        }
        let title = format!("{severity} {}{about}", finding.rule);
        self.paragraph(Some(finding.severity), "", "  ", &title);
        if !is_worst {
            self.paragraph(None, "  ", "  ", &finding.summary);
        }
        let (evidence, advice) = match (verbose, is_worst) {
            (true, _) => (usize::MAX, usize::MAX),
            (false, true) => (EVIDENCE, ADVICE),
            (false, false) => (0, usize::from(finding.severity != Severity::Info)),
        };
        for sentence in finding.evidence.iter().take(evidence) {
            self.paragraph(None, "  ", "  ", sentence);
        }
        for (number, advice) in finding.advice.iter().take(advice).enumerate() {
            // The second line of all has told the first of the worst.
            let is_told = is_worst && number == 0 && !verbose;
            self.advice(number + 1, advice, is_told, verbose);
        }
        let warnings = match (verbose, is_worst) {
            (true, _) => usize::MAX,
            (false, is_worst) => usize::from(is_worst),
        };
        for warning in finding.warnings.iter().take(warnings) {
            self.paragraph(None, "  Not: ", "       ", warning);
        }
    }

    fn advice(&mut self, number: usize, advice: &Advice, is_told: bool, verbose: bool) {
        let first = format!("  {number}. ");
        // The first clause says what it brings.
        let effect = match advice.effect.split_once("; ") {
            Some((clause, _)) if !verbose => clause,
            _ => &advice.effect,
        };
        let line = match effect.is_empty() {
            true => sentence(&advice.what),
            false => format!("{} {}", sentence(&advice.what), sentence(effect)),
        };
        self.paragraph(None, &first, "     ", &line);
        if let Some(command) = advice.command.as_deref().filter(|_| !is_told) {
            // To be copied as it is: the shell takes the rest for a comment.
            let present = advice.present.as_deref();
            let present = present.map(|present| format!("  # now {present}"));
            let present = present.unwrap_or_default();
            self.whole(None, &format!("     $ {command}{present}"));
        }
        if verbose {
            if let Some(caution) = &advice.caution {
                self.paragraph(None, "     Mind: ", "           ", caution);
            }
            if !advice.reference.is_empty() {
                self.paragraph(None, "     See: ", "          ", advice.reference);
            }
        }
    }

    /// The fullest routes, and what will become of them.
    fn routes(&mut self, report: &Report) {
        self.whole(None, "Ports, by source and destination:");
        for outlook in &report.routes {
            let forecast = &outlook.forecast;
            let end = match forecast.outlook {
                Outlook::TooEarly => "too early to say what will be".to_owned(),
                Outlook::Exhausted => "none is left".to_owned(),
                Outlook::In(left) => format!("all used in {:.0} s", left.as_secs_f64()),
                Outlook::Never => format!("{:.0} in the end", forecast.steady_state),
            };
            let name = outlook.netns.and_then(|inode| report.names.netns(inode));
            let name = name.map(|name| format!(" (netns {})", text::plain(name)));
            let line = format!(
                "{} > {}{}: {} of {} used, {:.1} opened a second, {end}; TIME_WAIT {:.1} s, {}",
                outlook.route.source,
                outlook.route.destination,
                name.unwrap_or_default(),
                text::count(outlook.used),
                text::count(outlook.capacity),
                forecast.rate,
                forecast.dwell.mean.as_secs_f64(),
                forecast.dwell.basis.name(),
            );
            self.paragraph(None, "  ", "    ", &line);
        }
    }

    /// How long was watched, what was seen, what was not.
    fn account(&mut self, report: &Report) {
        let losses = &report.losses;
        let mut line = format!(
            "Watched {:.1} s: {} connections begun, {} closed; {} sockets were there before. \
             Events: {} received, {} lost, {} missed.",
            report.watched.as_secs_f64(),
            text::count(report.opened),
            text::count(report.closed),
            text::count(report.found),
            text::count(losses.received),
            text::count(losses.ring_lost),
            text::count(losses.missed),
        );
        if !report.too_early.is_empty() {
            let rules = report.too_early.join(", ");
            text::push(
                &mut line,
                format_args!(" Too little was seen for: {rules}."),
            );
        }
        self.paragraph(None, "", "", &line);
        for blind in &report.blind {
            self.paragraph(None, "Not seen: ", "  ", blind);
        }
    }

    /// A line that is never broken by us: it may be copied.
    fn whole(&mut self, severity: Option<Severity>, line: &str) {
        let style = severity.filter(|_| self.color).map(colour);
        let style = style.unwrap_or_default();
        let _ = writeln!(self.text, "{style}{line}{style:#}");
    }

    fn paragraph(&mut self, severity: Option<Severity>, first: &str, rest: &str, words: &str) {
        let Some(room) = self.room else {
            let line = format!("{first}{words}");
            self.whole(severity, &line);
            return;
        };
        let options = textwrap::Options::new(room)
            .initial_indent(first)
            .subsequent_indent(rest)
            .break_words(false)
            .word_splitter(textwrap::WordSplitter::NoHyphenation);
        for line in textwrap::wrap(words, options) {
            self.whole(severity, &line);
        }
    }
}

fn colour(severity: Severity) -> Colour {
    let colour = match severity {
        Severity::Error => AnsiColor::Red,
        Severity::Warning => AnsiColor::Yellow,
        Severity::Info => return Colour::new(),
    };
    Colour::new().fg_color(Some(colour.into())).bold()
}
