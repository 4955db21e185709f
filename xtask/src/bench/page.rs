//! Results as they are read: aligned tables that are Markdown too.

use std::fmt::Write as _;

use super::figure::{Figure, Machine, Results, Unit};

/// Rows of the table side by side, and what each is called.
const ROWS: [(&str, &str); 8] = [
    ("watch-json", "**tracer** `watch --json`"),
    ("watch-table", "**tracer** `watch`"),
    ("aggregates", "**tracer**, sums alone"),
    ("probes-alone", "its probes, and nobody to tell"),
    ("tcplife", "tcplife (libbpf-tools)"),
    ("tcpstates", "tcpstates (libbpf-tools)"),
    ("tcplife.bt", "tcplife.bt (bpftrace)"),
    (
        "tcplife.bt-tracepoint",
        "tcplife.bt (bpftrace), on the tracepoint",
    ),
];

/// What a tool costs, side by side with the others.
const COLUMNS: [(&str, &str, &str); 8] = [
    ("rate kept", "saturated", "rate_kept"),
    ("CPU a connection", "saturated", "cpu_per_connection"),
    ("lost", "saturated", "lost"),
    ("closes told", "saturated", "closes_told"),
    ("10,000/s: p99", "steady", "p99_ratio"),
    ("CPU", "steady", "cpu"),
    ("lost", "steady", "lost"),
    ("kernel, a transition", "kernel", "ns_per_transition"),
];

/// The table that README quotes.
pub fn table(results: &Results) -> String {
    let mut page = side_by_side(results);
    if !page.is_empty() {
        page.push('\n');
    }
    page.push_str(&with_targets(results));
    let _ = writeln!(page, "\n{}", measured_on(&results.machine));
    page
}

/// All that was measured.
pub fn whole(results: &Results) -> String {
    let mut page = table(results);
    page.push('\n');
    let row = |figure: &Figure| {
        vec![
            figure.bench.clone(),
            figure.name.clone(),
            shown(figure.value, figure.unit),
            format!(
                "{} to {}",
                shown(figure.low, figure.unit),
                shown(figure.high, figure.unit)
            ),
            figure.rounds.to_string(),
        ]
    };
    let head = ["bench", "figure", "median", "spread", "rounds"];
    page.push_str(&aligned(&head, results.figures.iter().map(row)));
    page
}

fn side_by_side(results: &Results) -> String {
    let row = |(name, title): &(&str, &str)| {
        let cells: Vec<_> = COLUMNS
            .iter()
            .map(|(_, load, what)| cell(results, name, load, what))
            .collect();
        cells.iter().any(Option::is_some).then(|| {
            let cells = cells
                .into_iter()
                .map(|cell| cell.unwrap_or_else(|| "–".into()));
            [(*title).to_owned()].into_iter().chain(cells).collect()
        })
    };
    let rows: Vec<Vec<String>> = ROWS.iter().filter_map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let head: Vec<_> = [""]
        .into_iter()
        .chain(COLUMNS.iter().map(|(title, ..)| *title))
        .collect();
    aligned(&head, rows)
}

fn cell(results: &Results, name: &str, load: &str, what: &str) -> Option<String> {
    // tracer's programs are the same, whatever it prints.
    let name = match (load, name) {
        ("kernel", "watch-json") => "tracer",
        _ => name,
    };
    let figure = results.figure("overhead", &format!("{load}/{name}/{what}"))?;
    Some(shown(figure.value, figure.unit))
}

fn with_targets(results: &Results) -> String {
    let row = |figure: &Figure| {
        let target = figure.target?;
        let bound = |bound: f64| format!("{} {}", figure.better.sign(), shown(bound, figure.unit));
        Some(vec![
            figure.name.clone(),
            shown(figure.value, figure.unit),
            format!(
                "{} to {}",
                shown(figure.low, figure.unit),
                shown(figure.high, figure.unit)
            ),
            bound(target),
            figure.aim.map(bound).unwrap_or_default(),
            figure.judgement().unwrap_or_default().to_owned(),
        ])
    };
    let rows: Vec<_> = results.figures.iter().filter_map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    aligned(&["figure", "median", "spread", "target", "aim", ""], rows)
}

