//! fin-wait2-waiting: we have closed, and the peers do not.

use std::time::Duration;

use super::places::Place;
use super::words::{count, finding, is_at_least, many, percent, who};
use crate::diagnosis::command::sysctl;
use crate::diagnosis::{Advice, Check, Finding, Rule, Seen, Severity, Subject, Traffic};
use crate::ports::{Holders, Program, Route, RouteUse, tenth};
use crate::record::FinWait2Exit;
use crate::record::Source;
use crate::record::holding::Use;

/// FIN_WAIT2 lasts until the peer's program closes, or until tcp_fin_timeout. Warning: on a route or
/// service of a program at least 10 of them, a tenth of those that ended, ended for want of the
/// peer's FIN; or on a route at least 100 have waited for [`LONG`].
///
/// A healthy peer closes within milliseconds. On the Internet a few in a hundred vanish without a
/// word, hence the tenth. How long a server's wait now is not told: its time-outs tell.
pub(super) struct FinWait2Waiting;

/// A peer that has not closed for so long is not about to.
const LONG: Duration = Duration::from_secs(5);

/// From so many time-outs on,
const TIMED_OUT: u64 = 10;
/// and from so many that wait now.
const WAITING: u64 = 100;

/// How long TIME_WAIT is set to last, seconds (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT_S: u64 = 60;

impl Rule for FinWait2Waiting {
    fn name(&self) -> &'static str {
        "fin-wait2-waiting"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut places: Vec<(Place, Program)> = Vec::new();
        for (route, programs) in &seen.tallies.routes {
            places.extend(programs.keys().map(|program| (Place::To(*route), *program)));
        }
        for (service, programs) in &seen.tallies.services {
            places.extend(
                programs
                    .keys()
                    .map(|program| (Place::At(*service), *program)),
            );
        }
        for (route, used) in seen.ports.routes() {
            if waiting(seen, route, used) >= WAITING {
                let most = |(_, holders): &(&Program, &Holders)| holders.counts.of(Use::FinWait2);
                let holder = used.programs.iter().max_by_key(most);
                places.extend(holder.map(|(program, _)| (Place::To(*route), *program)));
            }
        }
        places.sort_unstable();
        places.dedup();
        let findings = places.into_iter();
        let findings = findings.filter_map(|(place, program)| unanswered(seen, place, program));
        Check::of(findings.collect())
    }
}

/// How many of a route have waited for [`LONG`], at least. The timers of a route's TIME_WAITs and
/// FIN_WAIT2s are known without which is whose: what ends so soon that it must have begun that long
/// ago is a FIN_WAIT2 for certain where it is more than all the TIME_WAITs.
fn waiting(seen: &Seen, route: &Route, used: &RouteUse) -> u64 {
    let timeout = fin_timeout(seen, route.netns_cookie).unwrap_or(TIME_WAIT_S);
    let Some(left) = timeout.min(TIME_WAIT_S).checked_sub(LONG.as_secs()) else {
        return 0;
    };
    let old = used
        .ends
        .range(..tenth(seen.now + Duration::from_secs(left)));
    let old: u64 = old.map(|(_, count)| u64::from(*count)).sum();
    old.saturating_sub(used.counts.of(Use::TimeWait))
}

/// Of these, those that must be the program's: at most as many as the others have may be theirs.
fn own_waiting(seen: &Seen, route: &Route, used: &RouteUse, program: &Program) -> u64 {
    let all = used.counts.of(Use::FinWait2);
    let own = used.programs.get(program);
    let own = own.map_or(0, |holders| holders.counts.of(Use::FinWait2));
    waiting(seen, route, used).saturating_sub(all.saturating_sub(own))
}

fn fin_timeout(seen: &Seen, netns_cookie: u64) -> Option<u64> {
    seen.settings(netns_cookie)?.fin_timeout_s.map(u64::from)
}

