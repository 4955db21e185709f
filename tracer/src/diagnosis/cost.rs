//! What the rules cost where there are many destinations: figures, to be asked for.

use std::time::Duration;

use super::example::{Example, program, route};
use super::rules;
use crate::clock;
use crate::metrics::Outlooks;
use crate::record::holding::Use;
use crate::record::{CloseCause, CloseKind, Initiator};

const DESTINATIONS: usize = 10_000;

/// What the connects to each destination come to.
#[derive(Clone, Copy, Debug)]
enum Scene {
    Calm,
    Refused,
    RefusedOverIpv6,
    WithoutPort,
    CloseWaits,
}

fn scene(scene: Scene) -> Example {
    let mut example = Example::new();
    for number in 0..DESTINATIONS {
        let (high, low) = (number / 250, number % 250);
        let there = match scene {
            Scene::RefusedOverIpv6 => route(&format!("[2001:db8::{high:x}:{low:x}]:80")),
            _ => route(&format!("10.1.{high}.{low}:80")),
        };
        let name = match scene {
            Scene::CloseWaits => format!("app-{number}"),
            _ => "php-fpm".to_owned(),
        };
        let php = program(&name);
        example.open(there, php, 1);
        let failed = match scene {
            Scene::Refused | Scene::RefusedOverIpv6 => Some(CloseCause::Refused),
            Scene::WithoutPort => Some(CloseCause::NoPort),
            Scene::Calm | Scene::CloseWaits => None,
        };
        let now = example.seen.now;
        let traffic = example.traffic(there, php);
        match failed {
            Some(cause) => {
                traffic.add_closes(CloseKind::ConnectFailed, Some(cause), Initiator::Peer, 5);
                traffic.last_failure = Some(now);
                traffic.last_without_port = Some(now);
            }
            None => {
                traffic.add_closes(CloseKind::Active, None, Initiator::Local, 5);
                (0..5).for_each(|_| traffic.add_life(20_000_000));
            }
        }
        match scene {
            Scene::Calm => example.hold(there, php, Use::TimeWait, 5),
            Scene::CloseWaits => {
                example.hold(there, php, Use::CloseWait, 5);
                let held = example.seen.close_waits.entry((1, php)).or_default();
                held.since_unknown = 5;
            }
            _ => {}
        }
    }
    example
}

#[test]
#[ignore = "it measures, and holds nothing to anything"]
fn every_rule_at_ten_thousand_destinations() {
    let took = |what: &str, work: &mut dyn FnMut() -> usize| {
        let before = clock::monotonic();
        let findings = work();
        let took = Duration::from_nanos(clock::monotonic().since(before));
        if took > Duration::from_micros(500) {
            println!("  {what}: {:.1} ms, {findings}", took.as_secs_f64() * 1e3);
        }
        took
    };
    let pair = size_of::<(crate::ports::Program, super::Traffic)>();
    println!("a pair of place and program: {pair} bytes, and its part of the maps");
    for kind in [
        Scene::Calm,
        Scene::Refused,
        Scene::RefusedOverIpv6,
        Scene::WithoutPort,
        Scene::CloseWaits,
    ] {
        let mut example = scene(kind);
        println!("{kind:?}");
        let mut all = Duration::ZERO;
        for rule in rules::all() {
            all += took(rule.name(), &mut || match rule.check(&example.seen) {
                super::Check::Found(findings) | super::Check::TooEarly(findings) => findings.len(),
                super::Check::Quiet => 0,
            });
        }
        println!("  all rules: {:.1} ms", all.as_secs_f64() * 1e3);
        took("outlooks", &mut || {
            let _ = Outlooks::of(&example.seen, 20);
            0
        });
        let now = example.seen.now;
        took("age", &mut || {
            example.seen.ports.age(now);
            0
        });
    }
}
