//! How soon tracer tells what has happened, how soon it is ready, and what it takes when nothing
//! happens.
//!
//! From the kernel's stamp in a line to the moment at which the line was read from tracer's pipe. A
//! close is told 1 ms after CLOSE by design: that is in its figures.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Args, LATENCY,
    figure::{Better, Figure, Unit},
    hands::{Hands, Refusal},
    rounds::{Rounds, number},
    say,
};

/// Connections a second that leave a tracer idle between two.
const QUIET: u64 = 100;

/// Connections a second while tracer starts.
const STARTING: u64 = 1000;

/// Below this an idle tracer's processor time cannot be told from none.
const IDLE_SECONDS: u64 = 20;

/// Measures all of it.
pub fn run(hands: &mut Hands, tracer: &Path, args: &Args) -> Result<Vec<Figure>> {
    let mut rounds = Rounds::of(LATENCY);
    let tool = |hands: &Hands, words: &[&str]| {
        let mut command = vec![tracer.display().to_string()];
        command.extend(words.iter().map(|&word| word.to_owned()));
        hands.tool(&command)
    };
    let (closes, transitions): (&[_], &[_]) =
        (&["watch", "--json"], &["watch", "--json", "--transitions"]);
    let quiet = json!({ "kind": "steady", "rate": QUIET });
    let loaded = json!({ "kind": "saturated" });
    for round in 0..args.rounds {
        say(format_args!(
            "latency, round {} of {}",
            round + 1,
            args.rounds
        ));
        for (name, load, words, kinds) in [
            ("quiet", &quiet, transitions, &["transition", "close"][..]),
            ("loaded", &loaded, closes, &["close"]),
            ("loaded-transitions", &loaded, transitions, &["transition"]),
        ] {
            let tool = tool(hands, words);
            let answer = hands.order(&json!({
                "order": "latency", "load": load, "seconds": args.seconds, "tool": tool,
            }))?;
            match answer {
                Ok(answer) => note(&mut rounds, name, &answer["lines"], kinds)?,
                Err(Refusal(why)) => say(format_args!("{name}: {why}")),
            }
        }
        let tool = tool(hands, closes);
        match hands.order(&json!({ "order": "start", "rate": STARTING, "tool": tool }))? {
            Ok(answer) => {
                let took = number(&answer, "/first_event_ns")? / 1e9;
                rounds.add("start/first_event".into(), Unit::S, Better::Lower, took);
            }
            Err(Refusal(why)) => say(format_args!("start: {why}")),
        }
    }
    let seconds = args.seconds.max(IDLE_SECONDS);
    say(format_args!("idle, {seconds} s"));
    let tool = tool(hands, closes);
    match hands.order(&json!({ "order": "idle", "seconds": seconds, "tool": tool }))? {
        Ok(answer) => {
            let resident = number(&answer, "/tool/resident_kib")? * 1024.0;
            rounds.add("idle/resident".into(), Unit::Bytes, Better::Lower, resident);
            let cpu = number(&answer, "/cpu_percent")?;
            rounds.add("idle/cpu".into(), Unit::Percent, Better::Lower, cpu);
            // Another load on the host is no idling: it is said, not hidden.
            let seen = number(&answer, "/tool/lines/summary/hits").unwrap_or_default();
            if seen > 0.0 {
                say(format_args!(
                    "the host was not idle: tracer saw {seen:.0} events"
                ));
            }
        }
        Err(Refusal(why)) => say(format_args!("idle: {why}")),
    }
    Ok(rounds.finish())
}

fn note(rounds: &mut Rounds, name: &str, lines: &Value, kinds: &[&str]) -> Result<()> {
    for kind in kinds {
        if lines[kind].is_null() {
            say(format_args!("{name}: no line of type {kind} was read"));
            continue;
        }
        for what in ["p50", "p99", "max"] {
            let took = number(lines, &format!("/{kind}/{what}_ns"))? / 1e6;
            let name = format!("{name}/{kind}/{what}");
            match what {
                "max" => rounds.add_worst(name, Unit::Ms, took),
                _ => rounds.add(name, Unit::Ms, Better::Lower, took),
            }
        }
    }
    Ok(())
}
