//! What can be asked for.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::empties::Empties;
use crate::stage::{Counts, Stage};
use crate::tool::{Spec, Tool};
use crate::waits::{self, Reading};
use crate::{programs, saturated, steady, talk};

/// How long what the load has begun may take to end.
const CALM: Duration = Duration::from_millis(300);

/// An order, of which each is a round with namespaces of its own.
#[derive(Debug, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// A load, perhaps with a tool beside it.
    Round {
        load: Load,
        seconds: u64,
        tool: Option<Spec>,
    },
    /// A load and a tool, with the kernel's BPF statistics on.
    Programs {
        load: Load,
        seconds: u64,
        tool: Spec,
    },
    /// A load and a tool whose lines are read as they come.
    Latency {
        load: Load,
        seconds: u64,
        tool: Spec,
    },
    /// A tool, started while connections come and go.
    Start { rate: u64, tool: Spec },
    /// A tool, and nothing to do for it.
    Idle { seconds: u64, tool: Spec },
}

/// A load.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Load {
    /// As many connections as there can be.
    Saturated,
    /// So many a second.
    Steady { rate: u64 },
    /// Timers, and no connections.
    Talk,
}

impl Load {
    /// Makes it; what is known of it.
    fn run(self, stage: &Stage, seconds: u64) -> Result<Value> {
        let before = stage.counts();
        let started = Instant::now();
        let facts = match self {
            Self::Saturated => json!({ "answers": saturated::run(stage, seconds)? }),
            Self::Steady { rate } => steady::run(stage, rate, seconds)?.view(),
            Self::Talk => json!({ "answers": talk::run(seconds)? }),
        };
        let took = started.elapsed();
        let after = stage.counts();
        Ok(json!({
            "seconds": took.as_secs_f64(),
            "connections": after.active - before.active,
            "facts": facts,
        }))
    }

    fn stage(self) -> Result<Stage> {
        match self {
            Self::Saturated | Self::Steady { .. } => Stage::new(),
            Self::Talk => Ok(Stage::without_server()),
        }
    }
}

impl Order {
    /// Does it and tells what was measured.
    pub fn carry_out(&self) -> Result<Value> {
        match self {
            Self::Round {
                load,
                seconds,
                tool,
            } => round(*load, *seconds, tool.as_ref()),
            Self::Programs {
                load,
                seconds,
                tool,
            } => with_statistics(*load, *seconds, tool),
            Self::Latency {
                load,
                seconds,
                tool,
            } => latency(*load, *seconds, tool),
            Self::Start { rate, tool } => start(*rate, tool),
            Self::Idle { seconds, tool } => idle(*seconds, tool),
        }
    }
}

fn round(load: Load, seconds: u64, spec: Option<&Spec>) -> Result<Value> {
    let stage = load.stage()?;
    let Some(spec) = spec else {
        let load = load.run(&stage, seconds)?;
        stage.strike()?;
        return Ok(json!({ "load": load }));
    };
    let mut tool = Tool::start(spec)?;
    tool.wait_until_ready()?;
    let (before, cpu_before) = (stage.counts(), tool.processor_time()?);
    let load = load.run(&stage, seconds)?;
    let cpu_loaded = tool.processor_time()? - cpu_before;
    stage.wait_until_closed();
    thread::sleep(CALM);
    tool.wait_until_settled()?;
    let (after, cpu) = (stage.counts(), tool.processor_time()? - cpu_before);
    let tool = tool.stop()?;
    stage.strike()?;
    Ok(json!({
        "load": load, "tool": tool, "cpu_ns": nanoseconds(cpu),
        "cpu_loaded_ns": nanoseconds(cpu_loaded), "sockets": sockets(before, after),
    }))
}

/// What the kernel has counted: sockets that were opened and therefore closed, and how many of them
/// are not over yet, since they have a TIME_WAIT.
fn sockets(before: Counts, after: Counts) -> Value {
    json!({
        "opened": after.active - before.active + after.passive - before.passive,
        "time_waits": after.time_waits - before.time_waits,
    })
}

fn with_statistics(load: Load, seconds: u64, spec: &Spec) -> Result<Value> {
    let stage = load.stage()?;
    let mut tool = Tool::start(spec)?;
    tool.wait_until_ready()?;
    let empties = Empties::attach()?;
    // The kernel switches them off again when this descriptor is closed.
    let statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    let (before, empty_before) = (programs::of(tool.pid())?, empties.runs()?);
    let load = load.run(&stage, seconds)?;
    let (after, empty_after) = (programs::of(tool.pid())?, empties.runs()?);
    drop(statistics);
    let all = programs::difference(&before, &after);
    drop(empties);
    let said = tool.stop()?;
    stage.strike()?;
    if all.is_empty() {
        bail!("it holds no descriptor of a program");
    }
    let programs: Vec<Value> = all
        .iter()
        .map(|(name, runs)| json!({ "name": name, "runs": runs.runs, "ns": runs.nanoseconds }))
        .collect();
    let empties: Vec<Value> = empty_after
        .iter()
        .zip(empty_before)
        .map(|(after, before)| after.since(before).view())
        .collect();
    Ok(json!({ "load": load, "tool": said, "programs": programs, "empties": empties }))
}

fn latency(load: Load, seconds: u64, spec: &Spec) -> Result<Value> {
    let stage = load.stage()?;
    let mut tool = Tool::start_with_pipe(spec)?;
    let reading = Reading::begin(tool.take_pipe()?);
    tool.wait_until_ready()?;
    let load = load.run(&stage, seconds)?;
    thread::sleep(CALM);
    tool.wait_until_settled()?;
    if reading.is_over() {
        bail!("it has ended: {}", tool.last_words());
    }
    tool.end()?;
    let waits = reading.finish()?.view();
    stage.strike()?;
    Ok(json!({ "load": load, "lines": waits, "said": tool.last_words() }))
}

fn start(rate: u64, spec: &Spec) -> Result<Value> {
    const SECONDS: u64 = 4;
    let stage = Stage::new()?;
    let took = thread::scope(|scope| -> Result<Duration> {
        scope.spawn(|| steady::run(&stage, rate, SECONDS));
        // Well within the load.
        thread::sleep(Duration::from_millis(500));
        let started = Instant::now();
        let mut tool = Tool::start_with_pipe(spec)?;
        let pipe = tool.take_pipe()?;
        let first = thread::spawn(|| waits::first_event(pipe)).join();
        tool.end()?;
        match first {
            Ok(first) => Ok(first? - started),
            Err(_) => bail!("the reader has panicked"),
        }
    })?;
    stage.strike()?;
    Ok(json!({ "first_event_ns": nanoseconds(took) }))
}

fn idle(seconds: u64, spec: &Spec) -> Result<Value> {
    let mut tool = Tool::start(spec)?;
    tool.wait_until_ready()?;
    // What starting has left to do is not idling.
    thread::sleep(Duration::from_secs(2));
    let (started, before) = (Instant::now(), tool.processor_time()?);
    thread::sleep(Duration::from_secs(seconds));
    let used = tool.processor_time()? - before;
    let took = started.elapsed();
    let peak = tool.memory("VmHWM")?;
    let ended = tool.stop()?;
    Ok(json!({
        "tool": ended, "peak_kib": peak,
        "cpu_percent": 100.0 * used.as_secs_f64() / took.as_secs_f64(),
    }))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
