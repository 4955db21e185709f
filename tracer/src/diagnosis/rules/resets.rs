//! resets-sent: we end connections with an RST, and what is under way is lost.

use super::places::{Place, places};
use super::words::{count, finding, is_at_least, many, percent, who};
use crate::diagnosis::{Advice, Check, Finding, Rule, Seen, Severity, Subject, Traffic};
use crate::ports::{Holders, Program};
use crate::record::{CloseCause, CloseKind, Source};

/// close() with data unread, data that comes after close(), or close() with SO_LINGER 0. Warning,
/// for each cause by itself: at least 10 on a route or service of a program that are a hundredth of
/// its closes. A few come of clients that stop in the middle, as healthy ones do now and then.
pub(super) struct ResetsSent;

/// From so many on.
const SOME: u64 = 10;

/// What is told apart.
const CAUSES: [CloseCause; 3] = [
    CloseCause::UnreadData,
    CloseCause::DataAfterClose,
    CloseCause::LingerZero,
];

impl Rule for ResetsSent {
    fn name(&self) -> &'static str {
        "resets-sent"
    }

    fn check(&self, seen: &Seen) -> Check {
        let resets = places(seen).into_iter().flat_map(|(place, programs)| {
            let programs = programs.into_iter();
            programs.map(move |(program, traffic)| Resets {
                seen,
                place,
                program: *program,
                traffic,
                holders: holders(seen, &place, program),
            })
        });
        let resets: Vec<_> = resets.collect();
        let findings = resets.iter().flat_map(|resets| {
            let findings = CAUSES.into_iter();
            findings.filter_map(|cause| resets.finding(cause))
        });
        Check::of(findings.collect())
    }
}

/// What the program holds there now.
fn holders<'a>(seen: &'a Seen, place: &Place, program: &Program) -> Option<&'a Holders> {
    match place {
        Place::To(route) => seen.ports.route(route)?.programs.get(program),
        Place::At(service) => seen.ports.service(service)?.programs.get(program),
    }
}

/// The closes of one program in one place.
struct Resets<'a> {
    seen: &'a Seen,
    place: Place,
    program: Program,
    traffic: &'a Traffic,
    holders: Option<&'a Holders>,
}

impl Resets<'_> {
    fn finding(&self, cause: CloseCause) -> Option<Finding> {
        let reset = self.traffic.caused(CloseKind::ResetSent, cause);
        // A connect() that failed has not closed anything.
        let closed = self.traffic.total() - self.traffic.closed(CloseKind::ConnectFailed);
        if reset < SOME || !is_at_least(reset, 1, closed) {
            return None;
        }
        let place = self.place.name();
        let how = match cause {
            CloseCause::LingerZero => "by SO_LINGER 0",
            CloseCause::DataAfterClose => "as data comes after close()",
            _ => "with data unread",
        };
        let summary = format!(
            "{} resets {} of {} {place} {how}",
            who(self.seen, &self.program),
            count(reset),
            many(closed, "connection")
        );
        let subject = Subject {
            program_source: self
                .holders
                .map_or(Source::Unknown, |holders| holders.source),
            pids: self
                .holders
                .map_or_else(Vec::new, |holders| holders.pids.clone()),
            failed: Some(reset),
            ..self.place.subject(Some(self.program))
        };
        let mut finding = finding(
            ResetsSent.name(),
            Severity::Warning,
            subject,
            summary,
            reset,
        );
        finding.evidence = vec![
            format!(
                "{} of {} closed since the watch began ended so ({}).",
                count(reset),
                many(closed, "connection"),
                percent(reset, closed)
            ),
            why(cause).to_owned(),
            "What this side had still to send is thrown away, and the peer's read() or write() fails \
             with ECONNRESET, perhaps before it has read what did arrive."
                .to_owned(),
        ];
        finding.advice = vec![advice(cause)];
        if cause == CloseCause::LingerZero {
            finding.warnings.push(
                "SO_LINGER 0 is passed around as a cure for TIME_WAIT: it avoids it by losing data, \
                 and the next connection with the same ports may get old segments (RFC 1337)."
                    .to_owned(),
            );
        }
        Some(finding)
    }
}

/// What makes the kernel send an RST.
const fn why(cause: CloseCause) -> &'static str {
    match cause {
        CloseCause::LingerZero => {
            "SO_LINGER is on with a time of 0: close() sends an RST in place of a FIN, whatever is \
             still unsent."
        }
        CloseCause::DataAfterClose => {
            "The peer went on sending after close(): there is nobody to read it, and the kernel says \
             so with an RST."
        }
        _ => {
            "The program called close() while received data was unread: the kernel says by an RST \
             that it was lost."
        }
    }
}

