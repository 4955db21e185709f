//! tracer's own benchmark of its engine, which prints figures as JSON lines.

use anyhow::{Context as _, Result};

use super::{ENGINE, figure::Figure, say};
use crate::{child, workspace::Workspace};

/// Runs it and takes its figures in.
pub fn run(workspace: &Workspace) -> Result<Vec<Figure>> {
    if !workspace.root.join("tracer/benches/engine.rs").exists() {
        say("there is no benchmark of the engine");
        return Ok(Vec::new());
    }
    say("the engine's benchmark");
    let said = child::stdout_of(workspace.cargo().args([
        "bench",
        "--package",
        "tracer",
        "--bench",
        ENGINE,
    ]))?;
    figures(&said)
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