fn unanswered(seen: &Seen, place: Place, program: Program) -> Option<Finding> {
    let (netns_cookie, traffic, holders, waiting) = match place {
        Place::To(route) => {
            let used = seen.ports.route(&route);
            (
                route.netns_cookie,
                seen.tallies
                    .routes
                    .get(&route)
                    .and_then(|programs| programs.get(&program)),
                used.and_then(|used| used.programs.get(&program)),
                used.map_or(0, |used| own_waiting(seen, &route, used, &program)),
            )
        }
        Place::At(service) => {
            let used = seen.ports.service(&service);
            (
                service.netns_cookie,
                seen.tallies
                    .services
                    .get(&service)
                    .and_then(|programs| programs.get(&program)),
                used.and_then(|used| used.programs.get(&program)),
                0,
            )
        }
    };
    let now = holders.map_or(0, |holders| holders.counts.of(Use::FinWait2));
    let (timed_out, ended) = traffic.map_or((0, 0), exits);
    let do_time_out = timed_out >= TIMED_OUT && is_at_least(timed_out, 10, ended);
    if !do_time_out && waiting < WAITING {
        return None;
    }
    let (of, destination, local_port) = match place {
        Place::To(route) => (
            format!("{} does not close", route.destination),
            Some(route.destination),
            None,
        ),
        Place::At(service) => (
            format!("peers of port {} do not close", service.port),
            None,
            Some(service.port),
        ),
    };
    let summary = format!(
        "{}: {of}: {} in FIN_WAIT2, {} timed out",
        who(seen, &program),
        count(now),
        count(timed_out)
    );
    let subject = Subject {
        netns_cookie: Some(netns_cookie),
        program: Some(program),
        program_source: holders.map_or(Source::Unknown, |holders| holders.source),
        pids: holders.map_or_else(Vec::new, |holders| holders.pids.clone()),
        destination,
        local_port,
        used: Some(now),
        failed: Some(timed_out),
        ..Subject::default()
    };
    let rule = FinWait2Waiting.name();
    let mut finding = finding(
        rule,
        Severity::Warning,
        subject,
        summary,
        now.max(timed_out),
    );
    finding.evidence.push(format!(
        "{} of {} ended without the peer's FIN ({}).",
        count(timed_out),
        many(ended, "FIN_WAIT2"),
        percent(timed_out, ended)
    ));
    if waiting > 0 {
        finding.evidence.push(format!(
            "{} in FIN_WAIT2 now, at least {} of them for more than {} s.",
            match now {
                1 => "1 connection is".to_owned(),
                _ => format!("{} connections are", count(now)),
            },
            count(waiting),
            LONG.as_secs()
        ));
    }
    finding.evidence.push(
        "This side has sent its FIN and it is acknowledged: the peer's host is well, its program \
         does not close."
            .to_owned(),
    );
    if matches!(place, Place::To(_)) {
        finding.evidence.push(
            "Each holds an ephemeral port, as a TIME_WAIT does, and cannot be reused.".to_owned(),
        );
    }
    finding.advice = advice(seen, netns_cookie, destination.is_some());
    finding.warnings = vec![
        "tcp_tw_reuse does not take over a FIN_WAIT2.".to_owned(),
        "tcp_fin_timeout is right for FIN_WAIT2 alone: it does not shorten TIME_WAIT.".to_owned(),
    ];
    Some(finding)
}

/// FIN_WAIT2s that timed out, of those that ended.
fn exits(traffic: &Traffic) -> (u64, u64) {
    let exits = &traffic.fin_wait2_exits;
    let timed_out = exits.get(&FinWait2Exit::TimedOut).copied();
    (timed_out.unwrap_or(0), exits.values().sum())
}

