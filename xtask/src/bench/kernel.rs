//! What a tool's programs take in the kernel, by the kernel's BPF statistics, in rounds of their
//! own: the statistics themselves slow every program, which an empty one beside them shows.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    Args, OVERHEAD,
    contenders::{Contenders, JSON, PROBES},
    figure::{Better, Figure, Unit},
    hands::{Hands, Refusal},
    rounds::Rounds,
    say,
};

/// Measures every contender whose programs are its own.
pub fn run(hands: &mut Hands, contenders: &Contenders, args: &Args) -> Result<Vec<Figure>> {
    let mut rounds = Rounds::of(OVERHEAD);
    for round in 0..args.rounds {
        say(format_args!(
            "kernel time, round {} of {}",
            round + 1,
            args.rounds
        ));
        for contender in &contenders.all {
            // tracer's programs are the same, whatever it prints.
            let name = match contender.name {
                JSON => "tracer",
                "watch-table" | "aggregates" | PROBES => continue,
                other => other,
            };
            let tool = hands.tool(&contender.command);
            let loads: &[&str] = if name == "tracer" {
                &["saturated", "talk"]
            } else {
                &["saturated"]
            };
            for kind in loads {
                let answer = hands.order(&json!({
                    "order": "programs", "load": { "kind": kind }, "seconds": args.seconds,
                    "tool": tool,
                }))?;
                match answer {
                    Ok(answer) => {
                        let cost = Cost::of(&answer)?;
                        cost.note(name, kind, &mut rounds);
                    }
                    Err(Refusal(why)) => say(format_args!("{name}: {why}")),
                }
            }
        }
    }
    Ok(rounds.finish())
}

/// What the statistics said in one round.
#[derive(Debug, PartialEq)]
struct Cost {
    programs: Vec<Program>,
    /// Of a program that does nothing, the statistics included.
    empty_ns: f64,
    /// How often the empty program of that hook ran.
    transitions: f64,
}

#[derive(Debug, PartialEq)]
struct Program {
    name: String,
    runs: f64,
    ns: f64,
}

impl Cost {
    fn of(answer: &Value) -> Result<Self> {
        let programs = answer["programs"].as_array().context("no programs")?;
        let programs = programs
            .iter()
            .map(|program| Program {
                name: program["name"].as_str().unwrap_or_default().to_owned(),
                runs: program["runs"].as_f64().unwrap_or_default(),
                ns: program["ns"].as_f64().unwrap_or_default(),
            })
            .collect();
        let empties = answer["empties"].as_array().context("no empty programs")?;
        let sum = |field: &str| -> f64 { empties.iter().filter_map(|it| it[field].as_f64()).sum() };
        Ok(Self {
            programs,
            empty_ns: if sum("runs") > 0.0 {
                sum("ns") / sum("runs")
            } else {
                0.0
            },
            transitions: empties[0]["runs"].as_f64().unwrap_or_default(),
        })
    }

    /// What the chosen programs took, less what doing nothing would have taken, and their runs.
    fn net(&self, chosen: impl Fn(&str) -> bool) -> (f64, f64) {
        let chosen = self.programs.iter().filter(|program| chosen(&program.name));
        chosen.fold((0.0, 0.0), |(ns, runs), program| {
            (
                ns + program.ns - self.empty_ns * program.runs,
                runs + program.runs,
            )
        })
    }

    fn note(&self, name: &str, load: &str, rounds: &mut Rounds) {
        let mut add = |who: &str, what: &str, ns: f64, runs: f64| {
            if runs > 0.0 {
                let name = format!("kernel/{who}/{what}");
                rounds.add(name, Unit::Ns, Better::Lower, ns / runs);
            }
        };
        if load == "talk" {
            let (ns, runs) = self.net(|program| program.starts_with("timer_"));
            add(name, "foreign_timer", ns, runs);
            return;
        }
        let (all, _) = self.net(|_| true);
        add(name, "ns_per_transition", all, self.transitions);
        if name == "tracer" {
            let (alone, runs) = self.net(|program| program == "set_state");
            add(name, "set_state", alone, runs);
            add("empty", "ns_per_run", self.empty_ns, 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_statistics_cost_is_taken_off_each_run() {
        let answer = json!({
            "programs": [
                { "name": "set_state", "runs": 100, "ns": 15_000 },
                { "name": "timer_start", "runs": 50, "ns": 3_000 },
            ],
            "empties": [{ "runs": 100, "ns": 3_000 }, { "runs": 100, "ns": 5_000 }],
        });
        let cost = Cost::of(&answer).unwrap();
        assert_eq!((cost.empty_ns, cost.transitions), (40.0, 100.0));
        let mut rounds = Rounds::of(OVERHEAD);
        cost.note("tracer", "saturated", &mut rounds);
        cost.note("tracer", "talk", &mut rounds);
        let figures = rounds.finish();
        let value = |name| {
            figures
                .iter()
                .find(|figure| figure.name == name)
                .unwrap()
                .value
        };
        assert_eq!(value("kernel/tracer/ns_per_transition"), 120.0);
        assert_eq!(value("kernel/tracer/set_state"), 110.0);
        assert_eq!(value("kernel/tracer/foreign_timer"), 20.0);
        assert_eq!(value("kernel/empty/ns_per_run"), 40.0);
    }
}
