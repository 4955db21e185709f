//! The rules that are not about ports.

use super::accept_queue::AcceptQueueOverflow;
use super::close_wait::CloseWaitGrowing;
use super::conntrack::ConntrackFull;
use super::denied::Denied;
use super::descriptors::DescriptorsExhausted;
use super::fin_wait2::FinWait2Waiting;
use super::no_route::NoRoute;
use super::orphans::Orphans;
use super::refused::ConnectsRefused;
use super::resets::ResetsSent;
use super::reuse_address::ListenerWithoutReuseaddr;
use super::silent::{ConnectsTimingOut, ConnectsUnanswered};
use super::unreachable::ConnectsUnreachable;
use crate::diagnosis::Rule;

/// Each of them. Where connects fail for one of these reasons, its finding says that TIME_WAIT is
/// not to blame.
pub const OTHERS: &[&dyn Rule] = &[
    &ConnectsRefused,
    &ConnectsUnanswered,
    &ConnectsTimingOut,
    &ConnectsUnreachable,
    &NoRoute,
    &Denied,
    &DescriptorsExhausted,
    &ConntrackFull,
    &AcceptQueueOverflow,
    &CloseWaitGrowing,
    &FinWait2Waiting,
    &ResetsSent,
    &ListenerWithoutReuseaddr,
    &Orphans,
];
