//! denied: connect() fails at once because something on this host forbids it.

use super::failures::Failures;
use super::refused::no_sysctl;
use super::words::of_the_worst;
use crate::diagnosis::{Advice, Check, Finding, Rule, Seen};
use crate::stream::Call;

/// connect() returns EPERM or EACCES. From the third failure on it is an error; the two before are
/// information.
pub(super) struct Denied;

impl Rule for Denied {
    fn name(&self) -> &'static str {
        "denied"
    }

    fn check(&self, seen: &Seen) -> Check {
        let failures = Failures::all(seen, |key| {
            let errors = [libc::EPERM, libc::EACCES];
            key.call == Call::Connect && errors.contains(&key.errno.into())
        });
        let count = |failures: &Failures| failures.count;
        Check::of(of_the_worst(failures, count, |failures| {
            Some(denied(seen, failures))
        }))
    }
}

fn denied(seen: &Seen, failures: &Failures) -> Finding {
    let mut finding = failures.finding(seen, Denied.name(), "are denied on this host");
    let address = failures.example();
    if failures.has(libc::EPERM) {
        finding.evidence.push(
            "EPERM from connect() is a BPF program of its cgroup (a network policy), or a security \
             module."
                .to_owned(),
        );
        finding.advice.push(Advice {
            what: "list the BPF programs on the cgroups that judge connect()".to_owned(),
            command: Some("bpftool cgroup tree | grep -E 'connect[46]|inet_egress'".to_owned()),
            effect: "names the policy's program; whoever loaded it (Kubernetes' network plug-in, \
                     systemd's IPAddressDeny=) can allow the destination"
                .to_owned(),
            reference: "man 8 bpftool-cgroup; man 5 systemd.resource-control",
            ..Advice::default()
        });
    }
    if failures.has(libc::EACCES) {
        finding.evidence.push(
            "EACCES from connect() is a route of type prohibit, a security module (SELinux, \
             AppArmor), or a broadcast address."
                .to_owned(),
        );
        finding.advice.push(Advice {
            what: "see whether a route or a security module forbids it".to_owned(),
            command: Some(format!(
                "ip route get {address}; ausearch -m AVC -ts recent"
            )),
            effect: "a route that prohibits is named by the first, a denial by the second (or by \
                     dmesg)"
                .to_owned(),
            reference: "man 2 connect; man 8 ip-route",
            ..Advice::default()
        });
    }
    finding.warnings = vec![
        no_sysctl("a denied connect"),
        "A DROP of netfilter does not show here: TCP then waits as if the peer were silent."
            .to_owned(),
    ];
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Severity;
    use crate::diagnosis::example::{Example, program};

    fn found(example: &Example) -> Vec<Finding> {
        match Denied.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    #[test]
    fn three_denied_connects_are_an_error_that_names_what_may_deny() {
        let mut example = Example::new();
        let call = (Call::Connect, libc::EPERM);
        example.fail(call, Some("10.0.0.9:80"), program("curl"), (2, 0));
        assert_eq!(found(&example)[0].severity, Severity::Info);
        example.fail(call, Some("10.0.0.9:80"), program("curl"), (1, 0));
        let finding = &found(&example)[0];
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "curl: connects to 10.0.0.9:80 are denied on this host: 3 times"
        );
        let command = finding.advice[0].command.as_deref();
        assert!(command.is_some_and(|command| command.starts_with("bpftool cgroup tree")));
        assert_eq!(finding.advice.len(), 1);
    }

    #[test]
    fn a_bind_that_is_denied_is_not_a_connect() {
        let mut example = Example::new();
        let call = (Call::Bind, libc::EACCES);
        example.fail(call, Some("10.0.0.5:80"), program("nginx"), (9, 0));
        assert_eq!(found(&example), []);
    }
}
