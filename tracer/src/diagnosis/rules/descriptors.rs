//! descriptors-exhausted: socket() or accept() finds no file descriptor.

use super::failures::Failures;
use super::programs::is_same;
use super::words::{count, finding, many, not_time_wait, of_the_worst, who};
use crate::diagnosis::{Advice, Check, Finding, Rule, Seen, Severity};
use crate::stream::Call;

/// EMFILE: the process is at its RLIMIT_NOFILE; ENFILE: the host is at fs.file-max. A healthy host
/// meets neither: from the third on it is an error, before a warning.
pub(super) struct DescriptorsExhausted;

impl Rule for DescriptorsExhausted {
    fn name(&self) -> &'static str {
        "descriptors-exhausted"
    }

    fn check(&self, seen: &Seen) -> Check {
        let failures = Failures::all(seen, |key| {
            matches!(key.call, Call::Socket | Call::Accept)
                && [libc::EMFILE, libc::ENFILE].contains(&key.errno.into())
        });
        let count = |failures: &Failures| failures.count;
        Check::of(of_the_worst(failures, count, |failures| {
            Some(exhausted(seen, failures))
        }))
    }
}

fn exhausted(seen: &Seen, failures: &Failures) -> Finding {
    let severity = match failures.count {
        3.. => Severity::Error,
        _ => Severity::Warning,
    };
    let calls: Vec<_> = failures
        .calls
        .keys()
        .map(|call| format!("{}()", call.name()))
        .collect();
    let of_the_host = failures.has(libc::ENFILE);
    let summary = format!(
        "{}: {} fails for want of file descriptors{}: {}",
        who(seen, &failures.program),
        calls.join(" and "),
        if of_the_host { " of the host" } else { "" },
        many(failures.count, "time")
    );
    let rule = DescriptorsExhausted.name();
    let mut finding = finding(rule, severity, failures.subject(), summary, failures.count);
    finding.evidence.push(failures.told());
    finding
        .evidence
        .extend(not_time_wait(seen, failures.netns_cookie, None));
    let leaked = close_waits(seen, failures);
    if leaked > 0 {
        finding.evidence.push(format!(
            "{} of its descriptors are connections in CLOSE_WAIT, which the peer has closed and the \
             program has not.",
            count(leaked)
        ));
        finding.advice.push(Advice {
            what:
                "close the connections in CLOSE_WAIT in the program: close() when read() returns 0"
                    .to_owned(),
            effect: format!("gives {} back", many(leaked, "descriptor")),
            reference: "RFC 9293 3.6; man 2 close",
            ..Advice::default()
        });
    }
    if failures.has(libc::EMFILE) {
        finding.advice.push(process_limit(failures));
    }
    if of_the_host {
        finding.advice.push(Advice {
            what: "raise the host's limit, once it is known who holds so many".to_owned(),
            command: Some("cat /proc/sys/fs/file-nr; sysctl -w fs.file-max=NUMBER".to_owned()),
            effect: "file-nr shows open, unused and the limit".to_owned(),
            caution: Some("each open file costs kernel memory".to_owned()),
            reference: "man 2 socket; man 5 proc_sys_fs",
            ..Advice::default()
        });
    }
    finding
        .warnings
        .push("A TIME_WAIT holds no descriptor: to shorten or reuse them frees none.".to_owned());
    finding
}

fn process_limit(failures: &Failures) -> Advice {
    let pid = failures
        .pid()
        .map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
    Advice {
        what: "see what the descriptors are, and raise RLIMIT_NOFILE if none of them is leaked"
            .to_owned(),
        command: Some(format!(
            "ls -l /proc/{pid}/fd | wc -l; prlimit --pid {pid} --nofile"
        )),
        effect: "`prlimit --pid PID --nofile=SOFT:HARD` raises it at once in the running process; \
                 LimitNOFILE= in its unit keeps it"
            .to_owned(),
        caution: Some("a leak only takes longer to meet a higher limit".to_owned()),
        reference: "man 2 socket; man 1 prlimit",
        ..Advice::default()
    }
}

/// How many CLOSE_WAITs the program holds.
fn close_waits(seen: &Seen, failures: &Failures) -> u64 {
    let own = seen
        .close_waits
        .iter()
        .filter(|((netns_cookie, program), _)| {
            (failures.netns_cookie == 0 || failures.netns_cookie == *netns_cookie)
                && is_same(program, &failures.program)
        });
    own.map(|(_, waits)| waits.since_unknown + waits.since.values().sum::<u64>())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::CloseWaits;
    use crate::diagnosis::example::{Example, HOST, pid, program};

    fn found(example: &Example) -> Vec<Finding> {
        match DescriptorsExhausted.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    #[test]
    fn a_process_at_its_limit_is_an_error_with_its_command() {
        let mut example = Example::new();
        let nginx = program("nginx");
        example.fail((Call::Accept, libc::EMFILE), None, nginx, (2, 0));
        assert_eq!(found(&example)[0].severity, Severity::Warning);
        example.fail((Call::Accept, libc::EMFILE), None, nginx, (1, 0));
        let finding = &found(&example)[0];
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "nginx: accept() fails for want of file descriptors: 3 times"
        );
        assert!(finding.evidence[1].starts_with("It is not TIME_WAIT: none of 28,232"));
        let pid = pid(&nginx);
        let command = finding.advice[0].command.clone();
        let prlimit = format!("prlimit --pid {pid} --nofile");
        assert!(command.is_some_and(|command| command.contains(&prlimit)));
    }

    #[test]
    fn a_leak_of_close_waits_is_advised_upon_first() {
        let mut example = Example::new();
        let app = program("app");
        example.fail((Call::Socket, libc::EMFILE), None, app, (50, 0));
        let waits = CloseWaits {
            since_unknown: 900,
            ..CloseWaits::default()
        };
        example.seen.close_waits.insert((HOST, app), waits);
        let finding = &found(&example)[0];
        assert_eq!(finding.advice[0].effect, "gives 900 descriptors back");
    }

    #[test]
    fn want_of_memory_is_not_want_of_descriptors() {
        let mut example = Example::new();
        let app = program("app");
        example.fail((Call::Socket, libc::ENOMEM), None, app, (50, 0));
        example.fail((Call::Connect, libc::EMFILE), None, app, (50, 0));
        assert_eq!(found(&example), []);
    }
}
