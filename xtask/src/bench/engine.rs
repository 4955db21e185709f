//! tracer's own benchmark of its engine, which prints figures as JSON lines.

use std::process::Stdio;

use anyhow::{Context as _, Result};

use super::{ENGINE, figure::Figure, say};
use crate::workspace::Workspace;

/// What came of it.
#[derive(Debug, Default)]
pub struct Run {
    pub figures: Vec<Figure>,
    /// It also fails where the engine does what it must not.
    pub succeeded: bool,
}

/// Runs it and takes its figures in.
pub fn run(workspace: &Workspace) -> Result<Run> {
    let benches = workspace.root.join("tracer/benches");
    if !["engine.rs", "engine/main.rs"]
        .iter()
        .any(|file| benches.join(file).exists())
    {
        say("there is no benchmark of the engine");
        return Ok(Run {
            succeeded: true,
            ..Run::default()
        });
    }
    say("the engine's benchmark");
    let output = workspace
        .cargo()
        .args(["bench", "--package", "tracer", "--bench", ENGINE])
        .stderr(Stdio::inherit())
        .output()
        .context("failed to start cargo bench")?;
    let succeeded = output.status.success();
    if !succeeded {
        say(format_args!(
            "the engine's benchmark failed: {}",
            output.status
        ));
    }
    Ok(Run {
        figures: figures(&String::from_utf8_lossy(&output.stdout))?,
        succeeded,
    })
}

fn figures(said: &str) -> Result<Vec<Figure>> {
    said.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("that is no figure: {line}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_taken_from_among_other_lines() {
        let said = "running\n{\"bench\":\"engine\",\"name\":\"bytes/open\",\"value\":224,\"low\":224,\
            \"high\":224,\"unit\":\"bytes\",\"better\":\"lower\",\"rounds\":1}\n\n";
        let figures = figures(said).unwrap();
        assert_eq!(figures[0].name, "bytes/open");
        assert!(super::figures("{\"name\":1}").is_err());
    }
}
