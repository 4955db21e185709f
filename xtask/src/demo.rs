//! `cargo xtask demo`: the incidents that tracer is for, made on this machine, and what it says.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    build,
    child::{self, Stopwatch},
    root::{self, Root},
    workspace::Workspace,
};

/// What `cargo xtask demo` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which scenes; without any: all of them, one after the other
    #[arg(value_enum)]
    scenes: Vec<Scene>,
    /// Show what each finding rests on, and all of the advice
    #[arg(long, short)]
    verbose: bool,
}

/// An incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scene {
    /// connect() fails for want of a port: its ports wait in TIME_WAIT
    Exhaustion,
    /// A server never closes what its peers have closed
    CloseWait,
    /// Much traffic, nothing wrong
    Healthy,
    /// connect() fails beside many TIME_WAITs, which are not the reason
    Refused,
}

impl Scene {
    const ALL: [Self; 4] = [
        Self::Exhaustion,
        Self::CloseWait,
        Self::Healthy,
        Self::Refused,
    ];

    /// Its name in tracer's example `scene`.
    const fn name(self) -> &'static str {
        match self {
            Self::Exhaustion => "exhaustion",
            Self::CloseWait => "close-wait",
            Self::Healthy => "healthy",
            Self::Refused => "refused",
        }
    }

    /// What is going on.
    const fn story(self) -> &'static str {
        match self {
            Self::Exhaustion => {
                "checkout has 1,000 ports to connect to database, and closes first; \
                 its connects have begun to fail"
            }
            Self::CloseWait => "reports never closes what browser has closed, ten more each second",
            Self::Healthy => "checkout opens 500 connections a second, and web closes them first",
            Self::Refused => {
                "checkout has 400 TIME_WAITs to database, which has died; its connects fail"
            }
        }
    }

    /// What tracer is asked for.
    const fn words(self) -> &'static [&'static str] {
        match self {
            // Nothing ends it before its time.
            Self::Healthy => &["diagnose", "--duration", "6s"],
            _ => &["diagnose"],
        }
    }
}

/// Builds, plays the scenes, and shows what tracer says of each.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let tracer = build::tracer(workspace, true)?;
    let program = build::example(workspace, "scene")?;
    if child::on_path("ip").is_none() {
        bail!("the scenes need `ip`: install the package iproute2 (apt-get install iproute2)");
    }
    let path = child::path_with(&[]);
    let root = root::ask("demo", "tracing, and making network namespaces,")?;
    let watch = Stopwatch::start();
    let scenes = match &args.scenes[..] {
        [] => &Scene::ALL[..],
        chosen => chosen,
    };
    for scene in scenes {
        println!("\n--- {}: {}", scene.name(), scene.story());
        let mut stage = Stage::set(root, &program, &path, *scene)?;
        stage.tell("go")?;
        let mut words = scene.words().to_vec();
        if args.verbose {
            words.push("--verbose");
        }
        println!("$ sudo tracer {}\n", words.join(" "));
        let mut diagnose = root.command(&tracer, &[]);
        // Its exit status tells what it has found.
        diagnose
            .args(words)
            .status()
            .context("failed to start the tracer")?;
        stage.end()?;
    }
    eprintln!("demo: {:.0} s", watch.elapsed().as_secs_f32());
    Ok(ExitCode::SUCCESS)
}

/// A scene under way.
struct Stage {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Stage {
    /// Starts it and waits until it is set.
    fn set(root: Root, program: &Path, path: &OsString, scene: Scene) -> Result<Self> {
        let mut child = root
            .command(program, &[("PATH".to_owned(), path.clone())])
            .arg(scene.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        let stdin = child.stdin.take().context("its stdin is piped")?;
        let stdout = child.stdout.take().context("its stdout is piped")?;
        let mut stage = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        let mut line = String::new();
        stage.stdout.read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line)
            .with_context(|| format!("the scene {} could not be set: {line:?}", scene.name()))?;
        if said["event"] != "ready" {
            bail!("the scene {} said {line:?}", scene.name());
        }
        Ok(stage)
    }

    fn tell(&mut self, order: &str) -> Result<()> {
        writeln!(self.stdin, "{order}").context("the scene has ended")
    }

    /// Ends it; its namespaces go with it.
    fn end(self) -> Result<()> {
        let Self {
            mut child, stdin, ..
        } = self;
        drop(stdin);
        child.wait()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_are_called_the_same_everywhere() {
        for scene in Scene::ALL {
            let value = scene.to_possible_value().unwrap();
            assert_eq!(value.get_name(), scene.name());
        }
    }
}