fn measured_on(machine: &Machine) -> String {
    let commit = machine.commit.get(..10).unwrap_or(&machine.commit);
    format!(
        "Linux {}, {} processors ({}), {} of memory, {}, commit {commit}{}.",
        machine.kernel,
        machine.processors,
        machine.cpu_model,
        shown(machine.memory_bytes as f64, Unit::Bytes),
        machine.date.get(..10).unwrap_or(&machine.date),
        if machine.dirty { " with changes" } else { "" },
    )
}

/// A Markdown table whose columns are as wide as their widest cell.
fn aligned(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let cells = cells.map(|cell| cell.chars().count());
        cells
            .chain([head[column].chars().count(), 1])
            .max()
            .unwrap_or(1)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut page = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(page, "| {cell:<width$} ");
        }
        page.push_str("|\n");
    };
    line(&mut head.iter().copied());
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(&mut rules.iter().map(String::as_str));
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
    page
}

/// A value as people write it.
pub fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ratio => format!("{value:.2}"),
        Unit::Ns => format!("{} ns", rounded(value)),
        Unit::Us => format!("{} µs", rounded(value)),
        Unit::Ms => format!("{} ms", rounded(value)),
        Unit::S => format!("{} s", rounded(value)),
        Unit::Bytes if value >= 10.0 * 1024.0 * 1024.0 * 1024.0 => {
            format!("{:.0} GiB", value / 1024.0 / 1024.0 / 1024.0)
        }
        Unit::Bytes if value >= 1024.0 * 1024.0 => {
            format!("{} MiB", rounded(value / 1024.0 / 1024.0))
        }
        Unit::Bytes => format!("{} B", rounded(value)),
        Unit::Count => rounded(value),
        Unit::Percent => format!("{} %", rounded(value)),
        Unit::PerSecond => format!("{}/s", rounded(value)),
    }
}

/// Three digits, or all before the point, in groups.
fn rounded(value: f64) -> String {
    if value.abs() < 100.0 && value.fract() != 0.0 {
        let decimals = if value.abs() < 10.0 { 2 } else { 1 };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 {
        format!("-{grouped}")
    } else {
        grouped
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::figure::{Better, SCHEMA, tests::figure},
        *,
    };

    #[test]
    fn values_are_shown_with_as_many_digits_as_mean_something() {
        assert_eq!(shown(0.914, Unit::Ratio), "0.91");
        assert_eq!(shown(28_345.2, Unit::PerSecond), "28,345/s");
        assert_eq!(shown(12.34, Unit::Us), "12.3 µs");
        assert_eq!(shown(0.0, Unit::Count), "0");
        assert_eq!(shown(151.6, Unit::Ns), "152 ns");
        assert_eq!(shown(25.0 * 1024.0 * 1024.0, Unit::Bytes), "25 MiB");
        assert_eq!(shown(1_234_567.0, Unit::Count), "1,234,567");
    }

    #[test]
    fn tools_stand_side_by_side_and_what_was_not_measured_is_a_dash() {
        let mut kept = figure(
            "saturated/watch-json/rate_kept",
            0.91,
            Unit::Ratio,
            Better::Higher,
        );
        kept.target = Some(0.85);
        let results = Results {
            schema: SCHEMA,
            machine: Machine::default(),
            figures: vec![
                kept,
                figure(
                    "saturated/tcplife/rate_kept",
                    0.44,
                    Unit::Ratio,
                    Better::Higher,
                ),
                figure(
                    "kernel/tracer/ns_per_transition",
                    150.0,
                    Unit::Ns,
                    Better::Lower,
                ),
            ],
        };
        let table = table(&results);
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[2].starts_with("| **tracer** `watch --json` | 0.91 "),
            "{table}"
        );
        assert!(lines[2].ends_with("| 150 ns               |"), "{table}");
        assert!(lines[3].contains("| 0.44 "), "{table}");
        assert!(lines[3].contains('–'), "{table}");
        assert!(table.contains("| ≥ 0.85 |"), "{table}");
        let widths: Vec<_> = lines[..4].iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }
}
