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
