//! What a load loses to a tool beside it. Rounds with a tool and rounds without take turns; each
//! with one is held against those right before and after it.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Args, OVERHEAD,
    contenders::{Contender, Contenders, Telling},
    figure::{Better, Figure, Unit},
    hands::{Hands, Refusal},
    rounds::{Rounds, number},
    say,
    statistics::{order_of_round, ratio_to_neighbours},
};

/// Connections a second of the steady load.
const STEADY: u64 = 10_000;

/// Connections that wrk may have begun and not ended when its time was up.
const UNDER_WAY: f64 = 200.0;

/// Connections of others that disturb a load, by its own.
const FOREIGN: f64 = 0.01;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Saturated,
    Steady,
}

impl Load {
    const fn name(self) -> &'static str {
        match self {
            Self::Saturated => "saturated",
            Self::Steady => "steady",
        }
    }

    fn order(self) -> Value {
        match self {
            Self::Saturated => json!({ "kind": "saturated" }),
            Self::Steady => json!({ "kind": "steady", "rate": STEADY }),
        }
    }
}

/// Measures both loads.
pub fn run(hands: &mut Hands, contenders: &Contenders, args: &Args) -> Result<Vec<Figure>> {
    let mut rounds = Rounds::of(OVERHEAD);
    for load in [Load::Saturated, Load::Steady] {
        let mut turns = Turns {
            hands,
            load,
            seconds: args.seconds,
            rounds: &mut rounds,
        };
        for round in 0..args.rounds {
            say(format_args!(
                "{} load, round {} of {}",
                load.name(),
                round + 1,
                args.rounds
            ));
            let order = order_of_round(contenders.all.len(), usize::try_from(round)?);
            turns.take(order.iter().map(|&place| &contenders.all[place]))?;
        }
    }
    Ok(rounds.finish())
}

/// The rounds of one load.
struct Turns<'a> {
    hands: &'a mut Hands,
    load: Load,
    seconds: u64,
    rounds: &'a mut Rounds,
}

