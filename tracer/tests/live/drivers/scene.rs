//! The scenes of tracer's example `scene`, as the tests drive them.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A scene under way. Its namespaces and processes go with it.
pub struct Scene {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// What it said when it was set.
    pub facts: Value,
}

impl Scene {
    /// Sets one: `exhaustion --ports 300`.
    pub fn set(words: &str) -> Self {
        let mut child = Command::new(program())
            .args(words.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", program().display()));
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut scene = Self {
            child,
            stdin,
            stdout,
            facts: Value::Null,
        };
        scene.facts = scene.hear("ready");
        scene
    }

    /// The network namespace that it is about.
    pub fn netns(&self) -> u64 {
        self.number("netns")
    }

    /// A number of what it said when it was set.
    pub fn number(&self, name: &str) -> u64 {
        let number = self.facts[name].as_u64();
        number.unwrap_or_else(|| panic!("{name} in {}", self.facts))
    }

    /// Its programs begin.
    pub fn go(&mut self) {
        self.tell("go");
    }

    /// Its programs stop: what each has done since `go`.
    pub fn hold(&mut self) -> Value {
        self.tell("hold");
        self.hear("held")["done"].take()
    }

    fn tell(&mut self, order: &str) {
        let stdin = self.stdin.as_mut().expect("it is open until the end");
        writeln!(stdin, "{order}").expect("tell the scene");
    }

    fn hear(&mut self, event: &str) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("hear the scene");
        let said: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the scene said {line:?}: {error}"));
        assert_eq!(said["event"], event, "{said}");
        said
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Where cargo has put the example: beside the directory of the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("our own program");
    let target = test.parent().and_then(|deps| deps.parent());
    target.expect("target/…/deps").join("examples/scene")
}
