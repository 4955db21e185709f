//! Scenario files: the stream in compact lines, and the records that must come of it.
//!
//! A file in `tests/scenarios/` is comments (`#`), settings, sockets and events, then a line `---`
//! and the expected output. `UPDATE_SCENARIOS=1 cargo test --test scenarios` writes the output that
//! comes; read the difference before you keep it.
//!
//! [`script`] has the lines, [`printed`] the output.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

mod printed;
mod script;

use std::fmt::Write as _;
use std::path::Path;

use script::Script;

#[test]
fn every_scenario_gives_its_expected_output() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .expect("the scenarios' directory")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "scn"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut failures = String::new();
    for path in &paths {
        let text = std::fs::read_to_string(path).expect("a scenario");
        let (input, expected) = text.split_once("\n---\n").unwrap_or((text.trim_end(), ""));
        let output = run(input, path);
        if update {
            std::fs::write(path, format!("{input}\n---\n{output}")).expect("the scenario written");
        } else if output != expected {
            let name = path.file_name().unwrap_or_default().display();
            writeln!(
                failures,
                "== {name}\n-- expected\n{expected}-- but got\n{output}"
            )
            .unwrap();
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// Runs one scenario; whatever it does, the engine's invariants hold after each line.
fn run(input: &str, path: &Path) -> String {
    let mut script = Script::default();
    let mut output = String::new();
    for (number, line) in input.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Err(problem) = script.line(line) {
            panic!("{}:{}: {problem}: {line}", path.display(), number + 1);
        }
        script.drain(&mut output);
        assert!(
            script.engine().invariants_hold(),
            "{}:{}: {:#?}",
            path.display(),
            number + 1,
            script.engine().totals()
        );
    }
    printed::totals(script.engine(), &mut output);
    output
}