impl Turns<'_> {
    /// Each contender once, between rounds without any.
    fn take<'c>(&mut self, contenders: impl Iterator<Item = &'c Contender>) -> Result<()> {
        let mut before = self.untraced()?;
        for contender in contenders {
            let tool = self.hands.tool(&contender.command);
            let traced = self.round(&tool)?;
            let after = self.untraced()?;
            match traced {
                Ok(traced) => self.note(contender, &before, &traced, &after)?,
                Err(Refusal(why)) => say(format_args!("{}: {why}", contender.name)),
            }
            before = after;
        }
        Ok(())
    }

    fn round(&mut self, tool: &Value) -> Result<Result<Value, Refusal>> {
        self.hands.order(&json!({
            "order": "round", "load": self.load.order(), "seconds": self.seconds, "tool": tool,
        }))
    }

    fn untraced(&mut self) -> Result<Value> {
        let answer = match self.round(&Value::Null)? {
            Ok(answer) => answer,
            Err(Refusal(why)) => anyhow::bail!("the {} load: {why}", self.load.name()),
        };
        self.add(
            "untraced",
            "rate",
            Unit::PerSecond,
            Better::Higher,
            rate(&answer)?,
        );
        if self.load == Load::Steady {
            let achieved = number(&answer, "/load/facts/rate")?;
            if achieved < 0.99 * STEADY as f64 {
                say(format_args!(
                    "untraced, this machine holds {achieved:.0} of {STEADY} connections a second"
                ));
            }
            for (name, pointer) in [("p50", "p50_ns"), ("p99", "p99_ns"), ("max", "max_ns")] {
                let took = number(&answer, &format!("/load/facts/{pointer}"))? / 1e3;
                self.add("untraced", name, Unit::Us, Better::Lower, took);
            }
            let late = number(&answer, "/load/facts/late")?;
            self.add("untraced", "late_starts", Unit::Count, Better::Lower, late);
        }
        if self.load == Load::Saturated {
            let (asked, answered) = (
                number(&answer, "/load/connections")?,
                number(&answer, "/load/facts/answers")?,
            );
            if !(0.0..=UNDER_WAY).contains(&(asked - answered)) {
                say(format_args!(
                    "the kernel counts {asked} connections, and wrk {answered} answers"
                ));
            }
        }
        Ok(answer)
    }

    fn note(
        &mut self,
        contender: &Contender,
        before: &Value,
        traced: &Value,
        after: &Value,
    ) -> Result<()> {
        let name = contender.name;
        let connections = number(traced, "/load/connections")?;
        let seconds = number(traced, "/load/seconds")?;
        if let Some(kept) = ratio_to_neighbours(rate(before)?, rate(traced)?, rate(after)?) {
            self.add(name, "rate_kept", Unit::Ratio, Better::Higher, kept);
        }
        self.add(name, "rate", Unit::PerSecond, Better::Higher, rate(traced)?);
        if self.load == Load::Steady {
            let p99 = |answer| number(answer, "/load/facts/p99_ns");
            if let Some(ratio) = ratio_to_neighbours(p99(before)?, p99(traced)?, p99(after)?) {
                self.add(name, "p99_ratio", Unit::Ratio, Better::Lower, ratio);
            }
            self.add(name, "p99", Unit::Us, Better::Lower, p99(traced)? / 1e3);
        }
        let cpu = number(traced, "/cpu_ns")?;
        if connections > 0.0 {
            let each = cpu / 1e3 / connections;
            self.add(name, "cpu_per_connection", Unit::Us, Better::Lower, each);
        }
        // The load's time and what it left to do, in the load's time.
        let share = 100.0 * cpu / 1e9 / seconds;
        self.add(name, "cpu", Unit::Percent, Better::Lower, share);
        self.note_lines(contender, traced)
    }

    /// What the tool has told, held against what the kernel has counted.
    fn note_lines(&mut self, contender: &Contender, traced: &Value) -> Result<()> {
        let name = contender.name;
        for what in ["lost", "missed"] {
            if let Some(count) = traced["tool"][what].as_f64() {
                self.add_fault(name, what, count);
            }
        }
        if traced["tool"]["ended_in_time"] != true {
            say(format_args!(
                "{name} had to be killed: its last lines are not there"
            ));
        }
        let opened = number(traced, "/sockets/opened")?;
        let closes = number(traced, "/tool/lines/closes")?;
        if matches!(contender.telling, Telling::Closes | Telling::ClosesAndEnds) && opened > 0.0 {
            let told = closes / opened;
            self.add(name, "closes_told", Unit::Ratio, Better::Higher, told);
        }
        if let Some(seen) = traced["tool"]["lines"]["summary"]["closed"].as_f64()
            && seen > opened * (1.0 + FOREIGN)
        {
            say(format_args!(
                "the host is not quiet: {:.0} of {seen:.0} closes were not this load's",
                seen - opened
            ));
        }
        if contender.telling == Telling::ClosesAndEnds {
            let over = opened - number(traced, "/sockets/time_waits")?;
            let ends = number(traced, "/tool/lines/ends")?;
            let wrong = (closes - opened).abs() + (ends - over).abs();
            self.add_fault(name, "lines_unaccounted", wrong);
        }
        Ok(())
    }

    fn add(&mut self, who: &str, what: &str, unit: Unit, better: Better, value: f64) {
        let name = format!("{}/{who}/{what}", self.load.name());
        self.rounds.add(name, unit, better, value);
    }

    fn add_fault(&mut self, who: &str, what: &str, count: f64) {
        let name = format!("{}/{who}/{what}", self.load.name());
        self.rounds.add_worst(name, Unit::Count, count);
    }
}

/// Connections a second, by the kernel's own count.
fn rate(answer: &Value) -> Result<f64> {
    Ok(number(answer, "/load/connections")? / number(answer, "/load/seconds")?)
}
