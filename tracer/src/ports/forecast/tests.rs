//! Forecasts held against what a simulated route then does.

use std::net::{IpAddr, Ipv4Addr};

use tracer_common::tcp::{Endpoint, Flow};

use super::*;
use crate::ports::Account;
use crate::ports::account::tenth;
use crate::record::holding::{Holding, HoldingChange, Owner, Side};

/// A host whose clients do as they are told.
#[derive(Clone, Copy)]
struct Host {
    capacity: u64,
    /// Connections a second at the start,
    rate: f64,
    /// and how that grows.
    growth: f64,
    /// The load begins so long after the host.
    begins: f64,
    life: f64,
    dwell: f64,
    /// The tracer is started so long after the host.
    watched_from: f64,
    /// Connections at random times; `None`: evenly paced.
    seed: Option<u64>,
}

const HOST: Host = Host {
    capacity: 28_232,
    rate: 500.0,
    growth: 0.0,
    begins: 0.0,
    life: 0.05,
    dwell: 60.0,
    watched_from: 0.0,
    seed: None,
};

/// A connection: when it opened, when it went into TIME_WAIT, when that ends nominally, when in fact.
type Life = [f64; 4];

impl Host {
    fn habits(&self) -> Habits {
        Habits {
            began: at(self.watched_from),
            dwell: Dwell {
                mean: Duration::from_secs_f64(self.dwell),
                basis: DwellBasis::Nominal,
                samples: 0,
            },
            life: Some(Duration::from_secs_f64(self.life)),
            time_wait_share: 1.0,
            reusable_after: None,
        }
    }

    /// What happens in the first `seconds`, whether ports are left or not.
    fn run(&self, seconds: f64) -> Vec<Life> {
        let mut random = self.seed.map(fastrand::Rng::with_seed);
        let mut lives = Vec::new();
        let mut opened = 0.0;
        loop {
            opened += random
                .as_mut()
                .map_or(1.0, |random| -(1.0 - random.f64()).ln());
            // When so many have opened: rate t + growth t²/2.
            let since = match self.growth {
                0.0 => opened / self.rate,
                growth => ((self.rate.powi(2) + 2.0 * growth * opened).sqrt() - self.rate) / growth,
            };
            let opened = self.begins + since;
            let is_enough = lives.len() as u64 > 10 * self.capacity;
            if since.is_nan() || opened > seconds || is_enough {
                return lives;
            }
            let closed = opened + self.life;
            let nominal = closed + self.dwell;
            lives.push([opened, closed, nominal, expiry(nominal)]);
        }
    }
}

/// When the timer wheel runs what ends at `nominal`, at HZ=250: level 3 for 60 s.
fn expiry(nominal: f64) -> f64 {
    let jiffies = (nominal * 250.0).ceil() as u64;
    (((jiffies >> 9) + 1) << 9) as f64 / 250.0
}

/// When so many ports are in use for the first time.
fn filled(lives: &[Life], ports: u64) -> Option<f64> {
    let mut changes: Vec<(f64, i64)> = lives
        .iter()
        .flat_map(|[opened, _, _, ended]| [(*opened, 1), (*ended, -1)])
        .collect();
    changes.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut used = 0;
    let full = changes.iter().find(|(_, change)| {
        used += change;
        used >= ports as i64
    });
    full.map(|(at, _)| *at)
}

fn at(seconds: f64) -> Timestamp {
    // The host did not come up at 0.
    Timestamp(((1_000.0 + seconds) * 1e9) as u64)
}