fn advice(seen: &Seen, netns_cookie: u64, is_client: bool) -> Vec<Advice> {
    let present = fin_timeout(seen, netns_cookie);
    let proposed = present.map_or(15, |present| (present / 4).clamp(5, 15));
    let peer = Advice {
        what: match is_client {
            true => {
                "see why the program at the destination does not close: there these connections \
                     are CLOSE_WAITs"
            }
            false => "see why the clients do not close: there these connections are CLOSE_WAITs",
        }
        .to_owned(),
        command: Some("ss -tnp state close-wait".to_owned()),
        effect: "run there it names the program that does not close() after read() returned 0; \
                 nothing there means that a middlebox swallows its FINs"
            .to_owned(),
        reference: "RFC 9293 3.6",
        ..Advice::default()
    };
    let timeout = Advice {
        what: "wait less long for the peer's FIN".to_owned(),
        command: Some(sysctl(
            seen,
            netns_cookie,
            "net.ipv4.tcp_fin_timeout",
            &proposed.to_string(),
        )),
        present: present.map(|present| format!("net.ipv4.tcp_fin_timeout = {present}")),
        proposed: Some(proposed.to_string()),
        effect: format!(
            "each of them is over {proposed} s after close(){}",
            present.map_or_else(String::new, |present| format!(" in place of {present} s"))
        ),
        caution: Some(
            "a peer that closes or sends later than that is answered with an RST".to_owned(),
        ),
        reference: "man 7 tcp",
    };
    let option = Advice {
        what: "set the same for one program's sockets, with TCP_LINGER2".to_owned(),
        command: Some(format!(
            "setsockopt(fd, IPPROTO_TCP, TCP_LINGER2, &(int){{{proposed}}}, sizeof(int))"
        )),
        effect: "as tcp_fin_timeout, for those sockets alone".to_owned(),
        caution: Some("a negative value resets the connection at once".to_owned()),
        reference: "man 7 tcp",
        ..Advice::default()
    };
    match present {
        // It is as short as it may well be.
        Some(present) if present <= proposed => vec![peer],
        _ => vec![peer, timeout, option],
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::tcp::{Endpoint, Flow};

    use super::*;
    use crate::diagnosis::example::{Example, HOST, program, route};
    use crate::record::Process;
    use crate::record::holding::{Holding, HoldingChange, Owner, Side};

    fn found(example: &Example) -> Vec<Finding> {
        match FinWait2Waiting.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    fn exits(traffic: &mut Traffic, timed_out: u64, answered: u64) {
        traffic
            .fin_wait2_exits
            .insert(FinWait2Exit::TimedOut, timed_out);
        traffic
            .fin_wait2_exits
            .insert(FinWait2Exit::PeerFin, answered);
    }

    /// FIN_WAIT2s of minisockets, entered so long ago.
    fn wait(example: &mut Example, count: u16, ago: Duration) {
        let there = route("10.0.0.9:80");
        let process = Process {
            name: program("proxy").name,
            ..Process::default()
        };
        for port in 10_000..10_000 + count {
            let local = Endpoint {
                address: there.source,
                port,
            };
            let flow = Flow {
                local,
                peer: there.destination,
            };
            let holding = Holding {
                by: Use::FinWait2,
                owner: Owner {
                    process,
                    cgroup_id: None,
                },
                port,
                since: None,
                ends_at: Some(example.seen.now + (Duration::from_secs(60) - ago)),
            };
            example.seen.ports.handle(&HoldingChange {
                at: example.seen.now,
                netns: 0,
                netns_cookie: HOST,
                flow,
                side: Side::Client { bound: Some(false) },
                was: None,
                is: Some(holding),
            });
        }
    }

    #[test]
    fn peers_that_never_close_are_a_warning_and_tcp_fin_timeout_is_right() {
        let mut example = Example::new();
        exits(example.served(443, program("nginx")), 30, 100);
        let finding = &found(&example)[0];
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(
            finding.summary,
            "nginx: peers of port 443 do not close: 0 in FIN_WAIT2, 30 timed out"
        );
        let timeout = &finding.advice[1];
        let command = timeout.command.as_deref();
        assert_eq!(command, Some("sysctl -w net.ipv4.tcp_fin_timeout=15"));
        assert_eq!(
            timeout.present.as_deref(),
            Some("net.ipv4.tcp_fin_timeout = 60")
        );
        // Where it is short already, there is the peer alone to look at.
        example.settings().fin_timeout_s = Some(5);
        assert_eq!(found(&example)[0].advice.len(), 1);
    }

    #[test]
    fn the_few_clients_that_vanish_on_the_internet_are_nothing() {
        let mut example = Example::new();
        exits(example.served(443, program("nginx")), 9, 0);
        assert_eq!(found(&example), []);
        exits(example.served(443, program("nginx")), 99, 901);
        assert_eq!(found(&example), []);
        exits(example.served(443, program("nginx")), 100, 900);
        assert_eq!(found(&example).len(), 1);
    }

    #[test]
    fn those_that_wait_now_are_told_before_they_time_out() {
        let mut example = Example::new();
        wait(&mut example, 99, Duration::from_secs(6));
        assert_eq!(found(&example), []);
        wait(&mut example, 1, Duration::from_secs(6));
        let [finding] = &found(&example)[..] else {
            panic!("one finding")
        };
        assert_eq!(
            finding.summary,
            "proxy: 10.0.0.9:80 does not close: 100 in FIN_WAIT2, 0 timed out"
        );
        // As many of another program may be those that have waited.
        let mut shared = Example::new();
        wait(&mut shared, 100, Duration::from_secs(6));
        let other = program("other");
        shared.hold(route("10.0.0.9:80"), other, Use::FinWait2, 1);
        assert_eq!(found(&shared), []);
        // Among many TIME_WAITs it is not certain whose the timers are: time-outs will tell.
        let there = route("10.0.0.9:80");
        example.hold(there, program("proxy"), Use::TimeWait, 1_000);
        assert_eq!(found(&example), []);
    }

    #[test]
    fn a_burst_of_closes_is_nothing() {
        let mut example = Example::new();
        wait(&mut example, 5_000, Duration::from_millis(4_800));
        assert_eq!(found(&example), []);
    }
}
