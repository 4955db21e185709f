//! listener-without-reuseaddr: a server that cannot be restarted while its TIME_WAITs last.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tracer_common::tcp::Endpoint;

use super::programs::{is_there, listening};
use super::words::{count, finding, many, who};
use crate::diagnosis::{Advice, Check, Finding, Listener, Rule, Seen, Severity, Subject};
use crate::ports::{Program, Service, ServiceUse};
use crate::record::Source;
use crate::record::holding::Use;
use crate::stream::Call;

/// Without SO_REUSEADDR bind() fails with EADDRINUSE while a TIME_WAIT holds the port, whoever its
/// peer is. Warning: a listener was bound without, and TIME_WAITs lie on its port: its next restart
/// will fail. Error: a bind() has failed so, and nothing listens there.
///
/// A server whose clients close first has no TIME_WAITs, and nothing is said of it.
pub(super) struct ListenerWithoutReuseaddr;

impl Rule for ListenerWithoutReuseaddr {
    fn name(&self) -> &'static str {
        "listener-without-reuseaddr"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut findings = failed_restarts(seen);
        findings.extend(restarts_to_fail(seen));
        Check::of(findings)
    }
}

/// What a restart meets.
fn time_waits(seen: &Seen, service: &Service) -> u64 {
    let used = seen.ports.service(service);
    used.map_or(0, |used| used.counts.of(Use::TimeWait))
}

fn restarts_to_fail(seen: &Seen) -> Vec<Finding> {
    // Many sockets may listen on one port, SO_REUSEPORT allowing: it is told once.
    let mut listeners: BTreeMap<(Service, Program), &Listener> = BTreeMap::new();
    for listener in seen.listeners.values() {
        if listener.reuse_address == Some(false) && is_there(seen, listener) {
            let key = (listener.service, listening(seen, listener).0);
            let known = listeners.entry(key).or_insert(listener);
            if listener.address < known.address {
                *known = listener;
            }
        }
    }
    let listeners = listeners.into_values();
    listeners
        .filter_map(|listener| restart_to_fail(seen, listener))
        .collect()
}

fn restart_to_fail(seen: &Seen, listener: &Listener) -> Option<Finding> {
    let time_waits = time_waits(seen, &listener.service);
    if time_waits == 0 {
        return None;
    }
    let Service { netns_cookie, port } = listener.service;
    let (program, holders) = listening(seen, listener);
    let name = who(seen, &program);
    let summary = format!(
        "{name}: a restart will fail on port {port}: no SO_REUSEADDR, {}",
        many(time_waits, "TIME_WAIT")
    );
    let subject = Subject {
        netns_cookie: Some(netns_cookie),
        program: Some(program),
        program_source: holders.map_or(Source::Unknown, |holders| holders.source),
        pids: holders.map_or_else(Vec::new, |holders| holders.pids.clone()),
        local_port: Some(port),
        ..Subject::default()
    };
    let rule = ListenerWithoutReuseaddr.name();
    let mut finding = finding(rule, Severity::Warning, subject, summary, time_waits);
    let local = Endpoint {
        address: listener.address,
        port,
    };
    finding.evidence = vec![
        format!("The listener on {local} was bound without SO_REUSEADDR."),
        format!(
            "{} on its port now: this side closed those connections first.",
            match time_waits {
                1 => "1 TIME_WAIT is".to_owned(),
                _ => format!("{} TIME_WAITs are", count(time_waits)),
            }
        ),
        "Once the listener is closed, bind() to that port fails with EADDRINUSE until the last of \
         them has ended, a little over 60 s later."
            .to_owned(),
    ];
    finding.advice = vec![set_reuse_address()];
    Some(finding)
}

/// A bind() that failed.
#[derive(Default)]
struct Failed {
    count: u64,
    address: Option<IpAddr>,
    pids: Vec<u32>,
}

fn failed_restarts(seen: &Seen) -> Vec<Finding> {
    let mut failed: BTreeMap<(Service, Program), Failed> = BTreeMap::new();
    for (key, tally) in &seen.tallies.calls {
        let is_taken = key.call == Call::Bind && i32::from(key.errno) == libc::EADDRINUSE;
        let Some(address) = key.address.filter(|address| is_taken && address.port != 0) else {
            continue;
        };
        let place = Service {
            netns_cookie: key.netns_cookie,
            port: address.port,
        };
        let Some(service) = blocked(seen, place) else {
            continue;
        };
        let failures = failed.entry((service, key.program)).or_default();
        failures.count += tally.count;
        failures.address = failures.address.max(Some(address.address));
        failures.pids.extend(&tally.pids);
    }
    let failed = failed.iter();
    failed
        .map(|((service, program), failed)| failed_restart(seen, service, program, failed))
        .collect()
}

/// The service there that has TIME_WAITs and no listener; of any network namespace where that of
/// `place` is not known.
fn blocked(seen: &Seen, place: Service) -> Option<Service> {
    let is_blocked = |used: &ServiceUse| used.listeners == 0 && used.counts.of(Use::TimeWait) > 0;
    if place.netns_cookie != 0 {
        let used = seen.ports.service(&place);
        return used.is_some_and(is_blocked).then_some(place);
    }
    let services = seen.ports.services();
    let blocked = services.filter(|(service, used)| service.port == place.port && is_blocked(used));
    blocked.map(|(service, _)| *service).min()
}

