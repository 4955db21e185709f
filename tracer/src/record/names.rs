//! How the values of a record are spelled: one name each, the same in NDJSON, on the command line
//! and in labels. The names are fixed.

use std::fmt;
use std::str::FromStr;

use super::{
    CloseCause, CloseKind, EntryPrecision, FinWait2Exit, Incomplete, Initiator, Role, Source,
    TimeWaitExit, TimeWaitSkipped,
};

/// A name that is none of those a type has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a {what}; it is one of {known}")]
pub struct UnknownName {
    what: &'static str,
    name: String,
    known: String,
}

macro_rules! names {
    ($($what:literal $type:ident { $($variant:ident = $name:literal,)+ })+) => {$(
        impl $type {
            /// Every value, in the order of the declaration.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The fixed spelling.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                Self::ALL
                    .into_iter()
                    .find(|value| value.name() == name)
                    .ok_or_else(|| UnknownName {
                        what: $what,
                        name: name.to_owned(),
                        known: [$($name),+].join(", "),
                    })
            }
        }
    )+};
}

names! {
    "role" Role {
        Client = "client",
        Server = "server",
        Listener = "listener",
        Unknown = "unknown",
    }

    "kind of close" CloseKind {
        Active = "active",
        Passive = "passive",
        Simultaneous = "simultaneous",
        ResetReceived = "reset_received",
        ResetSent = "reset_sent",
        TimedOut = "timed_out",
        ConnectFailed = "connect_failed",
        Aborted = "aborted",
        ListenerClosed = "listener_closed",
        Unknown = "unknown",
    }

    "cause of a close" CloseCause {
        Fin = "fin",
        PeerReset = "peer_reset",
        UnreadData = "unread_data",
        LingerZero = "linger_zero",
        DataAfterClose = "data_after_close",
        Linger2 = "linger2",
        Disconnect = "disconnect",
        Unaccepted = "unaccepted",
        OrphanOrMemory = "orphan_or_memory",
        Destroyed = "destroyed",
        Retransmission = "retransmission",
        ZeroWindow = "zero_window",
        Keepalive = "keepalive",
        UserTimeout = "user_timeout",
        FinWait2 = "fin_wait2",
        Refused = "refused",
        TimedOut = "timed_out",
        NoPort = "no_port",
        TupleInUse = "tuple_in_use",
        Unreachable = "unreachable",
        Abandoned = "abandoned",
        HandshakeAborted = "handshake_aborted",
        Repair = "repair",
        NetnsExit = "netns_exit",
    }

    "initiator" Initiator {
        Local = "local",
        Peer = "peer",
        Both = "both",
        None = "none",
        Unknown = "unknown",
    }

    "end of FIN_WAIT2" FinWait2Exit {
        PeerFin = "peer_fin",
        TimedOut = "timed_out",
        Reset = "reset",
        Data = "data",
        Destroyed = "destroyed",
        Purged = "purged",
        Unknown = "unknown",
    }

    "precision" EntryPrecision {
        Exact = "exact",
        Jiffy = "jiffy",
        LastRefresh = "last_refresh",
        Unknown = "unknown",
    }

    "end of TIME_WAIT" TimeWaitExit {
        Expired = "expired",
        ReusedByConnect = "reused_by_connect",
        ReusedBySyn = "reused_by_syn",
        Reset = "reset",
        Purged = "purged",
        Destroyed = "destroyed",
        Unknown = "unknown",
    }

    "reason to skip TIME_WAIT" TimeWaitSkipped {
        Overflow = "overflow",
    }

    "source" Source {
        Exact = "exact",
        Inherited = "inherited",
        Inferred = "inferred",
        Unknown = "unknown",
    }

    "reason of incompleteness" Incomplete {
        OpeningNotSeen = "opening_not_seen",
        TransitionLost = "transition_lost",
        EndNotSeen = "end_not_seen",
        EvidenceLost = "evidence_lost",
        TimerProbeMissing = "timer_probe_missing",
        ResetProbeMissing = "reset_probe_missing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_from_its_name() {
        for kind in CloseKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
    }

    #[test]
    fn no_two_causes_share_a_name() {
        let mut names: Vec<_> = CloseCause::ALL.iter().map(|cause| cause.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CloseCause::ALL.len());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = "Reused".parse::<TimeWaitSkipped>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"Reused\" is not a reason to skip TIME_WAIT; it is one of overflow"
        );
    }
}