/// What the account says at `now`.
fn account(lives: &[Life], watched_from: f64, now: f64) -> RouteUse {
    let mut account = Account::default();
    let mut change = HoldingChange {
        at: at(now),
        netns: 1,
        netns_cookie: 1,
        flow: Flow {
            local: endpoint(0),
            peer: endpoint(3306),
        },
        side: Side::Client { bound: Some(false) },
        was: None,
        is: None,
    };
    let mut route = RouteUse::default();
    for [opened, closed, nominal, ended] in lives {
        if (watched_from..now).contains(opened) {
            *route.openings.entry(tenth(at(*opened))).or_default() += 1;
        }
        if *opened <= now && *ended > now {
            let waits = *closed <= now;
            change.is = Some(Holding {
                by: if waits {
                    Use::TimeWait
                } else {
                    Use::Established
                },
                owner: Owner::default(),
                port: 40_000,
                since: None,
                ends_at: waits.then(|| at(*nominal)),
            });
            account.handle(&change);
        }
    }
    let held = account.routes().next();
    RouteUse {
        openings: route.openings,
        ..held.map(|(_, used)| used.clone()).unwrap_or_default()
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        port,
    }
}

/// The forecast at half fill, and when that was and when the ports were used up.
fn at_half_fill(host: &Host) -> (Forecast, f64, Option<f64>) {
    let lives = host.run(1_200.0);
    let half = filled(&lives, host.capacity / 2).expect("half of the ports are used some day");
    let half = half.max(host.watched_from + 5.0);
    let used = account(&lives, host.watched_from, half);
    let said = forecast(&used, host.capacity, &host.habits(), at(half));
    (said, half, filled(&lives, host.capacity))
}

/// By how much the forecast at half fill misses the time that was left.
fn error(host: &Host) -> f64 {
    let (said, half, full) = at_half_fill(host);
    let left = full.expect("the ports are used up") - half;
    let Outlook::In(after) = said.outlook else {
        panic!("{said:?} at {half:.1} s, {left:.1} s before the end");
    };
    let error = after.as_secs_f64() / left - 1.0;
    println!(
        "rate {:6.0} growth {:6.1} begins {:4.0} watched from {:4.0} capacity {:6}: \
         at {half:6.1} s said {:6.1} s, were {left:6.1} s, error {:+5.1} %; seen {:6.1} {:+6.2}",
        host.rate,
        host.growth,
        host.begins,
        host.watched_from,
        host.capacity,
        after.as_secs_f64(),
        error * 100.0,
        said.rate,
        said.growth,
    );
    error
}

#[test]
fn a_steady_rate_is_forecast_within_a_tenth() {
    for rate in [480.0, 500.0, 700.0, 1_000.0, 1_700.0, 2_500.0] {
        let error = error(&Host { rate, ..HOST });
        assert!(error.abs() <= 0.1, "{error}");
    }
    for (capacity, rate) in [(500, 9.0), (500, 20.0), (64_511, 1_200.0)] {
        let error = error(&Host {
            capacity,
            rate,
            ..HOST
        });
        assert!(error.abs() <= 0.1, "{error}");
    }
}

#[test]
fn a_growing_rate_is_forecast_within_a_tenth() {
    for (rate, growth) in [
        (0.0, 20.0),
        (0.0, 50.0),
        (0.0, 200.0),
        (100.0, 20.0),
        (200.0, 10.0),
        (400.0, 5.0),
        (300.0, 100.0),
        (1_500.0, -10.0),
    ] {
        let error = error(&Host {
            rate,
            growth,
            ..HOST
        });
        assert!(error.abs() <= 0.1, "{error}");
    }
    let small = Host {
        capacity: 500,
        rate: 2.0,
        growth: 0.5,
        ..HOST
    };
    let error = error(&small);
    assert!(error.abs() <= 0.1, "{error}");
}

#[test]
fn a_load_that_has_just_begun_is_forecast_within_a_tenth() {
    for begins in [1.3, 5.0, 12.0, 25.0, 60.0] {
        for (rate, growth) in [(600.0, 0.0), (1_500.0, 0.0), (0.0, 60.0), (500.0, 20.0)] {
            let error = error(&Host {
                rate,
                growth,
                begins,
                ..HOST
            });
            assert!(error.abs() <= 0.1, "{error}");
        }
    }
}