fn failed_restart(seen: &Seen, service: &Service, program: &Program, failed: &Failed) -> Finding {
    let time_waits = time_waits(seen, service);
    let port = service.port;
    let summary = format!(
        "{} cannot restart on port {port} until {} ended",
        who(seen, program),
        match time_waits {
            1 => "1 TIME_WAIT has".to_owned(),
            _ => format!("{} TIME_WAITs have", count(time_waits)),
        }
    );
    let subject = Subject {
        netns_cookie: Some(service.netns_cookie),
        program: Some(*program),
        program_source: Source::Exact,
        pids: failed.pids.clone(),
        source: failed.address.filter(|address| !address.is_unspecified()),
        local_port: Some(port),
        failed: Some(failed.count),
        ..Subject::default()
    };
    let rule = ListenerWithoutReuseaddr.name();
    let mut finding = finding(rule, Severity::Error, subject, summary, failed.count);
    let others = seen
        .ports
        .service(service)
        .map_or(0, |used| used.counts.total())
        - time_waits;
    finding.evidence = vec![
        format!(
            "bind() to port {port} failed with EADDRINUSE {}.",
            many(failed.count, "time")
        ),
        format!(
            "Nothing listens there; {} of connections that this side closed first hold the port, \
             each for a little over 60 s.",
            many(time_waits, "TIME_WAIT")
        ),
    ];
    if others > 0 {
        finding.evidence.push(format!(
            "{} of the old server that are not closed yet hold it as well.",
            many(others, "connection")
        ));
    }
    finding.advice = vec![set_reuse_address()];
    finding
}

fn set_reuse_address() -> Advice {
    Advice {
        what: "set SO_REUSEADDR on the listening socket before bind()".to_owned(),
        command: Some(
            "setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)); bind(fd, …);"
                .to_owned(),
        ),
        present: Some("off".to_owned()),
        proposed: Some("on".to_owned()),
        effect: "bind() succeeds beside TIME_WAITs and open connections, and fails still where \
                 something else listens"
            .to_owned(),
        caution: Some(
            "it helps listeners; a client's bind() succeeds with it too, but its connect() fails \
             all the same"
                .to_owned(),
        ),
        reference: "man 7 socket; RFC 9293 3.6.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program};

    fn found(example: &Example) -> Vec<Finding> {
        match ListenerWithoutReuseaddr.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    fn listener(reuse_address: Option<bool>, time_waits: u16) -> Example {
        let mut example = Example::new();
        let app = program("app");
        example.listen("0.0.0.0:8080", app);
        for listener in example.seen.listeners.values_mut() {
            listener.reuse_address = reuse_address;
        }
        example.serve(8080, app, Use::TimeWait, time_waits);
        example.serve(8080, app, Use::Established, 10);
        example
    }

    #[test]
    fn a_restart_that_will_fail_is_a_warning() {
        let [finding] = &found(&listener(Some(false), 1_200))[..] else {
            panic!("one finding")
        };
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(
            finding.summary,
            "app: a restart will fail on port 8080: no SO_REUSEADDR, 1,200 TIME_WAITs"
        );
    }

    #[test]
    fn a_listener_that_can_restart_is_nothing() {
        assert_eq!(found(&listener(Some(true), 1_200)), []);
        assert_eq!(found(&listener(None, 1_200)), []);
        assert_eq!(found(&listener(Some(false), 0)), []);
        // What it left behind is told where its bind() fails.
        let mut gone = Example::new();
        gone.seen.listeners = listener(Some(false), 0).seen.listeners;
        gone.serve(8080, program(""), Use::TimeWait, 1_200);
        assert_eq!(found(&gone), []);
    }

    fn bind(example: &mut Example, address: &str) {
        let call = (Call::Bind, libc::EADDRINUSE);
        example.fail(call, Some(address), program("app"), (4, 0));
    }

    #[test]
    fn a_restart_that_fails_is_an_error() {
        let mut example = Example::new();
        example.serve(8080, program(""), Use::TimeWait, 300);
        bind(&mut example, "0.0.0.0:8080");
        let [finding] = &found(&example)[..] else {
            panic!("one finding")
        };
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "app cannot restart on port 8080 until 300 TIME_WAITs have ended"
        );
        assert_eq!(finding.subject.failed, Some(4));
    }

    #[test]
    fn a_port_that_another_program_listens_on_is_not_held_by_time_waits() {
        let mut example = listener(Some(true), 300);
        bind(&mut example, "0.0.0.0:8080");
        assert_eq!(found(&example), []);
        // Nor is one that nothing holds any more, or another one.
        let mut example = Example::new();
        bind(&mut example, "0.0.0.0:8080");
        example.serve(9090, program(""), Use::TimeWait, 300);
        assert_eq!(found(&example), []);
    }
}
