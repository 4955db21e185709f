//! Every program of the object, and what each is for.

use std::str::FromStr;

use tracer_common::event::Hook;

/// One program of the object.
pub(super) struct Probe {
    pub(super) name: &'static str,
    pub(super) target: Target,
    pub(super) role: Role,
    pub(super) purpose: &'static str,
}

/// What a program is attached to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A tracepoint.
    Tracepoint(&'static str),
    /// The return from a function that has parameters of just these names: one that has changed is
    /// not watched. Many hosts refuse such programs.
    Exit {
        function: &'static str,
        parameters: &'static [&'static str],
    },
    /// The classic tracepoint at the return from one system call.
    Call(&'static str),
}

/// The category of [`Target::Call`]'s tracepoints.
pub(super) const CALLS: &str = "syscalls";

impl Target {
    /// The kernel's name of it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tracepoint(name) | Self::Exit { function: name, .. } | Self::Call(name) => name,
        }
    }
}

/// How a program takes part in its hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The only one, which shows minisockets by their timer: nothing of ours interrupts it.
    Alone,
    /// The only one; what it shows the others show too, only less exactly. Nobody misses anything
    /// where it is refused.
    Precision,
    /// The only one, which shows failed system calls; attached where those are asked for.
    Call,
    /// The first of two.
    First(Hook),
    /// The one that recovers what the first missed; attached right after it.
    Second(Hook),
}

/// The one without which nothing can be traced.
pub(super) const REQUIRED: Role = Role::First(Hook::State);

/// Every program, in the order of attaching.
pub(super) const PROBES: [Probe; 17] = [
    Probe {
        name: "set_state",
        target: Target::Tracepoint("inet_sock_set_state"),
        role: Role::First(Hook::State),
        purpose: "every transition",
    },
    Probe {
        name: "set_state_2",
        target: Target::Tracepoint("inet_sock_set_state"),
        role: Role::Second(Hook::State),
        purpose: "transitions inside an interrupt of another one: about 1 in 100 on a busy network",
    },
    Probe {
        name: "timer_start",
        target: Target::Tracepoint("timer_start"),
        role: Role::Alone,
        purpose: "TIME_WAIT: its beginning and its refreshes",
    },
    Probe {
        name: "timer_cancel",
        target: Target::Tracepoint("timer_cancel"),
        role: Role::Alone,
        purpose: "TIME_WAIT: its end by reuse or reset",
    },
    Probe {
        name: "timer_expire",
        target: Target::Tracepoint("timer_expire_entry"),
        role: Role::Alone,
        purpose: "TIME_WAIT: its end by expiry",
    },
    Probe {
        name: "receive_reset",
        target: Target::Tracepoint("tcp_receive_reset"),
        role: Role::First(Hook::ResetReceived),
        purpose: "whether the peer reset a connection",
    },
    Probe {
        name: "receive_reset_2",
        target: Target::Tracepoint("tcp_receive_reset"),
        role: Role::Second(Hook::ResetReceived),
        purpose: "resets received inside an interrupt of another one",
    },
    Probe {
        name: "send_reset",
        target: Target::Tracepoint("tcp_send_reset"),
        role: Role::First(Hook::ResetSent),
        purpose: "whether this host reset a connection",
    },
    Probe {
        name: "send_reset_2",
        target: Target::Tracepoint("tcp_send_reset"),
        role: Role::Second(Hook::ResetSent),
        purpose: "resets sent inside an interrupt of another one",
    },
    Probe {
        name: "free_segment",
        target: Target::Tracepoint("kfree_skb"),
        role: Role::First(Hook::Segment),
        purpose: "TIME_WAIT: the exact entry after FIN_WAIT2, and repeated FINs",
    },
    Probe {
        name: "free_segment_2",
        target: Target::Tracepoint("kfree_skb"),
        role: Role::Second(Hook::Segment),
        purpose: "segments to TIME_WAIT inside an interrupt of another one",
    },
    Probe {
        name: SCHEDULE_PROBE,
        target: Target::Exit {
            function: "__inet_twsk_schedule",
            parameters: &["tw", "timeo", "rearm"],
        },
        role: Role::Precision,
        purpose: "TIME_WAIT: each refresh, and the exact entry after FIN_WAIT2 before Linux 6.11",
    },
    Probe {
        name: CALL_PROBES[0],
        target: Target::Call("sys_exit_connect"),
        role: Role::Call,
        purpose: "diagnose: the errno of connect(), and connects that never reach TCP \
                  (io_uring's are not seen)",
    },
    Probe {
        name: CALL_PROBES[1],
        target: Target::Call("sys_exit_bind"),
        role: Role::Call,
        purpose: "diagnose: why bind() failed",
    },
    Probe {
        name: CALL_PROBES[2],
        target: Target::Call("sys_exit_socket"),
        role: Role::Call,
        purpose: "diagnose: socket() that failed for want of descriptors or memory",
    },
    Probe {
        name: CALL_PROBES[3],
        target: Target::Call("sys_exit_accept"),
        role: Role::Call,
        purpose: "diagnose: accept() that failed for want of descriptors or memory",
    },
    Probe {
        name: CALL_PROBES[4],
        target: Target::Call("sys_exit_accept4"),
        role: Role::Call,
        purpose: "diagnose: the same of accept4()",
    },
];