#[test]
fn time_waits_from_before_the_watch_are_known_by_their_timers() {
    for watched_from in [3.0, 8.0, 15.0] {
        let host = Host {
            watched_from,
            ..HOST
        };
        let error = error(&Host {
            rate: 550.0,
            ..host
        });
        assert!(error.abs() <= 0.1, "{error}");
    }
    // A load that doubles when the first have gone.
    let host = Host {
        rate: 200.0,
        watched_from: 100.0,
        ..HOST
    };
    let before = host.run(130.0);
    let mut lives = before.clone();
    let more = Host {
        rate: 700.0,
        begins: 120.0,
        seed: None,
        ..HOST
    };
    lives.extend(more.run(300.0));
    lives.extend(host.run(300.0).into_iter().skip(before.len()));
    let half = filled(&lives, HOST.capacity / 2).expect("half");
    let full = filled(&lives, HOST.capacity).expect("full");
    let now = half.max(124.0);
    let used = account(&lives, 100.0, now);
    let said = forecast(&used, HOST.capacity, &host.habits(), at(now));
    let Outlook::In(after) = said.outlook else {
        panic!("{said:?}");
    };
    println!(
        "doubled: said {:.1} s, were {:.1} s",
        after.as_secs_f64(),
        full - now
    );
    assert!(
        (after.as_secs_f64() / (full - now) - 1.0).abs() <= 0.1,
        "{said:?}"
    );
}

#[test]
fn random_times_are_forecast_within_a_tenth_as_a_rule() {
    let mut errors: Vec<f64> = Vec::new();
    for seed in 0..40 {
        for (rate, growth) in [(600.0, 0.0), (1_000.0, 0.0), (0.0, 50.0)] {
            errors.push(
                error(&Host {
                    rate,
                    growth,
                    seed: Some(seed),
                    ..HOST
                })
                .abs(),
            );
        }
    }
    errors.sort_by(f64::total_cmp);
    let within = errors.iter().filter(|error| **error <= 0.1).count();
    println!(
        "{within} of {}; median {:.3}, worst {:.3}",
        errors.len(),
        errors[errors.len() / 2],
        errors[errors.len() - 1]
    );
    assert!(within * 100 >= errors.len() * 95, "{errors:?}");
}

#[test]
fn a_rate_whose_steady_state_fits_never_uses_the_ports_up() {
    let even = [50.0, 300.0, 440.0].map(|rate| (rate, None));
    let random = (0..40).map(|seed| (300.0, Some(seed)));
    for (rate, seed) in even.into_iter().chain(random) {
        let host = Host { rate, seed, ..HOST };
        let lives = host.run(310.0);
        for now in [10.0, 45.0, 61.0, 100.0, 300.0] {
            let used = account(&lives, 0.0, now);
            let said = forecast(&used, HOST.capacity, &host.habits(), at(now));
            assert_eq!(said.outlook, Outlook::Never, "{rate} at {now}: {said:?}");
            let truth = rate * 60.05;
            let error = said.steady_state / truth - 1.0;
            assert!(error.abs() < 0.2, "{said:?}, not {truth}");
        }
    }
}

#[test]
fn bursts_are_no_growth() {
    // A hundred connections at once, each second.
    let mut lives = Vec::new();
    for second in 0..40 {
        for nth in 0..100 {
            let opened = f64::from(second) + 0.31 + f64::from(nth) * 1e-4;
            lives.push([
                opened,
                opened + 0.05,
                opened + 60.05,
                expiry(opened + 60.05),
            ]);
        }
    }
    for now in [10.2, 20.7, 30.35, 39.9] {
        let used = account(&lives, 0.0, now);
        let said = forecast(&used, 28_232, &HOST.habits(), at(now));
        println!("{said:?}");
        assert!((said.rate / 100.0 - 1.0).abs() < 0.15, "{said:?}");
        assert_eq!(said.growth, 0.0, "{said:?}");
        assert_eq!(said.outlook, Outlook::Never, "{said:?}");
    }
}

#[test]
fn what_is_full_is_exhausted_at_once() {
    let used = account(&HOST.run(5.0), 4.9, 5.0);
    let said = forecast(&used, 2_000, &HOST.habits(), at(5.0));
    assert_eq!(said.outlook, Outlook::Exhausted);
}

