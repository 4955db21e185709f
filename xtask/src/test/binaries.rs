//! The test binaries, built as the user, and how cargo would have started each.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// What `cargo test --no-run` has built.
#[derive(Debug, Default)]
pub struct Binaries {
    pub tests: Vec<Binary>,
    /// Programs that integration tests start.
    programs: Vec<(String, PathBuf)>,
}

/// One test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    pub name: String,
    /// As cargo says it: `lib`, `bin`, or `test` for one of `tests/`.
    pub kind: String,
    pub executable: PathBuf,
    /// The directory of its package, where its tests expect to run.
    pub package: PathBuf,
}

impl Binary {
    /// What is shown above its output.
    pub fn title(&self) -> String {
        let package = self
            .package
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        match self.kind.as_str() {
            "test" => format!("{package}: tests/{}", self.name),
            kind => format!("{package}: {kind}"),
        }
    }
}

impl Binaries {
    /// Builds the tests of all default members: all but the BPF crate.
    pub fn build(workspace: &Workspace) -> Result<Self> {
        let mut cargo = workspace.cargo();
        let output = cargo
            .args([
                "test",
                "--no-run",
                "--message-format=json-render-diagnostics",
            ])
            .stderr(Stdio::inherit())
            .output()
            .context("failed to start cargo test")?;
        if !output.status.success() {
            bail!("failed to build the tests: {}", output.status);
        }
        let messages = String::from_utf8(output.stdout).context("cargo's messages: not UTF-8")?;
        Self::of_messages(&messages)
    }

    fn of_messages(messages: &str) -> Result<Self> {
        let mut found = Self::default();
        for line in messages.lines().filter(|line| line.starts_with('{')) {
            let message: Value =
                serde_json::from_str(line).context("cargo's messages: not JSON")?;
            let Some(executable) = message["executable"].as_str().map(PathBuf::from) else {
                continue;
            };
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let name = text(&message["target"]["name"]).context("cargo's messages: no name")?;
            let kind = text(&message["target"]["kind"][0]).context("cargo's messages: no kind")?;
            if message["profile"]["test"] != true {
                if kind == "bin" || kind == "example" {
                    found.programs.push((name, executable));
                }
                continue;
            }
            let manifest =
                text(&message["manifest_path"]).context("cargo's messages: no manifest")?;
            let package = Path::new(&manifest)
                .parent()
                .context("a manifest without directory")?;
            found.tests.push(Binary {
                name,
                kind,
                executable,
                package: package.to_owned(),
            });
        }
        Ok(found)
    }

    /// The programs that integration tests start, by name.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Path)> {
        let programs = self.programs.iter();
        programs.map(|(name, program)| (name.as_str(), program.as_path()))
    }

    /// The environment that a test may count on.
    pub fn variables(&self, of: &Binary, path: &OsStr, skips: &Path) -> Vec<(String, OsString)> {
        let mut variables = vec![
            ("PATH".to_owned(), path.to_owned()),
            ("CARGO_MANIFEST_DIR".to_owned(), of.package.clone().into()),
            ("TRACER_TEST_SKIPS".to_owned(), skips.into()),
        ];
        for inherited in [
            "CARGO",
            "CI",
            "RUST_BACKTRACE",
            "RUST_LOG",
            "RUST_TEST_THREADS",
        ] {
            if let Some(value) = std::env::var_os(inherited) {
                variables.push((inherited.to_owned(), value));
            }
        }
        for (name, program) in &self.programs {
            variables.push((format!("CARGO_BIN_EXE_{name}"), program.into()));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_programs_and_all_else_are_told_apart() {
        let artifact = |kind: &str, name: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/tracer/Cargo.toml",
                "target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},
                "executable":{executable}}}"#
            )
            .replace('\n', "")
        };
        let messages = [
            artifact("lib", "tracer", false, "null"),
            artifact("bin", "tracer", false, r#""/t/tracer""#),
            artifact("lib", "tracer", true, r#""/t/tracer-1""#),
            artifact("test", "live", true, r#""/t/live-2""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let found = Binaries::of_messages(&messages.join("\n")).unwrap();
        let names: Vec<_> = found
            .tests
            .iter()
            .map(|test| (test.name.as_str(), test.kind.as_str()))
            .collect();
        assert_eq!(names, [("tracer", "lib"), ("live", "test")]);
        assert_eq!(found.tests[1].package, Path::new("/w/tracer"));
        let variables = found.variables(&found.tests[1], OsStr::new("/bin"), Path::new("/s"));
        assert!(variables.contains(&("CARGO_BIN_EXE_tracer".into(), "/t/tracer".into())));
    }
}