/// The programs whose minisockets' events the engine needs to claim a TIME_WAIT.
pub const TIMER_PROBES: [&str; 3] = ["timer_start", "timer_cancel", "timer_expire"];
/// The program that shows the segments which minisockets handle.
pub const SEGMENT_PROBE: &str = "free_segment";
/// The programs that show resets.
pub const RESET_PROBES: [&str; 2] = ["receive_reset", "send_reset"];
/// The program that shows every setting of a minisocket's timer, where the kernel lets it.
pub const SCHEDULE_PROBE: &str = "schedule";

/// The programs that show failed system calls: connect(), bind(), socket(), accept(), accept4().
pub const CALL_PROBES: [&str; 5] = [
    "connect_exit",
    "bind_exit",
    "socket_exit",
    "accept_exit",
    "accept4_exit",
];

/// Whether the probe `name` shows failed system calls: a host that refuses it is watched in full
/// where those are not asked for.
#[must_use]
pub fn tells_calls(name: &str) -> bool {
    CALL_PROBES.contains(&name)
}

/// Whether the probe `name` only makes more exact what others show: a host that refuses it is
/// traced in full.
#[must_use]
pub fn only_adds_precision(name: &str) -> bool {
    PROBES
        .iter()
        .any(|probe| probe.name == name && probe.role == Role::Precision)
}

/// A probe that tracing can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispensable(pub(super) &'static str);

impl Dispensable {
    /// The names of all probes, [`Self::from_str`] refusing the one that nothing works without.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PROBES.iter().map(|probe| probe.name)
    }
}

/// The probe cannot be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Indispensable {
    /// Nothing can be traced without it.
    #[error("nothing can be traced without it")]
    Required,
    /// There is none of that name.
    #[error("there is no such probe; the probes are {}", Dispensable::names().collect::<Vec<_>>().join(", "))]
    Unknown,
}

impl FromStr for Dispensable {
    type Err = Indispensable;

    fn from_str(name: &str) -> Result<Self, Indispensable> {
        let probe = PROBES
            .iter()
            .find(|probe| probe.name == name)
            .ok_or(Indispensable::Unknown)?;
        if probe.role == REQUIRED {
            return Err(Indispensable::Required);
        }
        Ok(Self(probe.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_one_can_be_left_out() {
        assert_eq!(
            "nothing".parse::<Dispensable>(),
            Err(Indispensable::Unknown)
        );
        let refused: Vec<&str> = Dispensable::names()
            .filter(|name| name.parse::<Dispensable>() == Err(Indispensable::Required))
            .collect();
        assert_eq!(refused, ["set_state"]);
    }

    #[test]
    fn each_second_program_is_attached_right_after_its_first() {
        for (index, probe) in PROBES.iter().enumerate() {
            if let Role::Second(hook) = probe.role {
                let before = &PROBES[index - 1];
                assert!(before.role == Role::First(hook), "{}", probe.name);
                assert!(before.target == probe.target, "{}", probe.name);
            }
        }
    }

    #[test]
    fn what_tells_calls_is_known_by_name() {
        let calls: Vec<&str> = PROBES
            .iter()
            .filter(|probe| probe.role == Role::Call)
            .map(|probe| probe.name)
            .collect();
        assert_eq!(calls, CALL_PROBES);
        let known: Vec<&str> = Dispensable::names()
            .filter(|name| tells_calls(name))
            .collect();
        assert_eq!(known, CALL_PROBES);
    }

    #[test]
    fn what_only_adds_precision_is_known_by_name() {
        let spared: Vec<&str> = Dispensable::names()
            .filter(|name| only_adds_precision(name))
            .collect();
        assert_eq!(spared, [SCHEDULE_PROBE]);
    }
}