#[test]
fn little_is_too_early() {
    let host = Host {
        watched_from: 20.0,
        ..HOST
    };
    let lives = host.run(30.0);
    let outlook = |watched_from, now, host: &Host| {
        let used = account(&lives, watched_from, now);
        forecast(&used, HOST.capacity, &host.habits(), at(now)).outlook
    };
    assert_eq!(outlook(20.0, 22.9, &host), Outlook::TooEarly);
    assert!(matches!(outlook(20.0, 23.2, &host), Outlook::In(_)));
    let slow = Host { rate: 0.25, ..HOST };
    let used = account(&slow.run(30.0), 0.0, 30.0);
    let said = forecast(&used, HOST.capacity, &slow.habits(), at(30.0));
    assert_eq!(said.outlook, Outlook::TooEarly);
}

#[test]
fn a_load_that_has_stopped_is_no_danger() {
    let lives = HOST.run(20.0);
    let used = account(&lives, 0.0, 30.0);
    let said = forecast(&used, HOST.capacity, &HOST.habits(), at(30.0));
    assert_eq!((said.outlook, said.rate), (Outlook::Never, 0.0));
}

#[test]
fn connections_that_do_not_close_fill_any_number_of_ports() {
    let host = Host {
        rate: 10.0,
        life: 1e6,
        ..HOST
    };
    let lives = host.run(60.0);
    let used = account(&lives, 0.0, 40.0);
    let mut habits = host.habits();
    habits.life = None;
    let said = forecast(&used, HOST.capacity, &habits, at(40.0));
    let Outlook::In(after) = said.outlook else {
        panic!("{said:?}");
    };
    let left = (HOST.capacity as f64 - 400.0) / 10.0;
    assert!(
        (after.as_secs_f64() / left - 1.0).abs() < 0.02,
        "{said:?}, not {left}"
    );
}

#[test]
fn long_lives_fill_the_ports_slowly() {
    // Half an hour each: known from those that closed, opened before the watch.
    let host = Host {
        rate: 20.0,
        life: 1_800.0,
        ..HOST
    };
    let lives = host.run(2_000.0);
    let full = filled(&lives, HOST.capacity).expect("full");
    let used = account(&lives, 0.0, 600.0);
    let said = forecast(&used, HOST.capacity, &host.habits(), at(600.0));
    let Outlook::In(after) = said.outlook else {
        panic!("{said:?}");
    };
    assert!(
        (after.as_secs_f64() / (full - 600.0) - 1.0).abs() <= 0.1,
        "{said:?}"
    );
}

#[test]
fn a_dwell_longer_than_the_horizon_changes_nothing_before_it() {
    let host = Host {
        rate: 20.0,
        dwell: 3_000.0,
        ..HOST
    };
    let error = error(&Host {
        capacity: 10_000,
        ..host
    });
    assert!(error.abs() <= 0.1, "{error}");
}

#[test]
fn time_waits_that_can_be_taken_over_hold_nothing() {
    let lives = HOST.run(200.0);
    let used = account(&lives, 0.0, 50.0);
    let mut habits = HOST.habits();
    habits.reusable_after = Some(Duration::from_secs(1));
    let said = forecast(&used, 20_000, &habits, at(50.0));
    assert_eq!(said.outlook, Outlook::Never);
    assert!((said.steady_state / 525.0 - 1.0).abs() < 0.05, "{said:?}");
}

#[test]
fn without_time_waits_a_port_is_free_at_the_close() {
    let host = Host { life: 2.0, ..HOST };
    let mut lives = host.run(30.0);
    for life in &mut lives {
        life[3] = life[1];
    }
    let used = account(&lives, 0.0, 30.0);
    let mut habits = host.habits();
    habits.time_wait_share = 0.0;
    let said = forecast(&used, 1_500, &habits, at(30.0));
    assert_eq!(said.outlook, Outlook::Never, "{said:?}");
    assert!((said.steady_state / 1_000.0 - 1.0).abs() < 0.02, "{said:?}");
}
