//! What scenes are made on: two namespaces, processes in them, and the word to and from outside.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::namespace::{Namespace, VethPair};

/// The client's namespace, and the server's.
pub struct Stage {
    pub pair: VethPair,
}

impl Stage {
    /// Makes both. The client's has `ports` ports from 40,000 on, where that is said.
    pub fn new(ports: Option<u16>) -> Self {
        let pair = VethPair::new();
        if let Some(ports) = ports {
            let last = 40_000 + ports - 1;
            pair.first
                .sysctl("net.ipv4.ip_local_port_range", &format!("40000 {last}"));
        }
        Self { pair }
    }
}

/// A process of the scene. It ends with this.
pub struct Actor {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Actor {
    /// Starts one inside `namespace`.
    pub fn start(namespace: &Namespace, name: &str, words: &str) -> Self {
        let program = std::env::current_exe().expect("our own program");
        let mut child = namespace
            .run(|| {
                Command::new(program)
                    .args(["act", "--name", name])
                    .args(words.split_whitespace())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
            })
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self {
            child,
            stdin,
            stdout,
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the line that begins with `what`, and returns the rest of it.
    pub fn hear(&mut self, what: &str) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("hear an actor");
        let rest = line.trim().strip_prefix(what);
        let rest = rest.unwrap_or_else(|| panic!("an actor said {line:?}, not {what}"));
        serde_json::from_str(rest.trim()).unwrap_or(Value::Null)
    }

    /// Tells it to do something.
    pub fn tell(&mut self, order: &str) {
        if let Some(stdin) = &mut self.stdin {
            writeln!(stdin, "{order}").expect("tell an actor");
        }
    }

    /// Ends it and waits for its end.
    pub fn end(mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // One that has not heard is not waited for: its time is bounded.
        let _ = self.child.try_wait();
    }
}

/// Says a line to who drives the scene.
pub fn say(event: &str, facts: Value) {
    let mut line = json!({ "event": event });
    if let (Some(line), Value::Object(facts)) = (line.as_object_mut(), facts) {
        line.extend(facts);
    }
    if writeln!(io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Passes the orders of who drives the scene on to `actors`, and what they say back; returns when
/// there are no more.
pub fn conduct(actors: &mut [(&str, &mut Actor)]) {
    for order in io::stdin().lock().lines().map_while(Result::ok) {
        for (_, actor) in &mut *actors {
            actor.tell(&order);
        }
        if order == "hold" {
            let done = actors.iter_mut().map(|(name, actor)| {
                let tally = actor.hear("held");
                ((*name).to_owned(), tally)
            });
            say(
                "held",
                json!({ "done": done.collect::<serde_json::Map<_, _>>() }),
            );
        }
    }
}
