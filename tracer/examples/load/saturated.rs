//! As many connections as two processors give: wrk with `Connection: close`.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::children;
use crate::stage::Stage;

/// wrk processes of one thread each: it knows one address only.
const PROCESSES: usize = 2;

/// Connections at a time, of each.
const AT_A_TIME: &str = "40";

/// Runs it; returns the answers that wrk has read.
pub fn run(stage: &Stage, seconds: u64) -> Result<u64> {
    let mut running = Vec::new();
    for server in Stage::servers().take(PROCESSES) {
        running.push(start(stage, server, seconds)?);
    }
    let patience = Duration::from_secs(seconds + 10);
    let mut requests = 0;
    for mut wrk in running {
        if !children::ends_within(&mut wrk, patience)? {
            wrk.kill()?;
            wrk.wait()?;
            bail!("wrk has not ended after {} s", patience.as_secs());
        }
        let mut said = String::new();
        if let Some(mut stdout) = wrk.stdout.take() {
            stdout.read_to_string(&mut said)?;
        }
        requests += answers(&said).with_context(|| format!("wrk tells no requests: {said:?}"))?;
    }
    Ok(requests)
}

fn start(stage: &Stage, server: SocketAddr, seconds: u64) -> Result<Child> {
    let mut command = Command::new("wrk");
    command
        .args(["-t1", "-c", AT_A_TIME, "-H", "Connection: close"])
        .arg(format!("-d{seconds}s"))
        .arg(format!("http://{server}/"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    children::start(&mut command, Some(&stage.pair.first))
}

fn answers(said: &str) -> Option<u64> {
    let (count, _) = said
        .lines()
        .find_map(|line| line.trim().split_once(" requests in"))?;
    count.parse().ok()
}
