//! What a tool has written, counted.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result};
use memchr::memmem::{Finder, find};
use serde_json::{Value, json};

use crate::stage::PORT;

/// Lines of one load.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Of NDJSON's type `close`; of a table: rows that are not `ends`.
    pub closes: u64,
    /// Of NDJSON's type `end`; of a table: rows marked └.
    pub ends: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// NDJSON's last line.
    pub summary: Option<Value>,
    /// What it says it has lost.
    pub lost: Vec<u64>,
}

impl Lines {
    /// Counts those that name the load's port.
    pub fn of_file(path: &Path) -> Result<Self> {
        let file =
            File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut lines = Self::default();
        let port = PORT.to_string();
        let port = Finder::new(&port);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            lines.take(&line, &port);
            line.clear();
        }
        Ok(lines)
    }

    fn take(&mut self, line: &[u8], port: &Finder<'_>) {
        self.bytes += line.len() as u64;
        if line.starts_with(br#"{"type":"summary""#) {
            self.summary = serde_json::from_slice(line).ok();
        } else if line.starts_with(br#"{"type":"#) {
            let kind = &line[br#"{"type":"#.len()..];
            let is = |name: &[u8]| kind.starts_with(name) && port.find(line).is_some();
            self.closes += u64::from(is(br#""close""#));
            self.ends += u64::from(is(br#""end""#));
        } else if port.find(line).is_some() {
            match find(line, "└".as_bytes()) {
                Some(_) => self.ends += 1,
                None => self.closes += 1,
            }
        } else if find(line, b"ost ").is_some() {
            // bpftrace says so between its lines.
            let text = String::from_utf8_lossy(line);
            self.lost.extend(numbers_beside("lost", &text));
        }
    }

    /// For the answer.
    pub fn view(&self) -> Value {
        json!({
            "closes": self.closes, "ends": self.ends, "bytes": self.bytes, "summary": self.summary,
        })
    }
}

/// The numbers right before or after a word, whatever its case: `7 lost`, `Lost 1,000 events`.
pub fn numbers_beside(word: &str, text: &str) -> Vec<u64> {
    let number = |word: &str| word.replace(',', "").parse::<u64>().ok();
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut numbers = Vec::new();
    for (place, found) in words.iter().enumerate() {
        if found
            .trim_matches([',', ';', ':'])
            .eq_ignore_ascii_case(word)
        {
            let before = place.checked_sub(1).and_then(|place| number(words[place]));
            let after = words.get(place + 1).and_then(|word| number(word));
            numbers.extend(before.or(after));
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> Lines {
        let port = PORT.to_string();
        let mut lines = Lines::default();
        for line in text.split_inclusive('\n') {
            lines.take(line.as_bytes(), &Finder::new(&port));
        }
        lines
    }

    #[test]
    fn only_lines_of_the_load_are_counted_and_each_as_what_it_is() {
        let lines = counted(
            "{\"type\":\"close\",\"peer\":{\"port\":28765}}\n\
             {\"type\":\"close\",\"peer\":{\"port\":80}}\n\
             {\"type\":\"end\",\"local\":{\"port\":28765}}\n\
             {\"type\":\"inventory\",\"sockets\":28765}\n\
             {\"type\":\"summary\",\"closed\":1}\n",
        );
        assert_eq!((lines.closes, lines.ends), (1, 1));
        assert_eq!(lines.summary.unwrap()["closed"], 1);
        let rows = counted("10:04 10.77.0.1:28765 client\n10:05 10.77.0.1:28765 └ expired\nx\n");
        assert_eq!((rows.closes, rows.ends), (1, 1));
    }

    #[test]
    fn losses_are_found_as_each_tool_tells_them() {
        let tracer = "tracer: 2 closes; events: 9 received, 1,234 lost, 5 missed";
        assert_eq!(numbers_beside("lost", tracer), [1234]);
        assert_eq!(numbers_beside("missed", tracer), [5]);
        let libbpf = "lost 17 events on CPU #0\nlost 4 events on CPU #1";
        assert_eq!(numbers_beside("lost", libbpf), [17, 4]);
        assert_eq!(counted("Lost 8245 events\n").lost, [8245]);
        assert!(numbers_beside("lost", "nothing was lost").is_empty());
    }
}