fn advice(cause: CloseCause) -> Advice {
    match cause {
        CloseCause::LingerZero => Advice {
            what: "remove SO_LINGER, or set it off".to_owned(),
            command: Some(
                "setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){0, 0}, …)".to_owned(),
            ),
            present: Some("SO_LINGER on, 0 s".to_owned()),
            proposed: Some("SO_LINGER off (the default)".to_owned()),
            effect: "close() sends what is unsent, then a FIN".to_owned(),
            caution: Some(
                "who closes first then holds a TIME_WAIT again: where ports are short, keep \
                 connections open instead"
                    .to_owned(),
            ),
            reference: "man 7 socket; RFC 9293 3.6; RFC 1337",
        },
        CloseCause::DataAfterClose => Advice {
            what: "say first that nothing more will be sent, and read until the peer has closed"
                .to_owned(),
            command: Some(
                "shutdown(fd, SHUT_WR); while (read(fd, buffer, size) > 0) {} close(fd);"
                    .to_owned(),
            ),
            effect: "the peer gets all that was sent, and a FIN in place of the RST".to_owned(),
            caution: Some("give the reading a time-out: a peer may never close".to_owned()),
            reference: "RFC 9293 3.6.1; RFC 1122 4.2.2.13; man 2 shutdown",
            ..Advice::default()
        },
        _ => Advice {
            what: "read to the end before close(), or shut down and drain".to_owned(),
            command: Some(
                "shutdown(fd, SHUT_WR); while (read(fd, buffer, size) > 0) {} close(fd);"
                    .to_owned(),
            ),
            effect: "close() sends a FIN, and the peer gets all that was sent to it".to_owned(),
            caution: Some(
                "bound what is drained by time and size; where a request is refused for its size, \
                 the answer is only read if the rest of the request is"
                    .to_owned(),
            ),
            reference: "RFC 1122 4.2.2.13; RFC 2525 2.17; man 2 shutdown",
            ..Advice::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::attempts::tests::{fail, succeed};
    use super::*;
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::Initiator;

    fn found(example: &Example) -> Vec<Finding> {
        match ResetsSent.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    fn reset(traffic: &mut Traffic, cause: CloseCause, count: u64) {
        traffic.add_closes(CloseKind::ResetSent, Some(cause), Initiator::Local, count);
    }

    #[test]
    fn a_server_that_closes_with_data_unread_is_told_to_drain() {
        let mut example = Example::new();
        let traffic = example.served(8080, program("app"));
        reset(traffic, CloseCause::UnreadData, 40);
        succeed(traffic, 160);
        let [finding] = &found(&example)[..] else {
            panic!("one finding")
        };
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(
            finding.summary,
            "app resets 40 of 200 connections at port 8080 with data unread"
        );
        assert_eq!(
            finding.evidence[0],
            "40 of 200 connections closed since the watch began ended so (20 %)."
        );
        let command = finding.advice[0].command.as_deref();
        assert!(command.is_some_and(|command| command.starts_with("shutdown(fd, SHUT_WR)")));
        assert_eq!(finding.subject.local_port, Some(8080));
    }

    #[test]
    fn linger_zero_is_no_cure_for_time_wait() {
        let mut example = Example::new();
        let traffic = example.traffic(route("10.0.0.9:6379"), program("worker"));
        reset(traffic, CloseCause::LingerZero, 5_000);
        let finding = &found(&example)[0];
        assert_eq!(
            finding.summary,
            "worker resets 5,000 of 5,000 connections to 10.0.0.9:6379 by SO_LINGER 0"
        );
        assert!(finding.warnings[0].contains("cure for TIME_WAIT"));
        assert!(finding.evidence[2].contains("thrown away"));
    }

    #[test]
    fn few_resets_are_nothing_whether_by_number_or_by_share() {
        let mut example = Example::new();
        let traffic = example.served(8080, program("app"));
        reset(traffic, CloseCause::DataAfterClose, 9);
        assert_eq!(found(&example), []);
        let traffic = example.served(8080, program("app"));
        reset(traffic, CloseCause::DataAfterClose, 491);
        succeed(traffic, 49_501);
        assert_eq!(found(&example), []);
        let traffic = example.served(8080, program("app"));
        reset(traffic, CloseCause::DataAfterClose, 1);
        assert_eq!(found(&example).len(), 1);
    }

    #[test]
    fn connects_that_fail_are_no_closes_to_take_a_share_of() {
        let mut example = Example::new();
        let now = example.seen.now;
        let traffic = example.traffic(route("10.0.0.9:80"), program("app"));
        reset(traffic, CloseCause::UnreadData, 10);
        succeed(traffic, 90);
        fail(traffic, CloseCause::Refused, 5_000, now);
        assert_eq!(found(&example).len(), 1);
    }
}
